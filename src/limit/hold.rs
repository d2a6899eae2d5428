//! What an admission charged and may have to give back: one charge of a reservation.

use super::{Formula, Limit, Timestamp, Usage};

/// One charge of a reservation: enough to settle it without asking the configuration again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldCharge {
    /// The limit as it was at admission.
    pub limit: Limit,
    /// What was charged at admission.
    pub amount: u64,
    /// The part of it that no report changes: the request itself.
    pub fixed: u64,
    /// What the limit counts.
    pub formula: Formula,
    /// What becomes of the estimate when no usage is reported.
    pub missing_usage: MissingUsage,
    /// Whether an earlier charge of the reservation is on the same bucket, and settles for this
    /// one too: what a request used is charged to a bucket once.
    pub again: bool,
}

/// What becomes of an estimate when a report says that no usage was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MissingUsage {
    /// The estimate stays charged.
    #[default]
    Keep,
    /// The estimate is given back.
    Release,
}

/// How a reservation ends, or goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Everything is given back: the request did not happen.
    Release,
    /// The charges become what was used.
    Settle(Usage),
    /// So much was used so far, by measure, in the order of [`super::Measure::TOKENS`]: the charges
    /// become that where it is more, and the reservation goes on.
    SoFar([u64; 4]),
}

impl HeldCharge {
    /// Whether a usage report can change it.
    pub fn settles(&self) -> bool {
        self.formula.counts_tokens()
    }

    /// What this usage shows of the cost of tokens, without the fixed part: what an estimate should
    /// have been. `None` where it shows nothing, or an earlier charge shows it.
    pub fn token_cost(&self, usage: Usage) -> Option<u64> {
        if self.again || !self.settles() {
            return None;
        }
        match usage {
            Usage::Measured(counts) => Some(self.formula.cost_of_tokens(counts)),
            Usage::AtLeast(_) | Usage::Missing => None,
            Usage::Total(total) => Some(total),
        }
    }

    /// What it costs in the end, or so far.
    pub fn final_amount(&self, settlement: Settlement) -> u64 {
        let tokens = self.formula.counts_tokens();
        match settlement {
            Settlement::Release => 0,
            Settlement::SoFar(counts) if tokens && !self.again => self
                .fixed
                .saturating_add(self.formula.cost_of_tokens(counts))
                .max(self.amount),
            Settlement::Settle(Usage::Measured(_) | Usage::Total(_)) if self.again => 0,
            Settlement::Settle(Usage::AtLeast(_) | Usage::Missing)
                if self.again && self.missing_usage == MissingUsage::Release =>
            {
                0
            }
            Settlement::Settle(Usage::AtLeast(counts)) if tokens && !self.again => {
                let told = self
                    .fixed
                    .saturating_add(self.formula.cost_of_tokens(counts));
                match self.missing_usage {
                    MissingUsage::Keep => told.max(self.amount),
                    MissingUsage::Release => told,
                }
            }
            Settlement::Settle(Usage::Measured(counts)) if tokens => self
                .fixed
                .saturating_add(self.formula.cost_of_tokens(counts)),
            Settlement::Settle(Usage::Total(total)) if tokens => self.fixed.saturating_add(total),
            Settlement::Settle(Usage::Missing)
                if tokens && self.missing_usage == MissingUsage::Release =>
            {
                self.fixed
            }
            Settlement::Settle(_) | Settlement::SoFar(_) => self.amount,
        }
    }

    /// What the bucket has to take (or, below zero, to give back) for a settlement at `now` of
    /// what was charged at `made`.
    ///
    /// A window that began after the charge never bore it, and gets nothing back.
    pub fn correction(&self, settlement: Settlement, made: Timestamp, now: Timestamp) -> i64 {
        let last = self.final_amount(settlement).cast_signed();
        let correction = last.saturating_sub(self.amount.cast_signed());
        let window = self.limit.window(now);
        if window.is_some_and(|window| window.start > made) {
            correction.max(0)
        } else {
            correction
        }
    }
}
