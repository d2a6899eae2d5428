//! An entry of `limits:`, and the `defaults:` for all of them.
//!
//! What makes no sense together is refused rather than ignored: a burst on a window, an estimate
//! where no tokens are counted, a rate on something unlimited. A reader of the file would believe
//! that it does something.

use jiff::tz::TimeZone;

use crate::limit::{
    Algorithm, Effect, Formula, Limit, MissingUsage, Oversize, Rate, WhenOver, ZeroCost,
};
use crate::rules::{Calendar, ConfiguredLimit, Estimate, LimitIndex, OnStoreError, Stating, Terms};

use super::amount::{self, WrittenRate};
use super::budget;
use super::cost::Costs;
use super::error::{Complaint, Findings};
use super::estimate::Estimates;
use super::expand::Written;
use super::lease;
use super::read::Fields;
use super::window;
use super::words::Place;
use super::yaml::{Node, Value};

const ALGORITHMS: [(&str, Algorithm); 2] = [
    ("token_bucket", Algorithm::TokenBucket),
    ("fixed_window", Algorithm::FixedWindow),
];
const WHEN_OVER: [(&str, WhenOver); 2] =
    [("refuse", WhenOver::Refuse), ("charge", WhenOver::Charge)];
const OVERSIZE: [(&str, Oversize); 2] = [
    ("refuse", Oversize::Refuse),
    ("when_full", Oversize::WhenFull),
];
const ON_STORE_ERROR: [(&str, OnStoreError); 2] =
    [("allow", OnStoreError::Allow), ("deny", OnStoreError::Deny)];
const MISSING_USAGE: [(&str, MissingUsage); 2] = [
    ("keep", MissingUsage::Keep),
    ("release", MissingUsage::Release),
];

/// What holds for every limit of a file that does not say otherwise.
#[derive(Debug, Default)]
pub(super) struct Defaults {
    pub(super) on_store_error: Option<OnStoreError>,
    algorithm: Option<Algorithm>,
    cost: Option<Formula>,
    estimates: Estimates,
    missing_usage: Option<MissingUsage>,
    oversize: Option<Oversize>,
    pub(super) timezone: Option<TimeZone>,
    when_over: Option<WhenOver>,
}

impl Defaults {
    /// What `defaults:` says.
    pub(super) fn read(node: &Node<'_>, costs: &mut Costs, findings: &mut Findings<'_>) -> Self {
        let Some(fields) = findings.fields(node, "defaults", Place::Defaults) else {
            return Self::default();
        };
        Self {
            algorithm: findings.word_of(&fields, "algorithm", &ALGORITHMS),
            cost: fields
                .get("cost")
                .and_then(|node| costs.resolve(node, findings)),
            estimates: Estimates::read(&fields, findings),
            missing_usage: findings.word_of(&fields, "missing_usage", &MISSING_USAGE),
            on_store_error: on_store_error(&fields, findings),
            oversize: findings.word_of(&fields, "oversize", &OVERSIZE),
            timezone: window::zone(&fields, findings),
            when_over: findings.word_of(&fields, "when_over", &WHEN_OVER),
        }
    }
}

/// `shadow_mode` and `quota_mode`, of a descriptor or of one limit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Modes {
    shadow: Option<bool>,
    quota: Option<bool>,
}

impl Modes {
    pub(super) fn read(fields: &Fields<'_, '_>, findings: &mut Findings<'_>) -> Self {
        Self {
            shadow: findings.boolean_of(fields, "shadow_mode"),
            quota: findings.boolean_of(fields, "quota_mode"),
        }
    }

    pub(super) fn effect(self) -> Effect {
        match (self.shadow, self.quota) {
            (Some(true), _) => Effect::Shadow,
            (_, Some(true)) => Effect::Quota,
            _ => Effect::Enforce,
        }
    }

    /// These; where they say nothing, those of the descriptor.
    fn or(self, outer: Self) -> Self {
        Self {
            shadow: self.shadow.or(outer.shadow),
            quota: self.quota.or(outer.quota),
        }
    }
}

/// What a limit is read against.
#[derive(Debug)]
pub(super) struct Surroundings<'s> {
    pub(super) costs: &'s mut Costs,
    pub(super) defaults: &'s Defaults,
    pub(super) domain: &'s str,
    /// Of the descriptor.
    pub(super) modes: Modes,
}

/// The limit that an entry of `limits:` describes; its index and its origin are not set.
pub(super) fn read(
    written: &Written<'_>,
    surroundings: &mut Surroundings<'_>,
    findings: &mut Findings<'_>,
) -> Option<ConfiguredLimit> {
    let fields = findings
        .fields(&written.node, "an entry of limits", Place::Limit)?
        .inheriting(&written.inherited);
    let defaults = surroundings.defaults;
    let name = name(&fields, findings);
    let modes = Modes::read(&fields, findings).or(surroundings.modes);
    let algorithm = findings
        .word_of(&fields, "algorithm", &ALGORITHMS)
        .or(defaults.algorithm)
        .unwrap_or(Algorithm::TokenBucket);
    let replaces = replaces(&fields, name.unwrap_or_default(), true, findings);
    let unlimited = findings.boolean_of(&fields, "unlimited").unwrap_or(false);
    let mut limit = ConfiguredLimit {
        index: LimitIndex::default(),
        name: name.unwrap_or_default().into(),
        label: name.unwrap_or_default().into(),
        identity: ConfiguredLimit::identity_of(
            surroundings.domain,
            name.unwrap_or_default(),
            algorithm,
            None,
        ),
        terms: Terms::Unlimited,
        calendar: None,
        budget: None,
        formula: Formula::REQUESTS,
        estimate: Estimate::None,
        stating: Stating::default(),
        effect: modes.effect(),
        replaces: replaces.unwrap_or_default(),
        on_store_error: defaults.on_store_error.unwrap_or_default(),
        missing_usage: MissingUsage::default(),
        headroom: Vec::new(),
        lease: None,
        origin: None,
    };
    if unlimited {
        refuse_beside_unlimited(&fields, findings);
        return name.map(|_| limit);
    }

    let cost = fields.get("cost");
    let formula = match cost {
        Some(cost) => surroundings.costs.resolve(cost, findings),
        None => Some(defaults.cost.unwrap_or(Formula::REQUESTS)),
    };
    let terms = terms(&fields, algorithm, defaults, findings);
    let estimates = Estimates::read(&fields, findings);
    let missing_usage = findings.word_of(&fields, "missing_usage", &MISSING_USAGE);
    if let Some(on_store_error) = on_store_error(&fields, findings) {
        limit.on_store_error = on_store_error;
    }
    let (formula, (terms, calendar)) = (formula?, terms?);
    limit.formula = formula;
    limit.terms = Terms::Limited(terms);
    limit.identity = ConfiguredLimit::identity_of(
        surroundings.domain,
        &limit.label,
        algorithm,
        calendar.as_ref(),
    );
    limit.calendar = calendar.map(Box::new);
    limit.budget = budget::read(&fields, &terms, findings).map(Box::new);
    limit.headroom = headroom(&fields, terms.burst, findings);
    limit.lease = lease::read(&fields, &limit, &terms, findings);
    estimates.apply(&defaults.estimates, &mut limit, &terms, &fields, findings);
    if formula.counts_tokens() {
        limit.missing_usage = missing_usage.or(defaults.missing_usage).unwrap_or_default();
    } else if let Some(node) = fields.own("missing_usage") {
        let idle = Complaint::new("'missing_usage' means nothing for this cost");
        findings.error(node.at, idle.hint("only a cost that counts tokens has it"));
    }
    name.map(|_| limit)
}

/// An unlimited limit is never counted, so what would count it is refused.
fn refuse_beside_unlimited(fields: &Fields<'_, '_>, findings: &mut Findings<'_>) {
    let meaningful = ["name", "quota_mode", "replaces", "shadow_mode", "unlimited"];
    for key in Place::Limit
        .keys()
        .iter()
        .filter(|key| !meaningful.contains(key))
    {
        if let Some(node) = fields.own(key) {
            findings.error(
                node.at,
                format!("'{key}' means nothing where unlimited is true"),
            );
        }
    }
}

/// The name, which goes into metrics and headers.
fn name<'n>(fields: &Fields<'n, '_>, findings: &mut Findings<'_>) -> Option<&'n str> {
    let Some(node) = fields.get("name") else {
        findings.error(fields.at, "a limit needs a name");
        return None;
    };
    let name = findings.text(node, "name")?;
    if name.is_empty() {
        findings.error(node.at, "a limit needs a name");
        return None;
    }
    if name.contains(|c: char| c.is_control()) {
        findings.error(node.at, "a name may not contain control characters");
        return None;
    }
    Some(name)
}

fn terms(
    fields: &Fields<'_, '_>,
    algorithm: Algorithm,
    defaults: &Defaults,
    findings: &mut Findings<'_>,
) -> Option<(Limit, Option<Calendar>)> {
    let rate = fields
        .get("rate")
        .map(|node| rate(node, algorithm, findings));
    if rate.is_none() {
        let none = Complaint::new("a limit needs a rate");
        findings.error(fields.at, none.hint("write it as in 5000/minute"));
    }
    let written = rate.flatten();
    let zone = defaults.timezone.as_ref();
    let calendar =
        written.and_then(|written| window::calendar(fields, algorithm, written, zone, findings));
    let rate = written.map(|written| written.rate);
    let burst = match (fields.get("burst"), algorithm) {
        (None, _) => rate.map(Rate::amount),
        (Some(node), Algorithm::TokenBucket) => burst(node, findings),
        (Some(_), Algorithm::CalendarWindow(_) | Algorithm::FixedWindow)
            if fields.own("burst").is_none() =>
        {
            rate.map(Rate::amount)
        }
        (Some(node), Algorithm::CalendarWindow(_) | Algorithm::FixedWindow) => {
            let idle = Complaint::new("a fixed_window has no burst");
            findings.error(
                node.at,
                idle.hint("all of its rate can be taken at any time"),
            );
            None
        }
    };
    let when_over = findings.word_of(fields, "when_over", &WHEN_OVER);
    let oversize = findings.word_of(fields, "oversize", &OVERSIZE);
    let limit = Limit {
        algorithm,
        rate: rate?,
        burst: burst?,
        when_over: when_over.or(defaults.when_over).unwrap_or(WhenOver::Refuse),
        oversize: oversize.or(defaults.oversize).unwrap_or(Oversize::Refuse),
        zero_cost: ZeroCost::NeedsRoom,
    };
    Some((limit, calendar))
}

fn rate(node: &Node<'_>, algorithm: Algorithm, findings: &mut Findings<'_>) -> Option<WrittenRate> {
    let text = findings.text(node, "rate")?;
    let rate = amount::rate(text).and_then(|written| {
        amount::refillable(algorithm, written.rate)?;
        Ok(written)
    });
    findings.take(node.at, rate)
}

fn burst(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<u64> {
    let text = findings.text(node, "burst")?;
    match findings.take(node.at, amount::amount(text))? {
        0 => {
            findings.error(node.at, "with a burst of 0 nothing ever passes");
            None
        }
        burst => Some(burst),
    }
}

fn on_store_error(fields: &Fields<'_, '_>, findings: &mut Findings<'_>) -> Option<OnStoreError> {
    let node = fields.get("on_store_error")?;
    if matches!(&node.value, Value::Scalar { text, .. } if text == "local") {
        let later = Complaint::new("on_store_error: local is not available in this version");
        findings.error(node.at, later.hint("write allow or deny"));
        return None;
    }
    findings.word_of(fields, "on_store_error", &ON_STORE_ERROR)
}

/// What has to stay free for a request to pass, by class.
fn headroom(
    fields: &Fields<'_, '_>,
    burst: u64,
    findings: &mut Findings<'_>,
) -> Vec<(String, u64)> {
    let Some(node) = fields.get("priority") else {
        return Vec::new();
    };
    let mut headroom = Vec::new();
    for (key, value) in findings.map(node, "priority").unwrap_or_default() {
        let Some(class) = findings.text(key, "a priority class") else {
            continue;
        };
        let Some(text) = findings.text(value, "the headroom of a priority class") else {
            continue;
        };
        if class.is_empty() {
            findings.error(key.at, "a priority class has an empty name");
        }
        match findings.take(value.at, amount::share(text, burst)) {
            Some(amount) if amount > burst => findings.error(
                value.at,
                format!("the headroom {amount} of class '{class}' is more than the burst {burst}"),
            ),
            Some(amount) => headroom.push((class.to_owned(), amount)),
            None => {}
        }
    }
    headroom
}

/// The names of the limits that do not apply where this one, called `own`, does. Texts are taken
/// only where envoyproxy/ratelimit has no say.
pub(super) fn replaces(
    fields: &Fields<'_, '_>,
    own: &str,
    texts: bool,
    findings: &mut Findings<'_>,
) -> Option<Vec<String>> {
    let node = fields.get("replaces")?;
    let mut names = Vec::new();
    for item in findings.list(node, "replaces")? {
        let name = match &item.value {
            Value::Scalar { text, .. } if texts => text,
            Value::Scalar { .. } | Value::List(_) => {
                findings.error(item.at, not_a_map(item));
                continue;
            }
            Value::Map(_) => {
                let fields = findings.fields(item, "an entry of replaces", Place::Replaces);
                let Some(fields) = fields else { continue };
                let Some(name) = findings.text_of(&fields, "name") else {
                    continue;
                };
                name
            }
        };
        if name.is_empty() {
            findings.error(item.at, "should not have an empty replaces entry");
        } else if name == own {
            findings.error(
                item.at,
                "replaces should not contain name of same descriptor",
            );
        } else {
            names.push(name.to_owned());
        }
    }
    Some(names)
}

/// What to say about an item that should be a map.
pub(super) fn not_a_map(item: &Node<'_>) -> Complaint {
    let found = match &item.value {
        Value::Scalar { text, .. } => text,
        Value::List(_) | Value::Map(_) => "a list",
    };
    Complaint::new(format!(
        "yaml file contains list of type other than map: {found}"
    ))
}
