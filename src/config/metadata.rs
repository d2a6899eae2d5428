//! `metadata:` of a descriptor: anything, as long as a protobuf `Struct` can hold it.

use std::collections::BTreeMap;

use crate::rules::Metadata;

use super::amount;
use super::error::Findings;
use super::read::{boolean, float};
use super::yaml::{Node, Value};

/// The map that `node` is.
pub(super) fn read(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<Metadata> {
    findings.map(node, "metadata")?;
    value(node, findings)
}

fn value(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<Metadata> {
    Some(match &node.value {
        Value::List(items) => {
            Metadata::List(items.iter().filter_map(|item| value(item, findings)).collect())
        }
        Value::Map(entries) => {
            let mut map = BTreeMap::new();
            for (key, entry) in entries {
                let Some(name) = findings.text(key, "a key of metadata") else { continue };
                if let Some(entry) = value(entry, findings) {
                    map.insert(name.to_owned(), entry);
                }
            }
            Metadata::Map(map)
        }
        Value::Scalar { .. } if node.is_null() => Metadata::Null,
        Value::Scalar { text, plain: false } => Metadata::Text(text.to_string()),
        Value::Scalar { text, plain: true } => match (boolean(text), number(text)) {
            (Some(boolean), _) => Metadata::Bool(boolean),
            (None, Some(number)) if number.is_finite() => Metadata::Number(number),
            (None, Some(_)) => {
                let wrong = format!("error parsing metadata: '{text}' is not a finite number");
                findings.error(node.at, wrong);
                return None;
            }
            (None, None) => Metadata::Text(text.to_string()),
        },
    })
}

#[expect(
    clippy::cast_precision_loss,
    clippy::as_conversions,
    reason = "a Struct has only doubles; larger integers lose their last digits there too"
)]
fn number(text: &str) -> Option<f64> {
    amount::integer(text).map(|integer| integer as f64).or_else(|| float(text))
}
