//! What this replica took and dropped, and what may still lie in the pile of it.

use super::Tick;

/// Never less than what lies there. All of it counts until the last of it is gone.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Idle {
    amount: u64,
    until: Tick,
}

impl Idle {
    /// Adds what is gone by `until`.
    pub(super) fn add(&mut self, amount: u64, until: Tick, now: Tick) {
        if amount == 0 {
            return;
        }
        self.amount = self.at_most(now).saturating_add(amount);
        self.until = self.until.max(until);
    }

    /// How much of it is there at most.
    pub(super) fn at_most(&self, now: Tick) -> u64 {
        if now < self.until { self.amount } else { 0 }
    }
}
