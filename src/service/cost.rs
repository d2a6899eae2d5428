//! What a request costs a limit.
//!
//! Before the answer is known: an addend that was sent is the cost; else what the caller stated
//! is used, and what it did not state is estimated. `docs/design/estimates.md` has the reasons.

use super::control::{Control, Facts, Phase};
use super::learned::Estimates;
use super::plan::Addend;
use super::request::Request;
use crate::limit::{Formula, Limit, Oversize, Timestamp};
use crate::rules::{
    BucketKey, ConfiguredLimit, Estimate, LearnBy, LearnKey, ReserveOutput, Stating,
};

/// What a request costs one limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cost {
    /// All of it; below zero, a refund.
    pub(super) amount: i64,
    /// The part that no report changes.
    pub(super) fixed: u64,
    /// What is no estimate: the fixed part and what the request stated. Below zero, a refund.
    pub(super) stated: i64,
}

/// What is asked of all limits alike.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'r, 'q, 'c> {
    pub(super) request: &'r Request<'q>,
    pub(super) control: &'r Control<'c>,
    pub(super) estimates: &'r Estimates,
    /// The time by which windows are looked up that go by a calendar.
    pub(super) now: Timestamp,
}

/// A limit, and what one descriptor brings to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Met<'l> {
    pub(super) limit: &'l ConfiguredLimit,
    pub(super) terms: &'l Limit,
    pub(super) addend: Addend,
    /// The group to learn from and to teach, where the limit learns.
    pub(super) group: Option<LearnKey>,
    /// Whether the request's tokens were charged to the same bucket before: they were used once.
    pub(super) again: bool,
}

impl Asked<'_, '_, '_> {
    /// What the request, or the report, costs.
    pub(super) fn cost(&self, met: &Met<'_>) -> Cost {
        match self.control.phase {
            Phase::Report => self.cost_of_report(met),
            Phase::Admit | Phase::Peek => self.cost_of_admission(met),
        }
    }

    /// Whether an addend is (a part of) what the limit counts.
    pub(super) fn uses_addend(&self, limit: &ConfiguredLimit) -> bool {
        let formula = &limit.formula;
        formula.counts_hits() || (formula.counts_tokens() && !self.control.says_tokens())
    }

    /// The group of requests that `limit` learns from; `None`: it does not.
    pub(super) fn group(&self, limit: &ConfiguredLimit, bucket: BucketKey) -> Option<LearnKey> {
        let Estimate::Learned(learning) = &limit.estimate else {
            return None;
        };
        let requests = match &learning.by {
            LearnBy::Bucket => bucket.into(),
            LearnBy::Entries(keys) => {
                let entries = keys.iter().map(|key| (key.as_str(), self.value_of(key)));
                LearnKey::of(limit.identity, entries)
            }
        };
        Some(requests.weighed_by(limit.formula.tokens))
    }

    /// The first value that any descriptor has for `key`; empty where none has.
    fn value_of(&self, key: &str) -> &str {
        let entries = self.request.descriptors.iter().flat_map(|d| &d.entries);
        entries
            .into_iter()
            .find(|(known, _)| *known == key)
            .map_or("", |(_, value)| value)
    }

    /// What a request costs before anything is known of its answer.
    fn cost_of_admission(&self, met: &Met<'_>) -> Cost {
        let formula = &met.limit.formula;
        let hits = match met.addend {
            Addend::Take(addend) => addend,
            Addend::Refund(addend) => {
                let amount = -signed(cost_of_addend(formula, addend));
                return Cost {
                    amount,
                    fixed: 0,
                    stated: amount,
                };
            }
            Addend::None | Addend::Bad => 1,
        };
        let fixed = formula.cost_of_calls(1, hits);
        let (tokens, stated) = match met.addend {
            _ if met.again || !formula.counts_tokens() => (0, 0),
            Addend::Take(addend) if !self.control.says_tokens() && !formula.counts_hits() => {
                (addend, addend)
            }
            _ => self.cost_of_tokens(met, fixed),
        };
        Cost {
            amount: signed(fixed.saturating_add(tokens)),
            fixed,
            stated: signed(fixed.saturating_add(stated)),
        }
    }

    /// What the stated tokens cost, or the estimate where that is more and not all was stated; and
    /// what the stated tokens cost by themselves.
    fn cost_of_tokens(&self, met: &Met<'_>, fixed: u64) -> (u64, u64) {
        let known = Known::of(self.control, met.limit.stating);
        let reserve = met.limit.stating.reserve_output;
        let stated = reserve.cost(&met.limit.formula, known.counts);
        if known.covers(&met.limit.formula) {
            return (stated, stated);
        }
        let estimate = match (&met.limit.estimate, met.group) {
            (Estimate::None, _) => return (stated, stated),
            (Estimate::Constant(estimate), _) => *estimate,
            (Estimate::Learned(learning), group) => group
                .and_then(|group| self.estimates.learned(learning, group))
                .unwrap_or(learning.cold_start),
        };
        let estimate = estimate.min(self.most_estimated(met, fixed));
        (stated.max(estimate), stated)
    }

    /// The most that an estimate may add: a full bucket lets it pass.
    fn most_estimated(&self, met: &Met<'_>, fixed: u64) -> u64 {
        match met.terms.oversize {
            // A full bucket lets anything pass.
            Oversize::WhenFull => u64::MAX,
            Oversize::Refuse => {
                let headroom = met.limit.headroom(self.control.priority);
                let room = met.terms.burst.saturating_sub(headroom);
                room.saturating_sub(fixed)
            }
        }
    }

    /// What a report without a reservation costs: what was used, and nothing for the request
    /// itself, which was charged when it was admitted.
    fn cost_of_report(&self, met: &Met<'_>) -> Cost {
        let formula = &met.limit.formula;
        let amount = match (self.control.counts, met.addend) {
            (Some(_), _) if formula.counts_tokens() && met.again => 0,
            (Some(counts), _) if formula.counts_tokens() => signed(formula.cost_of_tokens(counts)),
            (_, Addend::Take(addend)) => signed(cost_of_addend(formula, addend)),
            (_, Addend::Refund(addend)) => -signed(cost_of_addend(formula, addend)),
            _ => 0,
        };
        Cost {
            amount,
            fixed: 0,
            stated: amount,
        }
    }
}

/// What one limit takes the tokens of a request to be before its answer.
struct Known {
    /// In the order of [`crate::limit::Measure::TOKENS`].
    counts: [u64; 4],
    input: bool,
    output: bool,
}

impl Known {
    fn of(control: &Control<'_>, stating: Stating) -> Self {
        let Facts {
            counted_input,
            counted_output,
            input_bytes,
            max_output_tokens,
        } = control.facts;
        let [mut input, cache_read, cache_write, mut output] = control.counts.unwrap_or_default();
        if let (false, Some(bytes)) = (counted_input, input_bytes) {
            input = stating.bytes_per_token.tokens(bytes);
        }
        if let (false, Some(most)) = (counted_output, max_output_tokens) {
            output = most;
        }
        let states_output = counted_output || max_output_tokens.is_some();
        Self {
            counts: [input, cache_read, cache_write, output],
            input: counted_input || input_bytes.is_some(),
            output: states_output && stating.reserve_output != ReserveOutput::Nothing,
        }
    }

    /// Whether everything that the formula counts was stated. Who counted the prompt counted its
    /// cached tokens too, if there were any.
    fn covers(&self, formula: &Formula) -> bool {
        (self.input || !formula.counts_input()) && (self.output || !formula.counts_output())
    }
}

/// What an addend costs by itself: as many hits as the limit weighs, or as many tokens.
fn cost_of_addend(formula: &Formula, addend: u64) -> u64 {
    if formula.counts_hits() {
        formula.cost_of_calls(0, addend)
    } else if formula.counts_tokens() {
        addend
    } else {
        0
    }
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::request::Descriptor;
    use super::*;
    use crate::rules::{Identity, Override, Quantile, Unit};

    #[test]
    fn a_group_is_a_bucket_or_what_the_entries_of_any_descriptor_say() {
        let descriptor = |entries: &[(&'static str, &'static str)]| Descriptor {
            entries: entries.iter().copied().collect(),
            ..Descriptor::default()
        };
        let request = |descriptors: &[Descriptor<'static>]| Request {
            descriptors: descriptors.to_vec(),
            ..Request::default()
        };
        let limit = |by| {
            let unit = Unit::Day;
            let requests_per_unit = 1;
            let mut limit = Override {
                requests_per_unit,
                unit,
            }
            .limit("d");
            limit.estimate = Estimate::Learned(Box::new(crate::rules::Learning {
                quantile: Quantile::P90,
                cold_start: 1,
                by,
            }));
            limit
        };
        let bucket = |value| BucketKey::of(Identity::of(&["l"]), [("k", value)]);
        let estimates = Estimates::new(&crate::metrics::Metrics::new().unwrap());
        let group = |by, request: &Request<'_>, value| {
            let control = Control::default();
            let asked = Asked {
                request,
                control: &control,
                estimates: &estimates,
                now: Timestamp::default(),
            };
            asked.group(&limit(by), bucket(value)).unwrap()
        };
        let by = |keys: &[&str]| LearnBy::Entries(keys.iter().map(ToString::to_string).collect());
        let apart = request(&[
            descriptor(&[("tenant", "a")]),
            descriptor(&[("deployment", "d"), ("model", "m")]),
        ]);
        let together = request(&[descriptor(&[("model", "m"), ("tenant", "a")])]);
        let other = request(&[descriptor(&[("model", "n"), ("tenant", "a")])]);
        let without = request(&[descriptor(&[("tenant", "a")])]);

        assert_eq!(
            group(LearnBy::Bucket, &apart, "x"),
            group(LearnBy::Bucket, &other, "x")
        );
        assert_ne!(
            group(LearnBy::Bucket, &apart, "x"),
            group(LearnBy::Bucket, &apart, "y")
        );
        let model = by(&["model", "tenant"]);
        assert_eq!(
            group(model.clone(), &apart, "x"),
            group(model.clone(), &together, "y")
        );
        for different in [&other, &without] {
            assert_ne!(
                group(model.clone(), &apart, "x"),
                group(model.clone(), different, "x")
            );
        }
        assert_eq!(group(by(&[]), &apart, "x"), group(by(&[]), &without, "y"));
        assert_ne!(group(by(&[]), &apart, "x"), group(model, &without, "y"));
    }
}
