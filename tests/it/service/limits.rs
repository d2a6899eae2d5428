//! `limits:`: several on a rule, all or nothing, headroom, what can never fit, looks.

use std::time::Duration;

use crate::support::limiter::{Limiter, metadata};

const TWO: &str = "
descriptors:
  - key: tenant
    limits:
      - { name: requests, rate: 3/minute }
      - { name: tokens, rate: 1000/minute, cost: tokens, estimate: 100 }
  - key: deployment
    limits:
      - { name: capacity, rate: 500/minute, cost: tokens }
";

#[tokio::test]
async fn every_limit_of_a_rule_holds() {
    let limiter = Limiter::new(TWO);
    assert!(limiter.passes("tenant=a @900").await);
    assert!(!limiter.passes("tenant=a @101").await, "tokens");
    assert!(limiter.passes("tenant=a @50").await);
    assert!(limiter.passes("tenant=a @50").await);
    assert!(!limiter.passes("tenant=a @0").await, "requests, and tokens");
    assert!(
        limiter.passes("tenant=b @900").await,
        "another tenant's buckets are others"
    );
}

#[tokio::test]
async fn a_refused_request_costs_nobody_anything() {
    let limiter = Limiter::new(TWO);
    assert!(
        limiter
            .ask(&["tenant=a @501", "deployment=x @501"])
            .await
            .over_limit
    );
    assert_eq!(limiter.level("tenant=a", "requests").await, 3);
    assert_eq!(limiter.level("tenant=a", "tokens").await, 1000);
    assert_eq!(limiter.level("deployment=x", "capacity").await, 500);
    assert!(
        !limiter
            .ask(&["tenant=a @500", "deployment=x @500"])
            .await
            .over_limit
    );
    assert_eq!(limiter.level("tenant=a", "tokens").await, 500);
    assert_eq!(limiter.level("deployment=x", "capacity").await, 0);
}

#[tokio::test]
async fn only_what_charges_when_over_is_charged_by_a_refused_request() {
    let limiter = Limiter::new(
        "
descriptors:
  - key: k
    rate_limit: { name: theirs, unit: hour, requests_per_unit: 10 }
    limits:
      - { name: charges, rate: 10/hour, cost: hits, when_over: charge }
      - { name: refuses, rate: 5/hour, cost: hits }
",
    );
    assert!(!limiter.passes("k=a @6").await);
    assert_eq!(limiter.level("k=a", "theirs").await, 4);
    assert_eq!(limiter.level("k=a", "charges").await, 4);
    assert_eq!(limiter.level("k=a", "refuses").await, 5);
}

#[tokio::test]
async fn a_level_of_zero_refuses_a_look_under_limits() {
    let limiter = Limiter::new(
        "
descriptors:
  - key: k
    limits: [{ name: tokens, rate: 60/hour, cost: tokens }]
",
    );
    assert!(limiter.passes("k=a @0").await);
    assert!(limiter.passes("k=a @60").await);
    assert!(!limiter.passes("k=a @0").await);
    limiter.advance(Duration::from_micros(59_999_999));
    assert!(!limiter.passes("k=a @0").await);
    limiter.advance(Duration::from_micros(1));
    assert!(limiter.passes("k=a @0").await, "one token has come back");
}

#[tokio::test]
async fn a_token_bucket_refills_continuously_and_holds_no_more_than_its_burst() {
    let limiter = Limiter::new(
        "
descriptors:
  - key: k
    limits: [{ name: tokens, rate: 6000/minute, burst: 10000, cost: tokens }]
",
    );
    assert!(limiter.passes("k=a @10000").await);
    limiter.advance(Duration::from_millis(1_230));
    assert_eq!(limiter.level("k=a", "tokens").await, 123);
    limiter.advance(Duration::from_hours(5));
    assert_eq!(limiter.level("k=a", "tokens").await, 10_000);
}

#[tokio::test]
async fn a_fixed_window_comes_back_all_at_once() {
    let limiter = Limiter::new(
        "
descriptors:
  - key: k
    limits: [{ name: daily, rate: 100/day, algorithm: fixed_window, cost: tokens }]
",
    );
    assert!(limiter.passes("k=a @100").await);
    let status = limiter.status("k=a @1").await;
    assert!(status.over_limit);
    assert_eq!(
        status.reset,
        Some(Duration::from_hours(16)),
        "the day began eight hours ago"
    );
    limiter.advance(Duration::from_hours(16).saturating_sub(Duration::from_micros(1)));
    assert_eq!(limiter.level("k=a", "daily").await, 0);
    limiter.advance(Duration::from_micros(1));
    assert_eq!(limiter.level("k=a", "daily").await, 100);
}

#[tokio::test]
async fn a_cost_larger_than_the_burst_never_fits_or_waits_until_nothing_is_taken() {
    let limiter = Limiter::new(
        "
descriptors:
  - key: never
    limits: [{ name: never, rate: 100/minute, cost: tokens }]
  - key: when-full
    limits: [{ name: when-full, rate: 100/minute, cost: tokens, oversize: when_full }]
",
    );
    let answer = limiter.ask(&["never=a @101"]).await;
    assert!(answer.over_limit);
    assert_eq!(answer.statuses[0].reset, None, "there is no such time");
    assert_eq!(answer.headers, []);

    assert!(limiter.passes("when-full=a @250").await);
    assert_eq!(limiter.level("when-full=a", "when-full").await, -150);
    assert!(!limiter.passes("when-full=a @1").await);
    let status = limiter.status("when-full=a @250").await;
    assert!(status.over_limit);
    assert_eq!(
        status.reset,
        Some(Duration::from_secs(150)),
        "250 tokens at 100 a minute"
    );
    limiter.advance(Duration::from_secs(149));
    assert!(!limiter.passes("when-full=a @250").await);
    limiter.advance(Duration::from_secs(1));
    assert!(limiter.passes("when-full=a @250").await);
}

#[tokio::test]
async fn a_class_of_lower_priority_leaves_its_headroom_free() {
    let limiter = Limiter::new(
        "
descriptors:
  - key: k
    limits:
      - { name: tokens, rate: 100/minute, cost: tokens, priority: { batch: 40, low: 20% } }
",
    );
    assert!(!limiter.passes("k=a tollgate.priority=batch @61").await);
    assert!(limiter.passes("k=a tollgate.priority=batch @60").await);
    assert!(!limiter.passes("k=a tollgate.priority=batch @1").await);
    assert!(limiter.passes("k=a tollgate.priority=low @20").await);
    assert!(!limiter.passes("k=a tollgate.priority=low @1").await);
    assert!(limiter.passes("k=a tollgate.priority=unlisted @10").await);
    assert!(
        limiter.passes("k=a @10").await,
        "who names no class needs no headroom"
    );
    assert!(!limiter.passes("k=a @1").await);
}

#[tokio::test]
async fn the_wait_of_a_class_counts_its_headroom() {
    let limiter = Limiter::new(
        "
descriptors:
  - key: k
    limits: [{ name: tokens, rate: 60/minute, cost: tokens, priority: { batch: 30 } }]
",
    );
    assert!(limiter.passes("k=a @60").await);
    let status = limiter.status("k=a tollgate.priority=batch @10").await;
    assert_eq!(status.reset, Some(Duration::from_secs(40)));
    limiter.advance(Duration::from_secs(39));
    assert!(!limiter.passes("k=a tollgate.priority=batch @10").await);
    limiter.advance(Duration::from_secs(1));
    assert!(limiter.passes("k=a tollgate.priority=batch @10").await);
}

#[tokio::test]
async fn a_peek_tells_what_an_admission_would_be_told_and_takes_nothing() {
    let limiter = Limiter::new(TWO);
    for _ in 0..5 {
        let answer = limiter.ask(&["tenant=a tollgate.phase=peek @1000"]).await;
        assert!(!answer.over_limit);
        assert_eq!(
            metadata(&answer, "reservation"),
            None,
            "nothing is reserved"
        );
        assert!(
            limiter
                .ask(&["tenant=a tollgate.phase=peek @1001"])
                .await
                .over_limit
        );
    }
    assert_eq!(limiter.level("tenant=a", "requests").await, 3);
    assert_eq!(limiter.level("tenant=a", "tokens").await, 1000);
    assert!(!limiter.ask(&["tenant=a @1000"]).await.over_limit);
}

#[tokio::test]
async fn a_shadowed_limit_takes_what_fits_and_refuses_nobody() {
    let limiter = Limiter::new(
        "
descriptors:
  - key: k
    limits:
      - { name: trial, rate: 10/hour, cost: tokens, shadow_mode: true }
      - { name: real, rate: 100/hour, cost: tokens }
",
    );
    assert!(limiter.passes("k=a @8").await);
    assert!(limiter.passes("k=a @8").await);
    assert_eq!(limiter.level("k=a", "trial").await, 2);
    assert_eq!(limiter.level("k=a", "real").await, 84);
    assert!(!limiter.passes("k=a @85").await);
    assert_eq!(limiter.level("k=a", "trial").await, 2);
}

#[tokio::test]
async fn rules_that_share_a_limits_name_share_no_bucket_between_values() {
    let limiter = Limiter::new(
        "
descriptors:
  - key: tenant
    limits: [{ name: tenant-requests, rate: 1/hour }]
  - key: tenant
    value: acme
    limits: [{ name: tenant-requests, rate: 2/hour }]
",
    );
    assert!(limiter.passes("tenant=acme").await);
    assert!(limiter.passes("tenant=acme").await);
    assert!(!limiter.passes("tenant=acme").await);
    assert!(limiter.passes("tenant=b").await);
    assert!(!limiter.passes("tenant=b").await);
}
