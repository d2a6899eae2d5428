//! The use cases, in our own terms: a request wants in, somebody reports what one used, somebody
//! looks. The edges ([`crate::grpc`], [`crate::admin`]) translate; this decides.

mod admission;
mod answer;
mod api;
mod batch;
mod body;
mod budget;
mod control;
mod cost;
mod headers;
mod ids;
mod learned;
mod observed;
mod origin;
mod outcome;
mod plan;
mod policy;
mod report;
mod request;
mod statistics;
mod usage;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::task::TaskTracker;

pub use answer::{Answer, LimitStatus, Status};
pub use api::{
    ApiError, BucketView, InspectAnswer, ReportAnswer, ReportResult, ReserveAnswer, Target,
};
pub use batch::{MAX_REPORTS, check_batch, do_each};
pub use control::{Control, Facts, PREFIX as CONTROL_PREFIX, Phase};
pub use observed::Observed;
pub use origin::used_nothing;
pub use report::Source;
pub use request::{
    Descriptor, MAX_ADDEND, MAX_DESCRIPTORS, MAX_ENTRIES, MAX_TEXT, Request, RequestError,
    RequestedLimit,
};

use self::ids::Ids;
use self::learned::Estimates;
use self::plan::Plan;
use self::policy::{Policies, Policy};
use crate::clock;
use crate::metrics::Metrics;
use crate::rules::Domain;
use crate::store::{Store, StoreError};
use crate::telemetry::Throttle;

/// What holds for all domains.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long a reservation waits for its settlement. Longer than the longest stream.
    pub hold_time: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            hold_time: Duration::from_hours(1),
        }
    }
}

/// The rate-limit service. Copies are the same service.
#[derive(Clone, Debug)]
pub struct Service(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    policies: ArcSwap<Policies>,
    metrics: Metrics,
    options: Options,
    estimates: Estimates,
    ids: Ids,
    /// Whether the store ever answered.
    store_seen: AtomicBool,
    store_errors: Throttle,
    invalid_requests: Throttle,
    observation_problems: Throttle,
    /// Reports that go on although nobody waits for their answer.
    reports: TaskTracker,
}

impl Service {
    /// A service with no domains yet.
    pub fn new(store: Store, metrics: Metrics, options: Options) -> Self {
        metrics.expect_store_errors(&StoreError::KINDS);
        metrics.expect_reports(&Source::ALL.map(Source::name));
        metrics.expect_observation_problems(&observed::SOURCES.map(Source::name));
        let estimates = Estimates::new(&metrics);
        Self(Arc::new(Inner {
            store,
            policies: ArcSwap::default(),
            metrics,
            options,
            estimates,
            ids: Ids::default(),
            store_seen: AtomicBool::new(false),
            store_errors: Throttle::new(Duration::from_secs(1)),
            invalid_requests: Throttle::new(Duration::from_secs(1)),
            observation_problems: Throttle::new(Duration::from_secs(1)),
            reports: TaskTracker::new(),
        }))
    }

    /// Replaces the rules of all domains at once. Requests under way finish by the rules they
    /// began with.
    pub fn install(&self, domains: &BTreeMap<String, Arc<Domain>>) {
        let before = self.0.policies.load();
        let policies = Policies::new(domains, &before, &self.0.metrics);
        policies.forget_gauges(&before, &self.0.metrics);
        self.0
            .metrics
            .config_domains
            .set(i64::try_from(domains.len()).unwrap_or(i64::MAX));
        self.0.policies.store(Arc::new(policies));
    }

    /// The series, for the edges.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Whether requests should come: there are rules, and the store has answered once.
    ///
    /// Not whether it answers now: when it is away, `on_store_error` says what to do, and it only
    /// can while we are asked. If all replicas called themselves unready, Envoy would have nobody
    /// to ask and would let everything pass.
    pub async fn ready(&self) -> Result<(), String> {
        if !self.0.policies.load().is_installed() {
            return Err(RequestError::NotConfigured.to_string());
        }
        if self.0.store_seen.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.ping().await.map_err(|error| error.to_string())
    }

    /// What kind of store it has, for people.
    pub fn store_kind(&self) -> &'static str {
        self.0.store.kind()
    }

    /// Whether the store answers now.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let answered = self.0.store.ping().await;
        self.0.metrics.store_up.set(i64::from(answered.is_ok()));
        if answered.is_ok() {
            self.0.store_seen.store(true, Ordering::Relaxed);
        }
        answered
    }

    /// Waits for the reports that nobody waits for any more, such as one that is tried again.
    pub async fn finish_reports(&self) {
        self.0.reports.close();
        self.0.reports.wait().await;
    }

    /// Gives back what is leased from the store, and leases no more: nobody asks any more.
    pub async fn close_leases(&self) {
        self.0.store.close_leases().await;
    }

    /// What has to be done from time to time, about every ten seconds: counting reservations,
    /// looking at budgets, and forgetting buckets that are full again.
    pub async fn tidy(&self) {
        match self.0.store.count_holds().await {
            Ok(counts) => {
                let open = i64::try_from(counts.open).unwrap_or(i64::MAX);
                self.0.metrics.reservations_open.set(open);
                let metrics = self.metrics();
                metrics
                    .reservations_expired_unreported
                    .inc_by(counts.newly_unreported);
                metrics
                    .reservations_expired_cut_short
                    .inc_by(counts.newly_cut_short);
            }
            Err(error) => self.store_failed(&error),
        }
        self.look_at_budgets().await;
        if let Err(error) = self.0.store.forget_full().await {
            self.store_failed(&error);
        }
    }

    fn plan<'p>(
        &self,
        policy: &'p Policy,
        request: &Request<'_>,
        control: &Control<'_>,
    ) -> Result<Plan<'p>, RequestError> {
        let now = self.0.store.clock();
        Plan::of(&policy.domain, request, control, &self.0.estimates, now)
    }

    fn policy(&self, domain: &str) -> Result<Option<Arc<Policy>>, RequestError> {
        let policies = self.0.policies.load();
        if !policies.is_installed() {
            return Err(RequestError::NotConfigured);
        }
        Ok(policies.get(domain).map(Arc::clone))
    }

    fn store_failed(&self, error: &StoreError) {
        self.0.metrics.count_store_error(error.kind());
        if let Some(suppressed) = self.0.store_errors.pass(clock::instant()) {
            tracing::warn!(%error, suppressed, "the store did not answer");
        }
    }

    fn invalid(&self, error: &RequestError, domain: &str) {
        self.0.metrics.count_invalid_request(error.kind());
        if let Some(suppressed) = self.0.invalid_requests.pass(clock::instant()) {
            let domain: String = domain.chars().take(64).collect();
            tracing::warn!(%error, domain, suppressed, "invalid request");
        }
    }
}
