//! What Prometheus sees of all this.

use crate::support::limiter::{Limiter, metadata, request, target};

const RULES: &str = "
descriptors:
  - key: k
    limits:
      - { name: requests, rate: 100/hour }
      - { name: tokens, rate: 1000/hour, cost: tokens, estimate: 100 }
      - { name: trial, rate: 50/hour, cost: tokens, shadow_mode: true }
  - key: theirs
    shadow_mode: true
    rate_limit: { unit: hour, requests_per_unit: 5 }
  - { key: q, quota_mode: true, limits: [{ name: quota, rate: 1/hour }] }
";

fn requests(limiter: &Limiter, result: &str) -> u64 {
    limiter.series(&format!(
        "tollgate_requests_total{{domain=\"llm\",result=\"{result}\"}}"
    ))
}

fn decisions(limiter: &Limiter, limit: &str) -> [u64; 3] {
    ["admitted", "refused", "shadowed"].map(|result| {
        let labels = format!("{{domain=\"llm\",limit=\"{limit}\",result=\"{result}\"}}");
        limiter.series(&format!("tollgate_decisions_total{labels}"))
    })
}

fn hits(limiter: &Limiter, limit: &str) -> [u64; 4] {
    ["admitted", "refused", "settled", "refunded"].map(|result| {
        let labels = format!("{{domain=\"llm\",limit=\"{limit}\",result=\"{result}\"}}");
        limiter.series(&format!("tollgate_hits_total{labels}"))
    })
}

#[tokio::test]
async fn every_series_of_a_configured_limit_exists_before_its_first_request() {
    let limiter = Limiter::new(RULES);
    let text = limiter.metrics_text();
    for line in [
        "tollgate_requests_total{domain=\"llm\",result=\"ok\"} 0",
        "tollgate_decisions_total{domain=\"llm\",limit=\"tokens\",result=\"refused\"} 0",
        "tollgate_hits_total{domain=\"llm\",limit=\"theirs\",result=\"admitted\"} 0",
        "tollgate_config_domains 1",
    ] {
        assert!(
            text.lines().any(|known| known == line),
            "{line} is not in\n{text}"
        );
    }
}

#[tokio::test]
async fn admissions_and_refusals_count_by_domain_and_limit() {
    let limiter = Limiter::new(RULES);
    limiter.ask(&["k=a @40"]).await;
    limiter.ask(&["k=a @400"]).await;
    limiter.ask(&["k=a @600"]).await;
    limiter.ask(&["unlimited=a"]).await;
    assert_eq!(
        (requests(&limiter, "ok"), requests(&limiter, "over_limit")),
        (3, 1)
    );
    assert_eq!(decisions(&limiter, "requests"), [3, 0, 0]);
    assert_eq!(
        hits(&limiter, "requests"),
        [2, 0, 0, 0],
        "a refused request takes nothing"
    );
    assert_eq!(decisions(&limiter, "tokens"), [2, 1, 0]);
    assert_eq!(hits(&limiter, "tokens"), [440, 600, 0, 0]);
    assert_eq!(decisions(&limiter, "trial"), [1, 0, 2]);
    assert_eq!(hits(&limiter, "trial"), [40, 0, 0, 0]);
}

#[tokio::test]
async fn what_a_shadowed_rate_limit_takes_is_counted_also_above_the_limit() {
    let limiter = Limiter::new(RULES);
    limiter.ask(&["theirs=a @4"]).await;
    limiter.ask(&["theirs=a @4"]).await;
    assert_eq!(decisions(&limiter, "theirs"), [1, 0, 1]);
    assert_eq!(hits(&limiter, "theirs"), [8, 0, 0, 0]);
}

#[tokio::test]
async fn a_quota_counts_as_refused_only_when_the_request_is() {
    let limiter = Limiter::new(RULES);
    limiter.ask(&["q=a"]).await;
    limiter.ask(&["q=a", "q=b"]).await;
    assert_eq!(decisions(&limiter, "quota"), [2, 0, 1]);
    limiter.ask(&["q=a", "q=b"]).await;
    assert_eq!(decisions(&limiter, "quota"), [2, 2, 1]);
}

#[tokio::test]
async fn settlements_and_refunds_count_what_they_changed() {
    let limiter = Limiter::new(RULES);
    let id = metadata(&limiter.ask(&["k=a"]).await, "reservation")
        .expect("an id")
        .to_owned();
    assert_eq!(limiter.series("tollgate_reservations_opened_total"), 1);
    limiter
        .ask(&[&format!("tollgate.phase=report tollgate.id={id} @30")])
        .await;
    assert_eq!(hits(&limiter, "tokens"), [100, 0, 0, 70]);
    assert_eq!(hits(&limiter, "trial"), [0, 0, 30, 0]);
    assert_eq!(
        limiter.series("tollgate_reservations_ended_total{result=\"settled\"}"),
        1
    );
    limiter.ask(&["k=a tollgate.phase=report @30"]).await;
    assert_eq!(hits(&limiter, "tokens"), [100, 0, 30, 70]);
    limiter.ask(&["k=a @-20"]).await;
    assert_eq!(hits(&limiter, "tokens"), [100, 0, 30, 90]);
}

#[tokio::test]
async fn looks_retries_and_errors_count_as_what_they_are() {
    let limiter = Limiter::new(RULES);
    limiter.ask(&["k=a tollgate.phase=peek"]).await;
    limiter.ask(&["none=a tollgate.phase=peek"]).await;
    limiter
        .ask(&["k=a tollgate.phase=peek @9223372036854775808"])
        .await;
    limiter.inspect("k=a").await;
    limiter.inspect("none=a").await;
    assert_eq!(
        (requests(&limiter, "ok"), requests(&limiter, "over_limit")),
        (0, 0)
    );
    assert_eq!(decisions(&limiter, "tokens"), [0, 0, 0]);

    limiter.ask(&["k=a tollgate.id=mine"]).await;
    limiter.ask(&["k=a tollgate.id=mine"]).await;
    assert_eq!(requests(&limiter, "ok"), 2, "both were answered");
    assert_eq!(decisions(&limiter, "tokens"), [1, 0, 0], "one was decided");
    assert_eq!(hits(&limiter, "tokens"), [100, 0, 0, 0]);

    limiter.ask(&["k=a @9223372036854775808"]).await;
    assert_eq!(requests(&limiter, "over_limit"), 1);
    let error = limiter
        .service
        .should_rate_limit(&request(&["tollgate.phase=x"]))
        .await;
    assert!(error.is_err());
    let invalid = |reason| {
        limiter.series(&format!(
            "tollgate_invalid_requests_total{{reason=\"{reason}\"}}"
        ))
    };
    assert_eq!((invalid("unknown_control"), invalid("bad_count")), (1, 2));
}

#[tokio::test]
async fn nothing_that_a_caller_sends_is_ever_a_label() {
    let limiter = Limiter::new(RULES);
    let service = &limiter.service;
    limiter
        .ask(&["k=SECRET-value @5 tollgate.id=SECRET-id tollgate.outcome=SECRET"])
        .await;
    limiter
        .ask(&["SECRET-key=a tollgate.priority=SECRET"])
        .await;
    limiter.ask(&["k=SECRET-value @1001"]).await;
    limiter
        .ask(&["k=SECRET-value tollgate.phase=report tollgate.output_tokens=7"])
        .await;
    limiter
        .ask(&["tollgate.phase=report tollgate.id=SECRET-other @5"])
        .await;
    let mut elsewhere = request(&["k=a"]);
    elsewhere.domain = "SECRET-domain";
    limiter.answer(&elsewhere).await;
    assert!(
        service
            .should_rate_limit(&request(&["tollgate.SECRET=a"]))
            .await
            .is_err()
    );
    let mut own = request(&["SECRET-key=SECRET-value"]);
    own.descriptors[0].limit = Some(tollgate::service::RequestedLimit {
        requests_per_unit: 1,
        unit: Some(tollgate::rules::Unit::Hour),
    });
    limiter.answer(&own).await;
    limiter.inspect("k=SECRET-value").await;
    assert!(service.release("llm", "SECRET-id").await.is_ok());
    let unknown = tollgate::service::Target {
        domain: "SECRET-domain",
        ..target(&["k=a"])
    };
    assert!(service.inspect(&unknown).await.is_err());
    let text = limiter.metrics_text();
    assert!(!text.contains("SECRET"), "{text}");
    assert!(
        text.contains("limit=\"override\",result=\"admitted\"} 1"),
        "{text}"
    );
}
