//! Leases in front of a shared store: requests that are let in without asking it.
//!
//! What a lease may grant, and when it goes back, [`Lease`] decides. This keeps the leases of a
//! replica, finds those that a request needs, and says what the store has to be asked: renewals and
//! refunds. Whoever owns it does the asking ([`super::redis`]).
//!
//! The leases are spread over many locks by their buckets' keys, so that requests share one only
//! where they share a bucket (or a sixty-fourth of all). Their number is bounded; a bucket that
//! finds no place has no lease, and every request for it goes to the store.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::{Admission, Charge, Decision, Readings, Verdict};
use crate::limit::{self, Effect, Lease, Limit, Mode, Reading, Returned, Seen, Tick, WhenOver};
use crate::rules::BucketKey;

/// How many locks there are.
const SHARDS: usize = 64;

/// The most leases behind one lock.
const MOST: usize = 2048;

/// What happened to leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseEvent {
    /// So much was dropped: the refill had come, or pays for it.
    Dropped(u64),
    /// The store did not answer a renewal. What it charged, if it did, is lost until it refills.
    Failed,
    /// So much went back to the store.
    GivenBack(u64),
    /// A request was let in without asking the store.
    Granted,
    /// The store refused a renewal: too little is left.
    Refused,
    /// So much was taken from the store in advance.
    Taken(u64),
}

/// Who is told of [`LeaseEvent`]s.
pub type OnLease = Arc<dyn Fn(LeaseEvent) + Send + Sync>;

/// The leases of this replica.
pub(super) struct Leases {
    shards: Box<[Mutex<Shard>]>,
    count: AtomicUsize,
    closed: AtomicBool,
    on_event: Option<OnLease>,
}

type Shard = HashMap<BucketKey, Lease, foldhash::fast::RandomState>;

/// A charge that takes a lease's next part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Renewal {
    pub(super) charge: Charge,
}

/// What became of a request here.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// It is let in; else the store has to decide.
    pub(super) granted: Option<Decision>,
    /// Renewals that are due.
    pub(super) renewals: SmallVec<[Renewal; 1]>,
    /// What was taken by other numbers than those of now; goes back before the store decides.
    pub(super) refunds: Vec<Charge>,
}

/// What the store's answer to a request means for the leases.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Renewals that are due.
    pub(super) renewals: SmallVec<[Renewal; 1]>,
    /// What goes back, because the request was refused while this replica held something: when it
    /// is back, the request may fit.
    pub(super) refunds: Vec<Charge>,
}

impl Leases {
    pub(super) fn new(on_event: Option<OnLease>) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            count: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            on_event,
        }
    }

    /// Whether any of its limits has leases. The others' requests have nothing to do here.
    pub(super) fn concern(admission: &Admission) -> bool {
        admission.mode == Mode::Apply
            && admission
                .charges
                .iter()
                .any(|charge| charge.lease.is_some())
    }

    /// Lets a request in, if all that it needs is leased here.
    pub(super) fn ask(&self, admission: &Admission, now: Tick) -> Asked {
        let mut asked = Asked::default();
        if !may_be_leased(admission) || self.closed.load(Ordering::Relaxed) {
            return asked;
        }
        let mut shards = self.lock_all(&admission.charges);
        let mut enough = true;
        for charge in &admission.charges {
            let shard = shards.of(charge.key);
            let lease = shard.and_then(|shard| self.lease(shard, charge, now, &mut asked.refunds));
            enough &= lease.is_some_and(|lease| {
                lease.ask(amount(charge), now);
                lease.usable(now) >= amount(charge)
            });
        }
        if !enough {
            return asked;
        }
        let mut readings = Readings::new();
        let mut store_now = limit::Timestamp::default();
        for charge in &admission.charges {
            let shard = shards.of(charge.key);
            let Some(lease) = shard.and_then(|shard| shard.get_mut(&charge.key)) else {
                continue;
            };
            // There is enough: it was looked at above, under the same locks.
            lease.grant(amount(charge), now);
            let (told, bucket) = lease.reading(now).unwrap_or_default();
            store_now = store_now.max(told);
            readings.push(Reading { fits: true, bucket });
            asked.renewals.extend(renewal(lease, charge, now));
        }
        drop(shards);
        self.tell(LeaseEvent::Granted);
        asked.granted = Some(Decision {
            verdict: Verdict::Admitted,
            now: store_now,
            readings,
        });
        asked
    }

    /// Hears what the store decided over a request that was sent at `sent`.
    pub(super) fn hear(
        &self,
        admission: &Admission,
        decision: &Decision,
        sent: Tick,
        now: Tick,
    ) -> Heard {
        let mut heard = Heard::default();
        let countable = may_be_leased(admission) && !self.closed.load(Ordering::Relaxed);
        for (charge, reading) in admission.charges.iter().zip(&decision.readings) {
            let mut shard = self.lock(charge.key);
            let lease = shard.get_mut(&charge.key);
            // One by other numbers came meanwhile: what it needs is asked for by its own requests.
            let Some(lease) = lease.filter(|lease| is_of(lease, charge)) else {
                continue;
            };
            let stays = admission
                .hold
                .as_ref()
                .is_none_or(|hold| hold.only_tells_retries);
            let admitted = if decision.verdict == Verdict::Admitted && reading.fits && stays {
                u64::try_from(charge.charge.amount).unwrap_or(0)
            } else {
                0
            };
            lease.see(seen(decision.now, reading, sent), admitted);
            if countable {
                heard.renewals.extend(renewal(lease, charge, now));
            }
        }
        if decision.verdict == Verdict::Refused && self.would_help(admission, decision, now) {
            for (charge, _) in refused(admission, decision) {
                let mut shard = self.lock(charge.key);
                let lease = shard.get_mut(&charge.key);
                let Some(lease) = lease.filter(|lease| is_of(lease, charge)) else {
                    continue;
                };
                let returned = lease.give_back_if_welcome(now);
                self.count(returned);
                heard
                    .refunds
                    .extend(refund(charge.key, *lease.limit(), returned));
            }
        }
        heard
    }

    /// Whether a request that the store refused would fit if all that is held here went back.
    fn would_help(&self, admission: &Admission, decision: &Decision, now: Tick) -> bool {
        let mut any = false;
        for (charge, reading) in refused(admission, decision) {
            let mut shard = self.lock(charge.key);
            let lease = shard.get_mut(&charge.key);
            let lease = lease.filter(|lease| is_of(lease, charge));
            let returned = lease.map_or(0, |lease| lease.refundable(now));
            let spent = reading.bucket.spent.saturating_sub(returned);
            let threshold = charge.charge.threshold;
            if threshold.is_none_or(|threshold| spent > threshold) {
                return false;
            }
            any |= returned > 0;
        }
        any
    }

    /// Hears that the store charged a renewal, or refused it.
    pub(super) fn renewed(&self, renewal: &Renewal, decision: &Decision, sent: Tick, now: Tick) {
        let charge = &renewal.charge;
        let Some(reading) = decision.readings.first() else {
            return;
        };
        let seen = seen(decision.now, reading, sent);
        let mut shard = self.lock(charge.key);
        let lease = shard.get_mut(&charge.key);
        let known = lease.filter(|lease| is_of(lease, charge));
        if decision.verdict != Verdict::Admitted {
            if let Some(lease) = known {
                lease.not_taken(Some(seen), now);
            }
            drop(shard);
            self.tell(LeaseEvent::Refused);
            return;
        }
        self.tell(LeaseEvent::Taken(amount(charge)));
        // It waits for this, whatever else happened to it.
        if let Some(lease) = known {
            lease.taken(amount(charge), seen);
        }
    }

    /// Hears that nobody knows what became of a renewal.
    pub(super) fn not_renewed(&self, renewal: &Renewal, now: Tick) {
        let charge = &renewal.charge;
        let mut shard = self.lock(charge.key);
        if let Some(lease) = shard.get_mut(&charge.key)
            && is_of(lease, charge)
        {
            lease.not_taken(None, now);
        }
        drop(shard);
        self.tell(LeaseEvent::Failed);
    }

    /// What goes back by now. Leases that nobody needs are forgotten.
    pub(super) fn expire(&self, now: Tick) -> Vec<Charge> {
        self.each(|lease| (lease.expire(now), !lease.is_idle(now)))
    }

    /// Gives up all leases, and takes no more. Those for which a renewal is under way stay until it
    /// came: then this has to be done again.
    pub(super) fn close(&self, now: Tick) -> Vec<Charge> {
        self.closed.store(true, Ordering::Relaxed);
        self.each(|lease| (lease.give_back(now), lease.is_asking()))
    }

    /// By how much less may be spent of a bucket than the store told, if this replica gives back what
    /// it holds.
    pub(super) fn may_return(&self, key: BucketKey, now: Tick) -> u64 {
        if self.count_leases() == 0 {
            return 0;
        }
        match self.lock(key).get_mut(&key) {
            // Nobody knows yet what comes.
            Some(lease) if lease.is_asking() => u64::MAX,
            Some(lease) => lease.refundable(now),
            None => 0,
        }
    }

    /// How many buckets are looked after.
    pub(super) fn count_leases(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Does something to every lease, and keeps those that it says to keep; returns what goes back.
    fn each(&self, mut what: impl FnMut(&mut Lease) -> (Returned, bool)) -> Vec<Charge> {
        let mut refunds = Vec::new();
        for shard in &self.shards {
            let mut shard = lock(shard);
            let before = shard.len();
            shard.retain(|key, lease| {
                let (returned, keep) = what(lease);
                self.count(returned);
                refunds.extend(refund(*key, *lease.limit(), returned));
                keep
            });
            let forgotten = before.saturating_sub(shard.len());
            drop(shard);
            self.count.fetch_sub(forgotten, Ordering::Relaxed);
        }
        refunds
    }

    /// The lease for a charge, made anew where there is none, or one by other numbers: what that
    /// one held goes back.
    fn lease<'s>(
        &self,
        shard: &'s mut Shard,
        charge: &Charge,
        now: Tick,
        refunds: &mut Vec<Charge>,
    ) -> Option<&'s mut Lease> {
        let terms = charge.lease?;
        let limit = charge.charge.limit;
        let full = shard.len() >= MOST;
        match shard.entry(charge.key) {
            hashbrown::hash_map::Entry::Occupied(known) => {
                let lease = known.into_mut();
                if !lease.is_of(&limit, &terms) {
                    let returned = lease.give_back(now);
                    self.count(returned);
                    refunds.extend(refund(charge.key, *lease.limit(), returned));
                    if lease.is_asking() {
                        // What comes by the old numbers has to go back by them.
                        return None;
                    }
                    *lease = Lease::new(limit, terms, now);
                }
                Some(lease)
            }
            hashbrown::hash_map::Entry::Vacant(_) if full => None,
            hashbrown::hash_map::Entry::Vacant(place) => {
                self.count.fetch_add(1, Ordering::Relaxed);
                Some(place.insert(Lease::new(limit, terms, now)))
            }
        }
    }

    fn lock(&self, key: BucketKey) -> MutexGuard<'_, Shard> {
        lock(&self.shards[shard_of(key)])
    }

    /// The locks of all these buckets, always in the same order, so that nobody waits for somebody
    /// who waits for them.
    fn lock_all(&self, charges: &[Charge]) -> Locked<'_> {
        let mut indexes: SmallVec<[usize; 4]> =
            charges.iter().map(|charge| shard_of(charge.key)).collect();
        indexes.sort_unstable();
        indexes.dedup();
        let shards = indexes.into_iter();
        Locked(
            shards
                .map(|index| (index, lock(&self.shards[index])))
                .collect(),
        )
    }

    fn count(&self, returned: Returned) {
        if returned.refund > 0 {
            self.tell(LeaseEvent::GivenBack(returned.refund));
        }
        if returned.dropped > 0 {
            self.tell(LeaseEvent::Dropped(returned.dropped));
        }
    }

    fn tell(&self, event: LeaseEvent) {
        if let Some(on_event) = &self.on_event {
            on_event(event);
        }
    }
}

impl std::fmt::Debug for Leases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leases")
            .field("count", &self.count)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

/// The shards that a request needs.
struct Locked<'l>(SmallVec<[(usize, MutexGuard<'l, Shard>); 4]>);

impl Locked<'_> {
    fn of(&mut self, key: BucketKey) -> Option<&mut Shard> {
        let index = shard_of(key);
        let mut shards = self.0.iter_mut();
        shards
            .find(|(known, _)| *known == index)
            .map(|(_, shard)| &mut **shard)
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keys are hashes: any of their bytes will do.
fn shard_of(key: BucketKey) -> usize {
    usize::from(key.as_bytes()[0]) % SHARDS
}

/// Whether a request may be let in here: it takes something from buckets that all have leases, each
/// once, as anybody may, and nothing of it is changed later. That a retry of it would be known is
/// given up.
fn may_be_leased(admission: &Admission) -> bool {
    let charges = &admission.charges;
    let plain = admission.mode == Mode::Apply
        && admission
            .hold
            .as_ref()
            .is_none_or(|hold| hold.only_tells_retries);
    plain
        && !charges.is_empty()
        && charges.iter().enumerate().all(|(index, charge)| {
            let limit = &charge.charge.limit;
            let amount = amount(charge);
            charge.lease.is_some()
                && amount > 0
                && !charge.settles
                && charge.charge.effect == Effect::Enforce
                && limit.when_over == WhenOver::Refuse
                && charge.charge.threshold == limit.burst.checked_sub(amount)
                && charges
                    .iter()
                    .take(index)
                    .all(|before| before.key != charge.key)
        })
}

/// The enforced charges of a refused request that did not fit.
fn refused<'a>(
    admission: &'a Admission,
    decision: &'a Decision,
) -> impl Iterator<Item = (&'a Charge, &'a Reading)> {
    let charges = admission.charges.iter().zip(&decision.readings);
    charges.filter(|(charge, reading)| charge.charge.effect == Effect::Enforce && !reading.fits)
}

/// What a charge takes; nothing, if it gives back.
fn amount(charge: &Charge) -> u64 {
    u64::try_from(charge.charge.amount).unwrap_or(0)
}

/// Whether a lease was made for the numbers of a charge.
fn is_of(lease: &Lease, charge: &Charge) -> bool {
    let terms = charge.lease;
    terms.is_some_and(|terms| lease.is_of(&charge.charge.limit, &terms))
}

fn renewal(lease: &mut Lease, charge: &Charge, now: Tick) -> Option<Renewal> {
    let want = lease.wants(amount(charge), now)?;
    Some(Renewal {
        charge: Charge {
            charge: lease.renewal(want),
            lease: Some(*lease.terms()),
            ..*charge
        },
    })
}

/// The charge that gives something back.
fn refund(key: BucketKey, limit: Limit, returned: Returned) -> Option<Charge> {
    let amount = i64::try_from(returned.refund).ok()?;
    (amount > 0).then(|| Charge {
        key,
        charge: limit::Charge {
            limit,
            amount: amount.saturating_neg(),
            threshold: Some(u64::MAX),
            effect: Effect::Record,
        },
        settles: false,
        lease: None,
    })
}

fn seen(now: limit::Timestamp, reading: &Reading, sent: Tick) -> Seen {
    Seen {
        sent,
        now,
        spent: reading.bucket.spent,
        fraction: reading.bucket.fraction,
    }
}

#[cfg(test)]
mod tests;
