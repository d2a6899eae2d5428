//! The servers that are compared, and how each is started.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail, ensure};
use redis::{Connection, ConnectionLike};
use tollgate::load::{CpuReading, End, Generator, Measured, Pace};

use crate::empty;
use crate::load::{Load, blocking};
use crate::process::{Process, is_http_ready, log_path};
use crate::tenants::{Expected, Tenants, config};

/// What answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// A tonic server that only says OK.
    Empty,
    /// The same, that reads and writes a key in a Redis of its own for each request.
    Evalsha,
    /// The same, requests combined.
    Combined,
    /// Tollgate, buckets in its own memory.
    Memory,
    /// Tollgate, buckets in a Redis of its own.
    Redis,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Tenants.
    pub(crate) keys: usize,
    /// Rules that are configured.
    pub(crate) rules: usize,
    /// What a request is held to.
    pub(crate) limits: Limits,
    /// What is done besides.
    pub(crate) kind: Kind,
}

/// What a request is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limits {
    /// One of the tenant's.
    One,
    /// Two of the tenant's, and two of the deployment's, of which there are few.
    Four,
    /// Six of the tenant's.
    Six,
}

/// What is done besides deciding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing.
    Plain,
    /// A reservation is made for each decision, that a report could settle.
    Reserved,
    /// Nearly everything is refused.
    Refused,
    /// Replicas may lease of the limits.
    Leased,
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Variant {
    /// Its name in commands and in the table.
    pub(crate) name: &'static str,
    /// What answers.
    pub(crate) backend: Backend,
    /// What is asked; without a number of keys of its own, the run's.
    shape: Shape,
    own_keys: bool,
}

const PLAIN: Shape = Shape {
    keys: 0,
    rules: 1,
    limits: Limits::One,
    kind: Kind::Plain,
};

const fn variant(name: &'static str, backend: Backend, shape: Shape) -> Variant {
    Variant {
        name,
        backend,
        shape,
        own_keys: shape.keys > 0,
    }
}

/// Every variant there is.
#[rustfmt::skip]
pub(crate) const VARIANTS: &[Variant] = &[
    variant("empty",           Backend::Empty,    PLAIN),
    variant("evalsha",         Backend::Evalsha,  PLAIN),
    variant("combined",        Backend::Combined, PLAIN),
    variant("memory",          Backend::Memory,   PLAIN),
    variant("memory-4-limits", Backend::Memory,   Shape { limits: Limits::Four, ..PLAIN }),
    variant("memory-rules",    Backend::Memory,   Shape { rules: 10_000, ..PLAIN }),
    variant("memory-hot",      Backend::Memory,   Shape { keys: 1, ..PLAIN }),
    variant("memory-100k",     Backend::Memory,   Shape { keys: 100_000, ..PLAIN }),
    variant("memory-refused",  Backend::Memory,   Shape { kind: Kind::Refused, ..PLAIN }),
    variant("memory-reserved", Backend::Memory,   Shape { kind: Kind::Reserved, ..PLAIN }),
    variant("redis",           Backend::Redis,    PLAIN),
    variant("redis-4-limits",  Backend::Redis,    Shape { limits: Limits::Four, ..PLAIN }),
    variant("redis-6-limits",  Backend::Redis,    Shape { limits: Limits::Six, ..PLAIN }),
    variant("redis-rules",     Backend::Redis,    Shape { rules: 10_000, ..PLAIN }),
    variant("redis-hot",       Backend::Redis,    Shape { keys: 1, ..PLAIN }),
    variant("redis-100k",      Backend::Redis,    Shape { keys: 100_000, ..PLAIN }),
    variant("redis-refused",   Backend::Redis,    Shape { kind: Kind::Refused, ..PLAIN }),
    variant("redis-reserved",  Backend::Redis,    Shape { kind: Kind::Reserved, ..PLAIN }),
    variant("redis-leased",    Backend::Redis,    Shape { kind: Kind::Leased, keys: 100, ..PLAIN }),
];

impl FromStr for Variant {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        if let Some(variant) = VARIANTS.iter().find(|variant| variant.name == name) {
            return Ok(*variant);
        }
        let names: Vec<&str> = VARIANTS.iter().map(|variant| variant.name).collect();
        bail!("the variants are {}", names.join(", "))
    }
}

impl Variant {
    /// Starts the server, and its Redis if it needs one, and connects to it.
    pub(crate) async fn start(
        self,
        tollgate: &Path,
        scratch: &Path,
        load: Load,
        threads: usize,
    ) -> Result<Running> {
        let mut shape = self.shape;
        if !self.own_keys {
            shape.keys = load.keys;
        }
        let redis = match self.backend {
            Backend::Empty | Backend::Memory => None,
            Backend::Evalsha | Backend::Combined | Backend::Redis => {
                Some(start_redis(scratch, self.name).await?)
            }
        };
        let url = redis.as_ref().map(|redis| redis.url.as_str());
        let (server, port) = match self.backend {
            Backend::Empty | Backend::Evalsha | Backend::Combined => {
                start_empty(self.backend, url, threads)?
            }
            Backend::Memory | Backend::Redis => {
                let path = scratch.join(format!("{}.yaml", self.name));
                fs::write(&path, config(&shape)?)?;
                let store = url.unwrap_or("memory");
                let log = log_path(scratch, self.name);
                start_tollgate(tollgate, &path, &log, store, threads).await?
            }
        };
        let expected = match self.backend {
            Backend::Empty | Backend::Evalsha | Backend::Combined => Expected::Nothing,
            _ if shape.kind == Kind::Refused => Expected::Refused,
            _ => Expected::Charged,
        };
        let driver = Driver {
            generator: load.connect(port)?,
            tenants: Tenants::new(&shape, expected)?,
        };
        Ok(Running {
            variant: self,
            driver: Some(driver),
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
    /// Away while it drives.
    driver: Option<Driver>,
    // Before its Redis: dropped in this order, so that it never sees Redis go.
    server: Process,
    redis: Option<Redis>,
}

#[derive(Debug)]
struct Driver {
    generator: Generator,
    tenants: Tenants,
}

#[derive(Debug)]
struct Redis {
    process: Process,
    url: String,
}

/// What a server has used so far.
#[derive(Debug)]
pub(crate) struct Used {
    /// Our own CPU time: nothing of the variant's, but it must not be what is measured.
    pub(crate) generator: CpuReading,
    /// The server's CPU time.
    pub(crate) server: CpuReading,
    /// Its Redis's CPU time, and the scripts that it has run.
    pub(crate) redis: Option<(CpuReading, u64)>,
}

impl Running {
    /// What it has used so far.
    pub(crate) fn used(&self) -> Result<Used> {
        let redis = match &self.redis {
            Some(redis) => Some((CpuReading::of(redis.process.pid())?, redis.scripts_run()?)),
            None => None,
        };
        Ok(Used {
            generator: CpuReading::of(std::process::id())?,
            server: CpuReading::of(self.server.pid())?,
            redis,
        })
    }

    /// Drives it.
    pub(crate) async fn drive(&mut self, pace: Pace, end: End) -> Result<Measured> {
        self.work(move |driver| driver.tenants.drive(&mut driver.generator, pace, end))
            .await
    }

    /// Checks that what it answered is what it charged, where it should have.
    pub(crate) async fn verify(&mut self) -> Result<()> {
        let seen = self
            .work(|driver| {
                driver.tenants.verify(&mut driver.generator)?;
                Ok(driver.tenants.seen())
            })
            .await?;
        if let Some(redis) = &self.redis {
            let (command, key) = match self.variant.backend {
                Backend::Redis => ("HLEN", Some("tollgate:buckets")),
                _ => ("DBSIZE", None),
            };
            let buckets: usize = redis::cmd(command).arg(key).query(&mut redis.connect()?)?;
            ensure!(
                buckets >= seen,
                "{buckets} buckets in Redis after {seen} tenants were charged"
            );
        }
        Ok(())
    }

    async fn work<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Driver) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut driver = self.driver.take().context("it is driven already")?;
        let (driver, result) = blocking(move || {
            let result = work(&mut driver);
            (driver, result)
        })
        .await?;
        self.driver = Some(driver);
        result
    }
}

impl Redis {
    fn connect(&self) -> Result<Connection> {
        Ok(redis::Client::open(self.url.as_str())?.get_connection()?)
    }

    /// Each of them was a round trip.
    fn scripts_run(&self) -> Result<u64> {
        let told: String = redis::cmd("INFO")
            .arg("commandstats")
            .query(&mut self.connect()?)?;
        told.lines()
            .filter_map(|line| line.strip_prefix("cmdstat_eval"))
            .filter_map(|line| line.split_once(":calls=")?.1.split(',').next())
            .map(|calls| Ok(calls.parse::<u64>()?))
            .sum()
    }
}

fn start_empty(backend: Backend, redis: Option<&str>, threads: usize) -> Result<(Process, u16)> {
    let how = match backend {
        Backend::Combined => empty::COMBINED,
        _ => "alone",
    };
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(empty::ARGUMENT);
    if let Some(url) = redis {
        command.args([how, url]);
    }
    let mut server = Process::spawn(
        command
            .env(WORKER_THREADS, threads.to_string())
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

/// Tokio reads it.
const WORKER_THREADS: &str = "TOKIO_WORKER_THREADS";

async fn start_tollgate(
    program: &Path,
    config: &Path,
    log: &Path,
    store: &str,
    threads: usize,
) -> Result<(Process, u16)> {
    let command = |[grpc, http]: [u16; 2]| {
        let mut command = Command::new(program);
        command
            .env(WORKER_THREADS, threads.to_string())
            .arg("serve")
            .arg("--config")
            .arg(config)
            .args(["--store", store])
            // A busy machine may be late; that is told as latency, not by refusing.
            .args(["--store-timeout", "1s"]);
        command.args(["--grpc-addr", &format!("127.0.0.1:{grpc}")]);
        command.args(["--http-addr", &format!("127.0.0.1:{http}")]);
        command
    };
    let (server, [grpc, _]) =
        Process::launch(log, command, |[_, http]| is_http_ready(http)).await?;
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
