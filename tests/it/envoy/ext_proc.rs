//! Usage that Tollgate reads itself while the answer passes: `examples/envoy/ext_proc`.

use super::dialects::{CACHE_READ, DIALECTS, INPUT, left};
use super::stage::{Stage, chat, counts, levels, prompt};
use crate::support::client::Request;
use crate::support::envoy::Config;

const EXT_PROC: &str = "ext_proc";

fn hang_up_after_the_first_piece(stage: &Stage, request: Request, piece: &str) {
    let request = request.header("x-fake-stall-after", &1);
    let mut answer = request.send(stage.envoy.port).unwrap().begin().unwrap();
    answer.read_until(piece).unwrap();
}

#[test]
fn every_provider_is_charged_what_its_answer_says() {
    let stage = Stage::observing("ext_proc");
    let mut count = 0;
    for dialect in &DIALECTS {
        let answer = stage.ask(&dialect.prompt(dialect.name));
        assert_eq!(answer.status, 200, "{}: {}", dialect.name, answer.body);
        count += 1;
        let reports = stage.reports(EXT_PROC, count);
        assert_eq!(reports, counts([("settled", count)]), "{}", dialect.name);
        let tenant = stage.levels("tenant", dialect.name);
        assert_eq!(tenant, dialect.left(), "{}", dialect.name);
    }
    // Envoy found nothing wrong with how streams ended.
    let failed = stage.envoy.stat("http.llm.ext_proc.streams_failed");
    assert_eq!(failed, 0);
}

#[test]
fn what_was_written_before_the_client_hung_up_is_charged() {
    let stage = Stage::observing("ext_proc");
    // 800 bytes of text in the first of four pieces, which the provider has counted as one token.
    let request = prompt("/v1/messages", "hasty", true)
        .header("x-fake-input-tokens", &INPUT)
        .header("x-fake-cache-read-tokens", &CACHE_READ)
        .header("x-fake-text-bytes", &3200)
        .header("x-fake-output-tokens", &800);
    hang_up_after_the_first_piece(&stage, request, "content_block_delta");
    assert_eq!(stage.reports(EXT_PROC, 1), counts([("settled", 1)]));
    assert_eq!(
        stage.levels("tenant", "hasty"),
        left(INPUT, CACHE_READ, 0, 200)
    );
}

#[test]
fn without_usage_each_limit_says_what_becomes_of_the_estimate() {
    let stage = Stage::observing("ext_proc");
    hang_up_after_the_first_piece(&stage, chat("careful", true), "toll");
    hang_up_after_the_first_piece(&stage, chat("trusting", true), "toll");
    assert_eq!(stage.reports(EXT_PROC, 2), counts([("without_usage", 2)]));
    assert_eq!(stage.levels("tenant", "careful"), left(900, 0, 0, 300));
    let trusting = levels([("requests", 99), ("tokens", 1_000_000)]);
    assert_eq!(stage.levels("tenant", "trusting"), trusting);
}

#[test]
fn an_error_of_the_provider_costs_a_request_and_no_tokens() {
    let stage = Stage::observing("ext_proc");
    let request = chat("unlucky", false).header("x-fake-status", &500);
    assert_eq!(stage.ask(&request).status, 500);
    assert_eq!(stage.reports(EXT_PROC, 1), counts([("settled", 1)]));
    assert_eq!(stage.levels("tenant", "unlucky"), left(0, 0, 0, 0));
}

#[test]
fn a_request_that_no_provider_got_costs_no_tokens() {
    let mut stage = Stage::observing("ext_proc");
    stage.upstream.stop();
    assert_eq!(stage.ask(&chat("unlucky", false)).status, 503);
    assert_eq!(stage.reports(EXT_PROC, 1), counts([("settled", 1)]));
    assert_eq!(stage.levels("tenant", "unlucky"), left(0, 0, 0, 0));
}

#[test]
fn a_refused_request_is_not_reported() {
    let stage = Stage::observing("ext_proc");
    let first = chat("small", false)
        .header("x-fake-input-tokens", &600)
        .header("x-fake-output-tokens", &100);
    assert_eq!(stage.ask(&first).status, 200);
    stage.reports(EXT_PROC, 1);
    assert_eq!(stage.ask(&chat("small", false)).status, 429);
    assert_eq!(stage.ask(&chat("later", false)).status, 200);
    assert_eq!(stage.reports(EXT_PROC, 2), counts([("settled", 2)]));
    let left = levels([("requests", 99), ("tokens", 300)]);
    assert_eq!(stage.levels("tenant", "small"), left);
}

#[test]
fn an_envoy_that_waits_for_answers_gets_them() {
    for mode in ["STREAMED", "FULL_DUPLEX_STREAMED"] {
        let config = Config::example("ext_proc")
            .replace("observability_mode: true", "observability_mode: false")
            .replace(
                "response_body_mode: STREAMED\n                response_trailer_mode: SKIP",
                &format!("response_body_mode: {mode}\n                response_trailer_mode: SEND"),
            )
            .replace(
                "failure_mode_allow: true",
                "failure_mode_allow: false\n              message_timeout: 20s",
            );
        let stage = Stage::observing_as(config);
        let mut count = 0;
        for dialect in &DIALECTS[..4] {
            let answer = stage.ask(&dialect.prompt(dialect.name));
            assert_eq!(answer.status, 200, "{mode}: {}", answer.body);
            assert!(answer.body.contains("toll toll"), "{mode}: {}", answer.body);
            count += 1;
            assert_eq!(stage.reports(EXT_PROC, count), counts([("settled", count)]));
            assert_eq!(
                stage.levels("tenant", dialect.name),
                dialect.left(),
                "{mode}"
            );
        }
        let warned: usize = stage
            .replicas
            .iter()
            .map(|it| it.lines_with("observability_mode"))
            .sum();
        assert!((1..=2).contains(&warned), "{warned} warnings");
    }
}
