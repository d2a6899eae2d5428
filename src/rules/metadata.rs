//! Free-form data of a rule that goes back to Envoy as dynamic metadata.

use std::collections::BTreeMap;

/// A value of a rule's `metadata`, in the types that a protobuf `Struct` has.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    missing_docs,
    reason = "the variants are the JSON types they are named for"
)]
pub enum Metadata {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Self>),
    Map(BTreeMap<String, Self>),
}

impl Metadata {
    /// Adds what `other` has and this has not, map by map; what stands already wins, lists too.
    pub fn merge(&mut self, other: &Self) {
        if let (Self::Map(mine), Self::Map(theirs)) = (self, other) {
            for (key, value) in theirs {
                match mine.get_mut(key) {
                    Some(existing) => existing.merge(value),
                    None => {
                        mine.insert(key.clone(), value.clone());
                    }
                }
            }
        }
    }
}
