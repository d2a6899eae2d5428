//! Limits that a preset brought, at work.

use std::time::Duration;

use crate::support::limiter::Limiter;

const RULES: &str = "
tiers:
  free: { limits: [{ name: requests, rate: 2/hour }] }
  pro: { limits: [{ name: requests, rate: 3/hour }] }
descriptors:
  - { key: deployment, value: claude, preset: anthropic/start/claude-sonnet-5 }
  - { key: deployment, value: gpt, preset: openai/tier-5/gpt-4o }
  - { key: deployment, value: small, preset: openai/tier-1/gpt-4o }
  - { key: deployment, value: groq, preset: { name: groq/quota, tpm: 300k } }
  - { key: deployment, value: bedrock, preset: { name: bedrock/claude, tpm: 200k } }
  - { key: tenant, tier: free }
  - { key: tenant, value: acme, tier: pro }
";

async fn spent(limiter: &Limiter, deployment: &str) -> Vec<(String, i64)> {
    let seen = limiter.inspect(&format!("deployment={deployment}")).await;
    let spent = seen.buckets.iter().map(|bucket| {
        let spent = bucket.terms.burst.cast_signed() - bucket.level;
        (bucket.limit.clone(), spent)
    });
    spent.collect()
}

async fn report(limiter: &Limiter, id: &str, counts: &[(&str, u64)]) {
    let report: Vec<String> = counts
        .iter()
        .map(|(measure, count)| {
            format!("tollgate.phase=report tollgate.id={id} tollgate.measure={measure} @{count}")
        })
        .collect();
    let report: Vec<&str> = report.iter().map(String::as_str).collect();
    assert!(!limiter.ask(&report).await.over_limit);
}

#[tokio::test]
async fn what_a_cache_served_costs_what_the_preset_says() {
    let limiter = Limiter::new(RULES);
    for deployment in ["claude", "gpt", "groq"] {
        let asked = format!(
            "deployment={deployment} tollgate.id={deployment} tollgate.input_bytes=137388 \
             tollgate.max_output_tokens=4096"
        );
        assert!(limiter.passes(&asked).await);
    }
    let named = |spent: &[(&str, i64)]| -> Vec<(String, i64)> {
        let spent = spent.iter();
        spent
            .map(|(name, spent)| ((*name).to_owned(), *spent))
            .collect()
    };
    // At admission nobody knows of the cache, and max_tokens counts where it is reserved.
    assert_eq!(
        spent(&limiter, "claude").await,
        named(&[
            ("anthropic-requests", 1),
            ("anthropic-input-tokens", 34_347),
            ("anthropic-output-tokens", 0)
        ])
    );
    assert_eq!(
        spent(&limiter, "gpt").await,
        named(&[("openai-requests", 1), ("openai-tokens", 34_347)])
    );
    let used = [
        ("input_tokens", 3883),
        ("cache_read_tokens", 30_464),
        ("output_tokens", 130),
    ];
    for deployment in ["claude", "gpt", "groq"] {
        report(&limiter, deployment, &used).await;
    }
    assert_eq!(
        spent(&limiter, "claude").await,
        named(&[
            ("anthropic-requests", 1),
            ("anthropic-input-tokens", 3883),
            ("anthropic-output-tokens", 130)
        ])
    );
    assert_eq!(
        spent(&limiter, "gpt").await,
        named(&[
            ("openai-requests", 1),
            ("openai-tokens", 3883 + 30_464 + 130)
        ])
    );
    assert_eq!(
        spent(&limiter, "groq").await,
        named(&[("groq-tokens", 3883 + 130)])
    );
}

#[tokio::test]
async fn openai_takes_the_larger_of_prompt_and_max_tokens_and_refuses_none_for_ever() {
    let limiter = Limiter::new(RULES);
    let asked = |input, output| {
        format!(
            "deployment=small tollgate.input_tokens={input} tollgate.max_output_tokens={output}"
        )
    };
    let tokens = async || limiter.level("deployment=small", "openai-tokens").await;
    assert!(limiter.passes(&asked(16_000, 16_000)).await);
    assert_eq!(tokens().await, 14_000);
    assert!(limiter.passes(&asked(100, 14_000)).await);
    assert_eq!(tokens().await, 0);
    let oversize = asked(100, 32_000);
    assert!(!limiter.passes(&oversize).await);
    limiter.advance(Duration::from_mins(1));
    assert!(limiter.passes(&oversize).await, "all of it is there");
    assert_eq!(tokens().await, -2000);
}

#[tokio::test]
async fn bedrock_holds_max_tokens_as_it_is_and_charges_answers_five_times() {
    let limiter = Limiter::new(RULES);
    let stated = "tollgate.input_tokens=1000 tollgate.max_output_tokens=64000";
    let asked = format!("deployment=bedrock tollgate.id=b {stated}");
    assert!(limiter.passes(&asked).await, "65,000 of 200,000");
    let taken = async || {
        spent(&limiter, "bedrock")
            .await
            .into_iter()
            .map(|(_, spent)| spent)
    };
    assert!(taken().await.eq([65_000, 65_000]));
    report(
        &limiter,
        "b",
        &[("input_tokens", 1000), ("output_tokens", 700)],
    )
    .await;
    assert!(taken().await.eq([4500, 4500]));
}

#[tokio::test]
async fn a_tier_is_a_word() {
    let limiter = Limiter::new(RULES);
    for (tenant, allowed) in [("a", 2), ("b", 2), ("acme", 3)] {
        for _ in 0..allowed {
            assert!(limiter.passes(&format!("tenant={tenant}")).await);
        }
        assert!(!limiter.passes(&format!("tenant={tenant}")).await);
    }
}
