//! Our own API: reserve, progress, settle, release, report, inspect, one object in and one out.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Edge;
use super::body::{Body, Progress, Release, ReportBody, Reserve, Settle, target};
use super::descriptor::Descriptor;
use super::error::Problem;
use super::usage::Usage;
use super::view::{Inspected, Reported, Reserved};
use crate::service::{ApiError, ReportAnswer, ReportResult};

/// 200 where it is admitted; 429 with the same object, and `retry-after` where waiting helps, where
/// it is refused.
pub(super) async fn reserve(
    State(edge): State<Edge>,
    Body(body): Body<Reserve>,
) -> Result<Response, Problem> {
    let estimate = Usage::read(body.estimate.as_ref(), "estimate")?;
    let target = target(&body.domain, &body.descriptors);
    let (id, priority) = (body.id.as_deref(), body.priority.as_deref());
    let answer = edge
        .service
        .reserve(&target, estimate, id, priority)
        .await?;
    let (admitted, retry_after) = (answer.admitted, answer.retry_after);
    let body = Json(Reserved::from(answer));
    if admitted {
        return Ok(body.into_response());
    }
    let mut response = (StatusCode::TOO_MANY_REQUESTS, body).into_response();
    if let Some(wait) = retry_after {
        let seconds = wait.as_nanos().div_ceil(1_000_000_000).max(1);
        if let Ok(seconds) = seconds.to_string().try_into() {
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
    }
    Ok(response)
}

/// Replaces what a reservation charged.
pub(super) async fn settle(
    State(edge): State<Edge>,
    ReportBody(body): ReportBody<Settle>,
) -> Result<Json<Reported>, Problem> {
    let usage = edge.counted(Usage::read(body.usage.as_ref(), "usage"))?;
    let target = target(&body.domain, &body.descriptors);
    heard(edge.service.settle(&body.id, usage, &target).await)
}

/// Has a reservation grow to what was used so far.
pub(super) async fn progress(
    State(edge): State<Edge>,
    ReportBody(body): ReportBody<Progress>,
) -> Result<Json<Reported>, Problem> {
    let usage = edge.counted(Usage::read(body.usage.as_ref(), "usage"))?;
    heard(edge.service.progress(&body.domain, &body.id, usage).await)
}

/// Gives back what a reservation charged.
pub(super) async fn release(
    State(edge): State<Edge>,
    ReportBody(body): ReportBody<Release>,
) -> Result<Json<Reported>, Problem> {
    heard(edge.service.release(&body.domain, &body.id).await)
}

/// Looks at the buckets of one descriptor: every key of the query but `domain` is an entry, in
/// their order.
pub(super) async fn bucket(
    State(edge): State<Edge>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Json<Inspected>, Problem> {
    let Query(pairs) = query.map_err(|error| Problem::bad("bad_query", error.body_text()))?;
    let (domains, entries): (Vec<_>, Vec<_>) =
        pairs.into_iter().partition(|(key, _)| key == "domain");
    let domain = match domains.as_slice() {
        [] => "",
        [(_, domain)] => domain,
        _ => return Err(Problem::bad("bad_query", "domain is given more than once")),
    };
    let descriptors: Vec<Descriptor> = (!entries.is_empty())
        .then(|| Descriptor::new(entries))
        .into_iter()
        .collect();
    let answer = edge.service.inspect(&target(domain, &descriptors)).await?;
    Ok(Json(answer.into()))
}

/// What became of a report, told apart by status.
pub(super) fn heard(answer: Result<ReportAnswer, ApiError>) -> Result<Json<Reported>, Problem> {
    let answer = answer?;
    match answer.result {
        ReportResult::UnknownId => {
            let message = "no reservation has this id, and nothing says what to charge instead";
            Err(Problem::new(StatusCode::NOT_FOUND, "unknown_id", message))
        }
        ReportResult::Invalid => {
            let message = "the report says something that cannot be";
            Err(Problem::bad("bad_usage", message))
        }
        ReportResult::Failed => Err(ApiError::StoreUnavailable.into()),
        ReportResult::AlreadySettled
        | ReportResult::Charged
        | ReportResult::Grown
        | ReportResult::Released
        | ReportResult::Settled
        | ReportResult::WithoutUsage => Ok(Json(answer.into())),
    }
}
