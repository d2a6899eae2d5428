//! What is allowed and probably not meant.
//!
//! Looked for only in files that are right, so that a mistake is not told twice.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::rules::{Domain, Pattern};

use super::document::Document;
use super::error::{Complaint, ConfigError, Position};
use super::rule::{Step, joined};
use super::yaml::Node;

/// More than this many remarks about one domain are not read.
const MOST: usize = 50;
/// Levels with more wildcards are not compared pair by pair.
const MOST_WILDCARDS: usize = 500;

/// What is odd about `domain`, which `documents` are together.
pub(super) fn lint(documents: &[Document<'_>], domain: &Domain) -> Vec<ConfigError> {
    let mut lint = Lint::default();
    let mut items = Vec::new();
    for document in documents {
        items.extend(children(&document.root, document.file));
    }
    lint.level(&items, "");
    lint.replaces(domain);
    lint.found
}

/// A descriptor as it is written.
#[derive(Clone, Copy, Debug)]
struct Item<'n> {
    file: &'n str,
    node: &'n Node<'n>,
    step: Step<'n>,
}

/// The descriptors below `node`, which is one itself or a whole file.
fn children<'n>(node: &'n Node<'n>, file: &'n str) -> impl Iterator<Item = Item<'n>> {
    let list = node
        .field("descriptors")
        .map(Node::items)
        .unwrap_or_default();
    list.iter().map(move |node| Item {
        file,
        node,
        step: Step {
            key: node
                .field("key")
                .and_then(Node::as_text)
                .unwrap_or_default(),
            value: node
                .field("value")
                .and_then(Node::as_text)
                .unwrap_or_default(),
        },
    })
}

#[derive(Debug, Default)]
struct Lint<'n> {
    found: Vec<ConfigError>,
    replaced: Vec<(Item<'n>, &'n str, Position, String)>,
}

impl<'n> Lint<'n> {
    fn level(&mut self, items: &[Item<'n>], above: &str) {
        let general: HashMap<&str, BTreeSet<&str>> = items
            .iter()
            .filter(|item| item.step.value.is_empty())
            .map(|item| (item.step.key, keys_below(item)))
            .collect();
        for item in items {
            let path = joined(above, " > ", &item.step.to_string());
            self.limits(item, &path);
            self.idle_leases(item, &path);
            let below = general
                .get(item.step.key)
                .filter(|_| !item.step.value.is_empty());
            if let Some(below) = below {
                self.hidden(item, below, &path);
            }
            let children: Vec<Item<'n>> = children(item.node, item.file).collect();
            self.level(&children, &path);
        }
        self.wildcards(items, above);
    }

    /// A rule for one value hides the children of the rule for all values.
    fn hidden(&mut self, item: &Item<'n>, general: &BTreeSet<&str>, path: &str) {
        let own = keys_below(item);
        let limited = ["rate_limit", "limits", "preset", "tier"]
            .into_iter()
            .any(|key| item.node.field(key).is_some());
        // A rule with nothing at all is how one exempts a value.
        if own.is_empty() && !limited {
            return;
        }
        if let Some(key) = general.iter().find(|key| !own.contains(*key)) {
            let general = item.step.key;
            let hides = Complaint::new(format!("hides the rule '{key}' below '{general}'"));
            self.warn(
                item,
                item.node.at,
                path,
                hides.hint(
                    "the first rule that fits is taken for good; repeat what is to hold here",
                ),
            );
        }
    }

    /// The first wildcard that fits is taken, so one that covers a later one leaves it nothing.
    fn wildcards(&mut self, items: &[Item<'n>], above: &str) {
        let mut earlier: Vec<Pattern> = Vec::new();
        for item in items {
            let text = match (item.step.key, item.step.value) {
                (key, "") => key.to_owned(),
                (key, value) => format!("{key}_{value}"),
            };
            let Some(pattern) = Pattern::parse(&text) else {
                continue;
            };
            if let Some(covering) = earlier.iter().find(|known| known.matches(&text)) {
                let path = joined(above, " > ", &item.step.to_string());
                let never = Complaint::new(format!(
                    "is never found: the earlier wildcard '{}' covers it",
                    covering.text()
                ));
                self.warn(item, item.node.at, &path, never.hint("move it up"));
            }
            if earlier.len() < MOST_WILDCARDS {
                earlier.push(pattern);
            }
        }
    }

    /// Notes what limits replace.
    fn limits(&mut self, item: &Item<'n>, path: &str) {
        let ours = item
            .node
            .field("limits")
            .map(Node::items)
            .unwrap_or_default();
        for limit in item.node.field("rate_limit").into_iter().chain(ours) {
            for replaced in limit.field("replaces").map(Node::items).unwrap_or_default() {
                let name = replaced.field("name").unwrap_or(replaced);
                if let Some(text) = name.as_text() {
                    self.replaced.push((*item, text, name.at, path.to_owned()));
                }
            }
        }
    }

    /// A request is let in by leases only if all of its limits have one.
    fn idle_leases(&mut self, item: &Item<'n>, path: &str) {
        let ours = item.node.field("limits").map(Node::items);
        let ours = ours.unwrap_or_default();
        let Some(leased) = ours.iter().find_map(|limit| limit.field("lease")) else {
            return;
        };
        let counted = |limit: &&Node<'_>| {
            limit.field("lease").is_none() && limit.field("unlimited").is_none()
        };
        let other = item.node.field("rate_limit");
        let other = other.or_else(|| ours.iter().find(counted));
        if let Some(other) = other {
            let name = other.field("name").and_then(Node::as_text);
            let name = name.unwrap_or("rate_limit");
            let idle = Complaint::new(format!(
                "the lease is never used, because '{name}' of the same rule has none"
            ));
            let hint =
                "a request is let in without the store only if all of its limits have leases";
            self.warn(item, leased.at, path, idle.hint(hint));
        }
    }

    fn replaces(&mut self, domain: &Domain) {
        if self.replaced.is_empty() {
            return;
        }
        let limits = domain.limits.iter();
        let names: HashSet<&str> = limits.map(|limit| &*limit.name).collect();
        for (item, name, at, path) in std::mem::take(&mut self.replaced) {
            if !names.contains(name) {
                let complaint = format!("replaces '{name}', but no limit is called that");
                self.warn(&item, at, &path, complaint.into());
            }
        }
    }

    fn warn(&mut self, item: &Item<'_>, at: Position, path: &str, complaint: Complaint) {
        if self.found.len() < MOST {
            self.found.push(ConfigError {
                file: item.file.to_owned(),
                position: Some(at),
                rule: Some(path.to_owned()),
                message: complaint.message,
                hint: complaint.hint,
            });
        }
    }
}

fn keys_below<'n>(item: &Item<'n>) -> BTreeSet<&'n str> {
    children(item.node, item.file)
        .map(|child| child.step.key)
        .collect()
}
