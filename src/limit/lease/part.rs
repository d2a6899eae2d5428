//! One debit: where it lies in the pile, and how far it has sunk.

use std::time::Duration;

use super::super::{Algorithm, Bucket, Limit};
use super::{LeaseTerms, Seen, TRAVEL, Tick};

/// What is left of one debit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) left: u64,
    /// What the store told after it.
    pub(super) seen: Seen,
    /// From when on it may be granted no more.
    pub(super) until: Tick,
    /// Up to when all that was taken can be granted, so that nothing has to be computed.
    whole_until: Tick,
}

impl Part {
    pub(super) fn new(amount: u64, seen: Seen, limit: &Limit, terms: &LeaseTerms) -> Self {
        let ends = seen.sent.plus(terms.ttl);
        let window_ends = limit.window(seen.now).map_or(u64::MAX, |window| {
            let left = window.end.as_micros().saturating_sub(seen.now.as_micros());
            seen.sent.0.saturating_add(shrunk(left))
        });
        let whole_until = match limit.algorithm {
            Algorithm::TokenBucket => {
                let below = seen.spent.saturating_sub(amount);
                let parts = u128::from(below)
                    .saturating_mul(u128::from(limit.rate.denominator()))
                    .saturating_sub(u128::from(seen.fraction));
                let micros = parts.checked_div(u128::from(limit.rate.numerator()));
                let micros = micros.and_then(|micros| u64::try_from(micros).ok());
                let whole_for = shrunk(micros.unwrap_or(u64::MAX));
                Tick(seen.sent.0.saturating_add(whole_for))
            }
            Algorithm::CalendarWindow(_) | Algorithm::FixedWindow => Tick(u64::MAX),
        };
        Self {
            left: amount,
            seen,
            until: Tick(ends.0.min(window_ends)),
            whole_until,
        }
    }

    /// What of it may be granted now.
    pub(super) fn grantable(&self, limit: &Limit, now: Tick) -> u64 {
        if now >= self.until {
            0
        } else if now < self.whole_until {
            self.left
        } else {
            self.bearable(limit, now)
        }
    }

    /// What of it the bucket still bears.
    pub(super) fn bearable(&self, limit: &Limit, now: Tick) -> u64 {
        let refilled = most_refilled(limit, self.seen.fraction, now.since(self.seen.sent));
        self.left.min(self.seen.spent.saturating_sub(refilled))
    }

    /// When the refill has taken it, at the latest, and all that lies below it.
    pub(super) fn gone_by(&self, limit: &Limit) -> Tick {
        let refilled_in = match limit.window(self.seen.now) {
            Some(window) => self.seen.now.until(window.end),
            None => Bucket {
                spent: self.seen.spent,
                fraction: self.seen.fraction,
                at: self.seen.now,
            }
            .until_full(limit, self.seen.now)
            .unwrap_or(Duration::MAX),
        };
        // It was charged after it was sent, by what a call may take.
        let after = stretched(ticks(refilled_in)).saturating_add(ticks(TRAVEL));
        Tick(self.seen.sent.0.saturating_add(after))
    }

    /// Whether what is sent now arrives before its window ends.
    pub(super) fn may_travel(&self, limit: &Limit, now: Tick) -> bool {
        let window = limit.window(self.seen.now);
        window.is_none_or(|window| {
            let since = stretched(now.since(self.seen.sent));
            let arrives = self.seen.now.as_micros().saturating_add(since);
            arrives.saturating_add(ticks(TRAVEL)) < window.end.as_micros()
        })
    }
}

/// The most that comes back in `elapsed` microseconds of the replica's clock.
pub(super) fn most_refilled(limit: &Limit, fraction: u64, elapsed: u64) -> u64 {
    match limit.algorithm {
        Algorithm::CalendarWindow(_) | Algorithm::FixedWindow => 0,
        Algorithm::TokenBucket => {
            let parts = u128::from(stretched(elapsed))
                .saturating_mul(u128::from(limit.rate.numerator()))
                .saturating_add(u128::from(fraction));
            let denominator = u128::from(limit.rate.denominator()).max(1);
            u64::try_from(parts.div_ceil(denominator)).unwrap_or(u64::MAX)
        }
    }
}

/// What the store's clock may have moved while ours moved by so much: clocks differ in their pace.
pub(super) const fn stretched(elapsed: u64) -> u64 {
    elapsed.saturating_add(elapsed >> 10).saturating_add(2)
}

/// What ours may move while the store's moves by less than so much.
const fn shrunk(elapsed: u64) -> u64 {
    elapsed.saturating_sub(elapsed >> 10).saturating_sub(4)
}

pub(super) fn ticks(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
