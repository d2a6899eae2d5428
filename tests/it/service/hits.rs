//! How much a request counts under `rate_limit:`: addends, looks, refunds.

use tollgate::service::{MAX_ADDEND, Request};

use crate::support::limiter::{Limiter, request};

const TEN: &str = "
descriptors:
  - { key: k, rate_limit: { unit: hour, requests_per_unit: 10 } }
";

fn with_addend<'a>(descriptors: &[&'a str], hits_addend: u32) -> Request<'a> {
    Request {
        hits_addend,
        ..request(descriptors)
    }
}

#[tokio::test]
async fn the_descriptors_addend_beats_the_requests_which_beats_one() {
    let limiter = Limiter::new(TEN);
    let answer = limiter
        .answer(&with_addend(&["k=own @3", "k=requests"], 5))
        .await;
    assert_eq!(answer.statuses[0].remaining, 7);
    assert_eq!(answer.statuses[1].remaining, 5);
    let answer = limiter.answer(&with_addend(&["k=none"], 0)).await;
    assert_eq!(
        answer.statuses[0].remaining, 9,
        "a request-level addend of 0 counts one"
    );
}

#[tokio::test]
async fn an_addend_of_zero_looks_and_passes_as_long_as_the_count_is_not_above_the_limit() {
    let limiter = Limiter::new(TEN);
    for expected in [10, 10] {
        let status = limiter.status("k=a @0").await;
        assert_eq!((status.over_limit, status.remaining), (false, expected));
    }
    assert!(limiter.passes("k=a @10").await);
    let status = limiter.status("k=a @0").await;
    assert_eq!(
        (status.over_limit, status.remaining),
        (false, 0),
        "count == limit"
    );
    assert!(!limiter.passes("k=a @1").await);
    assert!(
        !limiter.passes("k=a @0").await,
        "count > limit: a refused hit is counted too"
    );
}

#[tokio::test]
async fn a_descriptors_zero_looks_although_the_request_has_an_addend() {
    let limiter = Limiter::new(TEN);
    let answer = limiter.answer(&with_addend(&["k=a @0"], 5)).await;
    assert_eq!(answer.statuses[0].remaining, 10);
}

/// Envoy Gateway asks with an addend of 0, and adds the cost of the answer with a second call.
#[tokio::test]
async fn checking_first_and_charging_afterwards_lets_the_last_answer_into_debt() {
    let limiter = Limiter::new(
        "
descriptors:
  - { key: k, rate_limit: { unit: hour, requests_per_unit: 21 } }
",
    );
    let mut passed = 0;
    for _ in 0..4 {
        if limiter.passes("k=a @0").await {
            passed += 1;
            // Nobody reads this answer, and it charges whatever it says.
            limiter.ask(&["k=a @10"]).await;
        }
    }
    assert_eq!(passed, 3);
    assert!(!limiter.passes("k=a @0").await);
}

#[tokio::test]
async fn a_hit_that_crosses_the_limit_is_refused_and_added_in_full() {
    let limiter = Limiter::new(TEN);
    assert!(limiter.passes("k=a @8").await);
    let status = limiter.status("k=a @5").await;
    assert_eq!((status.over_limit, status.remaining), (true, 0));
    assert_eq!(limiter.level("k=a", "k").await, -3);
}

#[tokio::test]
async fn refunds_give_back_no_more_than_was_taken_and_are_never_over() {
    let limiter = Limiter::new(TEN);
    assert!(limiter.passes("k=a @10").await);
    assert!(!limiter.passes("k=a @10").await);
    assert_eq!(limiter.level("k=a", "k").await, -10);
    let status = limiter.status("k=a @-4").await;
    assert_eq!(
        (status.over_limit, status.remaining),
        (false, 0),
        "still in debt, never over"
    );
    let status = limiter.status("k=a @-1000000000").await;
    assert_eq!(
        (status.over_limit, status.remaining),
        (false, 10),
        "full, and no more than full"
    );
}

#[tokio::test]
async fn a_refund_without_an_addend_of_its_own_gives_back_the_requests() {
    let limiter = Limiter::new(TEN);
    assert!(limiter.passes("k=a @10").await);
    let mut refund = with_addend(&["k=a"], 4);
    refund.descriptors[0].refund = true;
    assert_eq!(limiter.answer(&refund).await.statuses[0].remaining, 4);
    refund.hits_addend = 0;
    assert_eq!(limiter.answer(&refund).await.statuses[0].remaining, 5);
}

#[tokio::test]
async fn a_refund_passes_beside_a_limit_that_is_over_only_for_itself() {
    let limiter = Limiter::new(TEN);
    assert!(limiter.passes("k=full @10").await);
    let answer = limiter.ask(&["k=full", "k=other @-1"]).await;
    assert!(answer.over_limit);
    let over: Vec<bool> = answer
        .statuses
        .iter()
        .map(|status| status.over_limit)
        .collect();
    assert_eq!(over, [true, false]);
}

#[tokio::test]
async fn an_addend_that_cannot_be_is_refused_where_a_limit_counts_it() {
    let limiter = Limiter::new(TEN);
    let nan = format!("k=a @{}", 1_u64 << 63);
    for addend in [nan.as_str(), "k=a @1000000001", "k=a @18446744073709551615"] {
        let answer = limiter.ask(&[addend]).await;
        assert!(answer.over_limit, "{addend}");
        assert!(answer.statuses[0].over_limit, "{addend}");
        assert_eq!(answer.headers, [], "trying again would not help");
    }
    assert!(
        limiter
            .answer(&with_addend(&["k=a"], u32::MAX))
            .await
            .over_limit
    );
    assert_eq!(limiter.level("k=a", "k").await, 10, "and takes nothing");
    let largest = format!("k=a @{MAX_ADDEND}");
    assert_eq!(limiter.status(&largest).await.remaining, 0);
    assert_eq!(
        limiter.level("k=a", "k").await,
        10 - MAX_ADDEND.cast_signed()
    );
}

#[tokio::test]
async fn an_addend_that_cannot_be_is_nobodys_business_where_no_limit_counts_it() {
    let limiter = Limiter::new(
        "
descriptors:
  - { key: free, rate_limit: { unlimited: true } }
  - { key: watched, shadow_mode: true, rate_limit: { unit: hour, requests_per_unit: 1 } }
  - { key: requests, limits: [{ name: r, rate: 5/hour, cost: requests }] }
  - { key: replaced, rate_limit: { name: old, unit: hour, requests_per_unit: 1 } }
  - { key: new, rate_limit: { name: new, unit: hour, requests_per_unit: 5, replaces: [{ name: old }] } }
",
    );
    let nan = 1_u64 << 63;
    for key in ["unknown", "free", "watched", "requests"] {
        assert!(limiter.passes(&format!("{key}=a @{nan}")).await, "{key}");
    }
    let replaced = format!("replaced=a @{nan}");
    assert!(!limiter.ask(&[&replaced, "new=a"]).await.over_limit);
    assert!(limiter.ask(&[&replaced]).await.over_limit);
}

#[tokio::test]
async fn a_bad_addend_in_one_descriptor_leaves_the_others_uncharged() {
    let limiter = Limiter::new(TEN);
    let answer = limiter
        .ask(&["k=good @4", "k=bad @9223372036854775808"])
        .await;
    assert!(answer.over_limit);
    let over: Vec<bool> = answer
        .statuses
        .iter()
        .map(|status| status.over_limit)
        .collect();
    assert_eq!(over, [false, true]);
    assert_eq!(limiter.level("k=good", "k").await, 10);
}
