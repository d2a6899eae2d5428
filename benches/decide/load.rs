//! The load: who asks, over which connections, and that nobody fails to answer.

use anyhow::{Context, Result, ensure};
use tollgate::grpc::client::METHOD;
use tollgate::load::{End, Generator, Measured, Messages, Pace, Target, Traffic, Watch};

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

    /// Connections to a server.
    pub(crate) fn connect(self, port: u16) -> Result<Generator> {
        let target = Target::new(&format!("127.0.0.1:{port}"), METHOD)?;
        Ok(Generator::connect(
            &target,
            self.connections,
            self.in_flight,
        )?)
    }
}

/// Sends until `end`. It blocks.
pub(crate) fn drive(
    generator: &mut Generator,
    messages: &Messages,
    traffic: &mut impl Traffic,
    pace: Pace,
    end: End,
) -> Result<Measured> {
    let (measured, result) = generator.run(messages, traffic, pace, end, &Watch::default());
    result?;
    if let Some((code, failure)) = measured.failed.iter().next() {
        anyhow::bail!(
            "{} calls failed with code {code}: {}",
            failure.count,
            failure.message
        );
    }
    ensure!(measured.unanswered == 0, "requests were left unanswered");
    ensure!(measured.answers() > 0, "no decision was made");
    Ok(measured)
}

/// Runs what blocks beside what waits for signals.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .context("the load generator broke")
}
