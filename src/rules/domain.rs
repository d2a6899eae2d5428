//! The tree of rules, and how a descriptor walks into it.
//!
//! Each entry of a descriptor goes one level down: first to the rule for exactly this key and
//! value, else to the first wildcard that covers it, else to the rule for the key alone. The first
//! hit decides: there is no way back, so a specific rule without a matching child hides the
//! children of the general one. Keys and values are compared joined by `_`, as envoyproxy/ratelimit
//! does: entry (`a_b`, `c`) finds the rule for (`a`, `b_c`).

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use super::key::EntriesHash;
use super::{AnswerStyle, BucketKey, ConfiguredLimit, Metadata, Pattern};

/// A key and a value of a descriptor.
pub type Entry<'a> = (&'a str, &'a str);

/// Everything that was configured for one domain.
#[derive(Debug, Default)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// The first level of its rules.
    pub root: Level,
    /// The limits that its rules have, by their [`super::LimitIndex`].
    pub limits: Vec<Arc<ConfiguredLimit>>,
    /// How its answers are dressed.
    pub answer: AnswerStyle,
}

/// A node of the tree. Small, because a decision finds one in a table of many: what few rules have is
/// elsewhere.
#[derive(Debug, Default)]
pub struct Rule {
    /// Its path from the root, as in `tenant=acme > model`.
    pub path: Box<str>,
    /// Its limits. None: what ends here is not limited.
    pub limits: SmallVec<[Arc<ConfiguredLimit>; 2]>,
    /// What is below it.
    pub children: Level,
    /// For a wildcard: all values it covers share one bucket, keyed by this text.
    pub shared_value: Option<Box<str>>,
    /// What goes back to Envoy when a descriptor that ends here passes.
    pub metadata: Option<Box<Metadata>>,
}

/// The rules of one level.
#[derive(Debug, Default)]
pub struct Level(Option<Box<Tables>>);

#[derive(Debug, Default)]
struct Tables {
    exact: HashMap<Composite, Rule, RandomState>,
    wildcards: Vec<(Pattern, Rule)>,
}

/// Key and value, joined. A short one stands in the table itself: a decision need not look
/// elsewhere to compare it.
type Composite = SmallVec<[u8; 24]>;

/// Two rules of one level have the same key and value (or look the same once joined by `_`).
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("duplicate descriptor composite key '{0}'")]
pub struct DuplicateRule(pub String);

impl Level {
    /// Adds a rule for `key` and `value`; an empty value stands for any.
    pub fn insert(&mut self, key: &str, value: &str, rule: Rule) -> Result<(), DuplicateRule> {
        let composite = composite(key, value);
        let tables = self.0.get_or_insert_default();
        let Some(pattern) = Pattern::parse(&composite) else {
            if tables.exact.contains_key(composite.as_bytes()) {
                return Err(DuplicateRule(composite));
            }
            // Not from the text itself: with room to spare it would not be taken in.
            let composite = Composite::from_slice(composite.as_bytes());
            tables.exact.insert(composite, rule);
            return Ok(());
        };
        if tables
            .wildcards
            .iter()
            .any(|(known, _)| known.text() == composite)
        {
            return Err(DuplicateRule(composite));
        }
        tables.wildcards.push((pattern, rule));
        Ok(())
    }

    /// Whether nothing is below.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// All rules of this level, in no order.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter().flat_map(|tables| {
            let wildcards = tables.wildcards.iter().map(|(_, rule)| rule);
            tables.exact.values().chain(wildcards)
        })
    }

    /// All rules that cover an entry, in the order in which they are tried.
    pub fn covering(&self, (key, value): Entry<'_>) -> Vec<&Rule> {
        let Some(tables) = &self.0 else {
            return Vec::new();
        };
        let joined = format!("{key}_{value}");
        let wildcards = tables
            .wildcards
            .iter()
            .filter(|(pattern, _)| pattern.matches(&joined));
        let mut rules: Vec<&Rule> = tables.exact.get(joined.as_bytes()).into_iter().collect();
        rules.extend(wildcards.map(|(_, rule)| rule));
        rules.extend(tables.exact.get(key.as_bytes()));
        rules
    }

    fn find(&self, (key, value): Entry<'_>, scratch: &mut String) -> Option<&Rule> {
        let tables = self.0.as_deref()?;
        scratch.clear();
        scratch.push_str(key);
        scratch.push('_');
        scratch.push_str(value);
        if let Some(rule) = tables.exact.get(scratch.as_bytes()) {
            return Some(rule);
        }
        if let Some((_, rule)) = tables
            .wildcards
            .iter()
            .find(|(pattern, _)| pattern.matches(scratch))
        {
            return Some(rule);
        }
        tables.exact.get(key.as_bytes())
    }
}

/// `key_value`, or `key` where the value is empty.
fn composite(key: &str, value: &str) -> String {
    if value.is_empty() {
        key.to_owned()
    } else {
        format!("{key}_{value}")
    }
}

/// The rule that a descriptor came to, with what its buckets are keyed by.
#[derive(Debug)]
pub struct Match<'a> {
    /// The rule.
    pub rule: &'a Rule,
    entries: EntriesHash,
}

impl Match<'_> {
    /// The key of the bucket that `limit` has for the descriptor.
    pub fn key(&self, limit: &ConfiguredLimit) -> BucketKey {
        self.entries.key(limit.identity)
    }
}

impl Domain {
    /// The rule at the end of these entries; `None` where no rule is, or entries are left over.
    pub fn find(&self, entries: &[Entry<'_>], scratch: &mut String) -> Option<Match<'_>> {
        let mut level = &self.root;
        let mut found = None;
        let mut keyed: SmallVec<[(&str, &str); 8]> = SmallVec::new();
        for (key, value) in entries {
            let rule = level.find((key, value), scratch)?;
            keyed.push((key, rule.shared_value.as_deref().unwrap_or(value)));
            level = &rule.children;
            found = Some(rule);
        }
        found.map(|rule| Match {
            rule,
            entries: EntriesHash::of(keyed),
        })
    }

    /// Calls `visit` for every rule, parents before children.
    pub fn for_each_rule<'a>(&'a self, mut visit: impl FnMut(&'a Rule)) {
        let mut levels = vec![&self.root];
        while let Some(level) = levels.pop() {
            for rule in level.rules() {
                visit(rule);
                levels.push(&rule.children);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(path: &str) -> Rule {
        Rule {
            path: path.into(),
            ..Rule::default()
        }
    }

    /// Rules from `key=value` texts, one level per `>`; each rule's path is its text.
    fn domain(rules: &[&str]) -> Domain {
        let mut domain = Domain::default();
        for text in rules {
            let mut level = &mut domain.root;
            let mut path = String::new();
            for step in text.split(" > ") {
                let (key, value) = step.split_once('=').unwrap_or((step, ""));
                path = if path.is_empty() {
                    step.to_owned()
                } else {
                    format!("{path} > {step}")
                };
                let composite = composite(key, value);
                // Fails where an earlier text made the node already.
                drop(level.insert(key, value, rule(&path)));
                let tables = level.0.as_deref_mut().unwrap();
                let rule = if tables.exact.contains_key(composite.as_bytes()) {
                    tables.exact.get_mut(composite.as_bytes())
                } else {
                    let mut wildcards = tables.wildcards.iter_mut();
                    wildcards
                        .find(|(pattern, _)| pattern.text() == composite)
                        .map(|(_, rule)| rule)
                };
                level = &mut rule.unwrap().children;
            }
        }
        domain
    }

    fn found(domain: &Domain, entries: &[Entry<'_>]) -> Option<String> {
        domain
            .find(entries, &mut String::new())
            .map(|found| found.rule.path.to_string())
    }

    #[test]
    fn exact_beats_wildcard_beats_key_alone() {
        let domain = domain(&["k", "k=a*", "k=abc"]);
        assert_eq!(found(&domain, &[("k", "abc")]).unwrap(), "k=abc");
        assert_eq!(found(&domain, &[("k", "abd")]).unwrap(), "k=a*");
        assert_eq!(found(&domain, &[("k", "b")]).unwrap(), "k");
        assert_eq!(found(&domain, &[("l", "b")]), None);
    }

    #[test]
    fn all_rules_that_cover_an_entry_come_in_the_order_of_their_trial() {
        let domain = domain(&["k", "k=a*", "k=b*", "k=*c", "k=abc", "l"]);
        let rules = domain.root.covering(("k", "abc"));
        let paths: Vec<&str> = rules.iter().map(|rule| &*rule.path).collect();
        assert_eq!(paths, ["k=abc", "k=a*", "k=*c", "k"]);
    }

    #[test]
    fn wildcards_are_tried_in_the_order_of_the_file() {
        let domain = domain(&["k=a*", "k=ab*"]);
        assert_eq!(found(&domain, &[("k", "abc")]).unwrap(), "k=a*");
    }

    #[test]
    fn the_walk_never_turns_back() {
        let domain = domain(&["k > s", "k=a > t"]);
        assert_eq!(
            found(&domain, &[("k", "a"), ("t", "x")]).unwrap(),
            "k=a > t"
        );
        assert_eq!(found(&domain, &[("k", "b"), ("s", "x")]).unwrap(), "k > s");
        assert_eq!(found(&domain, &[("k", "a"), ("s", "x")]), None);
    }

    #[test]
    fn depth_has_to_fit() {
        let domain = domain(&["k > s"]);
        assert_eq!(found(&domain, &[("k", "a"), ("s", "x"), ("t", "y")]), None);
        assert_eq!(found(&domain, &[("k", "a")]).unwrap(), "k");
        assert_eq!(found(&domain, &[]), None);
    }

    #[test]
    fn keys_and_values_are_compared_joined() {
        let domain = domain(&["key1=value1"]);
        assert_eq!(
            found(&domain, &[("key1_value1", "anything")]).unwrap(),
            "key1=value1"
        );
        let domain = self::domain(&["a=b_c"]);
        assert_eq!(found(&domain, &[("a_b", "c")]).unwrap(), "a=b_c");
    }

    #[test]
    fn an_empty_value_finds_the_key_alone() {
        let domain = domain(&["k"]);
        assert_eq!(found(&domain, &[("k", "")]).unwrap(), "k");
    }

    #[test]
    fn what_is_short_stands_in_the_table_itself() {
        let spilled = |key: &str, value: &str| {
            let mut level = Level::default();
            level.insert(key, value, rule("")).unwrap();
            let tables = level.0.unwrap();
            tables.exact.keys().any(SmallVec::spilled)
        };
        // As long as can be, and one more.
        assert!(!spilled("remote_address", "10.0.0.10"));
        assert!(spilled("remote_address", "10.0.0.100"));
    }

    #[test]
    fn rules_that_look_the_same_are_refused() {
        let mut level = Level::default();
        level.insert("a", "b_c", rule("")).unwrap();
        let twice = level.insert("a_b", "c", rule("")).unwrap_err();
        assert_eq!(
            twice.to_string(),
            "duplicate descriptor composite key 'a_b_c'"
        );
        level.insert("w", "x*", rule("")).unwrap();
        assert!(level.insert("w", "x*", rule("")).is_err());
    }

    #[test]
    fn values_under_a_shared_wildcard_share_a_bucket() {
        let mut domain = Domain::default();
        let shared = Rule {
            shared_value: Some("a*".into()),
            ..Rule::default()
        };
        domain.root.insert("k", "a*", shared).unwrap();
        domain.root.insert("k", "b*", Rule::default()).unwrap();
        let identity = super::super::Identity::of(&["limit"]);
        let key = |value| {
            let entries = [("k", value)];
            domain
                .find(&entries, &mut String::new())
                .unwrap()
                .entries
                .key(identity)
        };
        assert_eq!(key("ab"), key("ac"));
        assert_ne!(key("ba"), key("bb"));
    }
}
