//! What a rule's limits are, once presets and tiers stand for what they are short for.
//!
//! `preset:` and `tier:` each bring entries of `limits:`. An entry that is written beside them and
//! has the name of one of theirs overrides it, field by field; the others come on top. After that
//! everything is read as if it had been written out.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::rules::Origin;

use super::error::{Complaint, Findings, Position};
use super::limit::{self, Surroundings};
use super::presets;
use super::read::Fields;
use super::words::{Place, choice_hint};
use super::yaml::{Node, Value};

/// An entry of `limits:` to be read, and where it comes from.
#[derive(Clone, Debug)]
pub(super) struct Written<'a> {
    pub(super) node: Node<'a>,
    /// `None`: all of it stands where it is used.
    pub(super) origin: Option<Arc<Origin>>,
    /// The keys of `node` that do not.
    pub(super) inherited: Vec<String>,
}

/// The most limits that presets and tiers may bring to the rules of one file. As many could be
/// written out: the shortest entry of `limits:` has five of [`yaml::MAX_NODES`](super::yaml::MAX_NODES).
pub(super) const MAX_BROUGHT: usize = super::yaml::MAX_NODES / 5;

/// What a preset or a tier brings; `None`: it is wrong, and that was said.
type Base = Option<Vec<Written<'static>>>;

/// The tiers of a file.
#[derive(Debug)]
pub(super) struct Tiers {
    named: BTreeMap<String, Tier>,
    /// How many limits they and presets brought to rules by now, and how many they may.
    brought: usize,
    most: usize,
}

impl Default for Tiers {
    fn default() -> Self {
        Self {
            named: BTreeMap::new(),
            brought: 0,
            most: MAX_BROUGHT,
        }
    }
}

#[derive(Debug)]
struct Tier {
    at: Position,
    /// None where the definition is wrong, which was said once already.
    limits: Base,
    used: bool,
}

impl Tiers {
    /// What `tiers:` defines.
    pub(super) fn read(
        node: &Node<'_>,
        surroundings: &mut Surroundings<'_>,
        findings: &mut Findings<'_>,
    ) -> Self {
        let mut named = BTreeMap::new();
        for (key, value) in findings.map(node, "tiers").unwrap_or_default() {
            let Some(name) = findings.text(key, "the name of a tier") else {
                continue;
            };
            if name.is_empty() {
                findings.error(key.at, "a tier has an empty name");
            }
            let errors = findings.errors.len();
            let limits = tier(name, value, surroundings, findings);
            let tier = Tier {
                at: key.at,
                limits: limits.filter(|_| findings.errors.len() == errors),
                used: false,
            };
            named.insert(name.to_owned(), tier);
        }
        Self {
            named,
            ..Self::default()
        }
    }

    /// The limits of the tier that `node` names; `None`: it is wrong, and that was said.
    fn find(&mut self, node: &Node<'_>, findings: &mut Findings<'_>) -> Base {
        let name = findings.text(node, "tier")?;
        if let Some(tier) = self.named.get_mut(name) {
            tier.used = true;
            let brought = tier.limits.as_ref()?.len();
            return self
                .bring(brought, node.at, findings)
                .then(|| self.named.get(name)?.limits.clone())
                .flatten();
        }
        let unknown = Complaint::new(format!("unknown tier '{name}'"));
        let known: Vec<&str> = self.named.keys().map(String::as_str).collect();
        let hint = if known.is_empty() {
            "define it under tiers, at the top level of the file".to_owned()
        } else {
            choice_hint(name, &known)
        };
        findings.error(node.at, unknown.hint(hint));
        None
    }

    /// Whether so many more limits may come; that they are too many is told once.
    fn bring(&mut self, limits: usize, at: Position, findings: &mut Findings<'_>) -> bool {
        let (before, most) = (self.brought, self.most);
        self.brought = before.saturating_add(limits);
        if self.brought <= most {
            return true;
        }
        if before <= most {
            // What brings little does not fit any more, either.
            self.brought = usize::MAX;
            let many = format!("tiers and presets bring more than {most} limits to this file");
            let many = Complaint::new(many);
            findings.error(at, many.hint("use smaller ones, or split the file"));
        }
        false
    }

    /// Tells of what was defined and never used.
    pub(super) fn warn_unused(&self, findings: &mut Findings<'_>) {
        for (name, tier) in &self.named {
            if !tier.used && tier.limits.is_some() {
                findings.warning(tier.at, format!("the tier '{name}' is never used"));
            }
        }
    }
}

/// The limits of a tier, each of which was found to be right.
fn tier(
    name: &str,
    node: &Node<'_>,
    surroundings: &mut Surroundings<'_>,
    findings: &mut Findings<'_>,
) -> Base {
    let fields = findings.fields(node, &format!("the tier '{name}'"), Place::Tier)?;
    let limits = written(&fields, preset(&fields, findings), findings);
    if limits.is_empty() {
        let idle = Complaint::new(format!("the tier '{name}' has no limits"));
        findings.error(node.at, idle.hint("give it limits, a preset, or both"));
    }
    let mut labels: Vec<Arc<str>> = Vec::new();
    for limit in &limits {
        let Some(read) = limit::read(limit, surroundings, findings) else {
            continue;
        };
        if labels.contains(&read.label) {
            let label = &read.label;
            findings.error(
                limit.node.at,
                format!("two limits of one tier are called '{label}'"),
            );
        }
        labels.push(read.label);
    }
    let from = |origin: Option<&Origin>| match origin {
        None => format!("tier {name}"),
        Some(Origin {
            from, overridden, ..
        }) if overridden.is_empty() => {
            format!("tier {name} ({from})")
        }
        Some(Origin {
            from, overridden, ..
        }) => {
            let given = overridden.join(", ");
            format!("tier {name} ({from}; given there: {given})")
        }
    };
    let limits = limits.into_iter().map(|limit| {
        let origin = limit.origin.as_deref();
        let origin = Origin {
            from: from(origin),
            source: origin.and_then(|origin| origin.source.clone()),
            overridden: Vec::new(),
        };
        inherited(limit.node.into_owned(), Arc::new(origin))
    });
    Some(limits.collect())
}

/// The limits of a descriptor.
pub(super) fn of_descriptor<'n>(
    fields: &Fields<'n, '_>,
    tiers: &mut Tiers,
    findings: &mut Findings<'_>,
) -> Vec<Written<'n>> {
    let tier = fields
        .get("tier")
        .map_or(Some(Vec::new()), |node| tiers.find(node, findings));
    let preset = preset(fields, findings).filter(|limits| {
        let at = fields.at("preset");
        tiers.bring(limits.len(), at, findings)
    });
    let base = match (tier, preset) {
        (Some(mut tier), Some(preset)) => {
            tier.extend(preset);
            Some(tier)
        }
        _ => None,
    };
    written(fields, base, findings)
}

fn preset(fields: &Fields<'_, '_>, findings: &mut Findings<'_>) -> Base {
    let Some(node) = fields.get("preset") else {
        return Some(Vec::new());
    };
    let expanded = presets::read(node, findings)?;
    let origin = Arc::new(Origin {
        from: format!("preset {}", expanded.name),
        source: Some(expanded.source),
        overridden: Vec::new(),
    });
    let limits = expanded.limits.into_iter();
    Some(
        limits
            .map(|node| inherited(node, Arc::clone(&origin)))
            .collect(),
    )
}

/// A limit that stands elsewhere, all of it.
fn inherited(node: Node<'static>, origin: Arc<Origin>) -> Written<'static> {
    let inherited = keys(&node).map(str::to_owned).collect();
    Written {
        node,
        origin: Some(origin),
        inherited,
    }
}

fn keys<'n>(node: &'n Node<'_>) -> impl Iterator<Item = &'n str> {
    let entries = match &node.value {
        Value::Map(entries) => entries.as_slice(),
        Value::List(_) | Value::Scalar { .. } => &[],
    };
    entries.iter().filter_map(|(key, _)| key.as_text())
}

/// What a limit is called, before it is read.
fn name<'n>(node: &'n Node<'_>) -> Option<&'n str> {
    node.field("name").and_then(Node::as_text)
}

/// `base`, overridden and followed by what `limits:` has.
fn written<'n>(
    fields: &Fields<'n, '_>,
    base: Base,
    findings: &mut Findings<'_>,
) -> Vec<Written<'n>> {
    let known = base.is_some();
    let mut all: Vec<Written<'n>> = base.unwrap_or_default();
    let bases = all.len();
    let mut overridden = vec![false; bases];
    let items = fields
        .get("limits")
        .and_then(|node| findings.list(node, "limits"));
    for item in items.unwrap_or_default() {
        let same = name(item).and_then(|wanted| {
            let mut bases = all.iter().take(bases);
            bases.position(|limit| name(&limit.node) == Some(wanted))
        });
        if let Some(place) = same
            && let Some(written) = all.get_mut(place)
            && let Some(again) = overridden.get_mut(place)
            && !std::mem::replace(again, true)
        {
            *written = overlaid(item, written);
            continue;
        }
        let whole = ["rate", "unlimited"]
            .iter()
            .any(|key| item.field(key).is_some());
        match name(item) {
            // Without a rate it can only have been meant to override.
            Some(_) if !whole && !known => {}
            Some(wanted) if !whole && same.is_none() && bases > 0 => {
                let bases = all.iter().take(bases);
                let known: Vec<&str> = bases.filter_map(|limit| name(&limit.node)).collect();
                let unknown =
                    format!("there is no limit '{wanted}' to override, and it has no rate");
                let unknown = Complaint::new(unknown).hint(choice_hint(wanted, &known));
                findings.error(item.at, unknown);
            }
            _ => all.push(Written {
                node: item.clone(),
                origin: None,
                inherited: Vec::new(),
            }),
        }
    }
    all
}

/// `base` with the fields of `item` instead of its own.
fn overlaid<'n>(item: &Node<'n>, base: &Written<'n>) -> Written<'n> {
    let (Value::Map(own), Value::Map(theirs)) = (&item.value, &base.node.value) else {
        return base.clone();
    };
    let mut entries = own.clone();
    let kept = theirs
        .iter()
        .filter(|(key, _)| !keys(item).any(|own| key.as_text() == Some(own)));
    let inherited = kept.clone().filter_map(|(key, _)| key.as_text());
    let inherited = inherited.map(str::to_owned).collect();
    entries.extend(kept.cloned());
    let said = keys(item).filter(|key| *key != "name").map(str::to_owned);
    let origin = base.origin.as_deref().map(|origin| {
        Arc::new(Origin {
            overridden: said.collect(),
            ..origin.clone()
        })
    });
    Written {
        node: Node {
            at: item.at,
            value: Value::Map(entries),
        },
        origin,
        inherited,
    }
}

#[cfg(test)]
mod tests {
    use super::super::yaml;
    use super::*;

    #[test]
    fn what_tiers_and_presets_bring_to_a_file_is_bounded() {
        let text = "
- { tier: two }
- { preset: anthropic/start/claude-opus-5 }
- { tier: one }
- { tier: two, preset: anthropic/start/claude-opus-5 }
- { tier: one }
";
        let root = yaml::parse(text).unwrap();
        let named = |name: &str, limits| {
            let limit = || {
                let node = yaml::parse("{ name: l }").unwrap().into_owned();
                inherited(node, Arc::new(Origin::default()))
            };
            let tier = Tier {
                at: Position::START,
                limits: Some((0..limits).map(|_| limit()).collect()),
                used: false,
            };
            (name.to_owned(), tier)
        };
        for (most, brought, told) in [
            (6, [2, 3, 1, 0, 0], Some((5, 11))),
            (8, [2, 3, 1, 0, 0], Some((5, 24))),
            (11, [2, 3, 1, 5, 0], Some((6, 11))),
            (12, [2, 3, 1, 5, 1], None),
        ] {
            let mut findings = Findings::new("f");
            let mut tiers = Tiers {
                named: [named("one", 1), named("two", 2)].into(),
                most,
                ..Tiers::default()
            };
            let each = root.items().iter().map(|node| {
                let fields = findings.unchecked(node, "a descriptor").unwrap();
                of_descriptor(&fields, &mut tiers, &mut findings).len()
            });
            assert_eq!(each.collect::<Vec<_>>(), brought);
            let errors = findings.errors.iter();
            let places = errors.map(|error| {
                assert!(error.message.contains(&format!("more than {most} limits")));
                let at = error.position.unwrap();
                (at.line, at.column)
            });
            assert_eq!(places.collect::<Vec<_>>(), Vec::from_iter(told));
        }
    }
}
