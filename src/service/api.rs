//! Our own API, as both of its edges need it: reserve, settle, release, report, inspect.

use std::sync::Arc;
use std::time::Duration;

use super::Service;
use super::admission::Undecided;
use super::batch::MAX_REPORTS;
use super::control::{Control, Facts, Phase, without_control};
use super::outcome::LimitOutcome;
use super::policy::Policy;
use super::report::Source;
use super::request::{Descriptor, Request, RequestError};
use super::usage::said;
use crate::limit::{Limit, Mode};
use crate::metrics::ReportLabel;
use crate::rules::{BucketKey, Entry};
use crate::store::{Held, Verdict};
use crate::usage::{Contradiction, Reported, Said};

/// A call that cannot be done. The caller is at fault, but for [`ApiError::StoreUnavailable`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// A count that cannot be.
    #[error("{name}: {problem}")]
    BadUsage {
        /// Which.
        name: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// Counts that do not go together.
    #[error(transparent)]
    Contradiction(#[from] Contradiction),
    /// No id.
    #[error("an id is needed")]
    NoId,
    /// A request that is none.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Too many reports in one batch.
    #[error("{0} reports are more than the {MAX_REPORTS} that one call may carry")]
    TooManyReports(usize),
    /// The store did not answer. Worth another try.
    #[error("the store did not answer")]
    StoreUnavailable,
    /// The domain is not configured.
    #[error("no domain '{0}' is configured")]
    UnknownDomain(String),
}

impl ApiError {
    /// The reason, for programs.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Contradiction(Contradiction::Ambiguous) => "ambiguous_usage",
            Self::BadUsage { .. } | Self::Contradiction(_) => "bad_usage",
            Self::NoId => "no_id",
            Self::Request(error) => error.kind(),
            Self::StoreUnavailable => "store_unavailable",
            Self::TooManyReports(_) => "too_many_reports",
            Self::UnknownDomain(_) => "unknown_domain",
        }
    }
}

/// Which rules a call is about.
#[derive(Clone, Debug, Default)]
pub struct Target<'a> {
    /// The domain.
    pub domain: &'a str,
    /// The entries of each descriptor.
    pub descriptors: Vec<Vec<Entry<'a>>>,
}

/// The state of one bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketView {
    /// The limit's name.
    pub limit: String,
    /// The bucket's key.
    pub key: BucketKey,
    /// What it is held to.
    pub terms: Limit,
    /// What is left; below zero, a debt.
    pub level: i64,
    /// What the call charged; below zero, a refund.
    pub charged: i64,
    /// Whether the call fitted.
    pub fits: bool,
    /// How long until the call would fit; `None`: it fits, or never will.
    pub retry_after: Option<Duration>,
    /// How long until the bucket is full; `None`: never.
    pub full_after: Option<Duration>,
}

/// The answer to a reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReserveAnswer {
    /// Whether the request may go on.
    pub admitted: bool,
    /// The id to settle or release, where something was charged that a report can change.
    pub id: Option<String>,
    /// The buckets.
    pub buckets: Vec<BucketView>,
    /// How long until the request would be admitted; `None`: it was, or never will be.
    pub retry_after: Option<Duration>,
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportResult {
    /// The reservation was settled or released before.
    AlreadySettled,
    /// There was no reservation; the usage was charged in full.
    Charged,
    /// The store did not answer.
    Failed,
    /// The reservation's charges grew to what was used so far.
    Grown,
    /// The report says something that cannot be.
    Invalid,
    /// The reservation's charges were given back.
    Released,
    /// The reservation's charges were replaced.
    Settled,
    /// There was no reservation, and nothing said what to charge.
    UnknownId,
    /// Neither a reservation nor any usage was named.
    WithoutUsage,
}

/// The answer to a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportAnswer {
    /// What became of it.
    pub result: ReportResult,
    /// The buckets it changed.
    pub buckets: Vec<BucketView>,
}

impl ReportAnswer {
    pub(super) const fn nothing(result: ReportResult) -> Self {
        Self {
            result,
            buckets: Vec::new(),
        }
    }
}

/// The answer to a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectAnswer {
    /// The path of the rule; `None`: the descriptor came to none, and is not limited.
    pub rule: Option<String>,
    /// The buckets.
    pub buckets: Vec<BucketView>,
    /// What open reservations hold of each of them; `None`: too many reservations to look at.
    pub held: Option<Vec<Held>>,
}

impl Service {
    /// Decides like an admission and remembers what it charged.
    pub async fn reserve(
        &self,
        target: &Target<'_>,
        estimate: Reported,
        id: Option<&str>,
        priority: Option<&str>,
    ) -> Result<ReserveAnswer, ApiError> {
        let (request, said) = request(target, estimate)?;
        request.check()?;
        let policy = self.known(target.domain)?;
        let id = id.filter(|id| !id.is_empty());
        let control = Control {
            id,
            priority,
            facts: Facts {
                counted_input: estimate.says_prompt(),
                counted_output: estimate.says_answer(),
                ..Facts::default()
            },
            ..saying(said)
        };
        let outcome = self
            .admit(&policy, &request, &control, Mode::Apply, Undecided::AsError)
            .await?;
        if outcome.without_store {
            return Err(ApiError::StoreUnavailable);
        }
        Ok(ReserveAnswer {
            admitted: outcome.result != Verdict::Refused,
            retry_after: outcome.retry_after(),
            buckets: outcome
                .limits
                .iter()
                .map(|limit| view(&policy, limit))
                .collect(),
            id: outcome.reservation,
        })
    }

    /// Settles the reservation `id`, or charges what was used where no id is named.
    pub async fn report_under(
        &self,
        id: Option<&str>,
        usage: Reported,
        target: &Target<'_>,
    ) -> Result<ReportAnswer, ApiError> {
        match id.filter(|id| !id.is_empty()) {
            Some(id) => self.settle(id, usage, target).await,
            None => self.report_usage(target, usage).await,
        }
    }

    /// Replaces what a reservation charged by what was used; charges in full where there is none
    /// and the descriptors say where.
    pub async fn settle(
        &self,
        id: &str,
        usage: Reported,
        target: &Target<'_>,
    ) -> Result<ReportAnswer, ApiError> {
        let answer = self.settle_from(Source::Api, None, id, usage, target).await;
        self.counted(answer)
    }

    /// The same for a source, without counting what was refused.
    pub(super) async fn settle_from(
        &self,
        source: Source,
        outcome: Option<&str>,
        id: &str,
        usage: Reported,
        target: &Target<'_>,
    ) -> Result<ReportAnswer, ApiError> {
        if id.is_empty() {
            return Err(ApiError::NoId);
        }
        let (mut request, said) = request(target, usage)?;
        if request.descriptors.is_empty() {
            // Carries the total, and matches no rule.
            request.descriptors.push(Descriptor {
                hits_addend: addend(said),
                ..Descriptor::default()
            });
        }
        let policy = self.known(target.domain)?;
        let control = Control {
            id: Some(id),
            outcome,
            phase: Phase::Report,
            ..saying(said)
        };
        heard(self.report(policy, &request, &control, source).await?)
    }

    /// Has a reservation grow to what was used so far, and live on from now: one that reports
    /// before its `--hold-time` is over never expires. Absolute counts, so one that comes twice
    /// changes nothing; the settlement still says the last word. No usage at all only keeps it alive.
    pub async fn progress(
        &self,
        domain: &str,
        id: &str,
        usage: Reported,
    ) -> Result<ReportAnswer, ApiError> {
        let answer = self.progress_uncounted(domain, id, usage).await;
        self.counted(answer)
    }

    async fn progress_uncounted(
        &self,
        domain: &str,
        id: &str,
        usage: Reported,
    ) -> Result<ReportAnswer, ApiError> {
        if id.is_empty() {
            return Err(ApiError::NoId);
        }
        let counts = match said(usage)? {
            Said::Measures(counts) => counts,
            Said::Nothing => [0; 4],
            Said::Tokens(_) | Said::Total(_) => {
                return Err(ApiError::BadUsage {
                    name: "total",
                    problem: "what was used so far is said by measure".to_owned(),
                });
            }
        };
        let policy = self.known(domain)?;
        heard(self.grow_in(policy, id, counts, Source::Api).await)
    }

    /// Gives back everything that a reservation charged.
    pub async fn release(&self, domain: &str, id: &str) -> Result<ReportAnswer, ApiError> {
        let answer = self.release_uncounted(domain, id).await;
        self.counted(answer)
    }

    async fn release_uncounted(&self, domain: &str, id: &str) -> Result<ReportAnswer, ApiError> {
        if id.is_empty() {
            return Err(ApiError::NoId);
        }
        let policy = self.known(domain)?;
        heard(self.release_in(policy, id).await)
    }

    /// Charges what was used without a reservation.
    pub async fn report_usage(
        &self,
        target: &Target<'_>,
        usage: Reported,
    ) -> Result<ReportAnswer, ApiError> {
        let answer = self
            .report_usage_from(Source::Api, None, usage, target)
            .await;
        self.counted(answer)
    }

    /// The same for a source, without counting what was refused. With a request id, what comes
    /// twice is charged once.
    pub(super) async fn report_usage_from(
        &self,
        source: Source,
        request_id: Option<&str>,
        usage: Reported,
        target: &Target<'_>,
    ) -> Result<ReportAnswer, ApiError> {
        let (request, said) = request(target, usage)?;
        let request = Request {
            request_id,
            ..request
        };
        request.check()?;
        let policy = self.known(target.domain)?;
        let control = Control {
            phase: Phase::Report,
            ..saying(said)
        };
        heard(self.report(policy, &request, &control, source).await?)
    }

    /// Counts a report that was refused before it came here.
    pub fn count_refused_report(&self) {
        self.metrics()
            .count_report(Source::Api.name(), ReportLabel::Invalid);
    }

    fn counted(&self, answer: Result<ReportAnswer, ApiError>) -> Result<ReportAnswer, ApiError> {
        match &answer {
            // Not the report's fault.
            Ok(_)
            | Err(ApiError::StoreUnavailable | ApiError::Request(RequestError::NotConfigured)) => {}
            Err(_) => self.count_refused_report(),
        }
        answer
    }

    /// Tells the state of the buckets of `target`'s first descriptor.
    pub async fn inspect(&self, target: &Target<'_>) -> Result<InspectAnswer, ApiError> {
        let (request, _) = request(target, Reported::default())?;
        request.check()?;
        let policy = self.known(target.domain)?;
        let control = Control::default();
        let rule = target
            .descriptors
            .first()
            .map(|entries| without_control(entries))
            .and_then(|entries| policy.domain.find(&entries, &mut String::new()))
            .map(|found| found.rule.path.to_string());
        let outcome = self
            .admit(&policy, &request, &control, Mode::Peek, Undecided::AsError)
            .await?;
        if outcome.without_store {
            return Err(ApiError::StoreUnavailable);
        }
        let buckets: Vec<BucketView> = outcome
            .limits
            .iter()
            .filter(|limit| limit.descriptor == 0)
            .map(|limit| view(&policy, limit))
            .collect();
        let keys: Vec<BucketKey> = buckets.iter().map(|bucket| bucket.key).collect();
        let held = self.0.store.held(&keys).await.map_err(|error| {
            self.store_failed(&error);
            ApiError::StoreUnavailable
        })?;
        Ok(InspectAnswer {
            rule,
            buckets,
            held,
        })
    }

    fn known(&self, domain: &str) -> Result<Arc<Policy>, ApiError> {
        if domain.is_empty() {
            return Err(RequestError::NoDomain.into());
        }
        self.policy(domain)?
            .ok_or_else(|| ApiError::UnknownDomain(domain.to_owned()))
    }
}

/// What is said of tokens, as control entries say it.
fn saying(said: Said) -> Control<'static> {
    let mut control = Control::default();
    match said {
        Said::Measures(counts) => control.counts = Some(counts),
        Said::Tokens(total) => control.total = Some(total),
        Said::Nothing | Said::Total(_) => {}
    }
    control
}

/// The number that is the cost of hits, too.
const fn addend(said: Said) -> Option<u64> {
    match said {
        Said::Total(total) => Some(total),
        Said::Nothing | Said::Measures(_) | Said::Tokens(_) => None,
    }
}

fn heard(answer: ReportAnswer) -> Result<ReportAnswer, ApiError> {
    match answer.result {
        ReportResult::Failed => Err(ApiError::StoreUnavailable),
        _ => Ok(answer),
    }
}

fn request<'a>(target: &Target<'a>, usage: Reported) -> Result<(Request<'a>, Said), ApiError> {
    let said = said(usage)?;
    let descriptors: Vec<Descriptor<'a>> = target
        .descriptors
        .iter()
        .map(|entries| Descriptor {
            entries: entries.iter().copied().collect(),
            hits_addend: addend(said),
            ..Descriptor::default()
        })
        .collect();
    let request = Request {
        domain: target.domain,
        descriptors,
        ..Request::default()
    };
    if !request.descriptors.is_empty() {
        request.check()?;
    }
    Ok((request, said))
}

fn view(policy: &Policy, outcome: &LimitOutcome<'_>) -> BucketView {
    BucketView {
        limit: policy
            .series(&outcome.limit, outcome.is_override())
            .name
            .to_string(),
        key: outcome.key,
        terms: outcome.terms,
        level: outcome.level,
        charged: outcome.charged,
        fits: outcome.fits,
        retry_after: outcome.wait.filter(|_| !outcome.fits),
        full_after: outcome.until_full,
    }
}
