//! `costs:` and `cost:`: what is counted, and what each counted thing costs.

use std::collections::BTreeMap;

use crate::limit::{Formula, Measure, Weight};

use super::amount;
use super::error::{Complaint, Findings, Position};
use super::words::{choice_hint, unknown_word};
use super::yaml::{Node, Value};

/// The formulas that need no definition.
const BUILT_IN: [(&str, Formula); 3] =
    [("requests", Formula::REQUESTS), ("hits", Formula::HITS), ("tokens", Formula::TOKENS)];

/// The formulas that a file names.
#[derive(Debug, Default)]
pub(super) struct Costs {
    named: BTreeMap<String, Named>,
}

#[derive(Debug)]
struct Named {
    at: Position,
    /// None where the definition is wrong, which was said once already.
    formula: Option<Formula>,
    used: bool,
}

impl Costs {
    /// What `costs:` defines.
    pub(super) fn read(node: &Node<'_>, findings: &mut Findings<'_>) -> Self {
        let mut named = BTreeMap::new();
        for (key, value) in findings.map(node, "costs").unwrap_or_default() {
            let Some(name) = findings.text(key, "the name of a cost") else { continue };
            if name.is_empty() {
                findings.error(key.at, "a cost has an empty name");
            }
            if BUILT_IN.iter().any(|(known, _)| *known == name) {
                let taken = Complaint::new(format!("the cost '{name}' is built in"));
                findings.error(key.at, taken.hint("choose another name"));
            }
            let formula = formula(value, &format!("the cost '{name}'"), findings);
            named.insert(name.to_owned(), Named { at: key.at, formula, used: false });
        }
        Self { named }
    }

    /// What `cost:` means: a name, or a formula of its own.
    pub(super) fn resolve(
        &mut self,
        node: &Node<'_>,
        findings: &mut Findings<'_>,
    ) -> Option<Formula> {
        if matches!(node.value, Value::Map(_)) {
            return formula(node, "cost", findings);
        }
        let name = findings.text(node, "cost")?;
        if let Some((_, formula)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
            return Some(*formula);
        }
        if let Some(named) = self.named.get_mut(name) {
            named.used = true;
            return named.formula;
        }
        let known: Vec<&str> = BUILT_IN
            .iter()
            .map(|(known, _)| *known)
            .chain(self.named.keys().map(String::as_str))
            .collect();
        let complaint = Complaint::new(format!("unknown cost '{name}'"));
        findings.error(
            node.at,
            complaint.hint(match Measure::from_name(name) {
                Some(_) => format!("to count one measure, write {{{name}: 1}}"),
                None => choice_hint(name, &known),
            }),
        );
        None
    }

    /// Tells of what was defined and never used.
    pub(super) fn warn_unused(&self, findings: &mut Findings<'_>) {
        for (name, named) in &self.named {
            if !named.used && named.formula.is_some() {
                findings.warning(named.at, format!("the cost '{name}' is never used"));
            }
        }
    }
}

/// A map of measures to weights.
fn formula(node: &Node<'_>, what: &str, findings: &mut Findings<'_>) -> Option<Formula> {
    let mut formula = Formula::default();
    let entries = findings.map(node, what)?;
    let errors = findings.errors.len();
    for (key, value) in entries {
        let Some(name) = findings.text(key, "a measure") else { continue };
        let weight = findings.text(value, "a weight").map(amount::weight);
        let weight = weight.and_then(|weight| findings.take(value.at, weight));
        let Some(weight) = weight else { continue };
        match measure(&mut formula, name) {
            Some(slot) => *slot = weight,
            None => findings.error(key.at, unknown_measure(name)),
        }
    }
    if findings.errors.len() > errors {
        return None;
    }
    if formula == Formula::default() {
        findings.error(node.at, format!("{what} counts nothing"));
        return None;
    }
    Some(formula)
}

/// Where a formula keeps the weight of a measure.
fn measure<'f>(formula: &'f mut Formula, name: &str) -> Option<&'f mut Weight> {
    match Measure::from_name(name)? {
        Measure::Requests => Some(&mut formula.requests),
        Measure::Hits => Some(&mut formula.hits),
        token => {
            let place = Measure::TOKENS.iter().position(|measure| *measure == token)?;
            formula.tokens.get_mut(place)
        }
    }
}

fn unknown_measure(name: &str) -> Complaint {
    if name == "tokens" {
        let tokens = Measure::TOKENS.map(Measure::name).join(", ");
        return Complaint::new("'tokens' is not a measure")
            .hint(format!("weigh its parts, which are {tokens}"));
    }
    unknown_word("measure", name, &Measure::ALL.map(Measure::name))
}
