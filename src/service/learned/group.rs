//! What is known of the requests of one group.
//!
//! Time is cut into slots, the same for all replicas. Known are the current slot and the one
//! before, whose samples weigh less and less while the current one lasts, so that nothing changes at
//! once when the next begins. What is older is forgotten.

use std::time::Duration;

use crate::limit::{Mixture, Sketch, Timestamp};
use crate::rules::{LearnKey, Quantile};
use crate::store::{SAMPLES_LIFETIME, Samples};

/// How long a slot is.
pub(super) const SLOT: Duration = Duration::from_mins(30);

/// How many samples there have to be before they are believed. A sample of the slot before counts
/// for what it weighs.
pub(super) const ENOUGH: u64 = 20;

/// What a sample of the current slot weighs.
const FULL_WEIGHT: u64 = 1000;

/// How long after its end other replicas may still add to a slot.
const LATE: Duration = Duration::from_mins(2);

const _: () = assert!(SAMPLES_LIFETIME.as_secs() > 2 * SLOT.as_secs() + LATE.as_secs());

/// A group: the current slot and the one before.
#[derive(Debug, Default)]
pub(super) struct Group {
    current: Slot,
    before: Slot,
}

/// One slot of time.
#[derive(Debug, Default)]
struct Slot {
    number: u64,
    /// What the store told of all replicas, the last time it was asked.
    shared: Sketch,
    /// What was seen here since and is not in the store yet.
    unsent: Sketch,
    /// Nobody adds to it any more, and all of it is in `shared`.
    complete: bool,
}

impl Group {
    /// Counts what a request cost in tokens.
    pub(super) fn record(&mut self, cost: u64, now: Timestamp) {
        self.advance(now);
        self.current.unsent.record(cost);
    }

    /// The quantile of the costs; `None` while there are not enough.
    pub(super) fn estimate(&mut self, quantile: Quantile, now: Timestamp) -> Option<u64> {
        self.advance(now);
        let weight_before = self.weight_before(now);
        let mut costs = Mixture::new();
        for (slot, weight) in [(&self.current, FULL_WEIGHT), (&self.before, weight_before)] {
            costs.add(&slot.shared, weight);
            costs.add(&slot.unsent, weight);
        }
        if costs.total() < ENOUGH * FULL_WEIGHT {
            return None;
        }
        costs.quantile(quantile.thousandths())
    }

    /// What to tell the store and to ask it.
    pub(super) fn news(&mut self, group: LearnKey, now: Timestamp) -> Vec<Samples> {
        self.advance(now);
        [&self.current, &self.before]
            .into_iter()
            .filter(|slot| !slot.complete || !slot.unsent.is_empty())
            .map(|slot| Samples {
                group,
                slot: slot.number,
                new: slot.unsent.clone(),
            })
            .collect()
    }

    /// The store took `sent`, and told what all replicas saw in that slot.
    pub(super) fn exchanged(&mut self, sent: &Samples, all: Sketch, now: Timestamp) {
        let is_over = now >= slot_start(sent.slot.saturating_add(1)).plus(LATE);
        let mut slots = [&mut self.current, &mut self.before].into_iter();
        if let Some(slot) = slots.find(|slot| slot.number == sent.slot) {
            slot.unsent.subtract(&sent.new);
            slot.shared = all;
            slot.complete = is_over;
        }
    }

    /// Whether there is something that the store was not told.
    pub(super) const fn has_unsent(&self) -> bool {
        !self.current.unsent.is_empty() || !self.before.unsent.is_empty()
    }

    /// Whether nothing is known.
    pub(super) const fn is_empty(&self) -> bool {
        !self.has_unsent() && self.current.shared.is_empty() && self.before.shared.is_empty()
    }

    /// Forgets what is too old.
    pub(super) fn advance(&mut self, now: Timestamp) {
        let number = slot_number(now);
        // A time from just before the current slot is one that another call was told earlier. One
        // from further back is of a clock that was set back: what is known has no place in it.
        if number == self.current.number || number.saturating_add(1) == self.current.number {
            return;
        }
        let slot = |number| Slot {
            number,
            ..Slot::default()
        };
        let last = std::mem::replace(&mut self.current, slot(number));
        self.before = if last.number.saturating_add(1) == number {
            last
        } else {
            slot(number.saturating_sub(1))
        };
    }

    /// What a sample of the slot before weighs: less and less while the current one lasts.
    fn weight_before(&self, now: Timestamp) -> u64 {
        let start = slot_start(self.current.number);
        let elapsed = now.as_micros().saturating_sub(start.as_micros());
        let gone = elapsed.saturating_mul(FULL_WEIGHT) / micros(SLOT);
        FULL_WEIGHT.saturating_sub(gone)
    }
}

/// Numbers the spans of time in which no weight moves: 1.8 s each.
pub(super) fn step(time: Timestamp) -> u64 {
    time.as_micros() / (micros(SLOT) / FULL_WEIGHT)
}

fn slot_number(time: Timestamp) -> u64 {
    time.as_micros() / micros(SLOT)
}

fn slot_start(number: u64) -> Timestamp {
    Timestamp::from_micros(number.saturating_mul(micros(SLOT)))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
