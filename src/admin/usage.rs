//! What was used, in JSON.
//!
//! A count that was mistyped must not be dropped in silence, because then nobody pays for it. So
//! names that are no measures, names that come twice, and values that are not whole numbers of zero
//! or more are refused by name; a number in quotes is one of those.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::error::Problem;
use crate::usage::{Name, Reported};

/// Names and what was said of them, not yet checked.
#[derive(Debug)]
pub(super) struct Usage(Vec<(String, Value)>);

impl Usage {
    /// Reads `usage`; none is one that says nothing. `field` is what it is called in the body.
    pub(super) fn read(usage: Option<&Self>, field: &str) -> Result<Reported, Problem> {
        let mut read = Reported::default();
        let Some(Self(said)) = usage else {
            return Ok(read);
        };
        let mut seen: Vec<&str> = Vec::new();
        for (name, value) in said {
            let bad = |problem: &str| {
                let name = shortened(name);
                Problem::bad("bad_usage", format!("{field}.{name}: {problem}"))
            };
            if seen.contains(&name.as_str()) {
                return Err(bad("given twice"));
            }
            let Some(known) = Name::from_name(name) else {
                let known = Name::ALL.map(Name::name).join(", ");
                return Err(bad(&format!("no such count; there are {known}")));
            };
            seen.push(name);
            let count = match (value, value.as_u64()) {
                (Value::Null, _) => None,
                (_, Some(count)) => Some(count),
                (value, None) => {
                    let value = shortened(&value.to_string());
                    return Err(bad(&format!("{value} is no whole number of 0 or more")));
                }
            };
            read.set(known, count);
        }
        Ok(read)
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

impl<'de> Deserialize<'de> for Usage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UsageVisitor)
    }
}

struct UsageVisitor;

impl<'de> Visitor<'de> for UsageVisitor {
    type Value = Usage;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of counts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Usage, A::Error> {
        let mut said = Vec::new();
        while let Some(pair) = map.next_entry()? {
            said.push(pair);
        }
        Ok(Usage(said))
    }
}
