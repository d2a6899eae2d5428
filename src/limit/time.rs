//! Points in time, as the store that holds the buckets reads them.

use std::time::Duration;

/// Microseconds since the Unix epoch, on the store's clock.
///
/// Whole microseconds because Redis's `TIME` has no finer ones; as a number they stay below 2^53
/// until the year 2255.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The point that lies `micros` microseconds after the Unix epoch.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// How long until `later`; nothing if that is over.
    pub const fn until(self, later: Self) -> Duration {
        Duration::from_micros(later.0.saturating_sub(self.0))
    }

    /// This point, `later` after it was.
    #[must_use]
    pub fn plus(self, later: Duration) -> Self {
        let micros = u64::try_from(later.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }
}
