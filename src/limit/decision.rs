//! One decision over several buckets: all or nothing.

use super::{Bucket, Limit, Timestamp, WhenOver};

/// A cost applied to one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Charge {
    /// What the bucket is held to.
    pub limit: Limit,
    /// The cost; below zero, a refund.
    pub amount: i64,
    /// The most that may be spent already for it to fit; `None`: it never fits.
    pub threshold: Option<u64>,
    /// What it means for the request when it does not fit.
    pub effect: Effect,
}

/// What it means for the request when a charge does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// The request is refused.
    Enforce,
    /// The request is refused if every other charge with this effect does not fit either.
    Quota,
    /// Nothing was asked: it is charged whether it fits or not, because it happened already.
    Record,
    /// Nothing: it is only told.
    Shadow,
}

/// Whether a decision changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Charges what it admits.
    Apply,
    /// Only looks.
    Peek,
}

/// The outcome of the whole decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Everything that was asked is granted.
    Admitted,
    /// Something did not fit; nothing was charged but where [`WhenOver::Charge`] says so.
    Refused,
}

/// How one charge came out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Whether the charge fitted.
    pub fits: bool,
    /// The bucket as the charge left it.
    pub bucket: Bucket,
}

/// Decides over `charges`, in their order. `slots[i]` is the index in `buckets` of the bucket of
/// `charges[i]`; several charges may share one. Leaves the next state in `buckets` and one reading
/// for each charge in `readings`.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use tollgate::limit::*;
///
/// let limit = Limit {
///     algorithm: Algorithm::TokenBucket,
///     rate: Rate::new(60, Duration::from_mins(1)).unwrap(),
///     burst: 10,
///     when_over: WhenOver::Refuse,
///     oversize: Oversize::Refuse,
///     zero_cost: ZeroCost::NeedsRoom,
/// };
/// let cost = 7;
/// let charge =
///     Charge { limit, amount: cost, threshold: limit.threshold(cost, 0), effect: Effect::Enforce };
/// let now = Timestamp::from_micros(1_700_000_000_000_000);
/// let (mut buckets, mut readings) = ([Bucket::default()], Vec::new());
/// assert_eq!(decide(&[charge], &[0], &mut buckets, now, Mode::Apply, &mut readings), Verdict::Admitted);
/// assert_eq!(decide(&[charge], &[0], &mut buckets, now, Mode::Apply, &mut readings), Verdict::Refused);
/// // Three are left; four more come back in four seconds.
/// assert_eq!(buckets[0].level(&limit), 3);
/// assert_eq!(buckets[0].wait(&limit, charge.threshold, now), Some(Duration::from_secs(4)));
/// ```
pub fn decide(
    charges: &[Charge],
    slots: &[usize],
    buckets: &mut [Bucket],
    now: Timestamp,
    mode: Mode,
    readings: &mut Vec<Reading>,
) -> Verdict {
    readings.clear();
    for (charge, slot) in charges.iter().zip(slots) {
        if let Some(bucket) = buckets.get_mut(*slot) {
            bucket.refill(&charge.limit, now);
        }
    }
    let before: smallvec::SmallVec<[Bucket; 8]> = buckets.iter().copied().collect();

    let mut enforced_over = false;
    let mut quotas: u32 = 0;
    let mut quotas_over: u32 = 0;
    for (charge, slot) in charges.iter().zip(slots) {
        let Some(bucket) = buckets.get_mut(*slot) else {
            continue;
        };
        let fits = charge.effect == Effect::Record
            || charge
                .threshold
                .is_some_and(|threshold| bucket.spent <= threshold);
        if fits || charge.limit.when_over == WhenOver::Charge {
            bucket.spend(charge.amount);
        }
        match charge.effect {
            Effect::Enforce => enforced_over |= !fits,
            Effect::Quota => {
                quotas = quotas.saturating_add(1);
                quotas_over = quotas_over.saturating_add(u32::from(!fits));
            }
            Effect::Record | Effect::Shadow => {}
        }
        readings.push(Reading {
            fits,
            bucket: *bucket,
        });
    }
    let refused = enforced_over || (quotas > 0 && quotas_over == quotas);

    if refused || mode == Mode::Peek {
        buckets.copy_from_slice(&before);
        for ((charge, slot), reading) in charges.iter().zip(slots).zip(readings.iter_mut()) {
            let Some(bucket) = buckets.get_mut(*slot) else {
                continue;
            };
            if mode == Mode::Apply && charge.limit.when_over == WhenOver::Charge {
                bucket.spend(charge.amount);
            }
            reading.bucket = *bucket;
        }
    }
    if refused {
        Verdict::Refused
    } else {
        Verdict::Admitted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Algorithm, Oversize, Rate, ZeroCost};
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_micros(1_700_000_000_000_000)
    }

    fn limit(burst: u64, when_over: WhenOver) -> Limit {
        Limit {
            algorithm: Algorithm::TokenBucket,
            rate: Rate::new(burst, Duration::from_hours(1)).unwrap(),
            burst,
            when_over,
            oversize: Oversize::Refuse,
            zero_cost: ZeroCost::NeedsRoom,
        }
    }

    fn charge(limit: Limit, amount: i64, effect: Effect) -> Charge {
        Charge {
            limit,
            amount,
            threshold: limit.threshold(amount, 0),
            effect,
        }
    }

    fn run(
        charges: &[Charge],
        slots: &[usize],
        buckets: &mut [Bucket],
        mode: Mode,
    ) -> (Verdict, Vec<u64>, Vec<bool>) {
        let mut readings = Vec::new();
        let verdict = decide(charges, slots, buckets, now(), mode, &mut readings);
        (
            verdict,
            buckets.iter().map(|bucket| bucket.spent).collect(),
            readings.iter().map(|reading| reading.fits).collect(),
        )
    }

    #[test]
    fn when_one_limit_refuses_the_other_is_unchanged() {
        let charges = [
            charge(limit(10, WhenOver::Refuse), 4, Effect::Enforce),
            charge(limit(3, WhenOver::Refuse), 4, Effect::Enforce),
        ];
        let mut buckets = [Bucket::default(); 2];
        let outcome = run(&charges, &[0, 1], &mut buckets, Mode::Apply);
        assert_eq!(outcome, (Verdict::Refused, vec![0, 0], vec![true, false]));
    }

    #[test]
    fn a_limit_that_charges_when_over_is_charged_although_the_request_is_refused() {
        let charges = [
            charge(limit(10, WhenOver::Charge), 4, Effect::Enforce),
            charge(limit(3, WhenOver::Refuse), 4, Effect::Enforce),
            charge(limit(2, WhenOver::Charge), 4, Effect::Enforce),
        ];
        let mut buckets = [Bucket::default(); 3];
        let outcome = run(&charges, &[0, 1, 2], &mut buckets, Mode::Apply);
        assert_eq!(
            outcome,
            (Verdict::Refused, vec![4, 0, 4], vec![true, false, false])
        );
    }

    #[test]
    fn two_charges_on_one_bucket_see_each_other() {
        let charge = charge(limit(10, WhenOver::Refuse), 6, Effect::Enforce);
        let mut buckets = [Bucket::default()];
        let outcome = run(&[charge, charge], &[0, 0], &mut buckets, Mode::Apply);
        assert_eq!(outcome, (Verdict::Refused, vec![0], vec![true, false]));
    }

    #[test]
    fn a_shadowed_limit_refuses_nobody_and_takes_nothing_that_does_not_fit() {
        let charges = [
            charge(limit(3, WhenOver::Refuse), 4, Effect::Shadow),
            charge(limit(10, WhenOver::Refuse), 4, Effect::Enforce),
        ];
        let mut buckets = [Bucket::default(); 2];
        let outcome = run(&charges, &[0, 1], &mut buckets, Mode::Apply);
        assert_eq!(outcome, (Verdict::Admitted, vec![0, 4], vec![false, true]));
    }

    #[test]
    fn quotas_refuse_only_together() {
        let over = charge(limit(3, WhenOver::Refuse), 4, Effect::Quota);
        let within = charge(limit(10, WhenOver::Refuse), 4, Effect::Quota);
        let mut buckets = [Bucket::default(); 2];
        let one = run(&[over, within], &[0, 1], &mut buckets, Mode::Apply);
        assert_eq!(one, (Verdict::Admitted, vec![0, 4], vec![false, true]));
        let all = run(&[over, over], &[0, 1], &mut buckets, Mode::Apply);
        assert_eq!(all.0, Verdict::Refused);
    }

    #[test]
    fn a_look_changes_nothing() {
        let charges = [charge(limit(10, WhenOver::Charge), 4, Effect::Enforce)];
        let mut buckets = [Bucket::default()];
        let outcome = run(&charges, &[0], &mut buckets, Mode::Peek);
        assert_eq!(outcome, (Verdict::Admitted, vec![0], vec![true]));
    }

    #[test]
    fn what_happened_already_is_charged_into_debt() {
        let charges = [charge(limit(10, WhenOver::Refuse), 25, Effect::Record)];
        let mut buckets = [Bucket::default()];
        let outcome = run(&charges, &[0], &mut buckets, Mode::Apply);
        assert_eq!(outcome, (Verdict::Admitted, vec![25], vec![true]));
        assert_eq!(buckets[0].level(&charges[0].limit), -15);
    }
}
