//! Windows that go by a calendar: what a span says, and what it cannot say.

use std::time::Duration;

use tollgate::limit::{Algorithm, Limit, Mode, Span, Timestamp, Usage};
use tollgate::store::{Hold, Store};

use super::for_every_store;
use crate::store::fixture::{
    DAY, Fixture, MICROSECOND, START, charge, fixed_window, just_before, reservation, spent_of,
    tokens,
};

for_every_store! {
    a_calendar_window_ends_when_its_span_says_and_not_a_microsecond_before
    a_store_whose_clock_is_behind_keeps_the_window_before
    replicas_on_both_sides_of_midnight_reset_a_bucket_once
    a_bucket_outlives_the_window_that_it_is_settled_by
}

/// A day of 23 hours, then one of 24, held to the window of the first.
fn short_day(amount: u64) -> Limit {
    let at = |hours| START.plus(Duration::from_hours(hours));
    Limit {
        algorithm: Algorithm::CalendarWindow(Span::new(START, at(23), at(47)).unwrap()),
        ..fixed_window(amount, DAY)
    }
}

async fn a_calendar_window_ends_when_its_span_says_and_not_a_microsecond_before(store: Fixture) {
    let limit = short_day(10);
    let hours = Duration::from_hours;
    assert!(store.admits("a", limit, 10).await);
    store.clock.set(START.plus(hours(2)));
    let refused = store.charge([charge("a", limit, 1)]).await;
    let wait = refused.readings[0]
        .bucket
        .wait(&limit, limit.threshold(1, 0), refused.now);
    assert_eq!(wait, Some(hours(21)));
    store.clock.set(START.plus(just_before(hours(23))));
    assert!(!store.admits("a", limit, 1).await);
    store.clock.set(START.plus(hours(23)));
    assert!(store.admits("a", limit, 10).await);
    // Whoever planned by that span too long ago resets nothing, wherever its windows end.
    for late in [hours(46), hours(47), hours(100)] {
        store.clock.set(START.plus(late));
        assert!(!store.admits("a", limit, 1).await, "{late:?}");
    }
}

async fn a_store_whose_clock_is_behind_keeps_the_window_before(store: Fixture) {
    let limit = short_day(10);
    let before = fixed_window(10, DAY);
    let early = Timestamp::from_micros(START.as_micros() - 1);
    store.clock.set(early);
    assert!(store.admits("a", before, 7).await);
    // A replica whose clock says that it is midnight already.
    assert!(!store.admits("a", limit, 4).await);
    assert!(store.admits("a", limit, 3).await);
    let refused = store.charge([charge("a", limit, 1)]).await;
    let wait = refused.readings[0]
        .bucket
        .wait(&limit, limit.threshold(1, 0), refused.now);
    assert_eq!(wait, Some(MICROSECOND));
    store.clock.set(START);
    assert!(store.admits("a", limit, 10).await);
}

async fn replicas_on_both_sides_of_midnight_reset_a_bucket_once(store: Fixture) {
    let limit = short_day(10);
    let at = |hours| START.plus(Duration::from_hours(hours));
    let next = Limit {
        algorithm: Algorithm::CalendarWindow(Span::new(at(23), at(47), at(71)).unwrap()),
        ..limit
    };
    assert!(store.admits("a", limit, 10).await);
    store.clock.set(at(23));
    assert!(store.admits("a", limit, 4).await);
    assert!(store.admits("a", next, 4).await);
    assert!(!store.admits("a", limit, 3).await);
    assert!(!store.admits("a", next, 3).await);
    assert!(store.admits("a", limit, 2).await);
    assert!(!store.admits("a", next, 1).await);
}

async fn a_bucket_outlives_the_window_that_it_is_settled_by(store: Fixture) {
    let limit = short_day(10);
    let (reserved, held) = tokens("a", limit, 4);
    let hold = Hold {
        lifetime: 30 * DAY,
        ..reservation("r", &[(reserved, held)])
    };
    store.admit([reserved], Mode::Apply, Some(hold)).await;
    // Two windows later others use the bucket.
    let at = |hours| START.plus(Duration::from_hours(hours));
    let later = Limit {
        algorithm: Algorithm::CalendarWindow(Span::new(at(47), at(71), at(95)).unwrap()),
        ..limit
    };
    store.clock.set(at(50));
    assert!(store.admits("a", later, 5).await);
    let settled = store.settle("r", Usage::Total(1)).await;
    // That window never bore the estimate.
    assert_eq!(spent_of(&settled.readings), [(true, 5)]);
    if let Store::Memory(memory) = &store.store {
        memory.forget_full();
    }
    store
        .clock
        .set(START.plus(just_before(Duration::from_hours(71))));
    assert_eq!(store.spent("a", later).await, 5);
    store.clock.set(at(71));
    assert_eq!(store.spent("a", later).await, 0);
}
