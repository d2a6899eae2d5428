//! The body of a refusal, so that a client's SDK understands it and backs off by itself.

use std::time::Duration;

use serde_json::json;

use super::outcome::{LimitOutcome, Outcome};
use crate::rules::BodyStyle;

/// The body of a refusal.
pub(super) fn render(outcome: &Outcome<'_>, style: BodyStyle) -> String {
    let message = message(outcome);
    match style {
        BodyStyle::Anthropic => json!({
            "type": "error",
            "error": { "type": "rate_limit_error", "message": message },
        })
        .to_string(),
        BodyStyle::None => String::new(),
        BodyStyle::OpenAi => {
            let tokens = outcome
                .deciding()
                .is_some_and(|limit| limit.limit.formula.counts_tokens());
            json!({
                "error": {
                    "message": message,
                    "type": if tokens { "tokens" } else { "requests" },
                    "param": null,
                    "code": "rate_limit_exceeded",
                },
            })
            .to_string()
        }
        BodyStyle::Plain => message,
    }
}

/// The body's content type.
pub(super) const fn content_type(style: BodyStyle) -> &'static str {
    match style {
        BodyStyle::Anthropic | BodyStyle::OpenAi => "application/json",
        BodyStyle::None | BodyStyle::Plain => "text/plain; charset=utf-8",
    }
}

fn message(outcome: &Outcome<'_>) -> String {
    if outcome
        .descriptors
        .iter()
        .any(|descriptor| descriptor.bad_count)
    {
        return "The request states a count that is no number, or too large a one.".to_owned();
    }
    let Some(limit) = outcome.deciding() else {
        return "The rate limit cannot be checked at the moment.".to_owned();
    };
    let used = i128::from(limit.terms.burst) - i128::from(limit.level);
    let reached = format!(
        "Rate limit reached for {}: limit {}, used {used}, requested {}.",
        super::headers::clean(&limit.limit.label),
        limit.terms.burst,
        limit.amount.max(0),
    );
    match outcome.retry_after() {
        Some(wait) => format!("{reached} Please try again in {}.", seconds(wait)),
        None => format!("{reached} {}", never(limit)),
    }
}

fn never(limit: &LimitOutcome<'_>) -> &'static str {
    if u64::try_from(limit.amount).is_ok_and(|amount| amount > limit.terms.burst) {
        "It costs more than the limit can ever hold; trying again will not help."
    } else {
        "Trying again will not help."
    }
}

/// Milliseconds, rounded up.
fn seconds(duration: Duration) -> String {
    let millis = duration.as_nanos().div_ceil(1_000_000);
    format!("{}.{:03}s", millis / 1000, millis % 1000)
}
