//! Which limit an answer tells of, how much is left, and when to come back.

use std::collections::BTreeMap;
use std::time::Duration;

use tollgate::rules::{Metadata, Unit};
use tollgate::service::Answer;

use crate::support::limiter::{Limiter, metadata, parse, request};

fn limit_name(answer: &Answer, descriptor: usize) -> &str {
    answer.statuses[descriptor]
        .limit
        .as_ref()
        .map_or("none", |limit| &limit.name)
}

const TWO: &str = "
answer: { headers: [retry-after] }
descriptors:
  - key: k
    limits:
      - { name: small, rate: 10/minute, cost: hits }
      - { name: large, rate: 1000/hour, cost: hits }
";

#[tokio::test]
async fn the_limit_with_the_smallest_share_left_is_told() {
    let limiter = Limiter::new(
        "
descriptors:
  - key: k
    limits:
      - { name: small, rate: 10/minute, cost: hits }
      - { name: large, rate: 12/hour, cost: hits }
",
    );
    let answer = limiter.ask(&["k=a @5"]).await;
    assert_eq!(
        (limit_name(&answer, 0), answer.statuses[0].remaining),
        ("small", 5)
    );
    limiter.advance(Duration::from_mins(1));
    let answer = limiter.ask(&["k=a @1"]).await;
    let told = (limit_name(&answer, 0), answer.statuses[0].remaining);
    assert_eq!(told, ("large", 6), "6 of 12 are less than 9 of 10");
}

#[tokio::test]
async fn of_the_limits_that_are_over_the_one_with_the_longest_wait_is_told() {
    let limiter = Limiter::new(
        "
answer: { headers: [retry-after] }
descriptors:
  - key: k
    limits:
      - { name: minutes, rate: 2/minute }
      - { name: hours, rate: 2/hour }
      - { name: idle, rate: 100/hour }
",
    );
    limiter.ask(&["k=a"]).await;
    limiter.ask(&["k=a"]).await;
    let answer = limiter.ask(&["k=a"]).await;
    assert_eq!(limit_name(&answer, 0), "hours");
    assert_eq!(answer.statuses[0].reset, Some(Duration::from_mins(30)));
    assert_eq!(answer.headers, [("retry-after", "1800".to_owned())]);
    assert_eq!(metadata(&answer, "limit"), Some("hours"));
}

#[tokio::test]
async fn each_descriptor_tells_of_its_own_limits_and_metadata_of_the_one_that_decided() {
    let limiter = Limiter::new(
        "
descriptors:
  - { key: a, limits: [{ name: of-a, rate: 10/hour }] }
  - { key: b, limits: [{ name: of-b, rate: 1/hour }] }
",
    );
    let answer = limiter.ask(&["a=x", "b=x"]).await;
    assert_eq!(
        (limit_name(&answer, 0), limit_name(&answer, 1)),
        ("of-a", "of-b")
    );
    assert_eq!(metadata(&answer, "limit"), Some("of-b"));
    assert_eq!(metadata(&answer, "remaining"), Some("0"));
    let refused = limiter.ask(&["a=x", "b=x"]).await;
    let over: Vec<bool> = refused
        .statuses
        .iter()
        .map(|status| status.over_limit)
        .collect();
    assert_eq!(over, [false, true]);
    assert_eq!(metadata(&refused, "limit"), Some("of-b"));
}

#[tokio::test]
async fn what_is_left_stops_at_32_bits_in_the_status_and_not_elsewhere() {
    let limiter = Limiter::new(
        "
descriptors:
  - { key: k, limits: [{ name: huge, rate: 10G/day, cost: tokens, estimate: 1 }] }
",
    );
    let answer = limiter.ask(&["k=a"]).await;
    let status = &answer.statuses[0];
    assert_eq!(status.remaining, u32::MAX);
    let limit = status.limit.as_ref().expect("it applies");
    assert_eq!((limit.requests_per_unit, limit.unit), (u32::MAX, Unit::Day));
    assert_eq!(metadata(&answer, "remaining"), Some("9999999999"));
}

#[tokio::test]
async fn a_period_that_is_no_unit_is_told_per_the_next_longer_one() {
    let limiter = Limiter::new(
        "
descriptors:
  - { key: k, limits: [{ name: half-minute, rate: 100/30s }] }
",
    );
    let status = limiter.status("k=a").await;
    let limit = status.limit.expect("it applies");
    assert_eq!((limit.requests_per_unit, limit.unit), (200, Unit::Minute));
}

#[tokio::test]
async fn a_client_that_comes_back_when_it_was_told_is_admitted_and_a_second_earlier_it_is_not() {
    let limiter = Limiter::new(TWO);
    assert!(limiter.passes("k=a @10").await);
    let answer = limiter.ask(&["k=a @3"]).await;
    assert_eq!(answer.statuses[0].reset, Some(Duration::from_secs(18)));
    assert_eq!(answer.headers, [("retry-after", "18".to_owned())]);
    limiter.advance(Duration::from_secs(17));
    let answer = limiter.ask(&["k=a @3"]).await;
    assert_eq!(answer.headers, [("retry-after", "1".to_owned())]);
    limiter.advance(Duration::from_micros(999_999));
    assert!(!limiter.passes("k=a @3").await);
    limiter.advance(Duration::from_micros(1));
    assert!(limiter.passes("k=a @3").await);
}

#[tokio::test]
async fn a_wait_is_rounded_up_to_whole_seconds() {
    let limiter = Limiter::new(TWO);
    assert!(limiter.passes("k=a @10").await);
    limiter.advance(Duration::from_millis(5_999));
    let answer = limiter.ask(&["k=a @1"]).await;
    assert_eq!(
        answer.statuses[0].reset,
        Some(Duration::from_secs(1)),
        "1 ms"
    );
    assert_eq!(answer.headers, [("retry-after", "1".to_owned())]);
    let answer = limiter.ask(&["k=a @2"]).await;
    assert_eq!(answer.headers, [("retry-after", "7".to_owned())], "6.001 s");
}

#[tokio::test]
async fn charges_of_one_request_on_one_bucket_wait_for_each_other() {
    let limiter = Limiter::new(TWO);
    assert!(limiter.passes("k=a @10").await);
    let both = ["k=a @3", "k=a @2"];
    let answer = limiter.ask(&both).await;
    assert_eq!(
        answer.headers,
        [("retry-after", "30".to_owned())],
        "for five, not for three"
    );
    limiter.advance(Duration::from_secs(29));
    assert!(limiter.ask(&both).await.over_limit);
    limiter.advance(Duration::from_secs(1));
    assert!(!limiter.ask(&both).await.over_limit);
    let answer = limiter.ask(&["k=b @6", "k=b @6"]).await;
    assert!(answer.over_limit);
    assert_eq!(answer.headers, [], "twelve never fit into ten");
}

#[tokio::test]
async fn within_a_bucket_the_reset_is_when_it_is_full_and_within_a_window_its_end() {
    let limiter = Limiter::new(
        "
descriptors:
  - { key: bucket, limits: [{ name: b, rate: 10/minute, cost: hits }] }
  - { key: window, limits: [{ name: w, rate: 10/minute, algorithm: fixed_window, cost: hits }] }
",
    );
    limiter.advance(Duration::from_secs(20));
    assert_eq!(
        limiter.status("bucket=a @4").await.reset,
        Some(Duration::from_secs(24))
    );
    assert_eq!(
        limiter.status("window=a @4").await.reset,
        Some(Duration::from_secs(40))
    );
}

#[tokio::test]
async fn dynamic_metadata_is_text() {
    let limiter = Limiter::new(
        "
descriptors:
  - key: k
    limits:
      - { name: requests, rate: 1000/hour }
      - { name: tokens, rate: 1000/hour, cost: tokens, estimate: 800 }
",
    );
    let answer = limiter.ask(&["k=a"]).await;
    let names: Vec<&str> = answer.metadata.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["limit", "remaining", "reserved", "reservation"]);
    let value = |name| metadata(&answer, name);
    assert_eq!(
        (value("limit"), value("remaining")),
        (Some("tokens"), Some("200"))
    );
    assert_eq!(value("reserved"), Some("800"));
    let refused = limiter.ask(&["k=a"]).await;
    let names: Vec<&str> = refused.metadata.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["limit", "remaining"]);
    assert_eq!(limiter.ask(&["other=a"]).await.metadata, []);
}

#[tokio::test]
async fn the_metadata_of_rules_that_passed_is_merged_and_the_first_to_say_something_wins() {
    let limiter = Limiter::new(
        "
descriptors:
  - key: a
    rate_limit: { unit: hour, requests_per_unit: 9 }
    metadata: { tier: gold, flags: [1], nested: { from: a } }
  - key: b
    rate_limit: { unit: hour, requests_per_unit: 9 }
    metadata: { tier: silver, flags: [2], nested: { from: b, also: true } }
  - key: over
    quota_mode: true
    rate_limit: { unit: hour, requests_per_unit: 0 }
    metadata: { over: true }
  - key: room
    quota_mode: true
    rate_limit: { unit: hour, requests_per_unit: 9 }
  - key: free
    rate_limit: { unlimited: true }
    metadata: { free: true }
",
    );
    let map = |entries: Vec<(&str, Metadata)>| {
        Metadata::Map(
            entries
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
        )
    };
    let answer = limiter
        .ask(&["free=x", "over=x", "room=x", "a=x", "b=x", "none=x"])
        .await;
    assert!(!answer.over_limit);
    let merged = map(vec![
        ("tier", Metadata::Text("gold".to_owned())),
        ("flags", Metadata::List(vec![Metadata::Number(1.0)])),
        (
            "nested",
            map(vec![
                ("from", Metadata::Text("a".to_owned())),
                ("also", Metadata::Bool(true)),
            ]),
        ),
    ]);
    assert_eq!(answer.rule_metadata, Some(merged));
    assert_eq!(limiter.ask(&["none=x", "free=x"]).await.rule_metadata, None);
}

#[tokio::test]
async fn no_name_of_a_limit_gets_out_of_a_header() {
    let mut domain = parse(
        "
domain: llm
answer: { headers: [ietf, openai, anthropic, retry-after], body: plain }
descriptors:
  - { key: k, rate_limit: { name: \"x\\\"\\r\\nset-cookie: a=b\", unit: hour, requests_per_unit: 1 } }
",
    );
    domain.name = "llm".to_owned();
    let limiter = Limiter::without_rules();
    limiter.install_domains(&BTreeMap::from([("llm".to_owned(), domain.into())]));
    // `answer` looks at every header and every name.
    let admitted = limiter.answer(&request(&["k=a"])).await;
    assert_eq!(limit_name(&admitted, 0), "x___set-cookie: a=b");
    let refused = limiter.answer(&request(&["k=a"])).await;
    assert!(refused.over_limit && !refused.body.contains(['\r', '\n']));
}
