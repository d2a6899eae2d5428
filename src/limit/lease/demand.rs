//! How much is asked for.

use std::time::Duration;

use super::Tick;
use super::part::ticks;

/// What was asked for in the half `ttl` that is under way, and in the one before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    since: Tick,
    asked: u64,
    before: u64,
}

impl Demand {
    pub(super) const fn new(now: Tick) -> Self {
        Self {
            since: now,
            asked: 0,
            before: 0,
        }
    }

    pub(super) fn add(&mut self, amount: u64, now: Tick, ttl: Duration) {
        self.roll(now, ttl);
        self.asked = self.asked.saturating_add(amount);
    }

    /// The larger of both: so demand that grows is seen at once, and demand that ends is forgotten
    /// after a `ttl` at the latest.
    pub(super) fn in_half(&mut self, now: Tick, ttl: Duration) -> u64 {
        self.roll(now, ttl);
        self.asked.max(self.before)
    }

    fn roll(&mut self, now: Tick, ttl: Duration) {
        let half = ticks(ttl).checked_div(2).unwrap_or(0);
        let elapsed = now.since(self.since);
        if elapsed < half {
            return;
        }
        self.before = if elapsed < half.saturating_mul(2) {
            self.asked
        } else {
            0
        };
        self.asked = 0;
        self.since = now;
    }
}
