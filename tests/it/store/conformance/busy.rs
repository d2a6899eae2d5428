//! Many small costs on few buckets: as many are let in as without leases, and with them most of
//! these without asking Redis.

use std::time::Duration;

use tollgate::limit::{Limit, Rate};

use super::for_every_store;
use crate::store::fixture::{
    Fixture, MINUTE, SECOND, admission, charge, fixed_window, token_bucket,
};
use crate::store::leasing::with_lease;
use tollgate::store::{Charge, Verdict};

for_every_store! {
    small_costs_add_up_to_the_limit_and_no_more
    costs_to_two_limits_add_up_to_the_smaller
    what_comes_back_is_let_in_again_and_no_more
    a_limit_that_grows_between_small_costs_has_room_for_more
    a_cost_of_all_that_is_left_is_let_in
    a_bucket_that_nobody_used_misses_what_is_leased
}

/// So slow that nothing comes back.
fn slow(burst: u64) -> Limit {
    token_bucket(1, Rate::MAX_PERIOD, burst)
}

/// Whether charges are let in, not asked for ahead: what was asked so far is all that is known.
async fn lets_in(store: &Fixture, charges: impl IntoIterator<Item = Charge>) -> bool {
    let leased = store.leases().is_some();
    let charges = charges
        .into_iter()
        .map(|charge| if leased { with_lease(charge) } else { charge });
    let decision = store.store.admit(admission(charges)).await.unwrap();
    decision.verdict == Verdict::Admitted
}

/// How many of `times` requests are let in, each of one hit. Waits for renewals now and then.
async fn ones(store: &Fixture, times: u64, limit: Limit) -> u64 {
    let mut let_in = 0;
    for index in 0..times {
        if index % 50 == 49 {
            store.renewals_end().await;
        }
        let_in += u64::from(lets_in(store, [charge("a", limit, 1)]).await);
    }
    let_in
}

/// Leases were used, where there are any, for `least` requests at least.
fn used_leases(store: &Fixture, least: u64) {
    let granted = store.granted();
    assert!(
        granted.is_none_or(|granted| granted >= least),
        "{granted:?}"
    );
}

async fn small_costs_add_up_to_the_limit_and_no_more(store: Fixture) {
    let limits = [slow(1000), fixed_window(1000, MINUTE)];
    for (name, limit) in ["bucket", "window"].into_iter().zip(limits) {
        let mut let_in = 0;
        // Ones and, now and then, sevens: what is left of a lease is often too little.
        for index in 0..1000 {
            if index % 50 == 49 {
                store.renewals_end().await;
            }
            let cost = if index % 5 == 0 { 7 } else { 1 };
            if lets_in(&store, [charge(name, limit, cost)]).await {
                let_in += cost.unsigned_abs();
            }
        }
        assert_eq!(let_in, 1000, "{name}");
        assert!(
            store
                .told(&limit, 1000)
                .contains(&store.spent(name, limit).await)
        );
        assert!(!store.admits(name, limit, 1).await);
    }
    used_leases(&store, 200);
}

async fn costs_to_two_limits_add_up_to_the_smaller(store: Fixture) {
    let (wide, narrow) = (slow(1000), fixed_window(300, MINUTE));
    let mut let_in = 0;
    for index in 0..300 {
        if index % 50 == 49 {
            store.renewals_end().await;
        }
        let both = [charge("wide", wide, 1), charge("narrow", narrow, 2)];
        let_in += u64::from(lets_in(&store, both).await);
    }
    assert_eq!(let_in, 150);
    let spent = [
        store.spent("wide", wide).await,
        store.spent("narrow", narrow).await,
    ];
    assert!(store.told(&wide, 150).contains(&spent[0]), "{spent:?}");
    assert_eq!(spent[1], 300);
    used_leases(&store, 30);
    // What is held of the one goes back to whoever asks for all of it.
    assert!(!lets_in(&store, [charge("wide", wide, 851)]).await);
    assert!(lets_in(&store, [charge("wide", wide, 850)]).await);
}

async fn what_comes_back_is_let_in_again_and_no_more(store: Fixture) {
    let limit = token_bucket(50, SECOND, 1000);
    assert_eq!(ones(&store, 1100, limit).await, 1000);
    for _ in 0..20 {
        store.clock.advance(Duration::from_millis(100));
        assert_eq!(ones(&store, 20, limit).await, 5);
    }
    // A step that leases survive, one that they do not, and one after which all is back.
    for (after, back) in [(SECOND, 50), (5 * SECOND, 250), (MINUTE, 1000)] {
        store.clock.advance(after);
        assert_eq!(ones(&store, 1100, limit).await, back, "{after:?}");
    }
    used_leases(&store, 500);
}

async fn a_limit_that_grows_between_small_costs_has_room_for_more(store: Fixture) {
    assert_eq!(ones(&store, 200, slow(500)).await, 200);
    assert_eq!(ones(&store, 1000, slow(1000)).await, 800);
    used_leases(&store, 200);
}

async fn a_cost_of_all_that_is_left_is_let_in(store: Fixture) {
    let limit = slow(1000);
    assert_eq!(ones(&store, 200, limit).await, 200);
    store.renewals_end().await;
    assert!(!lets_in(&store, [charge("a", limit, 801)]).await);
    assert!(lets_in(&store, [charge("a", limit, 800)]).await);
    assert_eq!(store.spent("a", limit).await, 1000);
    used_leases(&store, 30);
}

async fn a_bucket_that_nobody_used_misses_what_is_leased(store: Fixture) {
    let limit = slow(1000);
    let asked = |cost| with_lease(charge("a", limit, cost));
    // All that is spent of it is a lease: it does not go back, because others could have some.
    store.ask_ahead(&admission([asked(1)])).await;
    let held = store.spent("a", limit).await;
    assert_eq!(held, *store.told(&limit, 0).end());
    let all = lets_in(&store, [asked(1000)]).await;
    assert_eq!(all, store.leases().is_none());
    if !all {
        assert!(!lets_in(&store, [asked(901)]).await);
        assert!(lets_in(&store, [asked(900)]).await);
        // Now so much lies there that is no lease that it may, but for the one that may have refilled.
        assert!(!lets_in(&store, [asked(100)]).await);
        assert!(lets_in(&store, [asked(99)]).await);
    }
    assert_eq!(store.spent("a", limit).await, 1000);
}
