//! A descriptor in JSON, long or short.
//!
//! As in the protocol, `{"entries":[{"key":"tenant","value":"acme"}]}`, or by its keys,
//! `{"tenant":"acme"}`. Either way the entries keep their order, because that is how they walk into
//! the rules. An object whose `entries` is a list is a long one and has nothing else; one whose
//! `entries` is a text is a short one with a key of that name.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor, value};

use crate::rules;

/// Keys and values, in their order.
#[derive(Debug)]
pub(super) struct Descriptor(Vec<(String, String)>);

impl Descriptor {
    pub(super) const fn new(entries: Vec<(String, String)>) -> Self {
        Self(entries)
    }

    pub(super) fn entries(&self) -> Vec<rules::Entry<'_>> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect()
    }
}

/// An entry of the long form.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    key: String,
    #[serde(default)]
    value: String,
}

/// What stands behind a name.
enum Field {
    Entries(Vec<Entry>),
    Text(String),
}

impl<'de> Deserialize<'de> for Descriptor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(DescriptorVisitor)
    }
}

struct DescriptorVisitor;

impl<'de> Visitor<'de> for DescriptorVisitor {
    type Value = Descriptor;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a descriptor: an object of keys and values, or of entries")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Descriptor, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            match map.next_value()? {
                Field::Text(value) => entries.push((key, value)),
                Field::Entries(_) if key != "entries" => {
                    let problem = format!("the value of '{key}' is a list; it has to be a text");
                    return Err(A::Error::custom(problem));
                }
                Field::Entries(listed) => {
                    if !entries.is_empty() || map.next_key::<String>()?.is_some() {
                        let problem = "a descriptor with a list of entries has nothing else";
                        return Err(A::Error::custom(problem));
                    }
                    let pair = |entry: Entry| (entry.key, entry.value);
                    return Ok(Descriptor(listed.into_iter().map(pair).collect()));
                }
            }
        }
        Ok(Descriptor(entries))
    }
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldVisitor)
    }
}

struct FieldVisitor;

impl<'de> Visitor<'de> for FieldVisitor {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Field, E> {
        Ok(Field::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Field, A::Error> {
        Vec::deserialize(value::SeqAccessDeserializer::new(list)).map(Field::Entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Vec<(String, String)>, String> {
        serde_json::from_str(json)
            .map(|Descriptor(entries)| entries)
            .map_err(|error| error.to_string())
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn both_forms_keep_the_order_of_their_entries_and_repeated_keys() {
        let wanted = pairs(&[("z", "1"), ("a", "2"), ("z", "3")]);
        let short = r#"{"z":"1","a":"2","z":"3"}"#;
        let long = r#"{"entries":[{"key":"z","value":"1"},{"key":"a","value":"2"},{"value":"3","key":"z"}]}"#;
        assert_eq!(read(short).unwrap(), wanted);
        assert_eq!(read(long).unwrap(), wanted);
    }

    #[test]
    fn a_key_may_be_called_entries() {
        let both = read(r#"{"entries":"x","tenant":"acme"}"#).unwrap();
        assert_eq!(both, pairs(&[("entries", "x"), ("tenant", "acme")]));
    }

    #[test]
    fn what_is_no_descriptor_is_named() {
        for (json, problem) in [
            (
                r#"{"tenant":17}"#,
                "invalid type: integer `17`, expected a text",
            ),
            (r#"{"entires":[]}"#, "the value of 'entires' is a list"),
            (r#"{"entries":[],"tenant":"a"}"#, "has nothing else"),
            (r#"{"tenant":"a","entries":[]}"#, "has nothing else"),
            (
                r#"{"entries":[{"key":"a","val":"b"}]}"#,
                "unknown field `val`",
            ),
            (r#"{"entries":[{"value":"b"}]}"#, "missing field `key`"),
            (r#""acme""#, "expected a descriptor"),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.contains(problem), "{json}: {error}");
        }
    }
}
