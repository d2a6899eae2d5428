//! What the command line and the environment say. Read once, before anything is opened.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{BoolishValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, Args, Parser, Subcommand, ValueEnum};
use secrecy::SecretString;

use crate::load::Keys;

/// A rate-limit service for Envoy that counts what LLM traffic really costs.
#[derive(Debug, Parser)]
#[command(
    name = "tollgate",
    version,
    propagate_version = true,
    max_term_width = 100
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve Envoy's rate-limit API, our own, and metrics.
    Serve(ServeArgs),
    /// Check configuration files: exit code 1 and every mistake with its place, or what was loaded.
    Check(CheckArgs),
    /// Tell which rule and limits a descriptor comes to, what they count, and the keys of their
    /// buckets. Needs no service.
    Explain(ExplainArgs),
    /// List the presets of providers' limits, or show what one becomes and where it is from.
    Presets(PresetsArgs),
    /// Ask a running service (any service with Envoy's rate-limit API) and print its answer.
    Call(CallArgs),
    /// Load a running service (any service with Envoy's rate-limit API) and measure how many
    /// requests it answers, how fast, and at what price.
    Bench(BenchArgs),
}

/// What `serve` is told.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// A configuration file, or a directory of them; may be repeated. Watched for changes.
    /// Without any, an example that is built in.
    #[arg(
        long,
        value_name = "PATH",
        env = "TOLLGATE_CONFIG",
        value_delimiter = ','
    )]
    pub config: Vec<PathBuf>,

    /// Let several files describe one domain together.
    #[arg(long, env = "TOLLGATE_MERGE_DOMAINS", value_parser = BoolishValueParser::new())]
    pub merge_domains: bool,

    /// Where buckets live: in this process or in Redis.
    #[arg(
        help = "Where buckets live: `memory`, or redis://[USER:PASSWORD@]HOST:PORT[/DB], or rediss://… for TLS. Replicas share limits through Redis; with `memory` each has its own.",
        long,
        value_name = "STORE",
        env = "TOLLGATE_STORE",
        value_parser = StoreUrlParser,
        default_value = "memory",
        hide_env_values = true
    )]
    pub store: StoreUrl,

    /// How long a decision waits for Redis. Shorter than Envoy's timeout (20 ms by default).
    #[arg(long, value_name = "TIME", env = "TOLLGATE_STORE_TIMEOUT", default_value = "15ms", value_parser = duration)]
    pub store_timeout: Duration,

    /// How long what Redis refused is refused again without asking it, while time alone cannot have
    /// made room. So much later another replica's refund is seen at most. 0s: Redis is always asked.
    #[arg(long, value_name = "TIME", env = "TOLLGATE_REFUSAL_MEMORY", default_value = "100ms", value_parser = refusal_memory)]
    pub refusal_memory: Duration,

    /// What all keys in Redis start with.
    #[arg(long, value_name = "TEXT", env = "TOLLGATE_REDIS_PREFIX", default_value = "tollgate:", value_parser = prefix)]
    pub redis_prefix: String,

    /// How long a reservation waits for its usage report. Longer than the longest stream.
    #[arg(long, value_name = "TIME", env = "TOLLGATE_HOLD_TIME", default_value = "1h", value_parser = duration)]
    pub hold_time: Duration,

    /// Where to serve gRPC: Envoy's APIs (rate limits, access log, external processing), tollgate.v1, health.
    #[arg(
        long,
        value_name = "ADDR",
        env = "TOLLGATE_GRPC_ADDR",
        default_value = "0.0.0.0:8081"
    )]
    pub grpc_addr: SocketAddr,

    /// Where to serve HTTP: /metrics, /healthcheck, /readyz, /v1/….
    #[arg(
        long,
        value_name = "ADDR",
        env = "TOLLGATE_HTTP_ADDR",
        default_value = "0.0.0.0:8080"
    )]
    pub http_addr: SocketAddr,

    /// How long to go on serving after SIGTERM, while load balancers learn that we are leaving.
    #[arg(long, value_name = "TIME", env = "TOLLGATE_DRAIN_DELAY", default_value = "5s", value_parser = duration_or_zero)]
    pub drain_delay: Duration,

    /// How long calls under way may take to finish after that.
    #[arg(long, value_name = "TIME", env = "TOLLGATE_DRAIN_TIMEOUT", default_value = "10s", value_parser = duration)]
    pub drain_timeout: Duration,

    /// What to log: error, warn, info, debug, trace, or a filter such as `info,tollgate::store=debug`.
    #[arg(
        long,
        value_name = "LEVEL",
        env = "TOLLGATE_LOG_LEVEL",
        default_value = "info"
    )]
    pub log_level: String,

    /// How to log.
    #[arg(
        long,
        value_name = "FORMAT",
        env = "TOLLGATE_LOG_FORMAT",
        default_value = "text"
    )]
    pub log_format: LogFormat,
}

/// What `check` is told.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The files and directories to check.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,

    /// Let several files describe one domain together.
    #[arg(long, env = "TOLLGATE_MERGE_DOMAINS", value_parser = BoolishValueParser::new())]
    pub merge_domains: bool,
}

/// What `presets` is told.
#[derive(Debug, Args)]
pub struct PresetsArgs {
    /// The preset to show, or the beginning of the names to list.
    pub name: Option<String>,

    /// Figures to show it with, such as tpm=450k.
    #[arg(value_name = "FIGURE=AMOUNT", value_parser = entry)]
    pub figures: Vec<(String, String)>,
}

/// What `explain` is told.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The configuration: a file or a directory.
    pub path: PathBuf,

    /// The domain; not needed where there is only one.
    #[arg(long)]
    pub domain: Option<String>,

    /// The entries of the descriptor, in their order.
    #[arg(required = true, value_name = "KEY=VALUE", value_parser = entry)]
    pub entries: Vec<(String, String)>,

    /// Let several files describe one domain together.
    #[arg(long, env = "TOLLGATE_MERGE_DOMAINS", value_parser = BoolishValueParser::new())]
    pub merge_domains: bool,
}

/// What `call` is told.
#[derive(Debug, Args)]
pub struct CallArgs {
    /// The service: HOST:PORT or http://HOST:PORT.
    pub address: String,

    /// The domain.
    #[arg(long)]
    pub domain: String,

    /// The entries of one descriptor, in their order.
    #[arg(value_name = "KEY=VALUE", value_parser = entry, required_unless_present = "descriptors")]
    pub entries: Vec<(String, String)>,

    /// One more descriptor, its entries separated by commas; may be repeated.
    #[arg(long = "descriptor", value_name = "KEY=VALUE[,KEY=VALUE]…", value_parser = descriptor)]
    pub descriptors: Vec<EntryList>,

    /// The addend of every descriptor: what limits of hits and of tokens take (limits of requests
    /// take one whatever it is). Without it none is sent. To only look at a Tollgate's limits, give
    /// the entry `tollgate.phase=peek`.
    #[arg(long, value_name = "N")]
    pub hits: Option<u64>,

    /// How often to ask.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub repeat: u32,

    /// Print JSON, an object a line.
    #[arg(long)]
    pub json: bool,
}

/// What `bench` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  As fast as it goes, for 10,000 tenants:
    tollgate bench 127.0.0.1:8081 --domain llm --descriptor tenant=t{key}
  The latency at 2,000 requests a second, some tenants busier than others:
    tollgate bench … --rate 2000 --keys zipf:10000
  What an answer costs:
    tollgate bench … --gather --pid tollgate=4711 --pid redis=4712

Every request is charged: do not load a service that others use. Exit codes: 0, every request was \
answered, whether it may pass or not; 1, some were not; 2, there was nobody to ask, or not to the \
end.")]
pub struct BenchArgs {
    /// The service: HOST:PORT or http://HOST:PORT.
    pub address: String,

    /// The domain.
    #[arg(long)]
    pub domain: String,

    /// A descriptor of each request, its entries separated by commas; may be repeated. `{key}` in a
    /// value stands for a key: a number from 0.
    #[arg(long = "descriptor", required = true, value_name = "KEY=VALUE[,KEY=VALUE]…", value_parser = descriptor)]
    pub descriptors: Vec<EntryList>,

    /// Which keys: `one`; `uniform:N`, of N each as often as the others; `zipf:N` or `zipf:N:S`, the
    /// n-th as often as 1/n, or 1/n to the power of S. In every run the same, in the same order.
    #[arg(long, value_name = "KEYS", default_value = "uniform:10000")]
    pub keys: Keys,

    /// The addend of every request. Without it none is sent, and a request counts as one hit.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub hits: Option<u32>,

    /// Make every N-th request a usage report (`tollgate.phase=report`) instead of an admission.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub report_every: Option<u32>,

    /// How long to send.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub duration: Duration,

    /// Send so many requests instead.
    #[arg(long, value_name = "N", conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    pub requests: Option<u64>,

    /// How long to send before anything is measured.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration_or_zero)]
    pub warm_up: Duration,

    /// So many requests a second, at equal distances, whether answers come or not (an open loop).
    /// Latency counts from when a request was to be sent: a service that keeps requests waiting is
    /// not spared those that come meanwhile. Without it, each request is sent when one before it
    /// has been answered (a closed loop).
    #[arg(long, value_name = "N", value_parser = rate)]
    pub rate: Option<f64>,

    /// Requests that may be under way at a time, over all connections [default: 64; with --rate,
    /// 1000].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub in_flight: Option<u32>,

    /// HTTP/2 connections.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub connections: u32,

    /// In a closed loop, look for answers only when about half of them should be there, and send
    /// what follows them together. It measures what a busy service spends, without the waking of
    /// threads that a fast client causes; latencies get longer and mean little.
    #[arg(long, conflicts_with = "rate")]
    pub gather: bool,

    /// A process on this machine whose CPU time per request is told; may be repeated. Linux only.
    #[arg(long = "pid", value_name = "[NAME=]PID", value_parser = process)]
    pub processes: Vec<(String, u32)>,

    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// The entries of one descriptor.
#[derive(Clone, Debug)]
pub struct EntryList(pub Vec<(String, String)>);

/// Where buckets live.
#[derive(Clone, Debug)]
pub enum StoreUrl {
    /// In this process.
    Memory,
    /// In Redis.
    Redis(SecretString),
}

impl FromStr for StoreUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            None if text == "memory" => Ok(Self::Memory),
            Some(("redis" | "rediss", rest)) if !rest.is_empty() => {
                Ok(Self::Redis(SecretString::from(text)))
            }
            _ => Err("a store is `memory`, redis://HOST:PORT or rediss://HOST:PORT".to_owned()),
        }
    }
}

/// Reads a [`StoreUrl`] without repeating a wrong one, as clap does: there may be a password in it.
#[derive(Clone, Debug)]
struct StoreUrlParser;

impl TypedValueParser for StoreUrlParser {
    type Value = StoreUrl;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _: Option<&Arg>,
        value: &OsStr,
    ) -> Result<StoreUrl, clap::Error> {
        let text = value.to_str().unwrap_or_default();
        text.parse().map_err(|problem| {
            clap::Error::raw(ErrorKind::ValueValidation, format!("--store: {problem}\n"))
                .with_cmd(command)
        })
    }
}

/// How to log.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// An object a line.
    Json,
    /// For people.
    Text,
}

fn entry(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

fn descriptor(text: &str) -> Result<EntryList, String> {
    text.split(',')
        .map(entry)
        .collect::<Result<_, _>>()
        .map(EntryList)
}

fn process(text: &str) -> Result<(String, u32), String> {
    let (name, pid) = text.split_once('=').unwrap_or((text, text));
    match pid.parse() {
        Ok(pid @ 1..) if !name.is_empty() => Ok((name.to_owned(), pid)),
        _ => Err("write PID or NAME=PID".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=10_000_000.0).contains(&rate) => Ok(rate),
        _ => Err("write a number from 0.001 to 10000000".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    match duration_or_zero(text)? {
        Duration::ZERO => Err("it has to be longer than nothing".to_owned()),
        duration => Ok(duration),
    }
}

/// `15ms`, `10s`, `1h30m`.
fn duration_or_zero(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration = text
        .parse()
        .map_err(|_| "write a number and a unit, such as 15ms, 10s or 1h30m".to_owned())?;
    Duration::try_from(parsed).map_err(|_| "it must not be negative".to_owned())
}

/// The longest that a refund may go unseen.
const LONGEST_REFUSAL_MEMORY: Duration = Duration::from_secs(10);

fn refusal_memory(text: &str) -> Result<Duration, String> {
    let memory = duration_or_zero(text)?;
    if memory > LONGEST_REFUSAL_MEMORY {
        return Err("it is at most 10s".to_owned());
    }
    Ok(memory)
}

/// The script counts a prefix's length in one byte.
fn prefix(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 128 {
        return Err("a prefix has 1 to 128 bytes".to_owned());
    }
    if text.contains(['*', '?', '[', ']', '\\', '\n', '\r']) {
        return Err("a prefix must not contain any of * ? [ ] \\ or a line break".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_of_serve_has_an_environment_twin() {
        let command = Cli::command();
        let serve = command.find_subcommand("serve").unwrap();
        for flag in serve
            .get_arguments()
            .filter(|flag| flag.get_long().is_some())
        {
            let long = flag.get_long().unwrap();
            let twin = format!("TOLLGATE_{}", long.to_uppercase().replace('-', "_"));
            assert_eq!(flag.get_env().unwrap().to_str().unwrap(), twin, "--{long}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("15ms"), Ok(Duration::from_millis(15)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_mins(90)));
        assert!(duration("15").is_err());
        assert!(duration("0s").is_err());
        assert!(duration("-1s").is_err());
        assert_eq!(duration_or_zero("0s"), Ok(Duration::ZERO));
        assert_eq!(refusal_memory("10s"), Ok(Duration::from_secs(10)));
        assert!(refusal_memory("10001ms").is_err());
    }

    #[test]
    fn processes_have_a_number_and_may_have_a_name() {
        assert_eq!(process("12"), Ok(("12".to_owned(), 12)));
        assert_eq!(process("redis=12"), Ok(("redis".to_owned(), 12)));
        for bad in ["", "0", "redis", "=12", "redis=", "redis=-1"] {
            assert!(process(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_are_above_zero() {
        assert_eq!(rate("0.5"), Ok(0.5));
        for bad in ["", "0", "-1", "nan", "inf", "2k"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn stores_are_memory_or_redis_and_keep_their_password() {
        assert!(matches!("memory".parse(), Ok(StoreUrl::Memory)));
        let store: StoreUrl = "redis://me:secret@127.0.0.1:6379".parse().unwrap();
        assert!(!format!("{store:?}").contains("secret"));
        for bad in ["", "disk", "redis://", "http://x", "127.0.0.1:6379"] {
            assert!(bad.parse::<StoreUrl>().is_err(), "{bad}");
        }
    }
}
