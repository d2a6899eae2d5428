//! A request wants in, or wants to know whether it would get in.

use std::sync::Arc;
use std::time::Duration;

use super::answer::Answer;
use super::budget::Moved;
use super::control::{Control, Phase};
use super::ids::id_of_retry;
use super::outcome::Outcome;
use super::plan::Plan;
use super::policy::Policy;
use super::request::{Request, RequestError};
use super::{Service, report};
use crate::clock;
use crate::limit::{Effect, HeldCharge, Mode};
use crate::metrics::ReportLabel;
use crate::rules::OnStoreError;
use crate::store::{Admission, Charges, Hold, HoldKey, Record, RecordedCharge, Verdict};

/// How long the same request may come again where nothing else has to be remembered of it.
pub(super) const RETRY_TIME: Duration = Duration::from_mins(1);

/// What the caller is told when the store does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Undecided {
    /// What `on_store_error` says. A request that is let through keeps its charges, should they
    /// have been made after all.
    ByPolicy,
    /// That it failed. Charges that were made after all are given back.
    AsError,
}

impl Service {
    /// Answers a request of Envoy's, whatever its phase.
    pub async fn should_rate_limit(&self, request: &Request<'_>) -> Result<Answer, RequestError> {
        let answer = self.answer(request).await;
        if let Err(error) = &answer {
            self.invalid(error, request.domain);
        }
        answer
    }

    async fn answer(&self, request: &Request<'_>) -> Result<Answer, RequestError> {
        let too_long = match request.check() {
            Ok(()) => false,
            Err(RequestError::TextTooLong) => true,
            Err(error) => return Err(error),
        };
        let Some(policy) = self.policy(request.domain)? else {
            self.metrics().unknown_domain_requests.inc();
            return Ok(Answer::unlimited(request.descriptors.len()));
        };
        let control = Control::of(request)?;
        if too_long {
            return Ok(self.refuse_long_texts(&policy, request, control.phase));
        }
        match control.phase {
            phase @ (Phase::Admit | Phase::Peek) => {
                let mode = if phase == Phase::Peek {
                    Mode::Peek
                } else {
                    Mode::Apply
                };
                let outcome = self.decide(&policy, request, &control, mode).await?;
                Ok(Answer::of(outcome, &policy.domain.answer))
            }
            Phase::Report => {
                let source = report::Source::Envoy;
                // Apart, so that admissions need no room for it.
                Box::pin(self.report(policy, request, &control, source)).await?;
                // Nobody reads it: what was used was used.
                Ok(Answer::unlimited(request.descriptors.len()))
            }
        }
    }

    /// A client can make its headers long, and an error would let it pass wherever Envoy fails
    /// open.
    fn refuse_long_texts(&self, policy: &Policy, request: &Request<'_>, phase: Phase) -> Answer {
        self.invalid(&RequestError::TextTooLong, request.domain);
        match phase {
            Phase::Admit => policy.metrics.over_limit.inc(),
            Phase::Peek => {}
            Phase::Report => {
                let source = report::Source::Envoy;
                self.metrics()
                    .count_report(source.name(), ReportLabel::Invalid);
            }
        }
        Answer::refused(request.descriptors.len())
    }

    async fn decide<'p>(
        &self,
        policy: &'p Policy,
        request: &Request<'_>,
        control: &Control<'_>,
        mode: Mode,
    ) -> Result<Outcome<'p>, RequestError> {
        let begun = clock::instant();
        let outcome = self
            .admit(policy, request, control, mode, Undecided::ByPolicy)
            .await;
        let took = clock::instant().saturating_duration_since(begun);
        self.metrics().decision_duration.observe(took.as_secs_f64());
        outcome
    }

    /// Decides over an admission.
    pub(super) async fn admit<'p>(
        &self,
        policy: &'p Policy,
        request: &Request<'_>,
        control: &Control<'_>,
        mode: Mode,
        undecided: Undecided,
    ) -> Result<Outcome<'p>, RequestError> {
        let plan = self.plan(policy, request, control)?;
        if plan
            .descriptors
            .iter()
            .any(|descriptor| descriptor.bad_count)
        {
            self.metrics().count_invalid_request("bad_count");
            if mode == Mode::Apply {
                policy.metrics.over_limit.inc();
            }
            return Ok(Outcome::without_decision(plan, Verdict::Refused, false));
        }
        if plan.charges.is_empty() {
            if mode == Mode::Apply {
                policy.metrics.ok.inc();
            }
            return Ok(Outcome::without_decision(plan, Verdict::Admitted, false));
        }
        let deny = plan.charges.iter().any(|planned| {
            planned.effect == Effect::Enforce && planned.limit.on_store_error == OnStoreError::Deny
        });
        let charges: Charges = plan
            .charges
            .iter()
            .map(super::plan::Planned::charge)
            .collect();
        let (hold, reservation) = match mode {
            Mode::Apply => self.hold(policy, request, control, &plan),
            Mode::Peek => (None, None),
        };
        let admission = Admission {
            charges,
            mode,
            hold,
            keep_when_late: !deny && undecided == Undecided::ByPolicy,
        };

        let begun = clock::instant();
        let decided = self.0.store.admit(admission).await;
        let took = clock::instant().saturating_duration_since(begun);
        self.metrics().store_duration.observe(took.as_secs_f64());
        match decided {
            Ok(decision) => {
                self.0.estimates.tell_time(decision.now);
                let reservation = reservation.filter(|_| decision.verdict != Verdict::Refused);
                let outcome = Outcome::decided(plan, &decision, mode, reservation);
                if mode == Mode::Apply {
                    if outcome.reservation.is_some() && decision.verdict == Verdict::Admitted {
                        self.metrics().reservations_opened.inc();
                    }
                    count(policy, &outcome);
                }
                Ok(outcome)
            }
            Err(error) => {
                self.store_failed(&error);
                if mode == Mode::Apply {
                    policy.without_store(deny).inc();
                }
                let result = if deny {
                    Verdict::Refused
                } else {
                    Verdict::Admitted
                };
                Ok(Outcome::without_decision(plan, result, true))
            }
        }
    }

    /// The reservation to make, and the id to hand out for it.
    ///
    /// One is made where a report can change a charge, where the caller named one, and where a
    /// retry could be told by Envoy's request id. Only in the first two cases is there somebody to
    /// hand an id to.
    fn hold(
        &self,
        policy: &Policy,
        request: &Request<'_>,
        control: &Control<'_>,
        plan: &Plan<'_>,
    ) -> (Option<Hold>, Option<String>) {
        let settles = plan
            .charges
            .iter()
            .any(|planned| planned.settles() && planned.effect != Effect::Record);
        let (id, fresh) = match (control.id, request.request_id) {
            (Some(id), _) => (id.to_owned(), false),
            (None, Some(request_id)) => (id_of_retry(request_id, &plan.charges), false),
            (None, None) if settles => (self.0.ids.new_id(), true),
            (None, None) => return (None, None),
        };
        let handed_out = settles || control.id.is_some();
        let record = Record {
            domain: Arc::clone(&policy.name),
            charges: record_charges(policy, plan),
        };
        let hold = Hold {
            key: HoldKey::of(&policy.name, &id),
            fresh,
            lifetime: if handed_out {
                self.0.options.hold_time
            } else {
                RETRY_TIME
            },
            only_tells_retries: !handed_out,
            record,
        };
        (Some(hold), handed_out.then_some(id))
    }
}

/// What is remembered of each charge. Of several token charges on one bucket the first settles for
/// all.
fn record_charges(policy: &Policy, plan: &Plan<'_>) -> Vec<RecordedCharge> {
    let mut charges: Vec<RecordedCharge> = Vec::with_capacity(plan.charges.len());
    for planned in &plan.charges {
        let mut fixed = planned.cost.fixed;
        let mut again = false;
        let same = |charge: &&mut RecordedCharge| charge.key == planned.key;
        if planned.settles()
            && let Some(first) = charges.iter_mut().find(same)
        {
            first.held.fixed = first.held.fixed.saturating_add(fixed);
            (fixed, again) = (0, true);
        }
        charges.push(RecordedCharge {
            key: planned.key,
            label: policy.label(&planned.limit, planned.is_override()),
            held: HeldCharge {
                limit: planned.terms,
                amount: u64::try_from(planned.cost.amount).unwrap_or(0),
                fixed,
                formula: planned.limit.formula,
                missing_usage: planned.limit.missing_usage,
                again,
            },
            group: planned.group.filter(|_| planned.settles()),
        });
    }
    charges
}

fn count(policy: &Policy, outcome: &Outcome<'_>) {
    if outcome.refused() {
        policy.metrics.over_limit.inc();
    } else {
        policy.metrics.ok.inc();
    }
    if outcome.result == Verdict::Repeated {
        return;
    }
    for limit in &outcome.limits {
        let series = &policy.series(&limit.limit, limit.is_override()).metrics;
        // A quota that is over while another one has room refuses nobody.
        let refuses = limit.over && outcome.refused();
        if limit.fits {
            series.admitted.inc();
        } else if refuses {
            series.refused.inc();
            series
                .hits_refused
                .inc_by(limit.amount.max(0).unsigned_abs());
        } else {
            series.shadowed.inc();
        }
        if limit.charged > 0 && limit.limit.budget.is_some() {
            let moved = Moved {
                key: limit.key,
                terms: limit.terms,
                charged: limit.charged,
                level: limit.level,
            };
            policy.budgets.tell(&policy.name, limit.limit.index, moved);
        }
        if limit.charged < 0 {
            series.hits_refunded.inc_by(limit.charged.unsigned_abs());
        } else if !refuses {
            series.hits_admitted.inc_by(limit.charged.unsigned_abs());
        }
    }
}
