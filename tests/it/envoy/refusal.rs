//! A refused request costs nobody anything, and its client is told when to come back.

use serde_json::json;

use super::stage::{Stage, chat, levels};

const AZURE: &str = "azure-eastus-gpt-4o";

/// In a bucket that gets one token a day.
const SECONDS_A_TOKEN: u64 = 24 * 60 * 60;

#[test]
fn a_refused_request_is_told_so_and_charged_nowhere() {
    let stage = Stage::settle();
    let first = chat("small", false)
        .header("x-fake-input-tokens", &600)
        .header("x-fake-output-tokens", &100);
    assert_eq!(stage.ask(&first).status, 200);
    stage.calls(2);
    let tenant = levels([("requests", 99), ("tokens", 300)]);
    let deployment = levels([("tokens", 1_000_000 - 700)]);
    assert_eq!(stage.levels("tenant", "small"), tenant);
    assert_eq!(stage.levels("deployment", AZURE), deployment);

    let refusal = stage.ask(&chat("small", false));
    assert_eq!(refusal.status, 429, "{}", refusal.body);
    let number = |name: &str| refusal.header(name)?.parse::<u64>().ok();
    assert_eq!(number("x-ratelimit-limit-requests"), Some(100));
    assert_eq!(number("x-ratelimit-remaining-requests"), Some(99));
    assert_eq!(number("x-ratelimit-limit-tokens"), Some(1000));
    assert_eq!(number("x-ratelimit-remaining-tokens"), Some(300));
    // 500 are missing to the estimate of 800; some of the first one's time may have passed.
    let wait = 500 * SECONDS_A_TOKEN;
    let told = number("retry-after").unwrap();
    assert!((wait - 100..=wait).contains(&told), "{told}");
    let millis = number("retry-after-ms").unwrap();
    assert_eq!(millis.div_ceil(1000), told);
    assert_eq!(refusal.header("content-type"), Some("application/json"));
    assert_eq!(refusal.header("x-envoy-ratelimited"), Some("true"));
    let error = &refusal.json()["error"];
    assert_eq!(error["code"], json!("rate_limit_exceeded"));
    assert_eq!(error["type"], json!("tokens"));
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("limit 1000, used 700, requested 800"),
        "{message}"
    );

    assert_eq!(stage.levels("tenant", "small"), tenant);
    assert_eq!(stage.levels("deployment", AZURE), deployment);
    assert_eq!(stage.upstream.requests(), 1);

    // Envoy has one thread: a report of the refused request would have come before these calls.
    assert_eq!(stage.ask(&chat("later", false)).status, 200);
    let calls = stage.calls(2 + 1 + 2);
    assert_eq!(calls[2].descriptors()[0], "tenant=small");
    assert_eq!(calls[2].reservation(), None);
    assert_eq!(calls[3].descriptors()[0], "tenant=later");
    assert_eq!(stage.levels("tenant", "small"), tenant);
}
