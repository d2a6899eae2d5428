//! Rules that do not simply refuse: quotas that vote, limits that replace others, limits that a
//! request brings along.

use std::time::Duration;

use tollgate::rules::Unit;
use tollgate::service::{Request, RequestError, RequestedLimit, Status};

use crate::support::limiter::{Limiter, request};

const QUOTAS: &str = "
descriptors:
  - { key: q, quota_mode: true, rate_limit: { unit: hour, requests_per_unit: 1 } }
  - { key: h, rate_limit: { unit: hour, requests_per_unit: 1 } }
";

#[tokio::test]
async fn a_quota_alone_is_a_limit_like_any_other() {
    let limiter = Limiter::new(QUOTAS);
    assert!(limiter.passes("q=a").await);
    assert!(!limiter.passes("q=a").await);
}

#[tokio::test]
async fn of_several_quotas_one_with_room_is_enough() {
    let limiter = Limiter::new(QUOTAS);
    limiter.ask(&["q=a"]).await;
    let answer = limiter.ask(&["q=a", "q=b"]).await;
    assert!(!answer.over_limit);
    let over: Vec<bool> = answer
        .statuses
        .iter()
        .map(|status| status.over_limit)
        .collect();
    assert_eq!(
        over,
        [true, false],
        "a failed quota is told, also where it refuses nobody"
    );
    assert!(
        limiter.ask(&["q=a", "q=b"]).await.over_limit,
        "now both are used up"
    );
}

#[tokio::test]
async fn quotas_and_limits_vote_apart() {
    let limiter = Limiter::new(QUOTAS);
    limiter.ask(&["q=a"]).await;
    assert!(
        limiter.ask(&["q=a", "h=x"]).await.over_limit,
        "all quotas fail, the limit passes"
    );
    limiter.ask(&["h=y"]).await;
    assert!(
        limiter.ask(&["q=b", "h=y"]).await.over_limit,
        "the limit fails, the quota passes"
    );
    assert!(!limiter.ask(&["q=c", "h=z"]).await.over_limit);
    assert!(!limiter.ask(&["q=a", "q=d", "h=w"]).await.over_limit);
}

#[tokio::test]
async fn a_quota_that_refuses_nobody_delays_nobody() {
    let limiter = Limiter::new(
        "
answer: { headers: [retry-after] }
descriptors:
  - { key: q, quota_mode: true, limits: [{ name: q, rate: 1/hour }] }
  - { key: h, limits: [{ name: h, rate: 1/minute }] }
",
    );
    limiter.ask(&["q=a", "h=x"]).await;
    let answer = limiter.ask(&["q=a", "q=b", "h=x"]).await;
    assert_eq!(
        answer.headers,
        [("retry-after", "60".to_owned())],
        "q=b has room all the while"
    );
    limiter.ask(&["q=b"]).await;
    limiter.advance(Duration::from_mins(20));
    limiter.ask(&["q=c"]).await;
    let answer = limiter.ask(&["q=a", "q=c", "h=x"]).await;
    assert_eq!(
        answer.headers,
        [("retry-after", "2400".to_owned())],
        "the first quota with room"
    );
}

const REPLACING: &str = "
descriptors:
  - key: tenant
    rate_limit: { name: general, unit: hour, requests_per_unit: 1 }
  - key: plan
    rate_limit: { name: gold, unit: hour, requests_per_unit: 5, replaces: [{ name: general }] }
  - key: plan
    value: free-for-all
    rate_limit: { unlimited: true, replaces: [{ name: general }, { name: gold }] }
";

#[tokio::test]
async fn a_replaced_limit_is_as_if_there_were_none() {
    let limiter = Limiter::new(REPLACING);
    for remaining in [4, 3, 2] {
        let answer = limiter.ask(&["tenant=a", "plan=gold"]).await;
        assert!(!answer.over_limit);
        assert_eq!(answer.statuses[0], Status::default());
        assert_eq!(answer.statuses[1].remaining, remaining);
    }
    assert!(
        limiter.passes("tenant=a").await,
        "nothing was counted while it was replaced"
    );
    assert!(!limiter.passes("tenant=a").await);
}

#[tokio::test]
async fn the_order_of_descriptors_does_not_matter_and_unlimited_replaces_too() {
    let limiter = Limiter::new(REPLACING);
    limiter.ask(&["tenant=a"]).await;
    assert!(!limiter.ask(&["plan=gold", "tenant=a"]).await.over_limit);
    let answer = limiter
        .ask(&["tenant=a", "plan=free-for-all", "plan=gold"])
        .await;
    assert!(!answer.over_limit);
    let remaining: Vec<u32> = answer
        .statuses
        .iter()
        .map(|status| status.remaining)
        .collect();
    assert_eq!(remaining, [0, u32::MAX, 0]);
}

#[tokio::test]
async fn limits_replace_limits_by_name() {
    let limiter = Limiter::new(
        "
descriptors:
  - key: tenant
    limits:
      - { name: requests, rate: 1/hour }
      - { name: tokens, rate: 1000/hour, cost: tokens }
  - key: vip
    limits: [{ name: vip-requests, rate: 100/hour, replaces: [requests] }]
",
    );
    limiter.ask(&["tenant=a"]).await;
    assert!(!limiter.passes("tenant=a").await);
    assert!(!limiter.ask(&["tenant=a @400", "vip=a"]).await.over_limit);
    assert!(
        limiter.ask(&["tenant=a @700", "vip=a"]).await.over_limit,
        "tokens are not replaced"
    );
}

fn with_override(descriptor: &str, limit: RequestedLimit) -> Request<'_> {
    let mut request = request(&[descriptor]);
    request.descriptors[0].limit = Some(limit);
    request
}

#[tokio::test]
async fn a_limit_that_the_request_brings_takes_the_place_of_the_rules() {
    let limiter = Limiter::new(QUOTAS);
    let own = RequestedLimit {
        requests_per_unit: 2,
        unit: Some(Unit::Minute),
    };
    for descriptor in ["h=a", "unheard=of"] {
        for (over_limit, remaining) in [(false, 1), (false, 0), (true, 0)] {
            let answer = limiter.answer(&with_override(descriptor, own)).await;
            assert_eq!(answer.over_limit, over_limit, "{descriptor}");
            let status = &answer.statuses[0];
            assert_eq!(
                (status.over_limit, status.remaining),
                (over_limit, remaining)
            );
            assert_eq!(status.reset, Some(Duration::from_mins(1)));
            let limit = status.limit.as_ref().expect("it applies");
            assert_eq!((limit.requests_per_unit, limit.unit), (2, Unit::Minute));
            assert_eq!(limit.name, "");
        }
    }
    assert!(
        limiter.passes("h=a").await,
        "the rule's own bucket was not touched"
    );
}

#[tokio::test]
async fn a_limit_brought_along_keeps_its_bucket_when_its_amount_changes() {
    let limiter = Limiter::new(QUOTAS);
    let per_hour = |amount| RequestedLimit {
        requests_per_unit: amount,
        unit: Some(Unit::Hour),
    };
    limiter.answer(&with_override("h=a", per_hour(5))).await;
    let answer = limiter.answer(&with_override("h=a", per_hour(10))).await;
    assert_eq!(answer.statuses[0].remaining, 8);
}

#[tokio::test]
async fn a_limit_brought_along_without_a_known_unit_is_an_error_and_nothing_worse() {
    let limiter = Limiter::new(QUOTAS);
    let unknown = RequestedLimit {
        requests_per_unit: 2,
        unit: None,
    };
    let answer = limiter
        .service
        .should_rate_limit(&with_override("h=a", unknown))
        .await;
    assert_eq!(answer, Err(RequestError::UnknownUnit));
    assert!(
        limiter.passes("h=a").await,
        "and the next request is answered"
    );
}
