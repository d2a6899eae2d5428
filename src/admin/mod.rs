//! tmp
use crate::{health::Health, service::Service};
use std::future::Future;
/// x
pub fn router(_s: Service, _h: Health) -> axum::Router {
    axum::Router::new()
}
/// x
pub async fn serve(
    l: tokio::net::TcpListener,
    r: axum::Router,
    s: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(l, r).with_graceful_shutdown(s).await
}
