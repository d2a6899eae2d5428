//! What a request is taken to cost `limits:`: addends, counts, weights, estimates.

use crate::support::limiter::Limiter;

const RULES: &str = "
costs:
  claude: { input_tokens: 1, cache_read_tokens: 0.1, cache_write_tokens: 1.25, output_tokens: 5 }
descriptors:
  - key: k
    limits:
      - { name: requests, rate: 1k/hour, cost: requests }
      - { name: hits, rate: 1k/hour, cost: hits }
      - { name: tokens, rate: 10k/hour, cost: tokens, estimate: 800 }
      - { name: unknown, rate: 10k/hour, cost: tokens }
      - { name: weighted, rate: 10k/hour, cost: claude, estimate: 900 }
      - { name: output, rate: 10k/hour, cost: { output_tokens: 1 } }
      - { name: mixed, rate: 10k/hour, cost: { requests: 10, output_tokens: 2 }, estimate: 50 }
      - { name: double, rate: 10k/hour, cost: { hits: 2 } }
";

/// What the request takes from each bucket, in the order of the file.
async fn taken(limiter: &Limiter, descriptors: &[&str]) -> Vec<i64> {
    let levels = async || -> Vec<i64> {
        let seen = limiter.inspect("k=a").await;
        seen.buckets.iter().map(|bucket| bucket.level).collect()
    };
    let before = levels().await;
    assert!(!limiter.ask(descriptors).await.over_limit);
    let after = levels().await;
    before
        .iter()
        .zip(after)
        .map(|(before, after)| before - after)
        .collect()
}

#[tokio::test]
async fn when_nothing_is_sent_estimates_and_ones_are_taken() {
    let limiter = Limiter::new(RULES);
    assert_eq!(
        taken(&limiter, &["k=a"]).await,
        [1, 1, 800, 0, 900, 0, 60, 2]
    );
}

#[tokio::test]
async fn an_addend_is_the_cost_of_hits_and_of_tokens() {
    let limiter = Limiter::new(RULES);
    assert_eq!(
        taken(&limiter, &["k=a @30"]).await,
        [1, 30, 30, 30, 30, 30, 40, 60]
    );
}

#[tokio::test]
async fn an_addend_of_zero_takes_no_tokens_and_no_estimate() {
    let limiter = Limiter::new(RULES);
    assert_eq!(
        taken(&limiter, &["k=a @0"]).await,
        [1, 0, 0, 0, 0, 0, 10, 0]
    );
}

#[tokio::test]
async fn counts_are_weighed_by_each_limits_own_formula() {
    let limiter = Limiter::new(RULES);
    let counted = "k=a tollgate.input_tokens=100 tollgate.cache_read_tokens=11 \
                   tollgate.cache_write_tokens=4 tollgate.output_tokens=20";
    // All was stated, so nothing is estimated. weighted: 100 + 1.1 + 5 + 100, rounded up
    assert_eq!(
        taken(&limiter, &[counted]).await,
        [1, 1, 135, 135, 207, 20, 50, 2]
    );
}

#[tokio::test]
async fn the_most_that_may_be_put_out_counts_as_output() {
    let limiter = Limiter::new(RULES);
    let counted = "k=a tollgate.input_tokens=100 tollgate.max_output_tokens=500";
    assert_eq!(
        taken(&limiter, &[counted]).await,
        [1, 1, 600, 600, 2600, 500, 1010, 2]
    );
}

#[tokio::test]
async fn what_was_not_stated_is_estimated() {
    let limiter = Limiter::new(RULES);
    // The prompt alone: where the answer counts too, the estimate is the least.
    assert_eq!(
        taken(&limiter, &["k=a tollgate.input_tokens=100"]).await,
        [1, 1, 800, 100, 900, 0, 60, 2]
    );
    assert_eq!(
        taken(&limiter, &["k=a tollgate.input_tokens=1000"]).await,
        [1, 1, 1000, 1000, 1000, 0, 60, 2]
    );
    // The answer alone: all that `output` and `mixed` count.
    assert_eq!(
        taken(&limiter, &["k=a tollgate.max_output_tokens=100"]).await,
        [1, 1, 800, 100, 900, 100, 210, 2]
    );
}

#[tokio::test]
async fn an_addend_beside_counts_counts_hits_only() {
    let limiter = Limiter::new(RULES);
    let counted = "k=a tollgate.input_tokens=1000 @7";
    assert_eq!(
        taken(&limiter, &[counted]).await,
        [1, 7, 1000, 1000, 1000, 0, 60, 14]
    );
}

#[tokio::test]
async fn bytes_of_the_request_stand_for_tokens_that_were_not_counted() {
    let limiter = Limiter::new(
        "
defaults: { estimate: 10 }
descriptors:
  - key: k
    limits:
      - { name: usual, rate: 10k/hour, cost: tokens }
      - { name: dense, rate: 10k/hour, cost: { input_tokens: 2, output_tokens: 1 }, bytes_per_token: 2.5 }
",
    );
    let bytes = "k=a tollgate.input_bytes=1001 tollgate.max_output_tokens=50";
    assert_eq!(taken(&limiter, &[bytes]).await, [251 + 50, 2 * 401 + 50]);
    // Both descriptors say the same of the same request.
    assert_eq!(
        taken(&limiter, &[bytes, "tollgate.input_bytes=900"]).await,
        [251 + 50, 2 * 401 + 50]
    );
    let counted = "k=a tollgate.input_bytes=1001 tollgate.input_tokens=7 tollgate.output_tokens=3";
    assert_eq!(taken(&limiter, &[counted]).await, [10, 17]);
}

#[tokio::test]
async fn output_that_is_not_reserved_is_estimated_or_left_out() {
    let limiter = Limiter::new(
        "
defaults: { reserve_output: false }
descriptors:
  - key: k
    limits:
      - { name: all, rate: 10k/hour, cost: tokens }
      - { name: output, rate: 10k/hour, cost: { output_tokens: 1 } }
      - { name: estimated, rate: 10k/hour, cost: { output_tokens: 1 }, estimate: 30 }
      - { name: reserved, rate: 10k/hour, cost: { output_tokens: 1 }, reserve_output: true }
      - { name: input, rate: 10k/hour, cost: { input_tokens: 1 }, estimate: 70 }
",
    );
    let stated = "k=a tollgate.input_tokens=50 tollgate.max_output_tokens=500";
    assert_eq!(taken(&limiter, &[stated]).await, [50, 0, 30, 500, 50]);
}

#[tokio::test]
async fn an_estimate_fits_a_full_bucket_and_a_stated_cost_need_not() {
    let limiter = Limiter::new(
        "
descriptors:
  - key: k
    limits:
      - { name: tokens, rate: 1k/hour, cost: { requests: 10, input_tokens: 1, output_tokens: 1 },
          estimate: 995, priority: { batch: 200 } }
",
    );
    // Beside the 10 of the request, and the 200 that stay free of its class.
    let batch = "k=batch tollgate.priority=batch";
    assert!(!limiter.ask(&[batch]).await.over_limit);
    let level = limiter.inspect("k=batch").await.buckets[0].level;
    assert_eq!(level, 200);
    assert!(!limiter.ask(&["k=all"]).await.over_limit);
    assert_eq!(limiter.inspect("k=all").await.buckets[0].level, 0);
    // A stated prompt counts as it is, also where the answer is estimated.
    assert!(
        !limiter
            .ask(&["k=b tollgate.input_tokens=990"])
            .await
            .over_limit
    );
    assert!(
        limiter
            .ask(&["k=c tollgate.input_tokens=991"])
            .await
            .over_limit
    );
}

#[tokio::test]
async fn an_estimate_that_is_learned_begins_at_its_cold_start() {
    let limiter = Limiter::new(
        "
defaults: { estimate: learned }
descriptors:
  - key: k
    limits:
      - { name: large, rate: 1M/hour, cost: tokens }
      - { name: small, rate: 5k/hour, cost: tokens }
      - { name: tiny, rate: 3/hour, cost: tokens }
      - { name: said, rate: 1M/hour, cost: tokens, cold_start: 700 }
",
    );
    assert_eq!(taken(&limiter, &["k=a"]).await, [2000, 500, 1, 700]);
    let limiter = Limiter::new(
        "
descriptors:
  - { key: k, limits: [{ name: l, rate: 1M/hour, cost: tokens, estimate: learned }] }
",
    );
    let stated = "k=a tollgate.input_tokens=2100";
    assert_eq!(taken(&limiter, &[stated]).await, [2100]);
    let stated = "k=a tollgate.input_tokens=100";
    assert_eq!(taken(&limiter, &[stated]).await, [2000]);
    let all = "k=a tollgate.input_tokens=100 tollgate.max_output_tokens=50";
    assert_eq!(taken(&limiter, &[all]).await, [150]);
}

#[tokio::test]
async fn counts_hold_for_the_whole_request_and_are_taken_once_from_each_bucket() {
    let limiter = Limiter::new(RULES);
    let alone = [
        "k=a",
        "tollgate.measure=input_tokens @100",
        "tollgate.output_tokens=20",
    ];
    assert_eq!(
        taken(&limiter, &alone).await,
        [1, 1, 120, 120, 200, 20, 50, 2]
    );
    // One descriptor a measure, each with the entries of the rule: every descriptor is a hit and a
    // request, as under `rate_limit:`, but the tokens were used once.
    let apart = [
        "k=a tollgate.measure=input_tokens @100",
        "k=a tollgate.measure=output_tokens @20",
    ];
    assert_eq!(
        taken(&limiter, &apart).await,
        [2, 2, 120, 120, 200, 20, 60, 4]
    );
}

#[tokio::test]
async fn a_refund_gives_back_what_the_same_addend_took() {
    let limiter = Limiter::new(RULES);
    assert!(!limiter.ask(&["k=a @50"]).await.over_limit);
    assert_eq!(
        taken(&limiter, &["k=a @-30"]).await,
        [0, -30, -30, -30, -30, -30, -30, -60]
    );
}
