//! Where buckets and reservations live.
//!
//! A store takes whole operations, not reads and writes: charges in, readings out, atomic over the
//! operation. So no store can be used in a way that over-admits, and each can do it its own way:
//! under a few locks ([`Memory`]) or in one script for many callers ([`Redis`]). All of them pass
//! the same conformance suite and agree with [`crate::limit::decide`] to the last bit.

mod hold;
mod leased;
pub mod memory;
pub mod redis;
mod samples;

use std::time::Duration;

use smallvec::SmallVec;

pub use hold::{HoldKey, Record, RecordedCharge};
pub use leased::{LeaseEvent, OnLease};
pub use memory::Memory;
pub use redis::Redis;
pub use samples::{SAMPLES_LIFETIME, Samples};

use crate::limit::{self, LeaseTerms, Mode, Reading, Settlement, Sketch, Timestamp};
use crate::rules::BucketKey;

/// The charges of one operation. On the heap: an operation is handed on a few times, and waits for
/// its store as a part of something larger.
pub type Charges = Vec<Charge>;

/// One reading for each charge, in their order.
pub type Readings = SmallVec<[Reading; 4]>;

/// A charge on a named bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// The bucket.
    pub key: BucketKey,
    /// What is charged.
    pub charge: limit::Charge,
    /// Whether a usage report replaces it: where the report came first, only its fixed part is
    /// charged.
    pub settles: bool,
    /// Whether a shared store may be asked for some of the bucket in advance. A store that is not
    /// shared does not care.
    pub lease: Option<LeaseTerms>,
}

/// The most charges that one operation may have.
pub const MAX_CHARGES: usize = 1024;

/// A request that wants in.
#[derive(Clone, Debug)]
pub struct Admission {
    /// What it costs; at most [`MAX_CHARGES`].
    pub charges: Charges,
    /// Whether it is charged or only looked at.
    pub mode: Mode,
    /// What to remember for its settlement.
    pub hold: Option<Hold>,
    /// What becomes of the charges if the store's answer comes too late to be heard: kept, because
    /// the request was let through without it, or given back.
    pub keep_when_late: bool,
}

/// A reservation to be made.
#[derive(Clone, Debug)]
pub struct Hold {
    /// Its key.
    pub key: HoldKey,
    /// Whether the key was made for this admission, so that nobody can have used it before.
    pub fresh: bool,
    /// Whether it only tells a retry of the admission: no report will end it, so it is not counted
    /// as open, nor as expired.
    pub only_tells_retries: bool,
    /// After which time it is open no more. A report that comes later still settles it, until the
    /// same time has passed again: it charges what was not charged yet.
    pub lifetime: Duration,
    /// What to remember.
    pub record: Record,
}

/// What became of an admission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The outcome.
    pub verdict: Verdict,
    /// The store's time.
    pub now: Timestamp,
    /// How each charge came out.
    pub readings: Readings,
}

/// The outcome of an admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Admitted, and charged.
    Admitted,
    /// Refused.
    Refused,
    /// Its reservation exists already: the same request came twice. Admitted, not charged again.
    Repeated,
}

/// A report on a reservation: it ends, or goes on with more charged
/// ([`Settlement::SoFar`]).
#[derive(Clone, Debug)]
pub struct Ending {
    /// The reservation.
    pub key: HoldKey,
    /// How it ends.
    pub settlement: Settlement,
    /// What to charge in full if no such reservation is known; nothing for one that goes on.
    pub fallback: Charges,
    /// How long to remember that the report came, in case its admission comes later; how long a
    /// reservation that goes on lives from now.
    pub lifetime: Duration,
}

/// What became of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The outcome.
    pub result: EndResult,
    /// The store's time.
    pub now: Timestamp,
    /// How each charge came out: the reservation's, or the fallback's.
    pub readings: Readings,
}

/// The outcome of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndResult {
    /// It ended before; nothing changed.
    Already,
    /// No such reservation; the fallback was charged.
    Charged,
    /// The reservation's charges grew to what was used so far, and it goes on.
    Grown {
        /// What it remembered before.
        record: Record,
        /// When it was made.
        made: Timestamp,
    },
    /// The reservation's charges were replaced.
    Settled {
        /// What it remembered.
        record: Record,
        /// When it was made.
        made: Timestamp,
    },
    /// No such reservation, and nothing to charge instead.
    Unknown,
}

/// How many reservations there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HoldCounts {
    /// Neither settled nor released nor expired.
    pub open: u64,
    /// Found expired since the last count was taken, with no report at all. Each is found by one
    /// asker.
    pub newly_unreported: u64,
    /// The same, but reports had come of what was used so far.
    pub newly_cut_short: u64,
}

/// What open reservations hold of one bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// How many of them charged it.
    pub reservations: u64,
    /// What they charged, which their settlement will replace.
    pub amount: u64,
}

/// Why a store could not decide. Nothing is known about the charges: they may have been made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No connection, or it broke. Worth another try.
    #[error("no connection to the store: {0}")]
    Connection(String),
    /// More is waiting than the store's queue holds. Worth another try, later.
    #[error("too many calls are waiting for the store")]
    Overloaded,
    /// The store answered with an error, or with something that is no answer. Somebody has to look.
    #[error("the store failed: {0}")]
    Rejected(String),
    /// No answer within the deadline.
    #[error("no answer from the store within its deadline")]
    Timeout,
}

impl StoreError {
    /// The kind, for a metric's label.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Connection(_) => "connection",
            Self::Overloaded => "overloaded",
            Self::Rejected(_) => "rejected",
            Self::Timeout => "timeout",
        }
    }

    /// All kinds.
    pub const KINDS: [&'static str; 4] = ["connection", "overloaded", "rejected", "timeout"];
}

/// A store.
#[derive(Debug)]
pub enum Store {
    /// In this process.
    Memory(Memory),
    /// In Redis, shared by all replicas.
    Redis(Redis),
}

impl Store {
    /// Decides over an admission.
    pub async fn admit(&self, admission: Admission) -> Result<Decision, StoreError> {
        match self {
            Self::Memory(memory) => Ok(memory.admit(&admission)),
            Self::Redis(redis) => redis.admit(admission).await,
        }
    }

    /// Ends a reservation.
    pub async fn end(&self, ending: Ending) -> Result<Ended, StoreError> {
        match self {
            Self::Memory(memory) => Ok(memory.end(&ending)),
            Self::Redis(redis) => redis.end(ending).await,
        }
    }

    /// Counts the reservations.
    pub async fn count_holds(&self) -> Result<HoldCounts, StoreError> {
        match self {
            Self::Memory(memory) => Ok(memory.count_holds()),
            Self::Redis(redis) => redis.count_holds().await,
        }
    }

    /// Forgets buckets that are full again; some of them, where that takes long. To be called every
    /// few seconds.
    pub async fn forget_full(&self) -> Result<(), StoreError> {
        match self {
            Self::Memory(memory) => {
                memory.forget_full();
                Ok(())
            }
            Self::Redis(redis) => redis.forget_full().await,
        }
    }

    /// What open reservations hold of each of these buckets; `None` where there are too many
    /// reservations to look at. Looks at every one of them: for people, not for decisions.
    pub async fn held(&self, keys: &[BucketKey]) -> Result<Option<Vec<Held>>, StoreError> {
        match self {
            Self::Memory(memory) => Ok(Some(memory.held(keys))),
            Self::Redis(redis) => redis.held(keys).await,
        }
    }

    /// Whether other replicas may share it.
    pub const fn is_shared(&self) -> bool {
        matches!(self, Self::Redis(_))
    }

    /// Adds what one replica saw to what all saw, and tells that, for each of `told` in their order.
    /// A store that is not shared has nothing to tell. A few at a time: the connection is the one
    /// that decisions use. What fails by itself was not added; when all fail because the connection
    /// broke, nobody knows which were.
    pub async fn exchange(
        &self,
        told: &[Samples],
    ) -> Result<Vec<Result<Sketch, StoreError>>, StoreError> {
        match self {
            Self::Memory(_) => Ok(Vec::new()),
            Self::Redis(redis) => redis.exchange(told).await,
        }
    }

    /// Gives back what was leased and may be granted no more; done by itself several times a second.
    pub async fn expire_leases(&self) {
        match self {
            Self::Memory(_) => {}
            Self::Redis(redis) => redis.expire_leases().await,
        }
    }

    /// Gives back all that is leased, and leases nothing any more: for the end of a process.
    pub async fn close_leases(&self) {
        match self {
            Self::Memory(_) => {}
            Self::Redis(redis) => redis.close_leases().await,
        }
    }

    /// Whether it answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::Redis(redis) => redis.ping().await,
        }
    }

    /// What time it is for this store, as far as can be told without asking it. Decisions go by the
    /// store's own time, which may differ from this by what two machines' clocks do.
    pub fn clock(&self) -> Timestamp {
        match self {
            Self::Memory(memory) => memory.clock(),
            Self::Redis(redis) => redis.clock(),
        }
    }

    /// What kind of store it is, for people.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            Self::Redis(_) => "redis",
        }
    }
}
