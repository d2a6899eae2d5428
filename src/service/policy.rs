//! The rules in force, each limit with its series.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::budget::Budgets;
use crate::metrics::{Counter, DomainMetrics, LimitMetrics, Metrics};
use crate::rules::{ConfiguredLimit, Domain};

/// All domains.
#[derive(Debug, Default)]
pub(super) struct Policies {
    installed: bool,
    domains: HashMap<String, Arc<Policy>, RandomState>,
}

/// One domain.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) domain: Arc<Domain>,
    pub(super) name: Arc<str>,
    pub(super) metrics: DomainMetrics,
    /// What counts each limit, by its index. Rules may share a name, and then its series: of ten
    /// thousand limits few are apart here.
    limits: Vec<Arc<Series>>,
    by_name: HashMap<Arc<str>, Arc<Series>, RandomState>,
    overrides: Series,
    pub(super) budgets: Budgets,
}

/// What counts all limits of one name.
#[derive(Debug)]
pub(super) struct Series {
    /// The name.
    pub(super) name: Arc<str>,
    pub(super) metrics: LimitMetrics,
}

impl Policies {
    /// The policies for `domains`. What did not change since `before` is taken over.
    pub(super) fn new(
        domains: &BTreeMap<String, Arc<Domain>>,
        before: &Self,
        metrics: &Metrics,
    ) -> Self {
        let policy = |(name, domain): (&String, &Arc<Domain>)| {
            let known = before.domains.get(name);
            let policy = match known.filter(|known| Arc::ptr_eq(&known.domain, domain)) {
                Some(known) => Arc::clone(known),
                None => Arc::new(Policy::new(Arc::clone(domain), metrics)),
            };
            (name.clone(), policy)
        };
        Self {
            installed: true,
            domains: domains.iter().map(policy).collect(),
        }
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.domains.values()
    }

    /// Takes the gauges away that these policies no longer have, and `before` had.
    pub(super) fn forget_gauges(&self, before: &Self, metrics: &Metrics) {
        for policy in before.all() {
            let name = &*policy.name;
            let now = self.get(name);
            if now.is_some_and(|now| Arc::ptr_eq(now, policy)) {
                continue;
            }
            let kept: HashSet<(&str, &str)> =
                now.iter().flat_map(|now| now.budgets.gauges()).collect();
            for (limit, rule) in policy.budgets.gauges() {
                if !kept.contains(&(limit, rule)) {
                    metrics.forget_budget(name, limit, rule);
                }
            }
        }
    }

    pub(super) fn get(&self, domain: &str) -> Option<&Arc<Policy>> {
        self.domains.get(domain)
    }

    /// The domain, where there is exactly one.
    pub(super) fn only(&self) -> Option<&Arc<Policy>> {
        let mut domains = self.domains.values();
        domains.next().filter(|_| domains.next().is_none())
    }

    /// Whether a configuration was ever loaded, be it an empty one.
    pub(super) const fn is_installed(&self) -> bool {
        self.installed
    }
}

impl Policy {
    fn new(domain: Arc<Domain>, metrics: &Metrics) -> Self {
        let counting: HashSet<&str> = domain
            .limits
            .iter()
            .filter(|limit| limit.formula.counts_tokens())
            .map(|limit| &*limit.label)
            .collect();
        let series = |label: &Arc<str>| Series {
            name: Arc::clone(label),
            metrics: metrics.limit(&domain.name, label, counting.contains(&**label)),
        };
        let mut by_name = HashMap::<_, _, RandomState>::default();
        let limits = domain
            .limits
            .iter()
            .map(|limit| {
                let named = by_name.entry(Arc::clone(&limit.label));
                Arc::clone(named.or_insert_with_key(|label| Arc::new(series(label))))
            })
            .collect();
        Self {
            name: Arc::from(domain.name.as_str()),
            metrics: metrics.domain(&domain.name),
            limits,
            by_name,
            overrides: series(&Arc::from("override")),
            budgets: Budgets::of(&domain, metrics),
            domain,
        }
    }

    /// What counts the requests that were answered without the store.
    pub(super) const fn without_store(&self, denied: bool) -> &Counter {
        if denied {
            &self.metrics.denied_without_store
        } else {
            &self.metrics.allowed_without_store
        }
    }

    /// The series of a limit of this domain.
    pub(super) fn series(&self, limit: &ConfiguredLimit, is_override: bool) -> &Series {
        if is_override {
            return &self.overrides;
        }
        self.limits
            .get(limit.index.0)
            .map_or(&self.overrides, |series| series)
    }

    /// The name of a limit of this domain, to be kept.
    pub(super) fn label(&self, limit: &ConfiguredLimit, is_override: bool) -> Arc<str> {
        Arc::clone(&self.series(limit, is_override).name)
    }

    /// The series of the limit with this name, if it is still configured.
    pub(super) fn series_named(&self, label: &str) -> Option<&LimitMetrics> {
        let overrides = (*self.overrides.name == *label).then_some(&self.overrides);
        let named = self.by_name.get(label).map(|series| &**series);
        named.or(overrides).map(|series| &series.metrics)
    }
}
