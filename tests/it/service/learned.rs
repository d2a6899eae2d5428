//! `estimate: learned`, in one process: what teaches it, what it says, and to whom.

use std::time::Duration;

use crate::support::limiter::{Limiter, metadata};

const RULES: &str = "
defaults: { estimate: learned }
descriptors:
  - key: tenant
    limits:
      - { name: tokens, rate: 1M/hour, cost: tokens }
      - { name: median, rate: 1M/hour, cost: tokens, learn_quantile: 0.5, cold_start: 70 }
      - { name: weighted, rate: 1M/hour, cost: { requests: 10, output_tokens: 5 } }
      - { name: by-model, rate: 1M/hour, cost: tokens, learn_by: [model], cold_start: 80 }
  - key: small
    limits:
      - { name: small, rate: 500/minute, cost: tokens, learn_by: [] }
";

/// Enough samples to be believed.
const ENOUGH: u64 = 20;

/// Admits a request, and says what it took from each of these limits.
async fn ask(limiter: &Limiter, descriptors: &[&str], limits: &[&str]) -> (String, Vec<i64>) {
    let mut before = Vec::new();
    for limit in limits {
        before.push(limiter.level(descriptors[0], limit).await);
    }
    let answer = limiter.ask(descriptors).await;
    assert!(!answer.over_limit, "{descriptors:?}");
    let mut taken = Vec::new();
    for (limit, before) in limits.iter().zip(before) {
        taken.push(before - limiter.level(descriptors[0], limit).await);
    }
    let id = metadata(&answer, "reservation").expect("a reservation");
    (id.to_owned(), taken)
}

/// What a request is taken to cost; nothing is used in the end.
async fn taken(limiter: &Limiter, descriptors: &[&str], limits: &[&str]) -> Vec<i64> {
    let (id, taken) = ask(limiter, descriptors, limits).await;
    limiter.service.release("llm", &id).await.expect("released");
    taken
}

/// A request that turns out to use so many tokens, half of them for the answer.
async fn used(limiter: &Limiter, descriptors: &[&str], tokens: u64) -> String {
    let (id, _) = ask(limiter, descriptors, &[]).await;
    report(limiter, &id, &measured(tokens)).await;
    id
}

fn measured(tokens: u64) -> String {
    let half = tokens / 2;
    format!("tollgate.input_tokens={half} tollgate.output_tokens={half}")
}

async fn report(limiter: &Limiter, id: &str, usage: &str) {
    let report = format!("tollgate.phase=report tollgate.id={id} {usage}");
    assert!(!limiter.ask(&[&report]).await.over_limit);
}

/// Nothing is left of what was taken.
fn much_later(limiter: &Limiter) {
    limiter.advance(Duration::from_mins(1));
}

#[tokio::test]
async fn a_quantile_of_what_was_used_is_taken_once_enough_is_known() {
    let limiter = Limiter::new(RULES);
    let limits = ["tokens", "median", "weighted"];
    for n in 1..=ENOUGH {
        let cold = taken(&limiter, &["tenant=a", "model=m"], &limits).await;
        assert_eq!(cold, [2000, 70, 2010], "before sample {n}");
        used(&limiter, &["tenant=a", "model=m"], n * 2).await;
        much_later(&limiter);
    }
    // 18 of the 20 used 36 tokens or fewer, 10 of them 20; outputs were half, five times weighed.
    // Up to 31 amounts are told exactly, above within a thirty-second.
    let warm = taken(&limiter, &["tenant=a", "model=m"], &limits).await;
    assert_eq!(warm[1], 20);
    assert!((35..=37).contains(&warm[0]), "{warm:?}");
    assert!((10 + 87..=10 + 93).contains(&warm[2]), "{warm:?}");
}

#[tokio::test]
async fn groups_are_buckets_or_what_learn_by_says() {
    let limiter = Limiter::new(RULES);
    let limits = ["tokens", "by-model"];
    for _ in 0..ENOUGH {
        used(&limiter, &["tenant=a", "ignored=1 model=m"], 30).await;
        much_later(&limiter);
    }
    assert_eq!(
        taken(&limiter, &["tenant=a", "model=m"], &limits).await,
        [30, 30]
    );
    assert_eq!(
        taken(&limiter, &["tenant=b", "model=m"], &limits).await,
        [2000, 30]
    );
    assert_eq!(
        taken(&limiter, &["tenant=a", "model=n"], &limits).await,
        [30, 80]
    );
}

#[tokio::test]
async fn only_usage_teaches_and_each_report_once() {
    let limiter = Limiter::new(RULES);
    let descriptors = ["tenant=a", "model=m"];
    let used_up = ENOUGH - 1;
    let mut last = String::new();
    for _ in 0..used_up {
        last = used(&limiter, &descriptors, 30).await;
    }
    // Enough, if any of these taught anything. Envoy sends a zero where it found no usage.
    for usage in ["", "@0"] {
        let (id, _) = ask(&limiter, &descriptors, &[]).await;
        report(&limiter, &id, usage).await;
    }
    report(&limiter, &last, &measured(30)).await;
    report(&limiter, "unknown", &measured(30)).await;
    assert_eq!(taken(&limiter, &descriptors, &["median"]).await, [70]);
    // A total is usage too.
    let (id, _) = ask(&limiter, &descriptors, &[]).await;
    report(&limiter, &id, "@30").await;
    assert_eq!(taken(&limiter, &descriptors, &["median"]).await, [30]);
}

#[tokio::test]
async fn what_was_learned_never_makes_a_request_impossible_and_what_is_stated_counts() {
    let limiter = Limiter::new(RULES);
    let small = ["small=a"];
    for n in 0..ENOUGH {
        assert_eq!(taken(&limiter, &small, &["small"]).await, [50]);
        used(&limiter, &[&format!("small={n}")], 600).await;
    }
    let all = [500];
    assert_eq!(
        taken(&limiter, &small, &["small"]).await,
        all,
        "and no more"
    );
    let stated = ["small=a tollgate.input_tokens=400 tollgate.output_tokens=0"];
    assert_eq!(taken(&limiter, &stated, &["small"]).await, [400]);
    // An hour later it is as if nothing had been.
    limiter.advance(Duration::from_hours(1));
    taken(&limiter, &small, &["small"]).await;
    assert_eq!(taken(&limiter, &small, &["small"]).await, [50]);
}

#[tokio::test]
async fn a_limit_that_counts_otherwise_learns_anew() {
    let rules = |cost: &str| {
        format!(
            "
descriptors:
  - key: tenant
    limits:
      - {{ name: tokens, rate: 1M/hour, cost: {cost}, estimate: learned, cold_start: 70 }}
"
        )
    };
    let limiter = Limiter::new(&rules("tokens"));
    for _ in 0..ENOUGH {
        used(&limiter, &["tenant=a"], 30).await;
    }
    let limits = ["tokens"];
    assert_eq!(taken(&limiter, &["tenant=a"], &limits).await, [30]);
    let file = format!("domain: llm\n{}", rules("{ output_tokens: 5 }"));
    limiter.install(&[&file]);
    assert_eq!(taken(&limiter, &["tenant=a"], &limits).await, [70]);
    // What each request costs besides is no part of what is learned.
    let measures = ["input", "cache_read", "cache_write", "output"];
    let weights: String = measures.map(|name| format!(", {name}_tokens: 1")).concat();
    let cost = format!("{{ requests: 4{weights} }}");
    let file = format!("domain: llm\n{}", rules(&cost));
    limiter.install(&[&file]);
    assert_eq!(taken(&limiter, &["tenant=a"], &limits).await, [34]);
}

#[tokio::test]
async fn usage_that_costs_a_limit_nothing_is_an_example_and_no_usage_is_none() {
    let limiter = Limiter::new(RULES);
    let limits = ["tokens", "weighted"];
    let descriptors = ["tenant=a", "model=m"];
    let all_input =
        |tokens: u64| format!("tollgate.input_tokens={tokens} tollgate.output_tokens=0");
    for tokens in std::iter::repeat_n(30, 20).chain([0; 100]) {
        let (id, _) = ask(&limiter, &descriptors, &[]).await;
        report(&limiter, &id, &all_input(tokens)).await;
    }
    // `weighted` counts answers only, and all of them were empty.
    assert_eq!(taken(&limiter, &descriptors, &limits).await, [30, 10]);
}
