//! The answers of our own API.
//!
//! Names follow `proto/tollgate/v1/tollgate.proto`. Numbers stay numbers, 64-bit ones too: all
//! amounts stay below 2^53, which every JSON reader takes whole. Times are rounded up, so that who
//! comes back in time is not too early.

use std::time::Duration;

use serde::Serialize;

use crate::service::{BucketView, InspectAnswer, ReportAnswer, ReportResult, ReserveAnswer};

#[derive(Debug, Serialize)]
pub(super) struct Bucket {
    limit: String,
    key: String,
    burst: u64,
    rate: u64,
    period_ms: u64,
    level: i64,
    charged: i64,
    fits: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    full_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_reservations: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_amount: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct Reserved {
    admitted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    buckets: Vec<Bucket>,
}

#[derive(Debug, Serialize)]
pub(super) struct Reported {
    result: &'static str,
    buckets: Vec<Bucket>,
}

#[derive(Debug, Serialize)]
pub(super) struct Inspected {
    /// Null: the descriptor came to no rule.
    rule: Option<String>,
    buckets: Vec<Bucket>,
}

impl From<BucketView> for Bucket {
    fn from(view: BucketView) -> Self {
        Self {
            limit: view.limit,
            key: view.key.to_string(),
            burst: view.terms.burst,
            rate: view.terms.rate.amount(),
            period_ms: millis(view.terms.rate.period()),
            level: view.level,
            charged: view.charged,
            fits: view.fits,
            retry_after_ms: view.retry_after.map(millis),
            full_after_ms: view.full_after.map(millis),
            held_reservations: None,
            held_amount: None,
        }
    }
}

impl From<ReserveAnswer> for Reserved {
    fn from(answer: ReserveAnswer) -> Self {
        Self {
            admitted: answer.admitted,
            id: answer.id,
            retry_after_ms: answer.retry_after.map(millis),
            buckets: buckets(answer.buckets),
        }
    }
}

impl From<ReportAnswer> for Reported {
    fn from(answer: ReportAnswer) -> Self {
        Self {
            result: name(answer.result),
            buckets: buckets(answer.buckets),
        }
    }
}

impl From<InspectAnswer> for Inspected {
    fn from(answer: InspectAnswer) -> Self {
        let mut buckets = buckets(answer.buckets);
        for (bucket, held) in buckets.iter_mut().zip(answer.held.unwrap_or_default()) {
            bucket.held_reservations = Some(held.reservations);
            bucket.held_amount = Some(held.amount);
        }
        Self {
            rule: answer.rule,
            buckets,
        }
    }
}

/// A result's name.
const fn name(result: ReportResult) -> &'static str {
    match result {
        ReportResult::AlreadySettled => "already_settled",
        ReportResult::Charged => "charged",
        ReportResult::Failed => "failed",
        ReportResult::Grown => "grown",
        ReportResult::Invalid => "invalid",
        ReportResult::Released => "released",
        ReportResult::Settled => "settled",
        ReportResult::UnknownId => "unknown_id",
        ReportResult::WithoutUsage => "without_usage",
    }
}

fn buckets(views: Vec<BucketView>) -> Vec<Bucket> {
    views.into_iter().map(Bucket::from).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
