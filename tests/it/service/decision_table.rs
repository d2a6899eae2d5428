//! `rate_limit:`: one status for each descriptor, as envoyproxy/ratelimit gives them.

use std::time::Duration;

use tollgate::rules::Unit;
use tollgate::service::{LimitStatus, Status};

use crate::support::limiter::Limiter;

const RULES: &str = "
descriptors:
  - key: tenant
    rate_limit: { name: per-tenant, unit: minute, requests_per_unit: 3 }
  - key: tenant
    value: free
    rate_limit: { unlimited: true }
  - key: tenant
    value: banned
    rate_limit: { unit: hour, requests_per_unit: 0 }
  - key: tenant
    value: watched
    shadow_mode: true
    rate_limit: { name: watched, unit: minute, requests_per_unit: 1 }
  - key: tenant
    value: known
  - key: path
    descriptors:
      - key: method
        rate_limit: { unit: second, requests_per_unit: 1 }
";

fn per_tenant(over_limit: bool, remaining: u32, reset: u64) -> Status {
    Status {
        over_limit,
        limit: Some(LimitStatus {
            name: "per-tenant".to_owned(),
            requests_per_unit: 3,
            unit: Unit::Minute,
        }),
        remaining,
        reset: Some(Duration::from_secs(reset)),
    }
}

#[tokio::test]
async fn within_the_limit_the_rest_of_it_and_of_its_window_is_told() {
    let limiter = Limiter::new(RULES);
    assert_eq!(limiter.status("tenant=a").await, per_tenant(false, 2, 60));
    limiter.advance(Duration::from_millis(18_500));
    assert_eq!(
        limiter.status("tenant=a").await,
        per_tenant(false, 1, 42),
        "41.5 s, rounded up"
    );
}

#[tokio::test]
async fn the_request_that_meets_the_limit_passes_and_the_next_does_not_until_the_window_ends() {
    let limiter = Limiter::new(RULES);
    assert_eq!(
        limiter.status("tenant=a @3").await,
        per_tenant(false, 0, 60)
    );
    assert_eq!(limiter.status("tenant=a").await, per_tenant(true, 0, 60));
    limiter.advance(Duration::from_micros(59_999_999));
    assert_eq!(limiter.status("tenant=a").await, per_tenant(true, 0, 1));
    limiter.advance(Duration::from_micros(1));
    assert_eq!(limiter.status("tenant=a").await, per_tenant(false, 2, 60));
}

#[tokio::test]
async fn what_no_limit_covers_passes_with_an_empty_status() {
    let limiter = Limiter::new(RULES);
    let uncovered = [
        "user=a",
        "path=/",
        "path=/ method=GET x=y",
        "tenant=known",
        "tenant=a deeper=still",
        "",
    ];
    for descriptor in uncovered {
        let answer = limiter.ask(&[descriptor]).await;
        assert!(!answer.over_limit, "{descriptor}");
        assert_eq!(answer.statuses, [Status::default()], "{descriptor}");
    }
}

#[tokio::test]
async fn unlimited_is_never_counted_and_has_all_of_it_left() {
    let limiter = Limiter::new(RULES);
    for _ in 0..10 {
        let status = limiter.status("tenant=free @1000000000").await;
        assert_eq!(
            status,
            Status {
                remaining: u32::MAX,
                ..Status::default()
            }
        );
    }
}

#[tokio::test]
async fn a_limit_of_zero_forbids() {
    let limiter = Limiter::new(RULES);
    let status = limiter.status("tenant=banned").await;
    assert!(status.over_limit);
    assert_eq!(status.reset, Some(Duration::from_hours(1)));
    let limit = status.limit.expect("it applies");
    assert_eq!((limit.requests_per_unit, limit.unit), (0, Unit::Hour));
}

#[tokio::test]
async fn a_shadowed_rule_that_is_over_says_ok_with_nothing_left() {
    let limiter = Limiter::new(RULES);
    assert_eq!(limiter.status("tenant=watched").await.remaining, 0);
    for _ in 0..3 {
        let answer = limiter.ask(&["tenant=watched"]).await;
        assert!(!answer.over_limit);
        let status = &answer.statuses[0];
        assert_eq!((status.over_limit, status.remaining), (false, 0));
        assert_eq!(
            status.limit.as_ref().map(|limit| limit.name.as_str()),
            Some("watched")
        );
        assert_eq!(status.reset, Some(Duration::from_mins(1)));
    }
}

#[tokio::test]
async fn statuses_stand_in_the_order_of_their_descriptors() {
    let limiter = Limiter::new(RULES);
    let answer = limiter
        .ask(&[
            "tenant=banned",
            "nothing=here",
            "tenant=a",
            "tenant=free",
            "tenant=watched",
        ])
        .await;
    assert!(answer.over_limit, "one refusal refuses the request");
    let over: Vec<bool> = answer
        .statuses
        .iter()
        .map(|status| status.over_limit)
        .collect();
    assert_eq!(over, [true, false, false, false, false]);
    let remaining: Vec<u32> = answer
        .statuses
        .iter()
        .map(|status| status.remaining)
        .collect();
    assert_eq!(remaining, [0, 0, 2, u32::MAX, 0]);
    let limited: Vec<bool> = answer
        .statuses
        .iter()
        .map(|status| status.limit.is_some())
        .collect();
    assert_eq!(limited, [true, false, true, false, true]);
}

#[tokio::test]
async fn a_refused_request_is_counted_everywhere() {
    let limiter = Limiter::new(RULES);
    assert!(limiter.ask(&["tenant=a", "tenant=banned"]).await.over_limit);
    assert_eq!(limiter.status("tenant=a").await.remaining, 1);
}

#[tokio::test]
async fn every_tenant_has_its_own_window_and_a_request_to_two_of_them_needs_both() {
    let limiter = Limiter::new(RULES);
    assert!(limiter.passes("tenant=a @3").await);
    assert!(limiter.passes("tenant=b @3").await);
    let answer = limiter.ask(&["tenant=a", "tenant=c"]).await;
    assert!(answer.over_limit);
    assert_eq!(
        answer.statuses,
        [per_tenant(true, 0, 60), per_tenant(false, 2, 60)]
    );
}

#[tokio::test]
async fn two_descriptors_of_one_bucket_are_both_counted() {
    let limiter = Limiter::new(RULES);
    let answer = limiter.ask(&["tenant=a @2", "tenant=a @2"]).await;
    assert!(answer.over_limit);
    let over: Vec<bool> = answer
        .statuses
        .iter()
        .map(|status| status.over_limit)
        .collect();
    assert_eq!(over, [false, true]);
}
