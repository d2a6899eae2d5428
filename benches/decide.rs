//! What a decision costs: CPU time per `ShouldRateLimit`, of the server and of Redis apart; and how
//! long one takes when the machine is not busy.
//!
//! `benches/run` (or `cargo bench --bench decide`) starts, as processes of their own, empty tonic
//! servers (the floor: what any answer over gRPC costs) and Tollgate with its stores. It drives them
//! in turn, round after round, from this process, and reads what each of them spent from the kernel.
//! CPU per decision is the figure to trust: generator, servers and Redis share the machine, so
//! decisions per second also say how much of it was free. Rounds are interleaved so that a busy
//! minute slows all alike, and ratios to the floor are taken within a round.
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

#[path = "decide/empty.rs"]
mod empty;
#[path = "decide/load.rs"]
mod load;
#[path = "decide/process.rs"]
mod process;
#[path = "decide/report.rs"]
mod report;
#[path = "decide/sharing.rs"]
mod sharing;
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
use tollgate::load::{End, Pace};

use crate::load::Load;
use crate::report::{LatencyRound, Report, Round};
use crate::variant::{Running, VARIANTS, Variant};

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
    /// Seconds per round [default: 2].
    #[arg(long, env = "BENCH_SECONDS")]
    seconds: Option<f64>,
    /// Requests in flight.
    #[arg(long, env = "BENCH_IN_FLIGHT", default_value_t = 64)]
    in_flight: usize,
    /// HTTP/2 connections that carry them.
    #[arg(long, env = "BENCH_CONNECTIONS", default_value_t = 4)]
    connections: usize,
    /// Tenants, each with a bucket of its own, where the variant does not say otherwise [default:
    /// 10000].
    #[arg(long, env = "BENCH_KEYS")]
    keys: Option<usize>,
    /// Worker threads of every server.
    #[arg(long, env = "BENCH_WORKER_THREADS", default_value_t = 1)]
    worker_threads: usize,
    /// Variants to run, in this order [default: all but evalsha].
    #[arg(long, env = "BENCH_VARIANTS", value_delimiter = ',')]
    variants: Vec<Variant>,
    /// Variants whose latency is measured besides [default: empty,evalsha,memory,redis].
    #[arg(long, env = "BENCH_LATENCY", value_delimiter = ',')]
    latency: Vec<Variant>,
    /// Requests per second at which latency is measured.
    #[arg(
        long,
        env = "BENCH_RATES",
        value_delimiter = ',',
        default_value = "2000,10000"
    )]
    rates: Vec<u32>,
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

impl Settings {
    /// The variants to drive as fast as they go, and those to ask at a steady rate.
    fn variants(&self) -> Result<(Vec<Variant>, Vec<Variant>)> {
        let named = |names: &[&str]| -> Result<Vec<Variant>> {
            names.iter().map(|name| name.parse()).collect()
        };
        let all = VARIANTS.iter().copied();
        let driven = match self.bench {
            _ if !self.variants.is_empty() => self.variants.clone(),
            true => all.filter(|variant| variant.name != "evalsha").collect(),
            false => named(&[
                "empty",
                "evalsha",
                "combined",
                "memory",
                "memory-4-limits",
                "memory-refused",
                "redis",
                "redis-4-limits",
                "redis-reserved",
            ])?,
        };
        let asked = match self.bench {
            _ if !self.latency.is_empty() => self.latency.clone(),
            // Somebody looks at something else.
            _ if !self.variants.is_empty() => Vec::new(),
            true => named(&["empty", "evalsha", "memory", "redis"])?,
            false => named(&["empty", "memory"])?,
        };
        Ok((driven, asked))
    }
}

fn main() -> Result<()> {
    if std::env::args().nth(1).as_deref() == Some(empty::ARGUMENT) {
        return empty::serve();
    }
    let settings = Settings::parse();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("no runtime")?
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
    let (rounds, seconds, keys) = if settings.bench {
        (5, 2.0, 10_000)
    } else {
        (1, 0.1, 200)
    };
    let rounds = settings.rounds.unwrap_or(rounds);
    let length = Duration::try_from_secs_f64(settings.seconds.unwrap_or(seconds))
        .context("a round of no length")?;
    ensure!(
        rounds > 0 && !length.is_zero() && settings.worker_threads > 0,
        "nothing to measure: no rounds, or of no length, or no thread that serves"
    );
    ensure!(!settings.rates.contains(&0), "a rate of none in a second");
    let keys = settings.keys.unwrap_or(keys);
    let load = Load::new(settings.in_flight, settings.connections, keys)?;
    let (driven, asked) = settings.variants()?;
    let scratch = tempfile::tempdir().context("no scratch directory")?;

    let mut running: Vec<Running> = Vec::new();
    for variant in driven.iter().chain(&asked) {
        if running.iter().all(|known| known.variant != *variant) {
            let threads = settings.worker_threads;
            let started = variant.start(&settings.tollgate, scratch.path(), load, threads);
            running.push(started.await.with_context(|| variant.name)?);
        }
    }
    let mut report = Report::new(load, rounds, length, settings.worker_threads);
    for number in 1..=rounds {
        for server in &mut running {
            let variant = server.variant;
            if driven.contains(&variant) {
                let round = drive(server, length).await.context(variant.name)?;
                eprintln!("round {number}/{rounds} {:>15}: {round}", variant.name);
                report.add(variant, round);
            }
        }
        for rate in &settings.rates {
            for server in &mut running {
                let variant = server.variant;
                if asked.contains(&variant) {
                    let round = ask(server, *rate, length).await.context(variant.name)?;
                    eprintln!(
                        "round {number}/{rounds} {:>15}: {rate}/s: {round}",
                        variant.name
                    );
                    report.add_latency(variant, *rate, round);
                }
            }
        }
    }
    for server in &mut running {
        let name = server.variant.name;
        server
            .verify()
            .await
            .with_context(|| format!("{name} is wrong"))?;
    }
    println!("{report}");
    if let Some(path) = &settings.json {
        fs::write(path, report.json()).with_context(|| format!("writing {}", path.display()))?;
        println!("every round: {}", path.display());
    }
    Ok(())
}

/// As fast as it goes: a short warm-up, then one measured round. Both ends of it are read with
/// nothing in flight.
async fn drive(server: &mut Running, length: Duration) -> Result<Round> {
    server.drive(Pace::Gathered, End::After(length / 6)).await?;
    let before = server.used()?;
    let measured = server.drive(Pace::Gathered, End::After(length)).await?;
    Ok(Round::new(&measured, &before, &server.used()?))
}

/// At a steady rate.
async fn ask(server: &mut Running, rate: u32, length: Duration) -> Result<LatencyRound> {
    let pace = Pace::Open(rate.into());
    server.drive(pace, End::After(length / 10)).await?;
    let measured = server.drive(pace, End::After(length)).await?;
    Ok(LatencyRound::new(&measured))
}
