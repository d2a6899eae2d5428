//! What a bucket is held to.

use super::{Rate, Span};

/// How a bucket fills and what it does with a cost that does not fit: all the numbers of one limit.
///
/// What a limit is called, what it counts and whose it is stands in [`crate::rules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limit {
    /// How spent amounts come back.
    pub algorithm: Algorithm,
    /// How much comes back in which time.
    pub rate: Rate,
    /// The capacity: the most that can be taken at one moment.
    pub burst: u64,
    /// What happens to a cost that does not fit.
    pub when_over: WhenOver,
    /// Whether a cost larger than the burst can ever fit.
    pub oversize: Oversize,
    /// What a cost of zero asks for.
    pub zero_cost: ZeroCost,
}

/// How spent amounts come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// All at once, when the next window begins; windows go by a calendar. What the rate says of
    /// the period is for people.
    CalendarWindow(Span),
    /// All at once, when the next window begins. Windows are aligned to the Unix epoch.
    FixedWindow,
    /// Continuously, at the rate.
    TokenBucket,
}

/// What happens to a cost that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WhenOver {
    /// It is added all the same, as envoyproxy/ratelimit does.
    Charge,
    /// Nothing is taken.
    Refuse,
}

/// What happens to a cost larger than the burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Oversize {
    /// It never fits.
    Refuse,
    /// It fits while nothing is spent, and leaves a debt.
    WhenFull,
}

/// What a cost of zero asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ZeroCost {
    /// A level above zero: the rule of `limits:`.
    NeedsRoom,
    /// A level of zero or more: the rule of `rate_limit:`, as in envoyproxy/ratelimit.
    PassesAtZero,
}

impl Limit {
    /// The most that may be spent already for `cost` to fit; `None`: it never fits.
    ///
    /// `headroom` is what has to stay free beyond the cost (for classes of lower priority). A
    /// refund (a negative cost) always fits. With [`Oversize::WhenFull`], a cost that cannot fit
    /// beside the headroom fits while nothing is spent.
    pub fn threshold(&self, cost: i64, headroom: u64) -> Option<u64> {
        let Ok(cost) = u64::try_from(cost) else {
            return Some(u64::MAX);
        };
        let asked = match (cost, self.zero_cost) {
            (0, ZeroCost::NeedsRoom) => 1,
            (cost, _) => cost,
        };
        let threshold = self
            .burst
            .checked_sub(asked)
            .and_then(|left| left.checked_sub(headroom));
        let when_full = self.oversize == Oversize::WhenFull && cost > 0;
        threshold.or_else(|| when_full.then_some(0))
    }
}
