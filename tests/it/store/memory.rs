//! What only the memory store can get wrong: locks, and forgetting.

use std::sync::Barrier;
use std::time::Duration;

use tollgate::clock::{Clock, ManualClock};
use tollgate::limit::{Rate, Usage};
use tollgate::rules::BucketKey;
use tollgate::store::{HoldCounts, Memory, Store, Verdict};

use super::fixture::{
    Fixture, LIFETIME, MICROSECOND, MINUTE, SECOND, START, admission, charge, just_before,
    token_bucket, tokens,
};

#[test]
fn many_threads_are_admitted_exactly_up_to_the_limit() {
    const THREADS: usize = 16;
    let limit = token_bucket(500, Rate::MAX_PERIOD, 500);
    for (cost, admitted) in [(1, 500), (7, 500 / 7)] {
        let memory = Memory::new(Clock::Manual(ManualClock::new(START)));
        let barrier = Barrier::new(THREADS);
        let count: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let (memory, barrier) = (&memory, &barrier);
                    scope.spawn(move || {
                        // Half of them name the buckets in the other order: a deadlock, were the
                        // locks taken in the order of the charges.
                        let mut charges = ["a", "b", "c"].map(|name| charge(name, limit, cost));
                        if thread % 2 == 1 {
                            charges.reverse();
                        }
                        let admission = admission(charges);
                        barrier.wait();
                        let decisions = (0..200).map(|_| memory.admit(&admission));
                        decisions
                            .filter(|decision| decision.verdict == Verdict::Admitted)
                            .count()
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(count, admitted);
        let spent = u64::try_from(cost).unwrap() * u64::try_from(count).unwrap();
        for name in ["a", "b", "c"] {
            let look = memory.admit(&admission([charge(name, limit, -1)]));
            assert_eq!(look.readings[0].bucket.spent, spent - 1);
        }
    }
}

#[test]
fn what_is_full_again_is_forgotten_while_others_come() {
    const AT_ONCE: u64 = 10_000;
    let clock = ManualClock::new(START);
    let memory = Memory::new(Clock::Manual(clock.clone()));
    let brief = token_bucket(1, SECOND, 10);
    let lasting = token_bucket(1, Rate::MAX_PERIOD, 10);
    memory.admit(&admission([charge("lasting", lasting, 10)]));
    let mut most = 0;
    for name in 0..300_000 {
        memory.admit(&admission([charge(&name.to_string(), brief, 1)]));
        clock.advance(SECOND / u32::try_from(AT_ONCE).unwrap());
        most = most.max(if name % 1000 == 0 {
            memory.bucket_count()
        } else {
            0
        });
    }
    // 10,000 are not full at any moment; the shards look when they have doubled, and not at first.
    assert!(most < 80_000, "{most} at once");
    assert!(most > usize::try_from(AT_ONCE).unwrap());
    clock.advance(MINUTE);
    memory.forget_full();
    assert_eq!(memory.bucket_count(), 1);
    let refused = memory.admit(&admission([charge("lasting", lasting, 1)]));
    assert_eq!(refused.verdict, Verdict::Refused);
}

#[test]
fn a_bucket_is_not_forgotten_a_microsecond_too_early() {
    let clock = ManualClock::new(START);
    let memory = Memory::new(Clock::Manual(clock.clone()));
    let limit = token_bucket(7, SECOND, 10);
    memory.admit(&admission([charge("a", limit, 1)]));
    clock.advance(Duration::from_micros(142_857));
    memory.forget_full();
    assert_eq!(memory.bucket_count(), 1);
    clock.advance(Duration::from_micros(1));
    memory.forget_full();
    assert_eq!(memory.bucket_count(), 0);
}

#[tokio::test]
async fn reservations_that_are_abandoned_leave_nothing() {
    const CALLS: usize = 100_000;
    let fixture = Fixture::memory();
    let limit = token_bucket(1_000_000_000, SECOND, 1_000_000_000);
    for call in 0..CALLS {
        let id = call.to_string();
        let tenant = (call % 100).to_string();
        fixture.hold(&id, [tokens(&tenant, limit, 800)]).await;
        match call % 10 {
            0 => {}
            1 => drop(fixture.so_far(&id, [900, 0, 0, 0]).await),
            2 => drop(fixture.settle(&id, Usage::Missing).await),
            3 => drop(fixture.release(&id).await),
            _ => drop(fixture.settle(&id, Usage::Total(42)).await),
        }
    }
    let Store::Memory(memory) = &fixture.store else {
        unreachable!("it is the memory store");
    };
    assert_eq!(memory.hold_count(), CALLS);
    assert_eq!(fixture.count_holds().await.open, (CALLS / 5) as u64);
    fixture.clock.advance(LIFETIME);
    let expired = HoldCounts {
        open: 0,
        newly_unreported: (CALLS / 10) as u64,
        newly_cut_short: (CALLS / 10) as u64,
    };
    assert_eq!(fixture.count_holds().await, expired);
    fixture.clock.advance(just_before(LIFETIME));
    assert_eq!(
        memory.hold_count(),
        CALLS / 5,
        "a late report would find them"
    );
    fixture.clock.advance(MICROSECOND);
    assert_eq!(memory.hold_count(), 0);
    memory.forget_full();
    assert_eq!(fixture.bucket_count(), 0);
}

#[test]
fn a_bucket_takes_120_bytes_at_most_however_many_there_are() {
    const MOST: usize = 200_000;
    let limit = token_bucket(1, Rate::MAX_PERIOD, 100);
    let memory = Memory::new(Clock::Manual(ManualClock::new(START)));
    let mut keys = fastrand::Rng::with_seed(4);
    let mut worst = 0;
    for buckets in 1..=MOST {
        let mut asked = charge("any", limit, 1);
        asked.key = BucketKey::from_bytes(keys.u128(..).to_le_bytes());
        memory.admit(&admission([asked]));
        // Tables double: every size between one doubling and the next, several times over.
        if buckets >= 10_000 {
            worst = worst.max(memory.bucket_bytes() / buckets);
        }
    }
    assert_eq!(memory.bucket_count(), MOST);
    assert!((49..=120).contains(&worst), "{worst}");
}
