//! Probes: whether the process should get requests.
//!
//! Ready means that the composition said so *and* that there are rules and a store that answered
//! once. Until it has, it is asked on every probe, with a bound: a probe that hangs is worse than
//! one that fails.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;

use super::Edge;
use crate::health::Stage;

/// How long the store may take. Shorter than the one second that orchestrators give a probe.
const PROBE_TIME: Duration = Duration::from_millis(500);

/// `200 ready`, or 503 with the reason.
pub(super) async fn readyz(State(edge): State<Edge>) -> (StatusCode, String) {
    match edge.ready().await {
        Ok(()) => (StatusCode::OK, Stage::Ready.name().to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason),
    }
}

/// `200 OK`, or 500 without a body, as in envoyproxy/ratelimit.
pub(super) async fn healthcheck(State(edge): State<Edge>) -> (StatusCode, &'static str) {
    match edge.ready().await {
        Ok(()) => (StatusCode::OK, "OK"),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, ""),
    }
}

impl Edge {
    /// Draining needs no further reason; what is missing to a start is told.
    async fn ready(&self) -> Result<(), String> {
        let stage = self.health.stage();
        if stage == Stage::Draining {
            return Err(stage.name().to_owned());
        }
        let answered = tokio::time::timeout(PROBE_TIME, self.service.ready())
            .await
            .unwrap_or_else(|_| Err("the store does not answer".to_owned()));
        match (stage, answered) {
            (Stage::Starting, Ok(())) => Err(stage.name().to_owned()),
            (Stage::Starting, Err(reason)) => Err(format!("{}: {reason}", stage.name())),
            (_, answered) => answered,
        }
    }
}
