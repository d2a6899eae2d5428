//! A client of any Envoy rate-limit service: asks one question and tells the answer.

use std::time::Duration;

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitRequest;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::{Code, rate_limit};
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use envoy_types::pb::google::protobuf::UInt64Value;
use envoy_types::pb::google::protobuf::value::Kind;
use prost::Message as _;
use tonic::transport::{Channel, Endpoint};

pub use super::rls::METHOD;

/// What to ask.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// The domain.
    pub domain: String,
    /// The entries of each descriptor.
    pub descriptors: Vec<Vec<(String, String)>>,
    /// The addend of each descriptor; `None`: none is sent.
    pub hits: Option<u64>,
    /// The addend of the request, which every such service knows; zero: none is sent.
    pub request_hits: u32,
}

impl Question {
    /// As it goes over the wire to [`METHOD`].
    pub fn encode(&self) -> Vec<u8> {
        self.request().encode_to_vec()
    }

    fn request(&self) -> RateLimitRequest {
        let descriptors = self
            .descriptors
            .iter()
            .map(|entries| RateLimitDescriptor {
                entries: entries
                    .iter()
                    .map(|(key, value)| Entry {
                        key: key.clone(),
                        value: value.clone(),
                    })
                    .collect(),
                hits_addend: self.hits.map(|value| UInt64Value { value }),
                ..RateLimitDescriptor::default()
            })
            .collect();
        RateLimitRequest {
            domain: self.domain.clone(),
            descriptors,
            hits_addend: self.request_hits,
        }
    }
}

/// What of an answer counts when there are a hundred thousand in a second. The names of fields are
/// numbers on the wire; what has another number is passed over.
#[derive(Clone, PartialEq, prost::Message)]
struct Overall {
    #[prost(enumeration = "Code", tag = "1")]
    overall_code: i32,
}

/// The overall code of an encoded answer: `OK`, `OVER_LIMIT` or `UNKNOWN`; `None` if it is no
/// answer.
pub fn overall_code(answer: &[u8]) -> Option<&'static str> {
    let overall = Overall::decode(answer).ok()?;
    Some(code_name(overall.overall_code))
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Reply {
    /// `OK`, `OVER_LIMIT` or `UNKNOWN`.
    pub code: &'static str,
    /// One for each descriptor.
    pub statuses: Vec<ReplyStatus>,
    /// Headers for the client.
    pub headers: Vec<(String, String)>,
    /// The body of a refusal.
    pub body: String,
    /// Dynamic metadata that is text.
    pub metadata: Vec<(String, String)>,
}

/// The answer for one descriptor.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ReplyStatus {
    /// `OK`, `OVER_LIMIT` or `UNKNOWN`.
    pub code: &'static str,
    /// The name of the limit, where one applied.
    pub limit: Option<String>,
    /// How much.
    pub requests_per_unit: Option<u32>,
    /// Per how long.
    pub unit: Option<String>,
    /// What is left.
    pub remaining: u32,
    /// In how many seconds it resets.
    pub reset_seconds: Option<i64>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The address is none.
    #[error("'{0}' is no address: write HOST:PORT or http://HOST:PORT")]
    BadAddress(String),
    /// Nobody answers there.
    #[error("cannot reach {address}: {}", root(source))]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        source: tonic::transport::Error,
    },
    /// The service answered with an error.
    #[error("the service answered {}: {}", .0.code(), .0.message())]
    Failed(#[from] Box<tonic::Status>),
}

/// A connection to a rate-limit service.
#[derive(Clone, Debug)]
pub struct Caller(RateLimitServiceClient<Channel>);

impl Caller {
    /// Connects to `HOST:PORT` or `http://HOST:PORT`.
    pub async fn connect(address: &str) -> Result<Self, CallError> {
        let url = if address.contains("://") {
            address.to_owned()
        } else {
            format!("http://{address}")
        };
        let endpoint = Endpoint::from_shared(url)
            .map_err(|_| CallError::BadAddress(address.to_owned()))?
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(5))
            .tcp_nodelay(true);
        let channel = endpoint
            .connect()
            .await
            .map_err(|source| CallError::Unreachable {
                address: address.to_owned(),
                source,
            })?;
        Ok(Self(RateLimitServiceClient::new(channel)))
    }

    /// Asks.
    pub async fn ask(&mut self, question: &Question) -> Result<Reply, CallError> {
        let response = self
            .0
            .should_rate_limit(question.request())
            .await
            .map_err(Box::new)?
            .into_inner();
        let mut metadata: Vec<(String, String)> = response
            .dynamic_metadata
            .map(|data| data.fields)
            .unwrap_or_default()
            .into_iter()
            .filter_map(|(name, value)| match value.kind {
                Some(Kind::StringValue(text)) => Some((name, text)),
                _ => None,
            })
            .collect();
        metadata.sort();
        Ok(Reply {
            code: code_name(response.overall_code),
            statuses: response
                .statuses
                .into_iter()
                .map(|status| ReplyStatus {
                    code: code_name(status.code),
                    requests_per_unit: status
                        .current_limit
                        .as_ref()
                        .map(|limit| limit.requests_per_unit),
                    unit: status.current_limit.as_ref().map(|limit| {
                        rate_limit::Unit::try_from(limit.unit)
                            .unwrap_or(rate_limit::Unit::Unknown)
                            .as_str_name()
                            .to_ascii_lowercase()
                    }),
                    limit: status.current_limit.map(|limit| limit.name),
                    remaining: status.limit_remaining,
                    reset_seconds: status.duration_until_reset.map(|reset| reset.seconds),
                })
                .collect(),
            headers: response
                .response_headers_to_add
                .into_iter()
                .map(|header| (header.key, header.value))
                .collect(),
            body: String::from_utf8_lossy(&response.raw_body).into_owned(),
            metadata,
        })
    }
}

/// What lies at the bottom of an error: the layers above only say that something failed.
fn root<'e>(mut error: &'e (dyn std::error::Error + 'static)) -> &'e dyn std::error::Error {
    while let Some(cause) = error.source() {
        error = cause;
    }
    error
}

fn code_name(code: i32) -> &'static str {
    Code::try_from(code).unwrap_or(Code::Unknown).as_str_name()
}
