//! What Envoy's own streams show of a call that is over: its access log, and an observer of bodies.
//!
//! Nobody waits for an answer here, and nobody will correct what was wrong: a problem is counted and
//! logged, and the next observation goes on.

use std::borrow::Cow;
use std::sync::Arc;

use super::Service;
use super::api::{ApiError, ReportAnswer, Target};
use super::report::Source;
use super::request::RequestError;
use super::usage::said;
use crate::clock;
use crate::metrics::ReportLabel;
use crate::rules::Entry;
use crate::usage::{Reported, Said};

/// The sources of observations.
pub(super) const SOURCES: [Source; 2] = [Source::AccessLog, Source::ExtProc];

/// What was seen of one call.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// Who saw it.
    pub source: Source,
    /// The domain; `None`: the only one that is configured.
    pub domain: Option<&'a str>,
    /// The reservation that the call's admission made; `None`: it was not admitted, or nothing was
    /// reserved.
    pub id: Option<&'a str>,
    /// Envoy's request id. Where there is no reservation, it tells what was seen twice.
    pub request_id: Option<&'a str>,
    /// Where to charge in full what finds no reservation.
    pub descriptors: Vec<Vec<Entry<'a>>>,
    /// How it ended, in the words of Envoy's response code details; an answer that was cut short used
    /// at least what was seen.
    pub outcome: Option<&'a str>,
    /// What it used. Nothing said: no usage was found, and each limit's `missing_usage` decides.
    pub usage: Reported,
}

impl Service {
    /// Reports what was seen; `None`: neither a reservation nor a descriptor says where to charge.
    ///
    /// What cannot be reported is counted and logged.
    pub async fn observed(&self, observed: Observed<'_>) -> Option<ReportAnswer> {
        let Observed { source, id, .. } = observed;
        let id = id.filter(|id| !id.is_empty());
        if id.is_none() && observed.descriptors.is_empty() {
            return None;
        }
        match self.report_observed(observed, id).await {
            Ok(answer) => Some(answer),
            // Not the observation's fault, and counted where it happened.
            Err(ApiError::StoreUnavailable) => None,
            Err(error) => {
                self.refuse_observation(source, error.reason(), &error);
                None
            }
        }
    }

    /// Tells what the call under reservation `id` has used so far. The reservation grows with it and
    /// stays open: the report at the end says what counts.
    ///
    /// Does not wait, so that whoever reads a stream never falls behind it. Without a domain, the
    /// only one that is configured is meant. What cannot be told is left to that report, which
    /// counts what is wrong.
    pub fn observe_progress(
        &self,
        source: Source,
        domain: Option<&str>,
        id: &str,
        so_far: Reported,
    ) {
        let Ok(Said::Measures(counts)) = said(so_far) else {
            return;
        };
        let policies = self.0.policies.load();
        let policy = match domain {
            Some(domain) => policies.get(domain),
            None => policies.only(),
        };
        let Some(policy) = policy.map(Arc::clone) else {
            return;
        };
        let (service, id) = (self.clone(), id.to_owned());
        self.0
            .reports
            .spawn(async move { service.grow_in(policy, &id, counts, source).await });
    }

    async fn report_observed(
        &self,
        observed: Observed<'_>,
        id: Option<&str>,
    ) -> Result<ReportAnswer, ApiError> {
        let domain = match observed.domain {
            Some(domain) => Cow::Borrowed(domain),
            None => Cow::Owned(self.only_domain()?),
        };
        let target = Target {
            domain: &domain,
            descriptors: observed.descriptors,
        };
        let (source, outcome, usage) = (observed.source, observed.outcome, observed.usage);
        match id {
            Some(id) => self.settle_from(source, outcome, id, usage, &target).await,
            None => {
                self.report_usage_from(source, observed.request_id, usage, &target)
                    .await
            }
        }
    }

    /// Counts and logs an observation that says something that cannot be. It charges nothing.
    pub fn refuse_observation(
        &self,
        source: Source,
        reason: &'static str,
        problem: &dyn std::fmt::Display,
    ) {
        self.metrics()
            .count_report(source.name(), ReportLabel::Invalid);
        self.observation_without_usage(source, reason);
        if let Some(suppressed) = self.0.observation_problems.pass(clock::instant()) {
            let source = source.name();
            tracing::warn!(source, reason, %problem, suppressed, "no usage can be reported");
        }
    }

    /// Counts an observation that told no usage, by why.
    pub fn observation_without_usage(&self, source: Source, reason: &'static str) {
        self.metrics()
            .count_observation_problem(source.name(), reason);
    }

    fn only_domain(&self) -> Result<String, RequestError> {
        let policies = self.0.policies.load();
        if !policies.is_installed() {
            return Err(RequestError::NotConfigured);
        }
        let only = policies.only().ok_or(RequestError::NoDomain)?;
        Ok(only.name.to_string())
    }
}
