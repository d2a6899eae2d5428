//! Random histories of a few replicas: refills, slow and lost messages, crashes, window ends.

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;
use tollgate::limit::{Algorithm, LeaseTerms, Limit, Oversize, Rate, WhenOver, ZeroCost};

use super::world::{Act, Figures, MILLISECOND, SECOND, Setting, World};

/// Some requests, after a pause, as fast as this.
#[derive(Clone, Copy, Debug)]
struct Rush {
    pause: u64,
    replica: usize,
    asks: u64,
    every: u64,
    amount: u64,
    then: Then,
}

#[derive(Clone, Copy, Debug)]
enum Then {
    Crash,
    Leave,
    Nothing,
    Refund(u64),
}

fn limit(algorithm: Algorithm) -> impl Strategy<Value = Limit> {
    let amounts = select(vec![20_u64, 100, 500, 3000, 60_000]);
    let periods = match algorithm {
        // Windows that end often, some right before what was sent would have arrived.
        Algorithm::CalendarWindow(_) | Algorithm::FixedWindow => {
            select(vec![1_u64, 4, 7, 30, 100_000])
        }
        Algorithm::TokenBucket => select(vec![1_u64, 7, 60, 3600, 31_622_400]),
    };
    let more = select(vec![1_u64, 2, 10]);
    (amounts, periods, more).prop_map(move |(amount, seconds, more)| Limit {
        algorithm,
        rate: Rate::new(amount, Duration::from_secs(seconds)).unwrap(),
        burst: match algorithm {
            Algorithm::TokenBucket => amount * more,
            Algorithm::CalendarWindow(_) | Algorithm::FixedWindow => amount,
        },
        when_over: WhenOver::Refuse,
        oversize: Oversize::Refuse,
        zero_cost: ZeroCost::NeedsRoom,
    })
}

fn settings() -> impl Strategy<Value = Setting> {
    let limits = prop_oneof![
        3 => limit(Algorithm::TokenBucket),
        1 => limit(Algorithm::FixedWindow),
    ];
    let shares = select(vec![10_u64, 20, 100]);
    let ttls = select(vec![100_u64, 500, 2000, 10_000]);
    let chances = select(vec![0_u32, 5, 100]);
    (limits, shares, ttls, 1_usize..=7, chances.clone(), chances).prop_map(
        |(limit, share, ttl, replicas, slow, lost)| Setting {
            limit,
            terms: LeaseTerms {
                max: (limit.burst / share).max(1),
                ttl: Duration::from_millis(ttl),
            },
            replicas,
            start: 1_700_006_400 * SECOND,
            slow,
            lost,
        },
    )
}

fn rushes(refunds: bool) -> impl Strategy<Value = Vec<Rush>> {
    let pauses = prop_oneof![
        3 => 0..100 * MILLISECOND,
        2 => 0..3 * SECOND,
        1 => 0..60 * SECOND,
    ];
    let every = select(vec![0_u64, 100, 1000, 20_000, 300_000]);
    let amounts = prop_oneof![4 => Just(1_u64), 1 => 2_u64..30];
    let then = if refunds {
        prop_oneof![2 => Just(Then::Nothing), 1 => (1_u64..3000).prop_map(Then::Refund)].boxed()
    } else {
        prop_oneof![6 => Just(Then::Nothing), 1 => Just(Then::Crash), 2 => Just(Then::Leave)]
            .boxed()
    };
    let rush = (pauses, 0_usize..7, 1_u64..400, every, amounts, then).prop_map(
        |(pause, replica, asks, every, amount, then)| Rush {
            pause,
            replica,
            asks,
            every,
            amount,
            then,
        },
    );
    proptest::collection::vec(rush, 1..25)
}

fn run(setting: &Setting, rushes: &[Rush], seed: u64) -> (World, u64) {
    let mut world = World::new(setting.clone(), seed);
    let (mut now, mut refunded) = (0, 0);
    for rush in rushes {
        now += rush.pause;
        let replica = rush.replica % setting.replicas;
        for ask in 0..rush.asks {
            world.act(now + ask * rush.every, Act::Ask(replica, rush.amount));
        }
        // While most of what was asked for is still under way, or later.
        let then = now + rush.asks / 2 * rush.every;
        match rush.then {
            Then::Nothing => {}
            Then::Crash => world.act(then, Act::Crash(replica)),
            Then::Leave => world.act(then, Act::Leave(replica)),
            Then::Refund(amount) => {
                refunded += amount;
                world.act(then, Act::Refund(amount));
            }
        }
        world.run(now);
    }
    // Until all is answered and has ended.
    world.run(now + 200 * SECOND);
    (world, refunded)
}

fn conserved(figures: &Figures, held: u64) -> Result<(), TestCaseError> {
    let went = figures.granted_here
        + figures.given_back
        + figures.dropped
        + figures.crashed
        + figures.lost
        + held;
    prop_assert_eq!(figures.taken, went, "{:?}", figures);
    Ok(())
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        source_file: Some(file!()),
        ..ProptestConfig::with_cases(cases)
    }
}

#[test]
fn never_more_than_the_limit_is_let_in() {
    proptest!(config(200), |(
        setting in settings(),
        rushes in rushes(false),
        seed in any::<u64>(),
    )| {
        let (world, _) = run(&setting, &rushes, seed);
        let figures = world.figures;
        prop_assert_eq!(figures.most_over, 0, "{:?}", figures);
        let replicas = u64::try_from(setting.replicas).unwrap();
        prop_assert!(figures.most_held <= replicas * setting.terms.max, "{:?}", figures);
        prop_assert_eq!(world.held(), 0, "nobody asks any more");
        conserved(&figures, 0)?;
    });
}

/// What one replica gives back lets the lease of another sink, which that one does not know: its
/// line was drawn before.
#[test]
fn what_goes_back_does_not_let_the_leases_above_it_be_granted_twice() {
    for leaves in [450 * MILLISECOND, SECOND] {
        let setting = Setting {
            limit: Limit {
                algorithm: Algorithm::TokenBucket,
                rate: Rate::new(100, Duration::from_secs(1)).unwrap(),
                burst: 1000,
                when_over: WhenOver::Refuse,
                oversize: Oversize::Refuse,
                zero_cost: ZeroCost::NeedsRoom,
            },
            terms: LeaseTerms {
                max: 100,
                ttl: Duration::from_secs(2),
            },
            replicas: 3,
            start: 1_700_006_400 * SECOND,
            slow: 0,
            lost: 0,
        };
        let mut world = World::new(setting, 1);
        for ask in 0..50 {
            world.act(ask, Act::Ask(0, 1));
            world.act(20 * MILLISECOND + ask, Act::Ask(1, 1));
        }
        world.act(leaves, Act::Leave(0));
        world.run(1490 * MILLISECOND);
        assert!(world.figures.taken > 50, "both have leases");
        assert!(world.held() > 0, "the second still has");
        // The bucket is full, or nearly. All of it is asked for at once.
        for _ in 0..1000 {
            world.act(1490 * MILLISECOND, Act::Ask(2, 1));
            world.act(1500 * MILLISECOND, Act::Ask(1, 1));
        }
        world.run(1600 * MILLISECOND);
        assert_eq!(world.figures.most_over, 0, "{:?}", world.figures);
        assert!(world.figures.admitted > 1050, "{:?}", world.figures);
    }
}

#[test]
fn refunds_by_others_let_in_no_more_than_was_refunded_or_leased() {
    proptest!(config(100), |(
        setting in settings(),
        rushes in rushes(true),
        seed in any::<u64>(),
    )| {
        let (world, refunded) = run(&setting, &rushes, seed);
        let figures = world.figures;
        let replicas = u64::try_from(setting.replicas).unwrap();
        let most = refunded.min(replicas * setting.terms.max);
        prop_assert!(figures.most_over <= most, "{:?}", figures);
    });
}
