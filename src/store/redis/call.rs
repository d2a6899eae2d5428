//! A call of the script: operations in, keys and arguments out.

use std::fmt::Write as _;

use hashbrown::HashMap;

use super::codec::{put_count, put_number, put_signed};
use super::record;
use super::script::{Operation, buckets_key, holds_prefix, open_holds_key};
use crate::limit::{self, Algorithm, Effect, Limit, Mode, Settlement, Timestamp, Usage};
use crate::rules::BucketKey;
use crate::store::{Admission, Charge, Ending, HoldKey};

/// The most distinct buckets in one call: Lua's stack holds 8,000 values, and each is written with
/// its state.
pub(super) const MAX_KEYS: usize = 3000;

/// A call being put together. Reused from call to call, so that its tables keep their memory.
///
/// Admissions of one charge that leave no reservation are most of what a busy service asks, and
/// have a part of the call to themselves, sorted by what they charge and then by bucket: the script
/// does with a few calculations what it needs tables for elsewhere, and what many have in common is
/// told once.
#[derive(Debug, Default)]
pub(super) struct Call {
    plain: Vec<PlainCharge>,
    plain_kinds: HashMap<limit::Charge, PlainKind, foldhash::quality::RandomState>,
    plain_buckets: HashMap<BucketKey, (PlainBucket, Limit), foldhash::quality::RandomState>,
    plain_bytes: Vec<u8>,
    name_bytes: Vec<u8>,
    operations: usize,
    buckets: HashMap<BucketKey, usize, foldhash::quality::RandomState>,
    bucket_names: Vec<BucketKey>,
    /// The limit that each of these is held to first; 0 where that is for Redis to say.
    first_limits: Vec<usize>,
    has_endings: bool,
    holds: HashMap<HoldKey, usize, foldhash::quality::RandomState>,
    hold_names: Vec<HoldKey>,
    limits: HashMap<Limit, usize, foldhash::quality::RandomState>,
    limit_bytes: Vec<u8>,
    operation_bytes: Vec<u8>,
}

#[derive(Debug)]
struct PlainCharge {
    bucket: PlainBucket,
    kind: PlainKind,
    operation: usize,
    key: BucketKey,
    charge: limit::Charge,
}

/// All plain charges that differ in their bucket only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PlainKind(usize);

/// A bucket of the plain part. Sorted by the kind of its first charge, so that buckets with the same
/// stand together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PlainBucket {
    kind: PlainKind,
    order: usize,
}

/// Charges of one kind: so many on each of so many buckets.
#[derive(Clone, Copy, Debug)]
struct Group<'c> {
    charge: &'c PlainCharge,
    buckets: usize,
    times: usize,
    /// It goes on with the last bucket of the group before it.
    goes_on: bool,
    /// The next group goes on with its bucket.
    more: bool,
}

/// Where in the answer to a call each operation's is: first the plain ones, bucket by bucket. All
/// others follow, in their own order.
#[derive(Debug, Default)]
pub(super) struct Places(pub(super) Vec<Place>);

/// A plain operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Which.
    pub(super) operation: usize,
    /// Whether it is the first on its bucket.
    pub(super) first: bool,
}

impl Group<'_> {
    /// Whether `next` is the same on another bucket.
    fn takes(&self, next: &Group<'_>) -> bool {
        let alone = |group: &Group<'_>| !group.goes_on && !group.more;
        let same = |group: &Group<'_>| (group.charge.kind, group.times);
        alone(self) && alone(next) && same(self) == same(next)
    }

    /// Whether it is told in short: what most are, with nothing that needs more words.
    fn is_short(&self) -> bool {
        let limit::Charge { limit, effect, .. } = &self.charge.charge;
        let once = self.times == 1 && !self.goes_on && !self.more;
        once && limit.algorithm == Algorithm::TokenBucket && *effect == Effect::Enforce
    }

    fn write(&self, out: &mut Vec<u8>) {
        let limit::Charge { limit, effect, .. } = &self.charge.charge;
        let [numerator, denominator, period] = record::limit_times(limit);
        out.push(record::limit_flags(limit) | if self.is_short() { 128 } else { 0 });
        put_count(out, self.buckets);
        put_number(out, numerator);
        put_number(out, denominator);
        put_amounts(out, &self.charge.charge);
        if !self.is_short() {
            put_number(out, period);
            put_count(out, self.times);
            out.push(effect_byte(*effect) | if self.more { 128 } else { 0 });
        }
    }
}

impl Call {
    /// Empties it.
    pub(super) fn clear(&mut self) {
        self.plain.clear();
        self.plain_kinds.clear();
        self.plain_buckets.clear();
        self.plain_bytes.clear();
        self.name_bytes.clear();
        self.operations = 0;
        self.buckets.clear();
        self.bucket_names.clear();
        self.first_limits.clear();
        self.has_endings = false;
        self.holds.clear();
        self.hold_names.clear();
        self.limits.clear();
        self.limit_bytes.clear();
        self.operation_bytes.clear();
    }

    /// Adds an operation.
    pub(super) fn push(&mut self, operation: &Operation) {
        let index = self.operations;
        self.operations += 1;
        if let Operation::Admit(admission) = operation
            && let Some(charge) = plain_charge(admission)
            && self.push_plain(index, charge)
        {
            return;
        }
        match operation {
            Operation::Admit(admission) => self.push_admission(admission),
            Operation::End(ending) => self.push_ending(ending),
            Operation::Withdraw(key) => self.push_end(*key, 0, (4, [0; 4]), &[]),
        }
    }

    /// The keys and arguments, written through `argument`; first the number of keys. Once for a call.
    pub(super) fn arguments(
        &mut self,
        prefix: &str,
        time: Option<Timestamp>,
        mut argument: impl FnMut(&[u8]),
    ) -> Places {
        let places = self.write_plain();
        argument((self.hold_names.len() + 2).to_string().as_bytes());
        argument(buckets_key(prefix).as_bytes());
        argument(open_holds_key(prefix).as_bytes());
        let mut name = holds_prefix(prefix);
        let prefix_length = name.len();
        for key in &self.hold_names {
            name.truncate(prefix_length);
            write!(name, "{key}").unwrap_or_default(); // Writing to a string cannot fail.
            argument(name.as_bytes());
        }

        let mut header =
            Vec::with_capacity(6 + self.limit_bytes.len() + 2 * self.first_limits.len());
        put_count(&mut header, self.plain_buckets.len());
        put_count(&mut header, self.bucket_names.len());
        put_count(&mut header, self.limits.len());
        header.extend_from_slice(&self.limit_bytes);
        for limit in &self.first_limits {
            put_count(&mut header, *limit);
        }
        argument(&header);
        argument(&self.plain_bytes);
        argument(&self.operation_bytes);
        match time {
            Some(time) => argument(time.as_micros().to_string().as_bytes()),
            None => argument(b""),
        }
        for key in &self.bucket_names {
            self.name_bytes.extend_from_slice(key.as_bytes());
        }
        argument(&self.name_bytes);
        places
    }

    /// Writes the plain charges, in groups, and the names of their buckets.
    fn write_plain(&mut self) -> Places {
        self.plain.sort_by_key(|charge| charge.bucket);
        let mut places = Vec::with_capacity(self.plain.len());
        let mut last: Option<Group<'_>> = None;
        for bucket in self.plain.chunk_by(|one, next| one.bucket == next.bucket) {
            for (index, charge) in bucket.iter().enumerate() {
                let first = index == 0;
                if first {
                    self.name_bytes.extend_from_slice(charge.key.as_bytes());
                }
                places.push(Place {
                    operation: charge.operation,
                    first,
                });
            }
            let mut runs = bucket
                .chunk_by(|one, next| one.kind == next.kind)
                .peekable();
            let mut goes_on = false;
            while let Some(run) = runs.next() {
                let Some(charge) = run.first() else {
                    continue;
                };
                let group = Group {
                    charge,
                    buckets: 1,
                    times: run.len(),
                    goes_on,
                    more: runs.peek().is_some(),
                };
                goes_on = true;
                match &mut last {
                    Some(last) if last.takes(&group) => last.buckets += 1,
                    last => {
                        if let Some(done) = last.replace(group) {
                            done.write(&mut self.plain_bytes);
                        }
                    }
                }
            }
        }
        if let Some(done) = last {
            done.write(&mut self.plain_bytes);
        }
        Places(places)
    }

    /// Adds a plain charge, unless its bucket is held to another limit in this call: then it needs
    /// more care.
    fn push_plain(&mut self, operation: usize, charge: &Charge) -> bool {
        let next = PlainKind(self.plain_kinds.len());
        let kind = *self.plain_kinds.entry(charge.charge).or_insert(next);
        let limit = charge.charge.limit;
        let order = self.plain_buckets.len();
        let (bucket, held_to) = *self
            .plain_buckets
            .entry(charge.key)
            .or_insert((PlainBucket { kind, order }, limit));
        let same = held_to == limit;
        if same {
            self.plain.push(PlainCharge {
                bucket,
                kind,
                operation,
                key: charge.key,
                charge: charge.charge,
            });
        }
        same
    }

    fn limit_slot(&mut self, limit: Limit) -> usize {
        let next = self.limits.len() + 1;
        let bytes = &mut self.limit_bytes;
        *self.limits.entry(limit).or_insert_with(|| {
            put_limit(bytes, &limit);
            next
        })
    }

    fn push_admission(&mut self, admission: &Admission) {
        let mut flags = 0;
        if admission.mode == Mode::Peek {
            flags |= 1;
        }
        if let Some(hold) = &admission.hold {
            flags |= 2;
            flags |= if hold.fresh { 4 } else { 0 };
            flags |= if hold.only_tells_retries { 8 } else { 0 };
        }
        if are_distinct(&admission.charges) {
            flags |= 16;
        }
        self.operation_bytes.extend_from_slice(&[1, flags]);
        self.push_charges(&admission.charges);
        if let Some(hold) = &admission.hold {
            let slot = self.hold_slot(hold.key);
            put_count(&mut self.operation_bytes, slot);
            put_number(&mut self.operation_bytes, micros(hold.lifetime));
            let length_at = self.operation_bytes.len();
            self.operation_bytes.extend_from_slice(&[0; 4]);
            record::encode(&hold.record, &mut self.operation_bytes);
            let length = self.operation_bytes.len() - length_at - 4;
            let length = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
            self.operation_bytes[length_at..length_at + 4].copy_from_slice(&length);
        }
    }

    fn push_ending(&mut self, ending: &Ending) {
        let settlement = match ending.settlement {
            Settlement::Release => (0, [0; 4]),
            Settlement::Settle(Usage::Measured(counts)) => (1, counts),
            Settlement::Settle(Usage::Missing) => (2, [0; 4]),
            Settlement::Settle(Usage::Total(total)) => (3, [total, 0, 0, 0]),
            Settlement::SoFar(counts) => (5, counts),
            Settlement::Settle(Usage::AtLeast(counts)) => (6, counts),
        };
        let lifetime = micros(ending.lifetime);
        self.push_end(ending.key, lifetime, settlement, &ending.fallback);
    }

    fn push_end(
        &mut self,
        key: HoldKey,
        lifetime: u64,
        (kind, counts): (u8, [u64; 4]),
        fallback: &[Charge],
    ) {
        self.operation_bytes.push(2);
        self.has_endings = true;
        let slot = self.hold_slot(key);
        put_count(&mut self.operation_bytes, slot);
        put_number(&mut self.operation_bytes, lifetime);
        self.operation_bytes.push(kind);
        for count in counts {
            put_number(&mut self.operation_bytes, count);
        }
        self.push_charges(fallback);
    }

    /// A count, then slot, limit, effect, amount and threshold of each.
    fn push_charges(&mut self, charges: &[Charge]) {
        put_count(&mut self.operation_bytes, charges.len());
        for charge in charges {
            let limit = self.limit_slot(charge.charge.limit);
            // What an ending finds in its reservation comes first, if it comes before.
            let first_limit = if self.has_endings { 0 } else { limit };
            let (names, first_limits) = (&mut self.bucket_names, &mut self.first_limits);
            let slot = *self.buckets.entry(charge.key).or_insert_with(|| {
                names.push(charge.key);
                first_limits.push(first_limit);
                names.len()
            });
            let out = &mut self.operation_bytes;
            put_count(out, slot);
            put_count(out, limit);
            out.push(effect_byte(charge.charge.effect) | if charge.settles { 8 } else { 0 });
            put_amounts(out, &charge.charge);
        }
    }

    fn hold_slot(&mut self, key: HoldKey) -> usize {
        let names = &mut self.hold_names;
        *self.holds.entry(key).or_insert_with(|| {
            names.push(key);
            names.len()
        })
    }
}

/// The charge of an admission that is nothing but one charge.
fn plain_charge(admission: &Admission) -> Option<&Charge> {
    match admission.charges.as_slice() {
        [charge] if admission.hold.is_none() && admission.mode == Mode::Apply => Some(charge),
        _ => None,
    }
}

/// Whether no two charges are on one bucket.
fn are_distinct(charges: &[Charge]) -> bool {
    let mut before = charges.iter().enumerate();
    before.all(|(index, charge)| charges[..index].iter().all(|other| other.key != charge.key))
}

fn effect_byte(effect: Effect) -> u8 {
    match effect {
        Effect::Enforce => 0,
        Effect::Quota => 1,
        Effect::Record => 2,
        Effect::Shadow => 3,
    }
}

/// Flags and times.
fn put_limit(out: &mut Vec<u8>, limit: &Limit) {
    out.push(record::limit_flags(limit));
    for number in record::limit_times(limit) {
        put_number(out, number);
    }
}

/// Amount and threshold.
fn put_amounts(out: &mut Vec<u8>, charge: &limit::Charge) {
    put_signed(out, charge.amount);
    match charge.threshold {
        Some(threshold) => put_number(out, threshold),
        None => put_signed(out, -1),
    }
}

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "call_tests.rs"]
mod tests;
