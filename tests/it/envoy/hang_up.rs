//! A response that never comes to its end is paid for as far as anybody knows what it cost.

use super::stage::{Stage, chat, levels, prompt};
use crate::support::client::Request;

/// Reads the first piece of a streamed answer and hangs up.
fn hang_up_after_the_first_piece(stage: &Stage, request: Request, piece: &str) {
    let request = request.header("x-fake-stall-after", &1);
    let sent = request.send(stage.envoy.port).unwrap();
    let mut answer = sent.begin().unwrap();
    answer.read_until(piece).unwrap();
}

#[test]
fn a_client_that_hangs_up_pays_what_was_reported_and_no_less_than_its_estimate() {
    let stage = Stage::settle();
    let request = prompt("/v1/messages", "hasty", true)
        .header("x-fake-input-tokens", &812)
        .header("x-fake-cache-read-tokens", &204)
        .header("x-fake-cache-write-tokens", &33)
        .header("x-fake-output-tokens", &411);
    hang_up_after_the_first_piece(&stage, request, "content_block_delta");

    let calls = stage.calls(2);
    let reported = [
        "phase=report id=id measure=input_tokens @812",
        "phase=report id=id measure=cache_read_tokens @204",
        "phase=report id=id measure=cache_write_tokens @33",
        "phase=report id=id measure=output_tokens @1",
        "phase=report id=id outcome=downstream_remote_disconnect @0",
    ];
    assert_eq!(calls[1].descriptors(), reported);
    let left = levels([
        ("requests", 99),
        // What was estimated, where that is more than what was told by then.
        ("input", 1_000_000 - 900),
        ("cache-read", 1_000_000 - 204),
        ("cache-write", 1_000_000 - 33),
        ("output", 1_000_000 - 300),
    ]);
    assert_eq!(stage.levels("tenant", "hasty"), left);
    let left = levels([("tokens", 1_000_000 - 812 - 204 - 33 - 1)]);
    assert_eq!(stage.levels("deployment", "anthropic-claude"), left);
}

#[test]
fn without_usage_the_estimate_stays_or_comes_back_as_each_limit_says() {
    let stage = Stage::settle();
    for (count, tenant) in [(2, "careful"), (4, "trusting")] {
        hang_up_after_the_first_piece(&stage, chat(tenant, true), "toll");
        let calls = stage.calls(count);
        let reported = ["phase=report id=id outcome=downstream_remote_disconnect @0"];
        assert_eq!(calls[count - 1].descriptors(), reported);
    }
    let careful = levels([
        ("requests", 99),
        ("input", 1_000_000 - 900),
        ("cache-read", 1_000_000),
        ("cache-write", 1_000_000),
        ("output", 1_000_000 - 300),
    ]);
    assert_eq!(stage.levels("tenant", "careful"), careful);
    let trusting = levels([("requests", 99), ("tokens", 1_000_000)]);
    assert_eq!(stage.levels("tenant", "trusting"), trusting);
    // The deployment's limit keeps what it took for each of the two.
    let deployment = levels([("tokens", 1_000_000 - 2 * 1000)]);
    let azure = stage.levels("deployment", "azure-eastus-gpt-4o");
    assert_eq!(azure, deployment);
}

#[test]
fn an_error_of_the_provider_costs_a_request_and_no_tokens() {
    let stage = Stage::settle();
    let request = chat("unlucky", false).header("x-fake-status", &500);
    assert_eq!(stage.ask(&request).status, 500);
    stage.calls(2);
    let left = levels([
        ("requests", 99),
        ("input", 1_000_000),
        ("cache-read", 1_000_000),
        ("cache-write", 1_000_000),
        ("output", 1_000_000),
    ]);
    assert_eq!(stage.levels("tenant", "unlucky"), left);
    let left = levels([("tokens", 1_000_000)]);
    assert_eq!(stage.levels("deployment", "azure-eastus-gpt-4o"), left);
}

#[test]
fn a_request_that_no_provider_got_costs_no_tokens() {
    let mut stage = Stage::settle();
    stage.upstream.stop();
    assert_eq!(stage.ask(&chat("unlucky", false)).status, 503);
    let calls = stage.calls(2);
    let [report] = calls[1].descriptors().try_into().unwrap();
    let report: String = report;
    assert!(
        report.contains("outcome=upstream_reset_before_response_started"),
        "{report}"
    );
    let left = levels([
        ("requests", 99),
        ("input", 1_000_000),
        ("cache-read", 1_000_000),
        ("cache-write", 1_000_000),
        ("output", 1_000_000),
    ]);
    assert_eq!(stage.levels("tenant", "unlucky"), left);
}
