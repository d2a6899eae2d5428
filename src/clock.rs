//! The only place that asks the machine for the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::limit::Timestamp;

/// Where a store that keeps its own time gets it from.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// A time that somebody sets, for tests and simulations.
    Manual(ManualClock),
    /// The machine's, in UTC.
    #[default]
    System,
}

impl Clock {
    /// The time now.
    pub fn now(&self) -> Timestamp {
        match self {
            Self::Manual(clock) => clock.now(),
            Self::System => system_now(),
        }
    }
}

/// A clock that stands still until it is moved. Copies are the same clock.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// A clock that shows `start`.
    pub fn new(start: Timestamp) -> Self {
        Self(Arc::new(AtomicU64::new(start.as_micros())))
    }

    /// The time it shows.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::SeqCst))
    }

    /// Moves it.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.as_micros(), Ordering::SeqCst);
    }

    /// Moves it ahead.
    pub fn advance(&self, by: Duration) {
        self.set(self.now().plus(by));
    }
}

/// A point on the monotonic clock, for measuring durations and keeping deadlines.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn instant() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "this is the one place")]
fn system_now() -> Timestamp {
    let since_epoch = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::default().plus(since_epoch)
}
