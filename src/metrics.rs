//! What Prometheus sees.
//!
//! Names start with `tollgate_` and carry their unit. Labels are what operators configured (domains,
//! names of limits) or closed lists of ours; what a caller sends is never one, so nobody can grow
//! the number of series from outside. Handles are made when a configuration is loaded: a decision
//! looks no label up.
//!
//! One list in one place, in the order of the README's table, because a test holds the two together.

mod budgets;
mod leases;
mod tokens;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

use self::budgets::BudgetFamilies;
pub use self::budgets::BudgetMetrics;
pub use self::leases::LeaseMetrics;
use self::tokens::TokenFamilies;
pub use self::tokens::TokenMetrics;

/// Counts one thing; copies are the same.
pub type Counter = IntCounter;

/// Tells how many of something there are; copies are the same.
pub type Gauge = IntGauge;

/// Shows a share of something; copies are the same.
pub type Ratio = prometheus::Gauge;

/// Upper bounds in seconds, for times between some 50 µs and 50 ms.
const TIMES: [f64; 13] = [
    0.000_025, 0.000_05, 0.000_1, 0.000_2, 0.000_4, 0.000_8, 0.001_6, 0.003_2, 0.006_4, 0.012_5,
    0.025, 0.05, 0.1,
];

/// Upper bounds for operations in one call.
const SIZES: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// All series of a process.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    decisions: IntCounterVec,
    hits: IntCounterVec,
    reports: IntCounterVec,
    observation_problems: IntCounterVec,
    invalid_requests: IntCounterVec,
    store_errors: IntCounterVec,
    reservations_ended: IntCounterVec,
    config_loads: IntCounterVec,
    tokens: TokenFamilies,
    budgets: BudgetFamilies,
    /// Requests for domains that are not configured.
    pub unknown_domain_requests: IntCounter,
    /// From a request's arrival to its answer.
    pub decision_duration: Histogram,
    /// From asking the store to its answer.
    pub store_duration: Histogram,
    /// Operations in one call to Redis.
    pub store_batch_operations: Histogram,
    /// Requests refused without asking Redis, which had just refused their like.
    pub local_refusals: IntCounter,
    /// What leases do.
    pub leases: LeaseMetrics,
    /// Reservations made.
    pub reservations_opened: IntCounter,
    /// Reservations that expired without any report.
    pub reservations_expired_unreported: IntCounter,
    /// Reservations that expired after reports of what was used so far.
    pub reservations_expired_cut_short: IntCounter,
    /// Whether the store answered when it was last asked, about every second.
    pub store_up: IntGauge,
    /// Reservations waiting for their settlement.
    pub reservations_open: IntGauge,
    /// Groups of requests from which estimates are learned.
    pub estimate_groups: Gauge,
    /// Groups forgotten for others, for lack of room.
    pub estimate_groups_forgotten: Counter,
    /// Exchanges with the store that failed.
    pub estimate_exchange_errors: Counter,
    /// When the newest configuration was loaded.
    pub config_last_success: IntGauge,
    /// Domains that are configured.
    pub config_domains: IntGauge,
}

/// The series of one domain.
#[derive(Clone, Debug)]
pub struct DomainMetrics {
    /// Requests let through.
    pub ok: IntCounter,
    /// Requests refused.
    pub over_limit: IntCounter,
    /// Requests answered without the store, let through.
    pub allowed_without_store: IntCounter,
    /// Requests answered without the store, refused.
    pub denied_without_store: IntCounter,
}

/// The series of one limit.
#[derive(Clone, Debug)]
pub struct LimitMetrics {
    /// Charges that fitted.
    pub admitted: IntCounter,
    /// Charges that did not fit, and refused the request.
    pub refused: IntCounter,
    /// Charges that did not fit, and were only told.
    pub shadowed: IntCounter,
    /// What was charged at admission.
    pub hits_admitted: IntCounter,
    /// What was asked for and refused.
    pub hits_refused: IntCounter,
    /// What reports charged.
    pub hits_settled: IntCounter,
    /// What was given back.
    pub hits_refunded: IntCounter,
    /// Of a limit that counts tokens.
    pub tokens: Option<TokenMetrics>,
}

/// What became of a report, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are the label's values")]
pub enum ReportLabel {
    AlreadySettled,
    Charged,
    Failed,
    Grown,
    Invalid,
    Released,
    Settled,
    UnknownId,
    WithoutUsage,
}

impl ReportLabel {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::AlreadySettled,
        Self::Charged,
        Self::Failed,
        Self::Grown,
        Self::Invalid,
        Self::Released,
        Self::Settled,
        Self::UnknownId,
        Self::WithoutUsage,
    ];

    /// The label's value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AlreadySettled => "already_settled",
            Self::Charged => "charged",
            Self::Failed => "failed",
            Self::Grown => "grown",
            Self::Invalid => "invalid",
            Self::Released => "released",
            Self::Settled => "settled",
            Self::UnknownId => "unknown_id",
            Self::WithoutUsage => "without_usage",
        }
    }
}

impl Metrics {
    /// All series, at zero.
    ///
    /// # Errors
    ///
    /// Fails if a name is registered twice, which a test rules out.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let made = Made {
            registry: &registry,
        };
        let reservations_expired = made.counters(
            "tollgate_reservations_expired_total",
            "Reservations that nobody settled in time, as found by this process, by cause.",
            &["cause"],
        )?;
        let metrics = Self {
            requests: made.counters(
                "tollgate_requests_total",
                "Rate-limit requests answered, by domain and result.",
                &["domain", "result"],
            )?,
            decisions: made.counters(
                "tollgate_decisions_total",
                "Charges decided, by domain, limit and result (admitted, refused, shadowed).",
                &["domain", "limit", "result"],
            )?,
            hits: made.counters(
                "tollgate_hits_total",
                "Hits or tokens, by domain, limit and result (admitted, refused, settled, refunded).",
                &["domain", "limit", "result"],
            )?,
            reports: made.counters(
                "tollgate_reports_total",
                "Usage reports, by source and result.",
                &["source", "result"],
            )?,
            observation_problems: made.counters(
                "tollgate_observation_problems_total",
                "Answers seen in the access log or by ext_proc that tell no usage, by reason.",
                &["source", "reason"],
            )?,
            invalid_requests: made.counters(
                "tollgate_invalid_requests_total",
                "Requests answered with an error, by reason.",
                &["reason"],
            )?,
            store_errors: made.counters(
                "tollgate_store_errors_total",
                "Operations that the store did not answer, by kind.",
                &["kind"],
            )?,
            reservations_ended: made.counters(
                "tollgate_reservations_ended_total",
                "Reservations that ended, by how.",
                &["result"],
            )?,
            config_loads: made.counters(
                "tollgate_config_loads_total",
                "Loads of the configuration, by result (success, error).",
                &["result"],
            )?,
            tokens: TokenFamilies::new(&made)?,
            budgets: BudgetFamilies::new(&made)?,
            unknown_domain_requests: made.counter(
                "tollgate_unknown_domain_requests_total",
                "Requests for domains that are not configured; they are not limited.",
            )?,
            decision_duration: made.histogram(
                "tollgate_decision_duration_seconds",
                "From a request's arrival to its answer.",
                &TIMES,
            )?,
            store_duration: made.histogram(
                "tollgate_store_duration_seconds",
                "From asking the store to its answer.",
                &TIMES,
            )?,
            store_batch_operations: made.histogram(
                "tollgate_store_batch_operations",
                "Operations combined in one call to Redis.",
                &SIZES,
            )?,
            local_refusals: made.counter(
                "tollgate_local_refusals_total",
                "Requests refused without asking Redis, from what it had just told.",
            )?,
            leases: LeaseMetrics::new(&made)?,
            reservations_opened: made
                .counter("tollgate_reservations_opened_total", "Reservations made by this process.")?,
            reservations_expired_unreported: reservations_expired
                .with_label_values(&["unreported"]),
            reservations_expired_cut_short: reservations_expired.with_label_values(&["cut_short"]),
            store_up: made.gauge(
                "tollgate_store_up",
                "1 while the store answers, 0 while it does not.",
            )?,
            reservations_open: made.gauge(
                "tollgate_reservations_open",
                "Reservations in the store that wait for their settlement.",
            )?,
            estimate_groups: made.gauge(
                "tollgate_estimate_groups",
                "Groups of requests from which this process learns estimates.",
            )?,
            estimate_groups_forgotten: made.counter(
                "tollgate_estimate_groups_forgotten_total",
                "Groups that made room for others: more were in use than are kept.",
            )?,
            estimate_exchange_errors: made.counter(
                "tollgate_estimate_exchange_errors_total",
                "Exchanges of samples with the store that failed, or slots of them; they are sent again.",
            )?,
            config_last_success: made.gauge(
                "tollgate_config_last_success_timestamp_seconds",
                "When a configuration was last loaded without errors.",
            )?,
            config_domains: made.gauge("tollgate_config_domains", "Domains that are configured.")?,
            registry: registry.clone(),
        };
        let build = made.gauge_with(
            Opts::new("tollgate_build_info", "Always 1; the version is a label.")
                .const_label("version", env!("CARGO_PKG_VERSION")),
        )?;
        build.set(1);
        for result in ["success", "error"] {
            metrics.config_loads.with_label_values(&[result]);
        }
        #[cfg(target_os = "linux")]
        registry.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))?;
        Ok(metrics)
    }

    /// The series of a domain.
    pub fn domain(&self, domain: &str) -> DomainMetrics {
        let requests = |result| self.requests.with_label_values(&[domain, result]);
        DomainMetrics {
            ok: requests("ok"),
            over_limit: requests("over_limit"),
            allowed_without_store: requests("allowed_without_store"),
            denied_without_store: requests("denied_without_store"),
        }
    }

    /// The series of a limit.
    pub fn limit(&self, domain: &str, limit: &str, counts_tokens: bool) -> LimitMetrics {
        let decisions = |result| self.decisions.with_label_values(&[domain, limit, result]);
        let hits = |result| self.hits.with_label_values(&[domain, limit, result]);
        LimitMetrics {
            admitted: decisions("admitted"),
            refused: decisions("refused"),
            shadowed: decisions("shadowed"),
            hits_admitted: hits("admitted"),
            hits_refused: hits("refused"),
            hits_settled: hits("settled"),
            hits_refunded: hits("refunded"),
            tokens: counts_tokens.then(|| self.tokens.of(domain, limit)),
        }
    }

    /// The series of a budget with these thresholds; `rule` names the one bucket it has, `None`:
    /// it has many.
    pub fn budget(
        &self,
        domain: &str,
        limit: &str,
        thresholds: impl IntoIterator<Item = String>,
        rule: Option<&str>,
    ) -> BudgetMetrics {
        self.budgets.of(domain, limit, thresholds, rule)
    }

    /// Shows the used share of a budget no more.
    pub fn forget_budget(&self, domain: &str, limit: &str, rule: &str) {
        self.budgets.forget(domain, limit, rule);
    }

    /// Counts a report from `source`.
    pub fn count_report(&self, source: &'static str, result: ReportLabel) {
        self.reports
            .with_label_values(&[source, result.name()])
            .inc();
    }

    /// Counts an answer that somebody saw, and that tells no usage.
    pub fn count_observation_problem(&self, source: &'static str, reason: &'static str) {
        self.observation_problems
            .with_label_values(&[source, reason])
            .inc();
    }

    /// Has a series of these sources told although nothing happened yet.
    pub fn expect_observation_problems(&self, sources: &[&str]) {
        for source in sources {
            self.observation_problems
                .with_label_values(&[*source, "no_usage"]);
        }
    }

    /// Counts a request that was answered with an error.
    pub fn count_invalid_request(&self, reason: &'static str) {
        self.invalid_requests.with_label_values(&[reason]).inc();
    }

    /// Counts an operation that the store did not answer.
    pub fn count_store_error(&self, kind: &'static str) {
        self.store_errors.with_label_values(&[kind]).inc();
    }

    /// Has the series of all results of reports from these sources told although none came yet:
    /// a rate misses the first event of a series that begins with it.
    pub fn expect_reports(&self, sources: &[&str]) {
        for result in ReportLabel::ALL {
            for source in sources {
                self.reports.with_label_values(&[*source, result.name()]);
            }
        }
        for result in [
            ReportLabel::Released,
            ReportLabel::Settled,
            ReportLabel::WithoutUsage,
        ] {
            self.reservations_ended.with_label_values(&[result.name()]);
        }
    }

    /// Has the series of these kinds of store errors told although none happened yet.
    pub fn expect_store_errors(&self, kinds: &[&str]) {
        for kind in kinds {
            self.store_errors.with_label_values(&[*kind]);
        }
    }

    /// Counts a reservation that ended by a report.
    pub fn count_reservation_ended(&self, result: ReportLabel) {
        self.reservations_ended
            .with_label_values(&[result.name()])
            .inc();
    }

    /// Counts a load of the configuration.
    pub fn count_config_load(&self, success: bool) {
        let result = if success { "success" } else { "error" };
        self.config_loads.with_label_values(&[result]).inc();
    }

    /// Everything, in Prometheus's text format.
    ///
    /// # Errors
    ///
    /// Fails if the series contradict each other, which the registry rules out.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// Makes series and registers them.
struct Made<'a> {
    registry: &'a Registry,
}

impl Made<'_> {
    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        let counter = IntCounter::new(name, help)?;
        self.registry.register(Box::new(counter.clone()))?;
        Ok(counter)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.registry.register(Box::new(counters.clone()))?;
        Ok(counters)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.gauge_with(Opts::new(name, help))
    }

    fn gauge_with(&self, opts: Opts) -> Result<IntGauge, prometheus::Error> {
        let gauge = IntGauge::with_opts(opts)?;
        self.registry.register(Box::new(gauge.clone()))?;
        Ok(gauge)
    }

    /// By domain and limit.
    fn histograms(
        &self,
        name: &str,
        help: &str,
        bounds: &[f64],
    ) -> Result<HistogramVec, prometheus::Error> {
        let opts = HistogramOpts::new(name, help).buckets(bounds.to_vec());
        let histograms = HistogramVec::new(opts, &["domain", "limit"])?;
        self.registry.register(Box::new(histograms.clone()))?;
        Ok(histograms)
    }

    fn histogram(
        &self,
        name: &str,
        help: &str,
        bounds: &[f64],
    ) -> Result<Histogram, prometheus::Error> {
        let histogram =
            Histogram::with_opts(HistogramOpts::new(name, help).buckets(bounds.to_vec()))?;
        self.registry.register(Box::new(histogram.clone()))?;
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_has_its_own_name_and_is_rendered() {
        let metrics = Metrics::new().unwrap();
        metrics
            .limit("llm", "tenant-tokens", true)
            .hits_admitted
            .inc_by(812);
        let text = metrics.render().unwrap();
        let line =
            "tollgate_hits_total{domain=\"llm\",limit=\"tenant-tokens\",result=\"admitted\"} 812";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("tollgate_build_info{version="), "{text}");
    }
}
