//! Reservations: what was charged at admission becomes what was used.

use std::time::Duration;

use tollgate::service::{Answer, Options};

use crate::support::limiter::{Limiter, metadata};

const RULES: &str = "
descriptors:
  - key: k
    limits:
      - { name: requests, rate: 100/hour }
      - { name: tokens, rate: 10k/hour, cost: tokens, estimate: 800 }
      - { name: weighted, rate: 10k/hour, cost: { input_tokens: 1, output_tokens: 5 }, estimate: 900, missing_usage: release }
  - key: plain
    limits: [{ name: requests, rate: 100/hour }]
  - key: theirs
    rate_limit: { unit: hour, requests_per_unit: 100 }
";

fn reservation(answer: &Answer) -> String {
    metadata(answer, "reservation")
        .expect("a reservation")
        .to_owned()
}

/// What the buckets of `k=a` have given: requests, tokens, weighted.
async fn taken(limiter: &Limiter) -> [i64; 3] {
    [
        100 - limiter.level("k=a", "requests").await,
        10_000 - limiter.level("k=a", "tokens").await,
        10_000 - limiter.level("k=a", "weighted").await,
    ]
}

/// What Envoy's stream-done call sends: nothing of it but control entries.
async fn settle(limiter: &Limiter, id: &str, parts: &[&str]) {
    let report = |part: &&str| format!("tollgate.phase=report tollgate.id={id} {part}");
    let descriptors: Vec<String> = parts.iter().map(report).collect();
    let descriptors: Vec<&str> = descriptors.iter().map(String::as_str).collect();
    assert!(
        !limiter.ask(&descriptors).await.over_limit,
        "a report is never refused"
    );
}

#[tokio::test]
async fn an_id_is_handed_out_where_a_report_can_change_something_or_the_caller_named_one() {
    let limiter = Limiter::new(RULES);
    for descriptor in ["k=a", "k=a @10", "k=a tollgate.input_tokens=5"] {
        let id = reservation(&limiter.ask(&[descriptor]).await);
        assert_eq!(id.len(), 22, "{descriptor}: {id}");
    }
    for descriptor in ["plain=a", "theirs=a", "unknown=a", "k=a @-10", "k=a @10001"] {
        let answer = limiter.ask(&[descriptor]).await;
        assert_eq!(metadata(&answer, "reservation"), None, "{descriptor}");
        assert_eq!(metadata(&answer, "reserved"), None, "{descriptor}");
    }
    let answer = limiter.ask(&["plain=a tollgate.id=mine"]).await;
    assert_eq!(reservation(&answer), "mine");
}

#[tokio::test]
async fn no_two_admissions_get_the_same_id() {
    let limiter = Limiter::new(RULES);
    let (first, second) = (limiter.ask(&["k=a"]).await, limiter.ask(&["k=a"]).await);
    assert_ne!(reservation(&first), reservation(&second));
}

#[tokio::test]
async fn measures_replace_the_estimate_of_each_limit_by_its_own_formula() {
    let limiter = Limiter::new(RULES);
    let id = reservation(&limiter.ask(&["k=a"]).await);
    assert_eq!(taken(&limiter).await, [1, 800, 900]);
    settle(
        &limiter,
        &id,
        &[
            "tollgate.measure=input_tokens @11",
            "tollgate.measure=output_tokens @31",
            "@0",
        ],
    )
    .await;
    assert_eq!(taken(&limiter).await, [1, 42, 11 + 5 * 31]);
}

#[tokio::test]
async fn one_measure_alone_is_a_complete_report() {
    let limiter = Limiter::new(RULES);
    let id = reservation(&limiter.ask(&["k=a"]).await);
    settle(&limiter, &id, &["tollgate.measure=output_tokens @31"]).await;
    assert_eq!(taken(&limiter).await, [1, 31, 155]);
}

#[tokio::test]
async fn a_total_replaces_every_estimate_as_it_is() {
    let limiter = Limiter::new(RULES);
    let id = reservation(&limiter.ask(&["k=a"]).await);
    settle(&limiter, &id, &["@42", "@0"]).await;
    assert_eq!(taken(&limiter).await, [1, 42, 42]);
}

#[tokio::test]
async fn without_usage_each_limit_keeps_or_releases_its_estimate() {
    let limiter = Limiter::new(RULES);
    let id = reservation(&limiter.ask(&["k=a"]).await);
    settle(&limiter, &id, &["tollgate.outcome=via_upstream @0"]).await;
    assert_eq!(taken(&limiter).await, [1, 800, 0]);
    settle(&limiter, &id, &["@42"]).await;
    assert_eq!(
        taken(&limiter).await,
        [1, 42, 42],
        "another way in found it"
    );
    settle(&limiter, &id, &["@7"]).await;
    assert_eq!(taken(&limiter).await, [1, 42, 42]);
}

#[tokio::test]
async fn settling_twice_changes_nothing() {
    let limiter = Limiter::new(RULES);
    let id = reservation(&limiter.ask(&["k=a"]).await);
    for total in ["@42", "@42", "@5000"] {
        settle(&limiter, &id, &[total]).await;
        assert_eq!(taken(&limiter).await, [1, 42, 42]);
    }
    assert_eq!(
        limiter.series("tollgate_reports_total{result=\"settled\",source=\"envoy\"}"),
        1
    );
    assert_eq!(
        limiter.series("tollgate_reports_total{result=\"already_settled\",source=\"envoy\"}"),
        2
    );
}

#[tokio::test]
async fn a_real_cost_above_the_level_leaves_a_debt_that_admission_waits_for() {
    let limiter = Limiter::new(RULES);
    let id = reservation(&limiter.ask(&["k=a"]).await);
    settle(&limiter, &id, &["@30000"]).await;
    assert_eq!(limiter.level("k=a", "tokens").await, -20_000);
    assert!(!limiter.passes("k=a").await);
    limiter.advance(Duration::from_hours(2));
    assert!(
        !limiter.passes("k=a @1").await,
        "paid for, but nothing is there yet"
    );
    limiter.advance(Duration::from_millis(360));
    assert!(limiter.passes("k=a @1").await);
}

#[tokio::test]
async fn a_settlement_gives_back_no_more_than_the_bucket_holds() {
    let limiter = Limiter::new(RULES);
    let id = reservation(&limiter.ask(&["k=a"]).await);
    limiter.advance(Duration::from_mins(30));
    settle(&limiter, &id, &["@1"]).await;
    assert_eq!(
        taken(&limiter).await,
        [0, 0, 0],
        "the refill had given it back already"
    );
}

#[tokio::test]
async fn what_a_shadowed_limit_did_not_take_is_not_given_back() {
    let limiter = Limiter::new(
        "
descriptors:
  - key: k
    limits:
      - { name: trial, rate: 1000/hour, cost: tokens, estimate: 800, shadow_mode: true }
      - { name: real, rate: 10k/hour, cost: tokens, estimate: 800 }
",
    );
    limiter.ask(&["k=a"]).await;
    let id = reservation(&limiter.ask(&["k=a"]).await);
    assert_eq!(
        limiter.level("k=a", "trial").await,
        200,
        "the second did not fit"
    );
    settle(&limiter, &id, &["@50"]).await;
    assert_eq!(
        limiter.level("k=a", "trial").await,
        150,
        "what was used was used"
    );
    assert_eq!(limiter.level("k=a", "real").await, 9150);
}

#[tokio::test]
async fn what_no_upstream_was_asked_for_is_given_back() {
    let limiter = Limiter::new(RULES);
    for (outcome, left) in [
        ("request_rate_limited", [0, 0, 0]),
        (
            "upstream_reset_before_response_started{remote_connection_failure|111}",
            [0, 0, 0],
        ),
        ("via_upstream", [1, 800, 0]),
    ] {
        let id = reservation(&limiter.ask(&["k=a"]).await);
        settle(&limiter, &id, &[&format!("tollgate.outcome={outcome} @0")]).await;
        assert_eq!(taken(&limiter).await, left, "{outcome}");
    }
    // What was counted was used, whoever answered.
    let id = reservation(&limiter.ask(&["k=a"]).await);
    let used = "tollgate.outcome=no_healthy_upstream tollgate.measure=output_tokens @7";
    settle(&limiter, &id, &[used]).await;
    assert_eq!(taken(&limiter).await, [2, 807, 35]);
}

#[tokio::test]
async fn a_reservation_is_known_in_its_own_domain_only() {
    let limiter = Limiter::without_rules();
    limiter.install(&[
        &format!("domain: llm\n{RULES}"),
        "domain: other\ndescriptors: [{ key: k, limits: [{ name: r, rate: 9/hour }] }]",
    ]);
    let id = reservation(&limiter.ask(&["k=a"]).await);
    let elsewhere = format!("tollgate.phase=report tollgate.id={id} @42");
    let mut report = crate::support::limiter::request(&[&elsewhere]);
    report.domain = "other";
    limiter.answer(&report).await;
    assert_eq!(taken(&limiter).await, [1, 800, 900]);
    assert_eq!(
        limiter.series("tollgate_reports_total{result=\"unknown_id\",source=\"envoy\"}"),
        1
    );
    settle(&limiter, &id, &["@42"]).await;
    assert_eq!(taken(&limiter).await, [1, 42, 42]);
}

#[tokio::test]
async fn a_refused_request_leaves_no_reservation() {
    let limiter = Limiter::new(RULES);
    let refused = limiter.ask(&["k=a tollgate.id=mine @10001"]).await;
    assert!(refused.over_limit);
    assert_eq!(metadata(&refused, "reservation"), None);
    settle(&limiter, "mine", &["@42"]).await;
    assert_eq!(taken(&limiter).await, [0, 0, 0]);
    let admitted = limiter.ask(&["k=a tollgate.id=mine @10"]).await;
    assert_eq!(
        reservation(&admitted),
        "mine",
        "the id is free for the next try"
    );
}

#[tokio::test]
async fn a_reservation_that_nobody_settles_is_forgotten_with_its_charge_kept() {
    let limiter = Limiter::new(RULES);
    let id = reservation(&limiter.ask(&["k=a @9000"]).await);
    limiter.service.tidy().await;
    assert_eq!(limiter.series("tollgate_reservations_open"), 1);
    let hold_time = Options::default().hold_time;
    limiter.advance(hold_time);
    limiter.service.tidy().await;
    assert_eq!(limiter.series("tollgate_reservations_open"), 0);
    assert_eq!(
        limiter.series("tollgate_reservations_expired_total{cause=\"unreported\"}"),
        1
    );
    limiter.advance(hold_time);
    settle(&limiter, &id, &["@1"]).await;
    assert_eq!(
        limiter.series("tollgate_reports_total{result=\"unknown_id\",source=\"envoy\"}"),
        1
    );
}

#[tokio::test]
async fn a_reservation_outlives_the_rules_that_made_it() {
    let limiter = Limiter::new(RULES);
    let id = reservation(&limiter.ask(&["k=a"]).await);
    limiter.install(&["domain: llm\ndescriptors: [{ key: other }]"]);
    settle(&limiter, &id, &["@42"]).await;
    limiter.install(&[&format!("domain: llm\n{RULES}")]);
    assert_eq!(taken(&limiter).await, [1, 42, 42]);
}

#[tokio::test]
async fn two_descriptors_on_one_bucket_are_reserved_and_settled_as_one_request() {
    // A virtual host and a route that name the same tenant.
    let limiter = Limiter::new(RULES);
    let id = reservation(&limiter.ask(&["k=a", "k=a"]).await);
    assert_eq!(taken(&limiter).await, [2, 800, 900]);
    settle(&limiter, &id, &["tollgate.measure=input_tokens @1000"]).await;
    assert_eq!(taken(&limiter).await, [2, 1000, 1000]);

    // Each says what it costs: both are taken, and the report still replaces them once.
    let limiter = Limiter::new(RULES);
    let id = reservation(&limiter.ask(&["k=a @300", "k=a @300"]).await);
    assert_eq!(taken(&limiter).await, [2, 600, 600]);
    settle(&limiter, &id, &["tollgate.measure=input_tokens @1000"]).await;
    assert_eq!(taken(&limiter).await, [2, 1000, 1000]);
}
