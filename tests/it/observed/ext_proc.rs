//! Answers as Envoy shows them while they pass, with and without waiting.
#![expect(
    clippy::unwrap_used,
    reason = "a test's scaffolding fails the test where it stands"
)]

use std::collections::HashMap;
use std::io::Write as _;

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, Metadata};
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_client::ExternalProcessorClient;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Reply;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpBody, HttpHeaders, HttpTrailers, ProcessingRequest,
};
use envoy_types::pb::google::protobuf::Struct;
use flate2::Compression;
use flate2::write::GzEncoder;
use tonic::Request;

use super::fixture::{RATELIMIT, Server, metadata, reservation, series, text};

const ANSWER: &str = r#"{"choices":[{"message":{"content":"Hi"}}],"usage":{"prompt_tokens":1016,"prompt_tokens_details":{"cached_tokens":204},"completion_tokens":411}}"#;
const SETTLED: &str = "{result=\"settled\",source=\"ext_proc\"}";
const INVALID: &str = "{result=\"invalid\",source=\"ext_proc\"}";

/// What Envoy sends about one call.
#[derive(Clone)]
struct Call {
    parts: Vec<Part>,
    metadata: Option<Metadata>,
    details: &'static str,
    observes: bool,
}

fn headers(headers: &[(&str, &str)], end_of_stream: bool) -> HttpHeaders {
    let headers = headers.iter().map(|(key, value)| HeaderValue {
        key: (*key).to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..HeaderValue::default()
    });
    HttpHeaders {
        headers: Some(HeaderMap {
            headers: headers.collect(),
        }),
        end_of_stream,
        ..HttpHeaders::default()
    }
}

impl Call {
    /// Under a reservation, with the head of an answer.
    fn new(id: Option<&str>, head: &[(&str, &str)]) -> Self {
        let request = [("x-request-id", "r1"), ("x-tenant", "b")];
        Self {
            parts: vec![
                Part::RequestHeaders(headers(&request, true)),
                Part::ResponseHeaders(headers(head, false)),
            ],
            metadata: id.map(|id| metadata(&[(RATELIMIT, &reservation(id))])),
            details: "via_upstream",
            observes: true,
        }
    }

    /// With these pieces of a body.
    fn body<P: AsRef<[u8]>>(mut self, pieces: impl IntoIterator<Item = P>) -> Self {
        self.parts.extend(pieces.into_iter().map(|piece| {
            Part::ResponseBody(HttpBody {
                body: piece.as_ref().to_vec(),
                ..HttpBody::default()
            })
        }));
        self
    }

    /// With its end.
    fn end(mut self) -> Self {
        self.parts.push(Part::ResponseBody(HttpBody {
            end_of_stream: true,
            ..HttpBody::default()
        }));
        self
    }

    fn messages(self) -> Vec<ProcessingRequest> {
        let details = metadata(&[("", &[("response.code_details", text(self.details))])]);
        let attributes: HashMap<String, Struct> = details.filter_metadata;
        let message = |part| ProcessingRequest {
            request: Some(part),
            metadata_context: self.metadata.clone(),
            observability_mode: self.observes,
            attributes: attributes.clone(),
            ..ProcessingRequest::default()
        };
        self.parts.into_iter().map(message).collect()
    }
}

/// Shows a call on a stream that begins with this metadata; gives what was answered.
async fn show(server: &Server, setup: &[(&'static str, &'static str)], call: Call) -> Vec<Reply> {
    let mut request = Request::new(tokio_stream::iter(call.messages()));
    for (name, value) in setup {
        let value = value.parse().unwrap();
        request.metadata_mut().insert(*name, value);
    }
    let mut client = ExternalProcessorClient::new(server.channel.clone());
    let mut replies = client.process(request).await.unwrap().into_inner();
    let mut said = Vec::new();
    while let Some(reply) = replies.message().await.unwrap() {
        said.extend(reply.response);
    }
    said
}

const JSON: &[(&str, &str)] = &[(":status", "200"), ("content-type", "application/json")];

#[tokio::test]
async fn an_answer_is_read_however_it_is_cut_and_packed_and_nothing_is_answered() {
    let server = Server::start(&["llm"]).await;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(ANSWER.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let packed: Vec<_> = JSON
        .iter()
        .chain(&[("content-encoding", "gzip")])
        .copied()
        .collect();
    let pieces = |size| ANSWER.as_bytes().chunks(size);
    let calls = [
        (
            "whole",
            Call::new(Some("whole"), JSON).body(pieces(1000)).end(),
        ),
        (
            "bytes",
            Call::new(Some("bytes"), JSON).body(pieces(1)).end(),
        ),
        (
            "packed",
            Call::new(Some("packed"), &packed)
                .body(gzip.chunks(7))
                .end(),
        ),
        // Only the stream ends: there are trailers that are not shown.
        (
            "trailers",
            Call::new(Some("trailers"), JSON).body(pieces(1000)),
        ),
    ];
    for (id, call) in calls {
        server.admit(id).await;
        assert_eq!(show(&server, &[], call).await, []);
        assert_eq!(server.taken(id).await, [812, 204, 411], "{id}");
    }
    assert_eq!(server.reports(4).await, series([(SETTLED, 4)]));
    assert_eq!(server.problems().await, series([]));
}

#[tokio::test]
async fn a_call_that_is_shown_twice_is_charged_once() {
    let server = Server::start(&["llm"]).await;
    server.admit("a").await;
    let call = Call::new(Some("a"), JSON).body([ANSWER.as_bytes()]).end();
    show(&server, &[], call.clone()).await;
    show(&server, &[], call.clone()).await;
    assert_eq!(server.taken("a").await, [812, 204, 411]);

    // Without a reservation, where a descriptor says to whom, by Envoy's request id.
    let unreserved = Call {
        metadata: None,
        ..call
    };
    show(&server, &[], unreserved.clone()).await;
    assert_eq!(server.taken("b").await, [0, 0, 0]);
    for _ in 0..2 {
        let setup = [("tollgate-descriptors", "tenant=x-tenant")];
        show(&server, &setup, unreserved.clone()).await;
    }
    assert_eq!(server.taken("b").await, [812, 204, 411]);
}

#[tokio::test]
async fn an_error_used_nothing_if_it_is_the_providers() {
    let server = Server::start(&["llm"]).await;
    let error = [(":status", "429"), ("content-type", "application/json")];
    for (id, details) in [("theirs", "via_upstream"), ("ours", "upstream_reset")] {
        server.admit(id).await;
        let call = Call::new(Some(id), &error).body([br#"{"error":{}}"#]).end();
        show(&server, &[], Call { details, ..call }).await;
    }
    assert_eq!(server.taken("theirs").await, [0, 0, 0]);
    assert_eq!(server.taken("ours").await, [900, 0, 300]);
    let problems = series([("{reason=\"no_usage\",source=\"ext_proc\"}", 1)]);
    assert_eq!(server.problems().await, problems);
}

#[tokio::test]
async fn what_cannot_be_read_is_told_and_leaves_the_reservation() {
    let server = Server::start(&["llm"]).await;
    for id in ["bad", "cut", "picture", "zstd", "silent"] {
        server.admit(id).await;
    }
    let bad = [br#"{"usage":{"prompt_tokens":-1,"completion_tokens":7}}"#];
    show(&server, &[], Call::new(Some("bad"), JSON).body(bad).end()).await;
    let cut = [&ANSWER.as_bytes()[..60]];
    show(&server, &[], Call::new(Some("cut"), JSON).body(cut)).await;
    let picture = [(":status", "200"), ("content-type", "image/png")];
    show(&server, &[], Call::new(Some("picture"), &picture).end()).await;
    let zstd = [(":status", "200"), ("content-encoding", "zstd")];
    show(&server, &[], Call::new(Some("zstd"), &zstd).end()).await;
    let mut silent = Call::new(Some("silent"), JSON);
    silent.parts.truncate(1);
    show(&server, &[], silent).await;

    let reports = server.reports(5).await;
    let without = "{result=\"without_usage\",source=\"ext_proc\"}";
    assert_eq!(reports, series([(INVALID, 1), (without, 4)]));
    let reasons = [
        "bad_count",
        "cut_short",
        "no_answer",
        "unknown_encoding",
        "unknown_type",
    ]
    .map(|reason| format!("{{reason=\"{reason}\",source=\"ext_proc\"}}"));
    let told: Vec<_> = server.problems().await.into_iter().collect();
    assert_eq!(told, reasons.map(|reason| (reason, 1)));
    // What is refused may still be reported right by somebody else.
    let again = Call::new(Some("bad"), JSON).body([ANSWER.as_bytes()]).end();
    show(&server, &[], again).await;
    assert_eq!(server.taken("bad").await, [812, 204, 411]);
}

#[tokio::test]
async fn who_waits_is_told_to_go_on_whatever_is_wrong() {
    let server = Server::start(&["llm"]).await;
    server.admit("a").await;
    let mut call = Call::new(Some("a"), JSON).body([ANSWER.as_bytes()]).end();
    call.observes = false;
    let body = HttpBody::default();
    let trailers = HttpTrailers::default();
    call.parts.insert(1, Part::RequestBody(body));
    call.parts
        .insert(2, Part::RequestTrailers(trailers.clone()));
    call.parts.push(Part::ResponseTrailers(trailers));
    let wrong = [("tollgate-descriptors", "=")];
    for setup in [&wrong[..], &[]] {
        let replies = show(&server, setup, call.clone()).await;
        let [
            Reply::RequestHeaders(first),
            Reply::RequestBody(_),
            Reply::RequestTrailers(_),
            Reply::ResponseHeaders(head),
            Reply::ResponseBody(piece),
            Reply::ResponseBody(_),
            Reply::ResponseTrailers(_),
        ] = replies.as_slice()
        else {
            panic!("{replies:?}")
        };
        assert_eq!(
            [&first.response, &head.response, &piece.response],
            [&None; 3]
        );
    }
    let reports = series([(INVALID, 1), (SETTLED, 1)]);
    assert_eq!(server.reports(2).await, reports);
    assert_eq!(server.taken("a").await, [812, 204, 411]);
    assert_eq!(server.tollgate.lines_with("observability_mode: true"), 1);
}
