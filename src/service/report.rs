//! Somebody says what a request used.
//!
//! Reports are never refused for lack of room, and their answer interests nobody: Envoy may even
//! cut the call off. So the work goes on in a task of its own, and is tried again when the store
//! fails. Every report has a key, its reservation's or its own, so that it counts once.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::Service;
use super::admission::RETRY_TIME;
use super::api::{BucketView, ReportAnswer, ReportResult};
use super::budget::Moved;
use super::control::Control;
use super::ids::id_of_report;
use super::origin::{cut_short, never_sent};
use super::plan::Addend;
use super::policy::Policy;
use super::request::{Request, RequestError};
use super::statistics::Used;
use crate::limit::{Limit, Settlement, Timestamp, Usage};
use crate::metrics::ReportLabel;
use crate::rules::BucketKey;
use crate::store::{Charges, EndResult, Ended, Ending, HoldKey, Readings, Record, StoreError};

/// When a report that ends a reservation is tried again.
const RETRIES: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
];

/// Where a report came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Envoy's access log stream.
    AccessLog,
    /// Our gRPC API, or our HTTP API.
    Api,
    /// Envoy's own call at the end of a stream.
    Envoy,
    /// The body of an answer, as Envoy showed it while it passed.
    ExtProc,
}

impl Source {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::AccessLog, Self::Api, Self::Envoy, Self::ExtProc];

    /// Its name, for a metric's label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AccessLog => "access_log",
            Self::Api => "api",
            Self::Envoy => "envoy",
            Self::ExtProc => "ext_proc",
        }
    }
}

/// What a report says to do.
struct Work {
    policy: Arc<Policy>,
    ending: Ending,
    /// What the fallback's charges are called, in their order.
    fallback: SmallVec<[Charged; 4]>,
    source: Source,
}

/// One charge, as it is told afterwards.
struct Charged {
    label: Arc<str>,
    key: BucketKey,
    limit: Limit,
    amount: i64,
    /// What is told about its tokens, if it counts any.
    used: Option<Used>,
}

impl Service {
    /// Does what a report says.
    pub(super) async fn report(
        &self,
        policy: Arc<Policy>,
        request: &Request<'_>,
        control: &Control<'_>,
        source: Source,
    ) -> Result<ReportAnswer, RequestError> {
        let plan = self.plan(&policy, request, control)?;
        let usage = usage(request, control, source);
        let bad = control.bad_count || plan.descriptors.iter().any(|planned| planned.bad_count);
        let Some(usage) = usage.filter(|_| !bad) else {
            self.metrics()
                .count_report(source.name(), ReportLabel::Invalid);
            return Ok(ReportAnswer::nothing(ReportResult::Invalid));
        };
        let (charges, fallback): (Charges, SmallVec<[Charged; 4]>) = plan
            .charges
            .iter()
            .filter(|planned| planned.cost.amount != 0)
            .map(|planned| {
                let charged = Charged {
                    label: policy.label(&planned.limit, planned.is_override()),
                    key: planned.key,
                    limit: planned.terms,
                    amount: planned.cost.amount,
                    used: planned.settles().then(|| Used::without_reservation(usage)),
                };
                (planned.charge(), charged)
            })
            .unzip();
        // Where no reservation is named, the key only tells whether the report came before: when
        // Envoy, or we, try again.
        let (id, lifetime) = match (control.id, request.request_id) {
            (Some(id), _) => (id.to_owned(), self.0.options.hold_time),
            (None, _) if charges.is_empty() => {
                self.metrics()
                    .count_report(source.name(), ReportLabel::WithoutUsage);
                return Ok(ReportAnswer::nothing(ReportResult::WithoutUsage));
            }
            // Of all buckets, not only those that this report charges: another way in may have found
            // something to charge the others with.
            (None, Some(request_id)) => (id_of_report(request_id, &plan.charges), RETRY_TIME),
            (None, None) => (self.0.ids.new_id(), RETRY_TIME),
        };
        let ending = Ending {
            key: HoldKey::of(&policy.name, &id),
            settlement: Settlement::Settle(usage),
            fallback: charges,
            lifetime,
        };
        let work = Work {
            policy: Arc::clone(&policy),
            ending,
            fallback,
            source,
        };
        Ok(self.work(work).await)
    }

    /// Gives back a reservation.
    pub(super) async fn release_in(&self, policy: Arc<Policy>, id: &str) -> ReportAnswer {
        let ending = Ending {
            key: HoldKey::of(&policy.name, id),
            settlement: Settlement::Release,
            fallback: Charges::new(),
            lifetime: self.0.options.hold_time,
        };
        self.work(Work {
            policy,
            ending,
            fallback: SmallVec::new(),
            source: Source::Api,
        })
        .await
    }

    /// Has a reservation go on with what was used so far.
    pub(super) async fn grow_in(
        &self,
        policy: Arc<Policy>,
        id: &str,
        counts: [u64; 4],
        source: Source,
    ) -> ReportAnswer {
        let ending = Ending {
            key: HoldKey::of(&policy.name, id),
            settlement: Settlement::SoFar(counts),
            fallback: Charges::new(),
            lifetime: self.0.options.hold_time,
        };
        self.work(Work {
            policy,
            ending,
            fallback: SmallVec::new(),
            source,
        })
        .await
    }

    async fn work(&self, work: Work) -> ReportAnswer {
        let service = self.clone();
        let failed = |_| ReportAnswer::nothing(ReportResult::Failed);
        self.0
            .reports
            .spawn(async move { service.do_work(work).await })
            .await
            .unwrap_or_else(failed)
    }

    async fn do_work(&self, work: Work) -> ReportAnswer {
        let source = work.source.name();
        let (answer, label) = match self.end(&work.ending).await {
            Ok(ended) => self.tell_ended(&work, &ended),
            Err(error) => {
                self.store_failed(&error);
                (
                    ReportAnswer::nothing(ReportResult::Failed),
                    ReportLabel::Failed,
                )
            }
        };
        self.metrics().count_report(source, label);
        answer
    }

    async fn end(&self, ending: &Ending) -> Result<Ended, StoreError> {
        // Not a release: its id is free again once it is done, and a second try could release
        // what was reserved anew. Nor progress: more of it comes, and the end says it all.
        if matches!(
            ending.settlement,
            Settlement::Release | Settlement::SoFar(_)
        ) {
            return self.0.store.end(ending.clone()).await;
        }
        for pause in RETRIES {
            match self.0.store.end(ending.clone()).await {
                Ok(ended) => return Ok(ended),
                Err(error) => self.store_failed(&error),
            }
            tokio::time::sleep(pause).await;
        }
        self.0.store.end(ending.clone()).await
    }

    fn tell_ended(&self, work: &Work, ended: &Ended) -> (ReportAnswer, ReportLabel) {
        let ending = &work.ending;
        match &ended.result {
            EndResult::Already => (
                ReportAnswer::nothing(ReportResult::AlreadySettled),
                ReportLabel::AlreadySettled,
            ),
            EndResult::Charged => {
                let buckets = self.tell_charged(work, ended.now, &ended.readings);
                (
                    ReportAnswer {
                        result: ReportResult::Charged,
                        buckets,
                    },
                    ReportLabel::Charged,
                )
            }
            EndResult::Grown { record, made } | EndResult::Settled { record, made } => {
                let used = Used::of_record(record, ending.settlement);
                let charged: SmallVec<[Charged; 4]> = record
                    .charges
                    .iter()
                    .zip(used)
                    .map(|(recorded, used)| Charged {
                        label: Arc::clone(&recorded.label),
                        key: recorded.key,
                        limit: recorded.held.limit,
                        amount: recorded
                            .held
                            .correction(ending.settlement, *made, ended.now),
                        used,
                    })
                    .collect();
                let (result, label) = match ending.settlement {
                    Settlement::Release => (ReportResult::Released, ReportLabel::Released),
                    Settlement::SoFar(_) => (ReportResult::Grown, ReportLabel::Grown),
                    Settlement::Settle(Usage::Missing) => {
                        (ReportResult::Settled, ReportLabel::WithoutUsage)
                    }
                    Settlement::Settle(_) => (ReportResult::Settled, ReportLabel::Settled),
                };
                if matches!(ended.result, EndResult::Settled { .. }) {
                    self.metrics().count_reservation_ended(label);
                    self.learn(record, ending.settlement, ended.now);
                }
                let buckets = self.tell(&work.policy, &charged, ended.now, &ended.readings);
                (ReportAnswer { result, buckets }, label)
            }
            EndResult::Unknown => (
                ReportAnswer::nothing(ReportResult::UnknownId),
                ReportLabel::UnknownId,
            ),
        }
    }

    /// Has estimates learn what the request used.
    fn learn(&self, record: &Record, settlement: Settlement, now: Timestamp) {
        let Settlement::Settle(usage) = settlement else {
            return;
        };
        // Nothing was used where nothing was answered: that is no example of an answer. What was used
        // and costs one limit nothing is an example of what it costs that limit.
        if matches!(usage, Usage::Measured([0, 0, 0, 0]) | Usage::Total(0)) {
            return;
        }
        for charge in &record.charges {
            if let (Some(group), Some(cost)) = (charge.group, charge.held.token_cost(usage)) {
                self.0.estimates.record(group, cost, now);
            }
        }
    }

    fn tell_charged(&self, work: &Work, now: Timestamp, readings: &Readings) -> Vec<BucketView> {
        self.tell(&work.policy, &work.fallback, now, readings)
    }

    /// Counts what was charged and says where the buckets stand.
    fn tell(
        &self,
        policy: &Policy,
        charged: &[Charged],
        now: Timestamp,
        readings: &Readings,
    ) -> Vec<BucketView> {
        charged
            .iter()
            .zip(readings)
            .map(|(charged, reading)| {
                let unknown;
                let series = if let Some(series) = policy.series_named(&charged.label) {
                    series
                } else {
                    let counts_tokens = charged.used.is_some();
                    let (domain, label) = (&policy.name, &charged.label);
                    unknown = self.metrics().limit(domain, label, counts_tokens);
                    &unknown
                };
                if charged.amount < 0 {
                    series.hits_refunded.inc_by(charged.amount.unsigned_abs());
                } else {
                    series.hits_settled.inc_by(charged.amount.unsigned_abs());
                }
                let level = reading.bucket.level(&charged.limit);
                if let (Some(used), Some(series)) = (charged.used, &series.tokens) {
                    used.observe(level, series);
                }
                let moved = Moved {
                    key: charged.key,
                    terms: charged.limit,
                    charged: charged.amount,
                    level,
                };
                let (domain, label) = (&policy.name, &charged.label);
                policy.budgets.tell_report(domain, label, moved);
                BucketView {
                    limit: charged.label.to_string(),
                    key: charged.key,
                    terms: charged.limit,
                    level,
                    charged: charged.amount,
                    fits: true,
                    retry_after: None,
                    full_after: reading.bucket.until_full(&charged.limit, now),
                }
            })
            .collect()
    }
}

/// What a report says was used; `None`: it says something that cannot be.
///
/// Several plain addends are several ways to say the same (one descriptor a limit): the largest
/// counts.
fn usage(request: &Request<'_>, control: &Control<'_>, source: Source) -> Option<Usage> {
    if let Some(counts) = control.counts {
        let cut = control.outcome.is_some_and(cut_short);
        return Some(if cut {
            Usage::AtLeast(counts)
        } else {
            Usage::Measured(counts)
        });
    }
    if let Some(total) = control.total {
        return Some(Usage::Total(total));
    }
    let mut largest = None;
    for descriptor in &request.descriptors {
        match Addend::of(request, descriptor) {
            Addend::Bad => return None,
            Addend::None | Addend::Refund(_) => {}
            Addend::Take(addend) => largest = largest.max(Some(addend)),
        }
    }
    Some(match (largest, source) {
        // Envoy's stream-done call sends a zero where it found no usage.
        (None, _) | (Some(0), Source::Envoy) if control.outcome.is_some_and(never_sent) => {
            Usage::Measured([0; 4])
        }
        (None, _) | (Some(0), Source::Envoy) => Usage::Missing,
        (Some(total), _) => Usage::Total(total),
    })
}
