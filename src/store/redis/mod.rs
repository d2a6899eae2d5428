//! Buckets in Redis (or Valkey), shared by all replicas.
//!
//! Everything an operation needs happens in one Lua script, so it is atomic, and time is the
//! server's, so replicas need not agree about theirs. Operations that arrive while a call is under
//! way are sent together as the next one (`batch.rs`): under load many cost one round trip, and
//! when idle none waits.
//!
//! What it needs: Redis 6 or newer (RESP3) or any Valkey, and a `maxmemory-policy` that
//! evicts nothing: an evicted bucket is a full one.

mod answers;
mod batch;
mod call;
mod codec;
mod connection;
mod leases;
mod record;
mod refusals;
mod samples;
mod script;
mod sweep;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use self::batch::{Delivery, Pending};
use self::connection::Link;
pub use self::refusals::OnLocalRefusal;
use self::refusals::Refusals;
use self::script::{Answer, Operation, open_holds_key};
use super::leased::Leases;
use super::{Admission, Decision, Ended, Ending, Held, HoldCounts, OnLease, Samples, StoreError};
use crate::clock::{self, Clock, ManualClock};
use crate::limit::{Sketch, Timestamp};
use crate::rules::BucketKey;

/// How to reach Redis and how long to wait for it.
#[derive(Clone)]
pub struct Options {
    /// `redis://[user:password@]host:port[/db]` or `rediss://…`.
    pub url: secrecy::SecretString,
    /// What all keys start with.
    pub prefix: String,
    /// How long an admission waits for its answer, from the moment it is asked.
    pub deadline: Duration,
    /// How many operations may wait at one moment.
    pub queue: usize,
    /// Where the time comes from, if not from Redis: for tests.
    pub clock: Option<ManualClock>,
    /// Told of every call that was made.
    pub on_call: Option<OnCall>,
    /// How long what Redis refused may be refused again without asking it, if time alone cannot
    /// have made room: so much later it is noticed at most that somebody else gave something back.
    /// Zero: Redis is always asked.
    pub refusal_memory: Duration,
    /// Told of every refusal that Redis was not asked for.
    pub on_local_refusal: Option<OnLocalRefusal>,
    /// Told of what happens to leases.
    pub on_lease: Option<OnLease>,
}

impl Options {
    /// The defaults for `url`: keys `tollgate:…`, 15 ms, 16,384 waiting, refusals remembered for
    /// 100 ms.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: secrecy::SecretString::from(url.into()),
            prefix: "tollgate:".to_owned(),
            deadline: Duration::from_millis(15),
            queue: 16_384,
            clock: None,
            on_call: None,
            refusal_memory: Duration::from_millis(100),
            on_local_refusal: None,
            on_lease: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("prefix", &self.prefix)
            .field("deadline", &self.deadline)
            .field("queue", &self.queue)
            .field("refusal_memory", &self.refusal_memory)
            .finish_non_exhaustive()
    }
}

/// What is told of every call.
pub type OnCall = Arc<dyn Fn(&CallReport) + Send + Sync>;

/// One call that was made.
#[derive(Debug)]
pub struct CallReport {
    /// How many operations it carried.
    pub operations: usize,
    /// How long it took.
    pub took: Duration,
    /// How it failed, if it did.
    pub error: Option<StoreError>,
}

/// The Redis store. Copies share one queue and one connection.
#[derive(Clone, Debug)]
pub struct Redis {
    queue: mpsc::Sender<Pending>,
    link: Link,
    deadline: Duration,
    prefix: Arc<str>,
    clock: Option<ManualClock>,
    refusals: Arc<Refusals>,
    begun: Instant,
    leases: Arc<Leases>,
    renewals: mpsc::UnboundedSender<leases::Due>,
}

/// How many steps, of how many keys each, a look at all reservations takes before it gives up.
const HELD_SCANS: usize = 100;
const HELD_SCAN_KEYS: usize = 1000;

/// How long a report may wait: nobody is kept waiting by it, and losing it loses count.
const REPORT_DEADLINE: Duration = Duration::from_secs(1);

impl Redis {
    /// Starts the store on the current tokio runtime. Connects when first asked; until Redis is
    /// there, operations fail with [`StoreError::Connection`].
    ///
    /// # Errors
    ///
    /// [`StoreError::Rejected`] if the URL is none.
    pub fn start(options: Options) -> Result<Self, StoreError> {
        let link = Link::new(&options)?;
        let (queue, pending) = mpsc::channel(options.queue);
        let refusals = Arc::new(Refusals::new(&options));
        let (renewals, due) = mpsc::unbounded_channel();
        let store = Self {
            queue: queue.clone(),
            link: link.clone(),
            deadline: options.deadline,
            prefix: Arc::from(options.prefix.as_str()),
            clock: options.clock.clone(),
            refusals: Arc::clone(&refusals),
            begun: clock::instant(),
            leases: Arc::new(Leases::new(options.on_lease.clone())),
            renewals,
        };
        tokio::spawn(leases::run(store.renewer(), due));
        tokio::spawn(batch::run(
            pending,
            queue.downgrade(),
            link,
            refusals,
            options,
        ));
        Ok(store)
    }

    /// Decides over an admission. One that Redis would refuse for sure is refused without it.
    pub async fn admit(&self, admission: Admission) -> Result<Decision, StoreError> {
        let deadline = clock::instant() + self.deadline;
        if Leases::concern(&admission) {
            if let Some(decision) = self.decide_here(&admission) {
                return Ok(decision);
            }
            if self.leases.count_leases() > 0 {
                // On the heap, so that what has no leases does not carry its size along.
                return Box::pin(self.admit_and_hear(admission, deadline)).await;
            }
        } else if let Some(refused) = self.refusals.refuse(&admission, |_| 0) {
            return Ok(refused);
        }
        let (_, decision) = self.decide(admission, deadline).await?;
        Ok(decision)
    }

    /// Has Redis decide over an admission, and brings it back.
    async fn decide(
        &self,
        admission: Admission,
        deadline: Instant,
    ) -> Result<(Admission, Decision), StoreError> {
        match self.ask(Operation::Admit(admission), deadline).await? {
            (Operation::Admit(admission), Answer::Admit(decision)) => Ok((admission, decision)),
            _ => Err(StoreError::Rejected("answers out of order".to_owned())),
        }
    }

    /// Ends a reservation.
    pub async fn end(&self, ending: Ending) -> Result<Ended, StoreError> {
        let deadline = clock::instant() + self.deadline.max(REPORT_DEADLINE);
        match self.ask(Operation::End(ending), deadline).await? {
            (_, Answer::End(ended)) => Ok(ended),
            (_, Answer::Admit(_)) => Err(StoreError::Rejected("answers out of order".to_owned())),
        }
    }

    /// The time by this machine's clock, which may differ from Redis's.
    pub fn clock(&self) -> Timestamp {
        match &self.clock {
            Some(clock) => clock.now(),
            None => Clock::System.now(),
        }
    }

    /// Counts the reservations. Those found expired are taken out of the count, so that only one
    /// asker finds each.
    pub async fn count_holds(&self) -> Result<HoldCounts, StoreError> {
        let mut command = ::redis::cmd("EVAL");
        command
            .arg(COUNT_HOLDS)
            .arg(1)
            .arg(open_holds_key(&self.prefix));
        if let Some(clock) = &self.clock {
            command.arg(clock.now().as_micros());
        }
        let (open, newly_unreported, newly_cut_short) = self.link.ask(&command).await?;
        Ok(HoldCounts {
            open,
            newly_unreported,
            newly_cut_short,
        })
    }

    /// Forgets buckets that are full again, as far as that is due: each is forgotten within ten minutes
    /// of the time when it may be, if some replica calls this every few seconds.
    pub async fn forget_full(&self) -> Result<(), StoreError> {
        let time = self.clock.as_ref().map(ManualClock::now);
        sweep::sweep(&self.link, &self.prefix, time).await
    }

    /// What open reservations hold of each of these buckets; `None` where there are too many
    /// keys to look at.
    pub async fn held(&self, keys: &[BucketKey]) -> Result<Option<Vec<Held>>, StoreError> {
        let mut found = vec![Held::default(); keys.len()];
        let now = self.now().await?;
        let pattern = format!("{}*", script::holds_prefix(&self.prefix));
        let mut cursor: u64 = 0;
        for _ in 0..HELD_SCANS {
            let mut scan = ::redis::cmd("SCAN");
            scan.arg(cursor)
                .arg("MATCH")
                .arg(&pattern)
                .arg("COUNT")
                .arg(HELD_SCAN_KEYS);
            let (next, names): (u64, Vec<Vec<u8>>) = self.link.ask(&scan).await?;
            if !names.is_empty() {
                let mut get = ::redis::cmd("MGET");
                get.arg(&names);
                let values: Vec<Option<Vec<u8>>> = self.link.ask(&get).await?;
                for record in values
                    .iter()
                    .flatten()
                    .filter_map(|value| record::open(value, now))
                {
                    record.add_held(keys, &mut found);
                }
            }
            cursor = next;
            if cursor == 0 {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Adds samples to those of all replicas, and tells what there are, for each in their order. What
    /// fails by itself was not added.
    pub async fn exchange(
        &self,
        told: &[Samples],
    ) -> Result<Vec<Result<Sketch, StoreError>>, StoreError> {
        samples::exchange(&self.link, &self.prefix, told).await
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        if let Some(clock) = &self.clock {
            return Ok(clock.now());
        }
        let (seconds, micros): (u64, u64) = self.link.ask(&::redis::cmd("TIME")).await?;
        let micros = seconds.saturating_mul(1_000_000).saturating_add(micros);
        Ok(Timestamp::from_micros(micros))
    }

    /// Whether Redis answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.link
            .ask::<String>(&::redis::cmd("PING"))
            .await
            .map(drop)
    }

    async fn ask(
        &self,
        operation: Operation,
        deadline: Instant,
    ) -> Result<(Operation, Answer), StoreError> {
        let (reply, answer) = oneshot::channel();
        let pending = Pending {
            operation,
            reply: Some(reply),
            deadline,
            keep: false,
            lapses: false,
        };
        self.queue
            .try_send(pending)
            .map_err(|error| not_queued(&error))?;
        let mut waiting = Waiting {
            answer,
            queue: &self.queue,
        };
        match (&mut waiting.answer).await {
            Ok(delivery) => delivery,
            Err(_) => Err(stopped()),
        }
    }
}

fn not_queued(error: &mpsc::error::TrySendError<Pending>) -> StoreError {
    match error {
        mpsc::error::TrySendError::Full(_) => StoreError::Overloaded,
        mpsc::error::TrySendError::Closed(_) => {
            StoreError::Connection("the store was stopped".to_owned())
        }
    }
}

fn stopped() -> StoreError {
    StoreError::Connection("the store stopped without an answer".to_owned())
}

/// Somebody waiting for an answer. If they go away when it is there already, it is undone.
struct Waiting<'a> {
    answer: oneshot::Receiver<Delivery>,
    queue: &'a mpsc::Sender<Pending>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.answer.close();
        if let Ok(Ok((operation, answer))) = self.answer.try_recv() {
            batch::give_back(&operation, &answer, self.queue);
        }
    }
}

/// Adds up the open reservations and takes out the minutes that have passed.
const COUNT_HOLDS: &str = r"
local now = ARGV[1] and tonumber(ARGV[1]) / 1000000 or tonumber(redis.call('TIME')[1])
local fields = redis.call('HGETALL', KEYS[1])
local open, unreported, cut_short = 0, 0, 0
for i = 1, #fields, 2 do
  local minute, grown = fields[i]:match('^(%d+)(p?)$')
  local count = tonumber(fields[i + 1])
  if (tonumber(minute) + 1) * 60 > now then
    open = open + count
  else
    if grown == 'p' then
      cut_short = cut_short + math.max(0, count)
    else
      unreported = unreported + math.max(0, count)
    end
    redis.call('HDEL', KEYS[1], fields[i])
  end
end
return { math.max(0, open), unreported, cut_short }
";
