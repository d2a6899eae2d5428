//! The floor: a tonic server that decodes the request and says OK.
//!
//! With the URL of a Redis it asks that too, for nothing ([`Sharing`]).
//! It runs as a child of the bench, with tonic and tokio as they come and the allocator that
//! Tollgate uses, announces its port on stdout, and ends with its parent: when stdin closes.

use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::thread;

use anyhow::Result;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_server::{
    RateLimitService, RateLimitServiceServer,
};
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::sharing::Sharing;

/// The first argument that makes this program the empty server.
pub(crate) const ARGUMENT: &str = "empty-server";

/// The second one, if requests share scripts; else each runs its own.
pub(crate) const COMBINED: &str = "combined";

struct Empty {
    sharing: Option<Sharing>,
}

#[tonic::async_trait]
impl RateLimitService for Empty {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        if let Some(sharing) = &self.sharing {
            let touched = sharing.touch(request.get_ref()).await;
            touched.ok_or_else(|| Status::unavailable("no answer from Redis"))?;
        }
        Ok(Response::new(RateLimitResponse {
            overall_code: Code::Ok.into(),
            ..RateLimitResponse::default()
        }))
    }
}

/// Serves until stdin closes.
#[tokio::main]
pub(crate) async fn serve() -> Result<()> {
    let mut arguments = std::env::args().skip(2);
    let sharing = match (arguments.next(), arguments.next()) {
        (Some(how), Some(url)) => Some(Sharing::connect(&url, how == COMBINED).await?),
        _ => None,
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    writeln!(io::stdout(), "{}", listener.local_addr()?.port())?;
    let (closed, stdin_closed) = oneshot::channel();
    thread::spawn(move || {
        // An error ends the server as the end of the input does.
        let ended = io::stdin().read_to_end(&mut Vec::new());
        closed.send(ended)
    });
    Server::builder()
        .add_service(RateLimitServiceServer::new(Empty { sharing }))
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            async move { drop(stdin_closed.await) },
        )
        .await?;
    Ok(())
}
