//! The HTTP edge: probes, metrics, our own API in JSON, and `/json` as envoyproxy/ratelimit has it.
//!
//! For operators, scrapers, and callers that speak no gRPC; Envoy never comes here. So it is plain
//! HTTP/1.1 for a network that is trusted as much as the gRPC port's, without authentication, and
//! bounded on every side: bodies, connections, and the time that any request may take. Nothing is
//! guessed: an unknown field, a count that is none, a path that is none are answered with an error
//! that names them, as JSON with a `reason` for programs and a `message` for people.
//!
//! The only module that names axum. What it answers is decided in [`crate::service`].

mod body;
mod descriptor;
mod error;
mod json;
mod probes;
mod report;
mod serve;
mod usage;
mod v1;
mod view;

use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};

pub use serve::serve;

use self::error::Problem;
use crate::health::Health;
use crate::service::Service;

/// The largest body.
const MAX_BODY: usize = 1024 * 1024;

/// How long a request may take, from its head to its answer. Longer than a report is tried again.
const MAX_TIME: Duration = Duration::from_secs(10);

const INDEX: &str = "\
GET  /             this list
GET  /healthcheck  200 OK, or 500
GET  /livez        whether the process runs
GET  /readyz       whether it takes requests, or why not
GET  /metrics      Prometheus
GET  /v1/bucket    ?domain=D&KEY=VALUE: the buckets of a descriptor
POST /v1/reserve   {domain, descriptors, estimate, id, priority}
POST /v1/progress  {domain, id, usage}
POST /v1/settle    {domain, id, usage, descriptors}
POST /v1/release   {domain, id}
POST /v1/usage     {domain, descriptors, usage, id}, or {reports: [...]}
POST /json         envoy.service.ratelimit.v3.RateLimitRequest
";

/// What the handlers work on.
#[derive(Clone, Debug)]
struct Edge {
    service: Service,
    health: Health,
}

impl Edge {
    /// Counts a report that was refused here, before the service heard of it.
    fn counted<T>(&self, report: Result<T, Problem>) -> Result<T, Problem> {
        if report.is_err() {
            self.service.count_refused_report();
        }
        report
    }
}

/// All endpoints, on `service`.
pub fn router(service: Service, health: Health) -> Router {
    Router::new()
        .route("/", get(INDEX))
        .route("/healthcheck", any(probes::healthcheck))
        .route("/livez", get("live"))
        .route("/readyz", get(probes::readyz))
        .route("/metrics", get(metrics))
        .route("/json", any(json::should_rate_limit))
        .route("/v1/bucket", get(v1::bucket))
        .route("/v1/reserve", post(v1::reserve))
        .route("/v1/progress", post(v1::progress))
        .route("/v1/settle", post(v1::settle))
        .route("/v1/release", post(v1::release))
        .route("/v1/usage", post(report::usage))
        .fallback(async || {
            let message = "there is no such path; GET / lists them";
            Problem::new(StatusCode::NOT_FOUND, "not_found", message)
        })
        .method_not_allowed_fallback(async || {
            let message = "the path does not know this method";
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                message,
            )
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn(in_time))
        .with_state(Edge { service, health })
}

async fn metrics(State(edge): State<Edge>) -> Response {
    match edge.service.metrics().render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Problem::new(status, "metrics_failed", error.to_string()).into_response()
        }
    }
}

/// Cuts off a request that takes too long, be it the caller or us who is slow.
async fn in_time(request: Request, next: Next) -> Response {
    tokio::time::timeout(MAX_TIME, next.run(request))
        .await
        .unwrap_or_else(|_| {
            let message = "the request took too long";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", message).into_response()
        })
}
