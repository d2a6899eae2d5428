//! From descriptors to charges: which limits apply, and what the request costs each.

use smallvec::SmallVec;

use super::control::{Control, Phase, without_control};
use super::cost::{Asked, Cost, Met};
use super::learned::Estimates;
use super::request::{Descriptor, MAX_ADDEND, Request, RequestError};
use crate::limit::{self, Effect, Limit, Timestamp};
use crate::rules::{BucketKey, ConfiguredLimit, Domain, LearnKey, Metadata, Override, Terms};
use crate::store::{Charge, MAX_CHARGES};

/// What a request asks of the rules.
#[derive(Debug, Default)]
pub(super) struct Plan<'p> {
    /// The charges, in the order of their descriptors.
    pub(super) charges: Vec<Planned<'p>>,
    /// What stands beside the charges, descriptor by descriptor.
    pub(super) descriptors: SmallVec<[PlannedDescriptor<'p>; 4]>,
    /// The index of each descriptor whose count is none, and the name of the limit that counts it.
    bad_counts: SmallVec<[(usize, &'p str); 1]>,
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
    /// The group that the cost teaches, where the limit's estimate is learned.
    pub(super) group: Option<LearnKey>,
}

/// A limit of the rules, or one that the request brought.
#[derive(Debug)]
pub(super) enum LimitRef<'p> {
    Configured(&'p ConfiguredLimit),
    Override(Box<ConfiguredLimit>),
}

impl<'p> LimitRef<'p> {
    /// The name that `replaces` may name; the limit that a request brought has none.
    fn configured_name(&self) -> &'p str {
        match self {
            Self::Configured(limit) => &limit.name,
            Self::Override(_) => "",
        }
    }
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
            lease: self.limit.lease,
        }
    }
}

impl<'p> Plan<'p> {
    /// Finds the limits of each descriptor and what the request costs them.
    pub(super) fn of(
        domain: &'p Domain,
        request: &Request<'_>,
        control: &Control<'_>,
        estimates: &Estimates,
        now: Timestamp,
    ) -> Result<Self, RequestError> {
        let asked = Asked {
            request,
            control,
            estimates,
            now,
        };
        let mut plan = Self::default();
        let mut scratch = String::new();
        let mut replaced: SmallVec<[&'p str; 4]> = SmallVec::new();
        for (index, descriptor) in request.descriptors.iter().enumerate() {
            plan.descriptors.push(PlannedDescriptor::default());
            let entries = without_control(&descriptor.entries);
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
                    &asked,
                );
                continue;
            }
            let Some(found) = domain.find(&entries, &mut scratch) else {
                continue;
            };
            plan.descriptors[index].metadata = found.rule.metadata.as_deref();
            plan.charges.reserve(found.rule.limits.len());
            for limit in &found.rule.limits {
                replaced.extend(limit.replaces.iter().map(String::as_str));
                plan.add(
                    index,
                    LimitRef::Configured(limit),
                    found.key(limit),
                    addend,
                    &asked,
                );
            }
            if plan.charges.len() > MAX_CHARGES {
                return Err(RequestError::TooManyCharges);
            }
        }
        let applies = |name: &str| name.is_empty() || !replaced.contains(&name);
        if !replaced.is_empty() {
            plan.charges.retain(|planned| applies(&planned.limit.name));
        }
        for (descriptor, name) in &plan.bad_counts {
            if applies(name) {
                plan.descriptors[*descriptor].bad_count = true;
            }
        }
        Ok(plan)
    }

    fn add(
        &mut self,
        descriptor: usize,
        limit: LimitRef<'p>,
        key: BucketKey,
        addend: Addend,
        asked: &Asked<'_, '_, '_>,
    ) {
        let control = asked.control;
        let Terms::Limited(terms) = limit.terms_at(asked.now) else {
            self.descriptors[descriptor].unlimited = true;
            return;
        };
        let counts_tokens_only = limit.formula.counts_tokens() && !limit.formula.counts_hits();
        let total = control.total.filter(|_| counts_tokens_only);
        let addend = total.map_or(addend, Addend::Take);
        let bad_addend = matches!(addend, Addend::Bad) && asked.uses_addend(&limit);
        let bad_count = control.bad_count && limit.formula.counts_tokens();
        if bad_addend || bad_count {
            // A limit that is only told refuses nobody.
            if limit.effect != Effect::Shadow || control.phase == Phase::Report {
                self.bad_counts.push((descriptor, limit.configured_name()));
            }
            return;
        }
        // Counts, and estimates where there are none, are of the whole request: several descriptors
        // that come to one bucket (one for each measure, say) take them from it once.
        let again = limit.formula.counts_tokens()
            && (control.says_tokens() || total.is_some() || addend == Addend::None)
            && self.charges.iter().any(|planned| planned.key == key);
        let group = asked.group(&limit, key);
        let cost = asked.cost(&Met {
            limit: &limit,
            terms: &terms,
            addend,
            group,
            again,
        });
        if again && cost.amount == 0 {
            return;
        }
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
            group,
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
        let requested = match request.hits_addend {
            0 if descriptor.refund => Some(1),
            0 => None,
            addend => Some(u64::from(addend)),
        };
        match descriptor.hits_addend.or(requested) {
            None => Self::None,
            Some(addend) if addend > MAX_ADDEND => Self::Bad,
            Some(addend) if descriptor.refund => Self::Refund(addend),
            Some(addend) => Self::Take(addend),
        }
    }
}
