//! Callers of a service, over real connections.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::{Code, DescriptorStatus};
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use envoy_types::pb::google::protobuf::UInt64Value;
use tollgate::clock;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::process::PATIENCE;
use super::served::Tollgate;

/// Asks as Envoy does.
pub(crate) type Client = RateLimitServiceClient<Channel>;

/// A connection. Every call on it has to be answered within [`PATIENCE`].
pub(crate) async fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .timeout(PATIENCE)
        .tcp_nodelay(true)
        .connect()
        .await
        .unwrap()
}

pub(crate) async fn connect(tollgate: &Tollgate) -> Client {
    Client::new(channel(tollgate.grpc).await)
}

/// A descriptor; without an addend, none is sent.
pub(crate) fn descriptor(entries: &[(&str, &str)], addend: Option<u64>) -> RateLimitDescriptor {
    RateLimitDescriptor {
        entries: entries
            .iter()
            .map(|(key, value)| Entry {
                key: (*key).to_owned(),
                value: (*value).to_owned(),
            })
            .collect(),
        hits_addend: addend.map(|value| UInt64Value { value }),
        ..RateLimitDescriptor::default()
    }
}

pub(crate) fn request(
    domain: &str,
    descriptors: impl IntoIterator<Item = RateLimitDescriptor>,
) -> RateLimitRequest {
    RateLimitRequest {
        domain: domain.to_owned(),
        descriptors: descriptors.into_iter().collect(),
        hits_addend: 0,
    }
}

/// Asks, and has to be answered.
pub(crate) async fn ask(client: &Client, request: RateLimitRequest) -> RateLimitResponse {
    let answer = client.clone().should_rate_limit(request).await;
    answer.unwrap().into_inner()
}

pub(crate) fn admitted(answer: &RateLimitResponse) -> bool {
    match answer.overall_code() {
        Code::Ok => true,
        Code::OverLimit => false,
        Code::Unknown => panic!("no code: {answer:?}"),
    }
}

/// The number of the limit that a status tells of.
pub(crate) fn limit_of(status: &DescriptorStatus) -> Option<u32> {
    let limit = status.current_limit.as_ref()?;
    Some(limit.requests_per_unit)
}

/// What gRPC health says of the whole service.
pub(crate) async fn health(channel: &Channel) -> ServingStatus {
    health_of(channel, "").await
}

/// What gRPC health says under a name.
pub(crate) async fn health_of(channel: &Channel, name: &str) -> ServingStatus {
    let request = HealthCheckRequest {
        service: name.to_owned(),
    };
    let answer = HealthClient::new(channel.clone()).check(request).await;
    answer.unwrap().into_inner().status()
}

/// Waits until health says so.
pub(crate) async fn until_health(channel: &Channel, wanted: ServingStatus) {
    let begun = clock::instant();
    loop {
        let status = health(channel).await;
        if status == wanted {
            return;
        }
        let waited = begun.elapsed();
        assert!(waited < PATIENCE, "health is {status:?}, not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
