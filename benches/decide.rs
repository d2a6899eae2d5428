//! What a decision costs: CPU time per `ShouldRateLimit`, of the server and of Redis apart.
//!
//! `cargo bench --bench decide` starts, as processes of their own, an empty tonic server (the
//! floor: what any answer over gRPC costs), Tollgate with the memory store, and Tollgate with a
//! fresh `redis-server`. It drives them in turn, round after round, from this process, and reads
//! what each of them spent from the kernel. CPU per decision is the figure to trust: generator,
//! servers and Redis share the machine, so decisions per second also say how much of it was free.
//! Rounds are interleaved so that a busy minute slows all alike, and ratios to the floor are taken
//! within a round.
//!
//! A server that answers without deciding must not look fast: every answer is checked, and at the
//! end each tenant's bucket must have been charged exactly once per answer.
//!
//! Without `--bench` (as `cargo test --benches` runs it) it only proves that the harness works.

#![expect(
    clippy::print_stdout,
    reason = "printing the table is what this program is for"
)]
#![expect(
    clippy::print_stderr,
    reason = "progress goes beside the table, not into it"
)]

#[path = "decide/combined.rs"]
mod combined;
#[path = "decide/cpu.rs"]
mod cpu;
#[path = "decide/empty.rs"]
mod empty;
#[path = "decide/load.rs"]
mod load;
#[path = "decide/process.rs"]
mod process;
#[path = "decide/report.rs"]
mod report;
#[path = "decide/tenants.rs"]
mod tenants;
#[path = "decide/variant.rs"]
mod variant;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::cpu::CpuReading;
use crate::load::Load;
use crate::report::{Report, Round};
use crate::variant::{Running, Variant};

/// The floor must pay for its memory as Tollgate does.
#[cfg(all(feature = "jemalloc", target_os = "linux", target_env = "gnu"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures CPU time per decision against the floor of an empty gRPC server.
#[derive(Debug, Parser)]
#[command(name = "decide")]
struct Settings {
    /// Rounds per variant [default: 5].
    #[arg(long, env = "BENCH_ROUNDS")]
    rounds: Option<usize>,
    /// Seconds per round [default: 3].
    #[arg(long, env = "BENCH_SECONDS")]
    seconds: Option<f64>,
    /// Requests in flight.
    #[arg(long, env = "BENCH_IN_FLIGHT", default_value_t = 64)]
    in_flight: usize,
    /// HTTP/2 connections that carry them.
    #[arg(long, env = "BENCH_CONNECTIONS", default_value_t = 4)]
    connections: usize,
    /// Tenants, each with a bucket of its own.
    #[arg(long, env = "BENCH_KEYS", default_value_t = 10_000)]
    keys: usize,
    /// Threads of the load generator; the servers' are `TOKIO_WORKER_THREADS`.
    #[arg(long, env = "BENCH_CLIENT_THREADS", default_value_t = 1)]
    client_threads: usize,
    /// Variants to run, in this order.
    #[arg(
        long,
        env = "BENCH_VARIANTS",
        value_delimiter = ',',
        value_enum,
        default_value = "empty,memory,combined,redis,memory-reserved,redis-reserved"
    )]
    variants: Vec<Variant>,
    /// Another Tollgate to measure than the one just built.
    #[arg(long, env = "BENCH_TOLLGATE", default_value = env!("CARGO_BIN_EXE_tollgate"))]
    tollgate: PathBuf,
    /// Write every round as JSON, too.
    #[arg(long, env = "BENCH_JSON", value_name = "FILE", num_args = 0..=1,
          default_missing_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/decide.json"))]
    json: Option<PathBuf>,
    /// Passed by `cargo bench`: measure, rather than prove that measuring works.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    if std::env::args().nth(1).as_deref() == Some(empty::ARGUMENT) {
        return empty::serve();
    }
    let settings = Settings::parse();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(settings.client_threads)
        .enable_all()
        .build()
        .context("no runtime for the load generator")?
        .block_on(until_interrupted(measure(&settings)))
}

/// Drops `work`, and with it every process that it started, when we are told to stop.
async fn until_interrupted(work: impl Future<Output = Result<()>>) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        result = work => result,
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
        _ = hangup.recv() => bail!("hung up"),
    }
}

async fn measure(settings: &Settings) -> Result<()> {
    let (rounds, seconds) = if settings.bench { (5, 3.0) } else { (1, 0.2) };
    let rounds = settings.rounds.unwrap_or(rounds);
    let round = Duration::try_from_secs_f64(settings.seconds.unwrap_or(seconds))
        .context("a round of no length")?;
    ensure!(
        rounds > 0 && !round.is_zero(),
        "nothing to measure: no rounds, or of no length"
    );
    let load = Load::new(settings.in_flight, settings.connections, settings.keys)?;
    let scratch = tempfile::tempdir().context("no scratch directory")?;

    let mut running = Vec::new();
    for variant in &settings.variants {
        running.push(
            variant
                .start(&settings.tollgate, scratch.path(), load)
                .await?,
        );
    }
    let mut report = Report::new(load, rounds, round, settings.client_threads);
    for number in 1..=rounds {
        for server in &running {
            let measured = measure_round(server, load, round).await?;
            eprintln!(
                "round {number}/{rounds} {:>6}: {measured}",
                server.variant.name()
            );
            report.add(server.variant, measured);
        }
    }
    for server in &running {
        server
            .verify()
            .await
            .with_context(|| format!("{} is wrong", server.variant.name()))?;
    }
    println!("{report}");
    if let Some(path) = &settings.json {
        fs::write(path, report.json()).with_context(|| format!("writing {}", path.display()))?;
        println!("every round: {}", path.display());
    }
    Ok(())
}

/// A short warm-up, then one measured round. Both ends of it are read with nothing in flight.
async fn measure_round(server: &Running, load: Load, length: Duration) -> Result<Round> {
    load.drive(server, length / 6).await?;
    let server_before = CpuReading::of(server.pid())?;
    let redis_before = server.redis_pid().map(CpuReading::of).transpose()?;
    let driven = load.drive(server, length).await?;
    let server_cpu = CpuReading::of(server.pid())?.since(&server_before);
    let redis_cpu = match (server.redis_pid(), redis_before) {
        (Some(pid), Some(before)) => Some(CpuReading::of(pid)?.since(&before)),
        _ => None,
    };
    Ok(Round::new(&driven, server_cpu, redis_cpu))
}
