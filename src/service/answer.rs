//! The answer that Envoy gets.

use std::time::Duration;

use super::outcome::{LimitOutcome, Outcome};
use super::{body, headers};
use crate::rules::{AnswerStyle, BodyStyle, Metadata, Unit};
use crate::store::Verdict;

/// The answer to one request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Whether the request is refused.
    pub over_limit: bool,
    /// One for each descriptor, in their order.
    pub statuses: Vec<Status>,
    /// Headers for the response to the client. Names and values are safe to send as they are.
    pub headers: Vec<(&'static str, String)>,
    /// The body of a refusal.
    pub body: String,
    /// Dynamic metadata: texts by name.
    pub metadata: Vec<(&'static str, String)>,
    /// The `metadata` of the rules whose descriptors passed.
    pub rule_metadata: Option<Metadata>,
}

/// The answer for one descriptor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether it is over its limit.
    pub over_limit: bool,
    /// The limit that decided, where one applied.
    pub limit: Option<LimitStatus>,
    /// What is left of it, as far as 32 bits can tell.
    pub remaining: u32,
    /// When something changes for the better, in whole seconds, rounded up: Envoy cuts fractions
    /// off, and would send clients back too early.
    pub reset: Option<Duration>,
}

/// A limit, as Envoy's API can say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitStatus {
    /// Its name.
    pub name: String,
    /// How much, as far as 32 bits can tell.
    pub requests_per_unit: u32,
    /// Per how long.
    pub unit: Unit,
}

impl Answer {
    /// The answer where no limit applies to any descriptor.
    pub fn unlimited(descriptors: usize) -> Self {
        Self {
            statuses: vec![Status::default(); descriptors],
            ..Self::default()
        }
    }

    /// The answer that refuses every descriptor, whatever its limits.
    pub(super) fn refused(descriptors: usize) -> Self {
        let status = Status {
            over_limit: true,
            ..Status::default()
        };
        Self {
            over_limit: true,
            statuses: vec![status; descriptors],
            ..Self::default()
        }
    }

    pub(super) fn of(outcome: Outcome<'_>, style: &AnswerStyle) -> Self {
        let statuses = outcome
            .descriptors
            .iter()
            .enumerate()
            .map(|(index, descriptor)| match outcome.deciding_for(index) {
                Some(deciding) => Status {
                    over_limit: descriptor.over,
                    limit: Some(limit_status(deciding)),
                    remaining: if deciding.over {
                        0
                    } else {
                        saturate(deciding.remaining())
                    },
                    reset: deciding.reset(outcome.now).map(whole_seconds),
                },
                None => Status {
                    over_limit: descriptor.over,
                    remaining: if descriptor.unlimited { u32::MAX } else { 0 },
                    ..Status::default()
                },
            })
            .collect();
        let mut answer = Self {
            over_limit: outcome.refused(),
            statuses,
            headers: headers::render(&outcome, &style.headers),
            rule_metadata: rule_metadata(&outcome),
            ..Self::default()
        };
        if outcome.refused() && style.body != BodyStyle::None {
            answer.body = body::render(&outcome, style.body);
            answer
                .headers
                .push(("content-type", body::content_type(style.body).to_owned()));
        }
        answer.metadata = metadata(outcome);
        answer
    }
}

fn metadata(outcome: Outcome<'_>) -> Vec<(&'static str, String)> {
    let mut metadata = Vec::new();
    if let Some(deciding) = outcome.deciding() {
        metadata.push(("limit", deciding.limit.label.to_string()));
        metadata.push(("remaining", deciding.remaining().to_string()));
    }
    if outcome.reservation.is_some() {
        let reserved = outcome
            .limits
            .iter()
            .filter(|limit| limit.limit.formula.counts_tokens())
            .map(|limit| match outcome.result {
                // Charged when it came first.
                Verdict::Repeated => limit.amount,
                _ => limit.charged,
            })
            .max();
        metadata.extend(reserved.map(|reserved| ("reserved", reserved.max(0).to_string())));
    }
    metadata.extend(outcome.reservation.map(|id| ("reservation", id)));
    metadata
}

fn rule_metadata(outcome: &Outcome<'_>) -> Option<Metadata> {
    let mut merged: Option<Metadata> = None;
    let passed = outcome
        .descriptors
        .iter()
        .filter(|passed| !passed.over && !passed.unlimited);
    for metadata in passed.filter_map(|passed| passed.metadata) {
        match &mut merged {
            Some(merged) => merged.merge(metadata),
            None => merged = Some(metadata.clone()),
        }
    }
    merged
}

fn limit_status(outcome: &LimitOutcome<'_>) -> LimitStatus {
    let rate = outcome.terms.rate;
    // A period that is no unit is told per the next longer unit.
    let unit = Unit::ALL
        .into_iter()
        .find(|unit| unit.period() >= rate.period())
        .unwrap_or(Unit::Year);
    let per_unit =
        u128::from(rate.amount()) * unit.period().as_micros() / u128::from(rate.period_micros());
    LimitStatus {
        name: headers::quotable(&outcome.limit.name),
        requests_per_unit: u32::try_from(per_unit).unwrap_or(u32::MAX),
        unit,
    }
}

fn saturate(amount: u64) -> u32 {
    u32::try_from(amount).unwrap_or(u32::MAX)
}

/// Rounded up.
pub(super) fn whole_seconds(duration: Duration) -> Duration {
    let up = u64::from(duration.subsec_nanos() > 0);
    Duration::from_secs(duration.as_secs().saturating_add(up))
}
