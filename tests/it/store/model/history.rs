//! Random histories: what clients do to a few buckets, and when.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use tollgate::limit::{Algorithm, Limit, Oversize, Rate, Span, Timestamp, WhenOver, ZeroCost};

use super::naive::{End, Meaning};
use crate::store::fixture::START;

/// How many buckets a history touches.
pub(super) const BUCKETS: usize = 4;

/// How many reservation ids are in use.
pub(super) const IDS: usize = 5;

/// What happens, in order.
#[derive(Clone, Debug)]
pub(super) struct History {
    /// What each bucket is held to at first.
    pub(super) limits: Vec<Limit>,
    pub(super) steps: Vec<Step>,
    /// How long reservations live, in microseconds.
    pub(super) lifetime: u64,
}

/// What happens at one moment: all of it may go to Redis in one call.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// By how many microseconds the clock moves first.
    pub(super) moves: i64,
    /// A limit that is changed first.
    pub(super) change: Option<(usize, Limit)>,
    pub(super) operations: Vec<Operation>,
}

#[derive(Clone, Debug)]
pub(super) enum Operation {
    Admit {
        charges: Vec<Charged>,
        peek: bool,
        id: Option<usize>,
    },
    End {
        id: usize,
        end: End,
        fallback: Vec<Charged>,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Charged {
    pub(super) bucket: usize,
    pub(super) cost: i64,
    pub(super) headroom: u64,
    pub(super) effect: Meaning,
    pub(super) fixed: u64,
    pub(super) weights: [u32; 4],
    pub(super) missing_gives_back: bool,
}

impl Charged {
    /// Asks nothing of a bucket but what is spent of it.
    pub(super) fn look(bucket: usize) -> Self {
        Self {
            bucket,
            cost: 0,
            headroom: 0,
            effect: Meaning::Record,
            fixed: 0,
            weights: [0; 4],
            missing_gives_back: false,
        }
    }
}

/// Histories of up to `operations` operations.
pub(super) fn histories(operations: usize) -> impl Strategy<Value = History> {
    (any::<bool>(), vec(limit(), BUCKETS)).prop_flat_map(move |(backwards, limits)| {
        let steps = vec(step(backwards), 1..=operations / 3).prop_map(move |mut steps| {
            let mut left = operations;
            for step in &mut steps {
                step.operations.truncate(left);
                left -= step.operations.len();
            }
            steps
        });
        // Where time goes back, no reservation expires: a forgotten one does not come back.
        let lifetime = if backwards {
            (1_u64 << 50..1 << 51).boxed()
        } else {
            (60_000_000..200_000_000_000_u64).boxed()
        };
        (Just(limits), steps, lifetime).prop_map(|(limits, steps, lifetime)| History {
            limits,
            steps,
            lifetime,
        })
    })
}

/// Any limit: ordinary, awkward and extreme.
pub(super) fn limit() -> impl Strategy<Value = Limit> {
    let algorithm = prop_oneof![
        6 => Just(Algorithm::TokenBucket),
        2 => Just(Algorithm::FixedWindow),
        2 => span().prop_map(Algorithm::CalendarWindow),
    ];
    let when_over = prop_oneof![3 => Just(WhenOver::Refuse), 1 => Just(WhenOver::Charge)];
    let oversize = prop_oneof![Just(Oversize::Refuse), Just(Oversize::WhenFull)];
    let zero_cost = prop_oneof![Just(ZeroCost::NeedsRoom), Just(ZeroCost::PassesAtZero)];
    (algorithm, rate(), burst(), when_over, oversize, zero_cost).prop_map(
        |(algorithm, rate, burst, when_over, oversize, zero_cost)| Limit {
            algorithm,
            rate,
            burst: burst.unwrap_or_else(|| rate.amount()),
            when_over,
            oversize,
            zero_cost,
        },
    )
}

/// Any window, before, at and after the time at which histories begin, and one after it.
pub(super) fn span() -> impl Strategy<Value = Span> {
    const MOST: u64 = Rate::MAX_PERIOD.as_secs() * 1_000_000;
    let length = || {
        prop_oneof![
            // Ends that the clock's steps come to exactly.
            1 => 1_u64..4,
            3 => Just(1_000_000),
            2 => 1_u64..2_000_000,
            2 => 1_u64..100_000_000,
            1 => select([23_u64, 24, 25].map(|hours| hours * 3_600_000_000).to_vec()),
            1 => 1..=MOST,
        ]
    };
    let now = START.as_micros();
    let starts = prop_oneof![
        2 => Just(now),
        1 => now..now + 100_000_000,
        2 => now - 100_000_000..now,
        1 => now - MOST..now,
    ];
    (starts, length(), length()).prop_map(|(start, length, next)| {
        let [start, end, next_end] =
            [start, start + length, start + length + next].map(Timestamp::from_micros);
        Span::new(start, end, next_end).unwrap()
    })
}

/// Any rate. Some have denominators that share no factor with anything.
pub(super) fn rate() -> impl Strategy<Value = Rate> {
    const DAY: Duration = Duration::from_hours(24);
    const YEAR: Duration = Rate::MAX_PERIOD;
    let named = select(vec![
        (7, Duration::from_secs(1)),
        (450_000, Duration::from_mins(1)),
        (4_999_999, DAY),
        (1, YEAR),
        (0, Duration::from_mins(1)),
        (1_000_000_000, Duration::from_secs(1)),
        (1_000_000_000_000_000, YEAR),
        (
            999_999_999_999_989,
            Duration::from_micros(31_622_399_999_993),
        ),
        (1_000_000_000_000_000, Duration::from_micros(1)),
    ]);
    let small = (
        1_u64..1000,
        (1_u64..100_000_000).prop_map(Duration::from_micros),
    );
    let any = (
        0..=1_000_000_000_000_000_u64,
        (1_u64..=31_622_400_000_000).prop_map(Duration::from_micros),
    );
    prop_oneof![3 => named, 2 => small, 1 => any]
        .prop_map(|(amount, period)| Rate::new(amount, period).unwrap())
}

fn burst() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![
        2 => Just(None),
        1 => (0_u64..3).prop_map(Some),
        3 => (3_u64..2000).prop_map(Some),
        1 => (0_u64..=1_000_000_000_000_000).prop_map(Some),
    ]
}

fn step(backwards: bool) -> impl Strategy<Value = Step> {
    let change = prop_oneof![9 => Just(None), 1 => (0..BUCKETS, limit()).prop_map(Some)];
    (moves(backwards), change, vec(operation(), 1..6)).prop_map(|(moves, change, operations)| {
        Step {
            moves,
            change,
            operations,
        }
    })
}

fn moves(backwards: bool) -> BoxedStrategy<i64> {
    let ahead = prop_oneof![
        2 => Just(0),
        1 => Just(1),
        2 => Just(1_000_000),
        3 => 1_i64..1_000_000,
        2 => 1_i64..60_000_000,
        1 => 1_i64..1_000_000_000_000,
    ];
    if backwards {
        prop_oneof![4 => ahead, 1 => -100_000_000_i64..0].boxed()
    } else {
        ahead.boxed()
    }
}

fn operation() -> impl Strategy<Value = Operation> {
    let id = prop_oneof![1 => Just(None), 1 => (0..IDS).prop_map(Some)];
    let peek = prop_oneof![4 => Just(false), 1 => Just(true)];
    let admit = (vec(charged(), 0..5), peek, id).prop_map(|(mut charges, peek, id)| {
        if id.is_some() {
            // A reservation holds no refunds.
            for charge in &mut charges {
                charge.cost = charge.cost.max(0);
            }
        }
        Operation::Admit { charges, peek, id }
    });
    let count = || prop_oneof![Just(0), 0..5000_u64, 0..=1_000_000_000_000_u64];
    let end = prop_oneof![
        Just(End::Release),
        [count(), count(), count(), count()].prop_map(End::Measured),
        Just(End::Missing),
        count().prop_map(End::Total),
        [count(), count(), count(), count()].prop_map(End::SoFar),
        [count(), count(), count(), count()].prop_map(End::AtLeast),
    ];
    let fallback = prop_oneof![Just(Vec::new()), vec(charged(), 1..3)];
    let end = (0..IDS, end, fallback).prop_map(|(id, end, fallback)| Operation::End {
        id,
        end,
        fallback,
    });
    prop_oneof![3 => admit, 1 => end]
}

fn charged() -> impl Strategy<Value = Charged> {
    let cost = prop_oneof![
        2 => Just(0_i64),
        6 => 1_i64..20,
        3 => 20_i64..3000,
        2 => -1000_i64..0,
        1 => 1_i64..=1_000_000_000,
        1 => 0..=1_000_000_000_000_000_i64,
        1 => select(vec![i64::MIN, i64::MAX, 1 << 53, 999_999_999_999_999]),
    ];
    let headroom = prop_oneof![4 => Just(0), 1 => 0_u64..500, 1 => Just(u64::MAX)];
    let effect = prop_oneof![
        4 => Just(Meaning::Enforce),
        1 => Just(Meaning::Quota),
        1 => Just(Meaning::Record),
        1 => Just(Meaning::Shadow),
    ];
    let weights = prop_oneof![
        Just([0; 4]),
        Just([1000; 4]),
        [0_u32..=1_000_000, 0_u32..=3, 0_u32..=5000, 1_u32..=9999],
    ];
    (
        0..BUCKETS,
        cost,
        headroom,
        effect,
        0_u64..5,
        weights,
        any::<bool>(),
    )
        .prop_map(
            |(bucket, cost, headroom, effect, fixed, weights, missing_gives_back)| Charged {
                bucket,
                cost,
                headroom,
                effect,
                fixed,
                weights,
                missing_gives_back,
            },
        )
}
