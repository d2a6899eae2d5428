//! What came out, before it is dressed as anybody's answer.

use std::time::Duration;

use smallvec::SmallVec;

use super::plan::{LimitRef, Plan};
use crate::limit::{Bucket, Effect, Limit, Mode, Timestamp, WhenOver};
use crate::rules::{BucketKey, Metadata};
use crate::store::{Decision, Verdict};

/// The outcome of a request.
#[derive(Debug)]
pub(super) struct Outcome<'p> {
    pub(super) result: Verdict,
    /// The id of the reservation, where there is one.
    pub(super) reservation: Option<String>,
    pub(super) now: Timestamp,
    pub(super) limits: SmallVec<[LimitOutcome<'p>; 4]>,
    pub(super) descriptors: SmallVec<[DescriptorOutcome<'p>; 4]>,
    /// The store did not answer: the policy did.
    pub(super) without_store: bool,
}

/// What came out for one descriptor.
#[derive(Debug)]
pub(super) struct DescriptorOutcome<'p> {
    pub(super) over: bool,
    pub(super) unlimited: bool,
    pub(super) bad_count: bool,
    pub(super) metadata: Option<&'p Metadata>,
}

/// What came out for one limit.
#[derive(Debug)]
pub(super) struct LimitOutcome<'p> {
    /// The index of its descriptor.
    pub(super) descriptor: usize,
    pub(super) limit: LimitRef<'p>,
    pub(super) terms: Limit,
    pub(super) key: BucketKey,
    /// What was asked for; below zero, a refund.
    pub(super) amount: i64,
    /// What was charged in the end.
    pub(super) charged: i64,
    pub(super) fits: bool,
    /// It does not fit, and that counts.
    pub(super) over: bool,
    pub(super) effect: Effect,
    /// What is left; below zero, a debt.
    pub(super) level: i64,
    /// How long until it would fit; `None`: never. Zero where it fits.
    pub(super) wait: Option<Duration>,
    /// How long until the bucket is full; `None`: never.
    pub(super) until_full: Option<Duration>,
}

impl<'p> Outcome<'p> {
    /// The outcome that the store decided.
    pub(super) fn decided(
        plan: Plan<'p>,
        decision: &Decision,
        mode: Mode,
        reservation: Option<String>,
    ) -> Self {
        let now = decision.now;
        let waits = waits(&plan, decision);
        let limits = plan
            .charges
            .into_iter()
            .zip(&decision.readings)
            .zip(waits)
            .map(|((planned, reading), wait)| {
                let terms = planned.terms;
                // What came before was admitted then, whether it would fit once more or not.
                let fits = reading.fits || decision.verdict == Verdict::Repeated;
                let over = !fits && planned.effect != Effect::Shadow;
                let charged = match decision.verdict {
                    _ if mode == Mode::Peek => 0,
                    Verdict::Admitted if fits => planned.cost.amount,
                    Verdict::Admitted | Verdict::Refused if terms.when_over == WhenOver::Charge => {
                        planned.cost.amount
                    }
                    _ => 0,
                };
                LimitOutcome {
                    descriptor: planned.descriptor,
                    terms,
                    key: planned.key,
                    amount: planned.cost.amount,
                    charged,
                    fits,
                    over,
                    effect: planned.effect,
                    level: reading.bucket.level(&terms),
                    wait: if fits { Some(Duration::ZERO) } else { wait },
                    until_full: reading.bucket.until_full(&terms, now),
                    limit: planned.limit,
                }
            })
            .collect::<SmallVec<[LimitOutcome<'_>; 4]>>();
        let descriptors = plan
            .descriptors
            .into_iter()
            .enumerate()
            .map(|(index, descriptor)| DescriptorOutcome {
                over: descriptor.bad_count
                    || limits
                        .iter()
                        .any(|limit| limit.descriptor == index && limit.over),
                unlimited: descriptor.unlimited,
                bad_count: descriptor.bad_count,
                metadata: descriptor.metadata,
            })
            .collect();
        Self {
            result: decision.verdict,
            reservation,
            now,
            limits,
            descriptors,
            without_store: false,
        }
    }

    /// The outcome where the store was not asked, or did not answer.
    pub(super) fn without_decision(plan: Plan<'p>, result: Verdict, without_store: bool) -> Self {
        let refused = result == Verdict::Refused;
        let limited: SmallVec<[usize; 8]> = plan
            .charges
            .iter()
            .map(|planned| planned.descriptor)
            .collect();
        let descriptors = plan
            .descriptors
            .into_iter()
            .enumerate()
            .map(|(index, descriptor)| DescriptorOutcome {
                over: descriptor.bad_count
                    || (without_store && refused && limited.contains(&index)),
                unlimited: descriptor.unlimited,
                bad_count: descriptor.bad_count,
                metadata: descriptor.metadata,
            })
            .collect();
        Self {
            result,
            reservation: None,
            now: Timestamp::default(),
            limits: SmallVec::new(),
            descriptors,
            without_store,
        }
    }

    pub(super) fn refused(&self) -> bool {
        self.result == Verdict::Refused
    }

    /// The limits that a client is told of: a shadowed one does not concern it.
    pub(super) fn told(&self) -> impl Iterator<Item = &LimitOutcome<'p>> {
        self.limits
            .iter()
            .filter(|limit| limit.effect != Effect::Shadow)
    }

    /// The limit that decides: of those that are over, the one with the longest wait; else the one
    /// with the smallest share left.
    pub(super) fn deciding(&self) -> Option<&LimitOutcome<'p>> {
        most_restrictive(self.told())
    }

    /// The most restrictive limit of one descriptor; a shadowed one only where it has no other.
    pub(super) fn deciding_for(&self, descriptor: usize) -> Option<&LimitOutcome<'p>> {
        let of_descriptor = |limit: &&LimitOutcome<'_>| limit.descriptor == descriptor;
        most_restrictive(self.told().filter(of_descriptor))
            .or_else(|| most_restrictive(self.limits.iter().filter(of_descriptor)))
    }

    /// How long until the request would be admitted; `None`: it was, or never will be.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        if !self.refused()
            || self
                .descriptors
                .iter()
                .any(|descriptor| descriptor.bad_count)
        {
            return None;
        }
        let never = Duration::MAX;
        let waits = |effect| {
            self.limits
                .iter()
                .filter(move |limit| limit.over && limit.effect == effect)
                .map(|limit| limit.wait.unwrap_or(never))
        };
        let is_quota = |limit: &&LimitOutcome<'_>| limit.effect == Effect::Quota;
        let some_quota_fits = self.limits.iter().filter(is_quota).any(|limit| limit.fits);
        // Quotas let the request pass as soon as one of them has room.
        let quotas = waits(Effect::Quota).min().filter(|_| !some_quota_fits);
        waits(Effect::Enforce)
            .max()
            .max(quotas)
            .filter(|wait| *wait < never)
    }
}

impl LimitOutcome<'_> {
    pub(super) const fn is_override(&self) -> bool {
        matches!(self.limit, LimitRef::Override(_))
    }

    /// What is left, for people: no debt.
    pub(super) fn remaining(&self) -> u64 {
        u64::try_from(self.level).unwrap_or(0)
    }

    /// When something changes for the better: a limit that is over, when this cost would fit; else
    /// when the bucket is full, or the window ends. `None`: never.
    pub(super) fn reset(&self, now: Timestamp) -> Option<Duration> {
        if self.over {
            return self.wait;
        }
        Bucket::until_window_ends(&self.terms, now).or(self.until_full)
    }
}

fn most_restrictive<'a, 'p: 'a>(
    limits: impl Iterator<Item = &'a LimitOutcome<'p>>,
) -> Option<&'a LimitOutcome<'p>> {
    limits.min_by(|a, b| {
        let longest_wait_first = |limit: &LimitOutcome<'_>| {
            std::cmp::Reverse(limit.over.then(|| limit.wait.unwrap_or(Duration::MAX)))
        };
        longest_wait_first(a)
            .cmp(&longest_wait_first(b))
            .then_with(|| {
                // a.level / a.burst < b.level / b.burst, without dividing
                let share = |of: &LimitOutcome<'_>, other: &LimitOutcome<'_>| {
                    i128::from(of.level) * i128::from(other.terms.burst.max(1))
                };
                share(a, b).cmp(&share(b, a))
            })
    })
}

/// How long until each charge that does not fit would.
///
/// A charge waits for room beside the charges before it that take from the same bucket.
fn waits(plan: &Plan<'_>, decision: &Decision) -> SmallVec<[Option<Duration>; 4]> {
    let refused = decision.verdict == Verdict::Refused;
    let planned = plan.charges.iter().zip(&decision.readings).enumerate();
    planned
        .map(|(index, (planned, reading))| {
            if reading.fits {
                return Some(Duration::ZERO);
            }
            let terms = &planned.terms;
            // A `rate_limit:` tells the end of its window whatever the cost, as
            // envoyproxy/ratelimit does.
            if terms.when_over == WhenOver::Charge
                && let Some(end) = Bucket::until_window_ends(terms, decision.now)
            {
                return Some(end);
            }
            let threshold = plan
                .charges
                .iter()
                .take(index)
                // Where the request was admitted, the reading contains them already.
                .filter(|before| refused && before.key == planned.key)
                .try_fold(planned.threshold?, |threshold, before| {
                    let taken = u64::try_from(before.cost.amount).unwrap_or(0);
                    threshold.checked_sub(taken)
                });
            reading.bucket.wait(terms, threshold, decision.now)
        })
        .collect()
}
