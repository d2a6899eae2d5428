//! Budgets: the used share, and that a share was crossed.
#![expect(
    clippy::unwrap_used,
    reason = "a test's scaffolding fails the test where it stands"
)]

use std::time::Duration;

use tollgate::usage::Reported;

use crate::support::limiter::{Limiter, target};

const RULES: &str = "
descriptors:
  - key: tenant
    limits:
      - { name: open, rate: 100/day, algorithm: fixed_window, cost: hits, alert_at: [0.5] }
  - key: tenant
    value: acme
    limits:
      - { name: month, rate: 1000/calendar_month, algorithm: fixed_window, cost: tokens,
          estimate: 100, alert_at: [0.7, 90%, 1] }
    descriptors:
      - key: model
        value: gpt
        limits:
          - { name: told, rate: 10/day, algorithm: fixed_window, when_over: charge, alert_at: [0.5] }
      - key: user
        limits:
          - { name: users, rate: 10/day, algorithm: fixed_window, alert_at: [1] }
";

const DAY: Duration = Duration::from_hours(24);

fn alerts(limiter: &Limiter, limit: &str) -> Vec<u64> {
    let thresholds = ["0.5", "0.7", "0.9", "1"];
    let series = thresholds.map(|threshold| {
        let labels = format!("domain=\"llm\",limit=\"{limit}\",threshold=\"{threshold}\"");
        format!("tollgate_budget_alerts_total{{{labels}}}")
    });
    let text = limiter.metrics_text();
    let known = series.iter().filter(|series| text.contains(*series));
    known.map(|series| limiter.series(series)).collect()
}

/// The gauge as it is written; none where there is none.
async fn used(limiter: &Limiter, limit: &str, rule: &str) -> Option<String> {
    limiter.service.tidy().await;
    let series =
        format!("tollgate_budget_used_ratio{{domain=\"llm\",limit=\"{limit}\",rule=\"{rule}\"}} ");
    let text = limiter.metrics_text();
    let found = text.lines().find_map(|line| line.strip_prefix(&series));
    found.map(str::to_owned)
}

async fn settle(limiter: &Limiter, id: &str, output: u64) {
    let usage = Reported::of_measures([None, None, None, Some(output)]);
    let nothing = target(&[]);
    limiter.service.settle(id, usage, &nothing).await.unwrap();
}

async fn reserve(limiter: &Limiter) -> String {
    let target = target(&["tenant=acme"]);
    let unknown = Reported::default();
    let answer = limiter.service.reserve(&target, unknown, None, None).await;
    answer.unwrap().id.unwrap()
}

#[tokio::test]
async fn each_share_is_told_by_the_charge_that_reaches_it() {
    let limiter = Limiter::new(RULES);
    assert_eq!(alerts(&limiter, "month"), [0, 0, 0]);
    limiter.ask(&["tenant=acme @699"]).await;
    assert_eq!(alerts(&limiter, "month"), [0, 0, 0]);
    limiter.ask(&["tenant=acme @1"]).await;
    assert_eq!(alerts(&limiter, "month"), [1, 0, 0]);
    // Within a share, a look, and what is refused: nothing.
    limiter.ask(&["tenant=acme @199"]).await;
    limiter.ask(&["tenant=acme @0"]).await;
    limiter.ask(&["tenant=acme @102"]).await;
    assert_eq!(alerts(&limiter, "month"), [1, 0, 0]);
    limiter.ask(&["tenant=acme @101"]).await;
    assert_eq!(alerts(&limiter, "month"), [1, 1, 1]);
    // The next window has shares of its own: 2027-02-01.
    limiter.advance(16 * DAY + Duration::from_hours(16));
    limiter.ask(&["tenant=acme @700"]).await;
    assert_eq!(alerts(&limiter, "month"), [2, 1, 1]);
}

#[tokio::test]
async fn a_report_tells_what_it_crosses_once() {
    let limiter = Limiter::new(RULES);
    limiter.ask(&["tenant=acme @500"]).await;
    let id = reserve(&limiter).await;
    assert_eq!(alerts(&limiter, "month"), [0, 0, 0]);
    settle(&limiter, &id, 5000).await;
    assert_eq!(alerts(&limiter, "month"), [1, 1, 1]);
    settle(&limiter, &id, 5000).await;
    assert_eq!(alerts(&limiter, "month"), [1, 1, 1]);
}

#[tokio::test]
async fn what_was_given_back_can_be_crossed_again() {
    let limiter = Limiter::new(RULES);
    limiter.ask(&["tenant=acme @650"]).await;
    let id = reserve(&limiter).await;
    assert_eq!(alerts(&limiter, "month"), [1, 0, 0]);
    settle(&limiter, &id, 10).await;
    assert_eq!(alerts(&limiter, "month"), [1, 0, 0]);
    limiter.ask(&["tenant=acme @40"]).await;
    assert_eq!(alerts(&limiter, "month"), [2, 0, 0]);
}

#[tokio::test]
async fn many_at_once_tell_a_share_once() {
    let limiter = Limiter::new(RULES);
    let asked = (0..100).map(|_| limiter.ask(&["tenant=many @1"]));
    crate::support::tasks::in_order(asked).await;
    assert_eq!(alerts(&limiter, "open"), [1]);
    // Every tenant has a budget of its own.
    limiter.ask(&["tenant=another @50"]).await;
    assert_eq!(alerts(&limiter, "open"), [2]);
}

#[tokio::test]
async fn a_refused_request_that_is_charged_crosses_too() {
    let limiter = Limiter::new(RULES);
    for _ in 0..4 {
        limiter.ask(&["tenant=acme model=gpt"]).await;
    }
    assert_eq!(alerts(&limiter, "told"), [0]);
    let refused = ["tenant=acme model=gpt", "tenant=acme @100000"];
    assert!(limiter.ask(&refused).await.over_limit);
    assert_eq!(alerts(&limiter, "told"), [1]);
}

#[tokio::test]
async fn the_used_share_is_of_the_window_that_is_under_way() {
    let limiter = Limiter::new(RULES);
    let month = "tenant=acme";
    assert_eq!(used(&limiter, "month", month).await.unwrap(), "0");
    limiter.ask(&["tenant=acme @250"]).await;
    assert_eq!(used(&limiter, "month", month).await.unwrap(), "0.25");
    let id = reserve(&limiter).await;
    settle(&limiter, &id, 1250).await;
    assert_eq!(used(&limiter, "month", month).await.unwrap(), "1.5");
    // Nobody asks in February, and the share is none.
    limiter.advance(17 * DAY);
    assert_eq!(used(&limiter, "month", month).await.unwrap(), "0");
}

#[tokio::test]
async fn a_gauge_is_of_a_configured_key_and_goes_with_it() {
    let limiter = Limiter::new(RULES);
    limiter.ask(&["tenant=a @60", "tenant=acme user=u"]).await;
    assert_eq!(used(&limiter, "open", "tenant").await, None);
    assert_eq!(used(&limiter, "users", "tenant=acme > user").await, None);
    limiter.ask(&["tenant=acme model=gpt"]).await;
    let rule = "tenant=acme > model=gpt";
    assert_eq!(used(&limiter, "told", rule).await.unwrap(), "0.1");
    let fewer = RULES.replace("when_over: charge, alert_at: [0.5]", "when_over: charge");
    limiter.install(&[&format!("domain: llm\n{fewer}")]);
    assert_eq!(used(&limiter, "told", rule).await, None);
    assert_eq!(used(&limiter, "month", "tenant=acme").await.unwrap(), "0");
    limiter.install(&[]);
    assert_eq!(used(&limiter, "month", "tenant=acme").await, None);
}
