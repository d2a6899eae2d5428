//! The gRPC edge: Envoy's rate-limit API, its access log stream, its external processing, and our
//! own API. The only place that names generated types.

mod access_log;
mod api;
pub mod client;
mod ext_proc;
mod rls;
mod serve;
mod setup;
mod unary;

use std::future::Future;
use std::io;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use self::serve::Edge;
use crate::service::Service;

/// Our own API, generated from `proto/tollgate/v1/tollgate.proto`.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    clippy::nursery,
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    rustdoc::unescaped_backticks,
    single_use_lifetimes,
    reason = "generated"
)]
pub mod proto {
    tonic::include_proto!("tollgate.v1");
}

/// The names under which gRPC health checks find us.
const HEALTH_NAMES: [&str; 6] = [
    "",
    "ratelimit",
    "envoy.service.accesslog.v3.AccessLogService",
    "envoy.service.ext_proc.v3.ExternalProcessor",
    "envoy.service.ratelimit.v3.RateLimitService",
    "tollgate.v1.Tollgate",
];

/// Tells gRPC health checks whether we are ready.
#[derive(Clone, Debug)]
pub struct Health(HealthReporter);

impl Default for Health {
    fn default() -> Self {
        Self(HealthReporter::new())
    }
}

impl Health {
    /// Sets the answer of all health checks.
    pub async fn set_ready(&self, ready: bool) {
        let status = if ready {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for name in HEALTH_NAMES {
            self.0.set_service_status(name, status).await;
        }
    }
}

/// Serves until `shutdown`, then until the calls under way are done.
///
/// # Errors
///
/// Fails only where `listener` does not listen any more.
pub async fn serve(
    listener: TcpListener,
    service: Service,
    health: Health,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let stopping = CancellationToken::new();
    let stop = stopping.clone();
    let shutdown = async move {
        shutdown.await;
        stop.cancel();
    };
    let health = tonic_health::server::HealthService::from_health_reporter(health.0);
    let routes = Routes::new(access_log::server(service.clone(), stopping))
        .add_service(ext_proc::server(service.clone()))
        .add_service(api::server(service.clone()))
        .add_service(tonic_health::pb::health_server::HealthServer::new(health))
        .prepare();
    serve::serve(listener, Edge { service, routes }, shutdown).await
}
