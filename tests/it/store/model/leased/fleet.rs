//! Some replicas with leases of one bucket, and what they let in.

use std::time::Duration;

use tollgate::limit::{LeaseTerms, Limit, TRAVEL};
use tollgate::store::{Charge, Store, Verdict};

use super::super::naive::Naive;
use super::super::never_over::Taken;
use crate::store::fixture::{Fixture, START, Vary as _, admission, charge};
use crate::store::leasing::{Events, Happened, renewals_end};
use crate::support::tasks::in_order;

/// What is done at one moment, after a pause.
#[derive(Clone, Debug)]
pub(super) struct Moment {
    pub(super) pause: Duration,
    /// Whether what comes then does not wait until renewals have ended.
    pub(super) hurries: bool,
    pub(super) acts: Vec<Act>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    /// A replica is asked so many times at once.
    Ask {
        replica: usize,
        cost: i64,
        times: usize,
    },
    /// One ends at once, and another comes for it.
    Crash(usize),
    /// One ends as it should, and another comes for it.
    Leave(usize),
    /// Somebody without leases tells what was used, or gives back, if it is below zero.
    Report(i64),
}

/// Pauses up to this are shorter together than anything that is on its way may take.
const SHORT: Duration = Duration::from_millis(50);

/// What would be spent if only what was let in had been charged, when it was let in.
pub(super) const LET_IN: usize = 0;

/// The same, and what was dropped, when that was heard of, which is never too early.
pub(super) const WITH_DROPPED: usize = 1;

pub(super) struct Fleet<'f> {
    fixture: &'f Fixture,
    name: String,
    limit: Limit,
    terms: LeaseTerms,
    replicas: Vec<(Store, Events)>,
    /// What happened to the leases of those that ended.
    happened: Happened,
    crashes: u64,
    taken: Vec<Taken>,
    /// Two buckets: [`LET_IN`] and [`WITH_DROPPED`].
    naive: Naive,
    /// What was dropped and counted so far.
    dropped: u64,
    /// What was let in since the replicas last had nothing to do, and when that was.
    busy: (u64, Duration),
}

/// What is known at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) happened: Happened,
    pub(super) crashes: u64,
    /// What Redis says is spent.
    pub(super) spent: u64,
    /// As [`LET_IN`].
    pub(super) let_in: u64,
}

impl<'f> Fleet<'f> {
    pub(super) fn start(
        fixture: &'f Fixture,
        name: String,
        (limit, terms): (Limit, LeaseTerms),
        replicas: usize,
    ) -> Self {
        fixture.clock.set(START);
        Self {
            fixture,
            name,
            limit,
            terms,
            replicas: (0..replicas).map(|_| replica(fixture)).collect(),
            happened: Happened::default(),
            crashes: 0,
            taken: Vec::new(),
            naive: Naive::default(),
            dropped: 0,
            busy: (0, Duration::ZERO),
        }
    }

    pub(super) fn taken(&self) -> &[Taken] {
        &self.taken
    }

    pub(super) async fn pass(&mut self, moment: &Moment) {
        self.pause(moment.pause).await;
        for act in &moment.acts {
            let amount = match *act {
                Act::Ask {
                    replica,
                    cost,
                    times,
                } => self.ask(replica, cost, times).await,
                Act::Crash(replica) => {
                    // Dropped as it is.
                    let _: Store = self.replace(replica);
                    self.crashes += 1;
                    0
                }
                Act::Leave(replica) => {
                    self.leave(replica).await;
                    0
                }
                Act::Report(cost) => self.report(cost).await,
            };
            self.note(amount);
            if !moment.hurries {
                self.renewals_end().await;
            }
        }
    }

    /// Lets time pass. What is on its way arrives before a longer pause, and what ends in it is given
    /// up in time.
    pub(super) async fn pause(&mut self, pause: Duration) {
        let clock = self.fixture.clock.clone();
        if pause <= SHORT {
            clock.advance(pause);
        } else {
            let first = pause.min(self.terms.ttl);
            for pause in [first, pause.saturating_sub(first)] {
                self.come_to_rest().await;
                self.note_dropped();
                clock.advance(pause);
            }
        }
        if pause >= self.terms.ttl / 2 {
            self.busy = (0, Duration::ZERO);
        } else {
            self.busy.1 += pause;
        }
        self.naive.now = i128::from(clock.now().as_micros());
    }

    async fn come_to_rest(&self) {
        self.renewals_end().await;
        for (store, _) in &self.replicas {
            store.expire_leases().await;
        }
    }

    pub(super) async fn renewals_end(&self) {
        let replicas = self.replicas.iter();
        in_order(replicas.map(|(store, events)| renewals_end(store, events))).await;
    }

    async fn ask(&self, replica: usize, cost: i64, times: usize) -> i128 {
        let (store, _) = &self.replicas[replica % self.replicas.len()];
        let asked = Charge {
            lease: Some(self.terms),
            ..charge(&self.name, self.limit, cost)
        };
        let asks = (0..times).map(|_| store.admit(admission([asked])));
        let decisions = in_order(asks).await.into_iter();
        let admitted = decisions.filter(|decision| {
            let decision = decision.as_ref().unwrap();
            decision.verdict == Verdict::Admitted
        });
        i128::try_from(admitted.count()).unwrap() * i128::from(cost)
    }

    /// Asks the first replica for one request.
    pub(super) async fn ask_one(&mut self, cost: i64) -> bool {
        let amount = self.ask(0, cost, 1).await;
        self.note(amount);
        amount > 0
    }

    async fn report(&mut self, cost: i64) -> i128 {
        let told = charge(&self.name, self.limit, cost).recorded();
        let decision = self.fixture.charge([told]).await;
        let beyond = decision.readings[0]
            .bucket
            .spent
            .saturating_sub(self.limit.burst);
        let cost = i128::from(cost);
        // What is a debt then was meant to go beyond the limit.
        let debt = i128::from(beyond).clamp(0, cost.max(0));
        for bucket in [LET_IN, WITH_DROPPED] {
            self.naive.take(bucket, &self.limit, debt);
        }
        cost - debt
    }

    fn note(&mut self, amount: i128) {
        self.note_dropped();
        for bucket in [LET_IN, WITH_DROPPED] {
            self.naive.take(bucket, &self.limit, amount);
        }
        self.busy.0 += u64::try_from(amount).unwrap_or(0);
        self.taken.push(Taken {
            at: self.fixture.clock.now().as_micros(),
            amount,
        });
    }

    fn note_dropped(&mut self) {
        self.naive.now = i128::from(self.fixture.clock.now().as_micros());
        let living = self.replicas.iter().map(|(_, events)| events.so_far());
        let dropped = living.fold(self.happened, Happened::and).dropped;
        let since = i128::from(dropped - self.dropped);
        self.naive.take(WITH_DROPPED, &self.limit, since);
        self.dropped = dropped;
    }

    async fn leave(&mut self, replica: usize) {
        self.replicas[replica % self.replicas.len()]
            .0
            .close_leases()
            .await;
        let _: Store = self.replace(replica);
    }

    fn replace(&mut self, index: usize) -> Store {
        let index = index % self.replicas.len();
        let new = replica(self.fixture);
        let (store, events) = std::mem::replace(&mut self.replicas[index], new);
        self.happened = self.happened.and(events.so_far());
        store
    }

    /// Whether so much fits, if nothing counts but what one of these buckets has.
    pub(super) fn fits(&mut self, bucket: usize, cost: i64) -> bool {
        self.note_dropped();
        let spent = self.naive.bucket(bucket, &self.limit).spent;
        spent + i128::from(cost) <= i128::from(self.limit.burst)
    }

    /// Whether one replica alone may give back for sure: so much is known to lie there that is no
    /// lease, whatever refilled, or the window does not end soon.
    pub(super) fn surely_may_give_back(&self) -> bool {
        let now = self.fixture.clock.now();
        if let Some(window) = self.limit.window(now) {
            return window.end > now.plus(TRAVEL + 2 * SHORT);
        }
        let rate = &self.limit.rate;
        // A thousandth more, because clocks differ; and rounded up.
        let refilled = |time: Duration| {
            let micros = u128::from(rate.amount()) * (time + time / 1000).as_micros();
            micros / u128::from(rate.period_micros()) + 1
        };
        let until_all_end = self.terms.ttl + Duration::from_secs(1) + TRAVEL;
        let (let_in, since) = self.busy;
        u128::from(let_in) > refilled(until_all_end) + refilled(since) + 2
    }

    /// What there is to know where something is not as it should be.
    pub(super) fn state(&self) -> String {
        let bucket = [LET_IN, WITH_DROPPED].map(|bucket| self.naive.bucket(bucket, &self.limit));
        let events: Vec<_> = self
            .replicas
            .iter()
            .map(|(_, events)| events.so_far())
            .collect();
        let (limit, terms, busy) = (self.limit, self.terms, self.busy);
        format!("{limit:?} {terms:?}: {bucket:?} {busy:?} {events:?}")
    }

    /// What is known now.
    pub(super) async fn seen(&mut self) -> Known {
        self.note_dropped();
        let living = self.replicas.iter().map(|(_, events)| events.so_far());
        Known {
            happened: living.fold(self.happened, Happened::and),
            crashes: self.crashes,
            spent: self.fixture.spent(&self.name, self.limit).await,
            let_in: u64::try_from(self.naive.bucket(LET_IN, &self.limit).spent).unwrap(),
        }
    }

    /// What is known after all have left.
    pub(super) async fn end(mut self) -> Known {
        self.come_to_rest().await;
        for replica in 0..self.replicas.len() {
            self.leave(replica).await;
        }
        self.seen().await
    }
}

fn replica(fixture: &Fixture) -> (Store, Events) {
    let events = Events::default();
    let store = fixture.another_client_with(|options| {
        options.on_lease = Some(events.listener());
    });
    (store, events)
}
