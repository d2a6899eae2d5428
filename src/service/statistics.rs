//! What reports tell about tokens: how many requests use, and how well that was guessed.

use crate::limit::{Settlement, Usage};
use crate::metrics::TokenMetrics;
use crate::store::Record;

/// What a report tells about one charge that counts tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    /// What was counted; `None`: only its cost is known, or not even that.
    pub(super) counts: Option<[u64; 4]>,
    /// What admission took for the tokens, and what they cost, where both are known.
    pub(super) guess: Option<(u64, u64)>,
}

impl Used {
    /// What is told without a reservation.
    pub(super) const fn without_reservation(usage: Usage) -> Self {
        Self {
            counts: counts_of(usage),
            guess: None,
        }
    }

    /// What is told about each charge of a reservation; `None` for those that count no tokens, and
    /// for those that an earlier charge on the same bucket settles for. While a stream goes on,
    /// nothing is told.
    pub(super) fn of_record(record: &Record, settlement: Settlement) -> Vec<Option<Self>> {
        let charges = record.charges.iter();
        charges
            .map(|charge| {
                let held = &charge.held;
                let goes_on = matches!(settlement, Settlement::SoFar(_));
                if held.again || !held.settles() || goes_on {
                    return None;
                }
                let Settlement::Settle(usage) = settlement else {
                    return Some(Self::default());
                };
                let taken = record
                    .charges
                    .iter()
                    .filter(|other| other.key == charge.key && other.held.settles())
                    .fold(0_u64, |sum, other| sum.saturating_add(other.held.amount));
                let guessed = taken.saturating_sub(held.fixed);
                let cost = held.final_amount(settlement).saturating_sub(held.fixed);
                let known =
                    !matches!(usage, Usage::AtLeast(_) | Usage::Missing) && guessed > 0 && cost > 0;
                Some(Self {
                    counts: counts_of(usage),
                    guess: known.then_some((guessed, cost)),
                })
            })
            .collect()
    }

    /// Counts it, and the debt that the level is if it is below zero.
    pub(super) fn observe(self, level: i64, series: &TokenMetrics) {
        if let Some([input, cache_read, cache_write, output]) = self.counts {
            let prompt = input.saturating_add(cache_read).saturating_add(cache_write);
            series.input.observe(float(prompt));
            series.output.observe(float(output));
        }
        if let Some((guessed, cost)) = self.guess {
            series.estimate_ratio.observe(float(guessed) / float(cost));
        }
        if level < 0 {
            series.debt.observe(float(level.unsigned_abs()));
        }
    }
}

const fn counts_of(usage: Usage) -> Option<[u64; 4]> {
    match usage {
        Usage::Measured(counts) => Some(counts),
        Usage::AtLeast(_) | Usage::Missing | Usage::Total(_) => None,
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "for statistics; amounts are below 2^53 besides"
)]
pub(super) const fn float(amount: u64) -> f64 {
    amount as f64
}
