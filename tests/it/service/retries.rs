//! The same request twice: tries of one call carry one request id, and count once.

use std::time::Duration;

use tollgate::service::{Answer, Request};

use crate::support::limiter::{Limiter, metadata, request};

const RULES: &str = "
descriptors:
  - key: k
    limits:
      - { name: requests, rate: 2/hour }
      - { name: tokens, rate: 10k/hour, cost: tokens, estimate: 800 }
  - key: theirs
    rate_limit: { unit: hour, requests_per_unit: 2 }
";

fn with_id<'a>(descriptor: &'a str, request_id: &'a str) -> Request<'a> {
    Request {
        request_id: Some(request_id),
        ..request(&[descriptor])
    }
}

async fn ask(limiter: &Limiter, descriptor: &str, request_id: &str) -> Answer {
    limiter.answer(&with_id(descriptor, request_id)).await
}

#[tokio::test]
async fn tries_of_one_call_count_once_and_are_told_the_same() {
    let limiter = Limiter::new(RULES);
    let first = ask(&limiter, "k=a", "x-1").await;
    let second = ask(&limiter, "k=a", "x-1").await;
    assert_eq!(first, second);
    assert_eq!(metadata(&first, "reserved"), Some("800"));
    assert_eq!(limiter.level("k=a", "requests").await, 1);
    assert_eq!(limiter.level("k=a", "tokens").await, 9200);
    let id = metadata(&second, "reservation").expect("the reservation of the first");
    limiter
        .ask(&[&format!("tollgate.phase=report tollgate.id={id} @42")])
        .await;
    assert_eq!(limiter.level("k=a", "tokens").await, 9958);
}

#[tokio::test]
async fn a_try_that_would_not_fit_once_more_was_admitted_all_the_same() {
    let limiter = Limiter::new(RULES);
    ask(&limiter, "k=a", "x-1").await;
    let last = ask(&limiter, "k=a", "x-2").await;
    let again = ask(&limiter, "k=a", "x-2").await;
    assert!(!last.over_limit && !again.over_limit);
    assert_eq!(
        last.statuses, again.statuses,
        "and its status does not say otherwise"
    );
    assert!(ask(&limiter, "k=a", "x-3").await.over_limit);
}

#[tokio::test]
async fn limits_of_the_reference_count_a_try_once_too() {
    let limiter = Limiter::new(RULES);
    for _ in 0..5 {
        assert_eq!(
            ask(&limiter, "theirs=a", "x-1").await.statuses[0].remaining,
            1
        );
    }
    let answer = ask(&limiter, "theirs=a", "x-1").await;
    assert_eq!(
        metadata(&answer, "reservation"),
        None,
        "there is nothing to settle"
    );
    assert_eq!(limiter.series("tollgate_reservations_opened_total"), 0);
    limiter.advance(Duration::from_mins(1));
    let later = ask(&limiter, "theirs=a", "x-1").await;
    assert_eq!(
        later.statuses[0].remaining, 0,
        "a minute later it is no retry"
    );
}

#[tokio::test]
async fn another_request_with_the_same_request_id_counts() {
    let limiter = Limiter::new(RULES);
    ask(&limiter, "k=a @100", "x-1").await;
    ask(&limiter, "k=a @101", "x-1").await;
    ask(&limiter, "k=b @100", "x-1").await;
    assert_eq!(limiter.level("k=a", "tokens").await, 9799);
    assert_eq!(limiter.level("k=b", "tokens").await, 9900);
}

#[tokio::test]
async fn a_refused_try_is_asked_again() {
    let limiter = Limiter::new(RULES);
    ask(&limiter, "k=a", "x-1").await;
    ask(&limiter, "k=a", "x-2").await;
    assert!(ask(&limiter, "k=a", "x-3").await.over_limit);
    assert!(ask(&limiter, "k=a", "x-3").await.over_limit);
    limiter.advance(Duration::from_mins(30));
    assert!(!ask(&limiter, "k=a", "x-3").await.over_limit);
}

#[tokio::test]
async fn a_caller_who_names_the_reservation_is_recognised_by_that_name() {
    let limiter = Limiter::new(RULES);
    let first = limiter.ask(&["k=a tollgate.id=mine"]).await;
    let second = limiter.ask(&["k=a tollgate.id=mine"]).await;
    assert_eq!(first, second);
    assert_eq!(limiter.level("k=a", "requests").await, 1);
}

#[tokio::test]
async fn a_report_that_is_sent_twice_is_charged_once() {
    let limiter = Limiter::new(RULES);
    let report = "k=a tollgate.phase=report tollgate.measure=output_tokens @31";
    ask(&limiter, report, "x-1").await;
    ask(&limiter, report, "x-1").await;
    assert_eq!(limiter.level("k=a", "tokens").await, 9969);
    ask(&limiter, report, "x-2").await;
    assert_eq!(limiter.level("k=a", "tokens").await, 9938);
}

#[tokio::test]
async fn a_report_is_not_taken_for_a_try_of_its_admission() {
    let limiter = Limiter::new(RULES);
    ask(&limiter, "k=a @31", "x-1").await;
    ask(&limiter, "k=a tollgate.phase=report @31", "x-1").await;
    assert_eq!(limiter.level("k=a", "tokens").await, 10_000 - 62);
}
