//! The load: a closed loop, so many requests in flight, each next one sent when one is answered.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;

use crate::tenants::{Expected, Tenants};
use crate::variant::Running;

/// Far above any latency that is not a hang.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How hard to drive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Requests in flight.
    pub(crate) in_flight: usize,
    /// HTTP/2 connections that carry them.
    pub(crate) connections: usize,
    /// Tenants.
    pub(crate) keys: usize,
}

/// What came of driving one server for a while.
#[derive(Debug)]
pub(crate) struct Driven {
    /// From the first request to the last answer.
    pub(crate) elapsed: Duration,
    /// Of every answer, in nanoseconds; as many as there were decisions.
    pub(crate) latency: Histogram<u64>,
}

impl Load {
    /// A load that loads.
    pub(crate) fn new(in_flight: usize, connections: usize, keys: usize) -> Result<Self> {
        ensure!(
            in_flight >= connections && connections > 0 && keys > 0,
            "no load: {in_flight} in flight over {connections} connections, {keys} keys"
        );
        Ok(Self {
            in_flight,
            connections,
            keys,
        })
    }

    /// Drives `server` for about `length`: until every request sent within it has been answered.
    pub(crate) async fn drive(self, server: &Running, length: Duration) -> Result<Driven> {
        let started = Instant::now();
        let until = started + length;
        let mut loops = JoinSet::new();
        for (number, client) in (1..=self.in_flight).zip(server.clients.iter().cycle()) {
            let seed = u64::try_from(number)?.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let tenants = Arc::clone(&server.tenants);
            loops.spawn(ask(client.clone(), tenants, server.expected(), until, seed));
        }
        let finished = timeout_at(until + ANSWER_WITHIN, join(loops));
        let latency = finished.await.context("requests were left unanswered")??;
        ensure!(!latency.is_empty(), "no decision was made");
        Ok(Driven {
            elapsed: started.elapsed(),
            latency,
        })
    }
}

async fn join(mut loops: JoinSet<Result<Histogram<u64>>>) -> Result<Histogram<u64>> {
    let mut all = latencies()?;
    while let Some(ended) = loops.join_next().await {
        all.add(ended??)?;
    }
    Ok(all)
}

/// One request after the other.
async fn ask(
    mut client: RateLimitServiceClient<Channel>,
    tenants: Arc<Tenants>,
    expected: Expected,
    until: Instant,
    mut random: u64,
) -> Result<Histogram<u64>> {
    let mut latency = latencies()?;
    let mut sent = Instant::now();
    while sent < until {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let tenant = tenants.pick(random);
        let answer = client
            .should_rate_limit(tenant.request())
            .await?
            .into_inner();
        let answered = Instant::now();
        tenant.answered(&answer, expected)?;
        latency.record(u64::try_from((answered - sent).as_nanos())?)?;
        sent = answered;
    }
    Ok(latency)
}

/// From a microsecond to a minute, to one part in a hundred.
fn latencies() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1_000, 60_000_000_000, 2)?)
}
