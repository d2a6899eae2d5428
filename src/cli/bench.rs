//! `tollgate bench`: loads a running service.

mod outcome;

use std::error::Error;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _, stderr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::outcome::{Outcome, grouped};
use crate::clock;
use crate::grpc::client::{METHOD, Question, overall_code};
use crate::load::{
    CpuError, CpuReading, Draw, End, Generator, LoadError, Messages, Pace, Target, Traffic,
    Verdict, Watch,
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
