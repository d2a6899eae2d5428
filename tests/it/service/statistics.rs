//! What is told about tokens: how many requests use, how well that was guessed, and debts.
#![expect(
    clippy::unwrap_used,
    reason = "a test's scaffolding fails the test where it stands"
)]

use tollgate::usage::Reported;

use crate::support::limiter::{Limiter, target};

const RULES: &str = "
descriptors:
  - key: tenant
    limits:
      - { name: requests, rate: 1000/hour }
      - { name: tokens, rate: 1000/hour, cost: { requests: 10, input_tokens: 1, cache_read_tokens: 0.1,
          output_tokens: 2 }, estimate: 100 }
  - key: measured
    limits:
      - { name: all, rate: 1000/hour, cost: tokens, estimate: 50 }
";

/// Count and sum of a histogram.
fn seen(limiter: &Limiter, name: &str, limit: &str) -> (u64, f64) {
    let text = limiter.metrics_text();
    let value = |part: &str| -> f64 {
        let series = format!("tollgate_{name}_{part}{{domain=\"llm\",limit=\"{limit}\"}} ");
        let found = text.lines().find_map(|line| line.strip_prefix(&series));
        found
            .unwrap_or_else(|| panic!("{series} is not in\n{text}"))
            .parse()
            .unwrap()
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count is a whole number"
    )]
    (value("count") as u64, value("sum"))
}

fn measured(measures: [u64; 4]) -> Reported {
    Reported::of_measures(measures.map(Some))
}

async fn reserve(limiter: &Limiter, descriptors: &[&str]) -> String {
    let unknown = Reported::default();
    let answer = limiter
        .service
        .reserve(&target(descriptors), unknown, None, None)
        .await;
    answer.unwrap().id.unwrap()
}

async fn settle(limiter: &Limiter, id: &str, usage: Reported) {
    let nothing = target(&[]);
    limiter.service.settle(id, usage, &nothing).await.unwrap();
}

fn assert_close(told: (u64, f64), expected: (u64, f64)) {
    let close = (told.1 - expected.1).abs() < 1e-9;
    assert!(told.0 == expected.0 && close, "{told:?}, {expected:?}");
}

#[tokio::test]
async fn a_settlement_tells_tokens_and_the_error_of_its_estimate() {
    let limiter = Limiter::new(RULES);
    for name in ["request_input_tokens", "estimate_ratio", "debt_tokens"] {
        assert_close(seen(&limiter, name, "tokens"), (0, 0.0));
    }
    let id = reserve(&limiter, &["tenant=a"]).await;
    settle(&limiter, &id, measured([40, 100, 3, 75])).await;
    assert_close(seen(&limiter, "request_input_tokens", "tokens"), (1, 143.0));
    assert_close(seen(&limiter, "request_output_tokens", "tokens"), (1, 75.0));
    // 40 + 10 + 150 beside the 10 that no report changes.
    assert_close(seen(&limiter, "estimate_ratio", "tokens"), (1, 0.5));
    assert_close(seen(&limiter, "debt_tokens", "tokens"), (0, 0.0));
    // A second report tells nothing.
    settle(&limiter, &id, measured([40, 100, 3, 75])).await;
    assert_close(seen(&limiter, "request_input_tokens", "tokens"), (1, 143.0));
    // What counts no tokens has no series.
    let other = "tollgate_request_input_tokens_count{domain=\"llm\",limit=\"requests\"}";
    assert!(!limiter.metrics_text().contains(other));
}

#[tokio::test]
async fn a_debt_is_told_with_its_depth() {
    let limiter = Limiter::new(RULES);
    let id = reserve(&limiter, &["measured=a"]).await;
    settle(&limiter, &id, measured([0, 0, 0, 1250])).await;
    assert_close(seen(&limiter, "debt_tokens", "all"), (1, 250.0));
    assert_close(seen(&limiter, "estimate_ratio", "all"), (1, 0.04));
}

#[tokio::test]
async fn what_is_not_known_is_not_told() {
    let limiter = Limiter::new(RULES);
    let all = |limiter: &Limiter| {
        [
            "request_input_tokens",
            "request_output_tokens",
            "estimate_ratio",
        ]
        .map(|name| seen(limiter, name, "all").0)
    };
    // No usage; given back; a total, which has no measures; a cost of nothing.
    let id = reserve(&limiter, &["measured=a"]).await;
    settle(&limiter, &id, Reported::default()).await;
    assert_eq!(all(&limiter), [0, 0, 0]);
    let id = reserve(&limiter, &["measured=a"]).await;
    limiter.service.release("llm", &id).await.unwrap();
    assert_eq!(all(&limiter), [0, 0, 0]);
    let id = reserve(&limiter, &["measured=a"]).await;
    settle(&limiter, &id, Reported::of_total(100)).await;
    assert_eq!(all(&limiter), [0, 0, 1]);
    let id = reserve(&limiter, &["measured=a"]).await;
    settle(&limiter, &id, measured([0; 4])).await;
    assert_eq!(all(&limiter), [1, 1, 1]);
}

#[tokio::test]
async fn a_report_without_a_reservation_tells_tokens_once_a_limit() {
    let limiter = Limiter::new(RULES);
    let usage = measured([5, 0, 0, 7]);
    let twice = target(&["measured=a", "measured=a", "tenant=a"]);
    limiter.service.report_usage(&twice, usage).await.unwrap();
    for limit in ["all", "tokens"] {
        assert_close(seen(&limiter, "request_input_tokens", limit), (1, 5.0));
        assert_close(seen(&limiter, "request_output_tokens", limit), (1, 7.0));
        assert_close(seen(&limiter, "estimate_ratio", limit), (0, 0.0));
    }
}

#[tokio::test]
async fn a_stream_is_told_when_it_ends_and_not_while_it_goes_on() {
    let limiter = Limiter::new(RULES);
    let id = reserve(&limiter, &["measured=a"]).await;
    for output in [500, 1100] {
        let so_far = measured([0, 0, 0, output]);
        limiter.service.progress("llm", &id, so_far).await.unwrap();
    }
    assert_close(seen(&limiter, "request_output_tokens", "all"), (0, 0.0));
    assert_close(seen(&limiter, "debt_tokens", "all"), (0, 0.0));
    settle(&limiter, &id, measured([0, 0, 0, 1200])).await;
    assert_close(seen(&limiter, "request_output_tokens", "all"), (1, 1200.0));
    assert_close(seen(&limiter, "debt_tokens", "all"), (1, 200.0));
}
