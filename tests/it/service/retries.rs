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
  - key: learns
    limits:
      - { name: learned, rate: 1M/year, cost: tokens, estimate: learned, cold_start: 700 }
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

#[tokio::test]
async fn an_estimate_that_moved_since_the_first_try_makes_it_no_other_request() {
    let limiter = Limiter::new(RULES);
    let first = ask(&limiter, "learns=a", "x-1").await;
    assert_eq!(metadata(&first, "reserved"), Some("700"));
    for n in 0..20 {
        let request_id = format!("other-{n}");
        let answer = ask(&limiter, "learns=a", &request_id).await;
        let id = metadata(&answer, "reservation").expect("a reservation");
        limiter
            .ask(&[&format!("tollgate.phase=report tollgate.id={id} @30")])
            .await;
    }
    let level = limiter.level("learns=a", "learned").await;
    assert_eq!(level, 1_000_000 - 700 - 20 * 30);
    let opened = limiter.series("tollgate_reservations_opened_total");

    let second = ask(&limiter, "learns=a", "x-1").await;
    assert_eq!(
        metadata(&second, "reservation"),
        metadata(&first, "reservation")
    );
    assert_eq!(limiter.level("learns=a", "learned").await, level);
    assert_eq!(
        limiter.series("tollgate_reservations_opened_total"),
        opened,
        "no second reservation"
    );
    // What the request itself says is another matter: another filter asks for something else.
    ask(&limiter, "learns=a tollgate.input_tokens=50", "x-1").await;
    ask(&limiter, "learns=a tollgate.input_tokens=60", "x-1").await;
    assert_eq!(
        limiter.level("learns=a", "learned").await,
        level - 50 - 60,
        "both were charged, and the estimate is below them"
    );
}

#[tokio::test]
async fn reports_on_one_request_count_once_whatever_each_found() {
    let limiter = Limiter::new(RULES);
    let report = |tokens: u64| format!("k=a tollgate.phase=report tollgate.output_tokens={tokens}");
    ask(&limiter, &report(0), "x-1").await;
    ask(&limiter, &report(812), "x-1").await;
    ask(&limiter, &report(790), "x-1").await;
    assert_eq!(limiter.level("k=a", "tokens").await, 10_000 - 812);

    // The same buckets in whatever order, each charged; and buckets of another filter.
    let of = |descriptors: &[&'static str]| Request {
        request_id: Some("x-2"),
        ..request(descriptors)
    };
    let [k, learns] = [
        "k=a tollgate.phase=report tollgate.output_tokens=5",
        "learns=a",
    ];
    limiter.answer(&of(&[k, learns])).await;
    limiter.answer(&of(&[learns, k])).await;
    assert_eq!(limiter.level("k=a", "tokens").await, 10_000 - 817);
    assert_eq!(limiter.level("learns=a", "learned").await, 999_995);
    limiter.answer(&of(&[k])).await;
    assert_eq!(limiter.level("k=a", "tokens").await, 10_000 - 822);
}

#[tokio::test]
async fn a_report_that_gives_back_is_not_taken_for_one_that_charged() {
    let limiter = Limiter::new(RULES);
    ask(&limiter, "k=a tollgate.phase=report @31", "x-1").await;
    ask(&limiter, "k=a tollgate.phase=report @-11", "x-1").await;
    assert_eq!(limiter.level("k=a", "tokens").await, 10_000 - 20);
}
