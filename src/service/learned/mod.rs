//! What past requests cost, by group, for limits with `estimate: learned`.
//!
//! Every decision asks, so it answers from memory, where decisions only read. Settlements teach it,
//! and a task exchanges what replicas saw through the store, now and then.
//! `docs/design/estimates.md` has the reasons and the bounds.

mod entry;
mod exchange;
mod group;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use self::entry::Entry;
use self::group::SLOT;
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
    shards: Box<[Shard]>,
    /// The store's time, as of its last answers, in microseconds.
    now: AtomicU64,
    /// How many exchanges there were.
    exchanges: AtomicU64,
    /// Held by the exchange that is under way.
    exchanging: tokio::sync::Mutex<()>,
    known: Gauge,
    forgotten: Counter,
}

/// A part of the groups. Those there are change seldom, so who changes them copies them.
#[derive(Debug, Default)]
struct Shard {
    groups: ArcSwap<Groups>,
    /// Held by who changes which groups there are.
    changing: Mutex<()>,
}

type Groups = std::collections::HashMap<LearnKey, Arc<Entry>, foldhash::quality::RandomState>;

/// Why a group is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// A decision asks.
    Asked,
    /// A settlement teaches.
    Taught,
}

impl Estimates {
    /// Nothing learned yet.
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            now: AtomicU64::default(),
            exchanges: AtomicU64::default(),
            exchanging: tokio::sync::Mutex::default(),
            known: metrics.estimate_groups.clone(),
            forgotten: metrics.estimate_groups_forgotten.clone(),
        }
    }

    /// What a request of this group is taken to cost in tokens, by the formula of its limit;
    /// `None`: too little is known, and the cold start holds.
    pub(super) fn learned(&self, learning: &Learning, group: LearnKey) -> Option<u64> {
        let now = self.now();
        let estimate = |entry: &Entry| entry.estimate(learning.quantile, now);
        self.with(group, Why::Asked, estimate).flatten()
    }

    /// Learns what a request of this group cost in tokens.
    pub(super) fn record(&self, group: LearnKey, cost: u64, at: Timestamp) {
        self.tell_time(at);
        let now = self.now();
        self.with(group, Why::Taught, |entry| entry.record(cost, at, now));
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
            let _one_at_a_time = shard.change();
            let mut groups = Groups::clone(&shard.groups.load());
            let before = groups.len();
            groups.retain(|_, entry| !entry.is_idle(IDLE, now));
            let forgotten = before - groups.len();
            if forgotten > 0 {
                shard.groups.store(Arc::new(groups));
                self.known.sub(signed(forgotten));
            }
        }
    }

    /// What to tell the store and to ask it, group by group.
    fn to_exchange(&self) -> Vec<Samples> {
        let now = self.now();
        let this = self.exchanges.fetch_add(1, Ordering::Relaxed) + 1;
        let mut waiting = Vec::new();
        for shard in &self.shards {
            waiting.extend(shard.groups.load().iter().filter_map(|(key, entry)| {
                let since = entry.waits_since()?;
                Some((since, *key))
            }));
        }
        if waiting.len() > EXCHANGED {
            waiting.select_nth_unstable(EXCHANGED);
            waiting.truncate(EXCHANGED);
        }
        waiting
            .into_iter()
            .flat_map(|(_, key)| {
                let groups = self.shard(key).groups.load();
                let entry = groups.get(&key);
                entry.map_or_else(Vec::new, |entry| entry.news(this, key, now))
            })
            .collect()
    }

    /// The store took `sent`, and told what all replicas saw.
    fn exchanged(&self, sent: &Samples, all: Sketch) {
        let now = self.now();
        if let Some(entry) = self.shard(sent.group).groups.load().get(&sent.group) {
            entry.exchanged(sent, all, now);
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.now.load(Ordering::Relaxed))
    }

    fn shard(&self, group: LearnKey) -> &Shard {
        let [first, second, ..] = *group.as_bytes();
        &self.shards[usize::from(u16::from_le_bytes([first, second])) % SHARDS]
    }

    /// Looks at a group, which is made where it is not there; `None`: there is no room for it.
    fn with<T>(&self, group: LearnKey, why: Why, look: impl FnOnce(&Entry) -> T) -> Option<T> {
        let shard = self.shard(group);
        if let Some(entry) = shard.groups.load().get(&group) {
            return Some(look(entry));
        }
        self.make(shard, group, why).map(|entry| look(&entry))
    }

    fn make(&self, shard: &Shard, group: LearnKey, why: Why) -> Option<Arc<Entry>> {
        let _one_at_a_time = shard.change();
        let known = shard.groups.load();
        if let Some(entry) = known.get(&group) {
            return Some(Arc::clone(entry));
        }
        let displaced = if known.len() < GROUPS_OF_SHARD {
            None
        } else {
            Some(displaced(&known, why)?)
        };
        let mut groups = Groups::clone(&known);
        if let Some(displaced) = displaced {
            groups.remove(&displaced);
            self.forgotten.inc();
            self.known.dec();
        }
        let entry = Arc::new(Entry::new(self.exchanges.load(Ordering::Relaxed)));
        groups.insert(group, Arc::clone(&entry));
        self.known.inc();
        shard.groups.store(Arc::new(groups));
        Some(entry)
    }
}

impl Shard {
    fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which group makes room for another one: one of which nothing is known, else the one that was not
/// used for longest. A group that is only asked for displaces none of which something is known. So
/// callers who invent groups, and never use any tokens in them, displace no others.
fn displaced(groups: &Groups, why: Why) -> Option<LearnKey> {
    groups
        .iter()
        .filter(|(_, entry)| why == Why::Taught || !entry.is_known())
        .min_by_key(|(_, entry)| (entry.is_known(), entry.used()))
        .map(|(key, _)| *key)
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
