//! Answers for an Envoy that waits for them: go on, with nothing changed.

use std::sync::Once;

use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use envoy_types::pb::envoy::service::ext_proc::v3::body_mutation::Mutation;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyMutation, BodyResponse, CommonResponse, HeadersResponse, HttpBody, ProcessingRequest,
    ProcessingResponse, StreamedBodyResponse, TrailersResponse,
};

/// The answers on one stream.
#[derive(Debug, Default)]
pub(super) struct Replies {
    /// Of the request and of the response: whether Envoy holds only what we send back.
    echo: [bool; 2],
}

impl Replies {
    /// The answer to a message, where Envoy waits for one. May take the body out of it.
    pub(super) fn to(&mut self, message: &mut ProcessingRequest) -> Option<ProcessingResponse> {
        if message.observability_mode {
            return None;
        }
        warn_once();
        if let Some(modes) = &message.protocol_config {
            let duplex = |mode: i32| mode == BodySendMode::FullDuplexStreamed as i32;
            self.echo = [
                duplex(modes.request_body_mode),
                duplex(modes.response_body_mode),
            ];
        }
        let [echo_request, echo_response] = self.echo;
        let reply = match message.request.as_mut()? {
            Request::RequestHeaders(_) => Response::RequestHeaders(HeadersResponse::default()),
            Request::ResponseHeaders(_) => Response::ResponseHeaders(HeadersResponse::default()),
            Request::RequestBody(body) => Response::RequestBody(body_reply(body, echo_request)),
            Request::ResponseBody(body) => Response::ResponseBody(body_reply(body, echo_response)),
            Request::RequestTrailers(_) => Response::RequestTrailers(TrailersResponse::default()),
            Request::ResponseTrailers(_) => Response::ResponseTrailers(TrailersResponse::default()),
        };
        Some(ProcessingResponse {
            response: Some(reply),
            ..ProcessingResponse::default()
        })
    }
}

/// In full duplex a body goes on only as far as it is sent back.
fn body_reply(body: &mut HttpBody, echo: bool) -> BodyResponse {
    if !echo {
        return BodyResponse::default();
    }
    let streamed = StreamedBodyResponse {
        body: std::mem::take(&mut body.body),
        end_of_stream: body.end_of_stream,
        end_of_stream_without_message: body.end_of_stream_without_message,
        grpc_message_compressed: body.grpc_message_compressed,
        ..StreamedBodyResponse::default()
    };
    BodyResponse {
        response: Some(CommonResponse {
            body_mutation: Some(BodyMutation {
                mutation: Some(Mutation::StreamedResponse(streamed)),
            }),
            ..CommonResponse::default()
        }),
    }
}

fn warn_once() {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        tracing::warn!(
            "an ext_proc filter of Envoy waits for our answers, which delays its traffic; \
             set observability_mode: true"
        );
    });
}
