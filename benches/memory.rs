//! What a live bucket takes of memory, in this process and in Redis.
//!
//! `cargo bench --bench memory` fills the memory store with ten million buckets and a fresh
//! `redis-server` with a million and some, through the stores' own code, and looks at what is in
//! use as they grow: of this process what the kernel holds for it (so what the allocator keeps is
//! in it), of Redis its `used_memory`. Tables double, so one figure says little: the table has the
//! best, the worst and what there is at round counts.
//!
//! Without `--bench` (as `cargo test --benches` runs it) it only proves that the harness works.

#![expect(
    clippy::print_stdout,
    reason = "printing the table is what this program is for"
)]
#![expect(
    clippy::cast_precision_loss,
    reason = "figures for people have three digits"
)]

#[path = "decide/process.rs"]
#[expect(dead_code, reason = "shared with a bench that needs more of it")]
mod process;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use redis::ConnectionLike;
use tollgate::clock::Clock;
use tollgate::limit::{self, Algorithm, Effect, Limit, Mode, Oversize, Rate, WhenOver, ZeroCost};
use tollgate::rules::BucketKey;
use tollgate::store::{self, Admission, Charge, Memory, Verdict};

use crate::process::{Process, log_path};

/// As the program itself has it.
#[cfg(all(feature = "jemalloc", target_os = "linux", target_env = "gnu"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Below this, what a process takes by itself shows in the figures.
const FEWEST: usize = 500_000;

/// Measures the memory that a live bucket takes.
#[derive(Debug, Parser)]
#[command(name = "memory")]
struct Settings {
    /// Buckets in the memory store.
    #[arg(long, env = "BENCH_BUCKETS", default_value_t = 10_000_000)]
    buckets: usize,
    /// Buckets in Redis: its table doubles after 1,048,576 keys.
    #[arg(long, env = "BENCH_REDIS_BUCKETS", default_value_t = 1_100_000)]
    redis_buckets: usize,
    /// Passed by `cargo bench`: measure, rather than prove that measuring works.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let mut settings = Settings::parse();
    if !settings.bench {
        settings.buckets = 10_000;
        settings.redis_buckets = 10_000;
    }
    let limit = Limit {
        algorithm: Algorithm::TokenBucket,
        rate: Rate::new(1000, Duration::from_hours(24))?,
        burst: 1_000_000,
        when_over: WhenOver::Refuse,
        oversize: Oversize::Refuse,
        zero_cost: ZeroCost::NeedsRoom,
    };
    println!("| store | buckets | bytes per bucket |\n|---|---|---|");
    in_memory(&settings, limit)?.print("memory");
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?
        .block_on(in_redis(&settings, limit))?
        .print("redis");
    Ok(())
}

/// What was in use as buckets came.
#[derive(Debug, Default)]
struct Growth {
    /// How many buckets, and the bytes each.
    seen: Vec<(usize, f64)>,
}

impl Growth {
    fn note(&mut self, buckets: usize, bytes: u64) {
        self.seen.push((buckets, bytes as f64 / buckets as f64));
    }

    fn print(&self, store: &str) {
        let large: Vec<(usize, f64)> = self
            .seen
            .iter()
            .filter(|(buckets, _)| *buckets >= FEWEST)
            .copied()
            .collect();
        let row = |what: &str, found: Option<&(usize, f64)>| {
            if let Some((buckets, bytes)) = found {
                println!("| {store}, {what} | {buckets} | {bytes:.1} |");
            }
        };
        let by_bytes = |one: &&(usize, f64), other: &&(usize, f64)| one.1.total_cmp(&other.1);
        row(
            "a million",
            large.iter().find(|(buckets, _)| *buckets >= 1_000_000),
        );
        row("all", self.seen.last());
        row("best", large.iter().min_by(by_bytes));
        row("worst", large.iter().max_by(by_bytes));
    }
}

fn in_memory(settings: &Settings, limit: Limit) -> Result<Growth> {
    let memory = Memory::new(Clock::System);
    let mut growth = Growth::default();
    let before = resident()?;
    for bucket in 0..settings.buckets {
        let decision = memory.admit(&admission(bucket, limit));
        ensure!(decision.verdict == Verdict::Admitted, "{decision:?}");
        let count = bucket + 1;
        if count.is_multiple_of(10_000) {
            growth.note(count, resident()?.saturating_sub(before));
        }
    }
    growth.note(settings.buckets, resident()?.saturating_sub(before));
    ensure!(memory.bucket_count() == settings.buckets, "some were lost");
    Ok(growth)
}

async fn in_redis(settings: &Settings, limit: Limit) -> Result<Growth> {
    const AT_ONCE: usize = 500;

    let scratch = tempfile::tempdir()?;
    let (_process, url) = start_redis(scratch.path()).await?;
    let mut options = store::redis::Options::new(url.clone());
    options.deadline = Duration::from_secs(10);
    let redis = store::Redis::start(options)?;
    redis.ping().await?;
    let before = used(&url)?;
    let mut growth = Growth::default();
    for first in (0..settings.redis_buckets).step_by(AT_ONCE) {
        let mut asked = Vec::new();
        for bucket in first..first + AT_ONCE {
            let (redis, admission) = (redis.clone(), admission(bucket, limit));
            asked.push(tokio::spawn(async move { redis.admit(admission).await }));
        }
        for asked in asked {
            let decision = asked.await??;
            ensure!(decision.verdict == Verdict::Admitted, "{decision:?}");
        }
        let count = first + AT_ONCE;
        if count.is_multiple_of(10_000) {
            growth.note(count, used(&url)?.saturating_sub(before));
        }
    }
    Ok(growth)
}

/// A charge on bucket number `bucket`, which it does not refill within any run.
fn admission(bucket: usize, limit: Limit) -> Admission {
    // As uniform as the hashes that keys are; no two are the same, because both steps can be undone.
    let number = (bucket as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let mut key = [0; 16];
    key[..8].copy_from_slice(&number.to_le_bytes());
    key[8..].copy_from_slice(&number.rotate_left(31).to_be_bytes());
    let charge = limit::Charge {
        limit,
        amount: 1000,
        threshold: limit.threshold(1000, 0),
        effect: Effect::Enforce,
    };
    Admission {
        charges: [Charge {
            key: BucketKey::from_bytes(key),
            charge,
            settles: false,
            lease: None,
        }]
        .into_iter()
        .collect(),
        mode: Mode::Apply,
        hold: None,
        keep_when_late: false,
    }
}

/// The bytes that the kernel holds for this process.
fn resident() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes: u64 = line
        .and_then(|line| line.split_whitespace().next())
        .context("no VmRSS")?
        .parse()?;
    Ok(kilobytes * 1024)
}

/// The bytes that Redis says it uses.
fn used(url: &str) -> Result<u64> {
    let mut connection = redis::Client::open(url)?.get_connection()?;
    let info: String = redis::cmd("INFO").arg("memory").query(&mut connection)?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"));
    Ok(line.context("no used_memory")?.trim().parse()?)
}

/// A Redis that keeps nothing on disk.
async fn start_redis(scratch: &Path) -> Result<(Process, String)> {
    let url = |[port]: [u16; 1]| format!("redis://127.0.0.1:{port}");
    let command = |[port]: [u16; 1]| {
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
        command.args(["--save", "", "--appendonly", "no"]);
        command.arg("--dir").arg(scratch);
        command
    };
    let is_ready = |port| {
        redis::Client::open(url(port))
            .and_then(|client| client.get_connection())
            .is_ok_and(|mut connection| connection.check_connection())
    };
    let (process, port) = Process::launch(&log_path(scratch, "redis"), command, is_ready).await?;
    Ok((process, url(port)))
}
