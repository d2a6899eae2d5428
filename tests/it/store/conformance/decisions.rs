//! Who is admitted, and what that leaves behind.

use tollgate::limit::{Effect, Limit, Mode, Oversize, WhenOver, ZeroCost};
use tollgate::store::Verdict;

use super::for_every_store;
use crate::store::fixture::{
    Fixture, MINUTE, Vary as _, charge, fixed_window, outcome, token_bucket,
};

for_every_store! {
    a_refusal_charges_nothing_anywhere
    charges_on_one_bucket_see_each_other
    a_refusal_by_the_second_charge_on_a_bucket_takes_back_the_first
    a_limit_that_charges_when_over_is_charged_although_it_refuses
    a_cost_larger_than_the_burst_never_fits
    a_cost_larger_than_the_burst_fits_when_full_and_leaves_a_debt
    a_cost_of_zero_needs_room_under_limits
    a_cost_of_zero_passes_at_zero_under_rate_limit
    headroom_stays_free
    a_look_charges_nothing
    a_look_tells_whether_it_would_fit
    a_shadowed_limit_refuses_nobody
    quotas_refuse_only_together
    quotas_do_not_soften_an_enforced_limit
    nothing_asked_is_nothing_refused
    many_charges_are_one_decision
}

fn charging_when_over(limit: Limit) -> Limit {
    Limit {
        when_over: WhenOver::Charge,
        ..limit
    }
}

async fn a_refusal_charges_nothing_anywhere(store: Fixture) {
    let (wide, narrow) = (token_bucket(10, MINUTE, 10), fixed_window(3, MINUTE));
    let both = |cost| [charge("wide", wide, cost), charge("narrow", narrow, cost)];
    let decision = store.charge(both(2)).await;
    assert_eq!(
        outcome(&decision),
        (Verdict::Admitted, vec![(true, 2), (true, 2)])
    );
    for _ in 0..2 {
        let decision = store.charge(both(2)).await;
        let readings = vec![(true, 2), (false, 2)];
        assert_eq!(outcome(&decision), (Verdict::Refused, readings));
    }
    assert!(store.admits("wide", wide, 8).await);
    assert!(store.admits("narrow", narrow, 1).await);
}

async fn charges_on_one_bucket_see_each_other(store: Fixture) {
    let limit = token_bucket(10, MINUTE, 10);
    let thrice = |cost| [charge("a", limit, cost); 3];
    let decision = store.charge(thrice(3)).await;
    let readings = vec![(true, 3), (true, 6), (true, 9)];
    assert_eq!(outcome(&decision), (Verdict::Admitted, readings));
    assert_eq!(store.spent("a", limit).await, 9);
}

async fn a_refusal_by_the_second_charge_on_a_bucket_takes_back_the_first(store: Fixture) {
    let limit = token_bucket(10, MINUTE, 10);
    let charges = [
        charge("a", limit, 6),
        charge("b", limit, 1),
        charge("a", limit, 6),
    ];
    let decision = store.charge(charges).await;
    let readings = vec![(true, 0), (true, 0), (false, 0)];
    assert_eq!(outcome(&decision), (Verdict::Refused, readings));
    assert_eq!(store.bucket_count(), 0);
}

async fn a_limit_that_charges_when_over_is_charged_although_it_refuses(store: Fixture) {
    let limit = charging_when_over(fixed_window(5, MINUTE));
    let other = token_bucket(10, MINUTE, 10);
    let charges = [
        charge("theirs", limit, 4),
        charge("ours", other, 4),
        charge("theirs", limit, 4),
    ];
    let decision = store.charge(charges).await;
    let readings = vec![(true, 4), (true, 0), (false, 8)];
    assert_eq!(outcome(&decision), (Verdict::Refused, readings));
    assert_eq!(store.spent("theirs", limit).await, 8);
    assert_eq!(store.spent("ours", other).await, 0);
    // And where another limit refuses.
    let decision = store
        .charge([charge("more", limit, 4), charge("ours", other, 11)])
        .await;
    let readings = vec![(true, 4), (false, 0)];
    assert_eq!(outcome(&decision), (Verdict::Refused, readings));
}

async fn a_cost_larger_than_the_burst_never_fits(store: Fixture) {
    let limit = token_bucket(5, MINUTE, 10);
    let decision = store.charge([charge("a", limit, 11)]).await;
    assert_eq!(outcome(&decision), (Verdict::Refused, vec![(false, 0)]));
    assert_eq!(limit.threshold(11, 0), None);
}

async fn a_cost_larger_than_the_burst_fits_when_full_and_leaves_a_debt(store: Fixture) {
    let limit = Limit {
        oversize: Oversize::WhenFull,
        ..token_bucket(5, MINUTE, 10)
    };
    let decision = store.charge([charge("a", limit, 25)]).await;
    assert_eq!(outcome(&decision), (Verdict::Admitted, vec![(true, 25)]));
    assert_eq!(decision.readings[0].bucket.level(&limit), -15);
    // Three minutes pay for the debt, another two would fill it.
    store.clock.advance(3 * MINUTE);
    assert!(!store.admits("a", limit, 1).await);
    assert!(!store.admits("a", limit, 25).await);
    store.clock.advance(2 * MINUTE);
    assert!(store.admits("a", limit, 25).await);
}

async fn a_cost_of_zero_needs_room_under_limits(store: Fixture) {
    let limit = token_bucket(5, MINUTE, 10);
    assert!(store.admits("a", limit, 9).await);
    assert!(store.admits("a", limit, 0).await);
    assert!(store.admits("a", limit, 1).await);
    assert!(!store.admits("a", limit, 0).await);
}

async fn a_cost_of_zero_passes_at_zero_under_rate_limit(store: Fixture) {
    let limit = Limit {
        zero_cost: ZeroCost::PassesAtZero,
        ..charging_when_over(fixed_window(10, MINUTE))
    };
    assert!(store.admits("a", limit, 10).await);
    assert!(store.admits("a", limit, 0).await);
    assert!(!store.admits("a", limit, 1).await);
    assert!(!store.admits("a", limit, 0).await);
    let nothing = Limit { burst: 0, ..limit };
    assert!(store.admits("b", nothing, 0).await);
}

async fn headroom_stays_free(store: Fixture) {
    let limit = token_bucket(5, MINUTE, 10);
    let low = |cost| {
        let mut low = charge("a", limit, cost);
        low.charge.threshold = limit.threshold(cost, 5);
        low
    };
    assert_eq!(store.charge([low(6)]).await.verdict, Verdict::Refused);
    assert_eq!(store.charge([low(5)]).await.verdict, Verdict::Admitted);
    assert_eq!(store.charge([low(1)]).await.verdict, Verdict::Refused);
    assert!(store.admits("a", limit, 5).await);
}

async fn a_look_charges_nothing(store: Fixture) {
    let limit = charging_when_over(fixed_window(10, MINUTE));
    for cost in [4, 11, -4] {
        store
            .admit([charge("a", limit, cost)], Mode::Peek, None)
            .await;
    }
    assert_eq!(store.bucket_count(), 0);
    assert!(store.admits("a", limit, 10).await);
}

async fn a_look_tells_whether_it_would_fit(store: Fixture) {
    let limit = token_bucket(5, MINUTE, 10);
    store.charge([charge("a", limit, 4)]).await;
    for (cost, verdict) in [(6, Verdict::Admitted), (7, Verdict::Refused)] {
        let asked = [charge("a", limit, cost), charge("b", limit, cost)];
        let decision = store.admit(asked, Mode::Peek, None).await;
        let fits = verdict == Verdict::Admitted;
        assert_eq!(outcome(&decision), (verdict, vec![(fits, 4), (true, 0)]));
    }
    // Two charges on one bucket see each other, although neither stays.
    let twice = [charge("a", limit, 4), charge("a", limit, 4)];
    let decision = store.admit(twice, Mode::Peek, None).await;
    let readings = vec![(true, 4), (false, 4)];
    assert_eq!(outcome(&decision), (Verdict::Refused, readings));
}

async fn a_shadowed_limit_refuses_nobody(store: Fixture) {
    let (narrow, wide) = (token_bucket(3, MINUTE, 3), token_bucket(10, MINUTE, 10));
    let charging = charging_when_over(narrow);
    let charges = [
        charge("shadow", narrow, 4).with(Effect::Shadow),
        charge("charging", charging, 4).with(Effect::Shadow),
        charge("wide", wide, 4),
    ];
    let decision = store.charge(charges).await;
    let readings = vec![(false, 0), (false, 4), (true, 4)];
    assert_eq!(outcome(&decision), (Verdict::Admitted, readings));
    // What fits is charged like any other, and taken back like any other.
    let charges = [
        charge("shadow", narrow, 2).with(Effect::Shadow),
        charge("wide", wide, 9),
    ];
    let decision = store.charge(charges).await;
    let readings = vec![(true, 0), (false, 4)];
    assert_eq!(outcome(&decision), (Verdict::Refused, readings));
}

async fn quotas_refuse_only_together(store: Fixture) {
    let (narrow, wide) = (token_bucket(3, MINUTE, 3), token_bucket(10, MINUTE, 10));
    let both = |cost| {
        [
            charge("narrow", narrow, cost).with(Effect::Quota),
            charge("wide", wide, cost).with(Effect::Quota),
        ]
    };
    let decision = store.charge(both(4)).await;
    let readings = vec![(false, 0), (true, 4)];
    assert_eq!(outcome(&decision), (Verdict::Admitted, readings));
    let decision = store.charge(both(7)).await;
    let readings = vec![(false, 0), (false, 4)];
    assert_eq!(outcome(&decision), (Verdict::Refused, readings));
}

async fn quotas_do_not_soften_an_enforced_limit(store: Fixture) {
    let (narrow, wide) = (token_bucket(3, MINUTE, 3), token_bucket(10, MINUTE, 10));
    let charges = [
        charge("quota", wide, 4).with(Effect::Quota),
        charge("enforced", narrow, 4),
    ];
    let decision = store.charge(charges).await;
    let readings = vec![(true, 0), (false, 0)];
    assert_eq!(outcome(&decision), (Verdict::Refused, readings));
}

async fn nothing_asked_is_nothing_refused(store: Fixture) {
    let decision = store.charge([]).await;
    assert_eq!(outcome(&decision), (Verdict::Admitted, vec![]));
}

async fn many_charges_are_one_decision(store: Fixture) {
    let limit = token_bucket(10, MINUTE, 1000);
    let names: Vec<String> = (0..700).map(|index| index.to_string()).collect();
    let all = |cost| {
        names
            .iter()
            .map(|name| charge(name, limit, cost))
            .collect::<Vec<_>>()
    };
    assert_eq!(store.charge(all(600)).await.verdict, Verdict::Admitted);
    assert_eq!(store.bucket_count(), 700);
    assert!(store.admits("699", limit, 1).await);
    let decision = store.charge(all(400)).await;
    assert_eq!(decision.verdict, Verdict::Refused);
    let (last, others) = decision.readings.split_last().unwrap();
    assert!(!last.fits);
    // Where the replica holds some of the others and that is told, they do not fit either: it does
    // not go back for a request that would be refused all the same. Where they were read before it
    // took that, they do.
    let told = store.told(&limit, 600);
    for reading in others {
        let spent = reading.bucket.spent;
        assert!(told.contains(&spent), "{spent}");
        assert_eq!(reading.fits, spent <= 600, "{spent}");
    }
    assert!(told.contains(&store.spent("0", limit).await));
    store.renewals_end().await;
    // Nothing was charged, and it was the last that refused: without it, the others are let in.
    let mut without_last = all(400);
    without_last.pop();
    let decision = store.charge(without_last).await;
    assert_eq!(decision.verdict, Verdict::Admitted);
}
