//! Every way in which a request can be none, by status and reason.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot talk to its server has failed"
)]

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tollgate::clock::{Clock, ManualClock};
use tollgate::store::{Memory, Store};

use super::fixture::{Edge, START};
use crate::support::http::{self, Reply};

fn problem(reply: &Reply) -> (u16, String, String) {
    let body = reply.json();
    let text = |name: &str| body["error"][name].as_str().unwrap().to_owned();
    assert_eq!(body.as_object().unwrap().len(), 1);
    (reply.status, text("reason"), text("message"))
}

/// Sends each body and compares status and reason; the message has to contain the text.
async fn refused(edge: &Edge, path: &str, cases: &[(&str, u16, &str, &str)]) {
    for (body, status, reason, message) in cases {
        let (got_status, got_reason, text) = problem(&edge.post_text(path, body).await);
        assert_eq!(
            (got_status, got_reason.as_str()),
            (*status, *reason),
            "{body}: {text}"
        );
        assert!(text.contains(message), "{body}: {text}");
    }
}

#[tokio::test]
async fn a_count_that_is_none_is_named_and_changes_nothing() {
    let edge = Edge::start().await;
    for (usage, reason, message) in [
        (
            r#"{"output_tokns":5}"#,
            "bad_usage",
            "usage.output_tokns: no such count",
        ),
        (
            r#"{"output_tokens":-5}"#,
            "bad_usage",
            "usage.output_tokens: -5 is no whole number",
        ),
        (
            r#"{"input_tokens":1.5}"#,
            "bad_usage",
            "usage.input_tokens: 1.5 is no whole number",
        ),
        (
            r#"{"input_tokens":1e3}"#,
            "bad_usage",
            "usage.input_tokens: 1000.0 is no whole number",
        ),
        (
            r#"{"total":"812"}"#,
            "bad_usage",
            r#"usage.total: "812" is no whole number"#,
        ),
        (
            r#"{"total":true}"#,
            "bad_usage",
            "usage.total: true is no whole number",
        ),
        (
            r#"{"total":18446744073709551616}"#,
            "bad_usage",
            "is no whole number",
        ),
        (
            r#"{"total":1,"total":2}"#,
            "bad_usage",
            "usage.total: given twice",
        ),
        (
            r#"{"total":1000000001}"#,
            "bad_usage",
            "total: 1000000001 is more than the 1000000000",
        ),
        (
            r#"{"output_tokens":1000000000001}"#,
            "bad_usage",
            "output_tokens: 1000000000001 is more",
        ),
        (
            r#"{"total":5,"output_tokens":5}"#,
            "ambiguous_usage",
            "not both",
        ),
        (r#"{"total":NaN}"#, "bad_json", "expected value"),
        ("812", "bad_json", "expected an object of counts"),
    ] {
        let descriptors = r#""domain":"llm","descriptors":[{"tenant":"acme"}]"#;
        let body = format!(r#"{{{descriptors},"usage":{usage}}}"#);
        refused(&edge, "/v1/usage", &[(&body, 400, reason, message)]).await;
        let body = format!(r#"{{{descriptors},"id":"r1","usage":{usage}}}"#);
        refused(&edge, "/v1/settle", &[(&body, 400, reason, message)]).await;
        let body = format!(r#"{{{descriptors},"estimate":{usage}}}"#);
        let message = message.replace("usage.", "estimate.");
        refused(&edge, "/v1/reserve", &[(&body, 400, reason, &message)]).await;
    }
    assert_eq!(edge.tokens_left().await, 10_000);
}

#[tokio::test]
async fn a_request_that_is_none_says_why() {
    let edge = Edge::start().await;
    let entries: Value = (0..65).map(|i| json!({ "key": i.to_string() })).collect();
    let many_entries =
        json!({ "domain": "llm", "descriptors": [{ "entries": entries }] }).to_string();
    let descriptors: Value = (0..257).map(|_| json!({ "tenant": "acme" })).collect();
    let many = json!({ "domain": "llm", "descriptors": descriptors }).to_string();
    let long = "x".repeat(64 * 1024 + 1);
    let long = json!({ "domain": "llm", "descriptors": [{ "tenant": long }] }).to_string();
    let bad: [(&str, u16, &str, &str); 11] = [
        ("", 400, "bad_json", "EOF"),
        ("[]", 400, "bad_json", "invalid"),
        (r#"{"domain":"llm"} x"#, 400, "bad_json", "trailing"),
        (
            r#"{"domain":"llm","descriptor":[]}"#,
            400,
            "bad_json",
            "unknown field `descriptor`",
        ),
        (
            r#"{"domain":"llm","descriptors":[{"tenant":17}]}"#,
            400,
            "bad_json",
            "expected a text",
        ),
        (
            r#"{"domain":"llm"}"#,
            400,
            "no_descriptors",
            "must not be empty",
        ),
        (
            r#"{"descriptors":[{"tenant":"acme"}]}"#,
            400,
            "no_domain",
            "must not be empty",
        ),
        (
            r#"{"domain":"ll","descriptors":[{"tenant":"acme"}]}"#,
            404,
            "unknown_domain",
            "'ll'",
        ),
        (&many_entries, 400, "too_many_entries", "64"),
        (&many, 400, "too_many_descriptors", "256"),
        (&long, 400, "text_too_long", "65536"),
    ];
    refused(&edge, "/v1/reserve", &bad).await;
    refused(&edge, "/v1/usage", &bad).await;
}

#[tokio::test]
async fn an_id_is_needed_and_has_to_be_known() {
    let edge = Edge::start().await;
    let ids = [
        (r#"{"domain":"llm"}"#, 400, "no_id", "id"),
        (
            r#"{"domain":"llm","id":"nobody's"}"#,
            404,
            "unknown_id",
            "no reservation",
        ),
        (
            r#"{"domain":"ll","id":"r1"}"#,
            404,
            "unknown_domain",
            "'ll'",
        ),
        (r#"{"id":"r1"}"#, 400, "no_domain", "must not be empty"),
        (
            r#"{"domain":"llm","ID":"r1"}"#,
            400,
            "bad_json",
            "unknown field `ID`",
        ),
    ];
    refused(&edge, "/v1/settle", &ids).await;
    refused(&edge, "/v1/release", &ids).await;
}

#[tokio::test]
async fn a_look_needs_one_domain_and_a_descriptor() {
    let edge = Edge::start().await;
    for (path, status, reason) in [
        ("/v1/bucket", 400, "no_domain"),
        ("/v1/bucket?tenant=acme", 400, "no_domain"),
        ("/v1/bucket?domain=llm", 400, "no_descriptors"),
        (
            "/v1/bucket?domain=llm&domain=ref&tenant=acme",
            400,
            "bad_query",
        ),
        ("/v1/bucket?domain=ll&tenant=acme", 404, "unknown_domain"),
    ] {
        let (got_status, got_reason, _) = problem(&edge.get(path).await);
        assert_eq!(
            (got_status, got_reason.as_str()),
            (status, reason),
            "{path}"
        );
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_told_in_json() {
    let edge = Edge::start().await;
    for (method, path, status, reason) in [
        ("GET", "/v2/bucket", 404, "not_found"),
        ("POST", "/v1", 404, "not_found"),
        ("GET", "/v1/reserve", 405, "method_not_allowed"),
        ("POST", "/metrics", 405, "method_not_allowed"),
        ("DELETE", "/v1/bucket", 405, "method_not_allowed"),
    ] {
        let reply = http::send(edge.address, method, path, b"").await;
        let (got_status, got_reason, _) = problem(&reply);
        assert_eq!(
            (got_status, got_reason.as_str()),
            (status, reason),
            "{method} {path}"
        );
        assert_eq!(
            reply.header("allow").is_some(),
            status == 405,
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn a_body_may_have_a_mebibyte_and_no_byte_more() {
    const MIB: usize = 1024 * 1024;
    let edge = Edge::start().await;
    let body = r#"{"domain":"llm","id":"nobody's"}"#;
    let padded = |length: usize| body.to_owned() + &" ".repeat(length - body.len());
    let fits = edge.post_text("/v1/release", &padded(MIB)).await;
    assert_eq!(problem(&fits).1, "unknown_id");
    for path in ["/v1/release", "/json"] {
        let (status, reason, _) = problem(&edge.post_text(path, &padded(MIB + 1)).await);
        assert_eq!((status, reason.as_str()), (413, "body_too_large"), "{path}");
    }
}

#[tokio::test]
async fn without_a_store_or_rules_it_is_worth_another_try() {
    // A port where nobody listens.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let edge = Edge::on_redis(address).await;
    let body = json!({ "domain": "llm", "descriptors": [{ "tenant": "acme" }], "id": "r1" });
    for reply in [
        edge.post("/v1/reserve", &body).await,
        edge.post("/v1/settle", &body).await,
        edge.get("/v1/bucket?domain=llm&tenant=acme").await,
    ] {
        let (status, reason, _) = problem(&reply);
        assert_eq!((status, reason.as_str()), (503, "store_unavailable"));
    }

    let clock = ManualClock::new(START);
    let edge = Edge::on(
        Store::Memory(Memory::new(Clock::Manual(clock.clone()))),
        clock,
    )
    .await;
    let (status, reason, _) = problem(&edge.post("/v1/reserve", &body).await);
    assert_eq!((status, reason.as_str()), (503, "not_configured"));
}
