//! Which limits a descriptor meets, and if it meets none, why.

use crate::limit::Timestamp;
use crate::rules::{Domain, Entry, Level, Match, Origin, Rule};

use super::describe::{Described, line};

/// The rules of a level that are named before it is left at "and so many more".
const MOST_NAMED: usize = 10;

/// What happens at `now` to a descriptor with these entries, in words.
pub fn explain(domain: &Domain, entries: &[Entry<'_>], now: Timestamp) -> String {
    let mut text = String::new();
    let written: Vec<String> = entries
        .iter()
        .map(|(key, value)| format!("({key}={value})"))
        .collect();
    line(
        &mut text,
        format_args!("domain '{}', descriptor {}", domain.name, written.concat()),
    );
    match domain.find(entries, &mut String::new()) {
        Some(found) => matched(&mut text, &found, now),
        None => unmatched(&mut text, domain, entries),
    }
    text
}

fn matched(text: &mut String, found: &Match<'_>, now: Timestamp) {
    line(text, format_args!("rule: {}", found.rule.path));
    if let Some(shared) = &found.rule.shared_value {
        line(
            text,
            format_args!("  all values that '{shared}' covers share its buckets"),
        );
    }
    if found.rule.limits.is_empty() {
        line(
            text,
            format_args!("  it has no limits, so everything passes"),
        );
    }
    for limit in &found.rule.limits {
        line(text, format_args!("  {}", Described(limit)));
        line(text, format_args!("    bucket {}", found.key(limit)));
        if let Some(calendar) = &limit.calendar
            && let Some(span) = calendar.span(now)
        {
            let (start, end) = (calendar.show(span.start()), calendar.show(span.end()));
            line(text, format_args!("    window from {start} to {end}"));
        }
        if let Some(origin) = &limit.origin {
            come_from(text, origin);
        }
    }
}

/// What of a limit comes from a preset or a tier, and what was given where it is used.
pub(super) fn come_from(text: &mut String, origin: &Origin) {
    match origin.overridden.as_slice() {
        [] => line(text, format_args!("    all of it from {}", origin.from)),
        given => {
            let given = given.join(", ");
            line(
                text,
                format_args!("    from {}; given here: {given}", origin.from),
            );
        }
    }
    if let Some(source) = &origin.source {
        line(text, format_args!("    figures: {source}"));
    }
}

fn unmatched(text: &mut String, domain: &Domain, entries: &[Entry<'_>]) {
    line(text, format_args!("no rule, so everything passes"));
    // The longest beginning that leads to a rule.
    let reached = (1..entries.len()).rev().find_map(|length| {
        Some((
            length,
            domain.find(entries.get(..length)?, &mut String::new())?,
        ))
    });
    let (length, level) = match &reached {
        Some((length, found)) => {
            line(
                text,
                format_args!("  the walk came to rule {}", found.rule.path),
            );
            (*length, &found.rule.children)
        }
        None => (0, &domain.root),
    };
    match entries.get(length) {
        None => line(
            text,
            format_args!("  a descriptor without entries finds nothing"),
        ),
        Some((key, value)) if level.is_empty() => {
            line(
                text,
                format_args!("  nothing is below it, and ({key}={value}) is left over"),
            );
        }
        Some((key, value)) => {
            line(
                text,
                format_args!("  no rule there fits ({key}={value}); there are:"),
            );
            name_rules(text, level);
        }
    }
    if let Some(other) = other_way(&domain.root, entries) {
        line(
            text,
            format_args!(
                "  rule {} would fit, but is not tried: the first rule that fits",
                other.path
            ),
        );
        line(
            text,
            format_args!("  an entry is taken for good, and a rule for the very value comes first"),
        );
    }
}

fn name_rules(text: &mut String, level: &Level) {
    let mut paths: Vec<&str> = level.rules().map(|rule| &*rule.path).collect();
    paths.sort_unstable();
    for path in paths.iter().take(MOST_NAMED) {
        line(text, format_args!("    {path}"));
    }
    if let Some(more @ 1..) = paths.len().checked_sub(MOST_NAMED) {
        line(text, format_args!("    and {more} more"));
    }
}

/// The rule at the end of any way through the tree, were there a way back.
fn other_way<'d>(level: &'d Level, entries: &[Entry<'_>]) -> Option<&'d Rule> {
    let (first, rest) = entries.split_first()?;
    level
        .covering(*first)
        .into_iter()
        .find_map(|rule| match rest {
            [] => Some(rule),
            rest => other_way(&rule.children, rest),
        })
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    const TEXT: &str = "domain: d
descriptors:
  - key: tenant
    descriptors:
      - key: model
        limits: [{ name: model-tokens, rate: 5k/minute, cost: tokens, estimate: 100 }]
  - key: tenant
    value: acme
    limits: [{ name: requests, rate: 5/minute, burst: 7, shadow_mode: true }]
  - key: exempt
  - { key: path, value: files/*, share_threshold: true, rate_limit: { unit: day, requests_per_unit: 1 } }
";

    fn explained(entries: &[Entry<'_>]) -> String {
        explain(&parse(TEXT, "f").unwrap(), entries, Timestamp::default())
    }

    #[test]
    fn what_fits_is_told_with_its_bucket() {
        let domain = parse(TEXT, "f").unwrap();
        let entries = [("tenant", "acme")];
        let found = domain.find(&entries, &mut String::new()).unwrap();
        let bucket = found.key(&found.rule.limits[0]);
        assert_eq!(
            explain(&domain, &entries, Timestamp::default()),
            format!(
                "domain 'd', descriptor (tenant=acme)
rule: tenant=acme
  requests: 5/minute, token_bucket, burst 7, cost: requests, shadow_mode
    bucket {bucket}
"
            )
        );
        assert!(explained(&[("tenant", "b"), ("model", "m")]).contains("rule: tenant > model\n"));
        assert!(explained(&[("path", "files/1")]).contains("that 'files/*' covers share"));
    }

    #[test]
    fn a_window_of_a_calendar_is_told_with_its_ends() {
        let text = "domain: d
descriptors:
  - key: tenant
    limits:
      - { name: daily, rate: 5k/day, algorithm: fixed_window, timezone: America/Los_Angeles }
      - { name: monthly, rate: 1M/calendar_month, algorithm: fixed_window, alert_at: [0.7, 90%] }
";
        // 2026-03-08T12:00:00Z, the day on which clocks went ahead.
        let now = Timestamp::from_micros(1_772_971_200_000_000);
        let told = explain(&parse(text, "f").unwrap(), &[("tenant", "a")], now);
        let lines: Vec<&str> = told
            .lines()
            .filter(|line| !line.contains("bucket"))
            .collect();
        assert_eq!(
            lines,
            [
                "domain 'd', descriptor (tenant=a)",
                "rule: tenant",
                "  daily: 5000/day, fixed_window, timezone America/Los_Angeles, cost: requests",
                "    window from 2026-03-08T00:00:00-08:00[America/Los_Angeles] \
                 to 2026-03-09T00:00:00-07:00[America/Los_Angeles]",
                "  monthly: 1000000/calendar_month, fixed_window, timezone UTC, cost: requests, \
                 alerts at 0.7 and 0.9",
                "    window from 2026-03-01T00:00:00+00:00[UTC] to 2026-04-01T00:00:00+00:00[UTC]",
            ]
        );
    }

    #[test]
    fn a_rule_without_limits_is_told() {
        assert_eq!(
            explained(&[("exempt", "x")]),
            "domain 'd', descriptor (exempt=x)
rule: exempt
  it has no limits, so everything passes
"
        );
    }

    #[test]
    fn a_walk_that_ends_tells_where_and_that_there_is_no_way_back() {
        assert_eq!(
            explained(&[("tenant", "acme"), ("model", "m")]),
            "domain 'd', descriptor (tenant=acme)(model=m)
no rule, so everything passes
  the walk came to rule tenant=acme
  nothing is below it, and (model=m) is left over
  rule tenant > model would fit, but is not tried: the first rule that fits
  an entry is taken for good, and a rule for the very value comes first
"
        );
    }

    #[test]
    fn a_walk_that_finds_nothing_tells_what_there_is() {
        assert_eq!(
            explained(&[("user", "x")]),
            "domain 'd', descriptor (user=x)
no rule, so everything passes
  no rule there fits (user=x); there are:
    exempt
    path=files/*
    tenant
    tenant=acme
"
        );
        assert!(explained(&[]).contains("a descriptor without entries finds nothing"));
        let below = explained(&[("tenant", "b"), ("user", "x"), ("more", "y")]);
        assert!(below.contains("no rule there fits (user=x); there are:\n    tenant > model\n"));
    }
}
