//! What this replica put into a pile that is no lease, and that the refill has not taken yet.

use super::super::{Bucket, Limit, Timestamp};
use super::Tick;
use super::part::stretched;

/// Never more than what really lies there: a bucket of this replica's own, as if it were the only
/// one. What is added is put together until somebody asks, because that costs less, and counted as
/// of the earliest of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    bucket: Bucket,
    fresh: u64,
    fresh_since: Tick,
}

impl Used {
    pub(super) fn new(now: Tick) -> Self {
        let bucket = Bucket {
            at: time(now),
            ..Bucket::default()
        };
        Self {
            bucket,
            fresh: 0,
            fresh_since: now,
        }
    }

    /// Adds what was used at `since`, or later.
    pub(super) fn add(&mut self, amount: u64, since: Tick) {
        if amount == 0 {
            return;
        }
        if self.fresh == 0 || since < self.fresh_since {
            self.fresh_since = since;
        }
        self.fresh = self.fresh.saturating_add(amount);
    }

    /// How much of it is there at least.
    pub(super) fn at_least(&mut self, limit: &Limit, now: Tick) -> u64 {
        if self.fresh > 0 {
            let since = time(self.fresh_since);
            let mut fresh = Bucket {
                spent: self.fresh,
                fraction: 0,
                at: since,
            };
            // Up to where the other is already, if that is later.
            fresh.refill(limit, self.bucket.at);
            self.bucket.refill(limit, since);
            let amount = i64::try_from(fresh.spent).unwrap_or(i64::MAX);
            self.bucket.spend(amount);
            // Rounded down: the fraction that had refilled of it.
            self.bucket.spend(if fresh.fraction > 0 { -1 } else { 0 });
            self.fresh = 0;
        }
        self.bucket.refill(limit, time(now));
        let begun = u64::from(self.bucket.fraction > 0);
        self.bucket.spent.saturating_sub(begun)
    }
}

/// A clock that is faster than the store's.
const fn time(tick: Tick) -> Timestamp {
    Timestamp::from_micros(stretched(tick.0))
}
