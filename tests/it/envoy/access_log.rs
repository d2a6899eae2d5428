//! Usage out of Envoy's access log: `examples/envoy/access_log`.

use super::dialects::{BEDROCK_STREAM, DIALECTS, left};
use super::stage::{Stage, chat, counts, levels, prompt};

const ALS: &str = "access_log";

#[test]
fn every_provider_is_charged_what_its_answer_says() {
    let stage = Stage::observing("access_log");
    // In which Envoy's filters find no usage.
    let readable = DIALECTS.iter().filter(|it| it.name != BEDROCK_STREAM);
    let mut count = 0;
    for dialect in readable {
        let answer = stage.ask(&dialect.prompt(dialect.name));
        assert_eq!(answer.status, 200, "{}: {}", dialect.name, answer.body);
        count += 1;
        let reports = stage.reports(ALS, count);
        assert_eq!(reports, counts([("settled", count)]), "{}", dialect.name);
        let tenant = stage.levels("tenant", dialect.name);
        assert_eq!(tenant, dialect.left(), "{}", dialect.name);
    }
}

#[test]
fn without_usage_each_limit_says_what_becomes_of_the_estimate() {
    let stage = Stage::observing("access_log");
    for tenant in ["careful", "trusting"] {
        stage.ask(&chat(tenant, false).header("x-fake-usage", "none"));
    }
    assert_eq!(stage.reports(ALS, 2), counts([("without_usage", 2)]));
    assert_eq!(stage.levels("tenant", "careful"), left(900, 0, 0, 300));
    let trusting = levels([("requests", 99), ("tokens", 1_000_000)]);
    assert_eq!(stage.levels("tenant", "trusting"), trusting);
}

#[test]
fn an_error_of_the_provider_costs_a_request_and_no_tokens() {
    let stage = Stage::observing("access_log");
    let request = chat("unlucky", false).header("x-fake-status", &500);
    assert_eq!(stage.ask(&request).status, 500);
    assert_eq!(stage.reports(ALS, 1), counts([("settled", 1)]));
    assert_eq!(stage.levels("tenant", "unlucky"), left(0, 0, 0, 0));
}

#[test]
fn a_request_that_no_provider_got_costs_no_tokens() {
    let mut stage = Stage::observing("access_log");
    stage.upstream.stop();
    assert_eq!(stage.ask(&chat("unlucky", false)).status, 503);
    assert_eq!(stage.reports(ALS, 1), counts([("settled", 1)]));
    assert_eq!(stage.levels("tenant", "unlucky"), left(0, 0, 0, 0));
}

#[test]
fn a_client_that_hangs_up_pays_what_was_told_and_no_less_than_its_estimate() {
    let stage = Stage::observing("access_log");
    let request = prompt("/v1/messages", "hasty", true)
        .header("x-fake-input-tokens", &812)
        .header("x-fake-stall-after", &1);
    let mut answer = request.send(stage.envoy.port).unwrap().begin().unwrap();
    answer.read_until("content_block_delta").unwrap();
    drop(answer);
    assert_eq!(stage.reports(ALS, 1), counts([("settled", 1)]));
    assert_eq!(stage.levels("tenant", "hasty"), left(900, 0, 0, 300));
}

#[test]
fn a_refused_request_is_not_reported() {
    let stage = Stage::observing("access_log");
    let first = chat("small", false)
        .header("x-fake-input-tokens", &600)
        .header("x-fake-output-tokens", &100);
    assert_eq!(stage.ask(&first).status, 200);
    stage.reports(ALS, 1);
    assert_eq!(stage.ask(&chat("small", false)).status, 429);
    // Its entry comes before that of the next, and there is one stream.
    assert_eq!(stage.ask(&chat("later", false)).status, 200);
    assert_eq!(stage.reports(ALS, 2), counts([("settled", 2)]));
    let left = levels([("requests", 99), ("tokens", 300)]);
    assert_eq!(stage.levels("tenant", "small"), left);
}
