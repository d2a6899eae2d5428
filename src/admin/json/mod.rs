//! `/json`: Envoy's `ShouldRateLimit` for people with curl, as envoyproxy/ratelimit has it.
//!
//! Protobuf's JSON in and out, 200 or 429 by the answer, and 400 with nothing but `Bad Request` for
//! every request that is none; the reason goes to the log and the metrics. The request counts like
//! one of Envoy's.

mod answer;
mod request;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use self::answer::RateLimitResponse;
use self::request::RateLimitRequest;
use super::Edge;
use super::error::Problem;

const BAD_REQUEST: (StatusCode, &str) = (StatusCode::BAD_REQUEST, "Bad Request\n");

/// Decides over an admission, by any method.
pub(super) async fn should_rate_limit(
    State(edge): State<Edge>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let body = match body.map_err(Problem::from) {
        Ok(body) => body,
        Err(problem) if problem.status == StatusCode::PAYLOAD_TOO_LARGE => {
            return problem.into_response();
        }
        Err(_) => return BAD_REQUEST.into_response(),
    };
    let request: RateLimitRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => {
            tracing::debug!(%error, "not a request in JSON");
            return BAD_REQUEST.into_response();
        }
    };
    // Logs and counts its errors itself.
    let Ok(answer) = edge.service.should_rate_limit(&request.asked()).await else {
        return BAD_REQUEST.into_response();
    };
    let status = if answer.over_limit {
        StatusCode::TOO_MANY_REQUESTS
    } else {
        StatusCode::OK
    };
    (status, Json(RateLimitResponse::from(answer))).into_response()
}
