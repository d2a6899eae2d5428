//! Refills whose products no double holds: the script divides them digit by digit.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use tollgate::limit::{Limit, MAX_SPENT};
use tollgate::store::Charge;

use super::histories::config;
use crate::store::fixture::{Fixture, START, Vary as _, charge, token_bucket};

/// Where doubles stop holding every integer.
const EXACT: u128 = 1 << 53;

/// How many buckets a call carries.
const BUCKETS: usize = 300;

/// Up to 366 days, in microseconds.
fn micros() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => 1_u64..=31_622_400_000_000,
        1 => 31_622_399_999_000..=31_622_400_000_000_u64,
        1 => (0_u32..44, 0_u64..2).prop_map(|(bits, less)| ((1 << bits) - less).max(1)),
    ]
}

fn limit() -> impl Strategy<Value = Limit> {
    let amount = prop_oneof![
        2 => 1_u64..=1_000_000_000_000_000,
        1 => 999_999_999_999_000..=1_000_000_000_000_000_u64,
        1 => (0_u32..49, 0_u64..2).prop_map(|(bits, less)| ((1 << bits) - less).max(1)),
    ];
    (amount, micros())
        .prop_map(|(amount, period)| token_bucket(amount, Duration::from_micros(period), 10))
}

#[test]
fn refills_whose_products_exceed_a_double_are_exact() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let fixture = runtime.block_on(async { Fixture::redis() });
    let (case, long) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    let cases = (vec(limit(), BUCKETS), micros(), micros());
    proptest!(config(24), |((limits, first, second) in cases)| {
        case.set(case.get() + 1);
        let all = |cost| -> Vec<Charge> {
            let named = limits.iter().enumerate();
            named
                .map(|(index, limit)| {
                    charge(&format!("{}/{index}", case.get()), *limit, cost).recorded()
                })
                .collect()
        };
        let (emptied, refilled) = runtime.block_on(async {
            fixture.clock.set(START);
            let emptied = fixture.charge(all(i64::MAX)).await;
            fixture.clock.advance(Duration::from_micros(first));
            fixture.charge(all(0)).await;
            fixture.clock.advance(Duration::from_micros(second));
            (emptied, fixture.charge(all(0)).await)
        });
        let readings = emptied.readings.iter().zip(&refilled.readings);
        for (limit, (emptied, refilled)) in limits.iter().zip(readings) {
            prop_assert_eq!(emptied.bucket.spent, MAX_SPENT);
            let (n, d) = (
                u128::from(limit.rate.numerator()),
                u128::from(limit.rate.denominator()),
            );
            let parts = u128::from(first + second) * n;
            let back = parts / d;
            let expected = match u128::from(MAX_SPENT).checked_sub(back) {
                None | Some(0) => (0, 0),
                Some(spent) => (spent, parts % d),
            };
            let told = (
                u128::from(refilled.bucket.spent),
                u128::from(refilled.bucket.fraction),
            );
            prop_assert_eq!(told, expected, "{:?} after {} and {}", limit, first, second);
            let left = u128::from(first) * n % d;
            if expected.0 > 0 && u128::from(second) % d * n + left >= EXACT {
                long.set(long.get() + 1);
            }
        }
    });
    let (long, all) = (long.get(), case.get() * BUCKETS);
    assert!(long > all / 3, "{long} of {all} divisions were long");
}
