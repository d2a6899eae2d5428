//! The usage in the dynamic metadata of a call.
//!
//! Envoy's filters cut a provider's usage out of an answer and write it into metadata. A key is the
//! place that it was found at, in the provider's words, with dots between (`usage.prompt_tokens`,
//! `message.usage`); so the answer can be put together again as far as it matters, and be read by
//! the one reader that knows all providers. Or a key is one of the names of a report
//! (`prompt_tokens`), for whoever counts by themselves.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::data::ai::v3::TokenUsage;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, UInt64Value};
use prost::Message as _;
use serde_json::{Map, Number, Value};

use crate::usage::{Name, Reader, Reported, ResponseHead};

/// Where Envoy's filter for AI protocols publishes what it read.
const AI_USAGE: &str = "envoy.ai.token_usage";

/// The most parts that a key may have: providers nest four deep.
const MAX_DEPTH: usize = 8;

/// Usage that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadUsage {
    #[error("dynamic metadata {namespace}: {key} is no whole number from 0 to 10^12")]
    Count { namespace: String, key: String },
    #[error("dynamic metadata {AI_USAGE}: no envoy.data.ai.v3.TokenUsage")]
    Typed,
}

/// What metadata says of usage, in `namespace` or as Envoy's typed record; `None`: nothing.
pub(super) fn counted(metadata: &Metadata, namespace: &str) -> Result<Option<Reported>, BadUsage> {
    if let Some(data) = metadata.filter_metadata.get(namespace) {
        let bad = |key: &str| BadUsage::Count {
            namespace: namespace.to_owned(),
            key: key.to_owned(),
        };
        let said = match named(data).map_err(bad)? {
            None => found(data).map_err(bad)?,
            named => named,
        };
        if said.is_some() {
            return Ok(said);
        }
    }
    match metadata.typed_filter_metadata.get(AI_USAGE) {
        Some(record) if record.type_url.ends_with("/envoy.data.ai.v3.TokenUsage") => {
            let usage = TokenUsage::decode(record.value.as_slice());
            Ok(typed(&usage.map_err(|_| BadUsage::Typed)?))
        }
        Some(_) => Err(BadUsage::Typed),
        None => Ok(None),
    }
}

/// The counts that have the names of a report.
fn named(data: &Struct) -> Result<Option<Reported>, &str> {
    let mut reported = None;
    for (key, value) in &data.fields {
        let Some(name) = Name::from_name(key) else {
            continue;
        };
        let number = value.kind.as_ref().and_then(number);
        let count = number
            .and_then(|number| number.as_u64())
            .ok_or(key.as_str())?;
        reported
            .get_or_insert_with(Reported::default)
            .set(name, Some(count));
    }
    Ok(reported)
}

/// What the provider's own words come to.
fn found(data: &Struct) -> Result<Option<Reported>, &str> {
    // A document for each of the objects that an answer had at its root, in the order in which
    // Anthropic's streams tell them: `message`, then `usage`.
    let mut documents = BTreeMap::new();
    // Sorted, so that what is said twice always comes to the same.
    let fields: BTreeMap<&String, _> = data.fields.iter().collect();
    for (key, value) in fields {
        let Some(value) = value
            .kind
            .as_ref()
            .map(json)
            .transpose()
            .map_err(|()| key.as_str())?
        else {
            continue;
        };
        let (root, rest) = key.split_once('.').unwrap_or((key, ""));
        put(documents.entry(root).or_insert(Value::Null), rest, value);
    }
    let mut reader = Reader::new(&ResponseHead::default());
    for (root, document) in documents {
        let document = Value::Object(Map::from_iter([(root.to_owned(), document)]));
        reader.feed(document.to_string().as_bytes());
    }
    let found = reader.finish().so_far;
    if found.bad_count {
        return Err("usage");
    }
    let measures = found.usage.map(|measures| measures.map(Some));
    Ok(measures.map(Reported::of_measures))
}

/// What the answer had there, as far as metadata can tell; an error where it was cut out wrongly.
fn json(kind: &Kind) -> Result<Value, ()> {
    match kind {
        Kind::StringValue(text) if text.trim_start().starts_with('{') => {
            serde_json::from_str(text).map_err(drop)
        }
        // What is no count, `NaN` for one, is left to the reader to judge.
        Kind::StringValue(text) => {
            Ok(number(kind).map_or_else(|| text.clone().into(), Value::Number))
        }
        Kind::NumberValue(not) => {
            Ok(number(kind).map_or_else(|| not.to_string().into(), Value::Number))
        }
        _ => Ok(Value::Null),
    }
}

/// Puts a value where a path leads, and makes the way to it.
fn put(into: &mut Value, path: &str, value: Value) {
    let mut place = into;
    for part in path
        .split('.')
        .filter(|part| !part.is_empty())
        .take(MAX_DEPTH)
    {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = &mut place[part];
    }
    match (place, value) {
        // Both an object and single counts in it may have been cut out.
        (Value::Object(known), Value::Object(more)) => known.extend(more),
        (place @ Value::Null, value) => *place = value,
        _ => {}
    }
}

/// A number, or a text that is one.
fn number(kind: &Kind) -> Option<Number> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "whole, and within the bounds of what a double counts exactly"
    )]
    match kind {
        Kind::NumberValue(number) if number.fract() == 0.0 && number.abs() < 1e15 => {
            Some(Number::from(*number as i64))
        }
        Kind::NumberValue(number) => Number::from_f64(*number),
        Kind::StringValue(text) => text.trim().parse::<i64>().ok().map(Number::from),
        _ => None,
    }
}

/// Envoy's record: its input contains the caches, its output contains reasoning.
fn typed(usage: &TokenUsage) -> Option<Reported> {
    let count = |count: Option<&UInt64Value>| count.map(|count| count.value);
    let details = usage.input_token_details.as_ref();
    let cached = details.and_then(|details| details.cached_tokens.as_ref());
    let written = details.and_then(|details| details.cache_creation_tokens.as_ref());
    let mut reported = Reported::default();
    reported.set(Name::PromptTokens, count(usage.input_tokens.as_ref()));
    reported.set(Name::CachedTokens, count(cached));
    reported.set(Name::CacheWriteTokens, count(written));
    reported.set(Name::CompletionTokens, count(usage.output_tokens.as_ref()));
    let says = usage.input_tokens.is_some() || usage.output_tokens.is_some();
    says.then_some(reported)
}
