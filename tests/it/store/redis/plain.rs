//! Plain charges: the script tells what it found of a bucket, and the store says what that came to.
//! So what is told and what is stored are calculated in two places, and have to agree.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use tollgate::limit::{Effect, Limit, Mode, Rate, WhenOver};
use tollgate::store::{Charge, Decision};

use super::Calls;
use crate::store::fixture::{
    Fixture, START, Vary as _, admission, charge, fixed_window, token_bucket,
};
use crate::store::model::histories::config;
use crate::support::tasks::in_order;

const BUCKETS: usize = 9;

/// How many limits there are.
const LIMITS: usize = 4;

/// What buckets are held to, in turns: in each case half of them, each by many buckets.
fn limits() -> [Limit; LIMITS] {
    [
        token_bucket(7, Duration::from_secs(3), 20),
        Limit {
            when_over: WhenOver::Charge,
            ..token_bucket(1000, Duration::from_millis(999), 30)
        },
        fixed_window(25, Duration::from_secs(2)),
        // A refill whose products no double holds.
        token_bucket(999_999_999_999_937, Rate::MAX_PERIOD, 1_000_000),
    ]
}

#[derive(Clone, Debug)]
struct Asked {
    bucket: usize,
    amount: i64,
    effect: Effect,
}

impl Asked {
    fn charge(&self, case: usize, turn: usize) -> Charge {
        charge_on(self.bucket, self.amount, case, turn).with(self.effect)
    }
}

fn charge_on(bucket: usize, amount: i64, case: usize, turn: usize) -> Charge {
    let limit = limits()[(bucket % (LIMITS / 2) + turn) % LIMITS];
    charge(&format!("{case}/{bucket}"), limit, amount)
}

fn asked() -> impl Strategy<Value = Asked> {
    let effect = prop_oneof![
        6 => Just(Effect::Enforce),
        1 => Just(Effect::Quota),
        1 => Just(Effect::Record),
        1 => Just(Effect::Shadow),
    ];
    let amount = prop_oneof![6 => Just(1_i64), 3 => 2..9_i64, 1 => -9..1_i64, 1 => Just(i64::MAX)];
    (0..BUCKETS, amount, effect).prop_map(|(bucket, amount, effect)| Asked {
        bucket,
        amount,
        effect,
    })
}

/// What was told, but for the time that a state is of: one store may remember a full bucket that the
/// other forgot.
fn timeless(mut decision: Decision) -> Decision {
    for reading in &mut decision.readings {
        reading.bucket.at = START;
    }
    decision
}

/// What is stored of all buckets.
async fn stored(fixture: &Fixture, case: usize, turn: usize) -> Decision {
    let looks = (0..BUCKETS).map(|bucket| charge_on(bucket, 0, case, turn).recorded());
    timeless(fixture.admit(looks, Mode::Peek, None).await)
}

#[test]
fn what_is_told_is_what_is_stored() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut calls = Calls::default();
    let redis = runtime.block_on(async {
        Fixture::redis_with(|options| {
            options.refusal_memory = Duration::ZERO;
            calls = Calls::of(options);
        })
    });
    let memory = Fixture::memory();
    let case = std::cell::Cell::new(0);
    let round = (vec(asked(), 1..40), 0..3_000_000_u64);
    let cases = (vec(round, 1..8), 0..LIMITS);
    proptest!(config(150), |((rounds, turn) in cases)| {
        case.set(case.get() + 1);
        let case = case.get();
        runtime.block_on(async {
            redis.clock.set(START);
            memory.clock.set(START);
            for (asked, micros) in rounds {
                let before = calls.operations().len();
                let asks = asked.iter().map(|asked| {
                    redis.store.admit(admission([asked.charge(case, turn)]))
                });
                let told = in_order(asks).await;
                prop_assert_eq!(&calls.operations()[before..], &[asked.len()]);
                for (asked, told) in asked.iter().zip(told) {
                    let asks = admission([asked.charge(case, turn)]);
                    let expected = memory.store.admit(asks).await.unwrap();
                    prop_assert_eq!(timeless(told.unwrap()), timeless(expected), "{:?}", asked);
                }
                let expected = stored(&memory, case, turn).await;
                prop_assert_eq!(stored(&redis, case, turn).await, expected);
                redis.clock.advance(Duration::from_micros(micros));
                memory.clock.advance(Duration::from_micros(micros));
            }
            Ok(())
        })?;
    });
}

#[tokio::test]
async fn what_was_left_over_at_another_rate_is_less_than_one_token() {
    let slow = token_bucket(7, Duration::from_secs(3), 20);
    let fast = token_bucket(1000, Duration::from_millis(999), 20);
    for fixture in [Fixture::redis(), Fixture::memory()] {
        fixture.clock.set(START);
        fixture.charge([charge("a", slow, 9)]).await;
        // 2 1/3 tokens: two thirds short of the next one, in parts of which a token has 3,000,000.
        fixture.clock.advance(Duration::from_secs(1));
        let before = fixture.charge([charge("a", slow, 3)]).await;
        assert_eq!(before.readings[0].bucket.spent, 10);
        // One of 999 parts comes, and completes one token only.
        fixture.clock.advance(Duration::from_micros(1));
        let told = fixture.charge([charge("a", fast, 1)]).await;
        let look = charge("a", fast, 0).recorded();
        let stored = fixture.admit([look], Mode::Peek, None).await;
        for decision in [told, stored] {
            let bucket = decision.readings[0].bucket;
            assert_eq!((bucket.spent, bucket.fraction), (10, 0));
        }
    }
}
