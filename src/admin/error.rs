//! What an error looks like: `{"error":{"reason":"bad_usage","message":"…"}}`.

use axum::Json;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::service::{ApiError, RequestError};

/// A request that is answered with an error.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    /// For programs.
    reason: &'static str,
    /// For people.
    message: String,
}

impl Problem {
    pub(super) fn new(
        status: StatusCode,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            status,
            reason,
            message: message.into(),
        }
    }

    /// The caller has to change the request.
    pub(super) fn bad(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason, message)
    }
}

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Self {
        let status = match &error {
            ApiError::UnknownDomain(_) => StatusCode::NOT_FOUND,
            // Trying again later may help.
            ApiError::StoreUnavailable | ApiError::Request(RequestError::NotConfigured) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            ApiError::BadUsage { .. }
            | ApiError::Contradiction(_)
            | ApiError::NoId
            | ApiError::Request(_)
            | ApiError::TooManyReports(_) => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.reason(), error.to_string())
    }
}

impl From<BytesRejection> for Problem {
    fn from(rejection: BytesRejection) -> Self {
        let status = rejection.status();
        if status == StatusCode::PAYLOAD_TOO_LARGE {
            let message = format!("a body may have at most {} bytes", super::MAX_BODY);
            return Self::new(status, "body_too_large", message);
        }
        Self::new(status, "bad_body", rejection.body_text())
    }
}

impl Problem {
    /// As it is written.
    pub(super) fn to_json(&self) -> Value {
        json!({ "error": { "reason": self.reason, "message": self.message } })
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, Json(self.to_json())).into_response()
    }
}
