//! Leases: what one replica took from a bucket in advance, and may grant without asking.
//!
//! A lease is debited like any charge, so whatever is granted from it was counted before. One thing
//! could still let too much pass: the bucket refills while a lease lies unused. It could be full
//! *and* have leases out. So each debit is granted only as far as the bucket still bears it:
//! [`Lease`] knows what was spent right after the debit, and takes off the most that can have come
//! back since. Picture what is spent as a pile that refill takes from below: debits lie on top of
//! each other, none can be granted twice, and what has sunk below the floor is granted no more.
//!
//! What is given back makes a pile lower by more than refill does, which the holders above it do
//! not see. It is harmless while enough lies in the pile that is no lease. So a lease ends after its
//! `ttl`, and goes back only where enough is known to lie there; else it is dropped, and the refill
//! pays for it. `docs/design/leases.md` has the proof.
//!
//! Times here are of two kinds: [`Timestamp`]s of the store, and [`Tick`]s of the replica's own
//! clock, which measures how long ago something was. Whoever calls says what they are.

mod demand;
mod idle;
mod part;
mod used;

use std::time::Duration;

use smallvec::SmallVec;

use self::demand::Demand;
use self::idle::Idle;
use self::part::{Part, ticks};
use self::used::Used;
use super::{Algorithm, Bucket, Charge, Effect, Limit, Timestamp};

/// What a limit says about its leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseTerms {
    /// The most that one replica may hold of one bucket, in what the limit counts; with what it
    /// dropped and may still lie there.
    pub max: u64,
    /// How long a debit may be granted from. What is left by then goes back.
    pub ttl: Duration,
}

impl LeaseTerms {
    /// How long it is by default.
    pub const DEFAULT_TTL: Duration = Duration::from_secs(2);
    /// The shortest and the longest `ttl`.
    pub const TTLS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_mins(1));
    /// `max` is at most a burst divided by this.
    pub const LEAST_PARTS: u64 = 10;
}

/// A point on a replica's own clock, in microseconds since any fixed one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(u64);

impl Tick {
    /// The point `micros` microseconds after the fixed one.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the fixed point.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// This point, `later` after it was.
    #[must_use]
    pub fn plus(self, later: Duration) -> Self {
        Self(self.0.saturating_add(ticks(later)))
    }

    const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// What the store told of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Before the store was asked, by the replica's clock.
    pub sent: Tick,
    /// When it answered, by its own.
    pub now: Timestamp,
    /// What was spent after it did what was asked.
    pub spent: u64,
    /// The fraction that had refilled beyond that, as in [`Bucket::fraction`].
    pub fraction: u64,
}

/// How long after it was sent something arrives at the latest, or not at all.
pub const TRAVEL: Duration = Duration::from_secs(3);

/// How long after its `ttl` a part may still be given back.
const GRACE: Duration = Duration::from_secs(1);

/// For how many replicas with the most that each may hold a bucket has to have room before what is
/// spent alone says that giving back is harmless.
const MANY_REPLICAS: u64 = 64;

/// A renewal leaves at least so many times what it takes.
const SHARE_OF_LEVEL: u64 = 8;

/// Debits that are held side by side: one that is used up, the next, and one that waits to go back.
const MAX_PARTS: usize = 3;

/// What a replica holds of one bucket.
#[derive(Clone, Debug)]
pub struct Lease {
    limit: Limit,
    terms: LeaseTerms,
    parts: SmallVec<[Part; 2]>,
    /// What sank, and was not told yet.
    sunk: u64,
    idle: Idle,
    seen: Option<Seen>,
    used: Used,
    demand: Demand,
    /// Whether a renewal is under way.
    asking: bool,
    not_before: Tick,
}

/// What became of what is held no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Returned {
    /// To be given back to the bucket.
    pub refund: u64,
    /// Not to be given back: it sank, its window ends, or others could be harmed.
    pub dropped: u64,
}

impl Lease {
    /// Nothing held yet.
    pub fn new(limit: Limit, terms: LeaseTerms, now: Tick) -> Self {
        Self {
            limit,
            terms,
            parts: SmallVec::new(),
            sunk: 0,
            idle: Idle::default(),
            seen: None,
            used: Used::new(now),
            demand: Demand::new(now),
            asking: false,
            not_before: Tick::default(),
        }
    }

    /// What it is held to. A lease of other numbers is another lease.
    pub const fn limit(&self) -> &Limit {
        &self.limit
    }

    /// How much it may hold, and for how long.
    pub const fn terms(&self) -> &LeaseTerms {
        &self.terms
    }

    /// Whether it was made for these numbers.
    pub fn is_of(&self, limit: &Limit, terms: &LeaseTerms) -> bool {
        self.limit == *limit && self.terms == *terms
    }

    /// What may be granted now.
    pub fn usable(&self, now: Tick) -> u64 {
        let parts = self.parts.iter();
        parts.fold(0, |sum: u64, part| {
            sum.saturating_add(part.grantable(&self.limit, now))
        })
    }

    /// What is held, whether it may be granted or not.
    pub fn held(&self) -> u64 {
        let parts = self.parts.iter();
        parts.fold(0, |sum: u64, part| sum.saturating_add(part.left))
    }

    /// What would go back now, if all were given back.
    pub fn refundable(&mut self, now: Tick) -> u64 {
        if self.parts.is_empty() || !self.is_harmless(now) {
            return 0;
        }
        let parts = self.parts.iter();
        parts.fold(0, |sum: u64, part| {
            sum.saturating_add(self.refund_of(part, now))
        })
    }

    /// Notes that somebody asks for `amount`, whether it is granted here or by the store.
    pub fn ask(&mut self, amount: u64, now: Tick) {
        self.demand.add(amount, now, self.terms.ttl);
    }

    /// Takes `amount` for a request that is let in; `false`: there is not enough, and nothing was
    /// taken.
    pub fn grant(&mut self, amount: u64, now: Tick) -> bool {
        if self.usable(now) < amount {
            return false;
        }
        let mut missing = amount;
        // The oldest first: it sinks first.
        for part in &mut self.parts {
            let grantable = part.grantable(&self.limit, now);
            if grantable == 0 {
                continue;
            }
            // What sank is granted no more: it would be granted twice, here and after the refill.
            let sunk = part.left.saturating_sub(grantable);
            if sunk > 0 {
                self.sunk = self.sunk.saturating_add(sunk);
                self.idle.add(sunk, part.gone_by(&self.limit), now);
            }
            let taken = grantable.min(missing);
            part.left = grantable.saturating_sub(taken);
            missing = missing.saturating_sub(taken);
        }
        self.parts.retain(|part| part.left > 0);
        self.used.add(amount, now);
        true
    }

    /// Notes what the store told after it let a request of this replica in for `admitted`, or
    /// refused it (zero).
    pub fn see(&mut self, seen: Seen, admitted: u64) {
        // Of what was sent at one moment, that which lies higher in the pile came later.
        let order = |seen: &Seen| (seen.sent, seen.spent);
        if self.seen.is_none_or(|known| order(&known) <= order(&seen)) {
            self.seen = Some(seen);
        }
        self.used.add(admitted, seen.sent);
    }

    /// The bucket as far as it is known here: what the store told last, refilled since, without
    /// what is held here; and the store's time, if it ever told.
    pub fn reading(&self, now: Tick) -> Option<(Timestamp, Bucket)> {
        let seen = self.seen?;
        let elapsed = Duration::from_micros(now.since(seen.sent));
        let store_now = seen.now.plus(elapsed);
        let at = |time| {
            let window = self.limit.window(time);
            window.map_or(time, |window| window.start)
        };
        let mut bucket = Bucket {
            spent: seen.spent,
            fraction: seen.fraction,
            at: at(seen.now),
        };
        bucket.refill(&self.limit, store_now);
        bucket.spent = bucket.spent.saturating_sub(self.usable(now));
        if bucket.spent == 0 {
            bucket.fraction = 0;
        }
        Some((store_now, bucket))
    }

    /// How much to take next, if it is time to: less than half is left of what is asked for in
    /// half a `ttl`. Whoever hears of it asks the store for [`Self::renewal`], and comes back with
    /// [`Self::taken`] or [`Self::not_taken`].
    ///
    /// Requests that ask for more at once than is worth a lease get none, and neither does a bucket
    /// that is nearly empty: what is left of it is for whoever comes first.
    pub fn wants(&mut self, amount: u64, now: Tick) -> Option<u64> {
        if self.asking || now < self.not_before || self.parts.len() >= MAX_PARTS {
            return None;
        }
        let wanted = self.demand.in_half(now, self.terms.ttl).min(self.terms.max);
        let usable = self.usable(now);
        if usable.saturating_mul(2) >= wanted {
            return None;
        }
        let (_, bucket) = self.reading(now)?;
        let level = u64::try_from(bucket.level(&self.limit)).unwrap_or(0);
        let share = level.saturating_sub(usable).checked_div(SHARE_OF_LEVEL);
        // What is held beside it counts too, until it has gone back; and what was dropped, until the
        // refill has come to it.
        let idle = self.idle.at_most(now);
        let room = self
            .terms
            .max
            .saturating_sub(self.held())
            .saturating_sub(idle);
        let want = wanted
            .saturating_sub(usable)
            .min(share.unwrap_or(0))
            .min(room);
        if want < amount.saturating_mul(2) {
            return None;
        }
        self.asking = true;
        Some(want)
    }

    /// The charge that takes `want`; it fits while enough is left beside it.
    pub fn renewal(&self, want: u64) -> Charge {
        Charge {
            limit: self.limit,
            amount: i64::try_from(want).unwrap_or(i64::MAX),
            threshold: self
                .limit
                .burst
                .checked_sub(want.saturating_mul(SHARE_OF_LEVEL)),
            effect: Effect::Enforce,
        }
    }

    /// A renewal was charged.
    pub fn taken(&mut self, amount: u64, seen: Seen) {
        self.asking = false;
        self.see(seen, 0);
        let part = Part::new(amount, seen, &self.limit, &self.terms);
        self.parts.push(part);
    }

    /// A renewal was refused, or nobody knows: the store decides for a while.
    pub fn not_taken(&mut self, seen: Option<Seen>, now: Tick) {
        self.asking = false;
        self.not_before = now.plus(self.terms.ttl.checked_div(4).unwrap_or_default());
        if let Some(seen) = seen {
            self.see(seen, 0);
        }
    }

    /// Gives up what may be granted no more.
    pub fn expire(&mut self, now: Tick) -> Returned {
        self.give_up(now, |part| now >= part.until)
    }

    /// Gives up all that is held.
    pub fn give_back(&mut self, now: Tick) -> Returned {
        self.give_up(now, |_| true)
    }

    /// Gives up all that is held if it may go back; else it stays.
    pub fn give_back_if_welcome(&mut self, now: Tick) -> Returned {
        if self.is_harmless(now) {
            self.give_back(now)
        } else {
            Returned::default()
        }
    }

    /// Whether a renewal is under way.
    pub const fn is_asking(&self) -> bool {
        self.asking
    }

    /// Whether nothing is held, nothing lies there, nothing is under way, and nobody asked lately.
    pub fn is_idle(&mut self, now: Tick) -> bool {
        !self.asking
            && self.parts.is_empty()
            && self.sunk == 0
            && self.idle.at_most(now) == 0
            && self.demand.in_half(now, self.terms.ttl) == 0
    }

    fn give_up(&mut self, now: Tick, which: impl Fn(&Part) -> bool) -> Returned {
        let mut returned = Returned {
            refund: 0,
            dropped: std::mem::take(&mut self.sunk),
        };
        let harmless = self.is_harmless(now);
        let mut lies_there = 0_u64;
        let mut parts = std::mem::take(&mut self.parts);
        parts.retain(|part| {
            if !which(part) {
                return true;
            }
            let refund = if harmless {
                self.refund_of(part, now)
            } else {
                0
            };
            returned.refund = returned.refund.saturating_add(refund);
            let dropped = part.left.saturating_sub(refund);
            returned.dropped = returned.dropped.saturating_add(dropped);
            self.idle.add(dropped, part.gone_by(&self.limit), now);
            let bearable = part.bearable(&self.limit, now);
            lies_there = lies_there.saturating_add(bearable.saturating_sub(refund));
            false
        });
        self.parts = parts;
        // What is dropped and did not sink lies in the pile as if it had been used.
        self.used.add(lies_there, now);
        returned
    }

    /// What of a part may go back, where that harms nobody: it comes in time.
    fn refund_of(&self, part: &Part, now: Tick) -> u64 {
        let oldest = self.terms.ttl.saturating_add(GRACE);
        if now < part.seen.sent.plus(oldest) && part.may_travel(&self.limit, now) {
            part.bearable(&self.limit, now)
        } else {
            0
        }
    }

    /// Whether others are not harmed by what is given back now: more lies in the pile that is no
    /// lease than can refill until it has arrived, and until all leases have ended that are out
    /// then. Either this replica put it there, or so much is spent that it cannot all be leases.
    fn is_harmless(&mut self, now: Tick) -> bool {
        if self.limit.algorithm != Algorithm::TokenBucket {
            // Nothing comes back before the window ends, and a part does not outlive that.
            return true;
        }
        let until_all_end = self.terms.ttl.saturating_add(GRACE).saturating_add(TRAVEL);
        let needed = part::most_refilled(&self.limit, 0, ticks(until_all_end)).saturating_add(1);
        if self.used.at_least(&self.limit, now) >= needed {
            return true;
        }
        let leases = self.terms.max.saturating_mul(MANY_REPLICAS);
        // No more than can be spent: a quarter is left over for what refills meanwhile.
        let most = self
            .limit
            .burst
            .saturating_sub(self.limit.burst.div_ceil(4));
        let recent = self.terms.ttl.saturating_mul(2);
        self.seen.is_some_and(|seen| {
            let since = now.since(seen.sent);
            let refilled = part::most_refilled(&self.limit, seen.fraction, since);
            since <= ticks(recent)
                && seen.spent.saturating_sub(refilled) >= leases.min(most).saturating_add(needed)
        })
    }
}

#[cfg(test)]
mod tests;
