//! What open reservations hold of a bucket: told beside its level, so that whoever looks can tell
//! what was used from what was only reserved.

use tollgate::limit::{Mode, Usage};
use tollgate::store::{Held, Hold, Verdict};

use super::for_every_store;
use crate::store::fixture::{
    Fixture, LIFETIME, MICROSECOND, MINUTE, charge, just_before, key, request, reservation,
    token_bucket, tokens,
};

for_every_store! {
    an_open_reservation_is_held_with_its_amounts_until_it_ends
    charges_of_one_bucket_are_one_reservation
    what_only_tells_retries_holds_nothing
    what_was_not_reserved_is_not_held
}

/// What is held of each of these buckets: how many reservations, and what they charged.
async fn held<const N: usize>(store: &Fixture, names: [&str; N]) -> [(u64, u64); N] {
    let found = store.store.held(&names.map(key)).await.unwrap();
    let found: [Held; N] = found.unwrap().try_into().unwrap();
    found.map(|held| (held.reservations, held.amount))
}

async fn an_open_reservation_is_held_with_its_amounts_until_it_ends(store: Fixture) {
    let limit = token_bucket(10, MINUTE, 5000);
    store.hold("first", [tokens("a", limit, 800)]).await;
    let both = [tokens("a", limit, 50), tokens("b", limit, 7)];
    store.hold("second", both).await;
    // In the order of the question, and nothing of what nobody charged.
    let names = ["b", "nobody's", "a"];
    assert_eq!(held(&store, names).await, [(1, 7), (0, 0), (2, 850)]);
    // Told again, it is the same one.
    assert_eq!(store.hold("second", both).await.verdict, Verdict::Repeated);
    assert_eq!(held(&store, names).await, [(1, 7), (0, 0), (2, 850)]);

    store.settle("first", Usage::Measured([300, 0, 0, 0])).await;
    assert_eq!(held(&store, names).await, [(1, 7), (0, 0), (1, 50)]);
    store.release("second").await;
    assert_eq!(held(&store, names).await, [(0, 0); 3]);
    // What was used stays charged all the same.
    assert_eq!(store.spent("a", limit).await, 300);
}

async fn charges_of_one_bucket_are_one_reservation(store: Fixture) {
    let limit = token_bucket(10, MINUTE, 5000);
    let charges = [tokens("a", limit, 800), request("a", limit)];
    store.hold("id", charges).await;
    assert_eq!(held(&store, ["a"]).await, [(1, 801)]);
}

async fn what_only_tells_retries_holds_nothing(store: Fixture) {
    let limit = token_bucket(10, MINUTE, 5000);
    let (charge, held_charge) = tokens("a", limit, 800);
    for fresh in [true, false] {
        let hold = Hold {
            fresh,
            only_tells_retries: true,
            ..reservation(&format!("{fresh}"), &[(charge, held_charge)])
        };
        let admitted = store.admit([charge], Mode::Apply, Some(hold)).await;
        assert_eq!(admitted.verdict, Verdict::Admitted);
    }
    assert_eq!(store.spent("a", limit).await, 1600);
    assert_eq!(held(&store, ["a"]).await, [(0, 0)]);
}

async fn what_was_not_reserved_is_not_held(store: Fixture) {
    let limit = token_bucket(10, MINUTE, 1000);
    store.charge([charge("a", limit, 300)]).await;
    let refused = store.hold("id", [tokens("a", limit, 800)]).await;
    assert_eq!(refused.verdict, Verdict::Refused);
    assert_eq!(held(&store, ["a"]).await, [(0, 0)]);
}

/// Redis forgets by its own clock, which no test moves.
#[tokio::test]
async fn an_expired_reservation_in_memory_holds_nothing() {
    let store = Fixture::memory();
    let limit = token_bucket(1, 10 * MINUTE, 5000);
    store.hold("id", [tokens("a", limit, 800)]).await;
    store.clock.advance(just_before(LIFETIME));
    assert_eq!(held(&store, ["a"]).await, [(1, 800)]);
    store.clock.advance(MICROSECOND);
    assert_eq!(held(&store, ["a"]).await, [(0, 0)]);
}
