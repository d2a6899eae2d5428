//! Inclusive names in control entries: what Envoy's filters read out of an answer is OpenAI's.

use crate::support::limiter::Limiter;

const RULES: &str = "
costs: { cached: { input_tokens: 1, cache_read_tokens: 0, output_tokens: 5 } }
descriptors:
  - key: k
    limits:
      - { name: tokens, rate: 100k/hour, cost: tokens, estimate: 800 }
      - { name: weighed, rate: 100k/hour, cost: cached }
      - { name: hits, rate: 100/hour, cost: hits }
";

/// What the buckets of `k=a` have given: tokens, weighed, hits.
async fn taken(limiter: &Limiter) -> [i64; 3] {
    [
        100_000 - limiter.level("k=a", "tokens").await,
        100_000 - limiter.level("k=a", "weighed").await,
        100 - limiter.level("k=a", "hits").await,
    ]
}

fn invalid(limiter: &Limiter) -> u64 {
    limiter.series("tollgate_reports_total{result=\"invalid\",source=\"envoy\"}")
}

#[tokio::test]
async fn prompt_and_cached_are_two_descriptors_of_one_report() {
    let limiter = Limiter::new(RULES);
    limiter
        .ask(&[
            "k=a tollgate.phase=report tollgate.measure=prompt_tokens @2048",
            "k=a tollgate.phase=report tollgate.measure=cached_tokens @1920",
            "k=a tollgate.phase=report tollgate.measure=completion_tokens @477",
            "k=a tollgate.phase=report @0",
        ])
        .await;
    assert_eq!(taken(&limiter).await, [2_525, 128 + 5 * 477, 0]);
}

#[tokio::test]
async fn a_reservation_is_settled_by_inclusive_names() {
    let limiter = Limiter::new(RULES);
    limiter.ask(&["k=a tollgate.id=r1"]).await;
    assert_eq!(taken(&limiter).await, [800, 0, 1]);
    limiter
        .ask(&["tollgate.phase=report tollgate.id=r1 tollgate.prompt_tokens=100 tollgate.total_tokens=130"])
        .await;
    assert_eq!(taken(&limiter).await, [130, 100 + 5 * 30, 1]);
}

#[tokio::test]
async fn a_total_alone_is_the_cost_of_limits_on_tokens() {
    let limiter = Limiter::new(RULES);
    limiter
        .ask(&["k=a tollgate.phase=report tollgate.measure=total_tokens @130"])
        .await;
    assert_eq!(taken(&limiter).await, [130, 130, 0]);
    limiter.ask(&["k=a tollgate.id=r1"]).await;
    let report = "tollgate.phase=report tollgate.id=r1 tollgate.total_tokens=200";
    limiter.ask(&[report]).await;
    assert_eq!(taken(&limiter).await, [330, 330, 1]);
    // Known before, too; and once for the bucket, though two descriptors come to it.
    limiter.ask(&["k=a tollgate.total_tokens=50", "k=a"]).await;
    assert_eq!(taken(&limiter).await, [380, 380, 3]);
}

#[tokio::test]
async fn what_contradicts_itself_charges_nothing_and_is_counted() {
    let limiter = Limiter::new(RULES);
    limiter.ask(&["k=a tollgate.id=r1"]).await;
    for report in [
        "tollgate.prompt_tokens=5 tollgate.cached_tokens=6",
        "tollgate.prompt_tokens=5 tollgate.completion_tokens=5 tollgate.total_tokens=9",
        "tollgate.output_tokens=5 tollgate.completion_tokens=6",
        "tollgate.total_tokens=1000000001",
    ] {
        let before = invalid(&limiter);
        limiter
            .ask(&[&format!(
                "k=a tollgate.phase=report tollgate.id=r1 {report}"
            )])
            .await;
        assert_eq!(invalid(&limiter), before + 1, "{report}");
        assert_eq!(taken(&limiter).await, [800, 0, 1], "{report}");
        assert!(
            !limiter.passes(&format!("k=a {report}")).await,
            "an admission whose counts cannot be is refused: {report}"
        );
    }
}
