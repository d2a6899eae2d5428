//! What past requests cost, by group, for limits with `estimate: learned`.
//!
//! Every decision asks, so it answers from memory: one lock of fifty, held for a look. Settlements
//! teach it, and a task exchanges what replicas saw through the store, now and then.
//! `docs/design/estimates.md` has the reasons and the bounds.

mod exchange;
mod group;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::group::{Group, SLOT};
use crate::limit::{Sketch, Timestamp};
use crate::metrics::{Counter, Gauge, Metrics};
use crate::rules::{LearnKey, Learning};
use crate::store::Samples;

const SHARDS: usize = 50;

/// The most groups of a shard: 10,000 in a process.
const GROUPS_OF_SHARD: usize = 200;

/// After how long a group that nobody asked for is forgotten: its samples are too old by then.
const IDLE: Duration = Duration::from_hours(1);

const _: () = assert!(IDLE.as_secs() >= 2 * SLOT.as_secs());

/// The most groups that one exchange tells of and asks for; those that waited longest come first.
const EXCHANGED: usize = 500;

/// By how many microseconds the time may lag: it is written seldom, because all decisions read it.
const LAG: u64 = 100_000;

/// What was learned.
#[derive(Debug)]
pub(super) struct Estimates {
    shards: Box<[Mutex<Shard>]>,
    /// The store's time, as of its last answers, in microseconds.
    now: AtomicU64,
    /// How many exchanges there were.
    exchanges: AtomicU64,
    known: Gauge,
    forgotten: Counter,
}

type Shard = std::collections::HashMap<LearnKey, Entry, foldhash::quality::RandomState>;

#[derive(Debug, Default)]
struct Entry {
    group: Group,
    /// When it was last asked for or taught, as far as the time was known.
    used: Timestamp,
    /// Whether that was since idle groups were last forgotten.
    touched: bool,
    /// Whether that was since the last exchange.
    in_use: bool,
    /// Which exchange it took part in last.
    exchanged: u64,
}

impl Estimates {
    /// Nothing learned yet.
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            now: AtomicU64::default(),
            exchanges: AtomicU64::default(),
            known: metrics.estimate_groups.clone(),
            forgotten: metrics.estimate_groups_forgotten.clone(),
        }
    }

    /// What a request of this group is taken to cost in tokens, by the formula of its limit;
    /// `None`: too little is known, and the cold start holds.
    pub(super) fn learned(&self, learning: &Learning, group: LearnKey) -> Option<u64> {
        let now = self.now();
        self.with(group, now, |known| known.estimate(learning.quantile, now))
    }

    /// Learns what a request of this group cost in tokens.
    pub(super) fn record(&self, group: LearnKey, cost: u64, now: Timestamp) {
        self.tell_time(now);
        self.with(group, now, |known| known.record(cost, now));
    }

    /// The store's answers tell the time, which is the same for all replicas.
    pub(super) fn tell_time(&self, now: Timestamp) {
        let now = now.as_micros();
        if self.now.load(Ordering::Relaxed).abs_diff(now) >= LAG {
            self.now.store(now, Ordering::Relaxed);
        }
    }

    /// Forgets groups that nobody uses.
    fn forget_idle(&self) {
        let now = self.now();
        for shard in &self.shards {
            let mut shard = lock(shard);
            let before = shard.len();
            shard.retain(|_, entry| {
                // The time it was used at may have been an old answer's.
                if std::mem::take(&mut entry.touched) {
                    entry.used = now;
                }
                entry.used.plus(IDLE) > now
            });
            self.known.sub(signed(before - shard.len()));
        }
    }

    /// What to tell the store and to ask it, group by group.
    fn to_exchange(&self) -> Vec<Samples> {
        let now = self.now();
        let this = self.exchanges.fetch_add(1, Ordering::Relaxed) + 1;
        let mut waiting = Vec::new();
        for shard in &self.shards {
            waiting.extend(lock(shard).iter().filter_map(|(key, entry)| {
                let waits = entry.in_use || entry.group.has_unsent();
                waits.then_some((entry.exchanged, *key))
            }));
        }
        if waiting.len() > EXCHANGED {
            waiting.select_nth_unstable(EXCHANGED);
            waiting.truncate(EXCHANGED);
        }
        waiting
            .into_iter()
            .flat_map(|(_, key)| {
                let mut shard = self.shard(key);
                shard.get_mut(&key).map_or_else(Vec::new, |entry| {
                    entry.in_use = false;
                    entry.exchanged = this;
                    entry.group.news(key, now)
                })
            })
            .collect()
    }

    /// The store took `sent`, and told what all replicas saw.
    fn exchanged(&self, sent: &Samples, all: Sketch) {
        let now = self.now();
        if let Some(entry) = self.shard(sent.group).get_mut(&sent.group) {
            entry.group.exchanged(sent, all, now);
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.now.load(Ordering::Relaxed))
    }

    fn shard(&self, group: LearnKey) -> MutexGuard<'_, Shard> {
        let [first, second, ..] = *group.as_bytes();
        let shard = usize::from(u16::from_le_bytes([first, second])) % SHARDS;
        lock(&self.shards[shard])
    }

    fn with<T>(&self, group: LearnKey, now: Timestamp, look: impl FnOnce(&mut Group) -> T) -> T {
        let mut shard = self.shard(group);
        if !shard.contains_key(&group) {
            if shard.len() >= GROUPS_OF_SHARD {
                forget_one(&mut shard);
                self.forgotten.inc();
                self.known.dec();
            }
            self.known.inc();
        }
        let entry = shard.entry(group).or_default();
        entry.used = now;
        entry.touched = true;
        entry.in_use = true;
        look(&mut entry.group)
    }
}

/// Forgets a group of which nothing is known, else the one that was not used for longest. So
/// callers who invent groups, and never use any tokens in them, displace no others.
fn forget_one(shard: &mut Shard) {
    let least = shard
        .iter()
        .min_by_key(|(_, entry)| (!entry.group.is_empty(), entry.used))
        .map(|(key, _)| *key);
    if let Some(key) = least {
        shard.remove(&key);
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
