//! The program under test, as its users run it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::process::Program;
use super::redis::RedisServer;

/// A running `tollgate serve`.
#[derive(Debug)]
pub(crate) struct Tollgate {
    program: Program,
    /// Where it serves gRPC.
    pub(crate) grpc: SocketAddr,
}

impl Tollgate {
    /// Starts a replica whose buckets are in `redis`, under `prefix`, and waits until it listens.
    ///
    /// It waits for Redis as long as a slow machine may need.
    pub(crate) fn start(config: &Path, redis: &RedisServer, prefix: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command
            .env_clear()
            .arg("serve")
            .arg("--config")
            .arg(config)
            .args(["--store", &redis.url(), "--redis-prefix", prefix])
            .args(["--store-timeout", "10s"])
            .args(["--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"]);
        let mut program = Program::start("tollgate", command, |_, _| {});
        let grpc = program.until("tollgate listens", |program| {
            let output = program.output();
            let line = output.lines().find(|line| line.contains("listening"))?;
            let (_, rest) = line.split_once("grpc_addr=")?;
            rest.split_whitespace().next()?.parse().ok()
        });
        Self { program, grpc }
    }

    /// Kills it.
    pub(crate) fn stop(&mut self) {
        self.program.stop();
    }
}
