//! Rounds, what they add up to, and the tables.

use std::fmt;
use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use tollgate::load::Measured;

use crate::load::Load;
use crate::variant::{Backend, Used, Variant};

/// What one round of one variant came to. Times are in microseconds per decision.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    server: f64,
    redis: Option<f64>,
    /// Of Redis, for each decision.
    calls: Option<f64>,
    generator: f64,
    per_second: f64,
    decisions: u64,
}

impl Round {
    /// Divides what was spent by what was decided.
    pub(crate) fn new(measured: &Measured, before: &Used, after: &Used) -> Self {
        let decisions = measured.answers();
        let each = |spent: Duration| spent.as_secs_f64() * 1e6 / float(decisions);
        let redis = after.redis.as_ref().zip(before.redis.as_ref());
        Self {
            server: each(after.server.since(&before.server)),
            redis: redis.map(|((after, _), (before, _))| each(after.since(before))),
            calls: redis.map(|((_, after), (_, before))| float(after - before) / float(decisions)),
            generator: each(after.generator.since(&before.generator)),
            per_second: float(decisions) / measured.elapsed.as_secs_f64(),
            decisions,
        }
    }

    fn total(&self) -> f64 {
        self.server + self.redis.unwrap_or_default()
    }

    fn json(&self) -> Value {
        json!({
            "server_us": self.server,
            "redis_us": self.redis,
            "total_us": self.total(),
            "redis_calls_per_decision": self.calls,
            "generator_us": self.generator,
            "decisions_per_second": self.per_second,
            "decisions": self.decisions,
        })
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "server {:.2} µs", self.server)?;
        if let Some(redis) = self.redis {
            write!(f, ", Redis {redis:.2} µs")?;
        }
        write!(f, ", {:.0} decisions/s", self.per_second)
    }
}

/// What one round at a steady rate came to. Times are in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LatencyRound {
    p50: f64,
    p99: f64,
    p999: f64,
    most: f64,
    late: u64,
    unsent: u64,
    decisions: u64,
}

impl LatencyRound {
    /// Of what was measured.
    pub(crate) fn new(measured: &Measured) -> Self {
        let micros = |duration: Duration| duration.as_secs_f64() * 1e6;
        let at = |share: f64| micros(measured.latency.quantile(share));
        Self {
            p50: at(0.50),
            p99: at(0.99),
            p999: at(0.999),
            most: micros(measured.latency.max()),
            late: measured.late,
            unsent: measured.unsent,
            decisions: measured.answers(),
        }
    }

    fn json(&self) -> Value {
        json!({
            "p50_us": self.p50,
            "p99_us": self.p99,
            "p99_9_us": self.p999,
            "max_us": self.most,
            "late": self.late,
            "unsent": self.unsent,
            "decisions": self.decisions,
        })
    }
}

impl fmt::Display for LatencyRound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p99, p999, .. } = self;
        write!(f, "p50 {p50:.0} µs, p99 {p99:.0} µs, p99.9 {p999:.0} µs")
    }
}

/// All rounds of all variants.
#[derive(Debug)]
pub(crate) struct Report {
    load: Load,
    rounds: usize,
    length: Duration,
    worker_threads: usize,
    load_average_before: String,
    variants: Vec<(Variant, Vec<Round>)>,
    latencies: Vec<((Variant, u32), Vec<LatencyRound>)>,
}

fn add<K: PartialEq, R>(all: &mut Vec<(K, Vec<R>)>, key: K, round: R) {
    match all.iter_mut().find(|(known, _)| *known == key) {
        Some((_, rounds)) => rounds.push(round),
        None => all.push((key, vec![round])),
    }
}

impl Report {
    /// No rounds yet.
    pub(crate) fn new(load: Load, rounds: usize, length: Duration, worker_threads: usize) -> Self {
        Self {
            load,
            rounds,
            length,
            worker_threads,
            load_average_before: load_average(),
            variants: Vec::new(),
            latencies: Vec::new(),
        }
    }

    /// One more round.
    pub(crate) fn add(&mut self, variant: Variant, round: Round) {
        add(&mut self.variants, variant, round);
    }

    /// One more round at a steady rate.
    pub(crate) fn add_latency(&mut self, variant: Variant, rate: u32, round: LatencyRound) {
        add(&mut self.latencies, (variant, rate), round);
    }

    /// Everything, for programs.
    pub(crate) fn json(&self) -> String {
        let variants: serde_json::Map<String, Value> = self
            .variants
            .iter()
            .map(|(variant, rounds)| {
                let median = |of: fn(&Round) -> f64| Spread::of(rounds.iter().map(of)).median;
                let ratios: serde_json::Map<String, Value> = RATIOS
                    .iter()
                    .filter_map(|ratio| {
                        let spread = self.ratio(variant, rounds, ratio)?;
                        Some((ratio.name.to_owned(), spread.median.into()))
                    })
                    .collect();
                let summary = json!({
                    "rounds": rounds.iter().map(Round::json).collect::<Vec<_>>(),
                    "median_server_us": median(|round| round.server),
                    "median_total_us": median(Round::total),
                    "median_decisions_per_second": median(|round| round.per_second),
                    "median_ratios": ratios,
                });
                (variant.name.to_owned(), summary)
            })
            .collect();
        let latencies: Vec<Value> = self
            .latencies
            .iter()
            .map(|((variant, rate), rounds)| {
                json!({
                    "variant": variant.name,
                    "rate": rate,
                    "rounds": rounds.iter().map(LatencyRound::json).collect::<Vec<_>>(),
                    "median_p99_ratio_to_floor":
                        self.latency_ratio(*variant, *rate, rounds).map(|ratio| ratio.median),
                })
            })
            .collect();
        let report = json!({
            "machine": machine(),
            "debug_build": cfg!(debug_assertions),
            "in_flight": self.load.in_flight,
            "connections": self.load.connections,
            "keys": self.load.keys,
            "worker_threads": self.worker_threads,
            "round_seconds": self.length.as_secs_f64(),
            "load_average": [self.load_average_before, load_average()],
            "variants": variants,
            "latencies": latencies,
        });
        format!("{report:#}\n")
    }

    /// Round by round, so that what slowed both cancels out.
    fn ratio(&self, variant: &Variant, rounds: &[Round], ratio: &Ratio) -> Option<Spread> {
        let floor = (ratio.floor)(variant)?;
        let (_, floor) = self
            .variants
            .iter()
            .find(|(known, _)| known.name == floor)?;
        let ratios = rounds
            .iter()
            .zip(floor)
            .map(|(round, floor)| (ratio.of)(round) / (ratio.of)(floor));
        Some(Spread::of(ratios))
    }

    fn latency_ratio(
        &self,
        variant: Variant,
        rate: u32,
        rounds: &[LatencyRound],
    ) -> Option<Spread> {
        let floor = match variant.backend {
            Backend::Empty | Backend::Memory => "empty",
            Backend::Evalsha | Backend::Combined | Backend::Redis => "evalsha",
        };
        let (_, floor) = self
            .latencies
            .iter()
            .find(|((known, at), _)| known.name == floor && *at == rate)?;
        let ratios = rounds.iter().zip(floor);
        Some(Spread::of(
            ratios.map(|(round, floor)| round.p99 / floor.p99),
        ))
    }
}

/// What is divided by what.
struct Ratio {
    name: &'static str,
    of: fn(&Round) -> f64,
    floor: fn(&Variant) -> Option<&'static str>,
}

const RATIOS: [Ratio; 3] = [
    Ratio {
        name: "server × empty",
        of: |round| round.server,
        floor: |_| Some("empty"),
    },
    Ratio {
        name: "total × plain",
        of: Round::total,
        floor: |variant| match variant.backend {
            Backend::Memory if variant.name != "memory" => Some("memory"),
            Backend::Redis if variant.name != "redis" => Some("redis"),
            Backend::Memory => Some("empty"),
            Backend::Redis => Some("combined"),
            _ => None,
        },
    },
    Ratio {
        name: "rate × plain",
        of: |round| round.per_second,
        floor: |variant| (RATIOS[1].floor)(variant),
    },
];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Load {
            in_flight,
            connections,
            keys,
        } = self.load;
        writeln!(f, "\n{}", machine())?;
        writeln!(
            f,
            "{in_flight} in flight, {connections} connections, {keys} keys; {} worker thread(s) in \
             each server; {} rounds of {:?}; load average {} before, {} after",
            self.worker_threads,
            self.rounds,
            self.length,
            self.load_average_before,
            load_average(),
        )?;
        if cfg!(debug_assertions) {
            writeln!(
                f,
                "A debug build: these figures say nothing about a release."
            )?;
        }
        if !self.variants.is_empty() {
            self.write_costs(f)?;
        }
        if !self.latencies.is_empty() {
            self.write_latencies(f)?;
        }
        Ok(())
    }
}

impl Report {
    fn write_costs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nCPU µs per decision, as fast as it goes: median (least–most) of the rounds. Plain: \
             empty under memory, combined under redis, and these two under their variants.\n"
        )?;
        let [empty, total, rate] = &RATIOS;
        writeln!(
            f,
            "| {:<15} | {:<19} | {:<16} | {:<19} | {:<19} | {:<16} | {:<22} | {:<16} | Redis calls | generator µs |",
            "",
            "server µs",
            empty.name,
            "Redis µs",
            "total µs",
            total.name,
            "decisions/s",
            rate.name,
        )?;
        writeln!(
            f,
            "|{0:-<17}|{0:-<21}|{0:-<18}|{0:-<21}|{0:-<21}|{0:-<18}|{0:-<24}|{0:-<18}|{0:-<12}:|{0:-<13}:|",
            ""
        )?;
        for (variant, rounds) in &self.variants {
            let spread = |of: fn(&Round) -> f64| Spread::of(rounds.iter().map(of));
            let known = |of: fn(&Round) -> Option<f64>| {
                let known: Option<Vec<f64>> = rounds.iter().map(of).collect();
                known.map(|known| Spread::of(known.into_iter()))
            };
            let ratio = |ratio| {
                self.ratio(variant, rounds, ratio)
                    .map_or_else(dash, |ratio| ratio.text(2))
            };
            writeln!(
                f,
                "| {:<15} | {:<19} | {:<16} | {:<19} | {:<19} | {:<16} | {:<22} | {:<16} | {:>11} | {:>12.1} |",
                variant.name,
                spread(|round| round.server).text(1),
                ratio(empty),
                known(|round| round.redis).map_or_else(dash, |redis| redis.text(1)),
                spread(Round::total).text(1),
                ratio(total),
                spread(|round| round.per_second).text(0),
                ratio(rate),
                known(|round| round.calls)
                    .map_or_else(dash, |calls| format!("{:.3}", calls.median)),
                spread(|round| round.generator).median,
            )?;
        }
        Ok(())
    }

    fn write_latencies(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nLatency in µs at a steady rate, from when a request was to be sent: median \
             (least–most) of the rounds. Floor: empty under memory, evalsha under redis.\n"
        )?;
        writeln!(
            f,
            "| {:<8} | {:>6} | {:<18} | {:<22} | {:<22} | {:<16} | late, of {:>7} |",
            "", "per s", "p50", "p99", "p99.9", "p99 × floor", "all",
        )?;
        writeln!(
            f,
            "|{0:-<10}|{0:->7}:|{0:-<20}|{0:-<24}|{0:-<24}|{0:-<18}|{0:->17}:|",
            ""
        )?;
        for ((variant, rate), rounds) in &self.latencies {
            let spread = |of: fn(&LatencyRound) -> f64| Spread::of(rounds.iter().map(of));
            let ratio = self.latency_ratio(*variant, *rate, rounds);
            let late: u64 = rounds.iter().map(|round| round.late + round.unsent).sum();
            let all: u64 = rounds.iter().map(|round| round.decisions).sum();
            writeln!(
                f,
                "| {:<8} | {rate:>6} | {:<18} | {:<22} | {:<22} | {:<16} | {late:>8} {all:>8} |",
                variant.name,
                spread(|round| round.p50).text(0),
                spread(|round| round.p99).text(0),
                spread(|round| round.p999).text(0),
                ratio.map_or_else(dash, |ratio| ratio.text(2)),
            )?;
        }
        Ok(())
    }
}

/// The middle of some figures, and how far they lie apart.
#[derive(Clone, Copy, Debug)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(figures: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = figures.collect();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let last = sorted.len().saturating_sub(1);
        Self {
            median: f64::midpoint(at(last / 2), at(last.div_ceil(2))),
            least: at(0),
            most: at(last),
        }
    }

    fn text(self, digits: usize) -> String {
        let Self {
            median,
            least,
            most,
        } = self;
        format!("{median:.digits$} ({least:.digits$}–{most:.digits$})")
    }
}

fn dash() -> String {
    "–".to_owned()
}

/// What the figures were measured on, as far as the kernel tells.
fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown CPU", |(_, model)| model);
    let count = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{count} × {model}, Linux {}", kernel.trim_end())
}

/// Of the last minute: what else ran.
fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts and nanoseconds far below 2^53"
)]
const fn float(count: u64) -> f64 {
    count as f64
}
