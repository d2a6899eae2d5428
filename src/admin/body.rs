//! The bodies of our own API, read strictly.
//!
//! Names follow `proto/tollgate/v1/tollgate.proto`. A name that is not known is refused, because it
//! may be a mistyped one that somebody relies on; what is left out is what protobuf would default
//! it to, and the service says whether it can do without.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::Edge;
use super::descriptor::Descriptor;
use super::error::Problem;
use super::usage::Usage;
use crate::service::Target;

/// A body, whatever its content type says.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = Bytes::from_request(request, state).await?;
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|error| Problem::bad("bad_json", error.to_string()))
    }
}

/// The same of a report: one that cannot be read is counted as a report that was refused.
#[derive(Debug)]
pub(super) struct ReportBody<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Edge> for ReportBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, edge: &Edge) -> Result<Self, Problem> {
        let Body(body) = edge.counted(Body::from_request(request, edge).await)?;
        Ok(Self(body))
    }
}

/// The body of `/v1/reserve`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reserve {
    #[serde(default)]
    pub(super) domain: String,
    #[serde(default)]
    pub(super) descriptors: Vec<Descriptor>,
    pub(super) estimate: Option<Usage>,
    pub(super) id: Option<String>,
    pub(super) priority: Option<String>,
}

/// The body of `/v1/settle`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settle {
    #[serde(default)]
    pub(super) id: String,
    #[serde(default)]
    pub(super) domain: String,
    pub(super) usage: Option<Usage>,
    #[serde(default)]
    pub(super) descriptors: Vec<Descriptor>,
}

/// The body of `/v1/progress`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Progress {
    #[serde(default)]
    pub(super) id: String,
    #[serde(default)]
    pub(super) domain: String,
    pub(super) usage: Option<Usage>,
}

/// The body of `/v1/release`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Release {
    #[serde(default)]
    pub(super) id: String,
    #[serde(default)]
    pub(super) domain: String,
}

/// The body of `/v1/usage`, and one report of several.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Report {
    #[serde(default)]
    pub(super) domain: String,
    #[serde(default)]
    pub(super) descriptors: Vec<Descriptor>,
    pub(super) usage: Option<Usage>,
    pub(super) id: Option<String>,
    /// Several reports, instead of everything else. Each is read by itself, so that one that is
    /// none does not lose the others.
    pub(super) reports: Option<Vec<Box<RawValue>>>,
}

impl Report {
    /// Whether it says nothing but its list.
    pub(super) fn is_only_a_list(&self) -> bool {
        self.domain.is_empty()
            && self.descriptors.is_empty()
            && self.usage.is_none()
            && self.id.is_none()
    }
}

/// Which rules a body is about.
pub(super) fn target<'a>(domain: &'a str, descriptors: &'a [Descriptor]) -> Target<'a> {
    Target {
        domain,
        descriptors: descriptors.iter().map(Descriptor::entries).collect(),
    }
}
