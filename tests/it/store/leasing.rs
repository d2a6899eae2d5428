//! Stores whose charges have leases: what happened to them, and when nothing is under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tollgate::limit::{Effect, LeaseTerms, Limit, Rate, WhenOver};
use tollgate::store::{Admission, Charge, LeaseEvent, OnLease, Store, Verdict};

use super::fixture::{PATIENT, Vary as _, admission, charge, token_bucket};

/// What happened to the leases of a store.
#[derive(Clone, Debug)]
pub(super) struct Events(Arc<watch::Sender<Happened>>);

/// How often, and how much it came to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Happened {
    pub(super) granted: u64,
    pub(super) renewals: u64,
    pub(super) taken: u64,
    pub(super) give_backs: u64,
    pub(super) given_back: u64,
    pub(super) drops: u64,
    pub(super) dropped: u64,
    /// Renewals that somebody waited for to know that others had ended.
    marks: u64,
}

impl Default for Events {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Happened::default())))
    }
}

impl Events {
    /// Who has to be told.
    pub(super) fn listener(&self) -> OnLease {
        let events = self.clone();
        Arc::new(move |event| events.0.send_modify(|so_far| so_far.add(event)))
    }

    pub(super) fn so_far(&self) -> Happened {
        *self.0.borrow()
    }

    pub(super) fn granted(&self) -> u64 {
        self.so_far().granted
    }

    pub(super) fn taken(&self) -> u64 {
        self.so_far().taken
    }
}

impl Happened {
    fn add(&mut self, event: LeaseEvent) {
        match event {
            LeaseEvent::Taken(MARK) => self.marks += 1,
            LeaseEvent::Taken(amount) => {
                self.renewals += 1;
                self.taken += amount;
            }
            LeaseEvent::GivenBack(amount) if amount != MARK => {
                self.give_backs += 1;
                self.given_back += amount;
            }
            LeaseEvent::Dropped(amount) if amount != MARK => {
                self.drops += 1;
                self.dropped += amount;
            }
            LeaseEvent::Granted => self.granted += 1,
            // What was taken to know when others had ended, or nothing was taken.
            LeaseEvent::GivenBack(_)
            | LeaseEvent::Dropped(_)
            | LeaseEvent::Failed
            | LeaseEvent::Refused => {}
        }
    }

    /// Both together.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            granted: self.granted + other.granted,
            renewals: self.renewals + other.renewals,
            taken: self.taken + other.taken,
            give_backs: self.give_backs + other.give_backs,
            given_back: self.given_back + other.given_back,
            drops: self.drops + other.drops,
            dropped: self.dropped + other.dropped,
            marks: self.marks + other.marks,
        }
    }
}

/// The most that the configuration lets a replica hold of a bucket; `None` if nothing.
pub(super) fn most(limit: &Limit) -> Option<LeaseTerms> {
    let max = limit.burst / LeaseTerms::LEAST_PARTS;
    (max >= 2 && limit.when_over == WhenOver::Refuse).then_some(LeaseTerms {
        max,
        ttl: LeaseTerms::DEFAULT_TTL,
    })
}

/// A charge with a lease, if the configuration allows its limit one.
pub(super) fn with_lease(charge: Charge) -> Charge {
    let enforced = matches!(charge.charge.effect, Effect::Enforce | Effect::Record);
    let lease = most(&charge.charge.limit).filter(|_| enforced && !charge.settles);
    Charge { lease, ..charge }
}

/// What nothing else takes: so its renewal is known by it.
const MARK: u64 = 999_999_937;

/// Returns once every renewal has ended that was due before. Renewals are asked for and answered in
/// their order, so one more is made due, of another bucket; returns its name.
pub(super) async fn renewals_end(store: &Store, events: &Events) -> String {
    let name = unique("mark");
    let marks = events.so_far().marks;
    let limit = token_bucket(1, Rate::MAX_PERIOD, 1_000_000_000_000);
    let lease = Some(LeaseTerms {
        max: MARK,
        ttl: Duration::from_millis(100),
    });
    for cost in [MARK.cast_signed(), 1] {
        let asked = Charge {
            lease,
            ..charge(&name, limit, cost)
        };
        let decision = store.admit(admission([asked])).await.unwrap();
        assert_eq!(decision.verdict, Verdict::Admitted);
    }
    let mut so_far = events.0.subscribe();
    let waiting = so_far.wait_for(|so_far| so_far.marks > marks);
    let waited = tokio::time::timeout(PATIENT, waiting).await;
    assert!(waited.is_ok(), "no renewal");
    name
}

/// Has a store take leases of the buckets of `charges`, if there is enough in them: asks for more
/// than is asked for later, together with something that cannot be had. So nothing is let in, and
/// nothing charged but the leases. Returns the names of the buckets that it needed.
pub(super) async fn ask_ahead(store: &Store, events: &Events, charges: &[Charge]) -> Vec<String> {
    let mut names = Vec::new();
    // Much, so that as much is wanted; then little, which is worth a lease.
    for much in [true, false] {
        let full = token_bucket(0, Rate::MAX_PERIOD, 20);
        // A new one each time: nobody remembers that it refused.
        let name = unique("full");
        let filling = charge(&name, full, 20).recorded();
        store.admit(admission([filling])).await.unwrap();
        let asked = charges.iter().map(|charge| {
            let limit = charge.charge.limit;
            let max = charge.lease.map_or(1, |terms| terms.max);
            let mut asked = *charge;
            asked.charge.amount = if much { max.cast_signed() } else { 1 };
            asked.charge.threshold = limit.threshold(asked.charge.amount, 0);
            asked
        });
        let all = asked.chain([with_lease(charge(&name, full, 1))]);
        let refused = store.admit(admission(all)).await.unwrap();
        assert_eq!(refused.verdict, Verdict::Refused);
        names.push(name);
    }
    names.push(renewals_end(store, events).await);
    names
}

/// Whether a request is one that leases are for, as `docs/design/leases.md` says.
pub(super) fn may_be_leased(admission: &Admission) -> bool {
    use tollgate::limit::Mode;

    let keys: std::collections::HashSet<_> =
        admission.charges.iter().map(|charge| charge.key).collect();
    admission.mode == Mode::Apply
        && admission
            .hold
            .as_ref()
            .is_none_or(|hold| hold.only_tells_retries)
        && !admission.charges.is_empty()
        && keys.len() == admission.charges.len()
        && admission.charges.iter().all(|charge| {
            let asked = &charge.charge;
            asked.effect == Effect::Enforce
                && asked.amount > 0
                && !charge.settles
                && asked.limit.when_over == WhenOver::Refuse
                && asked.threshold == asked.limit.burst.checked_sub(asked.amount.unsigned_abs())
        })
}

fn unique(what: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{what} {}", NEXT.fetch_add(1, Ordering::Relaxed))
}
