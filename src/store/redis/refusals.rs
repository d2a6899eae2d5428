//! Refusals that Redis need not be asked for.
//!
//! When Redis refuses an admission, the readings are remembered. Until one of its costs could fit
//! again, as far as time alone gives back, the same answer is given without asking. Only somebody
//! who gives something back makes that wrong: what passes through this process is noticed at once,
//! all else after [`Options::refusal_memory`](super::Options::refusal_memory).
//!
//! **Order.** Answers are heeded by the task that sends the calls, before anybody hears of them,
//! and a call is sent after the one before was heeded. So a reading is never remembered after
//! something that Redis did later was forgotten; whoever has heard of a settlement is not refused
//! by what was before it. The answer of a call that came late is not remembered.
//!
//! **Leases.** What this replica holds of a bucket counts as spent there, and goes back when somebody
//! would be refused for it. So a charge is refused only if it would not fit even with that. What is on
//! its way back is expected: until it is heard of, no refusal by that bucket is certain.
//!
//! **Time** is Redis's. When a call was sent at `s` and its answer says that it was `t`, it is at
//! most `t + (here − s)` now. A charge is refused only if it would not fit even then. How long to
//! wait is told by the other end, `t + (here − a)` with the answer's arrival at `a`, so that nobody
//! comes back too early.
//!
//! Bounded, in shards of two halves: when the younger is full, or all in the elder is too old, the
//! elder goes. While nothing is remembered, all of it costs the look at one number.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::Options;
use super::script::{Answer, Operation};
use crate::clock::{self, ManualClock};
use crate::limit::{self, Bucket, Limit, Reading, TRAVEL, Timestamp, decide, surely_refused};
use crate::rules::BucketKey;
use crate::store::{Admission, Decision, EndResult, Readings, Verdict};

const SHARDS: usize = 64;

/// How many buckets half a shard remembers: 65,536 in all.
const HALF: usize = 512;

/// Told of every refusal that Redis was not asked for.
pub type OnLocalRefusal = Arc<dyn Fn() + Send + Sync>;

/// What was refused of late.
pub(super) struct Refusals {
    shards: Box<[Mutex<Shard>]>,
    /// Until when anything that is remembered may be of use. Zero: nothing is.
    fresh_until: AtomicU64,
    /// How long it is of use, in microseconds.
    memory: u64,
    time: LocalTime,
    on_refusal: Option<OnLocalRefusal>,
}

#[derive(Debug, Default)]
struct Shard {
    young: Half,
    old: Half,
    /// When the first of the young came.
    began: u64,
    /// Buckets that something is on its way to, and since when.
    expected: HashMap<BucketKey, u64, foldhash::quality::RandomState>,
}

type Half = HashMap<BucketKey, Entry, foldhash::quality::RandomState>;

/// A bucket as Redis told it.
#[derive(Clone, Copy, Debug)]
struct Entry {
    bucket: Bucket,
    /// What it was held to.
    limit: Limit,
    /// Redis's time of the reading.
    now: Timestamp,
    sent: u64,
    heard: u64,
}

/// Time that passes here, in microseconds.
#[derive(Debug)]
enum LocalTime {
    /// With the store's own time, for tests.
    Manual(ManualClock),
    Since(Instant),
}

impl Refusals {
    pub(super) fn new(options: &Options) -> Self {
        let time = match &options.clock {
            Some(clock) => LocalTime::Manual(clock.clone()),
            None => LocalTime::Since(clock::instant()),
        };
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            fresh_until: AtomicU64::new(0),
            memory: micros(options.refusal_memory),
            time,
            on_refusal: options.on_local_refusal.clone(),
        }
    }

    /// The time here, to be noted before a call is sent.
    pub(super) fn time(&self) -> u64 {
        self.time.now()
    }

    /// The refusal of an admission that Redis would refuse for sure, even if so much went back as
    /// `may_return` says of each bucket.
    pub(super) fn refuse(
        &self,
        admission: &Admission,
        may_return: impl Fn(BucketKey) -> u64,
    ) -> Option<Decision> {
        let here = self.remembers_at()?;
        if !may_be_foretold(admission) {
            return None;
        }
        let decision = self.foretell(admission, here, may_return)?;
        if let Some(told) = &self.on_refusal {
            told();
        }
        Some(decision)
    }

    fn foretell(
        &self,
        admission: &Admission,
        here: u64,
        may_return: impl Fn(BucketKey) -> u64,
    ) -> Option<Decision> {
        let mut known: SmallVec<[(BucketKey, Limit); 4]> = SmallVec::new();
        let mut slots: SmallVec<[usize; 4]> = SmallVec::new();
        let mut buckets: SmallVec<[Bucket; 4]> = SmallVec::new();
        let mut charges: SmallVec<[limit::Charge; 4]> = SmallVec::new();
        let mut at_least = Timestamp::default();
        let mut at_most = Timestamp::default();
        for charge in &admission.charges {
            let limit = charge.charge.limit;
            charges.push(charge.charge);
            if let Some(slot) = known.iter().position(|(key, _)| *key == charge.key) {
                if known[slot].1 != limit {
                    return None;
                }
                slots.push(slot);
                continue;
            }
            let entry = self.recall(&charge.key, here)?;
            if entry.limit != limit {
                return None;
            }
            slots.push(known.len());
            known.push((charge.key, limit));
            buckets.push(entry.bucket);
            at_least = at_least.max(entry.now.plus(passed(entry.heard, here)));
            at_most = at_most.max(self.time.at_most(entry.now, passed(entry.sent, here)));
        }
        for (bucket, (_, limit)) in buckets.iter_mut().zip(&known) {
            bucket.refill(limit, at_most);
        }
        if !surely_refused(&charges, &slots, &buckets) {
            return None;
        }
        let mut least = buckets.clone();
        for (bucket, (key, _)) in least.iter_mut().zip(&known) {
            let returned = if self.expects(key, here) {
                u64::MAX
            } else {
                may_return(*key)
            };
            bucket.spent = bucket.spent.saturating_sub(returned);
        }
        if !surely_refused(&charges, &slots, &least) {
            return None;
        }
        let mut readings = Vec::with_capacity(charges.len());
        decide(
            &charges,
            &slots,
            &mut buckets,
            at_most,
            admission.mode,
            &mut readings,
        );
        Some(Decision {
            verdict: Verdict::Refused,
            now: at_least,
            readings: Readings::from_vec(readings),
        })
    }

    /// Learns from the answers to a call that was sent at `sent`; `None`: it came late. Has to be
    /// told before anybody hears of the answers.
    pub(super) fn heed<'a>(
        &self,
        answers: impl Iterator<Item = (&'a Operation, &'a Answer)> + Clone,
        sent: Option<u64>,
    ) {
        if self.memory == 0 {
            return;
        }
        if let Some(sent) = sent {
            let heard = self.time();
            for (operation, answer) in answers.clone() {
                if let (Operation::Admit(admission), Answer::Admit(decision)) = (operation, answer)
                    && decision.verdict == Verdict::Refused
                    && may_be_foretold(admission)
                {
                    self.remember(admission, decision, sent, heard);
                }
            }
        }
        // Of what one call carried, too: nobody knows here what came first.
        if self.fresh_until.load(Ordering::Relaxed) > 0 {
            for (operation, answer) in answers {
                self.forget_changed(operation, answer, sent);
            }
        }
    }

    /// Something is about to be given back to a bucket. Has to be told before it is sent.
    pub(super) fn expect(&self, key: BucketKey) {
        if self.memory > 0 {
            let here = self.time();
            self.shard(&key).expect(key, here);
            // There is something to forget.
            self.fresh_until.fetch_max(1, Ordering::Relaxed);
        }
    }

    /// Whether something is on its way to a bucket.
    fn expects(&self, key: &BucketKey, here: u64) -> bool {
        let since = self.shard(key).expected.get(key).copied();
        since.is_some_and(|since| may_come(since, here))
    }

    /// Nothing that was told counts any more: a call failed, so what it did is not known, nor
    /// whether this is still the same Redis.
    pub(super) fn forget_all(&self) {
        if self.fresh_until.swap(0, Ordering::Relaxed) > 0 {
            for shard in &self.shards {
                let mut shard = lock(shard);
                shard.young.clear();
                shard.old.clear();
            }
        }
    }

    /// The time here, if anything may be remembered that is of use.
    fn remembers_at(&self) -> Option<u64> {
        let until = self.fresh_until.load(Ordering::Relaxed);
        if until == 0 {
            return None;
        }
        let here = self.time();
        (here < until).then_some(here)
    }

    fn recall(&self, key: &BucketKey, here: u64) -> Option<Entry> {
        let shard = self.shard(key);
        let entry = shard.young.get(key).or_else(|| shard.old.get(key))?;
        let age = here.checked_sub(entry.sent)?;
        (age < self.memory).then_some(*entry)
    }

    fn remember(&self, admission: &Admission, decision: &Decision, sent: u64, heard: u64) {
        for (charge, reading) in admission.charges.iter().zip(&decision.readings) {
            let Reading { bucket, .. } = *reading;
            let entry = Entry {
                bucket,
                limit: charge.charge.limit,
                now: decision.now,
                sent,
                heard,
            };
            self.shard(&charge.key)
                .insert(charge.key, entry, self.memory);
        }
        let until = sent.saturating_add(self.memory);
        self.fresh_until.fetch_max(until, Ordering::Relaxed);
    }

    /// Forgets the buckets that an operation may have given something back to.
    fn forget_changed(&self, operation: &Operation, answer: &Answer, sent: Option<u64>) {
        let charges = match operation {
            Operation::Admit(admission) => admission.charges.as_slice(),
            Operation::End(ending) => ending.fallback.as_slice(),
            Operation::Withdraw(_) => &[],
        };
        for charge in charges.iter().filter(|charge| charge.charge.amount < 0) {
            let mut shard = self.shard(&charge.key);
            shard.forget(&charge.key);
            shard.came(&charge.key, sent);
        }
        if let Answer::End(ended) = answer
            && let EndResult::Grown { record, .. } | EndResult::Settled { record, .. } =
                &ended.result
        {
            for charge in &record.charges {
                self.shard(&charge.key).forget(&charge.key);
            }
        }
    }

    fn shard(&self, key: &BucketKey) -> MutexGuard<'_, Shard> {
        lock(&self.shards[usize::from(key.as_bytes()[15]) % SHARDS])
    }
}

impl fmt::Debug for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refusals")
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}

impl Shard {
    /// Remembers an entry. Where there is no room, or the first of the young is as old as `memory`,
    /// the young are old from now on, and the old are gone.
    fn insert(&mut self, key: BucketKey, entry: Entry, memory: u64) {
        let all_old = entry.sent.saturating_sub(self.began) >= memory;
        if self.young.len() >= HALF || all_old {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
            self.began = entry.sent;
        }
        self.young.insert(key, entry);
    }

    fn forget(&mut self, key: &BucketKey) {
        self.young.remove(key);
        self.old.remove(key);
    }

    fn expect(&mut self, key: BucketKey, here: u64) {
        if self.expected.len() == self.expected.capacity() {
            self.expected.retain(|_, since| may_come(*since, here));
        }
        self.expected.insert(key, here);
    }

    /// A call that was sent at `sent` gave something back. What is expected since then comes later.
    fn came(&mut self, key: &BucketKey, sent: Option<u64>) {
        let since = self.expected.get(key);
        if since.is_some_and(|since| sent.is_some_and(|sent| *since < sent)) {
            self.expected.remove(key);
        }
    }
}

impl LocalTime {
    fn now(&self) -> u64 {
        match self {
            Self::Manual(clock) => clock.now().as_micros(),
            Self::Since(start) => micros(clock::instant().saturating_duration_since(*start)),
        }
    }

    /// The latest that it can be for a clock that showed `then` when `passed` began.
    fn at_most(&self, then: Timestamp, passed: Duration) -> Timestamp {
        match self {
            Self::Manual(_) => then.plus(passed),
            // Clocks that are being corrected go faster by up to 500 parts in a million, and what
            // was cut off when reading three of them is less than two microseconds.
            Self::Since(_) => then.plus(passed + passed / 1000 + Duration::from_micros(2)),
        }
    }
}

/// Whether a refusal of it may be told without asking. One whose reservation may be known already
/// is perhaps a retry of what was admitted, and Redis alone can tell.
fn may_be_foretold(admission: &Admission) -> bool {
    admission.hold.as_ref().is_none_or(|hold| hold.fresh)
        && admission
            .charges
            .iter()
            .all(|charge| charge.charge.may_be_foretold())
}

/// Whether something that is expected since then may still come. What never came was lost.
fn may_come(since: u64, here: u64) -> bool {
    passed(since, here) < TRAVEL
}

fn passed(since: u64, now: u64) -> Duration {
    Duration::from_micros(now.saturating_sub(since))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A panic while a lock was held leaves whole entries behind.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "refusals_tests.rs"]
mod tests;
