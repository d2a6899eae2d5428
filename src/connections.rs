//! Accepting connections, and letting go of them.
//!
//! What the servers' own loops lack: a connection too many waits in the kernel's queue, what cannot
//! be accepted for want of files is tried again, and the end is bounded.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::server::graceful::GracefulConnection;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::telemetry::Throttle;

/// How long to wait after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// After which silence the kernel asks whether the other side is still there, and how often again
/// before it gives the connection up.
const KEEPALIVE: Duration = Duration::from_mins(1);
const KEEPALIVE_PROBES: u32 = 3;

/// How long what we sent may stay unacknowledged: meanwhile the kernel asks nobody. Where it is set,
/// it bounds the silence, too, and the number of probes does not count.
#[cfg(target_os = "linux")]
const USER_TIMEOUT: Duration = Duration::from_secs(80);

/// How often the log says that nobody more is let in.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// What bounds the connections of one listener.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How many there may be at one time.
    pub connections: usize,
    /// How long they may take to end.
    pub drain: Duration,
}

/// Runs `connection` for each connection to `listener` until `shutdown` is done; then tells them by
/// their token, and waits for what is under way.
///
/// # Errors
///
/// Fails only where `listener` does not listen any more; its connections are cut off then.
pub async fn serve<C>(
    listener: TcpListener,
    bounds: Bounds,
    shutdown: impl Future<Output = ()>,
    connection: impl Fn(TcpStream, CancellationToken) -> C,
) -> io::Result<()>
where
    C: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(bounds.connections));
    let stopping = CancellationToken::new();
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    let (full, failed) = (Throttle::new(WARN_EVERY), Throttle::new(WARN_EVERY));
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &places, &full) => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                let connection = connection(stream, stopping.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            // Who ends everything now has no use for calls that go on; dropped, they end.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(error),
            Err(error) => {
                if let Some(suppressed) = failed.pass(clock::instant()) {
                    tracing::warn!(%error, suppressed, "a connection was not accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    stopping.cancel();
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(bounds.drain, drained).await.is_err() {
        tracing::warn!(left = connections.len(), "connections were cut off");
        connections.shutdown().await;
    }
    Ok(())
}

/// Serves a connection until it ends; once `stopping`, it takes nothing new, and ends when what is
/// under way is done.
pub async fn drive<C>(connection: C, stopping: CancellationToken)
where
    C: GracefulConnection<Error: std::fmt::Display>,
{
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    full: &Throttle,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = if let Ok(place) = Arc::clone(places).try_acquire_owned() {
        place
    } else {
        if let Some(suppressed) = full.pass(clock::instant()) {
            let address = listener.local_addr().ok().map(tracing::field::display);
            tracing::warn!(address, suppressed, "all connections are taken; more wait");
        }
        let place = Arc::clone(places).acquire_owned().await;
        place.map_err(io::Error::other)?
    };
    let (stream, _) = listener.accept().await?;
    if let Err(error) = prepare(&stream) {
        tracing::debug!(%error, "a connection is gone already");
    }
    Ok((stream, place))
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    // Answers are written whole; without `TCP_NODELAY` a small one may wait for nothing.
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE)
        .with_retries(KEEPALIVE_PROBES);
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}

#[cfg(test)]
#[path = "connections_tests.rs"]
mod tests;
