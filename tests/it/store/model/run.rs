//! One history, run on a store and on the model side by side.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tollgate::limit::{
    self, Effect, Formula, HeldCharge, LeaseTerms, Limit, MissingUsage, Mode, Rate, Settlement,
    Timestamp, Usage, Weight,
};
use tollgate::store::{
    Admission, Charge, EndResult, Ending, Hold, HoldKey, Readings, Record, RecordedCharge, Verdict,
};

use super::history::{BUCKETS, Charged, History, Operation};
use super::naive::{Asked, Bucket, End, Held, Meaning, Naive, Told};
use crate::store::fixture::{self, Fixture, START, admission, key, token_bucket};
use crate::store::leasing::{may_be_leased, with_lease};
use crate::support::tasks::in_order;

/// The name of a bucket of a case: no other case has it.
pub(super) fn bucket_name(case: usize, bucket: usize) -> String {
    format!("{case}/{bucket}")
}

pub(super) struct Run<'a> {
    fixture: &'a Fixture,
    case: usize,
    history: &'a History,
    limits: Vec<Limit>,
    naive: Naive,
    batches: usize,
    refusals_remembered: bool,
    leases_beside: bool,
}

enum Request {
    Admit(Admission),
    End(Ending),
}

/// What the model says to a request.
struct Expected {
    outcome: &'static str,
    told: Told,
    asked: Vec<Asked>,
}

/// What a store says to it.
struct Answer {
    outcome: &'static str,
    now: Timestamp,
    readings: Readings,
}

impl<'a> Run<'a> {
    pub(super) fn new(fixture: &'a Fixture, case: usize, history: &'a History) -> Self {
        fixture.clock.set(START);
        let naive = Naive {
            now: i128::from(START.as_micros()),
            ..Naive::default()
        };
        Self {
            fixture,
            case,
            history,
            limits: history.limits.clone(),
            naive,
            batches: 0,
            refusals_remembered: false,
            leases_beside: false,
        }
    }

    /// For a store with leases: each operation goes together with some that are let in by a lease of
    /// another bucket. What may not be granted by a lease has one all the same.
    pub(super) fn with_leases_beside(self) -> Self {
        Self {
            leases_beside: true,
            ..self
        }
    }

    /// For a store that refuses without asking: what comes at one moment is asked one after the
    /// other, and what a refusal tells of its buckets may be what was known before.
    pub(super) fn with_refusals_remembered(self) -> Self {
        Self {
            refusals_remembered: true,
            ..self
        }
    }

    /// Returns what the model holds in the end, and how many batches were sent.
    pub(super) async fn finish(mut self) -> Result<(Naive, usize), TestCaseError> {
        for step in &self.history.steps {
            self.naive.now += i128::from(step.moves);
            let now = u64::try_from(self.naive.now).unwrap();
            self.fixture.clock.set(Timestamp::from_micros(now));
            if let Some((bucket, limit)) = step.change {
                self.limits[bucket] = limit;
            }
            let mut batch = Vec::new();
            for operation in &step.operations {
                // Within one call a bucket refills once, by the first limit that it is held to.
                // So what goes by an outdated limit goes alone.
                let alone = match operation {
                    Operation::Admit { .. } => self.refusals_remembered || self.leases_beside,
                    Operation::End { id, .. } => {
                        self.leases_beside || self.naive.is_outdated(*id, &self.limits)
                    }
                };
                if alone {
                    self.send(&mut batch).await?;
                }
                batch.push(operation);
                if alone {
                    self.send(&mut batch).await?;
                }
            }
            self.send(&mut batch).await?;
        }
        for bucket in 0..BUCKETS {
            let look = Charged::look(bucket);
            let operation = Operation::Admit {
                charges: vec![look],
                peek: true,
                id: None,
            };
            self.send(&mut vec![&operation]).await?;
        }
        Ok((self.naive, self.batches))
    }

    async fn send(&mut self, batch: &mut Vec<&Operation>) -> Result<(), TestCaseError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.batches += 1;
        let mut expected = Vec::new();
        for part in self.parts_of_call(batch) {
            expected.extend(
                part.into_iter()
                    .map(|index| (index, self.expect(batch[index]))),
            );
            self.naive.forget_full();
        }
        expected.sort_by_key(|(index, _)| *index);
        let store = self.fixture;
        let requests = batch.drain(..).map(|operation| self.request(operation));
        let beside = self.beside().map(Request::Admit);
        let all = requests.chain(beside);
        let mut answers = in_order(all.map(|request| answer(store, request))).await;
        let beside = answers.split_off(expected.len());
        for (answer, (_, expected)) in answers.into_iter().zip(expected) {
            self.compare(&answer, &expected)?;
        }
        for answer in beside {
            prop_assert_eq!(answer.outcome, "Admitted");
        }
        if self.leases_beside && self.batches.is_multiple_of(4) {
            store.renewals_end().await;
        }
        Ok(())
    }

    /// What is asked beside an operation: as much as makes a lease worth while, and of so much that
    /// there is always enough for all operations of a history.
    fn beside(&self) -> impl Iterator<Item = Admission> + use<> {
        let limit = token_bucket(1, Rate::MAX_PERIOD, 10_000);
        let asked = with_lease(fixture::charge(&format!("beside {}", self.case), limit, 1));
        let times = if self.leases_beside { 5 } else { 0 };
        (0..times).map(move |_| admission([asked]))
    }

    /// In which order the operations of one call are done: plain charges by bucket, then the rest.
    /// Each part reads and writes its buckets by itself.
    fn parts_of_call(&self, batch: &[&Operation]) -> [Vec<usize>; 2] {
        if self.fixture.in_memory() {
            return [(0..batch.len()).collect(), Vec::new()];
        }
        let bucket = |index: &usize| match batch[*index] {
            Operation::Admit {
                charges,
                peek: false,
                id: None,
            } if charges.len() == 1 => Some(charges[0].bucket),
            _ => None,
        };
        let (mut plain, rest): (Vec<_>, Vec<_>) =
            (0..batch.len()).partition(|index| bucket(index).is_some());
        plain.sort_by_key(bucket);
        [plain, rest]
    }

    fn compare(&self, answer: &Answer, expected: &Expected) -> Result<(), TestCaseError> {
        prop_assert_eq!(answer.outcome, expected.outcome);
        prop_assert_eq!(i128::from(answer.now.as_micros()), self.naive.now);
        if self.refusals_remembered && answer.outcome == "Refused" {
            return Ok(());
        }
        let told: Told = answer
            .readings
            .iter()
            .map(|reading| {
                let Bucket {
                    spent, fraction, ..
                } = Bucket::from(reading.bucket);
                (reading.fits, spent, fraction)
            })
            .collect();
        prop_assert_eq!(&told, &expected.told, "after {}", expected.outcome);
        let backwards = self.history.steps.iter().any(|step| step.moves < 0);
        if backwards {
            // How long a bucket whose time is ahead of the clock's has to wait, only it knows.
            return Ok(());
        }
        for (asked, reading) in expected.asked.iter().zip(&answer.readings) {
            let told = reading
                .bucket
                .wait(&asked.limit, asked.threshold(), answer.now)
                .map(|wait| i128::try_from(wait.as_micros()).unwrap());
            let expected = asked.wait(&reading.bucket.into(), self.naive.now);
            let expected = expected.map(|wait| wait.min(i128::from(u64::MAX)));
            prop_assert_eq!(told, expected, "{:?} of {:?}", asked, reading);
        }
        Ok(())
    }

    fn expect(&mut self, operation: &Operation) -> Expected {
        if self.fixture.in_memory() {
            self.naive.forget_full();
        }
        let lifetime = i128::from(self.history.lifetime);
        match operation {
            Operation::Admit { charges, peek, id } => {
                let asked = self.asked(charges);
                let hold = id.map(|id| (id, lifetime));
                let (outcome, told) = self.naive.admit(&asked, *peek, hold);
                Expected {
                    outcome,
                    told,
                    asked,
                }
            }
            Operation::End { id, end, fallback } => {
                let fallback = self.asked(fallback);
                let (outcome, told) = self.naive.end(*id, lifetime, *end, &fallback);
                Expected {
                    outcome,
                    told,
                    asked: Vec::new(),
                }
            }
        }
    }

    fn request(&self, operation: &Operation) -> Request {
        let lifetime = Duration::from_micros(self.history.lifetime);
        match operation {
            Operation::Admit { charges, peek, id } => {
                let asked = self.asked(charges);
                let recorded = asked.iter().map(|asked| RecordedCharge {
                    key: key(&bucket_name(self.case, asked.bucket)),
                    label: Arc::from("label"),
                    held: asked.held.plain(),
                    group: None,
                });
                let hold = id.map(|id| Hold {
                    key: self.hold_key(id),
                    fresh: false,
                    only_tells_retries: false,
                    lifetime,
                    record: Record {
                        domain: Arc::from("llm"),
                        charges: recorded.collect(),
                    },
                });
                let mut admission = Admission {
                    charges: asked.iter().map(|asked| self.charge(asked)).collect(),
                    mode: if *peek { Mode::Peek } else { Mode::Apply },
                    hold,
                    keep_when_late: false,
                };
                if self.leases_beside && !may_be_leased(&admission) {
                    for charge in &mut admission.charges {
                        // So long that a few requests would be enough to take one.
                        charge.lease = Some(LeaseTerms {
                            max: 1000,
                            ttl: Rate::MAX_PERIOD,
                        });
                    }
                }
                Request::Admit(admission)
            }
            Operation::End { id, end, fallback } => Request::End(Ending {
                key: self.hold_key(*id),
                settlement: match *end {
                    End::Release => Settlement::Release,
                    End::Measured(counts) => Settlement::Settle(Usage::Measured(counts)),
                    End::Missing => Settlement::Settle(Usage::Missing),
                    End::Total(total) => Settlement::Settle(Usage::Total(total)),
                    End::SoFar(counts) => Settlement::SoFar(counts),
                    End::AtLeast(counts) => Settlement::Settle(Usage::AtLeast(counts)),
                },
                fallback: self
                    .asked(fallback)
                    .iter()
                    .map(|asked| self.charge(asked))
                    .collect(),
                lifetime,
            }),
        }
    }

    fn asked(&self, charges: &[Charged]) -> Vec<Asked> {
        charges
            .iter()
            .map(|charged| {
                let limit = self.limits[charged.bucket];
                Asked {
                    bucket: charged.bucket,
                    limit,
                    cost: charged.cost,
                    headroom: charged.headroom,
                    effect: charged.effect,
                    held: Held {
                        bucket: charged.bucket,
                        limit,
                        amount: u64::try_from(charged.cost).unwrap_or(0),
                        fixed: charged.fixed,
                        weights: charged.weights,
                        missing_gives_back: charged.missing_gives_back,
                    },
                }
            })
            .collect()
    }

    fn charge(&self, asked: &Asked) -> Charge {
        Charge {
            key: key(&bucket_name(self.case, asked.bucket)),
            charge: limit::Charge {
                limit: asked.limit,
                amount: asked.cost,
                threshold: asked.threshold(),
                effect: match asked.effect {
                    Meaning::Enforce => Effect::Enforce,
                    Meaning::Quota => Effect::Quota,
                    Meaning::Record => Effect::Record,
                    Meaning::Shadow => Effect::Shadow,
                },
            },
            settles: asked.held.plain().settles(),
            lease: None,
        }
    }

    fn hold_key(&self, id: usize) -> HoldKey {
        HoldKey::of("llm", &format!("{}/{id}", self.case))
    }
}

impl Asked {
    fn threshold(&self) -> Option<u64> {
        self.limit.threshold(self.cost, self.headroom)
    }
}

impl Held {
    fn plain(&self) -> HeldCharge {
        let weight = |thousandths| Weight::from_thousandths(thousandths).unwrap();
        HeldCharge {
            limit: self.limit,
            amount: self.amount,
            fixed: self.fixed,
            formula: Formula {
                tokens: self.weights.map(weight),
                ..Formula::default()
            },
            again: false,
            missing_usage: if self.missing_gives_back {
                MissingUsage::Release
            } else {
                MissingUsage::Keep
            },
        }
    }
}

impl From<limit::Bucket> for Bucket {
    fn from(bucket: limit::Bucket) -> Self {
        Self {
            spent: i128::from(bucket.spent),
            fraction: i128::from(bucket.fraction),
            ..Self::default()
        }
    }
}

async fn answer(fixture: &Fixture, request: Request) -> Answer {
    match request {
        Request::Admit(admission) => {
            let decision = fixture.store.admit(admission).await.unwrap();
            Answer {
                outcome: match decision.verdict {
                    Verdict::Admitted => "Admitted",
                    Verdict::Refused => "Refused",
                    Verdict::Repeated => "Repeated",
                },
                now: decision.now,
                readings: decision.readings,
            }
        }
        Request::End(ending) => {
            let ended = fixture.store.end(ending).await.unwrap();
            Answer {
                outcome: match ended.result {
                    EndResult::Already => "Already",
                    EndResult::Charged => "Charged",
                    EndResult::Grown { .. } => "Grown",
                    EndResult::Settled { .. } => "Settled",
                    EndResult::Unknown => "Unknown",
                },
                now: ended.now,
                readings: ended.readings,
            }
        }
    }
}
