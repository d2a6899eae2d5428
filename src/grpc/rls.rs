//! `envoy.service.ratelimit.v3.RateLimitService`.
//!
//! A refusal is an answer (`OVER_LIMIT`), never a gRPC error: to Envoy every error means "the
//! service failed", and it lets the request pass or answers 500 by its own setting. Errors are for
//! requests that are none.

mod request;
mod response;

use http::HeaderMap;
use tonic::Status;

pub(super) use self::response::encode;
use crate::service::{Answer, RequestError, Service};

/// Its one method, as gRPC names it: the path of the call.
pub const METHOD: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

/// The gRPC metadata that carries Envoy's request id where the operator has it sent.
const REQUEST_ID: &str = "x-request-id";

/// Answers a request.
pub(super) async fn answer(
    service: &Service,
    headers: &HeaderMap,
    message: &[u8],
) -> Result<Answer, Status> {
    let request_id = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let request = request::decode(message, request_id)
        .map_err(|error| Status::internal(error.to_string()))?;
    service
        .should_rate_limit(&request)
        .await
        .map_err(|error| status(&error))
}

/// The gRPC error for a request that is none.
pub(super) fn status(error: &RequestError) -> Status {
    match error {
        RequestError::NotConfigured => Status::failed_precondition(error.to_string()),
        _ => Status::invalid_argument(error.to_string()),
    }
}
