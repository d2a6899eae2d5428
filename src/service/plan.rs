//! From descriptors to charges: which limits apply, and what the request costs each.

use smallvec::SmallVec;

use super::control::{Control, Phase, is_control};
use super::request::{Descriptor, MAX_ADDEND, Request, RequestError};
use crate::limit::{self, Effect, Limit};
use crate::rules::{
    BucketKey, ConfiguredLimit, Domain, Entry, Estimate, Metadata, Override, Terms,
};
use crate::store::{Charge, MAX_CHARGES};

/// What a request asks of the rules.
#[derive(Debug, Default)]
pub(super) struct Plan<'p> {
    /// The charges, in the order of their descriptors.
    pub(super) charges: SmallVec<[Planned<'p>; 4]>,
    /// What stands beside the charges, descriptor by descriptor.
    pub(super) descriptors: SmallVec<[PlannedDescriptor<'p>; 4]>,
}

/// One descriptor.
#[derive(Debug, Default)]
pub(super) struct PlannedDescriptor<'p> {
    /// Its rule lets everything through.
    pub(super) unlimited: bool,
    /// A limit applies, and the count to charge it with is none.
    pub(super) bad_count: bool,
    /// What goes back to Envoy if it passes.
    pub(super) metadata: Option<&'p Metadata>,
}

/// One charge.
#[derive(Debug)]
pub(super) struct Planned<'p> {
    /// The index of its descriptor.
    pub(super) descriptor: usize,
    pub(super) limit: LimitRef<'p>,
    pub(super) terms: Limit,
    pub(super) key: BucketKey,
    pub(super) cost: Cost,
    pub(super) threshold: Option<u64>,
    pub(super) effect: Effect,
}

/// A limit of the rules, or one that the request brought.
#[derive(Debug)]
pub(super) enum LimitRef<'p> {
    Configured(&'p ConfiguredLimit),
    Override(Box<ConfiguredLimit>),
}

impl std::ops::Deref for LimitRef<'_> {
    type Target = ConfiguredLimit;

    fn deref(&self) -> &ConfiguredLimit {
        match self {
            Self::Configured(limit) => limit,
            Self::Override(limit) => limit,
        }
    }
}

/// What a request costs one limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cost {
    /// All of it; below zero, a refund.
    pub(super) amount: i64,
    /// The part that no report changes.
    pub(super) fixed: u64,
}

impl Planned<'_> {
    pub(super) fn is_override(&self) -> bool {
        matches!(self.limit, LimitRef::Override(_))
    }

    /// Whether a usage report replaces the charge.
    pub(super) fn settles(&self) -> bool {
        self.limit.formula.counts_tokens()
    }

    pub(super) fn charge(&self) -> Charge {
        Charge {
            key: self.key,
            charge: limit::Charge {
                limit: self.terms,
                amount: self.cost.amount,
                threshold: self.threshold,
                effect: self.effect,
            },
            settles: self.settles(),
        }
    }
}

impl<'p> Plan<'p> {
    /// Finds the limits of each descriptor and what the request costs them.
    pub(super) fn of(
        domain: &'p Domain,
        request: &Request<'_>,
        control: &Control<'_>,
    ) -> Result<Self, RequestError> {
        let mut plan = Self::default();
        let mut scratch = String::new();
        let mut replaced: SmallVec<[&'p str; 4]> = SmallVec::new();
        for (index, descriptor) in request.descriptors.iter().enumerate() {
            plan.descriptors.push(PlannedDescriptor::default());
            let entries: SmallVec<[Entry<'_>; 8]> = descriptor
                .entries
                .iter()
                .filter(|(key, _)| !is_control(key))
                .copied()
                .collect();
            let addend = Addend::of(request, descriptor);
            if let Some(requested) = descriptor.limit {
                let unit = requested.unit.ok_or(RequestError::UnknownUnit)?;
                let limit = Override {
                    requests_per_unit: requested.requests_per_unit,
                    unit,
                }
                .limit(&domain.name);
                let key = BucketKey::of(limit.identity, entries.iter().copied());
                plan.add(
                    index,
                    LimitRef::Override(Box::new(limit)),
                    key,
                    addend,
                    control,
                );
                continue;
            }
            let Some(found) = domain.find(&entries, &mut scratch) else {
                continue;
            };
            plan.descriptors[index].metadata = found.rule.metadata.as_ref();
            for limit in &found.rule.limits {
                replaced.extend(limit.replaces.iter().map(String::as_str));
                plan.add(
                    index,
                    LimitRef::Configured(limit),
                    found.key(limit),
                    addend,
                    control,
                );
            }
            if plan.charges.len() > MAX_CHARGES {
                return Err(RequestError::TooManyCharges);
            }
        }
        if !replaced.is_empty() {
            plan.charges.retain(|planned| {
                planned.limit.name.is_empty() || !replaced.contains(&planned.limit.name.as_str())
            });
        }
        Ok(plan)
    }

    fn add(
        &mut self,
        descriptor: usize,
        limit: LimitRef<'p>,
        key: BucketKey,
        addend: Addend,
        control: &Control<'_>,
    ) {
        let Terms::Limited(terms) = limit.terms else {
            self.descriptors[descriptor].unlimited = true;
            return;
        };
        let bad_addend = matches!(addend, Addend::Bad) && uses_addend(&limit, control);
        let bad_count = control.bad_count && limit.formula.counts_tokens();
        if bad_addend || bad_count {
            self.descriptors[descriptor].bad_count = true;
            return;
        }
        let cost = match control.phase {
            Phase::Report => cost_of_report(&limit, control, addend),
            Phase::Admit | Phase::Peek => cost_of_admission(&limit, control, addend),
        };
        let effect = if control.phase == Phase::Report || matches!(addend, Addend::Refund(_)) {
            Effect::Record
        } else {
            limit.effect
        };
        let threshold = terms.threshold(cost.amount, limit.headroom(control.priority));
        self.charges.push(Planned {
            descriptor,
            limit,
            terms,
            key,
            cost,
            threshold,
            effect,
        });
    }
}

/// What Envoy sent as the addend of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Addend {
    /// Larger than any addend may be.
    Bad,
    /// None.
    None,
    /// So much is given back.
    Refund(u64),
    /// So much is taken; 0: only looked at.
    Take(u64),
}

impl Addend {
    /// The descriptor's own addend beats the request's. One that counts a measure is none here.
    pub(super) fn of(request: &Request<'_>, descriptor: &Descriptor<'_>) -> Self {
        if descriptor
            .entries
            .iter()
            .any(|(key, _)| *key == "tollgate.measure")
        {
            return Self::None;
        }
        match (descriptor.hits_addend, request.hits_addend) {
            (Some(addend), _) if addend > MAX_ADDEND => Self::Bad,
            (Some(addend), _) if descriptor.refund => Self::Refund(addend),
            (Some(addend), _) => Self::Take(addend),
            (None, 0) => Self::None,
            (None, addend) if u64::from(addend) > MAX_ADDEND => Self::Bad,
            (None, addend) => Self::Take(u64::from(addend)),
        }
    }
}

fn uses_addend(limit: &ConfiguredLimit, control: &Control<'_>) -> bool {
    limit.formula.counts_hits() || (limit.formula.counts_tokens() && control.counts.is_none())
}

/// What a request costs before anything is known of its answer.
fn cost_of_admission(limit: &ConfiguredLimit, control: &Control<'_>, addend: Addend) -> Cost {
    let formula = &limit.formula;
    let hits = match addend {
        Addend::Take(addend) => addend,
        Addend::Refund(addend) => {
            let gives_back = formula.counts_hits() || formula.counts_tokens();
            return Cost {
                amount: if gives_back { -signed(addend) } else { 0 },
                fixed: 0,
            };
        }
        Addend::None | Addend::Bad => 1,
    };
    let fixed = formula.cost_of_calls(1, hits);
    if !formula.counts_tokens() {
        return Cost {
            amount: signed(fixed),
            fixed,
        };
    }
    let tokens = match (control.counts, addend, limit.estimate) {
        (Some(counts), _, _) => formula.cost_of_tokens(counts),
        (None, Addend::Take(addend), _) if !formula.counts_hits() => addend,
        (None, _, Estimate::Constant(estimate)) => estimate,
        (None, _, Estimate::None) => 0,
    };
    Cost {
        amount: signed(fixed.saturating_add(tokens)),
        fixed,
    }
}

/// What a report without a reservation costs: what was used, and nothing for the request itself,
/// which was charged when it was admitted.
fn cost_of_report(limit: &ConfiguredLimit, control: &Control<'_>, addend: Addend) -> Cost {
    let formula = &limit.formula;
    let amount = match (control.counts, addend) {
        (Some(counts), _) if formula.counts_tokens() => signed(formula.cost_of_tokens(counts)),
        (_, Addend::Take(addend)) if formula.counts_tokens() || formula.counts_hits() => {
            signed(addend)
        }
        (_, Addend::Refund(addend)) if formula.counts_tokens() || formula.counts_hits() => {
            -signed(addend)
        }
        _ => 0,
    };
    Cost { amount, fixed: 0 }
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}
