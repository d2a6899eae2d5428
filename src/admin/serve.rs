//! The connections of the HTTP edge.
//!
//! Not axum's own loop, because that one waits for the slowest client when it stops and takes as
//! many connections as there are: here both are bounded.

use std::io;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use crate::connections::{self, Bounds};

const BOUNDS: Bounds = Bounds {
    connections: 256,
    drain: Duration::from_secs(5),
};

/// How long a connection may wait for a request's head. Longer than scrapers usually pause.
const HEAD_TIME: Duration = Duration::from_secs(75);

/// Serves `router` on `listener` until `shutdown` is done; then finishes what is under way, for five
/// seconds at most.
///
/// # Errors
///
/// Fails only where `listener` does not listen any more.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    connections::serve(listener, BOUNDS, shutdown, |stream, stopping| {
        connection(stream, router.clone(), stopping)
    })
    .await
}

async fn connection(stream: TcpStream, router: Router, stopping: CancellationToken) {
    let service = service_fn(move |request| router.clone().call(request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .serve_connection(TokioIo::new(stream), service);
    connections::drive(connection, stopping).await;
}
