//! Histories of replicas with leases: what they let in together, what is left in Redis when all of
//! them have ended, and that nothing else is touched.
//!
//! What was let in is counted here, in a bucket of the model that knows nothing of leases.

mod fleet;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestCaseError;
use tollgate::limit::{Algorithm, Effect, LeaseTerms, Limit, Mode, Rate};
use tollgate::store::{Admission, Charge, Verdict};

use self::fleet::{Act, Fleet, Known, Moment, WITH_DROPPED};
use super::histories::config;
use super::history::histories;
use super::never_over::check;
use super::run::Run;
use crate::store::fixture::{
    self, Fixture, Vary as _, admission, charge, request, reservation, token_bucket,
};
use crate::store::leasing::{Happened, with_lease};

/// How fast what was spent comes back.
#[derive(Clone, Copy, Debug)]
enum Pace {
    /// None of it while a history lasts.
    None,
    /// Some, or all.
    Some,
}

fn limit(pace: Pace) -> impl Strategy<Value = Limit> {
    let bursts = select(vec![200_u64, 1000, 20_000]);
    let (periods, windows) = match pace {
        Pace::None => (vec![31_622_400_u64], vec![864_000]),
        Pace::Some => (vec![4, 20, 60, 600, 3600, 31_622_400], vec![5, 20, 60]),
    };
    let algorithms = prop_oneof![
        3 => select(periods).prop_map(|period| (Algorithm::TokenBucket, period)),
        1 => select(windows).prop_map(|period| (Algorithm::FixedWindow, period)),
    ];
    // A year that brings back one is one in which nothing comes back.
    (bursts, algorithms).prop_map(move |(burst, (algorithm, seconds))| Limit {
        algorithm,
        ..match (algorithm, pace) {
            (Algorithm::TokenBucket, Pace::None) => {
                token_bucket(1, Duration::from_secs(seconds), burst)
            }
            _ => token_bucket(burst, Duration::from_secs(seconds), burst),
        }
    })
}

fn terms(burst: u64) -> impl Strategy<Value = LeaseTerms> {
    let shares = select(vec![10_u64, 10, 50]);
    let ttls = select(vec![100_u64, 500, 2000, 10_000]);
    (shares, ttls).prop_map(move |(share, ttl)| LeaseTerms {
        max: burst / share,
        ttl: Duration::from_millis(ttl),
    })
}

fn moments(limit: Limit, others: &[Act]) -> impl Strategy<Value = Vec<Moment>> + use<> {
    let part = limit.burst.cast_signed();
    let cost = prop_oneof![
        8 => Just(1_i64),
        4 => 1..=part / 100,
        1 => 1..=part / 3,
    ];
    let asks = prop_oneof![3 => Just(30_usize), 2 => 1_usize..60];
    let ask = (0..7_usize, cost, asks).prop_map(|(replica, cost, times)| Act::Ask {
        replica,
        cost,
        times,
    });
    let act = if others.is_empty() {
        ask.boxed()
    } else {
        prop_oneof![6 => ask, 1 => select(others.to_vec())].boxed()
    };
    let pause = prop_oneof![
        4 => 0_u64..100_000,
        3 => 100_000_u64..3_000_000,
        1 => 3_000_000_u64..60_000_000,
    ];
    let pause = pause.prop_map(Duration::from_micros);
    let moment = (pause, any::<bool>(), vec(act, 1..4));
    let moment = moment.prop_map(|(pause, hurries, acts)| Moment {
        pause,
        hurries,
        acts,
    });
    vec(moment, 4..12)
}

type Story = (Limit, LeaseTerms, Vec<Moment>);

/// Any, but for the beginning: somebody asks so often that there are leases, and some is let in by
/// them.
fn stories(pace: Pace, others: &'static [Act]) -> impl Strategy<Value = Story> {
    let begin = |replica| Moment {
        pause: Duration::from_millis(1),
        hurries: false,
        acts: [30, 20]
            .map(|times| Act::Ask {
                replica,
                cost: 1,
                times,
            })
            .to_vec(),
    };
    let story = limit(pace).prop_flat_map(|limit| {
        let moments = moments(limit, others);
        (Just(limit), terms(limit.burst), moments)
    });
    story.prop_map(move |(limit, terms, mut moments)| {
        moments.insert(0, begin(0));
        (limit, terms, moments)
    })
}

/// Fails unless each of so many histories used leases, and some gave back what was left.
fn leases_were_used(sum: Happened, cases: u32) {
    assert!(sum.granted > 2 * u64::from(cases), "{sum:?}");
    assert!(sum.renewals >= u64::from(cases), "{sum:?}");
    assert!(sum.give_backs > 0, "{sum:?}");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// What happens to the leases of many histories, all together.
#[derive(Debug, Default)]
struct Sum(std::cell::Cell<Happened>, AtomicUsize);

impl Sum {
    fn add(&self, happened: Happened) {
        self.0.set(self.0.get().and(happened));
    }

    fn next_case(&self) -> String {
        self.1.fetch_add(1, Ordering::Relaxed).to_string()
    }
}

const REPLICAS: usize = 4;

const LEAVES: &[Act] = &[
    Act::Leave(0),
    Act::Leave(1),
    Act::Crash(2),
    Act::Crash(3),
    Act::Report(1),
    Act::Report(50),
    Act::Report(3000),
];

/// All that was let in is spent, and besides it at most what so many replicas hold, what was dropped,
/// and what went with those that crashed.
fn holds(seen: Known, replicas: usize, terms: LeaseTerms) -> Result<(), TestCaseError> {
    let holding = u64::try_from(replicas).unwrap() + seen.crashes;
    let beside = holding * terms.max + seen.happened.dropped;
    prop_assert!(seen.spent >= seen.let_in, "{:?}", seen);
    // Of what is let in and of what is spent another fraction may have refilled.
    prop_assert!(seen.spent <= seen.let_in + beside + 1, "{:?}", seen);
    Ok(())
}

#[test]
fn replicas_with_leases_let_in_no_more_than_the_limit_and_lose_no_more_than_they_tell() {
    const CASES: u32 = 24;
    let runtime = runtime();
    let fixture = runtime.block_on(async { Fixture::redis() });
    let sum = Sum::default();
    proptest!(config(CASES), |(
        (limit, terms, moments) in stories(Pace::Some, LEAVES),
        replicas in 1..=REPLICAS,
    )| {
        runtime.block_on(async {
            let mut fleet = Fleet::start(&fixture, sum.next_case(), (limit, terms), replicas);
            for moment in &moments {
                fleet.pass(moment).await;
                holds(fleet.seen().await, replicas, terms)?;
            }
            check(limit, fleet.taken(), 0)?;
            let end = fleet.end().await;
            sum.add(end.happened);
            holds(end, 0, terms)
        })?;
    });
    let sum = sum.0.get();
    leases_were_used(sum, CASES);
    assert!(sum.drops > 0, "{sum:?}");
}

#[test]
fn where_nothing_comes_back_what_is_let_in_and_dropped_is_what_is_spent() {
    const CASES: u32 = 12;
    let runtime = runtime();
    let fixture = runtime.block_on(async { Fixture::redis() });
    let sum = Sum::default();
    proptest!(config(CASES), |(
        (limit, terms, moments) in stories(Pace::None, &[Act::Leave(0), Act::Leave(1)]),
        replicas in 1..=REPLICAS,
    )| {
        runtime.block_on(async {
            let mut fleet = Fleet::start(&fixture, sum.next_case(), (limit, terms), replicas);
            for moment in &moments {
                fleet.pass(moment).await;
            }
            check(limit, fleet.taken(), 0)?;
            let end = fleet.end().await;
            sum.add(end.happened);
            prop_assert_eq!(end.spent, end.let_in + end.happened.dropped, "{:?}", end);
            Ok::<_, TestCaseError>(())
        })?;
    });
    let sum = sum.0.get();
    leases_were_used(sum, CASES);
}

#[test]
fn refunds_by_others_let_in_no_more_than_was_refunded_or_leased() {
    const CASES: u32 = 10;
    const REFUNDS: &[Act] = &[Act::Report(-1), Act::Report(-50), Act::Report(-1000)];
    let runtime = runtime();
    let fixture = runtime.block_on(async { Fixture::redis() });
    let sum = Sum::default();
    proptest!(config(CASES), |(
        (limit, terms, moments) in stories(Pace::Some, REFUNDS),
        replicas in 1..=REPLICAS,
    )| {
        runtime.block_on(async {
            let mut fleet = Fleet::start(&fixture, sum.next_case(), (limit, terms), replicas);
            for moment in &moments {
                fleet.pass(moment).await;
            }
            let refunded = moments.iter().flat_map(|moment| &moment.acts).map(|act| match act {
                Act::Report(cost) => cost.unsigned_abs(),
                _ => 0,
            });
            let leased = u64::try_from(replicas).unwrap() * terms.max;
            let beyond = refunded.sum::<u64>().min(leased);
            check(limit, fleet.taken(), beyond.into())?;
            sum.add(fleet.end().await.happened);
            Ok::<_, TestCaseError>(())
        })?;
    });
    let sum = sum.0.get();
    leases_were_used(sum, CASES);
}

#[test]
fn one_replica_is_as_exact_as_without_leases_where_it_may_give_back() {
    const CASES: u32 = 12;
    let runtime = runtime();
    let fixture = runtime.block_on(async { Fixture::redis() });
    let sum = Sum::default();
    let [let_in, refused, missed] = [0; 3].map(AtomicUsize::new);
    proptest!(config(CASES), |((limit, terms, moments) in stories(Pace::Some, &[]))| {
        runtime.block_on(async {
            let mut fleet = Fleet::start(&fixture, sum.next_case(), (limit, terms), 1);
            for moment in &moments {
                fleet.pause(moment.pause).await;
                for act in &moment.acts {
                    let Act::Ask { cost, times, .. } = *act else { continue };
                    for _ in 0..times {
                        let may_give_back = fleet.surely_may_give_back();
                        let fits = fleet.fits(WITH_DROPPED, cost);
                        let mut admitted = fleet.ask_one(cost).await;
                        if fits && !admitted {
                            // A renewal may have been on its way.
                            fleet.renewals_end().await;
                            admitted = fleet.ask_one(cost).await;
                        }
                        if fits && !admitted {
                            missed.fetch_add(1, Ordering::Relaxed);
                            prop_assert!(!may_give_back, "{} of {}", cost, fleet.state());
                        } else if fits {
                            let_in.fetch_add(1, Ordering::Relaxed);
                        } else {
                            refused.fetch_add(usize::from(!admitted), Ordering::Relaxed);
                        }
                    }
                }
                fleet.renewals_end().await;
            }
            check(limit, fleet.taken(), 0)?;
            sum.add(fleet.end().await.happened);
            Ok::<_, TestCaseError>(())
        })?;
    });
    let sum = sum.0.get();
    leases_were_used(sum, CASES);
    let [let_in, refused, missed] = [let_in, refused, missed].map(AtomicUsize::into_inner);
    println!("{let_in} let in, {refused} refused, {missed} more because of leases; {sum:?}");
    assert!(let_in > 500 && refused > 20, "{let_in}, {refused}");
}

#[test]
fn what_has_no_lease_is_what_the_model_says_to_the_last_bit() {
    let runtime = runtime();
    let fixture = runtime.block_on(async {
        // Everything is asked of Redis that is not leased.
        Fixture::leased_with(|options| options.refusal_memory = Duration::ZERO)
    });
    let case = AtomicUsize::new(0);
    proptest!(config(30), |(history in histories(60))| {
        let case = case.fetch_add(1, Ordering::Relaxed);
        let run = Run::new(&fixture, case, &history).with_leases_beside();
        runtime.block_on(run.finish())?;
    });
    let sum = fixture.leases().unwrap().so_far();
    assert!(sum.granted > 300, "{sum:?}");
    assert!(sum.renewals > 20, "{sum:?}");
}

/// However often it is asked for.
#[test]
fn what_may_not_be_leased_takes_no_lease() {
    const TIMES: u64 = 100;

    type Near = fn(Charge) -> Admission;
    let near: [(&str, u64, Near); 8] = [
        ("settled", 1, |mut charge| {
            charge.settles = true;
            admission([charge])
        }),
        ("held", 1, |charge| {
            let (_, held) = request("held", charge.charge.limit);
            // A new one each time.
            let id = format!("{}", fastrand::u64(..));
            Admission {
                hold: Some(reservation(&id, &[(charge, held)])),
                ..admission([charge])
            }
        }),
        ("class", 1, |mut charge| {
            charge.charge.threshold = charge.charge.limit.threshold(1, 100);
            admission([charge])
        }),
        ("twice", 2, |charge| admission([charge, charge])),
        ("recorded", 1, |charge| admission([charge.recorded()])),
        ("shadowed", 1, |charge| {
            admission([charge.with(Effect::Shadow)])
        }),
        // With a limit that has none.
        ("beside", 1, |charge| {
            let plain = fixture::charge("plain", charge.charge.limit, 1);
            admission([charge, plain])
        }),
        ("looked at", 0, |charge| Admission {
            mode: Mode::Peek,
            ..admission([charge])
        }),
    ];
    let runtime = runtime();
    runtime.block_on(async {
        let fixture = Fixture::leased();
        let limit = token_bucket(1, Rate::MAX_PERIOD, 1000);
        for (name, spent, near) in near {
            for time in 1..=TIMES {
                let asked = near(with_lease(charge(name, limit, 1)));
                let decision = fixture.store.admit(asked).await.unwrap();
                assert_eq!(decision.verdict, Verdict::Admitted, "{name}");
                let told = decision.readings.last().unwrap().bucket.spent;
                assert_eq!(told, spent * time, "{name}");
                if time % 20 == 0 {
                    fixture.renewals_end().await;
                }
            }
        }
        let happened = fixture.leases().unwrap().so_far();
        assert_eq!((happened.granted, happened.taken), (0, 0));
    });
}
