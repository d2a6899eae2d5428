//! Budgets: how much of them is used, and that a share was crossed.
//!
//! A crossing is told by the decision, or the report, that moved the use from below the share to
//! it or above. The store gives every charge the state that it left behind, in the order in which
//! it did them, so of all charges by all replicas one reads a crossing. The used share is looked up
//! from time to time instead: so it is right also where nobody asks, or only other replicas are
//! asked, and after a window's end.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::Service;
use super::statistics::float;
use crate::limit::{self, Effect, Limit, Mode};
use crate::metrics::{BudgetMetrics, Metrics, Ratio};
use crate::rules::{BucketKey, Budget, ConfiguredLimit, Domain, LimitIndex, Terms};
use crate::store::{Admission, Charge};

/// So many buckets are looked at in one call.
const LOOKED_AT: usize = 256;

/// The budgets of a domain.
#[derive(Debug, Default)]
pub(super) struct Budgets {
    watched: Vec<Watched>,
    by_limit: HashMap<LimitIndex, usize, RandomState>,
    by_bucket: HashMap<BucketKey, usize, RandomState>,
    /// Those whose buckets callers choose. Of several with one name, the first.
    by_label: HashMap<Arc<str>, usize, RandomState>,
}

#[derive(Debug)]
struct Watched {
    label: Arc<str>,
    budget: Budget,
    series: BudgetMetrics,
}

/// What a charge did to a bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved {
    pub(super) key: BucketKey,
    pub(super) terms: Limit,
    pub(super) charged: i64,
    /// What was left afterwards.
    pub(super) level: i64,
}

impl Budgets {
    /// Those of `domain`.
    pub(super) fn of(domain: &Domain, metrics: &Metrics) -> Self {
        let mut budgets = Self::default();
        for limit in &domain.limits {
            if let Some(budget) = &limit.budget {
                budgets.add(domain, limit, Budget::clone(budget), metrics);
            }
        }
        budgets
    }

    fn add(&mut self, domain: &Domain, limit: &ConfiguredLimit, budget: Budget, metrics: &Metrics) {
        let place = self.watched.len();
        let label = Arc::clone(&limit.label);
        self.by_limit.insert(limit.index, place);
        match budget.bucket {
            Some(bucket) => drop(self.by_bucket.insert(bucket, place)),
            None => {
                self.by_label.entry(Arc::clone(&label)).or_insert(place);
            }
        }
        let thresholds = budget.alert_at.iter().map(ToString::to_string);
        let rule = budget.bucket.map(|_| budget.rule.as_str());
        let series = metrics.budget(&domain.name, &label, thresholds, rule);
        self.watched.push(Watched {
            label,
            budget,
            series,
        });
    }

    /// The gauges, by their limit and rule.
    pub(super) fn gauges(&self) -> impl Iterator<Item = (&str, &str)> {
        let with_gauge = self.watched.iter().filter(|of| of.series.used.is_some());
        with_gauge.map(|of| (&*of.label, of.budget.rule.as_str()))
    }

    /// Tells which shares a charge at admission crossed.
    pub(super) fn tell(&self, domain: &str, limit: LimitIndex, moved: Moved) {
        if let Some(watched) = self.at(self.by_limit.get(&limit)) {
            watched.tell(domain, moved);
        }
    }

    /// Tells which shares a charge by a report crossed, of which the limit's name is known.
    pub(super) fn tell_report(&self, domain: &str, label: &str, moved: Moved) {
        if self.watched.is_empty() {
            return;
        }
        let place = self.by_bucket.get(&moved.key);
        if let Some(watched) = self.at(place.or_else(|| self.by_label.get(label))) {
            watched.tell(domain, moved);
        }
    }

    fn at(&self, place: Option<&usize>) -> Option<&Watched> {
        self.watched.get(*place?)
    }

    fn gauge(&self, limit: LimitIndex) -> Option<&Ratio> {
        self.at(self.by_limit.get(&limit))?.series.used.as_ref()
    }
}

impl Watched {
    fn tell(&self, domain: &str, moved: Moved) {
        let whole = moved.terms.burst;
        let spent = whole.cast_signed().saturating_sub(moved.level);
        let spent = u64::try_from(spent).unwrap_or(0);
        for (place, threshold) in self.budget.crossed(whole, moved.charged, spent) {
            if let Some(alerts) = self.series.alerts.get(place) {
                alerts.inc();
            }
            tracing::warn!(
                domain,
                limit = %self.label,
                rule = %self.budget.rule,
                bucket = %moved.key,
                %threshold,
                spent,
                of = whole,
                "a share of a budget is used"
            );
        }
    }
}

impl Service {
    /// Looks how much is used of all budgets that have a gauge.
    pub(super) async fn look_at_budgets(&self) {
        let policies = self.0.policies.load_full();
        for policy in policies.all() {
            let now = self.0.store.clock();
            let mut looks: Vec<(Charge, Ratio)> = Vec::new();
            if policy.budgets.gauges().next().is_some() {
                for limit in &policy.domain.limits {
                    let bucket = limit.budget.as_ref().and_then(|budget| budget.bucket);
                    let gauge = policy.budgets.gauge(limit.index);
                    if let (Some(key), Some(gauge), Terms::Limited(terms)) =
                        (bucket, gauge, limit.terms_at(now))
                    {
                        looks.push((look(key, terms), gauge.clone()));
                    }
                }
            }
            for some in looks.chunks(LOOKED_AT) {
                let admission = Admission {
                    charges: some.iter().map(|(charge, _)| *charge).collect(),
                    mode: Mode::Peek,
                    hold: None,
                    keep_when_late: true,
                };
                let decision = match self.0.store.admit(admission).await {
                    Ok(decision) => decision,
                    Err(error) => return self.store_failed(&error),
                };
                for ((charge, gauge), reading) in some.iter().zip(&decision.readings) {
                    let whole = charge.charge.limit.burst;
                    gauge.set(float(reading.bucket.spent) / float(whole.max(1)));
                }
            }
        }
    }
}

fn look(key: BucketKey, limit: Limit) -> Charge {
    Charge {
        key,
        charge: limit::Charge {
            limit,
            amount: 0,
            threshold: None,
            effect: Effect::Record,
        },
        settles: false,
        lease: None,
    }
}
