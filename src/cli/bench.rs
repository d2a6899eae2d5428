//! `tollgate bench`: loads a running service.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _, stderr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::clock;
use crate::grpc::client::{METHOD, Question, overall_code};
use crate::load::{
    CpuError, CpuReading, Draw, End, Generator, LoadError, Measured, Messages, Pace, Target,
    Traffic, Verdict, Watch,
};
use crate::settings::BenchArgs;

/// Why nothing was measured.
type Problem = Box<dyn Error + Send + Sync>;

/// Stands for the key in a descriptor.
const KEY: &str = "{key}";
/// The descriptor that makes a request a report.
const REPORT: (&str, &str) = ("tollgate.phase", "report");

const LOOK_EVERY: Duration = Duration::from_millis(200);

const DEFAULT_IN_FLIGHT: u32 = 64;
const DEFAULT_IN_FLIGHT_AT_A_RATE: u32 = 1000;

/// Loads, and prints what came of it. Ends with 1 if anything was not answered, with 2 if there was
/// nobody to ask.
pub async fn bench(args: BenchArgs) -> ExitCode {
    let watch = Arc::new(Watch::default());
    let plan = Plan::of(&args);
    if plan.in_flight < args.connections {
        let (in_flight, connections) = (plan.in_flight, args.connections);
        return super::fail(&format!(
            "--in-flight {in_flight} leaves some of --connections {connections} with nothing to do"
        ));
    }
    let started = clock::instant();
    let args = Arc::new(args);
    let mut work = tokio::task::spawn_blocking({
        let (args, watch) = (Arc::clone(&args), Arc::clone(&watch));
        move || plan.carry_out(&args, &watch)
    });
    let shows = stderr().is_terminal();
    let mut interrupted = false;
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            Ok(()) = tokio::signal::ctrl_c() => {
                if interrupted {
                    return super::fail("interrupted");
                }
                interrupted = true;
                watch.stop();
            }
            () = tokio::time::sleep(LOOK_EVERY), if shows => show(&args, &watch, started),
        }
    };
    if shows {
        eprint!("\r\x1b[K");
    }
    match done {
        Ok(Ok(outcome)) => outcome.tell(&args, plan, interrupted),
        Ok(Err(problem)) => super::fail(&problem.to_string()),
        Err(error) => super::fail(&format!("the load generator broke: {error}")),
    }
}

/// A line on the terminal, over the one before.
fn show(args: &BenchArgs, watch: &Watch, started: Instant) {
    let (answers, failures) = watch.progress();
    let passed = clock::instant().duration_since(started);
    let mut line = match passed.checked_sub(args.warm_up) {
        None => "warming up".to_owned(),
        Some(passed) => {
            let of = match args.requests {
                Some(requests) => format!("{} requests", grouped(requests)),
                None => format!("{:.0} s", args.duration.as_secs_f64()),
            };
            format!(
                "{:.0} s, {} answers of {of}",
                passed.as_secs_f64(),
                grouped(answers)
            )
        }
    };
    if failures > 0 {
        // Writing to a string cannot fail.
        _ = write!(line, ", {} failures", grouped(failures));
    }
    eprint!("\r\x1b[K{line}");
    // A terminal that is gone has nobody to tell.
    stderr().flush().unwrap_or_default();
}

/// How to load.
#[derive(Clone, Copy, Debug)]
struct Plan {
    pace: Pace,
    end: End,
    in_flight: u32,
}

impl Plan {
    fn of(args: &BenchArgs) -> Self {
        let (pace, in_flight) = match args.rate {
            Some(rate) => (Pace::Open(rate), DEFAULT_IN_FLIGHT_AT_A_RATE),
            None if args.gather => (Pace::Gathered, DEFAULT_IN_FLIGHT),
            None => (Pace::Closed, DEFAULT_IN_FLIGHT),
        };
        Self {
            pace,
            end: args
                .requests
                .map_or(End::After(args.duration), End::Requests),
            in_flight: args
                .in_flight
                .unwrap_or_else(|| in_flight.max(args.connections)),
        }
    }

    fn carry_out(self, args: &BenchArgs, watch: &Watch) -> Result<Outcome, Problem> {
        let mut asking = Asking::new(args)?;
        let messages = std::mem::take(&mut asking.messages);
        let read = || -> Result<Vec<CpuReading>, CpuError> {
            let pids = args.processes.iter().map(|(_, pid)| *pid);
            pids.map(CpuReading::of).collect()
        };
        // Before anything is charged.
        read()?;
        let target = Target::new(&args.address, METHOD)?;
        let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        let mut generator =
            Generator::connect(&target, count(args.connections), count(self.in_flight))?;
        if !args.warm_up.is_zero() {
            let end = End::After(args.warm_up);
            let (_, warm) = generator.run(&messages, &mut asking, self.pace, end, watch);
            warm?;
        }
        let before = read()?;
        let (measured, result) = generator.run(&messages, &mut asking, self.pace, self.end, watch);
        // A service that broke off may have taken its figures along.
        let spent = read().ok().map(|after| {
            let spent = after.iter().zip(&before);
            spent.map(|(after, before)| after.since(before)).collect()
        });
        Ok(Outcome {
            measured,
            spent,
            broken: result.err(),
        })
    }
}

/// The requests: an admission for each key, and behind them, where wanted, a report for each.
#[derive(Debug)]
struct Asking {
    messages: Messages,
    draw: Draw,
    keys: usize,
    report_every: Option<u32>,
    until_report: u32,
}

impl Asking {
    fn new(args: &BenchArgs) -> Result<Self, LoadError> {
        let varies = args
            .descriptors
            .iter()
            .flat_map(|list| &list.0)
            .any(|(_, value)| value.contains(KEY));
        // Where nothing differs, one message does for all keys.
        let keys = if varies {
            args.keys
        } else {
            crate::load::Keys::One
        };
        let mut messages = Messages::default();
        for report in [false, true] {
            if report && args.report_every.is_none() {
                break;
            }
            for key in 0..keys.count() {
                messages.push(&question(args, key, report).encode())?;
            }
        }
        Ok(Self {
            messages,
            draw: Draw::new(keys, 1),
            keys: keys.count(),
            report_every: args.report_every,
            until_report: args.report_every.unwrap_or_default(),
        })
    }
}

fn question(args: &BenchArgs, key: usize, report: bool) -> Question {
    let key = key.to_string();
    let entries = |list: &[(String, String)]| {
        let entries = list.iter();
        entries
            .map(|(name, value)| (name.clone(), value.replace(KEY, &key)))
            .collect()
    };
    let mut descriptors: Vec<Vec<(String, String)>> = args
        .descriptors
        .iter()
        .map(|list| entries(&list.0))
        .collect();
    if report {
        let (name, value) = REPORT;
        descriptors.push(vec![(name.to_owned(), value.to_owned())]);
    }
    Question {
        domain: args.domain.clone(),
        descriptors,
        hits: None,
        request_hits: args.hits.unwrap_or_default(),
    }
}

impl Traffic for Asking {
    fn next(&mut self) -> usize {
        let key = self.draw.key();
        let Some(every) = self.report_every else {
            return key;
        };
        self.until_report -= 1;
        if self.until_report > 0 {
            return key;
        }
        self.until_report = every;
        self.keys + key
    }

    fn judge(&mut self, _: usize, answer: &[u8]) -> Result<Verdict, String> {
        match overall_code(answer) {
            Some("OK") => Ok(Verdict::Ok),
            Some("OVER_LIMIT") => Ok(Verdict::OverLimit),
            Some(_) => Ok(Verdict::Unknown),
            None => Err("it is not of Envoy's rate-limit API".to_owned()),
        }
    }
}

/// What there is to tell.
#[derive(Debug)]
struct Outcome {
    measured: Measured,
    spent: Option<Vec<Duration>>,
    broken: Option<LoadError>,
}

impl Outcome {
    fn tell(&self, args: &BenchArgs, plan: Plan, interrupted: bool) -> ExitCode {
        if args.json {
            println!("{}", self.json(args, plan, interrupted));
        } else {
            print!("{}", self.readable(args, plan));
        }
        if let Some(error) = &self.broken {
            return super::fail(&error.to_string());
        }
        let measured = &self.measured;
        if measured.answers() > 0 && measured.failures() + measured.unanswered == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    /// Answers by what they say, then failures by their codes.
    fn codes(&self) -> Vec<(String, u64, &str)> {
        let measured = &self.measured;
        let answers = [
            ("OK", measured.ok),
            ("OVER_LIMIT", measured.over_limit),
            ("UNKNOWN answers", measured.unknown),
        ];
        let answers = answers
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| (name.to_owned(), count, ""));
        let failed = measured
            .failed
            .iter()
            .map(|(code, failure)| (code_name(*code), failure.count, failure.message.as_str()));
        answers.chain(failed).collect()
    }

    fn per_second(&self) -> f64 {
        float(self.measured.answers()) / self.measured.elapsed.as_secs_f64().max(1e-9)
    }

    /// Microseconds for each answer, of each process.
    fn costs(&self, args: &BenchArgs) -> Vec<(String, f64)> {
        let answers = float(self.measured.answers());
        let spent = self.spent.iter().flatten();
        args.processes
            .iter()
            .zip(spent)
            .filter(|_| answers > 0.0)
            .map(|((name, _), spent)| (name.clone(), spent.as_secs_f64() * 1e6 / answers))
            .collect()
    }

    fn readable(&self, args: &BenchArgs, plan: Plan) -> String {
        let measured = &self.measured;
        let mut text = String::new();
        let pace = match plan.pace {
            Pace::Open(rate) => format!("{rate} requests a second"),
            Pace::Closed => "closed loop".to_owned(),
            Pace::Gathered => "closed loop, answers gathered".to_owned(),
        };
        // Writing to a string cannot fail.
        _ = writeln!(
            text,
            "{pace}, up to {} in flight over {} connections, keys {}",
            plan.in_flight, args.connections, args.keys
        );
        _ = writeln!(
            text,
            "{} answers in {:.2} s: {} a second",
            grouped(measured.answers()),
            measured.elapsed.as_secs_f64(),
            figure(self.per_second()),
        );
        let all = float(measured.answers() + measured.failures());
        for (name, count, message) in self.codes() {
            let share = 100.0 * float(count) / all;
            let line = format!(
                "  {name:<20} {:>12}  {share:>6.2} %  {message}",
                grouped(count)
            );
            _ = writeln!(text, "{}", line.trim_end());
        }
        _ = writeln!(text, "latency, µs");
        for (name, micros) in self.latencies() {
            _ = writeln!(text, "  {name:<20} {:>12}", figure(micros));
        }
        let costs = self.costs(args);
        if !costs.is_empty() {
            _ = writeln!(text, "CPU time per answer, µs");
            for (name, micros) in &costs {
                _ = writeln!(text, "  {name:<20} {micros:>12.2}");
            }
        }
        if costs.len() > 1 {
            let together: f64 = costs.iter().map(|(_, micros)| micros).sum();
            _ = writeln!(text, "  {:<20} {together:>12.2}", "together");
        }
        for (count, what) in [
            (measured.late, "sent more than 1 ms after their time"),
            (measured.without_slot, "waited for one in flight to end"),
            (
                measured.unsent,
                "not sent at all: their time came, but no room for them",
            ),
            (measured.unanswered, "left without an answer"),
        ] {
            if count > 0 {
                _ = writeln!(text, "{} requests {what}", grouped(count));
            }
        }
        text
    }

    /// In microseconds.
    fn latencies(&self) -> [(&'static str, f64); 6] {
        let latency = &self.measured.latency;
        let micros = |duration: Duration| duration.as_secs_f64() * 1e6;
        [
            ("p50", micros(latency.quantile(0.5))),
            ("p90", micros(latency.quantile(0.9))),
            ("p99", micros(latency.quantile(0.99))),
            ("p99.9", micros(latency.quantile(0.999))),
            ("max", micros(latency.max())),
            ("mean", micros(latency.mean())),
        ]
    }

    fn json(&self, args: &BenchArgs, plan: Plan, interrupted: bool) -> serde_json::Value {
        let measured = &self.measured;
        let (mode, rate) = match plan.pace {
            Pace::Open(rate) => ("open", Some(rate)),
            Pace::Closed => ("closed", None),
            Pace::Gathered => ("gathered", None),
        };
        let codes: BTreeMap<String, u64> = self
            .codes()
            .into_iter()
            .map(|(name, count, _)| (name, count))
            .collect();
        let errors: BTreeMap<String, &str> = measured
            .failed
            .iter()
            .map(|(code, failure)| (code_name(*code), failure.message.as_str()))
            .collect();
        let micros = |figures: Vec<(String, f64)>| -> BTreeMap<String, f64> {
            // Nanoseconds are noise enough.
            let rounded = |micros: f64| (micros * 1e3).round() / 1e3;
            figures
                .into_iter()
                .map(|(name, micros)| (name, rounded(micros)))
                .collect()
        };
        let latencies = self
            .latencies()
            .map(|(name, micros)| (name.to_owned(), micros));
        json!({
            "address": args.address,
            "mode": mode,
            "rate": rate,
            "in_flight": plan.in_flight,
            "connections": args.connections,
            "keys": args.keys.to_string(),
            "seconds": measured.elapsed.as_secs_f64(),
            "answers": measured.answers(),
            "answers_per_second": self.per_second(),
            "codes": codes,
            "errors": errors,
            "latency_us": micros(latencies.to_vec()),
            "cpu_us_per_answer": micros(self.costs(args)),
            "late": measured.late,
            "without_slot": measured.without_slot,
            "unsent": measured.unsent,
            "unanswered": measured.unanswered,
            "interrupted": interrupted,
            "broken_off": self.broken.as_ref().map(ToString::to_string),
        })
    }
}

/// As gRPC calls its codes.
fn code_name(code: u32) -> String {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let name = usize::try_from(code).ok().and_then(|code| NAMES.get(code));
    name.map_or_else(|| format!("code {code}"), |name| (*name).to_owned())
}

/// `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A figure of which nobody needs the fraction.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures are positive, and what is beyond 64 bits is shown as their end"
)]
fn figure(figure: f64) -> String {
    grouped(figure.round() as u64)
}

#[expect(clippy::cast_precision_loss, reason = "requests are far below 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_numbers_are_grouped() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn codes_have_names() {
        assert_eq!(code_name(14), "UNAVAILABLE");
        assert_eq!(code_name(99), "code 99");
    }
}
