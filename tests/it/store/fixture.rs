//! A fresh store on a clock that the test moves, and short words for what is asked of it.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tollgate::clock::{Clock, ManualClock};
use tollgate::limit::{
    self, Algorithm, Effect, Formula, HeldCharge, Limit, MissingUsage, Mode, Oversize, Rate,
    Reading, Settlement, Timestamp, Usage, WhenOver, ZeroCost,
};
use tollgate::rules::{BucketKey, Identity};
use tollgate::store::{
    Admission, Charge, Decision, Ended, Ending, Hold, HoldCounts, HoldKey, Memory, Record,
    RecordedCharge, Redis, Store, Verdict, redis::Options,
};

use super::leasing::{self, Events};
use crate::support::redis::RedisServer;

/// Where the clocks of all tests begin: a midnight, so that every window begins there too.
pub(super) const START: Timestamp = Timestamp::from_micros(1_700_006_400_000_000);

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_mins(1);
pub(super) const DAY: Duration = Duration::from_hours(24);
pub(super) const MICROSECOND: Duration = Duration::from_micros(1);

/// One microsecond less.
pub(super) fn just_before(duration: Duration) -> Duration {
    duration.saturating_sub(MICROSECOND)
}

/// How long reservations live here.
pub(super) const LIFETIME: Duration = Duration::from_mins(10);

/// A deadline that only a broken store misses.
pub(super) const PATIENT: Duration = Duration::from_secs(20);

/// A store with nothing in it.
#[derive(Debug)]
pub(super) struct Fixture {
    pub(super) store: Store,
    pub(super) clock: ManualClock,
    redis: Option<(Arc<RedisServer>, Options)>,
    /// Set where every charge has a lease that may have one.
    leases: Option<Events>,
}

impl Fixture {
    pub(super) fn memory() -> Self {
        let clock = ManualClock::new(START);
        Self {
            store: Store::Memory(Memory::new(Clock::Manual(clock.clone()))),
            clock,
            redis: None,
            leases: None,
        }
    }

    pub(super) fn redis() -> Self {
        Self::redis_with(|_| ())
    }

    pub(super) fn redis_with(change: impl FnOnce(&mut Options)) -> Self {
        Self::redis_on(RedisServer::shared(), change)
    }

    pub(super) fn redis_on(server: Arc<RedisServer>, change: impl FnOnce(&mut Options)) -> Self {
        let clock = ManualClock::new(START);
        let mut options = Options {
            prefix: unique_prefix(),
            deadline: PATIENT,
            clock: Some(clock.clone()),
            ..Options::new(server.url())
        };
        change(&mut options);
        Self {
            store: Store::Redis(Redis::start(options.clone()).unwrap()),
            clock,
            redis: Some((server, options)),
            leases: None,
        }
    }

    /// One in which every charge has a lease that may have one, asked for again right after it.
    pub(super) fn leased() -> Self {
        Self::leased_with(|_| ())
    }

    pub(super) fn leased_with(change: impl FnOnce(&mut Options)) -> Self {
        let events = Events::default();
        let listener = events.listener();
        let fixture = Self::redis_with(|options| {
            options.on_lease = Some(listener);
            change(options);
        });
        Self {
            leases: Some(events),
            ..fixture
        }
    }

    /// What happened to the leases; `None` where nothing has any.
    pub(super) fn leases(&self) -> Option<&Events> {
        self.leases.as_ref()
    }

    /// How many requests were let in by leases; `None` where nothing has any.
    pub(super) fn granted(&self) -> Option<u64> {
        self.leases.as_ref().map(Events::granted)
    }

    /// What may be told of a bucket of which so much is spent: what this replica holds of it counts
    /// where Redis is asked.
    pub(super) fn told(&self, limit: &Limit, spent: u64) -> RangeInclusive<u64> {
        let terms = leasing::most(limit).filter(|_| self.leases.is_some());
        spent..=spent + terms.map_or(0, |terms| terms.max)
    }

    /// Waits until no lease is on its way.
    pub(super) async fn renewals_end(&self) {
        if let Some(events) = &self.leases {
            let mark = leasing::renewals_end(&self.store, events).await;
            self.forget(&[mark]);
        }
    }

    /// Has the replica take leases of the buckets of a request, if it may and there is enough in
    /// them, as if it were asked for more.
    pub(super) async fn ask_ahead(&self, asked: &Admission) {
        let all = asked.charges.iter().all(|charge| charge.lease.is_some());
        if let Some(events) = &self.leases
            && all
            && leasing::may_be_leased(asked)
        {
            let needed = leasing::ask_ahead(&self.store, events, &asked.charges).await;
            self.forget(&needed);
        }
    }

    /// Forgets buckets that only the fixture needed.
    fn forget(&self, names: &[String]) {
        if let Some((server, options)) = &self.redis {
            let mut command = ::redis::cmd("HDEL");
            command.arg(format!("{}buckets", options.prefix));
            for name in names {
                command.arg(key(name).as_bytes());
            }
            server.ask::<()>(&command);
        }
    }

    /// Another replica on the same buckets and the same clock; Redis only.
    pub(super) fn another_client(&self) -> Store {
        self.another_client_with(|_| ())
    }

    pub(super) fn another_client_with(&self, change: impl FnOnce(&mut Options)) -> Store {
        let (_, options) = self.redis.as_ref().unwrap();
        let mut options = options.clone();
        change(&mut options);
        Store::Redis(Redis::start(options).unwrap())
    }

    /// The server below; Redis only.
    pub(super) fn server(&self) -> &RedisServer {
        &self.redis.as_ref().unwrap().0
    }

    /// What all keys in Redis begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.redis.as_ref().unwrap().1.prefix
    }

    pub(super) fn in_memory(&self) -> bool {
        self.redis.is_none()
    }

    /// How many buckets the store remembers.
    pub(super) fn bucket_count(&self) -> usize {
        match (&self.store, &self.redis) {
            (Store::Memory(memory), _) => memory.bucket_count(),
            (Store::Redis(_), Some((server, options))) => {
                server.command(&["HLEN", &format!("{}buckets", options.prefix)])
            }
            (Store::Redis(_), None) => 0,
        }
    }

    /// How long Redis will remember the bucket `name`; `None` if it does not know it.
    pub(super) fn bucket_lifetime(&self, name: &str) -> Option<Duration> {
        let (server, options) = self.redis.as_ref()?;
        let buckets = format!("{}buckets", options.prefix);
        let mut command = ::redis::cmd("HGET");
        command.arg(buckets).arg(key(name).as_bytes());
        let state: Option<Vec<u8>> = server.ask(&command);
        let until = f64::from_le_bytes(state?[24..].try_into().unwrap());
        #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
        let left = until - self.clock.now().as_micros() as f64;
        Some(Duration::from_secs_f64(left.max(0.0) / 1e6))
    }

    /// Applies charges.
    pub(super) async fn charge(&self, charges: impl IntoIterator<Item = Charge>) -> Decision {
        self.admit(charges, Mode::Apply, None).await
    }

    /// Applies charges and remembers them under `id`.
    pub(super) async fn hold(
        &self,
        id: &str,
        charges: impl IntoIterator<Item = (Charge, HeldCharge)>,
    ) -> Decision {
        let charges: Vec<_> = charges.into_iter().collect();
        let hold = reservation(id, &charges);
        let charges = charges.into_iter().map(|(charge, _)| charge);
        self.admit(charges, Mode::Apply, Some(hold)).await
    }

    pub(super) async fn admit(
        &self,
        charges: impl IntoIterator<Item = Charge>,
        mode: Mode,
        hold: Option<Hold>,
    ) -> Decision {
        let mut asked = Admission {
            mode,
            hold,
            ..admission(charges)
        };
        if self.leases.is_some() {
            for charge in &mut asked.charges {
                *charge = leasing::with_lease(*charge);
            }
        }
        let decision = self.store.admit(asked.clone()).await.unwrap();
        if decision.verdict == Verdict::Admitted {
            self.ask_ahead(&asked).await;
        }
        decision
    }

    /// Ends the reservation `id`; `fallback` is charged where it is not known.
    pub(super) async fn end(
        &self,
        id: &str,
        settlement: Settlement,
        fallback: impl IntoIterator<Item = Charge>,
    ) -> Ended {
        let ending = Ending {
            key: HoldKey::of("llm", id),
            settlement,
            fallback: fallback.into_iter().collect(),
            lifetime: LIFETIME,
        };
        self.store.end(ending).await.unwrap()
    }

    pub(super) async fn settle(&self, id: &str, usage: Usage) -> Ended {
        self.end(id, Settlement::Settle(usage), []).await
    }

    /// Tells what was used so far.
    pub(super) async fn so_far(&self, id: &str, counts: [u64; 4]) -> Ended {
        self.end(id, Settlement::SoFar(counts), []).await
    }

    pub(super) async fn release(&self, id: &str) -> Ended {
        self.end(id, Settlement::Release, []).await
    }

    pub(super) async fn count_holds(&self) -> HoldCounts {
        self.store.count_holds().await.unwrap()
    }

    /// What is spent of a bucket now, seen without changing it.
    pub(super) async fn spent(&self, name: &str, limit: Limit) -> u64 {
        let look = charge(name, limit, 0).recorded();
        let decision = self.admit([look], Mode::Peek, None).await;
        decision.readings[0].bucket.spent
    }

    /// Whether `cost` fits, asked for by charging it.
    pub(super) async fn admits(&self, name: &str, limit: Limit, cost: i64) -> bool {
        let decision = self.charge([charge(name, limit, cost)]).await;
        decision.verdict == Verdict::Admitted
    }
}

/// A prefix of keys that no other test in this process has.
fn unique_prefix() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("it{}:", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The key of the bucket `name`.
pub(super) fn key(name: &str) -> BucketKey {
    BucketKey::of(Identity::of(&["test", name]), [])
}

/// A token bucket as in `limits:`.
pub(super) fn token_bucket(amount: u64, period: Duration, burst: u64) -> Limit {
    Limit {
        algorithm: Algorithm::TokenBucket,
        rate: Rate::new(amount, period).unwrap(),
        burst,
        when_over: WhenOver::Refuse,
        oversize: Oversize::Refuse,
        zero_cost: ZeroCost::NeedsRoom,
    }
}

/// A fixed window that refuses without charging.
pub(super) fn fixed_window(amount: u64, period: Duration) -> Limit {
    Limit {
        algorithm: Algorithm::FixedWindow,
        ..token_bucket(amount, period, amount)
    }
}

/// An enforced charge of `cost` on the bucket `name`.
pub(super) fn charge(name: &str, limit: Limit, cost: i64) -> Charge {
    Charge {
        key: key(name),
        charge: limit::Charge {
            limit,
            amount: cost,
            threshold: limit.threshold(cost, 0),
            effect: Effect::Enforce,
        },
        settles: false,
        lease: None,
    }
}

/// An admission of these charges, given back if its answer comes late.
pub(super) fn admission(charges: impl IntoIterator<Item = Charge>) -> Admission {
    Admission {
        charges: charges.into_iter().collect(),
        mode: Mode::Apply,
        hold: None,
        keep_when_late: false,
    }
}

/// The reservation `id` of these charges.
pub(super) fn reservation(id: &str, charges: &[(Charge, HeldCharge)]) -> Hold {
    let charges = charges
        .iter()
        .map(|(charge, held)| RecordedCharge {
            key: charge.key,
            label: Arc::from("tenant-tokens"),
            held: *held,
            group: None,
        })
        .collect();
    Hold {
        key: HoldKey::of("llm", id),
        fresh: false,
        only_tells_retries: false,
        lifetime: LIFETIME,
        record: Record {
            domain: Arc::from("llm"),
            charges,
        },
    }
}

/// Variations of a charge.
pub(super) trait Vary {
    fn with(self, effect: Effect) -> Self;
    fn recorded(self) -> Self;
}

impl Vary for Charge {
    fn with(mut self, effect: Effect) -> Self {
        self.charge.effect = effect;
        self
    }

    fn recorded(self) -> Self {
        self.with(Effect::Record)
    }
}

/// A charge that counts tokens, and what a reservation remembers of it.
pub(super) fn tokens(name: &str, limit: Limit, estimate: u64) -> (Charge, HeldCharge) {
    held(name, limit, estimate, 0, Formula::TOKENS)
}

/// A charge for the request itself, and what a reservation remembers of it.
pub(super) fn request(name: &str, limit: Limit) -> (Charge, HeldCharge) {
    held(name, limit, 1, 1, Formula::REQUESTS)
}

/// A charge of which `fixed` is for the request itself.
pub(super) fn held(
    name: &str,
    limit: Limit,
    amount: u64,
    fixed: u64,
    formula: Formula,
) -> (Charge, HeldCharge) {
    let held = HeldCharge {
        limit,
        amount,
        fixed,
        formula,
        again: false,
        missing_usage: MissingUsage::Keep,
    };
    let mut charge = charge(name, limit, i64::try_from(amount).unwrap());
    charge.settles = held.settles();
    (charge, held)
}

/// What a decision says about each charge: whether it fitted and what is spent after it.
pub(super) fn outcome(decision: &Decision) -> (Verdict, Vec<(bool, u64)>) {
    (decision.verdict, spent_of(&decision.readings))
}

/// Fails unless each charge fitted or not, as expected, and what is told of its bucket is in the range
/// that [`Fixture::told`] gives.
pub(super) fn assert_told<const N: usize>(
    readings: &[Reading],
    expected: &[(bool, RangeInclusive<u64>); N],
) {
    let told = spent_of(readings);
    let as_expected = |((fits, spent), (fitted, range)): (&(bool, u64), &(bool, _))| {
        fits == fitted && RangeInclusive::contains(range, spent)
    };
    let all = told.iter().zip(expected).all(as_expected);
    assert!(all && told.len() == N, "{told:?}, expected {expected:?}");
}

/// Whether each charge fitted and what was spent after it.
pub(super) fn spent_of(readings: &[Reading]) -> Vec<(bool, u64)> {
    readings
        .iter()
        .map(|reading| (reading.fits, reading.bucket.spent))
        .collect()
}
