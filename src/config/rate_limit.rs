//! `rate_limit:`, the limit that envoyproxy/ratelimit has.
//!
//! It means what it means there, also where that surprises: no `requests_per_unit` is a ban, and a
//! unit that does not exist is no error beside `unlimited`.

use crate::limit::{Algorithm, Formula, MissingUsage, Rate};
use crate::rules::{
    CALENDAR_MONTH, ConfiguredLimit, Estimate, LimitIndex, Stating, Terms, Unit, rate_limit_terms,
};

use super::amount::{WrittenRate, unit_names};
use super::error::{Complaint, Findings};
use super::limit::{Surroundings, replaces};
use super::rule::printable;
use super::window;
use super::words::{Place, choice_hint};
use super::yaml::Node;

/// The limit that `node` describes, for the rule that `rule_key` names in metrics; its index is
/// not set.
pub(super) fn read(
    node: &Node<'_>,
    rule_key: &str,
    surroundings: &Surroundings<'_>,
    findings: &mut Findings<'_>,
) -> Option<ConfiguredLimit> {
    let fields = findings.fields(node, "rate_limit", Place::RateLimit)?;
    let name = findings.text_of(&fields, "name");
    let replaces = replaces(&fields, name.unwrap_or_default(), false, findings);
    let unlimited = findings.boolean_of(&fields, "unlimited").unwrap_or(false);
    let written = findings.text_of(&fields, "unit");
    let amount = findings.u32_of(&fields, "requests_per_unit");
    let calendar_month = written.is_some_and(|unit| unit.eq_ignore_ascii_case(CALENDAR_MONTH));
    let unit = if calendar_month {
        Some(Unit::Month)
    } else {
        Unit::from_name(written?)
    };
    let algorithm = Algorithm::FixedWindow;
    let mut calendar = None;
    let terms = match (unlimited, unit) {
        (true, None) => Terms::Unlimited,
        (true, Some(_)) => {
            let both = "should not specify rate limit unit when unlimited";
            findings.error(fields.at("unit"), both);
            return None;
        }
        (false, None) => {
            let written = written?;
            let invalid = Complaint::new(format!("invalid rate limit unit '{written}'"));
            let hint = choice_hint(written, &unit_names());
            findings.error(fields.at("unit"), invalid.hint(hint));
            return None;
        }
        (false, Some(unit)) => {
            if fields.get("requests_per_unit").is_none() {
                findings.warning(
                    node.at,
                    Complaint::new("requests_per_unit is not given, so every request is refused")
                        .hint("write requests_per_unit: 0 if that is meant"),
                );
            }
            let rate = Rate::new(u64::from(amount.unwrap_or(0)), unit.period());
            let rate = rate.map_err(|error| Complaint::from(error.to_string()));
            let rate = findings.take(node.at, rate)?;
            let written = WrittenRate {
                rate,
                calendar_month,
            };
            let zone = surroundings.defaults.timezone.as_ref();
            calendar = window::calendar(&fields, algorithm, written, zone, findings);
            Terms::Limited(rate_limit_terms(rate))
        }
    };
    let name = name?;
    let label = printable(if name.is_empty() { rule_key } else { name });
    Some(ConfiguredLimit {
        index: LimitIndex::default(),
        name: name.into(),
        identity: ConfiguredLimit::identity_of(
            surroundings.domain,
            &label,
            algorithm,
            calendar.as_ref(),
        ),
        label: label.into(),
        terms,
        calendar: calendar.map(Box::new),
        budget: None,
        formula: Formula::HITS,
        estimate: Estimate::None,
        stating: Stating::default(),
        effect: surroundings.modes.effect(),
        replaces: replaces.unwrap_or_default(),
        on_store_error: surroundings.defaults.on_store_error.unwrap_or_default(),
        missing_usage: MissingUsage::default(),
        headroom: Vec::new(),
        lease: None,
        origin: None,
    })
}
