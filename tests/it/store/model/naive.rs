//! What a store should do, said as plainly as possible and without asking the code under test.
//!
//! A bucket is what it owes, as a fraction over the period of its rate as written; nothing is
//! reduced, cached or sharded. An operation works on a copy of everything, and the copy is kept or
//! thrown away.

use std::collections::HashMap;

use tollgate::limit::{Algorithm, Limit, Oversize, WhenOver, ZeroCost};

/// The deepest debt that is told apart.
const BOTTOM: i128 = 4_000_000_000_000_000;

/// Everything a store holds. Time, buckets and reservations go by plain numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Naive {
    pub(super) now: i128,
    pub(super) buckets: HashMap<usize, Bucket>,
    pub(super) reservations: HashMap<usize, Reservation>,
}

/// Empty is full: what nobody has touched owes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bucket {
    /// Whole tokens that are taken.
    pub(super) spent: i128,
    /// What has come back of the next one, as the store tells it: over the reduced denominator.
    pub(super) fraction: i128,
    pub(super) at: i128,
}

#[derive(Clone, Debug)]
pub(super) struct Reservation {
    expires: i128,
    made: i128,
    /// `None` once it has ended.
    charges: Option<Vec<Held>>,
    /// Whether it ended by a report without usage: one with usage still settles it.
    unmeasured: bool,
    /// Whether only its report has come yet.
    reported: bool,
    /// Whether it was released: as if it had never been, but for a second report.
    released: bool,
}

/// How long what ended is remembered, in microseconds.
const REMEMBERED: i128 = 600_000_000;

/// One charge of an admission.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) bucket: usize,
    pub(super) limit: Limit,
    pub(super) cost: i64,
    pub(super) headroom: u64,
    pub(super) effect: Meaning,
    pub(super) held: Held,
}

/// What it means when it does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Enforce,
    Quota,
    Record,
    Shadow,
}

/// What a reservation remembers of a charge.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) bucket: usize,
    pub(super) limit: Limit,
    pub(super) amount: u64,
    pub(super) fixed: u64,
    pub(super) weights: [u32; 4],
    pub(super) missing_gives_back: bool,
}

/// How a reservation ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Release,
    Measured([u64; 4]),
    Missing,
    Total(u64),
    /// Cut short after this much was told.
    AtLeast([u64; 4]),
    /// Not yet: this much so far.
    SoFar([u64; 4]),
}

/// Fits, spent and fraction of each charge.
pub(super) type Told = Vec<(bool, i128, i128)>;

impl Naive {
    /// Admits or not: the verdict's name, and what is told of each charge.
    pub(super) fn admit(
        &mut self,
        asked: &[Asked],
        peek: bool,
        hold: Option<(usize, i128)>,
    ) -> (&'static str, Told) {
        let known = hold.and_then(|(id, _)| self.reservation(id));
        let known = known.filter(|known| known.expires > self.now);
        let reported = known.as_ref().is_some_and(|known| known.reported);
        let released = known.as_ref().is_some_and(|known| known.released);
        if known.is_some() && !reported && !released {
            return ("Repeated", self.apply(asked, true).1);
        }
        let mut asked = asked.to_vec();
        for charge in &mut asked {
            if reported && charge.held.counts_tokens() {
                let fixed = i64::try_from(charge.held.fixed).unwrap();
                (charge.cost, charge.effect) = (fixed, Meaning::Record);
            }
        }
        let (admitted, told) = self.apply(&asked, peek);
        if !admitted {
            return ("Refused", told);
        }
        if let (Some((id, lifetime)), false) = (hold, peek) {
            let charges = asked.iter().zip(&told).map(|(charge, (fits, ..))| {
                let mut held = charge.held;
                if !fits && charge.limit.when_over == WhenOver::Refuse {
                    held.amount = 0;
                }
                held
            });
            let before = known.filter(|known| known.reported);
            let reservation = Reservation {
                expires: match before {
                    Some(_) => self.now + lifetime.min(REMEMBERED),
                    None => self.now + lifetime,
                },
                made: self.now,
                charges: (!reported).then(|| charges.collect()),
                unmeasured: false,
                reported: false,
                released: false,
            };
            self.reservations.insert(id, reservation);
        }
        ("Admitted", told)
    }

    /// Ends a reservation: the outcome's name, and what is told of each charge.
    pub(super) fn end(
        &mut self,
        id: usize,
        lifetime: i128,
        end: End,
        fallback: &[Asked],
    ) -> (&'static str, Told) {
        match self.reservation(id) {
            None if matches!(end, End::SoFar(_)) => ("Unknown", Told::new()),
            None if fallback.is_empty() => ("Unknown", Told::new()),
            None => {
                let reservation = Reservation {
                    expires: self.now + lifetime.min(REMEMBERED),
                    made: self.now,
                    charges: None,
                    unmeasured: false,
                    reported: true,
                    released: false,
                };
                self.reservations.insert(id, reservation);
                let costs = fallback.iter().map(|charge| {
                    let cost = i128::from(charge.cost);
                    (charge.bucket, charge.limit, cost)
                });
                ("Charged", self.record(costs))
            }
            Some(Reservation {
                unmeasured: true, ..
            }) if !matches!(end, End::Measured(_) | End::Total(_)) => ("Already", Told::new()),
            Some(Reservation {
                charges: Some(charges),
                expires,
                made,
                ..
            }) => {
                let outlives = matches!(end, End::SoFar(_) | End::AtLeast(_) | End::Missing);
                let now = self.now;
                let correction = |held: &Held| {
                    let cost = held.cost_after(end) - i128::from(held.amount);
                    let in_windows = held.limit.algorithm != Algorithm::TokenBucket;
                    if in_windows && window(&held.limit, now).0 > made {
                        // Another window than the one that was charged gets nothing back.
                        cost.max(0)
                    } else {
                        cost
                    }
                };
                let after = charges.iter().map(|held| Held {
                    amount: u64::try_from(i128::from(held.amount) + correction(held)).unwrap(),
                    missing_gives_back: held.missing_gives_back && !matches!(end, End::SoFar(_)),
                    ..*held
                });
                let next = Reservation {
                    expires: match end {
                        End::SoFar(_) => self.now + lifetime,
                        _ => self.now + (expires - made).min(REMEMBERED),
                    },
                    made,
                    charges: outlives.then(|| after.collect()),
                    unmeasured: matches!(end, End::AtLeast(_) | End::Missing),
                    reported: false,
                    released: matches!(end, End::Release),
                };
                self.reservations.insert(id, next);
                let costs = charges
                    .iter()
                    .map(|held| (held.bucket, held.limit, correction(held)));
                let outcome = match end {
                    End::SoFar(_) => "Grown",
                    _ => "Settled",
                };
                (outcome, self.record(costs))
            }
            Some(_) => ("Already", Told::new()),
        }
    }

    /// Forgets what is full. That makes no difference, unless time goes back.
    pub(super) fn forget_full(&mut self) {
        self.buckets.retain(|_, bucket| bucket.spent > 0);
    }

    /// Whether a reservation was made under other limits than these.
    pub(super) fn is_outdated(&self, id: usize, limits: &[Limit]) -> bool {
        let charges = self.reservation(id).and_then(|known| known.charges);
        let mut charges = charges.iter().flatten();
        charges.any(|held| held.limit != limits[held.bucket])
    }

    /// A bucket as it would be read now.
    pub(super) fn bucket(&self, bucket: usize, limit: &Limit) -> Bucket {
        let mut read = self.buckets.get(&bucket).copied().unwrap_or_default();
        read.pass(limit, self.now);
        read
    }

    fn apply(&mut self, asked: &[Asked], peek: bool) -> (bool, Told) {
        let mut copy = self.clone();
        let mut told = Told::new();
        let (mut over, mut quotas, mut quotas_over) = (false, 0, 0);
        for charge in asked {
            let before = copy.bucket(charge.bucket, &charge.limit);
            let fits = charge.fits(before.spent);
            if fits || charge.limit.when_over == WhenOver::Charge {
                copy.take(charge.bucket, &charge.limit, i128::from(charge.cost));
            } else {
                copy.take(charge.bucket, &charge.limit, 0);
            }
            let after = copy.bucket(charge.bucket, &charge.limit);
            told.push((fits, after.spent, after.fraction));
            over |= charge.effect == Meaning::Enforce && !fits;
            quotas += i32::from(charge.effect == Meaning::Quota);
            quotas_over += i32::from(charge.effect == Meaning::Quota && !fits);
        }
        let admitted = !over && (quotas == 0 || quotas_over < quotas);
        if admitted && !peek {
            *self = copy;
            return (admitted, told);
        }
        for (charge, told) in asked.iter().zip(&mut told) {
            if !peek && charge.limit.when_over == WhenOver::Charge {
                self.take(charge.bucket, &charge.limit, i128::from(charge.cost));
            }
            let left = self.bucket(charge.bucket, &charge.limit);
            (told.1, told.2) = (left.spent, left.fraction);
        }
        (admitted, told)
    }

    fn record(&mut self, costs: impl Iterator<Item = (usize, Limit, i128)>) -> Told {
        costs
            .map(|(bucket, limit, cost)| {
                self.take(bucket, &limit, cost);
                let after = self.bucket(bucket, &limit);
                (true, after.spent, after.fraction)
            })
            .collect()
    }

    /// Takes from a bucket, whether there is room or not.
    pub(super) fn take(&mut self, bucket: usize, limit: &Limit, cost: i128) {
        let mut taken = self.bucket(bucket, limit);
        taken.spent = (taken.spent + cost).clamp(0, BOTTOM);
        if taken.spent == 0 {
            taken.fraction = 0;
        }
        self.buckets.insert(bucket, taken);
    }

    fn reservation(&self, id: usize) -> Option<Reservation> {
        let known = self.reservations.get(&id)?;
        // What was open until it expired is settled for as long again.
        let forgotten = match known.charges {
            Some(_) if !known.unmeasured => 2 * known.expires - known.made,
            _ => known.expires,
        };
        (forgotten > self.now || known.expires > self.now).then(|| known.clone())
    }
}

impl Bucket {
    fn pass(&mut self, limit: &Limit, now: i128) {
        let period = i128::from(limit.rate.period_micros());
        let amount = i128::from(limit.rate.amount());
        match limit.algorithm {
            Algorithm::CalendarWindow(_) | Algorithm::FixedWindow => {
                let (began, _) = window(limit, now);
                if began > self.at {
                    *self = Self {
                        at: began,
                        ..Self::default()
                    };
                }
            }
            Algorithm::TokenBucket if now > self.at => {
                // Owed, over the period. A fraction that was left at another rate is less than one.
                let part = common_divisor(amount, period);
                let fraction = self.fraction.min(period / part - 1);
                let owed = self.spent * period - fraction * part;
                let owed = (owed - (now - self.at) * amount).max(0);
                self.spent = (owed + period - 1) / period;
                self.fraction = (self.spent * period - owed) / part;
                self.at = now;
            }
            Algorithm::TokenBucket => {}
        }
    }
}

impl Asked {
    fn fits(&self, spent: i128) -> bool {
        self.effect == Meaning::Record || self.has_room(spent)
    }

    fn has_room(&self, spent: i128) -> bool {
        let burst = i128::from(self.limit.burst);
        let cost = i128::from(self.cost);
        let needs = match (cost, self.limit.zero_cost) {
            (0, ZeroCost::NeedsRoom) => 1,
            _ => cost,
        };
        let takes_all = self.limit.oversize == Oversize::WhenFull && cost > 0 && spent == 0;
        cost < 0 || takes_all || burst - spent - needs >= i128::from(self.headroom)
    }

    /// After how many microseconds there would be room; `None` if never.
    pub(super) fn wait(&self, bucket: &Bucket, now: i128) -> Option<i128> {
        // The most that may be spent, found by trying: it lies within the burst.
        if !self.has_room(0) {
            return None;
        }
        let (mut most, mut step) = (0, BOTTOM);
        while step > 0 {
            while most + step <= BOTTOM && self.has_room(most + step) {
                most += step;
            }
            step /= 2;
        }
        let period = i128::from(self.limit.rate.period_micros());
        let amount = i128::from(self.limit.rate.amount());
        if bucket.spent <= most {
            return Some(0);
        }
        match self.limit.algorithm {
            Algorithm::CalendarWindow(_) | Algorithm::FixedWindow => {
                Some(window(&self.limit, now).1 - now)
            }
            Algorithm::TokenBucket if amount == 0 => None,
            Algorithm::TokenBucket => {
                let part = common_divisor(amount, period);
                let fraction = bucket.fraction.min(period / part - 1);
                let owed = (bucket.spent - most) * period - fraction * part;
                Some((owed + amount - 1) / amount)
            }
        }
    }
}

impl Held {
    pub(super) fn counts_tokens(&self) -> bool {
        self.weights != [0; 4]
    }

    fn cost_after(&self, end: End) -> i128 {
        let (amount, fixed) = (i128::from(self.amount), i128::from(self.fixed));
        match end {
            End::Release => 0,
            End::Measured(counts) if self.counts_tokens() => {
                let terms = self.weights.into_iter().zip(counts);
                let thousandths: i128 = terms
                    .map(|(weight, count)| i128::from(weight) * i128::from(count))
                    .sum();
                fixed + (thousandths.min(1 << 53) + 999) / 1000
            }
            End::AtLeast(counts) if self.counts_tokens() && self.missing_gives_back => {
                self.cost_after(End::Measured(counts))
            }
            End::AtLeast(counts) | End::SoFar(counts) => {
                amount.max(self.cost_after(End::Measured(counts)))
            }
            End::Total(total) if self.counts_tokens() => fixed + i128::from(total),
            End::Missing if self.counts_tokens() && self.missing_gives_back => fixed,
            End::Measured(_) | End::Total(_) | End::Missing => amount,
        }
    }
}

/// When the window began that `now` lies in, as far as the limit knows, and when it ends.
fn window(limit: &Limit, now: i128) -> (i128, i128) {
    let Algorithm::CalendarWindow(span) = limit.algorithm else {
        let period = i128::from(limit.rate.period_micros());
        return (now / period * period, (now / period + 1) * period);
    };
    let start = i128::from(span.start().as_micros());
    let end = i128::from(span.end().as_micros());
    let next = i128::from(span.next_micros());
    if now < start {
        (0, start)
    } else if now < end {
        (start, end)
    } else {
        // What comes after the next window begins is not known; the next window has begun.
        let mut next_end = end + next * ((now - end) / next);
        while next_end <= now {
            next_end += next;
        }
        (end, next_end)
    }
}

fn common_divisor(a: i128, b: i128) -> i128 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}
