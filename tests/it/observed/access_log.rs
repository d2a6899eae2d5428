//! Entries of an access log, good and bad.
#![expect(
    clippy::unwrap_used,
    reason = "a test's scaffolding fails the test where it stands"
)]

use envoy_types::pb::envoy::config::core::v3::{Metadata, Node};
use envoy_types::pb::envoy::data::accesslog::v3::{
    AccessLogCommon, AccessLogType, HttpAccessLogEntry, HttpRequestProperties, ResponseFlags,
};
use envoy_types::pb::envoy::data::ai::v3::{InputTokenDetails, TokenUsage};
use envoy_types::pb::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use envoy_types::pb::envoy::service::accesslog::v3::access_log_service_client::AccessLogServiceClient;
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::{
    HttpAccessLogEntries, Identifier, LogEntries,
};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Any, UInt64Value};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;

use crate::usage::fixture::{ALL, directory};

use super::fixture::{RATELIMIT, Server, metadata, reservation, series, text};

const USAGE: &str = "tollgate.usage";

/// An entry of a call that ended.
fn entry(metadata: Metadata) -> HttpAccessLogEntry {
    HttpAccessLogEntry {
        common_properties: Some(AccessLogCommon {
            metadata: Some(metadata),
            access_log_type: AccessLogType::DownstreamEnd.into(),
            ..AccessLogCommon::default()
        }),
        ..HttpAccessLogEntry::default()
    }
}

/// An entry of a call under a reservation, with this usage.
fn used(id: &str, usage: &[(&str, Kind)]) -> HttpAccessLogEntry {
    entry(metadata(&[(RATELIMIT, &reservation(id)), (USAGE, usage)]))
}

fn message(entries: impl IntoIterator<Item = HttpAccessLogEntry>) -> StreamAccessLogsMessage {
    let log_entry = entries.into_iter().collect();
    StreamAccessLogsMessage {
        identifier: None,
        log_entries: Some(LogEntries::HttpLogs(HttpAccessLogEntries { log_entry })),
    }
}

/// Sends messages on a stream of their own that begins with this metadata, and ends it.
async fn send(
    server: &Server,
    setup: &[(&'static str, &'static str)],
    messages: Vec<StreamAccessLogsMessage>,
) {
    let mut request = Request::new(tokio_stream::iter(messages));
    for (name, value) in setup {
        let value = value.parse().unwrap();
        request.metadata_mut().insert(*name, value);
    }
    let mut client = AccessLogServiceClient::new(server.channel.clone());
    client.stream_access_logs(request).await.unwrap();
}

#[tokio::test]
async fn usage_has_the_names_of_a_report_or_the_providers_own() {
    let server = Server::start(&["llm"]).await;
    let count = |count: i32| Kind::NumberValue(count.into());
    let object = text(r#"{"input_tokens":1,"cache_read_input_tokens":204,"output_tokens":1}"#);
    let usages: [(&str, &[(&str, Kind)]); 5] = [
        (
            "names",
            &[
                ("prompt_tokens", count(1016)),
                ("cached_tokens", text(" 204 ")),
                ("total_tokens", count(1427)),
                ("model", text("gpt")),
            ],
        ),
        (
            "places",
            &[
                ("usage.input_tokens", count(1016)),
                ("usage.input_tokens_details.cached_tokens", count(204)),
                ("usage.output_tokens", text("411")),
                ("usage.service_tier", text("standard")),
                ("model", text("gpt")),
            ],
        ),
        (
            "objects",
            &[
                ("message.usage", object),
                ("usage", text(r#"{"input_tokens":812,"output_tokens":411}"#)),
            ],
        ),
        (
            "both",
            &[
                (
                    "usage",
                    text(r#"{"promptTokenCount":7,"prompt_tokens":1016,"completion_tokens":411}"#),
                ),
                ("usage.prompt_tokens_details.cached_tokens", count(204)),
            ],
        ),
        (
            "gemini",
            &[
                ("usageMetadata.promptTokenCount", count(1016)),
                ("usageMetadata.cachedContentTokenCount", count(204)),
                ("usageMetadata.candidatesTokenCount", count(211)),
                ("usageMetadata.thoughtsTokenCount", count(200)),
            ],
        ),
    ];
    let entries = usages.iter().map(|(id, usage)| used(id, usage));
    for (id, _) in &usages {
        server.admit(id).await;
    }
    send(&server, &[], vec![message(entries)]).await;
    for (id, _) in usages {
        assert_eq!(server.taken(id).await, [812, 204, 411], "{id}");
    }
}

/// The numbers in a document, each by its place.
fn places(document: &serde_json::Value, place: &str, found: &mut Vec<(String, Kind)>) {
    if let Some(object) = document.as_object() {
        for (key, value) in object {
            places(value, &format!("{place}.{key}"), found);
        }
    } else if let Some(number) = document.as_f64() {
        let place = place.trim_start_matches('.').to_owned();
        found.push((place, Kind::NumberValue(number)));
    }
}

#[tokio::test]
async fn counts_by_their_places_come_to_the_same_as_the_whole_answer() {
    let server = Server::start(&["llm"]).await;
    for (name, expected) in ALL {
        let text = std::fs::read_to_string(directory().join(name)).unwrap();
        let Ok(document @ serde_json::Value::Object(_)) = serde_json::from_str(&text) else {
            continue;
        };
        let mut found = Vec::new();
        places(&document, "", &mut found);
        let usage: Vec<_> = found
            .iter()
            .map(|(place, count)| (place.as_str(), count.clone()))
            .collect();
        server.admit(name).await;
        send(&server, &[], vec![message([used(name, &usage)])]).await;
        let taken = match expected {
            Some(measures) => {
                let [input, read, write, output] = measures.map(u64::cast_signed);
                [input, read + write, output]
            }
            None => [900, 0, 300],
        };
        assert_eq!(server.taken(name).await, taken, "{name}");
    }
}

#[tokio::test]
async fn envoys_typed_record_counts_and_another_namespace_can_be_named() {
    let server = Server::start(&["llm"]).await;
    for id in ["typed", "named"] {
        server.admit(id).await;
    }
    let count = |value| Some(UInt64Value { value });
    let usage = TokenUsage {
        input_tokens: count(1049),
        output_tokens: count(411),
        total_tokens: count(1460),
        input_token_details: Some(InputTokenDetails {
            cached_tokens: count(204),
            cache_creation_tokens: count(33),
            tool_use_tokens: None,
        }),
        ..TokenUsage::default()
    };
    let mut typed = metadata(&[(RATELIMIT, &reservation("typed"))]);
    typed.typed_filter_metadata.insert(
        "envoy.ai.token_usage".to_owned(),
        Any {
            type_url: "type.googleapis.com/envoy.data.ai.v3.TokenUsage".to_owned(),
            value: usage.encode_to_vec(),
        },
    );
    let named = metadata(&[
        (RATELIMIT, &reservation("named")),
        ("mine", &[("output_tokens", Kind::NumberValue(7.0))]),
    ]);
    let setup = [("tollgate-usage", "mine"), ("tollgate-domain", "llm")];
    let entries = [entry(typed), entry(named)];
    send(&server, &setup, vec![message(entries)]).await;
    assert_eq!(server.taken("typed").await, [812, 237, 411]);
    assert_eq!(server.taken("named").await, [0, 0, 7]);
}

#[tokio::test]
async fn a_bad_entry_is_counted_and_those_beside_it_are_charged() {
    let server = Server::start(&["llm"]).await;
    let bad: [(&str, &[(&str, Kind)]); 9] = [
        ("negative", &[("output_tokens", Kind::NumberValue(-1.0))]),
        (
            "nan",
            &[("usage.output_tokens", Kind::NumberValue(f64::NAN))],
        ),
        ("broken", &[("output_tokens", Kind::NumberValue(1.5))]),
        ("large", &[("output_tokens", Kind::NumberValue(1e12 + 1.0))]),
        ("huge", &[("usage.output_tokens", Kind::NumberValue(1e300))]),
        ("words", &[("output_tokens", text("many"))]),
        ("places", &[("message.usage.output_tokens", text("many"))]),
        ("no-json", &[("usage", text("{\"output_tokens\":"))]),
        (
            "contradiction",
            &[
                ("prompt_tokens", Kind::NumberValue(5.0)),
                ("cached_tokens", Kind::NumberValue(6.0)),
            ],
        ),
    ];
    server.admit("good").await;
    server.admit("after").await;
    for (id, _) in &bad {
        server.admit(id).await;
    }
    let good = |id| used(id, &[("output_tokens", Kind::NumberValue(31.0))]);
    let entries = bad.iter().map(|(id, usage)| used(id, usage));
    let first = message(entries.chain([HttpAccessLogEntry::default(), good("good")]));
    send(&server, &[], vec![first, message([good("after")])]).await;
    for id in ["good", "after"] {
        assert_eq!(server.taken(id).await, [0, 0, 31], "{id}");
    }
    for (id, _) in bad {
        assert_eq!(server.taken(id).await, [900, 0, 300], "{id}");
    }
    let reports = series([
        ("{result=\"invalid\",source=\"access_log\"}", 9),
        ("{result=\"settled\",source=\"access_log\"}", 2),
    ]);
    assert_eq!(server.reports(11).await, reports);
    let problems = series([("{reason=\"bad_usage\",source=\"access_log\"}", 9)]);
    assert_eq!(server.problems().await, problems);
    assert!(server.tollgate.log().contains("no usage can be reported"));
}

#[tokio::test]
async fn what_is_wrong_with_a_stream_is_told_with_each_entry() {
    let server = Server::start(&["llm", "other"]).await;
    server.admit("a").await;
    let messages = || vec![message([used("a", &[("output_tokens", text("31"))])])];
    send(&server, &[], messages()).await;
    send(&server, &[("tollgate-domain", "elsewhere")], messages()).await;
    send(&server, &[("tollgate-descriptors", "=x")], messages()).await;
    assert_eq!(server.taken("a").await, [900, 0, 300]);
    let problems = series([
        ("{reason=\"bad_setup\",source=\"access_log\"}", 1),
        ("{reason=\"no_domain\",source=\"access_log\"}", 1),
        ("{reason=\"unknown_domain\",source=\"access_log\"}", 1),
    ]);
    assert_eq!(server.problems().await, problems);
    send(&server, &[("tollgate-domain", "llm")], messages()).await;
    assert_eq!(server.taken("a").await, [0, 0, 31]);
}

#[tokio::test]
async fn without_a_reservation_descriptors_are_charged_once_a_request() {
    const SETUP: [(&str, &str); 1] = [("tollgate-descriptors", "tenant=x-tenant")];

    let server = Server::start(&["llm"]).await;
    let unreserved = |tenant: &str, request_id: &str| {
        let usage: &[(&str, Kind)] = &[("output_tokens", Kind::NumberValue(31.0))];
        let mut request = HttpRequestProperties {
            request_id: request_id.to_owned(),
            ..HttpRequestProperties::default()
        };
        if !tenant.is_empty() {
            let headers = &mut request.request_headers;
            headers.insert("x-tenant".to_owned(), tenant.to_owned());
        }
        HttpAccessLogEntry {
            request: Some(request),
            ..entry(metadata(&[(USAGE, usage)]))
        }
    };
    let all = || vec![message([unreserved("a", "r1"), unreserved("", "r2")])];
    // Nothing says whose it was.
    send(&server, &[], all()).await;
    assert_eq!(server.taken("a").await, [0, 0, 0]);
    send(&server, &SETUP, all()).await;
    send(&server, &SETUP, all()).await;
    assert_eq!(server.taken("a").await, [0, 0, 31]);

    let mut tagged = unreserved("", "r3");
    let common = tagged.common_properties.as_mut().unwrap();
    let tags = &mut common.custom_tags;
    tags.insert("x-tenant".to_owned(), "b".to_owned());
    send(&server, &SETUP, vec![message([tagged])]).await;
    assert_eq!(server.taken("b").await, [0, 0, 31]);

    // A reservation that nobody knows (it was lost, or has expired).
    let mut lost = unreserved("c", "r4");
    let common = lost.common_properties.as_mut().unwrap();
    let known = common.metadata.as_mut().unwrap();
    known
        .filter_metadata
        .extend(metadata(&[(RATELIMIT, &reservation("lost"))]).filter_metadata);
    for _ in 0..2 {
        send(&server, &SETUP, vec![message([lost.clone()])]).await;
    }
    assert_eq!(server.taken("c").await, [0, 0, 31]);
}

#[tokio::test]
async fn refused_requests_and_those_that_go_on_are_passed_over() {
    let server = Server::start(&["llm"]).await;
    server.admit("a").await;
    let output = [("output_tokens", Kind::NumberValue(31.0))];
    let mut refused = used("a", &output);
    refused.common_properties.as_mut().unwrap().response_flags = Some(ResponseFlags {
        rate_limited: true,
        ..ResponseFlags::default()
    });
    let mut going_on = used("a", &output);
    let common = going_on.common_properties.as_mut().unwrap();
    common.access_log_type = AccessLogType::DownstreamPeriodic.into();
    send(&server, &[], vec![message([refused, going_on])]).await;
    assert_eq!(server.taken("a").await, [900, 0, 300]);
    assert_eq!(server.reports(0).await, series([]));
}

#[tokio::test]
async fn the_first_message_may_be_large_and_an_open_stream_holds_up_no_end() {
    let mut server = Server::start(&["llm"]).await;
    server.admit("a").await;
    let mut first = message([used("a", &[("output_tokens", Kind::NumberValue(31.0))])]);
    first.identifier = Some(Identifier {
        node: Some(Node {
            id: "n".repeat(8 << 20),
            ..Node::default()
        }),
        log_name: "llm".to_owned(),
    });
    let (log, messages) = mpsc::channel(1);
    let mut client = AccessLogServiceClient::new(server.channel.clone());
    let stream = tokio::spawn(async move {
        client
            .stream_access_logs(ReceiverStream::new(messages))
            .await
    });
    log.send(first).await.unwrap();
    server.reports(1).await;
    assert_eq!(server.taken("a").await, [0, 0, 31]);

    server.tollgate.signal("-TERM");
    stream.await.unwrap().unwrap();
    drop(server.channel);
    let status = server.tollgate.ended(crate::support::process::PATIENCE);
    assert_eq!(status.code(), Some(0));
}
