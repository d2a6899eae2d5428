//! Leases on a real Redis: several replicas, one limit, a clock that the test moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tollgate::limit::{LeaseTerms, Limit, Mode, Rate};
use tollgate::store::{Admission, Charge, Store, Verdict};

use super::eventually;
use crate::store::fixture::{
    Fixture, MINUTE, admission, charge, fixed_window, request, reservation, token_bucket,
};
use crate::store::leasing::Events;
use crate::support::redis::RedisServer;
use crate::support::tasks::in_order;

const LIMIT: u64 = 500;
const MAX: u64 = 50;

/// A small part of the time in which a lease that ended may still go back.
const STEP: Duration = Duration::from_millis(50);

fn terms() -> LeaseTerms {
    LeaseTerms {
        max: MAX,
        ttl: LeaseTerms::DEFAULT_TTL,
    }
}

/// 500, of which not one comes back within 17 hours.
fn slow() -> Limit {
    token_bucket(LIMIT, Rate::MAX_PERIOD, LIMIT)
}

fn leased(name: &str, limit: Limit, cost: i64) -> Charge {
    Charge {
        lease: Some(terms()),
        ..charge(name, limit, cost)
    }
}

/// A replica on the buckets of `fixture`.
fn replica(fixture: &Fixture) -> (Store, Events) {
    let events = Events::default();
    let store = fixture.another_client_with(|options| {
        options.on_lease = Some(events.listener());
    });
    (store, events)
}

async fn let_in(store: &Store, charges: impl IntoIterator<Item = Charge>) -> bool {
    let decision = store.admit(admission(charges)).await.unwrap();
    decision.verdict == Verdict::Admitted
}

/// Asks for one hit a millisecond until the replica lets some in on its own.
async fn until_leased(fixture: &Fixture, (store, events): (&Store, &Events), limit: Limit) -> u64 {
    let mut admitted = 0;
    while events.granted() < 3 {
        assert!(admitted < 300, "no lease: {events:?}");
        fixture.clock.advance(Duration::from_millis(1));
        admitted += u64::from(let_in(store, [leased("a", limit, 1)]).await);
    }
    admitted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn replicas_let_in_no_more_than_the_limit_and_nothing_is_lost() {
    let fixture = Fixture::redis();
    let (stores, events): (Vec<_>, Vec<_>) = (0..4).map(|_| replica(&fixture)).unzip();
    let mut admitted = 0;
    for (store, events) in stores.iter().zip(&events) {
        admitted += until_leased(&fixture, (store, events), slow()).await;
    }
    let stores: Vec<_> = stores.into_iter().map(Arc::new).collect();
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let store = Arc::clone(&stores[task % 4]);
            tokio::spawn(async move {
                let mut admitted = 0;
                for _ in 0..5 {
                    let asks = (0..25).map(|_| store.admit(admission([leased("a", slow(), 1)])));
                    for decision in Box::pin(in_order(asks)).await {
                        admitted += u64::from(decision.unwrap().verdict == Verdict::Admitted);
                    }
                }
                admitted
            })
        })
        .collect();
    for task in tasks {
        admitted += task.await.unwrap();
    }
    assert!(admitted <= LIMIT, "{admitted}");
    assert!(admitted >= LIMIT - 4 * MAX, "{admitted}");
    let granted: u64 = events.iter().map(Events::granted).sum();
    assert!(granted >= 12, "{granted}");

    // What lay with replicas comes back, and can be had by anybody.
    eventually("what was leased is back", || async {
        fixture.clock.advance(STEP);
        for store in &stores {
            store.expire_leases().await;
        }
        fixture.spent("a", slow()).await == admitted
    })
    .await;
    while let_in(&stores[0], [leased("a", slow(), 1)]).await {
        admitted += 1;
    }
    assert_eq!(admitted, LIMIT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_steady_load_makes_one_call_of_a_hundred_decisions_at_most() {
    const DECISIONS: usize = 40_000;

    let redis = Arc::new(RedisServer::start());
    let fixture = Fixture::redis_on(Arc::clone(&redis), |_| ());
    let (stores, events): (Vec<_>, Vec<_>) = (0..2).map(|_| replica(&fixture)).unzip();
    let limit = token_bucket(600_000, MINUTE, 600_000);
    let terms = LeaseTerms {
        max: 6_000,
        ttl: LeaseTerms::DEFAULT_TTL,
    };
    let ask = async |count: usize| {
        for index in 0..count {
            // 10,000 a second, which is the limit.
            fixture.clock.advance(Duration::from_micros(100));
            let charge = Charge {
                lease: Some(terms),
                ..charge("hot", limit, 1)
            };
            assert!(let_in(&stores[index % 2], [charge]).await);
            tokio::task::yield_now().await;
        }
    };
    ask(DECISIONS).await;
    redis.command::<()>(&["CONFIG", "RESETSTAT"]);
    ask(DECISIONS).await;
    let stats: String = redis.command(&["INFO", "commandstats"]);
    let calls = stats
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="))
        .and_then(|rest| rest.split(',').next())
        .map_or(0, |calls| calls.parse::<usize>().unwrap());
    assert!(calls > 0, "time passed without a renewal");
    assert!(calls <= DECISIONS / 100, "{calls} of {DECISIONS}");
    println!("{calls} calls of Redis for {DECISIONS} decisions");
    drop(events);
}

#[tokio::test]
async fn one_replica_alone_lets_in_all_of_the_limit() {
    let fixture = Fixture::redis();
    let (store, events) = replica(&fixture);
    let mut admitted = 0;
    // Sevens and ones: what is left of a lease is often too little.
    for index in 0..1_000 {
        let cost = if index % 5 == 0 { 7 } else { 1 };
        if let_in(&store, [leased("a", slow(), cost)]).await {
            admitted += cost.unsigned_abs();
        }
    }
    assert_eq!(admitted, LIMIT);
    assert!(events.granted() > 0, "{events:?}");
}

#[tokio::test]
async fn a_refusal_stands_when_asking_again_fails() {
    let server = Arc::new(RedisServer::start());
    let fixture = Fixture::redis_on(Arc::clone(&server), |_| ());
    let events = Events::default();
    let armed = Arc::new(AtomicBool::new(false));
    let store = fixture.another_client_with(|options| {
        let armed = Arc::clone(&armed);
        options.deadline = Duration::from_secs(1);
        options.on_lease = Some(events.listener());
        options.on_call = Some(Arc::new(move |call| {
            // The answer is there, and nobody has heard of it yet.
            if call.operations > 3 && armed.swap(false, Ordering::Relaxed) {
                server.pause();
            }
        }));
    });
    let admitted = until_leased(&fixture, (&store, &events), slow()).await;
    // As much as a lease, and one, is left when what is leased is back.
    let left = i64::try_from(MAX).unwrap() + 1;
    let filled = LIMIT - left.unsigned_abs();
    let filling = i64::try_from(filled - admitted).unwrap();
    assert!(let_in(&fixture.store, [charge("a", slow(), filling)]).await);

    armed.store(true, Ordering::Relaxed);
    let kept = |charge| Admission {
        keep_when_late: true,
        ..admission([charge])
    };
    let others = ["b", "c", "d"].map(|name| kept(charge(name, slow(), 1)));
    let asked = std::iter::once(kept(leased("a", slow(), left))).chain(others);
    let outcomes = Box::pin(in_order(asked.map(|asked| store.admit(asked)))).await;
    let verdict = outcomes[0].as_ref().map(|decision| decision.verdict);
    assert_eq!(verdict, Ok(Verdict::Refused));
    assert!(!armed.load(Ordering::Relaxed), "never paused");

    fixture.server().resume();
    // What is asked later is answered later.
    eventually("an answer", || async {
        store.admit(admission([])).await.is_ok()
    })
    .await;
    eventually("what nobody heard of is given back", || async {
        fixture.spent("a", slow()).await == filled
    })
    .await;
}

/// A replica that remembers refusals for long, with a lease of `a`; and how many it refused itself.
async fn remembering(fixture: &Fixture) -> (Store, u64, Arc<AtomicU64>) {
    let events = Events::default();
    let refused = Arc::new(AtomicU64::new(0));
    let store = fixture.another_client_with(|options| {
        let refused = Arc::clone(&refused);
        options.refusal_memory = Duration::from_secs(10);
        options.on_lease = Some(events.listener());
        options.on_local_refusal = Some(Arc::new(move || {
            refused.fetch_add(1, Ordering::Relaxed);
        }));
    });
    let admitted = until_leased(fixture, (&store, &events), slow()).await;
    (store, admitted, refused)
}

#[tokio::test]
async fn what_ended_and_was_not_given_back_yet_is_no_reason_to_refuse() {
    let fixture = Fixture::redis();
    let (store, admitted, refused) = remembering(&fixture).await;
    let left = i64::try_from(MAX).unwrap() + 1;
    let filling = i64::try_from(LIMIT - admitted).unwrap() - left;
    assert!(let_in(&fixture.store, [charge("a", slow(), filling)]).await);
    // Redis refuses it, because it counts what is leased.
    let look = Admission {
        mode: Mode::Peek,
        ..admission([leased("a", slow(), left)])
    };
    let looked = store.admit(look).await.unwrap();
    assert_eq!(looked.verdict, Verdict::Refused);
    // A renewal that was refused meanwhile may have told as much.
    let before = refused.load(Ordering::Relaxed);
    fixture.clock.advance(LeaseTerms::DEFAULT_TTL + STEP);
    assert!(let_in(&store, [leased("a", slow(), left)]).await);
    assert_eq!(refused.load(Ordering::Relaxed), before);
}

#[tokio::test]
async fn a_lease_of_another_bucket_does_not_keep_refusals_from_being_remembered() {
    let fixture = Fixture::redis();
    let (store, _, refused) = remembering(&fixture).await;
    let none = token_bucket(1, Rate::MAX_PERIOD, 1);
    assert!(let_in(&fixture.store, [charge("b", none, 1)]).await);
    for other in [charge("b", none, 1), leased("b", none, 1)] {
        let before = refused.load(Ordering::Relaxed);
        for _ in 0..3 {
            assert!(!let_in(&store, [leased("a", slow(), 1), other]).await);
        }
        assert!(refused.load(Ordering::Relaxed) >= before + 2);
    }
}

#[tokio::test]
async fn a_replica_that_dies_takes_its_lease_along_and_no_more() {
    let fixture = Fixture::redis();
    let (dying, events) = replica(&fixture);
    let mut admitted = until_leased(&fixture, (&dying, &events), slow()).await;
    drop(dying);
    let (other, _) = replica(&fixture);
    for _ in 0..LIMIT {
        admitted += u64::from(let_in(&other, [leased("a", slow(), 1)]).await);
    }
    assert!(admitted <= LIMIT, "{admitted}");
    assert!(admitted >= LIMIT - MAX, "{admitted}");
}

#[tokio::test]
async fn a_replica_that_leaves_gives_all_back_and_leases_no_more() {
    let fixture = Fixture::redis();
    let (store, events) = replica(&fixture);
    let mut admitted = until_leased(&fixture, (&store, &events), slow()).await;
    store.close_leases().await;
    assert_eq!(fixture.spent("a", slow()).await, admitted);
    let (taken, granted) = (events.taken(), events.granted());
    for _ in 0..50 {
        admitted += u64::from(let_in(&store, [leased("a", slow(), 1)]).await);
    }
    assert_eq!(fixture.spent("a", slow()).await, admitted);
    assert_eq!((events.taken(), events.granted()), (taken, granted));
}

#[tokio::test]
async fn a_limit_that_changes_gives_back_what_was_taken_by_the_old_one() {
    let fixture = Fixture::redis();
    let (store, events) = replica(&fixture);
    let mut admitted = until_leased(&fixture, (&store, &events), slow()).await;
    let granted = events.granted();
    let changed = token_bucket(LIMIT * 2, Rate::MAX_PERIOD, LIMIT * 2);
    admitted += u64::from(let_in(&store, [leased("a", changed, 1)]).await);
    assert_eq!(events.granted(), granted, "by the old limit");
    eventually("what was leased is back", || async {
        fixture.clock.advance(STEP);
        store.expire_leases().await;
        fixture.spent("a", changed).await == admitted
    })
    .await;
}

#[tokio::test]
async fn a_lease_ends_with_its_window() {
    let fixture = Fixture::redis();
    let (store, events) = replica(&fixture);
    let window = fixed_window(LIMIT, MINUTE);
    let before = until_leased(&fixture, (&store, &events), window).await;
    assert!(before < LIMIT);
    fixture.clock.advance(MINUTE);
    let granted = events.granted();
    assert!(let_in(&store, [leased("a", window, 1)]).await);
    assert_eq!(events.granted(), granted, "by the old window");
    let mut admitted = 1;
    for _ in 0..2 * LIMIT {
        admitted += u64::from(let_in(&store, [leased("a", window, 1)]).await);
    }
    assert_eq!(admitted, LIMIT);
}

#[tokio::test]
async fn several_limits_are_granted_together_or_not_at_all() {
    let fixture = Fixture::redis();
    let (store, events) = replica(&fixture);
    let small = token_bucket(100, Rate::MAX_PERIOD, 100);
    let mut admitted = 0;
    for _ in 0..300 {
        let charges = [leased("a", slow(), 1), leased("b", small, 2)];
        admitted += u64::from(let_in(&store, charges).await);
    }
    assert!(events.granted() > 0, "{events:?}");
    assert_eq!(admitted, 50);
    eventually("what was leased is back", || async {
        fixture.clock.advance(STEP);
        store.expire_leases().await;
        fixture.spent("a", slow()).await == 50 && fixture.spent("b", small).await == 100
    })
    .await;
}

#[tokio::test]
async fn what_a_report_may_change_goes_to_redis() {
    let fixture = Fixture::redis();
    let (store, events) = replica(&fixture);
    until_leased(&fixture, (&store, &events), slow()).await;
    let granted = events.granted();
    let (charge, held) = request("a", slow());
    let hold = reservation("id", &[(charge, held)]);
    let asked = |only_tells_retries, mode| {
        let mut hold = hold.clone();
        hold.only_tells_retries = only_tells_retries;
        Admission {
            hold: Some(hold),
            mode,
            ..admission([leased("a", slow(), 1)])
        }
    };
    store.admit(asked(false, Mode::Apply)).await.unwrap();
    store.admit(asked(true, Mode::Peek)).await.unwrap();
    // As a class of which something has to stay free.
    let mut classed = leased("a", slow(), 1);
    classed.charge.threshold = slow().threshold(1, 100);
    assert!(let_in(&store, [classed]).await);
    // Twice the same bucket; and one without a lease.
    assert!(let_in(&store, [leased("a", slow(), 1), leased("a", slow(), 1)]).await);
    let plain = crate::store::fixture::charge("c", slow(), 1);
    assert!(let_in(&store, [leased("a", slow(), 1), plain]).await);
    assert_eq!(events.granted(), granted);

    // A retry is not known where only retries would be told.
    for _ in 0..2 {
        let decision = store.admit(asked(true, Mode::Apply)).await.unwrap();
        assert_eq!(decision.verdict, Verdict::Admitted);
    }
    assert_eq!(events.granted(), granted + 2);
}

#[tokio::test]
async fn an_answer_tells_what_is_left_for_this_replica() {
    let fixture = Fixture::redis();
    let (store, events) = replica(&fixture);
    let mut admitted = until_leased(&fixture, (&store, &events), slow()).await;
    let (mut exact, mut local) = (0, 0);
    for _ in 0..100 {
        fixture.clock.advance(Duration::from_millis(1));
        let granted = events.granted();
        let asked = admission([leased("a", slow(), 1)]);
        let decision = store.admit(asked).await.unwrap();
        assert_eq!(decision.verdict, Verdict::Admitted);
        admitted += 1;
        if events.granted() == granted {
            continue;
        }
        local += 1;
        // What is leased does not count, unless Redis took it a moment ago, and it is not here yet.
        let spent = decision.readings[0].bucket.spent;
        assert!(spent >= admitted, "{spent} after {admitted}");
        assert!(spent <= admitted + MAX, "{spent} after {admitted}");
        exact += u64::from(spent == admitted);
        assert_eq!(decision.now, fixture.clock.now());
    }
    assert!(exact > local / 2, "{exact} of {local}");
}
