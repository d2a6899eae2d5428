//! What came of a run.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Let it pass.
    Ok,
    /// Do not.
    OverLimit,
    /// Neither.
    Unknown,
}

/// Calls that ended with the same code of gRPC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// How many.
    pub count: u64,
    /// What was said of the first.
    pub message: String,
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// From when a request was to be sent until its answer: of every call that ended, in whatever
    /// way.
    pub latency: Latency,
    /// Answers that let pass.
    pub ok: u64,
    /// Answers that do not.
    pub over_limit: u64,
    /// Answers that say neither.
    pub unknown: u64,
    /// Calls that failed, by their codes of gRPC.
    pub failed: BTreeMap<u32, Failure>,
    /// Requests that went out more than a millisecond after their time.
    pub late: u64,
    /// Of requests, those that had to wait for one under way to end.
    pub without_slot: u64,
    /// Requests whose time came, but which were not sent before the end.
    pub unsent: u64,
    /// Requests that had no answer when waiting for it was given up.
    pub unanswered: u64,
}

impl Measured {
    pub(super) fn answered(&mut self, verdict: Verdict, latency: Duration) {
        match verdict {
            Verdict::Ok => self.ok += 1,
            Verdict::OverLimit => self.over_limit += 1,
            Verdict::Unknown => self.unknown += 1,
        }
        self.took(latency);
    }

    pub(super) fn failed(&mut self, code: u32, message: &str, latency: Duration) {
        let failure = self.failed.entry(code).or_default();
        if failure.count == 0 {
            message.clone_into(&mut failure.message);
        }
        failure.count += 1;
        self.took(latency);
    }

    fn took(&mut self, latency: Duration) {
        self.latency.record(latency);
    }

    /// Calls that were answered.
    pub fn answers(&self) -> u64 {
        self.ok + self.over_limit + self.unknown
    }

    /// Calls that failed.
    pub fn failures(&self) -> u64 {
        self.failed.values().map(|failure| failure.count).sum()
    }
}

/// Durations, to one part in a thousand.
#[derive(Clone, Debug, Default)]
pub struct Latency(Option<Histogram<u64>>);

impl Latency {
    fn record(&mut self, latency: Duration) {
        if self.0.is_none() {
            // From a microsecond to a minute. These bounds are right ones.
            self.0 = Histogram::new_with_bounds(1_000, 60_000_000_000, 3).ok();
        }
        if let Some(histogram) = &mut self.0 {
            // What is longer counts as a minute.
            histogram.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    /// The least duration that so much of all (0 to 1) do not exceed; zero if there are none.
    pub fn quantile(&self, share: f64) -> Duration {
        let nanos = self
            .0
            .as_ref()
            .map_or(0, |all| all.value_at_quantile(share));
        Duration::from_nanos(nanos)
    }

    /// The longest; zero if there are none.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.0.as_ref().map_or(0, Histogram::max))
    }

    /// The mean; zero if there are none.
    pub fn mean(&self) -> Duration {
        let nanos = self.0.as_ref().map_or(0.0, Histogram::mean);
        Duration::try_from_secs_f64(nanos / 1e9).unwrap_or_default()
    }
}
