//! How reservations end in time: which window gets a refund, how long an end is remembered, and
//! what may come after it.

use std::time::Duration;

use tollgate::limit::{Effect, Usage};
use tollgate::store::{EndResult, Verdict};

use super::for_every_store;
use crate::store::fixture::{
    Fixture, LIFETIME, MICROSECOND, MINUTE, Vary as _, assert_told, charge, fixed_window,
    just_before, outcome, spent_of, token_bucket, tokens,
};

for_every_store! {
    a_window_that_did_not_bear_the_charge_gets_nothing_back
    a_released_id_is_decided_anew_and_reported_never
    an_end_is_remembered_for_a_while
    a_bucket_in_debt_outlives_a_lowered_rate
    of_two_charges_on_one_bucket_the_first_settles_for_both
}

const USED_LITTLE: Usage = Usage::Measured([100, 0, 0, 0]);

async fn a_window_that_did_not_bear_the_charge_gets_nothing_back(store: Fixture) {
    let window = fixed_window(10_000, MINUTE);
    store.clock.advance(just_before(MINUTE));
    for id in ["same", "other", "more"] {
        store.hold(id, [tokens("a", window, 1000)]).await;
    }
    let ended = store.settle("same", USED_LITTLE).await;
    assert_eq!(spent_of(&ended.readings), [(true, 2100)]);

    store.clock.advance(MICROSECOND);
    store.charge([charge("a", window, 9000)]).await;
    let ended = store.settle("other", USED_LITTLE).await;
    // What is asked for without a reservation may be leased.
    assert_told(&ended.readings, &[(true, store.told(&window, 9000))]);
    // What was used beyond the estimate is used now.
    let ended = store.settle("more", Usage::Total(1300)).await;
    assert_told(&ended.readings, &[(true, store.told(&window, 9300))]);
    assert!(!store.admits("a", window, 701).await);
    assert!(store.admits("a", window, 700).await);
}

async fn a_released_id_is_decided_anew_and_reported_never(store: Fixture) {
    let bucket = token_bucket(1, 60 * MINUTE, 1000);
    store.hold("id", [tokens("a", bucket, 800)]).await;
    store.release("id").await;
    assert_eq!(
        store.settle("id", USED_LITTLE).await.result,
        EndResult::Already
    );
    assert_eq!(store.release("id").await.result, EndResult::Already);

    let again = store.hold("id", [tokens("a", bucket, 800)]).await;
    assert_eq!(outcome(&again), (Verdict::Admitted, vec![(true, 800)]));
    assert_eq!(store.count_holds().await.open, 1);
    let ended = store.settle("id", USED_LITTLE).await;
    assert_eq!(spent_of(&ended.readings), [(true, 100)]);
    assert_eq!(store.count_holds().await.open, 0);
}

async fn an_end_is_remembered_for_a_while(store: Fixture) {
    // As long as the reservation itself would have been: then nothing is known of it.
    let bucket = token_bucket(1, 60 * MINUTE, 1000);
    store.hold("id", [tokens("a", bucket, 800)]).await;
    store.settle("id", USED_LITTLE).await;
    store.clock.advance(just_before(LIFETIME));
    assert_eq!(
        store.settle("id", USED_LITTLE).await.result,
        EndResult::Already
    );
    store.clock.advance(MICROSECOND);
    assert_eq!(
        store.settle("id", USED_LITTLE).await.result,
        EndResult::Unknown
    );
}

async fn a_bucket_in_debt_outlives_a_lowered_rate(store: Fixture) {
    let fast = token_bucket(1000, MINUTE, 1000);
    let slow = token_bucket(10, MINUTE, 1000);
    let debt = charge("a", fast, 10_000).with(Effect::Record);
    store.charge([debt]).await;
    assert!(!store.admits("a", slow, 1).await);
    // Both stores forget by the longest time that was ever needed.
    let needed: Duration = 1000 * MINUTE;
    if let Some(left) = store.bucket_lifetime("a") {
        assert!(left >= needed, "{left:?}");
    }
    store.clock.advance(20 * MINUTE);
    if let tollgate::store::Store::Memory(memory) = &store.store {
        memory.forget_full();
    }
    assert_eq!(store.spent("a", slow).await, 9_800);
}

async fn of_two_charges_on_one_bucket_the_first_settles_for_both(store: Fixture) {
    let bucket = token_bucket(1, 60 * MINUTE, 10);
    // Only told, so that what does not fit refuses nothing, and is not charged.
    let shadowed = |amount, again| {
        let (charge, mut held) = tokens("a", bucket, amount);
        held.again = again;
        (charge.with(Effect::Shadow), held)
    };
    let (fits, too_much) = (6, 8);
    for (id, amounts, taken) in [("first", [fits, too_much], 6), ("second", [14, fits], 6)] {
        let both = [shadowed(amounts[0], false), shadowed(amounts[1], true)];
        store.hold(id, both).await;
        assert_eq!(store.spent("a", bucket).await, taken, "{id}");
        store.release(id).await;
        assert_eq!(store.spent("a", bucket).await, 0, "{id}");

        store.hold(id, both).await;
        store.settle(id, Usage::Total(8)).await;
        assert_eq!(store.spent("a", bucket).await, 8, "{id}");
        store.charge([charge("a", bucket, -8)]).await;
    }
    // Both fit: what was used is used once.
    let bucket = token_bucket(1, 60 * MINUTE, 100);
    let both = [shadowed(6, false), shadowed(6, true)];
    store.hold("both", both).await;
    store.settle("both", Usage::Total(8)).await;
    assert_eq!(store.spent("a", bucket).await, 8);
}
