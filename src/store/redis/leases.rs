//! Asking Redis for leases, and giving them back.
//!
//! Renewals are asked for beside the decisions, which do not wait for them: gathered for a moment, so
//! that those of many buckets share a call. Everything is an ordinary charge in the ordinary queue,
//! whose order holds: what is given back before a request is asked is back when Redis decides over
//! it.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::batch::Pending;
use super::refusals::Refusals;
use super::script::{Answer, Operation};
use super::{REPORT_DEADLINE, Redis, not_queued, stopped};
use crate::clock::{self, ManualClock};
use crate::limit::{Mode, Tick};
use crate::store::leased::{Leases, Renewal};
use crate::store::{Admission, Charge, Decision, StoreError};

/// How long renewals gather.
const GATHERING: Duration = Duration::from_millis(2);

/// How often leases that nobody uses are looked for.
const EXPIRING: Duration = Duration::from_millis(200);

/// What the task beside the decisions has to do.
#[derive(Debug)]
pub(super) enum Due {
    /// Ask for this.
    Renew(Renewal),
    /// There are leases now, so look after them.
    Watch,
}

/// What that task needs. It does not keep the store alive.
#[derive(Debug)]
pub(super) struct Renewer {
    queue: mpsc::WeakSender<Pending>,
    leases: Weak<Leases>,
    refusals: Arc<Refusals>,
    watch: Watch,
}

/// The replica's own clock.
#[derive(Clone, Debug)]
struct Watch {
    begun: Instant,
    clock: Option<ManualClock>,
}

impl Watch {
    fn tick(&self) -> Tick {
        let micros = if let Some(clock) = &self.clock {
            clock.now().as_micros()
        } else {
            let elapsed = clock::instant().saturating_duration_since(self.begun);
            u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
        };
        Tick::from_micros(micros)
    }
}

impl Redis {
    pub(super) fn renewer(&self) -> Renewer {
        Renewer {
            queue: self.queue.downgrade(),
            leases: Arc::downgrade(&self.leases),
            refusals: Arc::clone(&self.refusals),
            watch: self.watch(),
        }
    }

    fn watch(&self) -> Watch {
        Watch {
            begun: self.begun,
            clock: self.clock.clone(),
        }
    }

    /// Lets an admission in if all that it needs is leased here, and refuses it if Redis would for
    /// sure; `None`: Redis has to decide.
    pub(super) fn decide_here(&self, admission: &Admission) -> Option<Decision> {
        let none_yet = self.leases.count_leases() == 0;
        let now = self.watch().tick();
        let asked = self.leases.ask(admission, now);
        self.renew(asked.renewals);
        self.refund(asked.refunds);
        if none_yet && self.leases.count_leases() > 0 {
            // The task ends with the store: then nobody is left to look after them.
            drop(self.renewals.send(Due::Watch));
        }
        asked.granted.or_else(|| {
            self.refusals
                .refuse(admission, |key| self.leases.may_return(key, now))
        })
    }

    /// Has Redis decide over an admission to buckets of which some have leases.
    pub(super) async fn admit_and_hear(
        &self,
        admission: Admission,
        deadline: Instant,
    ) -> Result<Decision, StoreError> {
        let watch = self.watch();
        let sent = watch.tick();
        let (admission, decision) = self.decide(admission, deadline).await?;
        let heard = self.leases.hear(&admission, &decision, sent, watch.tick());
        self.renew(heard.renewals);
        if heard.refunds.is_empty() {
            return Ok(decision);
        }
        // It was refused while this replica held some of what was missing.
        self.refund(heard.refunds);
        // If nobody knows what comes of asking again, the refusal stands; so nothing stays charged.
        let again = Admission {
            keep_when_late: false,
            ..admission
        };
        let sent = watch.tick();
        let Ok((admission, decided)) = self.decide(again, deadline).await else {
            return Ok(decision);
        };
        let heard = self.leases.hear(&admission, &decided, sent, watch.tick());
        self.renew(heard.renewals);
        self.refund(heard.refunds);
        Ok(decided)
    }

    /// Gives back what may be granted no more; returns when Redis has it.
    pub(in crate::store) async fn expire_leases(&self) {
        let refunds = self.leases.expire(self.watch().tick());
        refund_and_wait(self.queue.clone(), &self.refusals, refunds).await;
    }

    /// Gives back all leases, and takes no more; returns when Redis has them.
    pub(in crate::store) async fn close_leases(&self) {
        loop {
            let refunds = self.leases.close(self.watch().tick());
            refund_and_wait(self.queue.clone(), &self.refusals, refunds).await;
            if self.leases.count_leases() == 0 {
                return;
            }
            // Renewals are under way. They come or fail within their deadline.
            tokio::time::sleep(GATHERING).await;
        }
    }

    fn refund(&self, refunds: Vec<Charge>) {
        refund(&self.queue, &self.refusals, refunds);
    }

    fn renew(&self, renewals: impl IntoIterator<Item = Renewal>) {
        for renewal in renewals {
            drop(self.renewals.send(Due::Renew(renewal)));
        }
    }
}

/// Asks for what is due, and looks after the leases while there are any, until the store is gone.
pub(super) async fn run(renewer: Renewer, mut due: mpsc::UnboundedReceiver<Due>) {
    let mut renewals = Vec::new();
    let mut expire_at = clock::instant() + EXPIRING;
    loop {
        let watching = renewer
            .leases
            .upgrade()
            .is_some_and(|leases| leases.count_leases() > 0);
        let first = if watching {
            tokio::select! {
                first = due.recv() => first,
                () = tokio::time::sleep_until(expire_at.into()) => {
                    renewer.expire();
                    expire_at = clock::instant() + EXPIRING;
                    continue;
                }
            }
        } else {
            due.recv().await
        };
        match first {
            Some(Due::Renew(renewal)) => renewals.push(renewal),
            Some(Due::Watch) => continue,
            None => return,
        }
        tokio::time::sleep(GATHERING).await;
        while let Ok(next) = due.try_recv() {
            if let Due::Renew(renewal) = next {
                renewals.push(renewal);
            }
        }
        renewer.ask(std::mem::take(&mut renewals));
    }
}

impl Renewer {
    /// Sends renewals, and leaves a task that waits for their answers.
    fn ask(&self, renewals: Vec<Renewal>) {
        let Some(queue) = self.queue.upgrade() else {
            return;
        };
        let sent = self.watch.tick();
        let asked: Vec<_> = renewals
            .into_iter()
            .map(|renewal| (send(&queue, renewal.charge), renewal))
            .collect();
        drop(queue);
        let leases = Weak::clone(&self.leases);
        let watch = self.watch.clone();
        tokio::spawn(async move {
            for (answer, renewal) in asked {
                let decision = decided(answer).await;
                let Some(leases) = leases.upgrade() else {
                    return;
                };
                let now = watch.tick();
                match decision {
                    Ok(decision) => leases.renewed(&renewal, &decision, sent, now),
                    Err(_) => leases.not_renewed(&renewal, now),
                }
            }
        });
    }

    fn expire(&self) {
        if let (Some(leases), Some(queue)) = (self.leases.upgrade(), self.queue.upgrade()) {
            let refunds = leases.expire(self.watch.tick());
            if refunds.is_empty() {
                return;
            }
            let back = refund_and_wait(queue, &self.refusals, refunds);
            tokio::spawn(back);
        }
    }
}

type Sent = Result<oneshot::Receiver<super::batch::Delivery>, StoreError>;

/// Sends a charge. It stays, should its answer come too late: what a renewal took then is lost until
/// it refills, and to give it back so late could harm other replicas' leases.
fn send(queue: &mpsc::Sender<Pending>, charge: Charge) -> Sent {
    let (reply, answer) = oneshot::channel();
    let pending = Pending {
        operation: operation(charge),
        reply: Some(reply),
        deadline: clock::instant() + REPORT_DEADLINE,
        keep: true,
        lapses: true,
    };
    queue
        .try_send(pending)
        .map_err(|error| not_queued(&error))?;
    Ok(answer)
}

async fn decided(answer: Sent) -> Result<Decision, StoreError> {
    match answer?.await {
        Ok(Ok((_, Answer::Admit(decision)))) => Ok(decision),
        Ok(Ok((_, Answer::End(_)))) => Err(StoreError::Rejected("answers out of order".to_owned())),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(stopped()),
    }
}

/// Gives back. If the queue is full, or so long that this would come too late for the leases of other
/// replicas, it stays charged: too much is charged rather than too little.
fn refund(queue: &mpsc::Sender<Pending>, refusals: &Refusals, refunds: Vec<Charge>) {
    for charge in refunds {
        refusals.expect(charge.key);
        drop(queue.try_send(Pending {
            operation: operation(charge),
            reply: None,
            deadline: clock::instant() + REPORT_DEADLINE,
            keep: true,
            lapses: true,
        }));
    }
}

/// Gives back, and waits until it is back or failed. As many at once as one call carries, so that
/// there is room in the queue for others; what would be sent too late stays charged. It is expected
/// from now on, and not only once somebody waits.
fn refund_and_wait(
    queue: mpsc::Sender<Pending>,
    refusals: &Refusals,
    refunds: Vec<Charge>,
) -> impl Future<Output = ()> + use<> {
    for charge in &refunds {
        refusals.expect(charge.key);
    }
    let deadline = clock::instant() + REPORT_DEADLINE;
    async move {
        for some in refunds.chunks(256) {
            if clock::instant() >= deadline {
                return;
            }
            let sent: Vec<Sent> = some.iter().map(|charge| send(&queue, *charge)).collect();
            for answer in sent {
                // What fails stays charged.
                drop(decided(answer).await);
            }
        }
    }
}

fn operation(charge: Charge) -> Operation {
    Operation::Admit(Admission {
        charges: [charge].into_iter().collect(),
        mode: Mode::Apply,
        hold: None,
        keep_when_late: true,
    })
}
