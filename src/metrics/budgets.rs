//! How much of budgets is used, and that it became much.

use prometheus::{GaugeVec, IntCounterVec, Opts};

use super::{Counter, Made, Ratio};

/// The families.
#[derive(Clone, Debug)]
pub(super) struct BudgetFamilies {
    alerts: IntCounterVec,
    used: GaugeVec,
}

/// The series of one budget.
#[derive(Clone, Debug)]
pub struct BudgetMetrics {
    /// How often each share was crossed, in the order in which they were asked for.
    pub alerts: Vec<Counter>,
    /// The used share; none where callers choose whose budget it is.
    pub used: Option<Ratio>,
}

impl BudgetFamilies {
    pub(super) fn new(made: &Made<'_>) -> Result<Self, prometheus::Error> {
        let used = GaugeVec::new(
            Opts::new(
                "tollgate_budget_used_ratio",
                "The used share of a budget whose key is configured, by domain, limit and rule.",
            ),
            &["domain", "limit", "rule"],
        )?;
        made.registry.register(Box::new(used.clone()))?;
        Ok(Self {
            alerts: made.counters(
                "tollgate_budget_alerts_total",
                "Crossings of a share of a budget, by domain, limit and threshold.",
                &["domain", "limit", "threshold"],
            )?,
            used,
        })
    }

    /// The series of a budget with these thresholds; `rule` names the one bucket it has.
    pub(super) fn of(
        &self,
        domain: &str,
        limit: &str,
        thresholds: impl IntoIterator<Item = String>,
        rule: Option<&str>,
    ) -> BudgetMetrics {
        let alert = |threshold: String| {
            self.alerts
                .with_label_values(&[domain, limit, threshold.as_str()])
        };
        BudgetMetrics {
            alerts: thresholds.into_iter().map(alert).collect(),
            used: rule.map(|rule| self.used.with_label_values(&[domain, limit, rule])),
        }
    }

    /// The gauge of a budget that is gone would show its last value for ever.
    pub(super) fn forget(&self, domain: &str, limit: &str, rule: &str) {
        // That there is none already is as good.
        _ = self.used.remove_label_values(&[domain, limit, rule]);
    }
}
