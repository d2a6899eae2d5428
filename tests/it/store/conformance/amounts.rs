//! Refunds, debts, and amounts that need more than 32 bits.

use std::time::Duration;

use tollgate::limit::{MAX_AMOUNT, MAX_SPENT};
use tollgate::store::Verdict;

use super::for_every_store;
use crate::store::fixture::{
    DAY, Fixture, MICROSECOND, MINUTE, SECOND, Vary as _, charge, fixed_window, just_before,
    outcome, token_bucket,
};

for_every_store! {
    a_refund_raises_the_level_and_stops_at_full
    a_refund_is_admitted_even_in_debt
    what_happened_already_is_charged_into_debt_and_waited_out
    a_window_forgives_its_debt_when_it_ends
    amounts_of_sixty_four_bits_are_exact
    addends_of_a_billion_add_up
    a_debt_has_a_bottom
}

async fn a_refund_raises_the_level_and_stops_at_full(store: Fixture) {
    let limit = token_bucket(10, MINUTE, 10);
    assert!(store.admits("a", limit, 7).await);
    let decision = store.charge([charge("a", limit, -3)]).await;
    assert_eq!(outcome(&decision), (Verdict::Admitted, vec![(true, 4)]));
    let decision = store.charge([charge("a", limit, -30)]).await;
    assert_eq!(outcome(&decision), (Verdict::Admitted, vec![(true, 0)]));
    assert!(!store.admits("a", limit, 11).await);
    assert!(store.admits("a", limit, 10).await);
}

async fn a_refund_is_admitted_even_in_debt(store: Fixture) {
    let limit = fixed_window(10, MINUTE);
    store.charge([charge("a", limit, 30).recorded()]).await;
    let decision = store.charge([charge("a", limit, -5)]).await;
    assert_eq!(outcome(&decision), (Verdict::Admitted, vec![(true, 25)]));
}

async fn what_happened_already_is_charged_into_debt_and_waited_out(store: Fixture) {
    let limit = token_bucket(10, SECOND, 10);
    let decision = store.charge([charge("a", limit, 35).recorded()]).await;
    assert_eq!(outcome(&decision), (Verdict::Admitted, vec![(true, 35)]));
    assert_eq!(decision.readings[0].bucket.level(&limit), -25);
    store
        .clock
        .advance(just_before(Duration::from_millis(2600)));
    assert!(!store.admits("a", limit, 1).await);
    store.clock.advance(MICROSECOND);
    assert!(store.admits("a", limit, 1).await);
}

async fn a_window_forgives_its_debt_when_it_ends(store: Fixture) {
    let limit = fixed_window(10, MINUTE);
    store.charge([charge("a", limit, 1000).recorded()]).await;
    store.clock.advance(MINUTE);
    assert!(store.admits("a", limit, 10).await);
}

async fn amounts_of_sixty_four_bits_are_exact(store: Fixture) {
    let most = i64::try_from(MAX_AMOUNT).unwrap();
    let limits = [
        token_bucket(MAX_AMOUNT, 366 * DAY, MAX_AMOUNT),
        fixed_window(MAX_AMOUNT, 366 * DAY),
    ];
    for (name, limit) in ["bucket", "window"].into_iter().zip(limits) {
        assert!(store.admits(name, limit, most - 1).await);
        assert!(!store.admits(name, limit, 2).await);
        assert!(store.admits(name, limit, 1).await);
        assert!(!store.admits(name, limit, 1).await);
    }
    // 10^15 in 366 days: 31,623 in 1,000 µs and 31.6 in 1 µs.
    store.clock.advance(MICROSECOND);
    let spent = MAX_AMOUNT - 31;
    assert_eq!(store.spent("bucket", limits[0]).await, spent);
    store.clock.advance(Duration::from_micros(999));
    let spent = MAX_AMOUNT - 31_623;
    assert_eq!(store.spent("bucket", limits[0]).await, spent);
}

async fn addends_of_a_billion_add_up(store: Fixture) {
    const ADDEND: i64 = 1_000_000_000;
    let limit = token_bucket(1, DAY, 100_000_000_001);
    for _ in 0..100 {
        assert!(store.admits("a", limit, ADDEND).await);
    }
    assert!(!store.admits("a", limit, ADDEND).await);
    assert!(!store.admits("a", limit, 2).await);
    assert!(store.admits("a", limit, 1).await);
    assert_eq!(store.spent("a", limit).await, limit.burst);
}

async fn a_debt_has_a_bottom(store: Fixture) {
    let limit = token_bucket(1, SECOND, 10);
    for amount in [i64::MAX, 1, i64::MAX] {
        let decision = store.charge([charge("a", limit, amount).recorded()]).await;
        assert_eq!(outcome(&decision).1, [(true, MAX_SPENT)]);
    }
    store.clock.advance(SECOND);
    assert_eq!(store.spent("a", limit).await, MAX_SPENT - 1);
    let decision = store
        .charge([charge("a", limit, i64::MIN).recorded()])
        .await;
    assert_eq!(outcome(&decision).1, [(true, 0)]);
}
