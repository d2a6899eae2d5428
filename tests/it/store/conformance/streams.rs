//! Reservations of answers that stream: they tell their progress, break off, and come late.

use tollgate::limit::{MissingUsage, Mode, Settlement, Usage};
use tollgate::store::{EndResult, Hold, HoldCounts, Verdict};

use super::for_every_store;
use super::reservations::{measured, open};
use crate::store::fixture::{
    DAY, Fixture, LIFETIME, MICROSECOND, MINUTE, fixed_window, just_before, outcome, reservation,
    spent_of, token_bucket, tokens,
};

for_every_store! {
    a_late_report_charges_what_was_not_charged_yet
    what_was_used_so_far_grows_the_charge_and_settles_right
    a_report_that_found_no_usage_is_outdone_by_one_that_did
    what_was_told_so_far_is_not_given_back_without_usage
    no_usage_and_then_usage_in_a_later_window_is_charged_once
    an_end_just_before_its_expiry_is_remembered_as_long_as_any
    an_answer_that_was_cut_short_costs_at_least_what_it_told
    a_stream_that_was_cut_short_keeps_what_it_used_so_far
    a_stream_of_half_an_hour_settles_as_a_short_one
}

async fn a_late_report_charges_what_was_not_charged_yet(store: Fixture) {
    let limit = token_bucket(1, 1000 * MINUTE, 5000);
    for id in ["more", "less", "twice", "forgotten", "anew"] {
        store.hold(id, [tokens(id, limit, 800)]).await;
    }
    store.clock.advance(LIFETIME);
    let reports = [("more", 900), ("less", 100), ("twice", 801)];
    for (id, used) in reports {
        let ended = store.settle(id, measured([used, 0, 0, 0])).await;
        assert!(matches!(ended.result, EndResult::Settled { .. }));
        assert_eq!(spent_of(&ended.readings), [(true, used)], "{id}");
    }
    let again = store.settle("twice", measured([5, 0, 0, 0])).await;
    assert_eq!(again.result, EndResult::Already);
    // Who comes under the same id then is new.
    let anew = store.hold("anew", [tokens("anew", limit, 800)]).await;
    assert_eq!(outcome(&anew), (Verdict::Admitted, vec![(true, 1600)]));

    store.clock.advance(just_before(LIFETIME));
    let last = store.settle("anew", measured([1, 0, 0, 0])).await;
    assert_eq!(spent_of(&last.readings), [(true, 801)]);
    store.clock.advance(MICROSECOND);
    let forgotten = store.settle("forgotten", measured([1, 0, 0, 0])).await;
    assert_eq!(forgotten.result, EndResult::Unknown);
}

async fn what_was_used_so_far_grows_the_charge_and_settles_right(store: Fixture) {
    let limit = token_bucket(1, 10_000 * MINUTE, 5000);
    store.hold("id", [tokens("a", limit, 100)]).await;
    for (so_far, spent) in [(50, 100), (400, 400), (400, 400), (300, 400), (1000, 1000)] {
        // It never expires while it is told of.
        store.clock.advance(just_before(LIFETIME));
        let grown = store.so_far("id", [so_far, 0, 0, 0]).await;
        assert!(matches!(grown.result, EndResult::Grown { .. }));
        assert_eq!(spent_of(&grown.readings), [(true, spent)]);
        assert_eq!(store.count_holds().await, open(1));
        let repeated = store.hold("id", [tokens("a", limit, 100)]).await;
        assert_eq!(repeated.verdict, Verdict::Repeated);
    }
    let ended = store.settle("id", measured([990, 0, 0, 0])).await;
    assert_eq!(spent_of(&ended.readings), [(true, 990)]);
    assert_eq!(store.count_holds().await, open(0));
    let after = store.so_far("id", [2000, 0, 0, 0]).await;
    assert_eq!(after.result, EndResult::Already);
    let unknown = store.so_far("nobody's", [2000, 0, 0, 0]).await;
    assert_eq!(unknown.result, EndResult::Unknown);
    assert_eq!(store.spent("a", limit).await, 990);
}

async fn a_report_that_found_no_usage_is_outdone_by_one_that_did(store: Fixture) {
    let limit = token_bucket(1, 10_000 * MINUTE, 5000);
    let kept = tokens("kept", limit, 800);
    let mut given_back = tokens("given back", limit, 800);
    given_back.1.missing_usage = MissingUsage::Release;
    store.hold("id", [kept, given_back]).await;
    let missing = store.settle("id", Usage::Missing).await;
    assert_eq!(spent_of(&missing.readings), [(true, 800), (true, 0)]);
    assert_eq!(store.count_holds().await, open(0));
    for again in [Usage::Missing, Usage::Missing] {
        assert_eq!(store.settle("id", again).await.result, EndResult::Already);
    }
    assert_eq!(store.release("id").await.result, EndResult::Already);
    let repeated = store.hold("id", [kept]).await;
    assert_eq!(repeated.verdict, Verdict::Repeated);
    let found = store.settle("id", measured([100, 0, 0, 1])).await;
    assert_eq!(spent_of(&found.readings), [(true, 101), (true, 101)]);
    let twice = store.settle("id", measured([100, 0, 0, 1])).await;
    assert_eq!(twice.result, EndResult::Already);
    assert_eq!(store.count_holds().await, open(0));
}

async fn what_was_told_so_far_is_not_given_back_without_usage(store: Fixture) {
    let limit = token_bucket(1, 10_000 * MINUTE, 5000);
    let (charge, mut held) = tokens("a", limit, 800);
    held.missing_usage = MissingUsage::Release;
    store.hold("id", [(charge, held)]).await;
    store.so_far("id", [0, 0, 0, 3000]).await;
    let missing = store.settle("id", Usage::Missing).await;
    assert_eq!(spent_of(&missing.readings), [(true, 3000)]);
    let found = store.settle("id", measured([0, 0, 0, 3100])).await;
    assert_eq!(spent_of(&found.readings), [(true, 3100)]);
}

async fn no_usage_and_then_usage_in_a_later_window_is_charged_once(store: Fixture) {
    let window = fixed_window(10_000, MINUTE);
    let (charge, mut held) = tokens("a", window, 800);
    held.missing_usage = MissingUsage::Release;
    for id in ["less", "more"] {
        store.hold(id, [(charge, held)]).await;
    }
    store.clock.advance(MINUTE);
    // The window that bore the 800 is over: nothing is given back, and they count as paid.
    for (id, used, spent) in [("less", 300, 0), ("more", 900, 100)] {
        let missing = store.settle(id, Usage::Missing).await;
        assert_eq!(spent_of(&missing.readings), [(true, 0)]);
        let found = store.settle(id, measured([used, 0, 0, 0])).await;
        assert_eq!(spent_of(&found.readings), [(true, spent)], "{id}");
    }
}

async fn an_end_just_before_its_expiry_is_remembered_as_long_as_any(store: Fixture) {
    let limit = token_bucket(1, 10_000 * MINUTE, 5000);
    store.hold("id", [tokens("a", limit, 800)]).await;
    store.clock.advance(just_before(LIFETIME));
    store.settle("id", measured([100, 0, 0, 0])).await;
    let (fallback, _) = tokens("a", limit, 100);
    store.clock.advance(just_before(LIFETIME));
    let usage = Settlement::Settle(measured([100, 0, 0, 0]));
    let again = store.end("id", usage, [fallback]).await;
    assert_eq!(again.result, EndResult::Already);
    assert_eq!(store.spent("a", limit).await, 100);
    store.clock.advance(MICROSECOND);
    let later = store.end("id", usage, [fallback]).await;
    assert_eq!(later.result, EndResult::Charged);
}

async fn an_answer_that_was_cut_short_costs_at_least_what_it_told(store: Fixture) {
    let limit = token_bucket(1, 10_000 * MINUTE, 5000);
    for (id, told, kept_is, given_is) in [("little", 1, 800, 1), ("much", 900, 900, 900)] {
        let kept = tokens(&format!("kept {id}"), limit, 800);
        let mut given = tokens(&format!("given {id}"), limit, 800);
        given.1.missing_usage = MissingUsage::Release;
        store.hold(id, [kept, given]).await;
        let cut = Usage::AtLeast([0, 0, 0, told]);
        let ended = store.settle(id, cut).await;
        assert_eq!(
            spent_of(&ended.readings),
            [(true, kept_is), (true, given_is)]
        );
        assert_eq!(store.settle(id, cut).await.result, EndResult::Already);
        let found = store.settle(id, measured([0, 0, 0, 850])).await;
        assert_eq!(spent_of(&found.readings), [(true, 850), (true, 850)]);
    }
}

async fn a_stream_that_was_cut_short_keeps_what_it_used_so_far(store: Fixture) {
    let limit = token_bucket(1, 10_000 * MINUTE, 5000);
    store.hold("id", [tokens("a", limit, 100)]).await;
    store.so_far("id", [700, 0, 0, 0]).await;
    store.clock.advance(LIFETIME + MINUTE);
    let expired = HoldCounts {
        newly_cut_short: 1,
        ..open(0)
    };
    assert_eq!(store.count_holds().await, expired);
    // Late, and told to go on: it is open again.
    let grown = store.so_far("id", [800, 0, 0, 0]).await;
    assert_eq!(spent_of(&grown.readings), [(true, 800)]);
    assert_eq!(store.count_holds().await, open(1));
    let missing = store.settle("id", Usage::Missing).await;
    assert_eq!(spent_of(&missing.readings), [(true, 800)]);
    assert_eq!(store.count_holds().await, open(0));
}

async fn a_stream_of_half_an_hour_settles_as_a_short_one(store: Fixture) {
    let (bucket, window) = (token_bucket(10, MINUTE, 5000), fixed_window(10_000, DAY));
    let charges = [tokens("a", bucket, 800), tokens("b", window, 800)];
    let hold = Hold {
        lifetime: 6 * LIFETIME,
        ..reservation("long", &charges)
    };
    let charges = charges.map(|(charge, _)| charge);
    store.admit(charges, Mode::Apply, Some(hold)).await;
    store.clock.advance(30 * MINUTE);
    let ended = store.settle("long", measured([0, 0, 0, 4000])).await;
    // 300 of the 800 came back meanwhile.
    assert_eq!(spent_of(&ended.readings), [(true, 3700), (true, 4000)]);
}
