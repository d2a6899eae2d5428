//! A group, as decisions and settlements meet it.
//!
//! Decisions are many, and all of one hot group meet here: they read what was told last, without a
//! lock. Whoever brings samples computes what is told next; weights that moved meanwhile, which they
//! do every 1.8 s, are for the first decision that finds them so.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::group::{Group, step};
use crate::limit::{Sketch, Timestamp};
use crate::rules::{LearnKey, Quantile};
use crate::store::Samples;

/// A group, and who used it when.
#[derive(Debug)]
pub(super) struct Entry {
    group: Mutex<Group>,
    told: ArcSwapOption<Told>,
    /// Whether anything is known of it.
    known: AtomicBool,
    /// When it was last asked for or taught, as far as the time was known, in microseconds.
    used: AtomicU64,
    /// Whether that was since idle groups were last forgotten.
    touched: AtomicBool,
    /// Whether that was since the last exchange.
    in_use: AtomicBool,
    /// Which exchange it took part in last, or was too late for.
    exchanged: AtomicU64,
}

/// The last estimate, and when it holds.
#[derive(Debug)]
struct Told {
    quantile: Quantile,
    step: u64,
    estimate: Option<u64>,
}

impl Entry {
    /// A group of which nothing is known, made after so many exchanges: it does not go before those
    /// who wait already.
    pub(super) fn new(exchanges: u64) -> Self {
        Self {
            group: Mutex::default(),
            told: ArcSwapOption::empty(),
            known: AtomicBool::default(),
            used: AtomicU64::default(),
            touched: AtomicBool::default(),
            in_use: AtomicBool::default(),
            exchanged: AtomicU64::new(exchanges),
        }
    }

    /// The quantile of the costs; `None` while there are not enough.
    pub(super) fn estimate(&self, quantile: Quantile, now: Timestamp) -> Option<u64> {
        self.touch(now);
        if let Some(estimate) = self.told(quantile, now) {
            return estimate;
        }
        let mut group = self.group();
        // Somebody else may have computed it while we waited.
        if let Some(estimate) = self.told(quantile, now) {
            return estimate;
        }
        self.tell(&mut group, quantile, now)
    }

    /// Counts what a request that was settled at `at` cost in tokens.
    pub(super) fn record(&self, cost: u64, at: Timestamp, now: Timestamp) {
        self.touch(now);
        let mut group = self.group();
        group.record(cost, at);
        self.changed(&mut group, now);
    }

    /// Whether an exchange has something to tell or to ask, and since which exchange.
    pub(super) fn waits_since(&self) -> Option<u64> {
        let waits = self.in_use.load(Ordering::Relaxed) || self.group().has_unsent();
        waits.then(|| self.exchanged.load(Ordering::Relaxed))
    }

    /// What the exchange of this number tells the store and asks it.
    pub(super) fn news(&self, exchange: u64, group: LearnKey, now: Timestamp) -> Vec<Samples> {
        self.in_use.store(false, Ordering::Relaxed);
        self.exchanged.store(exchange, Ordering::Relaxed);
        self.group().news(group, now)
    }

    /// The store took `sent`, and told what all replicas saw in that slot.
    pub(super) fn exchanged(&self, sent: &Samples, all: Sketch, now: Timestamp) {
        let mut group = self.group();
        group.exchanged(sent, all, now);
        self.changed(&mut group, now);
    }

    /// Whether anything is known of it.
    pub(super) fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// When it was last asked for or taught, as far as the time was known.
    pub(super) fn used(&self) -> Timestamp {
        Timestamp::from_micros(self.used.load(Ordering::Relaxed))
    }

    /// Whether nobody used it for `time`, until now. To be asked from time to time.
    pub(super) fn is_idle(&self, time: Duration, now: Timestamp) -> bool {
        // The time it was used at may have been an old answer's.
        if self.touched.swap(false, Ordering::Relaxed) {
            self.used.store(now.as_micros(), Ordering::Relaxed);
        }
        self.used().plus(time) <= now
    }

    /// Writes only what is new, because all decisions on the group come here.
    fn touch(&self, now: Timestamp) {
        if self.used() != now {
            self.used.store(now.as_micros(), Ordering::Relaxed);
        }
        for flag in [&self.touched, &self.in_use] {
            if !flag.load(Ordering::Relaxed) {
                flag.store(true, Ordering::Relaxed);
            }
        }
    }

    /// What was told last, where it still holds.
    #[expect(
        clippy::option_option,
        reason = "an estimate may be that too little is known"
    )]
    fn told(&self, quantile: Quantile, now: Timestamp) -> Option<Option<u64>> {
        let told = self.told.load();
        let told = told.as_ref()?;
        (told.quantile == quantile && told.step == step(now)).then_some(told.estimate)
    }

    fn tell(&self, group: &mut Group, quantile: Quantile, now: Timestamp) -> Option<u64> {
        let estimate = group.estimate(quantile, now);
        self.told.store(Some(Arc::new(Told {
            quantile,
            step: step(now),
            estimate,
        })));
        estimate
    }

    /// Tells anew what somebody asked for before.
    fn changed(&self, group: &mut Group, now: Timestamp) {
        self.known.store(!group.is_empty(), Ordering::Relaxed);
        let quantile = self.told.load().as_ref().map(|told| told.quantile);
        if let Some(quantile) = quantile {
            self.tell(group, quantile, now);
        }
    }

    /// What is known of it. Decisions do not wait for whoever has it.
    pub(super) fn group(&self) -> MutexGuard<'_, Group> {
        self.group.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
