//! Reservations: settled once, released once, and never lost.

use tollgate::limit::{Effect, Formula, MissingUsage, Mode, Settlement, Usage, Weight};
use tollgate::store::{EndResult, Ending, Hold, HoldCounts, HoldKey, Verdict};

use super::for_every_store;
use crate::store::fixture::{
    Fixture, LIFETIME, MICROSECOND, MINUTE, Vary as _, assert_told, charge, fixed_window, held,
    just_before, outcome, request, reservation, spent_of, token_bucket, tokens,
};

for_every_store! {
    a_settlement_replaces_the_estimate_by_what_was_used
    a_settlement_weighs_what_was_counted_and_rounds_up
    a_total_is_the_cost_of_what_counts_tokens
    a_response_without_usage_keeps_its_estimate_or_gives_it_back
    settling_twice_changes_nothing
    a_release_gives_everything_back_once
    a_release_after_a_settlement_changes_nothing
    the_request_itself_is_not_settled_but_released
    a_settlement_comes_back_with_what_was_remembered
    a_report_without_an_admission_is_charged_in_full_once
    a_report_before_its_admission_pays_for_it
    an_admission_refused_after_its_report_may_come_again
    a_report_about_nothing_known_with_nothing_to_charge_changes_nothing
    the_same_admission_twice_is_charged_once
    a_refused_admission_leaves_no_reservation
    a_look_leaves_no_reservation
    a_reservation_expires_at_its_instant_and_not_a_microsecond_before
    a_reservation_expires_and_is_counted_once
    a_reservation_under_a_new_key_is_one_like_any_other
    a_shadowed_charge_that_did_not_fit_is_not_given_back
    a_settlement_reaches_buckets_refilled_meanwhile
    ids_of_other_domains_are_other_reservations
    charges_that_share_a_bucket_are_settled_each
}

pub(super) fn measured(counts: [u64; 4]) -> Usage {
    Usage::Measured(counts)
}

pub(super) fn open(open: u64) -> HoldCounts {
    HoldCounts {
        open,
        ..HoldCounts::default()
    }
}

async fn a_settlement_replaces_the_estimate_by_what_was_used(store: Fixture) {
    let (bucket, window) = (token_bucket(10, MINUTE, 5000), fixed_window(10_000, MINUTE));
    for (id, used, spent) in [
        ("less", [200, 0, 0, 100], 300),
        ("more", [1, 2, 3, 2994], 3300),
        ("none", [0; 4], 3300),
        ("debt", [6000, 0, 0, 0], 9300),
    ] {
        let estimated = [tokens("a", bucket, 800), tokens("b", window, 800)];
        let admitted = store.hold(id, estimated).await;
        assert_eq!(admitted.verdict, Verdict::Admitted);
        let ended = store.settle(id, measured(used)).await;
        assert!(matches!(ended.result, EndResult::Settled { .. }));
        assert_eq!(spent_of(&ended.readings), [(true, spent); 2], "{id}");
    }
    assert!(!store.admits("a", bucket, 1).await);
}

async fn a_settlement_weighs_what_was_counted_and_rounds_up(store: Fixture) {
    let limit = token_bucket(10, MINUTE, 5000);
    let weights = [1000, 100, 1250, 5000];
    let formula = Formula {
        tokens: weights.map(|weight| Weight::from_thousandths(weight).unwrap()),
        ..Formula::default()
    };
    for (id, used, spent) in [
        ("a", [10, 1, 0, 0], 11),
        ("b", [10, 10, 4, 2], 26),
        ("c", [0, 1, 1, 0], 2),
        ("d", [1_000_000_000, 0, 0, 0], 1_000_000_000),
    ] {
        store.hold(id, [held(id, limit, 1, 0, formula)]).await;
        let ended = store.settle(id, measured(used)).await;
        assert_eq!(spent_of(&ended.readings), [(true, spent)], "{id}");
    }
}

async fn a_total_is_the_cost_of_what_counts_tokens(store: Fixture) {
    let limit = token_bucket(10, MINUTE, 5000);
    let charges = [
        tokens("tokens", limit, 800),
        held("hits", limit, 3, 3, Formula::HITS),
        request("requests", limit),
    ];
    for (id, usage) in [("a", Usage::Total(55)), ("b", measured([55, 0, 0, 0]))] {
        store.hold(id, charges).await;
        let ended = store.settle(id, usage).await;
        let times = if id == "a" { 1 } else { 2 };
        assert_eq!(
            spent_of(&ended.readings),
            [(true, 55 * times), (true, 3 * times), (true, times)]
        );
    }
}

async fn a_response_without_usage_keeps_its_estimate_or_gives_it_back(store: Fixture) {
    let limit = token_bucket(10, MINUTE, 5000);
    let keeps = held("keeps", limit, 810, 10, Formula::TOKENS);
    let mut gives = held("gives", limit, 810, 10, Formula::TOKENS);
    gives.1.missing_usage = MissingUsage::Release;
    let mut request = request("requests", limit);
    request.1.missing_usage = MissingUsage::Release;
    store.hold("id", [keeps, gives, request]).await;
    let ended = store.settle("id", Usage::Missing).await;
    let readings = [(true, 810), (true, 10), (true, 1)];
    assert_eq!(spent_of(&ended.readings), readings);
}

async fn settling_twice_changes_nothing(store: Fixture) {
    let limit = token_bucket(10, MINUTE, 5000);
    store.hold("id", [tokens("a", limit, 800)]).await;
    store.settle("id", measured([7, 0, 0, 0])).await;
    for usage in [measured([900, 0, 0, 0]), Usage::Total(900), Usage::Missing] {
        let fallback = [charge("a", limit, 900).recorded()];
        let ended = store.end("id", Settlement::Settle(usage), fallback).await;
        assert_eq!(
            (ended.result, ended.readings.len()),
            (EndResult::Already, 0)
        );
    }
    assert_eq!(store.spent("a", limit).await, 7);
    assert_eq!(store.count_holds().await, open(0));
}

async fn a_release_gives_everything_back_once(store: Fixture) {
    let limit = token_bucket(10, MINUTE, 5000);
    store.charge([charge("a", limit, 1000)]).await;
    store.hold("id", [tokens("a", limit, 800)]).await;
    let ended = store.release("id").await;
    // What was not reserved may be leased.
    let told = store.told(&limit, 1000);
    assert_told(&ended.readings, &[(true, told.clone())]);
    assert_eq!(store.release("id").await.result, EndResult::Already);
    let late = store.settle("id", measured([9, 0, 0, 0])).await;
    assert_eq!(late.result, EndResult::Already);
    assert!(told.contains(&store.spent("a", limit).await));
}

async fn a_release_after_a_settlement_changes_nothing(store: Fixture) {
    let limit = token_bucket(10, MINUTE, 5000);
    store.hold("id", [tokens("a", limit, 800)]).await;
    store.settle("id", measured([7, 0, 0, 0])).await;
    assert_eq!(store.release("id").await.result, EndResult::Already);
    assert_eq!(store.spent("a", limit).await, 7);
}

async fn the_request_itself_is_not_settled_but_released(store: Fixture) {
    let limit = token_bucket(10, MINUTE, 5000);
    for (id, released) in [("settled", false), ("released", true)] {
        let charges = [
            request("requests", limit),
            held("both", limit, 105, 5, Formula::TOKENS),
        ];
        store.hold(id, charges).await;
        let ended = if released {
            store.release(id).await
        } else {
            store.settle(id, measured([0, 0, 0, 30])).await
        };
        // The one that was released leaves what the other one left.
        assert_eq!(spent_of(&ended.readings), [(true, 1), (true, 35)], "{id}");
    }
}

async fn a_settlement_comes_back_with_what_was_remembered(store: Fixture) {
    let (bucket, window) = (
        token_bucket(4_999_999, 7 * MINUTE, 5000),
        fixed_window(450_000, MINUTE),
    );
    let charges = [
        tokens("a", bucket, 800),
        held("b", window, 3, 1, Formula::TOKENS),
    ];
    store.hold("id", charges).await;
    let EndResult::Settled { record, .. } = store.settle("id", Usage::Missing).await.result else {
        unreachable!("it was open");
    };
    assert_eq!(&*record.domain, "llm");
    for (recorded, (charge, held)) in record.charges.iter().zip(charges) {
        assert_eq!(&*recorded.label, "tenant-tokens");
        assert_eq!((recorded.key, recorded.held), (charge.key, held));
    }
    assert_eq!(record.charges.len(), 2);
}

async fn a_report_without_an_admission_is_charged_in_full_once(store: Fixture) {
    let limit = token_bucket(10, MINUTE, 100);
    let usage = Settlement::Settle(measured([250, 0, 0, 0]));
    let fallback = [charge("a", limit, 250).recorded()];
    let ended = store.end("id", usage, fallback).await;
    assert_eq!(ended.result, EndResult::Charged);
    assert_eq!(spent_of(&ended.readings), [(true, 250)]);
    let again = store.end("id", usage, fallback).await;
    assert_eq!(again.result, EndResult::Already);
    assert_eq!(store.spent("a", limit).await, 250);
    assert_eq!(store.count_holds().await, open(0));
}

async fn a_report_before_its_admission_pays_for_it(store: Fixture) {
    let limit = token_bucket(10, MINUTE, 5000);
    let usage = Settlement::Settle(measured([250, 0, 0, 0]));
    let fallback = [charge("tokens", limit, 250).recorded()];
    store.end("id", usage, fallback).await;
    let charges = [tokens("tokens", limit, 4900), request("requests", limit)];
    // The tokens are paid for, and so ask for no room; the request is not.
    let admitted = store.hold("id", charges).await;
    let readings = vec![(true, 250), (true, 1)];
    assert_eq!(outcome(&admitted), (Verdict::Admitted, readings.clone()));
    let repeated = store.hold("id", charges).await;
    assert_eq!(repeated.verdict, Verdict::Repeated);
    let again = store.end("id", usage, fallback).await;
    assert_eq!(again.result, EndResult::Already);
    assert_eq!(store.spent("tokens", limit).await, 250);
    assert_eq!(store.spent("requests", limit).await, 1);
    assert_eq!(store.count_holds().await, open(0));
}

async fn an_admission_refused_after_its_report_may_come_again(store: Fixture) {
    let limit = token_bucket(1, MINUTE, 1);
    let usage = Settlement::Settle(measured([250, 0, 0, 0]));
    let fallback = [charge("tokens", limit, 250).recorded()];
    store.end("id", usage, fallback).await;
    store.charge([charge("requests", limit, 1)]).await;
    let charges = [tokens("tokens", limit, 800), request("requests", limit)];
    let refused = store.hold("id", charges).await;
    assert_eq!(refused.verdict, Verdict::Refused);
    store.clock.advance(MINUTE);
    let admitted = store.hold("id", charges).await;
    let readings = vec![(true, 249), (true, 1)];
    assert_eq!(outcome(&admitted), (Verdict::Admitted, readings));
}

async fn a_report_about_nothing_known_with_nothing_to_charge_changes_nothing(store: Fixture) {
    let limit = token_bucket(10, MINUTE, 5000);
    let unknown = store.settle("id", measured([9, 0, 0, 0])).await;
    assert_eq!(
        (unknown.result, unknown.readings.len()),
        (EndResult::Unknown, 0)
    );
    assert_eq!(store.release("id").await.result, EndResult::Unknown);
    let admitted = store.hold("id", [tokens("a", limit, 800)]).await;
    assert_eq!(outcome(&admitted), (Verdict::Admitted, vec![(true, 800)]));
    assert_eq!(store.count_holds().await, open(1));
}

async fn the_same_admission_twice_is_charged_once(store: Fixture) {
    let limit = token_bucket(10, MINUTE, 1000);
    let charges = [tokens("a", limit, 800)];
    let first = store.hold("id", charges).await;
    assert_eq!(outcome(&first), (Verdict::Admitted, vec![(true, 800)]));
    // It was admitted, so it is again, although a new one would not fit.
    let second = store.hold("id", charges).await;
    assert_eq!(outcome(&second), (Verdict::Repeated, vec![(false, 800)]));
    assert_eq!(store.count_holds().await, open(1));
    store.settle("id", measured([7, 0, 0, 0])).await;
    let third = store.hold("id", charges).await;
    assert_eq!(outcome(&third), (Verdict::Repeated, vec![(true, 7)]));
    assert_eq!(store.spent("a", limit).await, 7);
    assert_eq!(store.count_holds().await, open(0));
}

async fn a_refused_admission_leaves_no_reservation(store: Fixture) {
    let limit = token_bucket(10, MINUTE, 1000);
    let refused = store.hold("id", [tokens("a", limit, 1001)]).await;
    assert_eq!(refused.verdict, Verdict::Refused);
    assert_eq!(store.release("id").await.result, EndResult::Unknown);
    let admitted = store.hold("id", [tokens("a", limit, 1000)]).await;
    assert_eq!(admitted.verdict, Verdict::Admitted);
}

async fn a_look_leaves_no_reservation(store: Fixture) {
    let limit = token_bucket(10, MINUTE, 1000);
    let hold = reservation("id", &[tokens("a", limit, 1000)]);
    let asked = [charge("a", limit, 1000)];
    let look = store.admit(asked, Mode::Peek, Some(hold)).await;
    assert_eq!(outcome(&look), (Verdict::Admitted, vec![(true, 0)]));
    assert_eq!(store.release("id").await.result, EndResult::Unknown);
    assert_eq!(store.count_holds().await, open(0));
}

async fn a_reservation_expires_at_its_instant_and_not_a_microsecond_before(store: Fixture) {
    let limit = token_bucket(1, 10 * MINUTE, 5000);
    let charges = [tokens("a", limit, 800)];
    store.hold("id", charges).await;
    store.clock.advance(just_before(LIFETIME));
    assert_eq!(store.hold("id", charges).await.verdict, Verdict::Repeated);
    store.clock.advance(MICROSECOND);
    // One came back in the ten minutes.
    let admitted = store.hold("id", charges).await;
    assert_eq!(outcome(&admitted), (Verdict::Admitted, vec![(true, 1599)]));
}

async fn a_reservation_under_a_new_key_is_one_like_any_other(store: Fixture) {
    let limit = token_bucket(10, MINUTE, 1000);
    let (charge, held) = tokens("a", limit, 800);
    let hold = Hold {
        fresh: true,
        ..reservation("id", &[(charge, held)])
    };
    let admitted = store.admit([charge], Mode::Apply, Some(hold)).await;
    assert_eq!(outcome(&admitted), (Verdict::Admitted, vec![(true, 800)]));
    assert_eq!(store.count_holds().await, open(1));
    let ended = store.settle("id", measured([7, 0, 0, 0])).await;
    assert_eq!(spent_of(&ended.readings), [(true, 7)]);
    assert_eq!(store.count_holds().await, open(0));
}

async fn a_reservation_expires_and_is_counted_once(store: Fixture) {
    let limit = token_bucket(1, 10 * MINUTE, 5000);
    for id in ["kept", "settled", "released"] {
        store.hold(id, [tokens("a", limit, 800)]).await;
    }
    assert_eq!(store.count_holds().await, open(3));
    store.settle("settled", measured([100, 0, 0, 0])).await;
    store.release("released").await;
    assert_eq!(store.count_holds().await, open(1));
    store.clock.advance(just_before(LIFETIME));
    let repeated = store.hold("kept", [tokens("a", limit, 800)]).await;
    assert_eq!(repeated.verdict, Verdict::Repeated);
    // A store may count by whole minutes.
    store.clock.advance(MICROSECOND + MINUTE);
    let expired = HoldCounts {
        newly_unreported: 1,
        ..open(0)
    };
    assert_eq!(store.count_holds().await, expired);
    assert_eq!(store.count_holds().await, open(0));
    // Its estimate stays charged; a minute and ten bring back one token.
    assert_eq!(store.spent("a", limit).await, 899);
}

async fn a_shadowed_charge_that_did_not_fit_is_not_given_back(store: Fixture) {
    let (narrow, wide) = (token_bucket(1, MINUTE, 500), token_bucket(1, MINUTE, 5000));
    let shadow = |name| {
        let (mut charge, held) = tokens(name, narrow, 800);
        charge.charge.effect = Effect::Shadow;
        (charge, held)
    };
    for (id, released) in [("released", true), ("settled", false)] {
        store
            .charge([charge("a", narrow, 100), charge("b", narrow, 100)])
            .await;
        let charges = [shadow("a"), tokens("wide", wide, 800), shadow("b")];
        let admitted = store.hold(id, charges).await;
        assert_eq!(admitted.verdict, Verdict::Admitted);
        // What was not reserved may be leased.
        let told = || store.told(&narrow, 100);
        let readings = [(false, told()), (true, 800..=800), (false, told())];
        assert_told(&admitted.readings, &readings);
        let ended = if released {
            store.release(id).await
        } else {
            // What was really used is charged everywhere.
            store.settle(id, measured([30, 0, 0, 0])).await
        };
        let (shadowed, enforced) = if released { (100, 0) } else { (130, 30) };
        let told = || store.told(&narrow, shadowed);
        let readings = [(true, told()), (true, enforced..=enforced), (true, told())];
        assert_told(&ended.readings, &readings);
        store
            .charge([charge("a", narrow, -500), charge("b", narrow, -500)])
            .await;
    }
}

async fn a_settlement_reaches_buckets_refilled_meanwhile(store: Fixture) {
    let (bucket, window) = (token_bucket(100, MINUTE, 1000), fixed_window(1000, MINUTE));
    store
        .hold("id", [tokens("a", bucket, 800), tokens("b", window, 800)])
        .await;
    store.clock.advance(MINUTE);
    // 100 came back; the window is another one, and gives back no more than it took.
    let ended = store.settle("id", measured([300, 0, 0, 0])).await;
    assert_eq!(spent_of(&ended.readings), [(true, 200), (true, 0)]);
    store
        .hold(
            "other",
            [tokens("a", bucket, 800), tokens("b", window, 800)],
        )
        .await;
    store.clock.advance(MINUTE);
    let ended = store.settle("other", measured([900, 0, 0, 0])).await;
    assert_eq!(spent_of(&ended.readings), [(true, 1000), (true, 100)]);
}

async fn ids_of_other_domains_are_other_reservations(store: Fixture) {
    let limit = token_bucket(10, MINUTE, 5000);
    store.hold("id", [tokens("a", limit, 800)]).await;
    let ending = Ending {
        key: HoldKey::of("other", "id"),
        settlement: Settlement::Release,
        fallback: [].into_iter().collect(),
        lifetime: LIFETIME,
    };
    let ended = store.store.end(ending).await.unwrap();
    assert_eq!(ended.result, EndResult::Unknown);
    assert_eq!(store.spent("a", limit).await, 800);
}

async fn charges_that_share_a_bucket_are_settled_each(store: Fixture) {
    let limit = token_bucket(10, MINUTE, 5000);
    let charges = [tokens("a", limit, 800), request("a", limit)];
    let admitted = store.hold("id", charges).await;
    let readings = vec![(true, 800), (true, 801)];
    assert_eq!(outcome(&admitted), (Verdict::Admitted, readings));
    let ended = store.settle("id", measured([30, 0, 0, 0])).await;
    assert_eq!(spent_of(&ended.readings), [(true, 31), (true, 31)]);
}
