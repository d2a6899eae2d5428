//! Rate-limit headers in the dialects that clients understand.
//!
//! Envoy passes carriage returns and line feeds on to the client as they are, so every value is
//! made of numbers and of [`clean`] text.

use std::fmt::Write as _;
use std::time::Duration;

use super::answer::whole_seconds;
use super::outcome::{LimitOutcome, Outcome};
use crate::limit::Timestamp;
use crate::rules::HeaderStyle;

type Header = (&'static str, String);

/// The headers of all families in `styles`.
pub(super) fn render(outcome: &Outcome<'_>, styles: &[HeaderStyle]) -> Vec<Header> {
    let mut headers = Vec::new();
    for style in styles {
        match style {
            HeaderStyle::Anthropic => anthropic(outcome, &mut headers),
            HeaderStyle::Ietf => ietf(outcome, &mut headers),
            HeaderStyle::OpenAi => open_ai(outcome, &mut headers),
            HeaderStyle::RetryAfter => retry_after(outcome, &mut headers),
        }
    }
    headers
}

/// Whole seconds, rounded up, at least one: RFC 9110 §10.2.3.
fn retry_after(outcome: &Outcome<'_>, headers: &mut Vec<Header>) {
    let known = headers.iter().any(|(name, _)| *name == "retry-after");
    if let (Some(wait), false) = (outcome.retry_after(), known) {
        headers.push((
            "retry-after",
            whole_seconds(wait).as_secs().max(1).to_string(),
        ));
    }
}

/// `RateLimit-Policy` and `RateLimit` of draft-ietf-httpapi-ratelimit-headers: quota and window of
/// each limit; what remains and in how many seconds it resets.
fn ietf(outcome: &Outcome<'_>, headers: &mut Vec<Header>) {
    let (mut policy, mut state) = (String::new(), String::new());
    for limit in outcome.told() {
        if !policy.is_empty() {
            policy.push_str(", ");
            state.push_str(", ");
        }
        let name = clean(&limit.limit.label);
        let window = whole_seconds(limit.terms.rate.period()).as_secs();
        // Writing to a string cannot fail.
        _ = write!(policy, "\"{name}\";q={};w={window}", limit.terms.burst);
        _ = write!(state, "\"{name}\";r={}", limit.remaining());
        if let Some(reset) = limit.reset(outcome.now) {
            _ = write!(state, ";t={}", whole_seconds(reset).as_secs());
        }
    }
    if !policy.is_empty() {
        headers.push(("ratelimit-policy", policy));
        headers.push(("ratelimit", state));
    }
}

/// `OpenAI`'s, one triple for requests and one for tokens, with the most restrictive limit of each
/// kind; `reset` is the time to full. Their clients read `retry-after-ms` first.
fn open_ai(outcome: &Outcome<'_>, headers: &mut Vec<Header>) {
    const REQUESTS: [&str; 3] = [
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
    ];
    const TOKENS: [&str; 3] = [
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-tokens",
    ];
    for (names, tokens) in [(REQUESTS, false), (TOKENS, true)] {
        let of_kind = outcome
            .told()
            .filter(|limit| limit.limit.formula.counts_tokens() == tokens);
        if let Some(limit) = smallest(of_kind) {
            let [limit_name, remaining, reset] = names;
            headers.push((limit_name, limit.terms.burst.to_string()));
            headers.push((remaining, limit.remaining().to_string()));
            if let Some(until_full) = limit.until_full {
                headers.push((reset, go_duration(until_full)));
            }
        }
    }
    if let Some(wait) = outcome.retry_after() {
        let millis = wait.as_nanos().div_ceil(1_000_000).max(1);
        headers.push(("retry-after-ms", millis.to_string()));
    }
    retry_after(outcome, headers);
}

/// Anthropic's; `reset` is the time of being full, in RFC 3339.
fn anthropic(outcome: &Outcome<'_>, headers: &mut Vec<Header>) {
    const KINDS: [(Kind, [&str; 3]); 4] = [
        (
            Kind::Requests,
            [
                "anthropic-ratelimit-requests-limit",
                "anthropic-ratelimit-requests-remaining",
                "anthropic-ratelimit-requests-reset",
            ],
        ),
        (
            Kind::Tokens,
            [
                "anthropic-ratelimit-tokens-limit",
                "anthropic-ratelimit-tokens-remaining",
                "anthropic-ratelimit-tokens-reset",
            ],
        ),
        (
            Kind::Input,
            [
                "anthropic-ratelimit-input-tokens-limit",
                "anthropic-ratelimit-input-tokens-remaining",
                "anthropic-ratelimit-input-tokens-reset",
            ],
        ),
        (
            Kind::Output,
            [
                "anthropic-ratelimit-output-tokens-limit",
                "anthropic-ratelimit-output-tokens-remaining",
                "anthropic-ratelimit-output-tokens-reset",
            ],
        ),
    ];
    for (kind, [limit_name, remaining, reset]) in KINDS {
        let of_kind = outcome.told().filter(|limit| Kind::of(limit) == kind);
        if let Some(limit) = smallest(of_kind) {
            headers.push((limit_name, limit.terms.burst.to_string()));
            headers.push((remaining, limit.remaining().to_string()));
            if let Some(at) = limit
                .until_full
                .and_then(|wait| rfc3339(outcome.now.plus(wait)))
            {
                headers.push((reset, at));
            }
        }
    }
    retry_after(outcome, headers);
}

/// What a limit counts, as Anthropic tells limits apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Input,
    Output,
    Requests,
    Tokens,
}

impl Kind {
    fn of(limit: &LimitOutcome<'_>) -> Self {
        let [input, read, write, output] = limit
            .limit
            .formula
            .tokens
            .map(|weight| weight.thousandths() > 0);
        match (input || read || write, output) {
            (false, false) => Self::Requests,
            (false, true) => Self::Output,
            (true, false) => Self::Input,
            (true, true) => Self::Tokens,
        }
    }
}

fn smallest<'a, 'p: 'a>(
    limits: impl Iterator<Item = &'a LimitOutcome<'p>>,
) -> Option<&'a LimitOutcome<'p>> {
    limits.min_by_key(|limit| (!limit.over, limit.level))
}

/// As Go writes durations: `120ms`, `8.64s`, `6m0s`.
fn go_duration(duration: Duration) -> String {
    let millis = duration.as_nanos().div_ceil(1_000_000);
    let (seconds, rest) = (millis / 1000, millis % 1000);
    if seconds == 0 {
        return format!("{rest}ms");
    }
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut text = String::new();
    if hours > 0 {
        _ = write!(text, "{hours}h");
    }
    if hours > 0 || minutes > 0 {
        _ = write!(text, "{minutes}m");
    }
    _ = write!(text, "{seconds}");
    if rest > 0 {
        let fraction = format!(".{rest:03}");
        text.push_str(fraction.trim_end_matches('0'));
    }
    text.push('s');
    text
}

/// Whole seconds, rounded up.
fn rfc3339(at: Timestamp) -> Option<String> {
    let seconds = i64::try_from(at.as_micros().div_ceil(1_000_000)).ok()?;
    jiff::Timestamp::from_second(seconds)
        .ok()
        .map(|at| at.to_string())
}

/// What may stand in a header and in its quotes: visible ASCII without quotes and backslashes;
/// everything else becomes `_`.
pub(super) fn clean(text: &str) -> String {
    let safe = |c: char| (c.is_ascii_graphic() || c == ' ') && c != '"' && c != '\\';
    text.chars()
        .map(|c| if safe(c) { c } else { '_' })
        .collect()
}

/// A name that Envoy puts between quotes in a header of its own, as it is: without what would end
/// the quotes or the header.
pub(super) fn quotable(name: &str) -> String {
    let unsafe_there = |c: char| c.is_control() || c == '"' || c == '\\';
    name.replace(unsafe_there, "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (micros, text) in [
            (0, "0ms"),
            (1, "1ms"),
            (120_000, "120ms"),
            (8_640_000, "8.64s"),
            (1_000_000, "1s"),
            (360_000_000, "6m0s"),
            (3_600_000_000, "1h0m0s"),
            (3_661_005_000, "1h1m1.005s"),
        ] {
            assert_eq!(go_duration(Duration::from_micros(micros)), text);
        }
    }

    #[test]
    fn a_point_in_time_is_rounded_up_to_seconds() {
        let at = Timestamp::from_micros(1_700_000_000_000_001);
        assert_eq!(rfc3339(at).unwrap(), "2023-11-14T22:13:21Z");
    }

    #[test]
    fn nothing_gets_out_of_a_header() {
        assert_eq!(
            clean("a b\r\nset-cookie: \"x\"\\ é"),
            "a b__set-cookie: _x__ _"
        );
    }
}
