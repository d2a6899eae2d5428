//! Buckets in this process: for one replica, for tests, and for a first look.
//!
//! Sharded by bucket. An operation locks the shards of its buckets in their order, so operations
//! on different buckets do not wait for each other and no two can deadlock; under the locks
//! [`decide`] runs on copies. Nothing is ever awaited, so an operation cannot be cancelled half-way.
//!
//! The shards' sizes differ on purpose. Tables double when they are full; were all shards of one size,
//! all would do so at nearly the same moment, and half of everything would be empty then. As it is
//! they double one after the other, and a bucket takes about as much at any count.
//!
//! Bounded by what is in use: a bucket that is full again is forgotten, because one that nobody has
//! seen is full too. Each shard looks for those when it has doubled since the last look.

mod holds;

use std::sync::{Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;
use smallvec::SmallVec;

use self::holds::{Holds, REMEMBERED, Remembered, State};
use super::{
    Admission, Charge, Charges, Decision, EndResult, Ended, Ending, Held, HoldCounts, Readings,
    Record, RecordedCharge, Verdict,
};
use crate::clock::Clock;
use crate::limit::{self, Bucket, Mode, Settlement, Timestamp, decide};
use crate::rules::BucketKey;

const SHARDS: usize = 64;

/// How many buckets a shard has before it looks for forgettable ones the first time.
const FIRST_SWEEP: usize = 1024;

/// The memory store.
#[derive(Debug)]
pub struct Memory {
    shards: Box<[Mutex<Shard>]>,
    holds: Box<[Mutex<Holds>]>,
    clock: Clock,
}

#[derive(Debug)]
struct Shard {
    buckets: HashMap<BucketKey, Entry, foldhash::quality::RandomState>,
    sweep_at: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    bucket: Bucket,
    /// From when on the bucket is full if nobody touches it.
    full_at: Timestamp,
}

impl Memory {
    /// An empty store on `clock`.
    pub fn new(clock: Clock) -> Self {
        let shard = || Shard {
            buckets: HashMap::default(),
            sweep_at: FIRST_SWEEP,
        };
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(),
            holds: (0..SHARDS).map(|_| Mutex::default()).collect(),
            clock,
        }
    }

    /// Decides over an admission.
    pub fn admit(&self, admission: &Admission) -> Decision {
        let Some(hold) = &admission.hold else {
            let (verdict, now, readings) = self.decide(&admission.charges, admission.mode);
            return Decision {
                verdict: verdict.into(),
                now,
                readings,
            };
        };
        let mut holds = lock(&self.holds[shard_of(hold.key.as_bytes())]);
        holds.expire(self.clock.now());
        match holds.known.get_mut(&hold.key) {
            Some(Remembered {
                state: State::Closed | State::Open { .. } | State::Unmeasured(_),
                ..
            }) => {
                let (_, now, readings) = self.decide(&admission.charges, Mode::Peek);
                Decision {
                    verdict: Verdict::Repeated,
                    now,
                    readings,
                }
            }
            Some(held) if matches!(held.state, State::Reported) => {
                // What was used is charged already; the request itself, the fixed part, is not.
                let mut charges = admission.charges.clone();
                for (charge, recorded) in charges.iter_mut().zip(&hold.record.charges) {
                    if charge.settles {
                        charge.charge.effect = limit::Effect::Record;
                        charge.charge.amount = recorded.held.fixed.cast_signed();
                    }
                }
                let (verdict, now, readings) = self.decide(&charges, admission.mode);
                if verdict == limit::Verdict::Admitted && admission.mode == Mode::Apply {
                    holds.close(hold.key, State::Closed, hold.lifetime, now);
                }
                Decision {
                    verdict: verdict.into(),
                    now,
                    readings,
                }
            }
            Some(_) | None => {
                let (verdict, now, readings) = self.decide(&admission.charges, admission.mode);
                if verdict == limit::Verdict::Admitted && admission.mode == Mode::Apply {
                    let mut record = hold.record.clone();
                    for ((recorded, charge), reading) in record
                        .charges
                        .iter_mut()
                        .zip(&admission.charges)
                        .zip(&readings)
                    {
                        if !reading.fits && charge.charge.limit.when_over == limit::WhenOver::Refuse
                        {
                            // Not charged (it was only told): nothing to give back.
                            recorded.held.amount = 0;
                        }
                    }
                    let counted = !hold.only_tells_retries;
                    let state = State::Open {
                        record,
                        counted,
                        grown: false,
                    };
                    holds.insert(hold.key, state, now.plus(hold.lifetime), now);
                }
                Decision {
                    verdict: verdict.into(),
                    now,
                    readings,
                }
            }
        }
    }

    /// Ends a reservation.
    pub fn end(&self, ending: &Ending) -> Ended {
        let mut holds = lock(&self.holds[shard_of(ending.key.as_bytes())]);
        let now = self.clock.now();
        holds.expire(now);
        if matches!(ending.settlement, Settlement::SoFar(_)) {
            return self.grow(&mut holds, ending, now);
        }
        let nothing = |result| Ended {
            result,
            now,
            readings: Readings::new(),
        };
        if let Some((record, made)) = holds.end(ending.key, ending.settlement, now) {
            let (_, now, readings) = self.settle(&record, made, ending, now);
            let result = EndResult::Settled { record, made };
            return Ended {
                result,
                now,
                readings,
            };
        }
        if holds.known.contains_key(&ending.key) {
            return nothing(EndResult::Already);
        }
        if ending.fallback.is_empty() {
            return nothing(EndResult::Unknown);
        }
        let fallback = ending.fallback.iter();
        let charges: Charges = fallback
            .map(|charge| forced(charge.key, charge.charge.limit, charge.charge.amount))
            .collect();
        let (_, now, readings) = self.decide_at(Some(now), &charges, Mode::Apply);
        let expires = now.plus(ending.lifetime.min(REMEMBERED));
        holds.insert(ending.key, State::Reported, expires, now);
        Ended {
            result: EndResult::Charged,
            now,
            readings,
        }
    }

    /// Has a reservation go on with what was used so far.
    fn grow(&self, holds: &mut Holds, ending: &Ending, now: Timestamp) -> Ended {
        let nothing = |result| Ended {
            result,
            now,
            readings: Readings::new(),
        };
        let Some((record, made)) = holds.growing(ending.key) else {
            return nothing(if holds.known.contains_key(&ending.key) {
                EndResult::Already
            } else {
                EndResult::Unknown
            });
        };
        let (record, grown) = (record.clone(), record.after(ending.settlement, made, now));
        let (_, now, readings) = self.settle(&record, made, ending, now);
        holds.grow(ending.key, grown, now.plus(ending.lifetime));
        Ended {
            result: EndResult::Grown { record, made },
            now,
            readings,
        }
    }

    /// Replaces what a reservation charged.
    fn settle(
        &self,
        record: &Record,
        made: Timestamp,
        ending: &Ending,
        now: Timestamp,
    ) -> (limit::Verdict, Timestamp, Readings) {
        let correction = |recorded: &RecordedCharge| {
            forced(
                recorded.key,
                recorded.held.limit,
                recorded.held.correction(ending.settlement, made, now),
            )
        };
        let charges: Charges = record.charges.iter().map(correction).collect();
        self.decide_at(Some(now), &charges, Mode::Apply)
    }

    /// Counts the reservations.
    pub fn count_holds(&self) -> HoldCounts {
        let now = self.clock.now();
        let mut counts = HoldCounts::default();
        for holds in &self.holds {
            let mut holds = lock(holds);
            holds.expire(now);
            counts.open += holds.open;
            counts.newly_unreported += std::mem::take(&mut holds.newly_unreported);
            counts.newly_cut_short += std::mem::take(&mut holds.newly_cut_short);
        }
        counts
    }

    /// What open reservations hold of each of these buckets.
    pub fn held(&self, keys: &[BucketKey]) -> Vec<Held> {
        let now = self.clock.now();
        let mut found = vec![Held::default(); keys.len()];
        for holds in &self.holds {
            let mut holds = lock(holds);
            holds.expire(now);
            for held in holds.known.values() {
                if let State::Open {
                    record,
                    counted: true,
                    ..
                } = &held.state
                {
                    record.add_held(keys, &mut found);
                }
            }
        }
        found
    }

    /// The time that it goes by.
    pub fn clock(&self) -> Timestamp {
        self.clock.now()
    }

    /// How many reservations are remembered, open or not.
    pub fn hold_count(&self) -> usize {
        let now = self.clock.now();
        let count = |holds: &Mutex<Holds>| {
            let mut holds = lock(holds);
            holds.expire(now);
            holds.known.len()
        };
        self.holds.iter().map(count).sum()
    }

    /// How many buckets are remembered.
    pub fn bucket_count(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| lock(shard).buckets.len())
            .sum()
    }

    /// The bytes of the tables that buckets are in.
    pub fn bucket_bytes(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| lock(shard).buckets.allocation_size())
            .sum()
    }

    /// Forgets every bucket that is full again.
    pub fn forget_full(&self) {
        let now = self.clock.now();
        for shard in &self.shards {
            lock(shard).forget_full(now);
        }
    }

    fn decide(&self, charges: &[Charge], mode: Mode) -> (limit::Verdict, Timestamp, Readings) {
        self.decide_at(None, charges, mode)
    }

    fn decide_at(
        &self,
        now: Option<Timestamp>,
        charges: &[Charge],
        mode: Mode,
    ) -> (limit::Verdict, Timestamp, Readings) {
        let mut keys: SmallVec<[BucketKey; 8]> = SmallVec::new();
        let mut slots: SmallVec<[usize; 8]> = SmallVec::new();
        for charge in charges {
            let known = keys.iter().position(|key| *key == charge.key);
            slots.push(known.unwrap_or(keys.len()));
            if known.is_none() {
                keys.push(charge.key);
            }
        }
        let mut wanted: SmallVec<[usize; 8]> = keys.iter().map(shard_of_bucket).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut shards: SmallVec<[(usize, MutexGuard<'_, Shard>); 8]> = wanted
            .into_iter()
            .map(|index| (index, lock(&self.shards[index])))
            .collect();

        // After the locks are held: of two operations on one bucket, the later has the later time.
        let now = now.unwrap_or_else(|| self.clock.now());
        let mut buckets: SmallVec<[Bucket; 8]> = keys
            .iter()
            .map(|key| {
                let shard = shard_among(&mut shards, key);
                shard
                    .buckets
                    .get(key)
                    .map_or_else(Bucket::default, |entry| entry.bucket)
            })
            .collect();
        let plain: SmallVec<[limit::Charge; 4]> =
            charges.iter().map(|charge| charge.charge).collect();
        let mut readings = Vec::with_capacity(charges.len());
        let verdict = decide(&plain, &slots, &mut buckets, now, mode, &mut readings);

        if mode == Mode::Apply {
            // What was charged is written down. What was not stays as it was: the refill counts
            // again next time, by the rate of then.
            let refused = verdict == limit::Verdict::Refused;
            for (slot, (key, bucket)) in keys.iter().zip(&buckets).enumerate() {
                let charged = |of: &usize, charge: &limit::Charge| {
                    *of == slot && (!refused || charge.limit.when_over == limit::WhenOver::Charge)
                };
                let mut last = slots.iter().zip(&plain).rev();
                let shard = shard_among(&mut shards, key);
                if let Some((_, charge)) = last.find(|(of, charge)| charged(of, charge)) {
                    shard.put(*key, *bucket, &charge.limit, now);
                } else if let Some(of) = slots.iter().position(|of| *of == slot) {
                    shard.keep(key, bucket, &plain[of].limit, now);
                }
            }
        }
        (verdict, now, Readings::from_vec(readings))
    }
}

impl Shard {
    fn put(&mut self, key: BucketKey, bucket: Bucket, limit: &limit::Limit, now: Timestamp) {
        if bucket.spent == 0 {
            self.buckets.remove(&key);
            return;
        }
        let full_at = full_at(&bucket, limit, now);
        self.buckets.insert(key, Entry { bucket, full_at });
        if self.buckets.len() >= self.sweep_at {
            self.forget_full(now);
        }
    }

    /// Keeps a bucket that was only looked at until it is full: its rate may have been lowered.
    fn keep(&mut self, key: &BucketKey, bucket: &Bucket, limit: &limit::Limit, now: Timestamp) {
        if let Some(entry) = self.buckets.get_mut(key) {
            entry.full_at = entry.full_at.max(full_at(bucket, limit, now));
        }
    }

    fn forget_full(&mut self, now: Timestamp) {
        self.buckets.retain(|_, entry| entry.full_at > now);
        self.sweep_at = (self.buckets.len() * 2).max(FIRST_SWEEP);
        if self.buckets.capacity() > self.sweep_at * 2 {
            self.buckets.shrink_to(self.sweep_at);
        }
    }
}

impl From<limit::Verdict> for Verdict {
    fn from(verdict: limit::Verdict) -> Self {
        match verdict {
            limit::Verdict::Admitted => Self::Admitted,
            limit::Verdict::Refused => Self::Refused,
        }
    }
}

fn full_at(bucket: &Bucket, limit: &limit::Limit, now: Timestamp) -> Timestamp {
    let never = Timestamp::from_micros(u64::MAX);
    bucket
        .until_full(limit, now)
        .map_or(never, |wait| now.plus(wait))
}

/// A charge that is made whether it fits or not.
fn forced(key: BucketKey, limit: limit::Limit, amount: i64) -> Charge {
    let charge = limit::Charge {
        limit,
        amount,
        threshold: None,
        effect: limit::Effect::Record,
    };
    Charge {
        key,
        charge,
        settles: false,
        lease: None,
    }
}

fn shard_of(key: &[u8; 16]) -> usize {
    usize::from(key[15]) % SHARDS
}

/// As [`shard_of`], but with more buckets for a shard the higher its number is: twice as many for the
/// last as for the first.
fn shard_of_bucket(key: &BucketKey) -> usize {
    let [.., high, low] = *key.as_bytes();
    // Of these two bytes as `x` from 0 to 1: x(4 − x)/3, which rises half as fast at its end.
    let x = u64::from(u16::from_be_bytes([high, low]));
    let shard = (x * ((4 << 16) - x) * SHARDS as u64 / 3) >> 32;
    usize::try_from(shard).unwrap_or(0)
}

fn shard_among<'a>(
    shards: &'a mut [(usize, MutexGuard<'_, Shard>)],
    key: &BucketKey,
) -> &'a mut Shard {
    let wanted = shard_of_bucket(key);
    let place = shards.partition_point(|(index, _)| *index < wanted);
    &mut shards[place].1
}

/// A panic while a lock was held leaves whole values behind (all changes are single assignments),
/// so the lock is as good as before.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
