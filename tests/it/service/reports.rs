//! Reports that find no reservation: too early, without an id, with an id that nobody knows.

use crate::support::limiter::{Limiter, metadata, request};

const RULES: &str = "
descriptors:
  - key: k
    rate_limit: { name: hits, unit: hour, requests_per_unit: 1000 }
    limits:
      - { name: requests, rate: 100/hour }
      - { name: tokens, rate: 10k/hour, cost: tokens, estimate: 800 }
";

/// What the buckets of `k=a` have given: hits, requests, tokens.
async fn taken(limiter: &Limiter) -> [i64; 3] {
    [
        1000 - limiter.level("k=a", "hits").await,
        100 - limiter.level("k=a", "requests").await,
        10_000 - limiter.level("k=a", "tokens").await,
    ]
}

fn reports(limiter: &Limiter, result: &str) -> u64 {
    limiter.series(&format!(
        "tollgate_reports_total{{result=\"{result}\",source=\"envoy\"}}"
    ))
}

#[tokio::test]
async fn without_an_id_what_was_used_is_charged_and_the_request_itself_is_not() {
    let limiter = Limiter::new(RULES);
    limiter
        .ask(&["k=a tollgate.phase=report tollgate.measure=output_tokens @31"])
        .await;
    assert_eq!(taken(&limiter).await, [0, 0, 31]);
    limiter.ask(&["k=a tollgate.phase=report @42"]).await;
    assert_eq!(
        taken(&limiter).await,
        [42, 0, 73],
        "an addend is the cost of hits too"
    );
    assert_eq!(reports(&limiter, "charged"), 2);
}

#[tokio::test]
async fn one_descriptor_for_each_measure_is_charged_once() {
    let limiter = Limiter::new(RULES);
    let answer = limiter
        .ask(&[
            "k=a tollgate.phase=report tollgate.measure=input_tokens @11",
            "k=a tollgate.phase=report tollgate.measure=output_tokens @31",
            "k=a tollgate.phase=report @0",
        ])
        .await;
    assert_eq!(answer.statuses.len(), 3);
    assert_eq!(taken(&limiter).await, [0, 0, 42]);
}

#[tokio::test]
async fn a_report_is_never_refused_and_leaves_a_debt() {
    let limiter = Limiter::new(RULES);
    let answer = limiter.ask(&["k=a tollgate.phase=report @1000000"]).await;
    assert!(!answer.over_limit);
    assert_eq!(taken(&limiter).await, [1_000_000, 0, 1_000_000]);
}

#[tokio::test]
async fn a_report_can_give_back() {
    let limiter = Limiter::new(RULES);
    limiter.ask(&["k=a @100"]).await;
    limiter.ask(&["k=a tollgate.phase=report @-30"]).await;
    assert_eq!(taken(&limiter).await, [70, 1, 70]);
}

#[tokio::test]
async fn a_report_that_comes_before_its_admission_is_charged_once() {
    let limiter = Limiter::new(RULES);
    let report = "k=a tollgate.phase=report tollgate.id=r1 tollgate.measure=output_tokens @31";
    limiter.ask(&[report]).await;
    assert_eq!(taken(&limiter).await, [0, 0, 31]);
    limiter.ask(&[report]).await;
    assert_eq!(
        taken(&limiter).await,
        [0, 0, 31],
        "twice reported, once charged"
    );

    let answer = limiter.ask(&["k=a tollgate.id=r1"]).await;
    assert_eq!(metadata(&answer, "reservation"), Some("r1"));
    assert_eq!(
        taken(&limiter).await,
        [1, 1, 31],
        "its tokens were charged before"
    );
    limiter.ask(&[report]).await;
    assert_eq!(taken(&limiter).await, [1, 1, 31]);
}

#[tokio::test]
async fn an_unknown_id_charges_where_the_descriptors_say_so_and_nothing_else() {
    let limiter = Limiter::new(RULES);
    limiter
        .ask(&["tollgate.phase=report tollgate.id=lost @42"])
        .await;
    assert_eq!(taken(&limiter).await, [0, 0, 0]);
    assert_eq!(reports(&limiter, "unknown_id"), 1);
    limiter
        .ask(&["k=a tollgate.phase=report tollgate.id=lost @42"])
        .await;
    assert_eq!(taken(&limiter).await, [42, 0, 42]);
    assert_eq!(reports(&limiter, "charged"), 1);
}

#[tokio::test]
async fn a_report_of_nothing_is_told_apart() {
    let limiter = Limiter::new(RULES);
    limiter.ask(&["k=a tollgate.phase=report @0"]).await;
    assert_eq!(reports(&limiter, "without_usage"), 1);
    limiter
        .ask(&["k=a tollgate.phase=report tollgate.output_tokens=many"])
        .await;
    limiter
        .ask(&["k=a tollgate.phase=report @9223372036854775808"])
        .await;
    assert_eq!(reports(&limiter, "invalid"), 2);
    assert_eq!(taken(&limiter).await, [0, 0, 0]);
}

#[tokio::test]
async fn a_report_that_nothing_was_sent_gives_the_estimate_back() {
    let limiter = Limiter::new(RULES);
    for (id, outcome, tokens) in [
        ("r1", "no_healthy_upstream", 0),
        ("r2", "upstream_response_timeout", 800),
    ] {
        limiter.ask(&[&format!("k=a tollgate.id={id}")]).await;
        let report =
            format!("tollgate.phase=report tollgate.id={id} tollgate.outcome={outcome} @0");
        limiter.ask(&[&report]).await;
        assert_eq!(taken(&limiter).await[2], tokens, "{outcome}");
    }
    // What was counted is charged, whatever the outcome.
    limiter.ask(&["k=a tollgate.id=r3"]).await;
    limiter
        .ask(&["tollgate.phase=report tollgate.id=r3 tollgate.outcome=direct_response tollgate.output_tokens=31"])
        .await;
    assert_eq!(taken(&limiter).await[2], 831);
}

#[tokio::test]
async fn a_bad_count_does_not_use_up_the_reservation() {
    let limiter = Limiter::new(RULES);
    limiter.ask(&["k=a tollgate.id=r1"]).await;
    limiter
        .ask(&["tollgate.phase=report tollgate.id=r1 tollgate.output_tokens=-1"])
        .await;
    assert_eq!(taken(&limiter).await, [1, 1, 800]);
    limiter
        .ask(&["tollgate.phase=report tollgate.id=r1 tollgate.output_tokens=31"])
        .await;
    assert_eq!(taken(&limiter).await, [1, 1, 31]);
}

#[tokio::test]
async fn a_report_for_an_unknown_domain_is_answered() {
    let limiter = Limiter::new(RULES);
    let mut report = request(&["k=a tollgate.phase=report @42"]);
    report.domain = "elsewhere";
    assert!(!limiter.answer(&report).await.over_limit);
}
