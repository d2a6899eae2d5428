//! Presets and tiers: every row of the data, and what becomes of it.

use std::collections::BTreeSet;

use crate::limit::{Algorithm, Formula, Timestamp};
use crate::rules::{Domain, Estimate, Terms};

use super::document::{Document, compile};
use super::presets::{self, show};
use super::words::Place;
use super::yaml::{self, Node, Value};
use super::{explain, parse};

/// The figures to show a preset with that wants some.
fn quota(name: &str) -> Vec<(String, String)> {
    let bought = ["azure-openai/", "bedrock/", "groq/"];
    let wants = bought.iter().any(|begin| name.starts_with(begin));
    let quota = wants.then(|| ("tpm".to_owned(), "450k".to_owned()));
    quota.into_iter().collect()
}

fn shown(name: &str) -> String {
    show(name, &quota(name)).unwrap_or_else(|errors| panic!("{name}: {errors:?}"))
}

fn preset(name: &str) -> Domain {
    let figures = quota(name);
    let figures = figures
        .first()
        .map_or_else(String::new, |(figure, amount)| {
            format!(", {figure}: {amount}")
        });
    let text = format!(
        "domain: d
descriptors: [{{ key: k, preset: {{ name: {name}{figures} }} }}]"
    );
    parse(&text, "f").unwrap_or_else(|errors| panic!("{name}: {errors:?}"))
}

/// Name, amount and algorithm of each limit.
fn figures(name: &str) -> Vec<(String, u64, Algorithm)> {
    let domain = preset(name);
    let limits = domain.limits.iter();
    limits
        .map(|limit| match limit.terms {
            Terms::Limited(terms) => (limit.name.to_string(), terms.rate.amount(), terms.algorithm),
            Terms::Unlimited => panic!("{name}"),
        })
        .collect()
}

fn formula(name: &str, limit: &str) -> Formula {
    let domain = preset(name);
    let limits = &domain.limits;
    let found = limits.iter().find(|found| *found.name == *limit);
    found
        .unwrap_or_else(|| panic!("{name} has no {limit}"))
        .formula
}

fn warnings(source: &str) -> Vec<String> {
    let compiled = compile(&[Document::parse(source, "f").unwrap()]).unwrap();
    compiled.warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn every_row_becomes_limits_and_has_a_source() {
    assert!(presets::names().len() > 80);
    for name in presets::names() {
        let text = shown(name);
        assert!(text.contains("figures: https://"), "{text}");
        assert!(text.contains(", read 20"), "{text}");
        assert!(!figures(name).is_empty(), "{name}");
        for (limit, amount, _) in figures(name) {
            assert!(amount > 0, "{name}: {limit}");
            let provider = limit.split('-').next().unwrap();
            assert!(name.starts_with(provider), "{name}: {limit}");
        }
    }
}

#[test]
fn a_higher_tier_allows_no_less() {
    let ladders = [
        (
            "openai",
            &["tier-1", "tier-2", "tier-3", "tier-4", "tier-5"][..],
        ),
        ("anthropic", &["start", "build", "scale"]),
        ("gemini", &["free", "pay-as-you-go"]),
    ];
    let mut compared = 0;
    for (provider, tiers) in ladders {
        for pair in tiers.windows(2) {
            let (lower, higher) = (
                format!("{provider}/{}/", pair[0]),
                format!("{provider}/{}/", pair[1]),
            );
            for name in presets::names() {
                let Some(model) = name.strip_prefix(&lower) else {
                    continue;
                };
                let above = format!("{higher}{model}");
                if !presets::names().contains(&above.as_str()) {
                    continue;
                }
                let above = figures(&above);
                for (limit, amount, _) in figures(name) {
                    // What has no limit above has the largest.
                    let more = above.iter().find(|(other, ..)| *other == limit);
                    assert!(
                        more.is_none_or(|(_, more, _)| *more >= amount),
                        "{name}: {limit}"
                    );
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 100, "only {compared}");
}

/// Limits with their amounts.
type Figures<'f> = &'f [(&'f str, u64, Algorithm)];

#[test]
fn rows_say_what_their_sources_say() {
    let bucket = Algorithm::TokenBucket;
    let rows: [(&str, Figures<'_>); 5] = [
        (
            "openai/tier-1/gpt-4o-mini",
            &[
                ("openai-requests", 500, bucket),
                ("openai-tokens", 200_000, bucket),
                ("openai-daily-requests", 10_000, bucket),
            ],
        ),
        (
            "openai/tier-5/gpt-5.5",
            &[
                ("openai-requests", 15_000, bucket),
                ("openai-tokens", 40_000_000, bucket),
            ],
        ),
        (
            "anthropic/build/claude-opus-5",
            &[
                ("anthropic-requests", 5000, bucket),
                ("anthropic-input-tokens", 5_000_000, bucket),
                ("anthropic-output-tokens", 1_000_000, bucket),
            ],
        ),
        (
            "gemini/free/gemini-2.5-pro",
            &[
                ("gemini-requests", 5, bucket),
                ("gemini-input-tokens", 250_000, bucket),
                ("gemini-daily-requests", 100, Algorithm::FixedWindow),
            ],
        ),
        (
            "azure-openai/standard",
            &[
                ("azure-requests", 2700, bucket),
                ("azure-tokens", 450_000, bucket),
            ],
        ),
    ];
    for (name, expected) in rows {
        let found = figures(name);
        let found: Vec<(&str, u64, Algorithm)> = found
            .iter()
            .map(|(limit, amount, algorithm)| (limit.as_str(), *amount, *algorithm))
            .collect();
        assert_eq!(found, expected, "{name}");
    }
    assert!(shown("gemini/free/gemini-2.5-pro").contains("; unverified\n"));
    assert!(!shown("openai/tier-1/gpt-4o").contains("unverified"));
    // Ten seconds' worth.
    assert!(shown("azure-openai/standard").contains("2700/minute, token_bucket, burst 450,"));
}

#[test]
fn the_data_has_no_key_that_limits_do_not_have_and_no_idle_source() {
    let text = include_str!("presets.yaml");
    let root = yaml::parse(text).unwrap();
    let entries = |node: &Node<'_>| -> Vec<(String, Node<'static>)> {
        let Value::Map(entries) = &node.value else {
            panic!()
        };
        let owned = entries.iter().map(|(key, value)| {
            (
                key.as_text().unwrap().to_owned(),
                value.clone().into_owned(),
            )
        });
        owned.collect()
    };
    let known = Place::Limit.keys();
    for (name, accounting) in entries(root.field("accounting").unwrap()) {
        for limit in accounting.field("limits").unwrap().items() {
            for key in ["algorithm", "cost", "name", "rate"] {
                assert!(limit.field(key).is_some(), "{name}: {key}");
            }
            for (key, _) in entries(limit) {
                assert!(known.contains(&key.as_str()), "{name}: {key}");
            }
        }
    }
    let used: BTreeSet<String> = entries(root.field("presets").unwrap())
        .iter()
        .map(|(_, row)| {
            row.field("source")
                .and_then(Node::as_text)
                .unwrap()
                .to_owned()
        })
        .collect();
    let sources = entries(root.field("sources").unwrap());
    let sources: BTreeSet<String> = sources.into_iter().map(|(name, _)| name).collect();
    assert_eq!(used, sources);
}

#[test]
fn cached_tokens_cost_what_the_provider_says() {
    // By measure: input, read from the cache, written into it, output.
    let anthropic = [3883, 30_464, 100, 50];
    let scale = "anthropic/scale/claude-sonnet-5";
    assert_eq!(
        formula(scale, "anthropic-input-tokens").cost_of_tokens(anthropic),
        3983
    );
    assert_eq!(
        formula(scale, "anthropic-output-tokens").cost_of_tokens(anthropic),
        50
    );
    // OpenAI's cached tokens are part of its prompt tokens, and count; with Groq they do not.
    let openai = [1000, 2048, 0, 50];
    assert_eq!(
        formula("openai/tier-1/gpt-4o", "openai-tokens").cost_of_tokens(openai),
        3098
    );
    assert_eq!(
        formula("groq/quota", "groq-tokens").cost_of_tokens(openai),
        1050
    );
    let claude = formula("bedrock/claude", "bedrock-tokens");
    assert_eq!(claude.cost_of_tokens(anthropic), 3983 + 5 * 50);
    let other = formula("bedrock/other", "bedrock-tokens");
    assert_eq!(other.cost_of_tokens(anthropic), 3983 + 50);
    let gemini = formula("gemini/free/gemini-2.5-pro", "gemini-input-tokens");
    assert_eq!(gemini.cost_of_tokens(openai), 3048);
}

#[test]
fn what_admission_takes_is_the_providers_too() {
    for (name, limit, stated, estimates) in [
        ("openai/tier-1/gpt-4o", "openai-tokens", 64_000, true),
        (
            "anthropic/start/claude-opus-5",
            "anthropic-input-tokens",
            1000,
            true,
        ),
        (
            "anthropic/start/claude-opus-5",
            "anthropic-output-tokens",
            0,
            false,
        ),
        ("azure-openai/standard", "azure-tokens", 65_000, true),
        // Five for each token of the answer, but only when it is there.
        ("bedrock/claude", "bedrock-tokens", 65_000, true),
        ("bedrock/claude", "bedrock-daily-tokens", 65_000, true),
        ("bedrock/other", "bedrock-tokens", 65_000, true),
        ("groq/quota", "groq-tokens", 65_000, true),
    ] {
        let domain = preset(name);
        let limits = &domain.limits;
        let found = limits.iter().find(|found| *found.name == *limit).unwrap();
        // A prompt of 1,000 tokens, and an answer of at most 64,000.
        let reserve = found.stating.reserve_output;
        let cost = reserve.cost(&found.formula, [1000, 0, 0, 64_000]);
        assert_eq!(cost, stated, "{name}: {limit}");
        let learned = matches!(found.estimate, Estimate::Learned(_));
        assert_eq!(learned, estimates, "{name}");
    }
}

const TIERED: &str = "domain: d
tiers:
  free: { limits: [{ name: requests, rate: 5/minute }, { name: tokens, rate: 5k/minute, cost: tokens }] }
  enterprise: { preset: openai/tier-1/gpt-4o, limits: [{ name: openai-tokens, estimate: 500 }] }
descriptors:
  - { key: tenant, tier: free }
  - { key: tenant, value: acme, tier: free, limits: [{ name: tokens, rate: 9k/minute }, { name: own, rate: 1/day }] }
  - { key: tenant, value: big, tier: enterprise, limits: [{ name: openai-requests, unlimited: true }] }
";

#[test]
fn explain_tells_what_came_from_where() {
    let domain = parse(TIERED, "f").unwrap();
    let explained = |value| {
        let text = explain(&domain, &[("tenant", value)], Timestamp::default());
        let lines = text.lines().skip(2);
        let told = lines.filter(|line| !line.starts_with("    bucket "));
        told.collect::<Vec<_>>().join("\n")
    };
    assert_eq!(
        explained("x"),
        "  requests: 5/minute, token_bucket, burst 5, cost: requests
    all of it from tier free
  tokens: 5000/minute, token_bucket, burst 5000, cost: tokens
    all of it from tier free"
    );
    assert_eq!(
        explained("acme"),
        "  requests: 5/minute, token_bucket, burst 5, cost: requests
    all of it from tier free
  tokens: 9000/minute, token_bucket, burst 9000, cost: tokens
    from tier free; given here: rate
  own: 1/day, token_bucket, burst 1, cost: requests"
    );
    let source = "figures: https://developers.openai.com/api/docs/models/gpt-4o, read 2026-11-22";
    assert_eq!(
        explained("big"),
        format!(
            "  openai-requests: unlimited
    from tier enterprise (preset openai/tier-1/gpt-4o); given here: unlimited
    {source}
  openai-tokens: 30000/minute, token_bucket, burst 30000, cost: tokens, estimate 500, \
             the larger of stated prompt and output reserved, oversize when full
    all of it from tier enterprise (preset openai/tier-1/gpt-4o; given there: estimate)
    {source}"
        )
    );
}

#[test]
fn a_tiers_limits_are_the_same_limits_for_all_its_tenants() {
    let domain = parse(TIERED, "f").unwrap();
    let identity = |value| {
        let found = domain.find(&[("tenant", value)], &mut String::new());
        found.unwrap().rule.limits[1].identity
    };
    assert_eq!(identity("x"), identity("acme"));
    // Everything about limits is the same as if it had been written out.
    let out = "domain: d
descriptors:
  - key: tenant
    limits: [{ name: requests, rate: 5/minute }, { name: tokens, rate: 5k/minute, cost: tokens }]
";
    let written = parse(out, "f").unwrap();
    let written = written
        .find(&[("tenant", "x")], &mut String::new())
        .unwrap();
    assert_eq!(written.rule.limits[1].identity, identity("x"));
}

#[test]
fn defaults_and_modes_hold_for_what_a_preset_does_not_say() {
    let text = "domain: d
defaults: { algorithm: fixed_window, estimate: 70, on_store_error: deny }
descriptors:
  - { key: model, preset: anthropic/start/claude-opus-5, shadow_mode: true }
";
    let domain = parse(text, "f").unwrap();
    let outline = super::outline(&domain);
    let limits: Vec<&str> = outline.lines().skip(2).collect();
    assert_eq!(
        limits,
        [
            "  anthropic-requests: 1000/minute, token_bucket, burst 1000, cost: requests, shadow_mode, \
             denied without the store",
            "  anthropic-input-tokens: 2000000/minute, token_bucket, burst 2000000, \
             cost: input_tokens + cache_write_tokens, estimate learned (p90, 2000 at first), \
             shadow_mode, denied without the store",
            "  anthropic-output-tokens: 400000/minute, token_bucket, burst 400000, cost: output_tokens, \
             estimate 70, stated output not reserved, shadow_mode, denied without the store",
        ]
    );
    let headers = &domain.answer.headers;
    assert_eq!(headers.len(), 1, "as with limits that are written out");
}

#[test]
fn what_is_inherited_and_means_nothing_any_more_is_no_mistake() {
    let text = "domain: d
tiers:
  t: { limits: [{ name: l, rate: 5k/minute, burst: 9k, cost: tokens, estimate: learned, learn_by: model, cold_start: 600 }] }
descriptors:
  - { key: k, tier: t, limits: [{ name: l, cost: requests }] }
  - { key: l, tier: t, limits: [{ name: l, cost: { output_tokens: 1 }, estimate: 50, algorithm: fixed_window }] }
  - { key: m, tier: t, limits: [{ name: l, rate: 500/minute, burst: null }] }
  - key: n
    preset: openai/tier-1/gpt-4o
    limits: [{ name: openai-tokens, cost: { input_tokens: 1 } }]
";
    let domain = parse(text, "f").unwrap();
    let outline = super::outline(&domain);
    let limits: Vec<&str> = outline
        .lines()
        .filter(|line| line.starts_with("  "))
        .collect();
    assert_eq!(
        limits,
        [
            "  l: 5000/minute, token_bucket, burst 9000, cost: requests",
            "  l: 5000/minute, fixed_window, cost: output_tokens, estimate 50",
            "  l: 500/minute, token_bucket, burst 500, cost: tokens, estimate learned (p90 by model, 600 at first)",
            "  openai-requests: 500/minute, token_bucket, burst 500, cost: requests",
            "  openai-tokens: 30000/minute, token_bucket, burst 30000, cost: input_tokens, \
             estimate learned (p90, 2000 at first), oversize when full",
        ]
    );
    let told = warnings(text);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("the cold_start 600 is more than the burst 500"),
        "{told:?}"
    );
}

#[test]
fn odd_tiers_are_told_and_names_of_presets_are_known() {
    let text = "domain: d
tiers: { idle: { preset: openai/tier-1/gpt-4o } }
descriptors:
  - key: k
    preset: openai/tier-1/gpt-4o
  - { key: l, limits: [{ name: l, rate: 1/day, replaces: [openai-tokens, openai-token] }] }
";
    assert_eq!(
        warnings(text),
        [
            "f:2:10: the tier 'idle' is never used",
            "f:6:74: replaces 'openai-token', but no limit is called that (in rule l)",
        ]
    );
}

#[test]
fn the_days_of_gemini_end_at_midnight_in_california() {
    let name = "gemini/free/gemini-2.5-flash";
    let told = "250/day, fixed_window, timezone America/Los_Angeles";
    let text = shown(name);
    assert!(text.contains(told), "{text}");
    let explained = explain(&preset(name), &[("k", "x")], Timestamp::default());
    assert!(explained.contains(told), "{explained}");
}

#[test]
fn groq_has_a_limit_for_each_figure_that_is_given() {
    let names = |figures: &[(&str, &str)]| {
        let figures = figures.iter();
        let figures = figures.map(|(key, amount)| ((*key).to_owned(), (*amount).to_owned()));
        let text = show("groq/quota", &figures.collect::<Vec<_>>()).unwrap();
        let limits = text.lines().filter_map(|line| line.split_once('/'));
        limits
            .map(|(limit, _)| limit.trim().to_owned())
            .filter(|limit| limit.starts_with("groq-"))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&[("tpm", "6k")]), ["groq-tokens: 6000"]);
    assert_eq!(
        names(&[("tpm", "6k"), ("tpd", "500k")]),
        ["groq-tokens: 6000", "groq-daily-tokens: 500000"]
    );
}
