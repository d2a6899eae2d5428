//! Descriptors to rules: the tree.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use crate::rules::{BucketKey, Budget, ConfiguredLimit, Domain, Identity, Level, Limits, Rule};

use super::cost::Costs;
use super::error::{Complaint, Findings, Position};
use super::expand::Tiers;
use super::limit::{self, Defaults, Modes, Surroundings, not_a_map};
use super::read::Fields;
use super::words::Place;
use super::yaml::{Node, Value};
use super::{expand, metadata, rate_limit};

/// What the descriptors of one file are compiled with.
#[derive(Debug)]
pub(super) struct Descriptors<'c, 'f> {
    pub(super) findings: &'c mut Findings<'f>,
    pub(super) costs: &'c mut Costs,
    pub(super) defaults: &'c Defaults,
    pub(super) tiers: &'c mut Tiers,
    pub(super) domain: &'c str,
    /// The limits that the domain has by now.
    pub(super) limits: &'c mut Limits,
    /// Whether the file has any limits of our grammar.
    pub(super) has_limits: bool,
}

/// The rules of a level by their `key_value`, and where each was given.
pub(super) type Seen = HashMap<String, (String, Position)>;

/// The rule that a level belongs to; empty above the first.
#[derive(Debug, Default)]
struct Above {
    /// As in `tenant=acme > model`.
    path: String,
    /// As in `tenant_acme.model`, which is what envoyproxy/ratelimit calls a rule in its metrics.
    key: String,
    /// What the buckets of everything that ends here are keyed by; `None` where callers choose a
    /// value.
    entries: Option<Vec<(String, String)>>,
}

impl Above {
    /// Above the first level.
    fn root() -> Self {
        Self {
            entries: Some(Vec::new()),
            ..Self::default()
        }
    }

    /// The entries with one more, if the configuration names its value.
    fn with(&self, key: &str, value: &str, shared: bool) -> Option<Vec<(String, String)>> {
        let open = value.is_empty() || (value.contains('*') && !shared);
        let mut entries = self.entries.clone().filter(|_| !open)?;
        entries.push((key.to_owned(), value.to_owned()));
        Some(entries)
    }
}

impl Descriptors<'_, '_> {
    /// The first level, to which several files may contribute.
    pub(super) fn root(&mut self, node: &Node<'_>, domain: &mut Domain, seen: &mut Seen) {
        self.level(node, &Above::root(), &mut domain.root, seen);
    }

    fn level(&mut self, node: &Node<'_>, above: &Above, level: &mut Level, seen: &mut Seen) {
        for item in self.findings.list(node, "descriptors").unwrap_or_default() {
            if !matches!(item.value, Value::Map(_)) {
                self.findings.error(item.at, not_a_map(item));
                continue;
            }
            let Some(fields) = self.findings.unchecked(item, "a descriptor") else {
                continue;
            };
            self.descriptor(&fields, above, level, seen);
            self.findings.rule.clone_from(&above.path);
        }
    }

    fn descriptor(
        &mut self,
        fields: &Fields<'_, '_>,
        above: &Above,
        level: &mut Level,
        seen: &mut Seen,
    ) {
        let key = self.findings.text_of(fields, "key");
        let value = self.findings.text_of(fields, "value");
        let keyless = key == Some("");
        let (key, value) = (key.unwrap_or_default(), value.unwrap_or_default());
        let composite = match value {
            "" => key.to_owned(),
            value => format!("{key}_{value}"),
        };
        let mut this = Above {
            path: joined(&above.path, " > ", &Step { key, value }.to_string()),
            key: joined(&above.key, ".", &printable(&composite)),
            entries: None,
        };
        self.findings.rule.clone_from(&this.path);
        self.findings.check_keys(fields, Place::Descriptor);
        if keyless {
            self.findings.error(fields.at, "descriptor has empty key");
        }
        let shared = self
            .findings
            .boolean_of(fields, "share_threshold")
            .unwrap_or(false);
        if shared && !composite.contains('*') {
            let wrong = format!(
                "share_threshold can only be used with wildcard values (containing '*'), \
                 but found key '{composite}'"
            );
            self.findings.error(fields.at("share_threshold"), wrong);
        }
        this.entries = above.with(key, value, shared);
        // They would make labels of what callers send; accepted, so that files load unchanged.
        for accepted in ["detailed_metric", "value_to_metric"] {
            self.findings.boolean_of(fields, accepted);
        }
        let metadata = fields
            .get("metadata")
            .and_then(|node| metadata::read(node, self.findings));
        let limits = self.limits(fields, &this);
        let mut children = Level::default();
        if let Some(node) = fields.get("descriptors") {
            self.level(node, &this, &mut children, &mut Seen::new());
            self.findings.rule.clone_from(&this.path);
        }
        if key.is_empty() {
            return;
        }
        let rule = Rule {
            path: this.path.into(),
            // A few stand in the rule itself.
            limits: limits.into_iter().collect(),
            children,
            shared_value: shared.then(|| value.into()),
            metadata: metadata.map(Box::new),
        };
        if level.insert(key, value, rule).is_err() {
            self.twice(fields, &this.key, seen.get(&composite));
        } else {
            seen.insert(composite, (self.findings.file.to_owned(), fields.at));
        }
    }

    fn twice(&mut self, fields: &Fields<'_, '_>, key: &str, first: Option<&(String, Position)>) {
        let domain = self.domain;
        let twice = Complaint::new(format!(
            "duplicate descriptor composite key '{domain}.{key}'"
        ));
        let at = match fields.get("key") {
            Some(node) => node.at,
            None => fields.at,
        };
        self.findings.error(
            at,
            match first {
                Some((file, first)) if file == self.findings.file => {
                    twice.hint(format!("the first is on line {}", first.line))
                }
                Some((file, first)) => {
                    twice.hint(format!("the first is in {file}, line {}", first.line))
                }
                None => twice,
            },
        );
    }

    fn limits(&mut self, fields: &Fields<'_, '_>, this: &Above) -> Vec<Arc<ConfiguredLimit>> {
        let mut surroundings = Surroundings {
            costs: &mut *self.costs,
            defaults: self.defaults,
            domain: self.domain,
            modes: Modes::read(fields, self.findings),
        };
        let mut found = Vec::new();
        if let Some(node) = fields.get("rate_limit") {
            let limit = rate_limit::read(node, &this.key, &surroundings, self.findings);
            found.extend(limit.map(|limit| (node.at, limit)));
        }
        let ours = ["limits", "preset", "tier"];
        self.has_limits |= ours.into_iter().any(|key| fields.get(key).is_some());
        for written in expand::of_descriptor(fields, self.tiers, self.findings) {
            if let Some(mut limit) = limit::read(&written, &mut surroundings, self.findings) {
                limit.origin = written.origin;
                found.push((written.node.at, limit));
            }
        }
        let mut limits: Vec<Arc<ConfiguredLimit>> = Vec::new();
        for (at, mut limit) in found {
            if limits.iter().any(|other| other.label == limit.label) {
                let label = &limit.label;
                let twice = format!("two limits of one rule are called '{label}'");
                self.findings.error(at, twice);
                continue;
            }
            let identity = limit.identity;
            if let Some(budget) = &mut limit.budget {
                self.watch(budget, identity, this, at);
            }
            limits.push(self.limits.add(limit));
        }
        limits
    }

    /// Finds the bucket that a budget of this rule has, if it is one.
    fn watch(&mut self, budget: &mut Budget, identity: Identity, this: &Above, at: Position) {
        budget.rule.clone_from(&this.path);
        let Some(entries) = &this.entries else {
            let many =
                Complaint::new("alert_at makes no gauge here: callers choose values of this rule");
            self.findings.warning(
                at,
                many.hint("crossings are counted and logged; a gauge takes a rule for each value"),
            );
            return;
        };
        let entries = entries
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()));
        budget.bucket = Some(BucketKey::of(identity, entries));
    }
}

/// One level of a rule's path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step<'s> {
    pub(super) key: &'s str,
    pub(super) value: &'s str,
}

impl std::fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&printable(if self.key.is_empty() { "?" } else { self.key }))?;
        if self.value.is_empty() {
            return Ok(());
        }
        write!(f, "={}", printable(self.value))
    }
}

/// What goes into logs, metrics and headers as one line.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    if text.contains(char::is_control) {
        text.replace(char::is_control, "\u{fffd}").into()
    } else {
        text.into()
    }
}

pub(super) fn joined(above: &str, by: &str, this: &str) -> String {
    if above.is_empty() {
        this.to_owned()
    } else {
        format!("{above}{by}{this}")
    }
}
