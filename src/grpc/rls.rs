//! `envoy.service.ratelimit.v3.RateLimitService`.
//!
//! A refusal is an answer (`OVER_LIMIT`), never a gRPC error: to Envoy every error means "the
//! service failed", and it lets the request pass or answers 500 by its own setting. Errors are for
//! requests that are none.

use envoy_types::pb::envoy::config::core::v3::HeaderValue;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::{
    Code, DescriptorStatus, RateLimit, rate_limit,
};
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_server::{
    RateLimitService, RateLimitServiceServer,
};
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use envoy_types::pb::envoy::r#type::v3::RateLimitUnit;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Duration, ListValue, Struct, Value};
use tonic::{Request, Response, Status};

use crate::rules::{Metadata, Unit};
use crate::service::{self, Answer, LimitStatus, RequestError, Service};

/// The gRPC metadata that carries Envoy's request id where the operator has it sent.
const REQUEST_ID: &str = "x-request-id";

pub(super) fn server(service: Service) -> RateLimitServiceServer<Rls> {
    RateLimitServiceServer::new(Rls(service))
}

pub(super) struct Rls(Service);

#[tonic::async_trait]
impl RateLimitService for Rls {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let request_id = request
            .metadata()
            .get(REQUEST_ID)
            .and_then(|id| id.to_str().ok());
        let asked = asked(request.get_ref(), request_id);
        let answer = self
            .0
            .should_rate_limit(&asked)
            .await
            .map_err(|error| status(&error))?;
        Ok(Response::new(response(answer)))
    }
}

/// What a request asks, in our terms.
fn asked<'a>(request: &'a RateLimitRequest, request_id: Option<&'a str>) -> service::Request<'a> {
    service::Request {
        domain: &request.domain,
        hits_addend: request.hits_addend,
        request_id,
        descriptors: request
            .descriptors
            .iter()
            .map(|descriptor| service::Descriptor {
                entries: descriptor
                    .entries
                    .iter()
                    .map(|entry| (entry.key.as_str(), entry.value.as_str()))
                    .collect(),
                hits_addend: descriptor.hits_addend.as_ref().map(|addend| addend.value),
                refund: descriptor.is_negative_hits,
                limit: descriptor
                    .limit
                    .as_ref()
                    .map(|limit| service::RequestedLimit {
                        requests_per_unit: limit.requests_per_unit,
                        unit: requested_unit(limit.unit),
                    }),
            })
            .collect(),
    }
}

fn requested_unit(unit: i32) -> Option<Unit> {
    match RateLimitUnit::try_from(unit).ok()? {
        RateLimitUnit::Unknown => None,
        RateLimitUnit::Second => Some(Unit::Second),
        RateLimitUnit::Minute => Some(Unit::Minute),
        RateLimitUnit::Hour => Some(Unit::Hour),
        RateLimitUnit::Day => Some(Unit::Day),
        RateLimitUnit::Month => Some(Unit::Month),
        RateLimitUnit::Year => Some(Unit::Year),
    }
}

/// The gRPC error for a request that is none.
pub(super) fn status(error: &RequestError) -> Status {
    match error {
        RequestError::NotConfigured => Status::failed_precondition(error.to_string()),
        _ => Status::invalid_argument(error.to_string()),
    }
}

fn response(answer: Answer) -> RateLimitResponse {
    let code = |over| if over { Code::OverLimit } else { Code::Ok }.into();
    RateLimitResponse {
        overall_code: code(answer.over_limit),
        statuses: answer
            .statuses
            .into_iter()
            .map(|status| DescriptorStatus {
                code: code(status.over_limit),
                current_limit: status.limit.map(current_limit),
                limit_remaining: status.remaining,
                duration_until_reset: status.reset.map(|reset| Duration {
                    seconds: i64::try_from(reset.as_secs()).unwrap_or(i64::MAX),
                    nanos: 0,
                }),
                quota: None,
            })
            .collect(),
        response_headers_to_add: answer
            .headers
            .into_iter()
            .map(|(key, value)| HeaderValue {
                key: key.to_owned(),
                value,
                ..HeaderValue::default()
            })
            .collect(),
        raw_body: answer.body.into_bytes(),
        dynamic_metadata: dynamic_metadata(answer.metadata, answer.rule_metadata),
        ..RateLimitResponse::default()
    }
}

fn current_limit(limit: LimitStatus) -> RateLimit {
    let unit = match limit.unit {
        Unit::Second => rate_limit::Unit::Second,
        Unit::Minute => rate_limit::Unit::Minute,
        Unit::Hour => rate_limit::Unit::Hour,
        Unit::Day => rate_limit::Unit::Day,
        Unit::Week => rate_limit::Unit::Week,
        Unit::Month => rate_limit::Unit::Month,
        Unit::Year => rate_limit::Unit::Year,
    };
    RateLimit {
        name: limit.name,
        requests_per_unit: limit.requests_per_unit,
        unit: unit.into(),
    }
}

/// Texts, because Envoy's descriptor actions take nothing else.
fn dynamic_metadata(
    texts: Vec<(&'static str, String)>,
    rule_metadata: Option<Metadata>,
) -> Option<Struct> {
    if texts.is_empty() && rule_metadata.is_none() {
        return None;
    }
    let mut data = Struct::default();
    for (name, text) in texts {
        data.fields.insert(
            name.to_owned(),
            Value {
                kind: Some(Kind::StringValue(text)),
            },
        );
    }
    if let Some(metadata) = rule_metadata {
        data.fields.insert("metadata".to_owned(), value(metadata));
    }
    Some(data)
}

fn value(metadata: Metadata) -> Value {
    let kind = match metadata {
        Metadata::Null => Kind::NullValue(0),
        Metadata::Bool(truth) => Kind::BoolValue(truth),
        Metadata::Number(number) => Kind::NumberValue(number),
        Metadata::Text(text) => Kind::StringValue(text),
        Metadata::List(list) => Kind::ListValue(ListValue {
            values: list.into_iter().map(value).collect(),
        }),
        Metadata::Map(map) => Kind::StructValue(Struct {
            fields: map
                .into_iter()
                .map(|(key, field)| (key, value(field)))
                .collect(),
        }),
    };
    Value { kind: Some(kind) }
}
