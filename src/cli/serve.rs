//! `tollgate serve`.

use std::net::SocketAddr;
use std::process::ExitCode;

use tokio::net::TcpListener;

use crate::settings::ServeArgs;
use crate::shutdown::{Shutdown, Signals};
use crate::{Listeners, run};

/// Serves until told to stop.
pub async fn serve(args: ServeArgs) -> ExitCode {
    // Before anybody can know that we are here, and end us the hard way.
    let signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return super::fail(&format!("cannot listen for signals: {error}")),
    };
    let listeners = match bind(&args).await {
        Ok(listeners) => listeners,
        Err(problem) => return super::fail(&problem),
    };
    let shutdown = Shutdown::default();
    let signals = tokio::spawn(shutdown.clone().on_signals(signals, args.drain_delay));
    let result = run(args, listeners, shutdown).await;
    signals.abort();
    match result {
        Ok(()) => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        Err(error) => super::fail(&error.to_string()),
    }
}

async fn bind(args: &ServeArgs) -> Result<Listeners, String> {
    Ok(Listeners {
        grpc: listen("gRPC", "--grpc-addr", args.grpc_addr).await?,
        http: listen("HTTP", "--http-addr", args.http_addr).await?,
    })
}

async fn listen(what: &str, flag: &str, address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen for {what} on {address} ({flag}): {error}"))
}
