//! The servers that are compared, and how each is started.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use redis::ConnectionLike;
use tonic::transport::{Channel, Endpoint};

use crate::empty;
use crate::load::Load;
use crate::process::{Process, is_http_ready, log_path};
use crate::tenants::{Expected, Tenants, write_config};

/// What answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Variant {
    /// A tonic server that only says OK.
    Empty,
    /// The same, that reads and writes a key in a Redis of its own for each request.
    Combined,
    /// Tollgate, buckets in its own memory.
    Memory,
    /// The same, with a reservation made for each decision, that a report could settle.
    MemoryReserved,
    /// Tollgate, buckets in a Redis of its own.
    Redis,
    /// The same, with a reservation made for each decision, that a report could settle.
    RedisReserved,
}

impl Variant {
    /// Its name in commands and in the table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Combined => "combined",
            Self::Empty => "empty",
            Self::Memory => "memory",
            Self::MemoryReserved => "memory-reserved",
            Self::Redis => "redis",
            Self::RedisReserved => "redis-reserved",
        }
    }

    /// What its limit counts: only tokens are reserved.
    const fn cost(self) -> &'static str {
        match self {
            Self::Combined | Self::Empty | Self::Memory | Self::Redis => "hits",
            Self::MemoryReserved | Self::RedisReserved => "tokens",
        }
    }

    /// Starts the server, and its Redis if it needs one, and connects to it.
    pub(crate) async fn start(
        self,
        tollgate: &Path,
        scratch: &Path,
        load: Load,
    ) -> Result<Running> {
        let (server, port, redis) = match self {
            Self::Empty => {
                let (server, port) = start_empty(None)?;
                (server, port, None)
            }
            Self::Combined => {
                let redis = start_redis(scratch, self.name()).await?;
                let (server, port) = start_empty(Some(&redis.url))?;
                (server, port, Some(redis))
            }
            Self::Memory | Self::MemoryReserved => {
                let (server, port) = start_tollgate(tollgate, scratch, self, "memory").await?;
                (server, port, None)
            }
            Self::Redis | Self::RedisReserved => {
                let redis = start_redis(scratch, self.name()).await?;
                let (server, port) = start_tollgate(tollgate, scratch, self, &redis.url).await?;
                (server, port, Some(redis))
            }
        };
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?;
        let mut clients = Vec::new();
        for _ in 0..load.connections {
            clients.push(RateLimitServiceClient::new(endpoint.connect().await?));
        }
        let tenants = Arc::new(Tenants::new(load.keys));
        Ok(Running {
            variant: self,
            clients,
            tenants,
            server,
            redis,
        })
    }
}

/// A started variant; its processes end with it.
#[derive(Debug)]
pub(crate) struct Running {
    /// Which it is.
    pub(crate) variant: Variant,
    /// One per connection.
    pub(crate) clients: Vec<RateLimitServiceClient<Channel>>,
    /// Who asks it.
    pub(crate) tenants: Arc<Tenants>,
    // Before its Redis: dropped in this order, so that it never sees Redis go.
    server: Process,
    redis: Option<Redis>,
}

#[derive(Debug)]
struct Redis {
    process: Process,
    url: String,
}

impl Running {
    /// The server's process.
    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// The process of its Redis, if it has one.
    pub(crate) fn redis_pid(&self) -> Option<u32> {
        self.redis.as_ref().map(|redis| redis.process.pid())
    }

    /// What its answers have to look like.
    pub(crate) fn expected(&self) -> Expected {
        match self.variant {
            Variant::Combined | Variant::Empty => Expected::Nothing,
            _ => Expected::Charged,
        }
    }

    /// Checks that what it answered is what it charged, where it should have.
    pub(crate) async fn verify(&self) -> Result<()> {
        if self.expected() == Expected::Charged {
            let client = self.clients.first().context("no connection")?;
            self.tenants.verify(client.clone()).await?;
        }
        if let Some(redis) = &self.redis {
            let (command, key) = match self.expected() {
                Expected::Charged => ("HLEN", Some("tollgate:buckets")),
                Expected::Nothing => ("DBSIZE", None),
            };
            let buckets: usize = redis::cmd(command)
                .arg(key)
                .query(&mut redis::Client::open(redis.url.as_str())?.get_connection()?)?;
            let seen = self.tenants.seen();
            ensure!(
                buckets >= seen,
                "{buckets} buckets in Redis after {seen} tenants were charged"
            );
        }
        Ok(())
    }
}

fn start_empty(redis: Option<&str>) -> Result<(Process, u16)> {
    let mut server = Process::spawn(
        Command::new(std::env::current_exe()?)
            .arg(empty::ARGUMENT)
            .args(redis)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped()),
    )?;
    let mut port = String::new();
    let stdout = server.take_stdout().context("no stdout")?;
    BufReader::new(stdout).read_line(&mut port)?;
    let port = port
        .trim_end()
        .parse()
        .context("the empty server announced no port")?;
    Ok((server, port))
}

async fn start_tollgate(
    program: &Path,
    scratch: &Path,
    variant: Variant,
    store: &str,
) -> Result<(Process, u16)> {
    let config = scratch.join(format!("{}.yaml", variant.name()));
    write_config(&config, variant.cost())?;
    let command = |[grpc, http]: [u16; 2]| {
        let mut command = Command::new(program);
        command
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .args(["--store", store])
            // A busy machine may be late; that is told as latency, not by refusing.
            .args(["--store-timeout", "1s"]);
        command.args(["--grpc-addr", &format!("127.0.0.1:{grpc}")]);
        command.args(["--http-addr", &format!("127.0.0.1:{http}")]);
        command
    };
    let log = log_path(scratch, variant.name());
    let (server, [grpc, _]) =
        Process::launch(&log, command, |[_, http]| is_http_ready(http)).await?;
    Ok((server, grpc))
}

/// A Redis that keeps nothing on disk.
async fn start_redis(scratch: &Path, name: &str) -> Result<Redis> {
    let url = |[port]: [u16; 1]| format!("redis://127.0.0.1:{port}");
    let command = |[port]: [u16; 1]| {
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
        command
            .args(["--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(scratch);
        command
    };
    let is_ready = |port| {
        redis::Client::open(url(port))
            .and_then(|client| client.get_connection())
            .is_ok_and(|mut connection| connection.check_connection())
    };
    let (process, port) = Process::launch(
        &log_path(scratch, &format!("{name}-server")),
        command,
        is_ready,
    )
    .await?;
    Ok(Redis {
        process,
        url: url(port),
    })
}
