//! Rounds, what they add up to, and the table.

use std::fmt;
use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::load::{Driven, Load};
use crate::variant::Variant;

/// What one round of one variant came to. Times are in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    server: f64,
    redis: Option<f64>,
    per_second: f64,
    p50: f64,
    p99: f64,
    decisions: u64,
}

impl Round {
    /// Divides what was spent by what was decided.
    pub(crate) fn new(driven: &Driven, server: Duration, redis: Option<Duration>) -> Self {
        let decisions = driven.latency.len();
        let each = |spent: Duration| spent.as_secs_f64() * 1e6 / float(decisions);
        Self {
            server: each(server),
            redis: redis.map(each),
            per_second: float(decisions) / driven.elapsed.as_secs_f64(),
            p50: float(driven.latency.value_at_quantile(0.50)) / 1e3,
            p99: float(driven.latency.value_at_quantile(0.99)) / 1e3,
            decisions,
        }
    }

    fn json(&self) -> Value {
        json!({
            "server_us": self.server,
            "redis_us": self.redis,
            "decisions_per_second": self.per_second,
            "p50_us": self.p50,
            "p99_us": self.p99,
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

/// All rounds of all variants.
#[derive(Debug)]
pub(crate) struct Report {
    load: Load,
    rounds: usize,
    length: Duration,
    client_threads: usize,
    load_average_before: String,
    variants: Vec<(Variant, Vec<Round>)>,
}

impl Report {
    /// No rounds yet.
    pub(crate) fn new(load: Load, rounds: usize, length: Duration, client_threads: usize) -> Self {
        let load_average_before = load_average();
        Self {
            load,
            rounds,
            length,
            client_threads,
            load_average_before,
            variants: Vec::new(),
        }
    }

    /// One more round.
    pub(crate) fn add(&mut self, variant: Variant, round: Round) {
        match self
            .variants
            .iter_mut()
            .find(|(known, _)| *known == variant)
        {
            Some((_, rounds)) => rounds.push(round),
            None => self.variants.push((variant, vec![round])),
        }
    }

    /// Everything, for programs.
    pub(crate) fn json(&self) -> String {
        let variants: serde_json::Map<String, Value> = self
            .variants
            .iter()
            .map(|(variant, rounds)| {
                let summary = json!({
                    "rounds": rounds.iter().map(Round::json).collect::<Vec<_>>(),
                    "median_server_us": Spread::of(rounds.iter().map(|round| round.server)).median,
                    "median_ratio_to_empty": self.ratio_to_empty(rounds).map(|ratio| ratio.median),
                });
                (variant.name().to_owned(), summary)
            })
            .collect();
        let report = json!({
            "machine": machine(),
            "debug_build": cfg!(debug_assertions),
            "in_flight": self.load.in_flight,
            "connections": self.load.connections,
            "keys": self.load.keys,
            "client_threads": self.client_threads,
            "round_seconds": self.length.as_secs_f64(),
            "load_average": [self.load_average_before, load_average()],
            "variants": variants,
        });
        format!("{report:#}\n")
    }

    /// Round by round, so that what slowed both cancels out.
    fn ratio_to_empty(&self, rounds: &[Round]) -> Option<Spread> {
        let (_, floor) = self
            .variants
            .iter()
            .find(|(variant, _)| *variant == Variant::Empty)?;
        let ratios = rounds
            .iter()
            .zip(floor)
            .map(|(round, floor)| round.server / floor.server);
        Some(Spread::of(ratios))
    }
}

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
            "{in_flight} in flight, {connections} connections, {keys} keys, {} client thread(s); \
             {} rounds of {:?}; load average {} before, {} after",
            self.client_threads,
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
        writeln!(
            f,
            "CPU µs per decision: median (least–most) of the rounds\n"
        )?;
        writeln!(
            f,
            "| {:<8} | {:<21} | {:<18} | {:<21} | {:<25} | {:>7} | {:>7} |",
            "", "server µs", "× empty", "Redis µs", "decisions/s", "p50 µs", "p99 µs",
        )?;
        writeln!(
            f,
            "|{0:-<10}|{0:-<23}|{0:-<20}|{0:-<23}|{0:-<27}|{0:->8}:|{0:->8}:|",
            ""
        )?;
        for (variant, rounds) in &self.variants {
            let spread = |of: fn(&Round) -> f64| Spread::of(rounds.iter().map(of));
            let redis: Option<Vec<f64>> = rounds.iter().map(|round| round.redis).collect();
            writeln!(
                f,
                "| {:<8} | {:<21} | {:<18} | {:<21} | {:<25} | {:>7.0} | {:>7.0} |",
                variant.name(),
                spread(|round| round.server).text(2),
                self.ratio_to_empty(rounds)
                    .map_or_else(dash, |ratio| ratio.text(2)),
                redis.map_or_else(dash, |redis| Spread::of(redis.into_iter()).text(2)),
                spread(|round| round.per_second).text(0),
                spread(|round| round.p50).median,
                spread(|round| round.p99).median,
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
