//! What came of a load, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::Plan;
use crate::load::{LoadError, Measured, Pace};
use crate::settings::BenchArgs;

/// What there is to tell.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) measured: Measured,
    /// Of each process that was named, where they are still there.
    pub(super) spent: Option<Vec<Duration>>,
    pub(super) broken: Option<LoadError>,
}

impl Outcome {
    /// Prints it; the exit code says whether all was answered.
    pub(super) fn tell(&self, args: &BenchArgs, plan: Plan, interrupted: bool) -> ExitCode {
        if args.json {
            println!("{}", self.json(args, plan, interrupted));
        } else {
            print!("{}", self.readable(args, plan));
        }
        if let Some(error) = &self.broken {
            return crate::cli::fail(&error.to_string());
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
pub(super) fn grouped(number: u64) -> String {
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
