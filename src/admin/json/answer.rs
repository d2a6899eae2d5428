//! `RateLimitResponse` in protobuf's JSON: lowerCamelCase, and what is zero or empty left out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::rules::Metadata;
use crate::service::{Answer, LimitStatus, Status};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RateLimitResponse {
    overall_code: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    statuses: Vec<DescriptorStatus>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    response_headers_to_add: Vec<HeaderValue>,
    #[serde(skip_serializing_if = "String::is_empty")]
    raw_body: String,
    #[serde(skip_serializing_if = "Map::is_empty")]
    dynamic_metadata: Map<String, Value>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DescriptorStatus {
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_limit: Option<RateLimit>,
    #[serde(skip_serializing_if = "is_zero")]
    limit_remaining: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_until_reset: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RateLimit {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "is_zero")]
    requests_per_unit: u32,
    unit: String,
}

#[derive(Debug, Serialize)]
struct HeaderValue {
    key: &'static str,
    value: String,
}

impl From<Answer> for RateLimitResponse {
    fn from(answer: Answer) -> Self {
        let header = |(key, value)| HeaderValue { key, value };
        let texts = answer.metadata.into_iter();
        let mut dynamic_metadata: Map<String, Value> = texts
            .map(|(name, text)| (name.to_owned(), text.into()))
            .collect();
        if let Some(metadata) = answer.rule_metadata {
            dynamic_metadata.insert("metadata".to_owned(), value(metadata));
        }
        Self {
            overall_code: code(answer.over_limit),
            statuses: answer
                .statuses
                .into_iter()
                .map(DescriptorStatus::from)
                .collect(),
            response_headers_to_add: answer.headers.into_iter().map(header).collect(),
            raw_body: STANDARD.encode(answer.body),
            dynamic_metadata,
        }
    }
}

impl From<Status> for DescriptorStatus {
    fn from(status: Status) -> Self {
        Self {
            code: code(status.over_limit),
            current_limit: status.limit.map(RateLimit::from),
            limit_remaining: status.remaining,
            duration_until_reset: status.reset.map(|reset| format!("{}s", reset.as_secs())),
        }
    }
}

impl From<LimitStatus> for RateLimit {
    fn from(limit: LimitStatus) -> Self {
        Self {
            name: limit.name,
            requests_per_unit: limit.requests_per_unit,
            unit: limit.unit.name().to_ascii_uppercase(),
        }
    }
}

const fn code(over_limit: bool) -> &'static str {
    if over_limit { "OVER_LIMIT" } else { "OK" }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn value(metadata: Metadata) -> Value {
    match metadata {
        Metadata::Null => Value::Null,
        Metadata::Bool(truth) => truth.into(),
        Metadata::Number(number) => number.into(),
        Metadata::Text(text) => text.into(),
        Metadata::List(list) => list.into_iter().map(value).collect(),
        Metadata::Map(map) => map
            .into_iter()
            .map(|(key, field)| (key, value(field)))
            .collect(),
    }
}
