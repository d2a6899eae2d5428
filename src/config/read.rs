//! Reading nodes as what a key wants: text, a boolean, one of some words, a map with known keys.
//!
//! What is wrong goes on record and reading goes on, so that one look at a file finds everything.

use std::borrow::Cow;

use super::amount;
use super::error::{Complaint, Findings, Position};
use super::words::{Place, stray, unknown_word};
use super::yaml::{Node, Value};

/// A map whose keys were checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'n, 'a> {
    pub(super) at: Position,
    entries: &'n [(Node<'a>, Node<'a>)],
    /// The keys that were not written here, but come from a preset or a tier.
    inherited: &'n [String],
}

impl<'n, 'a> Fields<'n, 'a> {
    /// The value of `key`; none where it is absent or says nothing.
    pub(super) fn get(&self, key: &str) -> Option<&'n Node<'a>> {
        self.entry(key)
            .map(|(_, value)| value)
            .filter(|value| !value.is_null())
    }

    /// The same with the `keys` that come from elsewhere.
    pub(super) fn inheriting(self, keys: &'n [String]) -> Self {
        Self {
            inherited: keys,
            ..self
        }
    }

    /// The value of `key`, if it was written here. What is not may mean nothing beside what is:
    /// nobody can take it away.
    pub(super) fn own(&self, key: &str) -> Option<&'n Node<'a>> {
        let inherited = self.inherited.iter().any(|known| known == key);
        self.get(key).filter(|_| !inherited)
    }

    /// Where the value of `key` is; else where the map begins.
    pub(super) fn at(&self, key: &str) -> Position {
        self.entry(key).map_or(self.at, |(_, value)| value.at)
    }

    fn entry(&self, key: &str) -> Option<&'n (Node<'a>, Node<'a>)> {
        self.entries
            .iter()
            .find(|(known, _)| matches!(&known.value, Value::Scalar { text, .. } if text == key))
    }
}

impl Findings<'_> {
    /// `node` as the map that may stand at `place`; keys that may not are put on record.
    pub(super) fn fields<'n, 'a>(
        &mut self,
        node: &'n Node<'a>,
        what: &str,
        place: Place,
    ) -> Option<Fields<'n, 'a>> {
        let fields = self.unchecked(node, what)?;
        self.check_keys(&fields, place);
        Some(fields)
    }

    /// `node` as a map whose keys are still to be checked.
    pub(super) fn unchecked<'n, 'a>(
        &mut self,
        node: &'n Node<'a>,
        what: &str,
    ) -> Option<Fields<'n, 'a>> {
        self.map(node, what).map(|entries| Fields {
            at: node.at,
            entries,
            inherited: &[],
        })
    }

    /// Puts the keys that may not stand at `place` on record.
    pub(super) fn check_keys(&mut self, fields: &Fields<'_, '_>, place: Place) {
        for (key, _) in fields.entries {
            match scalar(key) {
                Some(text) if place.keys().contains(&text) => {}
                Some(text)
                    if matches!(key.value, Value::Scalar { plain: true, .. }) && !is_text(text) =>
                {
                    self.error(key.at, format!("key is not of type string: {text}"));
                }
                Some(text) => self.error(key.at, stray(text, place)),
                None => self.error(key.at, format!("key is not of type string: {}", key.kind())),
            }
        }
    }

    /// `node` as a map with keys of any name.
    pub(super) fn map<'n, 'a>(
        &mut self,
        node: &'n Node<'a>,
        what: &str,
    ) -> Option<&'n [(Node<'a>, Node<'a>)]> {
        match &node.value {
            Value::Map(entries) => Some(entries),
            Value::List(_) | Value::Scalar { .. } => self.expected(node, what, "a map"),
        }
    }

    /// `node` as a list.
    pub(super) fn list<'n, 'a>(
        &mut self,
        node: &'n Node<'a>,
        what: &str,
    ) -> Option<&'n [Node<'a>]> {
        match &node.value {
            Value::List(items) => Some(items),
            Value::Map(_) | Value::Scalar { .. } => self.expected(node, what, "a list"),
        }
    }

    /// `node` as text, which may be written without quotes whatever it looks like.
    pub(super) fn text<'n>(&mut self, node: &'n Node<'_>, what: &str) -> Option<&'n str> {
        match scalar(node) {
            Some(text) => Some(text),
            None => self.expected(node, what, "text"),
        }
    }

    /// The text of `key`; empty where it is absent.
    pub(super) fn text_of<'n>(&mut self, fields: &Fields<'n, '_>, key: &str) -> Option<&'n str> {
        fields
            .get(key)
            .map_or(Some(""), |node| self.text(node, key))
    }

    /// The boolean of `key`; none where it is absent.
    pub(super) fn boolean_of(&mut self, fields: &Fields<'_, '_>, key: &str) -> Option<bool> {
        let node = fields.get(key)?;
        match &node.value {
            Value::Scalar { text, plain: true } if boolean(text).is_some() => boolean(text),
            _ => self.expected(node, key, "true or false"),
        }
    }

    /// A whole number from 0 to 4294967295.
    pub(super) fn u32_of(&mut self, fields: &Fields<'_, '_>, key: &str) -> Option<u32> {
        let node = fields.get(key)?;
        let number = match &node.value {
            Value::Scalar { text, plain: true } => {
                amount::integer(text).and_then(|number| u32::try_from(number).ok())
            }
            _ => None,
        };
        number.or_else(|| self.expected(node, key, "a whole number from 0 to 4294967295"))
    }

    /// One of the `known` words.
    pub(super) fn word_of<T: Copy>(
        &mut self,
        fields: &Fields<'_, '_>,
        key: &str,
        known: &[(&str, T)],
    ) -> Option<T> {
        let node = fields.get(key)?;
        let word = self.text(node, key)?;
        let found = known
            .iter()
            .find(|(name, _)| *name == word)
            .map(|(_, value)| *value);
        found.or_else(|| {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            self.error(node.at, unknown_word(key, word, &names));
            None
        })
    }

    fn expected<T>(&mut self, node: &Node<'_>, what: &str, expected: &str) -> Option<T> {
        let found = node.kind();
        self.error(
            node.at,
            Complaint::new(format!("{what} must be {expected}, not {found}")),
        );
        None
    }
}

/// The text of a scalar; of one that says nothing, none of its spelling.
fn scalar<'n>(node: &'n Node<'_>) -> Option<&'n str> {
    match &node.value {
        Value::Scalar { text, .. } => Some(if node.is_null() { "" } else { text }),
        Value::List(_) | Value::Map(_) => None,
    }
}

/// A boolean in any of the spellings of YAML 1.1, which is what envoyproxy/ratelimit reads.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Some(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Some(false)
        }
        _ => None,
    }
}

/// A number with decimals or an exponent, or an infinity.
pub(super) fn float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let number: Cow<'_, str> = match unsigned {
        ".inf" | ".Inf" | ".INF" => text.replacen('.', "", 1).into(),
        ".nan" | ".NaN" | ".NAN" if unsigned.len() == text.len() => "nan".into(),
        _ if unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') => text.into(),
        _ => return None,
    };
    number.parse().ok()
}

fn is_text(text: &str) -> bool {
    boolean(text).is_none() && amount::integer(text).is_none() && float(text).is_none()
}
