//! Sending what has gathered.
//!
//! One call is under way at a time; what arrives meanwhile goes into the next. So nothing waits
//! when there is no load, and under load the calls grow by themselves.
//!
//! **Deadlines.** An operation that is not answered by its deadline is answered with
//! [`StoreError::Timeout`]. The call goes on without it: when Redis answers after all, an admission
//! that was charged for a caller who was told otherwise, or who has gone, is given back. A few
//! calls may be on their way like this (also while a connection is being made); with more than
//! that, Redis is stuck, and operations fail at once instead of piling up.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use redis::{Arg, Cmd, ErrorKind, ServerErrorKind, Value};
use tokio::sync::{mpsc, oneshot};

use super::answers;
use super::call::{Call, MAX_KEYS, Places};
use super::connection::Link;
use super::refusals::Refusals;
use super::script::{self, Answer, Operation};
use super::{CallReport, Options, REPORT_DEADLINE, StoreError};
use crate::clock::{self, ManualClock};
use crate::limit::{Bucket, Effect, Mode, WhenOver};
use crate::store::{Admission, Charges, Decision, Verdict};

/// How many operations go into one call.
const MAX_OPERATIONS: usize = 512;

/// How often a call steps back for callers that are about to ask.
const MAX_YIELDS: usize = 16;

/// After how many times in a row that nobody asked it goes. A request that arrives takes two: one
/// task reads it, another asks.
const QUIET_YIELDS: usize = 2;

/// Within which time a charge that is undone is given back.
const UNDO_TIME: Duration = Duration::from_secs(3);

/// How many calls may be under way after their operations gave up on them.
const MAX_LATE_CALLS: usize = 4;

/// An operation with somebody waiting for it, or with nobody: then it only has to be done.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) operation: Operation,
    pub(super) reply: Option<oneshot::Sender<Delivery>>,
    pub(super) deadline: Instant,
    /// Whether its charges stay if nobody hears of them.
    pub(super) keep: bool,
    /// Whether it is left out after its deadline though nobody waits for it.
    pub(super) lapses: bool,
}

/// What is handed to whoever waits: the answer, and the operation with it, so that it can still be
/// undone if they go away before they look.
pub(super) type Delivery = Result<(Operation, Answer), StoreError>;

type Reply = Pin<Box<dyn Future<Output = Result<Vec<u8>, StoreError>> + Send>>;

/// Sends operations until all handles of the queue are gone.
pub(super) async fn run(
    mut pending: mpsc::Receiver<Pending>,
    queue: mpsc::WeakSender<Pending>,
    link: Link,
    refusals: Arc<Refusals>,
    options: Options,
) {
    let sha = redis::Script::new(script::SOURCE).get_hash().to_owned();
    let late = Arc::new(AtomicUsize::new(0));
    let mut call = Call::default();
    let mut batch: Vec<Pending> = Vec::new();
    let mut carried = None;
    loop {
        let first = match carried.take() {
            Some(first) => first,
            None => match pending.recv().await {
                Some(first) => first,
                None => return,
            },
        };
        let_ready_callers_ask(&pending).await;
        gather(first, &mut pending, &mut batch, &mut carried);
        if late.load(Ordering::Acquire) >= MAX_LATE_CALLS {
            // What nobody waits for goes on: it gives back charges, and is rare.
            fail(
                batch.extract_if(.., |pending| pending.reply.is_some()),
                &StoreError::Timeout,
            );
        }
        if batch.is_empty() {
            continue;
        }

        // Reports have more time than admissions, but those that arrive meanwhile do not wait for
        // them: after an admission's time, a call goes on without us.
        let begun = clock::instant();
        let until = batch
            .iter()
            .map(|pending| pending.deadline)
            .fold(begun + options.deadline, Instant::min);

        call.clear();
        for pending in &batch {
            call.push(&pending.operation);
        }
        let mut command = redis::cmd("EVALSHA");
        command.arg(&sha);
        let time = options.clock.as_ref().map(ManualClock::now);
        let places = call.arguments(&options.prefix, time, |argument| {
            command.arg(argument);
        });
        let sent = refusals.time();
        let mut reply: Reply = Box::pin(evaluate(link.clone(), command));
        tokio::select! {
            biased;
            result = &mut reply => {
                report(&options, batch.len(), begun, result.as_ref().err());
                deliver(&mut batch, &places, result, &queue, (&refusals, Some(sent)));
            }
            () = tokio::time::sleep_until(until.into()) => {
                report(&options, batch.len(), begun, Some(&StoreError::Timeout));
                give_up(&mut batch);
                late.fetch_add(1, Ordering::AcqRel);
                let batch = std::mem::take(&mut batch);
                let late = Arc::clone(&late);
                let refusals = Arc::clone(&refusals);
                tokio::spawn(finish(reply, batch, places, queue.clone(), refusals, late));
            }
        }
    }
}

/// Waits for a call that is late, for those that still have time, and to undo what must be undone.
async fn finish(
    mut reply: Reply,
    mut batch: Vec<Pending>,
    places: Places,
    queue: mpsc::WeakSender<Pending>,
    refusals: Arc<Refusals>,
    late: Arc<AtomicUsize>,
) {
    let result = loop {
        let waiting = batch.iter().filter(|pending| pending.reply.is_some());
        let Some(deadline) = waiting.map(|pending| pending.deadline).min() else {
            break reply.await;
        };
        tokio::select! {
            biased;
            result = &mut reply => break result,
            () = tokio::time::sleep_until(deadline.into()) => give_up(&mut batch),
        }
    };
    // First of all: what is given back now must find its way.
    late.fetch_sub(1, Ordering::AcqRel);
    deliver(&mut batch, &places, result, &queue, (&refusals, None));
}

/// Lets the tasks run that can: they may be about to ask. Where none does, this costs a microsecond or
/// two; under load calls get larger by it, and all of it cheaper.
async fn let_ready_callers_ask(pending: &mpsc::Receiver<Pending>) {
    let mut waiting = pending.len();
    let mut quiet = 0;
    for _ in 0..MAX_YIELDS {
        tokio::task::yield_now().await;
        let now_waiting = pending.len();
        quiet = if now_waiting == waiting { quiet + 1 } else { 0 };
        if quiet == QUIET_YIELDS {
            return;
        }
        waiting = now_waiting;
    }
}

/// Fills `batch` with what waits already. What nobody waits for any more is left out: an admission
/// whose caller has gone was not charged yet, and one past its deadline is told so.
fn gather(
    first: Pending,
    pending: &mut mpsc::Receiver<Pending>,
    batch: &mut Vec<Pending>,
    carried: &mut Option<Pending>,
) {
    batch.clear();
    let now = clock::instant();
    let mut keys = 0;
    let mut next = Some(first);
    while let Some(candidate) = next.take() {
        let admission = matches!(candidate.operation, Operation::Admit(_));
        let gone = candidate
            .reply
            .as_ref()
            .is_some_and(oneshot::Sender::is_closed);
        if admission && gone {
            // Left out.
        } else if (candidate.reply.is_some() || candidate.lapses) && candidate.deadline <= now {
            fail([candidate], &StoreError::Timeout);
        } else {
            keys += candidate.operation.key_count();
            if keys > MAX_KEYS && !batch.is_empty() {
                *carried = Some(candidate);
                return;
            }
            batch.push(candidate);
        }
        if batch.len() < MAX_OPERATIONS {
            next = pending.try_recv().ok();
        }
    }
}

async fn evaluate(link: Link, command: Cmd) -> Result<Vec<u8>, StoreError> {
    let mut connection = link.connection().await?;
    let mut result = connection.send(&command).await;
    let unknown =
        |error: &redis::RedisError| error.kind() == ErrorKind::Server(ServerErrorKind::NoScript);
    if result.as_ref().is_err_and(unknown) {
        // Redis restarted, or somebody flushed its scripts. Nothing was done yet. This loads the
        // script, too, and nobody can flush it in between.
        let mut whole = redis::cmd("EVAL");
        whole.arg(script::SOURCE);
        for argument in command.args_iter().skip(2) {
            if let Arg::Simple(argument) = argument {
                whole.arg(argument);
            }
        }
        result = connection.send(&whole).await;
    }
    match result {
        Ok(Value::BulkString(bytes)) => Ok(bytes),
        Ok(_) => Err(StoreError::Rejected(
            "the script returned no string".to_owned(),
        )),
        Err(error) => Err(connection.failed(&error)),
    }
}

/// Hands out the answers. What cannot be handed out is undone. The refusals are told when the call
/// was sent, unless it was late.
fn deliver(
    batch: &mut Vec<Pending>,
    places: &Places,
    result: Result<Vec<u8>, StoreError>,
    queue: &mpsc::WeakSender<Pending>,
    (refusals, sent): (&Refusals, Option<u64>),
) {
    let answers = result.and_then(|bytes| {
        let operations: Vec<&Operation> = batch.iter().map(|pending| &pending.operation).collect();
        answers::read(&bytes, &operations, places)
            .map_err(|error| StoreError::Rejected(error.to_string()))
    });
    let answers = match answers {
        Ok(answers) => answers,
        Err(error) => {
            refusals.forget_all();
            return fail(batch.drain(..), &error);
        }
    };
    let operations = batch.iter().map(|pending| &pending.operation);
    refusals.heed(operations.zip(&answers), sent);
    for (pending, answer) in batch.drain(..).zip(answers) {
        let done = (pending.operation, answer);
        let unheard = match pending.reply {
            Some(reply) => reply.send(Ok(done)),
            None => Err(Ok(done)),
        };
        if !pending.keep
            && let Err(Ok((operation, answer))) = unheard
            && let Some(queue) = queue.upgrade()
        {
            give_back(&operation, &answer, &queue);
        }
    }
}

/// Undoes what was done for somebody who never heard of it.
pub(super) fn give_back(operation: &Operation, answer: &Answer, queue: &mpsc::Sender<Pending>) {
    if let (Operation::Admit(admission), Answer::Admit(decision)) = (operation, answer)
        && let Some(undo) = undo(admission, decision)
    {
        // If the queue is full, the charge stays: too much is charged rather than too little.
        drop(queue.try_send(Pending {
            operation: undo,
            reply: None,
            deadline: clock::instant() + REPORT_DEADLINE,
            keep: true,
            lapses: false,
        }));
    }
}

/// What gives back the charges of an admission that nobody heard of.
fn undo(admission: &Admission, decision: &Decision) -> Option<Operation> {
    if decision.verdict != Verdict::Admitted || admission.mode == Mode::Peek {
        return None;
    }
    if let Some(hold) = &admission.hold {
        return Some(Operation::Withdraw(hold.key));
    }
    let charges: Charges = admission
        .charges
        .iter()
        .zip(&decision.readings)
        .filter(|(charge, reading)| {
            let limit = &charge.charge.limit;
            // A window that may be over when the refund comes would give back what others took.
            let lasts =
                Bucket::until_window_ends(limit, decision.now).is_none_or(|left| left > UNDO_TIME);
            lasts && (reading.fits || limit.when_over == WhenOver::Charge)
        })
        .map(|(charge, _)| {
            let mut charge = *charge;
            charge.charge.amount = charge.charge.amount.saturating_neg();
            charge.charge.effect = Effect::Record;
            charge
        })
        .filter(|charge| charge.charge.amount != 0)
        .collect();
    let nothing = charges.is_empty();
    let refund = Admission {
        charges,
        mode: Mode::Apply,
        hold: None,
        keep_when_late: true,
    };
    (!nothing).then_some(Operation::Admit(refund))
}

fn fail(batch: impl IntoIterator<Item = Pending>, error: &StoreError) {
    for pending in batch {
        if let Some(reply) = pending.reply {
            // Whoever does not wait any more needs no error.
            drop(reply.send(Err(error.clone())));
        }
    }
}

/// Answers those whose time is over with a timeout. Whoever heard it has decided by its own rule,
/// which says whether the charges stay; who had gone before gets them back.
fn give_up(batch: &mut [Pending]) {
    let now = clock::instant();
    for pending in batch {
        if pending.deadline <= now
            && let Some(reply) = pending.reply.take()
        {
            let heard = reply.send(Err(StoreError::Timeout)).is_ok();
            if let Operation::Admit(admission) = &pending.operation {
                pending.keep |= heard && admission.keep_when_late;
            }
        }
    }
}

fn report(options: &Options, operations: usize, begun: Instant, error: Option<&StoreError>) {
    if let Some(on_call) = &options.on_call {
        let took = clock::instant().saturating_duration_since(begun);
        on_call(&CallReport {
            operations,
            took,
            error: error.cloned(),
        });
    }
}
