//! `POST /v1/usage`: one report, or several of which each is answered for itself.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Edge;
use super::body::{Report, ReportBody, target};
use super::error::Problem;
use super::usage::Usage;
use super::v1::heard;
use super::view::Reported;
use crate::service::{ApiError, check_batch, do_each};

/// Charges what was used; where an id is named, instead of what its reservation charged.
pub(super) async fn usage(
    State(edge): State<Edge>,
    ReportBody(body): ReportBody<Report>,
) -> Result<Response, Problem> {
    match body.reports {
        None => Ok(one(&edge, &body).await?.into_response()),
        Some(_) if !body.is_only_a_list() => {
            let message = "reports stands by itself: what belongs to a report is said in each";
            edge.counted(Err(Problem::bad("bad_json", message)))
        }
        Some(reports) => {
            edge.counted(check_batch(reports.len()).map_err(Problem::from))?;
            let reports = reports.into_iter().map(|text| each(edge.clone(), text));
            let answers = do_each(reports).await;
            let answers: Vec<Value> = answers.into_iter().map(told).collect();
            Ok(Json(json!({ "reports": answers })).into_response())
        }
    }
}

async fn one(edge: &Edge, body: &Report) -> Result<Json<Reported>, Problem> {
    let usage = edge.counted(Usage::read(body.usage.as_ref(), "usage"))?;
    let target = target(&body.domain, &body.descriptors);
    let id = body.id.as_deref();
    heard(edge.service.report_under(id, usage, &target).await)
}

async fn each(edge: Edge, text: Box<RawValue>) -> Result<Json<Reported>, Problem> {
    let read = serde_json::from_str(text.get()).map_err(|error| {
        // Where the report stands in the whole body is not known here.
        Problem::bad("bad_json", error.to_string())
    });
    let body: Report = edge.counted(read)?;
    if body.reports.is_some() {
        let message = "a report in a list has no list";
        return edge.counted(Err(Problem::bad("bad_json", message)));
    }
    one(&edge, &body).await
}

/// The answer to one report of several: what it would be by itself.
fn told(answer: Option<Result<Json<Reported>, Problem>>) -> Value {
    let answer = answer.unwrap_or_else(|| Err(ApiError::StoreUnavailable.into()));
    let written = answer.and_then(|Json(answer)| {
        serde_json::to_value(answer).map_err(|error| Problem::bad("bad_json", error.to_string()))
    });
    written.unwrap_or_else(|problem| problem.to_json())
}
