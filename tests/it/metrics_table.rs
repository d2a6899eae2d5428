//! Metrics as operators meet them: the README's table and a running process name the same ones,
//! and what happens shows in them.
#![expect(
    clippy::unwrap_used,
    reason = "a test's scaffolding fails the test where it stands"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use tempfile::TempDir;
use tollgate::clock;

use crate::support::http;
use crate::support::http::metric;
use crate::support::process::PATIENCE;
use crate::support::redis::RedisServer;
use crate::support::rls::{admitted, ask, connect, descriptor, limit_of, request};
use crate::support::served::Tollgate;

const CONFIG: &str = "
domain: seen
descriptors:
  - key: tenant
    limits:
      - { name: requests, rate: 1M/year, cost: requests, on_store_error: allow }
      - { name: tokens, rate: 1M/year, cost: tokens, estimate: 100, on_store_error: allow }
";

/// What more there is to see: looked at from time to time, so not where calls are counted.
const BUDGET: &str = "
  - key: tenant
    value: budgeted
    limits: [{ name: budget, rate: 1M/calendar_month, algorithm: fixed_window, alert_at: [0.9] }]
";

/// Serves [`CONFIG`], with this store.
fn serve(store: &str) -> (Tollgate, TempDir) {
    serve_config(CONFIG, store)
}

/// Serves something of everything that has a series.
fn serve_all() -> (Tollgate, TempDir) {
    serve_config(&format!("{CONFIG}{BUDGET}"), "memory")
}

fn serve_config(text: &str, store: &str) -> (Tollgate, TempDir) {
    serve_with(text, &["--store", store, "--store-timeout=5s"])
}

fn serve_with(text: &str, flags: &[&str]) -> (Tollgate, TempDir) {
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("seen.yaml");
    std::fs::write(&file, text).unwrap();
    let config = format!("--config={}", file.display());
    let flags = [&[config.as_str()], flags].concat();
    (Tollgate::serve(&flags), files)
}

async fn page(tollgate: &Tollgate) -> String {
    let reply = http::send(tollgate.http, "GET", "/metrics", b"").await;
    assert_eq!(reply.status, 200);
    reply.body
}

/// Names and types of our series, as the README's table tells them.
fn told() -> BTreeMap<String, String> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(readme).unwrap();
    let (_, section) = text.split_once("\n## Metrics\n").unwrap();
    let rows = section.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `tollgate_")?.split('|');
        let name = cells.next()?.trim().strip_suffix('`')?;
        Some((format!("tollgate_{name}"), cells.next()?.trim().to_owned()))
    });
    rows.collect()
}

/// Names and types of our series, as a page tells them. Each has to have a sample.
fn rendered(page: &str) -> BTreeMap<String, String> {
    let types = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .filter(|(name, _)| name.starts_with("tollgate_"));
    types
        .inspect(|(name, _)| {
            let is_sample = |line: &str| line.starts_with(name);
            assert!(page.lines().any(is_sample), "{name} has no sample");
        })
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_readme_tells_all_metrics_and_no_others() {
    let (tollgate, _files) = serve_all();
    // Which reasons there are to refuse to answer is told with the first of each.
    let mut client = connect(&tollgate).await;
    let invalid = client.should_rate_limit(request("", [])).await;
    assert!(invalid.is_err(), "{invalid:?}");
    let page = page(&tollgate).await;
    let (told, rendered) = (told(), rendered(&page));
    assert!(told.len() > 10, "{told:?}");
    assert_eq!(told, rendered, "the README, and the page");
    let version = env!("CARGO_PKG_VERSION");
    let build = format!("tollgate_build_info{{version=\"{version}\"}}");
    assert_eq!(metric(&page, &build), 1);
    assert_eq!(metric(&page, "tollgate_config_domains"), 1);
}

/// The metrics that an expression names, each with what stands in its braces.
fn selectors(expression: &str) -> Vec<(String, String)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in expression.match_indices("tollgate_") {
        let (_, rest) = expression.split_at(at);
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let braces = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let braces = braces.map_or("", |(inside, _)| inside);
        found.push((name.to_owned(), braces.to_owned()));
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_are_on_series_that_there_are() {
    let (tollgate, _files) = serve_all();
    let page = page(&tollgate).await;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/prometheus/alerts.yaml");
    let text = std::fs::read_to_string(file).unwrap();
    let rules: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    let groups = rules["groups"].as_array().unwrap();
    let mut alerts = BTreeSet::new();
    for rule in groups.iter().flat_map(|of| of["rules"].as_array().unwrap()) {
        let alert = rule["alert"].as_str().unwrap();
        assert!(alerts.insert(alert), "{alert} is there twice");
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(
            ["info", "warning", "critical"].contains(&severity),
            "{alert}"
        );
        for told in ["summary", "description"] {
            assert!(rule["annotations"][told].is_string(), "{alert}: {told}");
        }
        let expression = rule["expr"].as_str().unwrap();
        let count = |of: char| expression.chars().filter(|c| *c == of).count();
        assert_eq!(count('('), count(')'), "{expression}");
        let selectors = selectors(expression);
        assert!(!selectors.is_empty(), "{expression}");
        for (name, braces) in selectors {
            // Every sample of it, with the labels that are asked for.
            let mut samples = page
                .lines()
                .filter(|line| {
                    let rest = line.strip_prefix(&name);
                    rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
                })
                .peekable();
            assert!(samples.peek().is_some(), "{alert}: there is no {name}");
            for asked in braces.split(',').filter(|asked| !asked.is_empty()) {
                let (label, values) = asked.split_once('=').unwrap();
                let values = values.trim_start_matches('~').trim_matches('"');
                let known = values.split('|').all(|value| {
                    let value = value.trim_start_matches(".*");
                    let is_label = |line: &str| {
                        let (_, rest) = line.split_once(&format!("{label}=\"")).unwrap();
                        rest.split('"').next().unwrap().ends_with(value)
                    };
                    samples.clone().any(is_label)
                });
                assert!(known, "{alert}: {name} has no {asked}");
            }
        }
    }
    assert!(alerts.len() > 10, "{alerts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_through_redis_shows_in_every_histogram() {
    const CALLS: u64 = 10;

    let redis = RedisServer::start();
    let (tollgate, _files) = serve(&redis.url());
    let client = connect(&tollgate).await;
    let tenant = || request("seen", [descriptor(&[("tenant", "a")], None)]);
    // The first may find no connection yet.
    let begun = clock::instant();
    while limit_of(&ask(&client, tenant()).await.statuses[0]).is_none() {
        assert!(begun.elapsed() < PATIENCE, "the store was not asked");
    }
    let before = page(&tollgate).await;
    for _ in 0..CALLS {
        assert!(admitted(&ask(&client, tenant()).await));
    }
    let after = page(&tollgate).await;
    for name in [
        "tollgate_decision_duration_seconds_count",
        "tollgate_store_duration_seconds_count",
        "tollgate_store_batch_operations_count",
        "tollgate_store_batch_operations_sum",
    ] {
        let grown = metric(&after, name) - metric(&before, name);
        // One after the other they go alone.
        assert_eq!(grown, CALLS, "{name}");
    }
    let sum = |name: &str| -> f64 {
        let line = after.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().parse().unwrap()
    };
    let decided = sum("tollgate_decision_duration_seconds_sum ");
    let stored = sum("tollgate_store_duration_seconds_sum ");
    assert!(
        0.0 < stored && stored < decided,
        "{stored} s of {decided} s"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_without_redis_count_as_all_do_and_are_told_apart() {
    const CALLS: u64 = 10;
    const ONE: &str = "
domain: seen
descriptors: [{ key: tenant, limits: [{ name: one, rate: 1/year, cost: requests }] }]
";

    let redis = RedisServer::start();
    for (memory, refused_here) in [("0s", 0), ("10s", CALLS - 1)] {
        let flags = ["--store", &redis.url(), "--store-timeout=5s"];
        let memory = format!("--refusal-memory={memory}");
        let (tollgate, _files) = serve_with(ONE, &[&flags[..], &[&memory]].concat());
        let client = connect(&tollgate).await;
        let tenant = || request("seen", [descriptor(&[("tenant", &memory)], None)]);
        // The first may find no connection yet.
        let begun = clock::instant();
        while limit_of(&ask(&client, tenant()).await.statuses[0]).is_none() {
            assert!(begun.elapsed() < PATIENCE, "the store was not asked");
        }
        let before = page(&tollgate).await;
        let refused = "tollgate_decisions_total{domain=\"seen\",limit=\"one\",result=\"refused\"}";
        let first = ask(&client, tenant()).await;
        for _ in 1..CALLS {
            let answer = ask(&client, tenant()).await;
            assert!(!admitted(&answer));
            assert_eq!(
                answer.statuses[0].current_limit,
                first.statuses[0].current_limit
            );
        }
        let after = page(&tollgate).await;
        assert_eq!(metric(&after, refused) - metric(&before, refused), CALLS);
        let here = metric(&after, "tollgate_local_refusals_total");
        assert_eq!(here, refused_here, "{memory}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_shows_in_its_errors() {
    const CALLS: u64 = 3;

    let redis = RedisServer::start();
    let (tollgate, _files) = serve(&redis.url());
    redis.stop();
    let client = connect(&tollgate).await;
    for _ in 0..CALLS {
        let answer = ask(
            &client,
            request("seen", [descriptor(&[("tenant", "a")], None)]),
        )
        .await;
        assert!(admitted(&answer), "{answer:?}");
        assert_eq!(limit_of(&answer.statuses[0]), None);
    }
    let page = page(&tollgate).await;
    let errors = ["connection", "overloaded", "rejected", "timeout"].map(|kind| {
        let series = format!("tollgate_store_errors_total{{kind=\"{kind}\"}}");
        metric(&page, &series)
    });
    assert!(errors.iter().sum::<u64>() >= CALLS, "{errors:?}");
    let without = "tollgate_requests_total{domain=\"seen\",result=\"allowed_without_store\"}";
    assert_eq!(metric(&page, without), CALLS);
}
