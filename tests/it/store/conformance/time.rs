//! What time does to buckets, at the boundary and one microsecond before.

use std::time::Duration;

use tollgate::limit::{Algorithm, Bucket, Limit, Span, WhenOver};
use tollgate::store::Verdict;

use super::for_every_store;
use crate::store::fixture::{
    DAY, Fixture, MICROSECOND, MINUTE, SECOND, START, Vary, charge, fixed_window, just_before,
    outcome, token_bucket,
};

for_every_store! {
    a_bucket_nobody_has_seen_is_full
    a_token_is_back_at_its_instant_and_not_a_microsecond_before
    a_refused_caller_is_told_the_first_microsecond_that_fits
    refills_keep_what_is_left_over
    a_window_ends_at_its_boundary_and_not_a_microsecond_before
    a_window_that_nobody_used_saves_nothing_up
    time_that_goes_back_refills_nothing_and_takes_nothing
    a_limit_that_is_changed_keeps_its_bucket
    a_rate_with_another_denominator_keeps_less_than_a_token
    nothing_comes_back_at_a_rate_of_nothing
    a_full_bucket_leaves_nothing_behind
    keys_live_until_their_bucket_is_full
}

async fn a_bucket_nobody_has_seen_is_full(store: Fixture) {
    let limit = token_bucket(5, MINUTE, 10);
    let decision = store.charge([charge("a", limit, 11)]).await;
    assert_eq!(outcome(&decision), (Verdict::Refused, vec![(false, 0)]));
    let decision = store.charge([charge("a", limit, 10)]).await;
    assert_eq!(outcome(&decision), (Verdict::Admitted, vec![(true, 10)]));
    assert_eq!(decision.now, START);
}

async fn a_token_is_back_at_its_instant_and_not_a_microsecond_before(store: Fixture) {
    // A token every 142,857.14… µs.
    let limit = token_bucket(7, SECOND, 7);
    assert!(store.admits("a", limit, 7).await);
    store.clock.advance(Duration::from_micros(142_857));
    assert!(!store.admits("a", limit, 1).await);
    store.clock.advance(MICROSECOND);
    assert!(store.admits("a", limit, 1).await);
    // The next one is due at 285,714.28… µs.
    store.clock.set(START.plus(Duration::from_micros(285_714)));
    assert!(!store.admits("a", limit, 1).await);
    store.clock.advance(MICROSECOND);
    assert!(store.admits("a", limit, 1).await);
    // All seven are back after the second.
    store.clock.set(START.plus(SECOND));
    assert_eq!(store.spent("a", limit).await, 2);
}

async fn a_refused_caller_is_told_the_first_microsecond_that_fits(store: Fixture) {
    let limits = [
        token_bucket(4_999_999, DAY, 1000),
        token_bucket(7, SECOND, 1000),
        fixed_window(1000, MINUTE),
    ];
    for (name, limit) in ["a", "b", "c"].into_iter().zip(limits) {
        store.clock.advance(Duration::from_micros(1_234_567));
        assert!(store.admits(name, limit, 1000).await);
        store.clock.advance(Duration::from_micros(76_543));
        let asked = charge(name, limit, 321);
        let refused = store.charge([asked]).await;
        assert_eq!(refused.verdict, Verdict::Refused);
        let wait = refused.readings[0]
            .bucket
            .wait(&limit, asked.charge.threshold, refused.now)
            .unwrap();
        store.clock.set(refused.now.plus(just_before(wait)));
        assert!(!store.admits(name, limit, 321).await, "early on {name}");
        store.clock.set(refused.now.plus(wait));
        assert!(store.admits(name, limit, 321).await, "late on {name}");
    }
}

async fn refills_keep_what_is_left_over(store: Fixture) {
    let limit = token_bucket(7, SECOND, 1000);
    for name in ["steps", "leap"] {
        assert!(store.admits(name, limit, 1000).await);
    }
    for _ in 0..99 {
        store.clock.advance(Duration::from_micros(997));
        store.charge([charge("steps", limit, 0).recorded()]).await;
    }
    let both = [charge("steps", limit, 0), charge("leap", limit, 0)].map(Vary::recorded);
    let readings = store.charge(both).await.readings;
    assert_eq!(readings[0], readings[1]);
    assert_ne!(readings[0].bucket.fraction, 0);
}

async fn a_window_ends_at_its_boundary_and_not_a_microsecond_before(store: Fixture) {
    let limit = fixed_window(10, MINUTE);
    store.clock.advance(Duration::from_secs(17));
    assert!(store.admits("a", limit, 10).await);
    let refused = store.charge([charge("a", limit, 1)]).await;
    assert_eq!(
        Bucket::until_window_ends(&limit, refused.now),
        Some(Duration::from_secs(43))
    );
    store.clock.set(START.plus(just_before(MINUTE)));
    assert!(!store.admits("a", limit, 1).await);
    store.clock.set(START.plus(MINUTE));
    assert!(store.admits("a", limit, 10).await);
    assert!(!store.admits("a", limit, 1).await);
}

async fn a_window_that_nobody_used_saves_nothing_up(store: Fixture) {
    let limit = fixed_window(10, SECOND);
    assert!(store.admits("a", limit, 1).await);
    store.clock.advance(DAY);
    assert_eq!(store.spent("a", limit).await, 0);
    assert!(!store.admits("a", limit, 11).await);
    assert!(store.admits("a", limit, 10).await);
}

async fn time_that_goes_back_refills_nothing_and_takes_nothing(store: Fixture) {
    let limits = [token_bucket(1, SECOND, 10), fixed_window(10, SECOND)];
    for (name, limit) in ["bucket", "window"].into_iter().zip(limits) {
        store.clock.set(START.plus(DAY));
        assert!(store.admits(name, limit, 5).await);
        store.clock.set(START);
        assert_eq!(store.spent(name, limit).await, 5);
        assert!(store.admits(name, limit, 1).await);
        store.clock.set(START.plus(DAY));
        assert_eq!(store.spent(name, limit).await, 6);
        store.clock.advance(SECOND);
        let left = if name == "bucket" { 5 } else { 0 };
        assert_eq!(store.spent(name, limit).await, left);
    }
}

async fn a_limit_that_is_changed_keeps_its_bucket(store: Fixture) {
    let before = token_bucket(10, SECOND, 10);
    assert!(store.admits("a", before, 10).await);
    // More burst is there at once; what is spent stays spent.
    let wider = token_bucket(10, SECOND, 30);
    assert!(store.admits("a", wider, 20).await);
    assert!(!store.admits("a", wider, 1).await);
    // Less burst is a debt until the refill has paid for it.
    let narrower = token_bucket(10, SECOND, 5);
    store.clock.advance(Duration::from_millis(2500));
    assert!(!store.admits("a", narrower, 1).await);
    store.clock.advance(Duration::from_millis(100));
    assert!(store.admits("a", narrower, 1).await);
    // Another rate counts from the last refill that was written down.
    let faster = token_bucket(1000, SECOND, 5);
    store.clock.advance(Duration::from_millis(5));
    assert_eq!(store.spent("a", faster).await, 0);
}

async fn a_rate_with_another_denominator_keeps_less_than_a_token(store: Fixture) {
    // 4,999,999 a day is 4,999,999 / 86,400,000,000 a microsecond; 1 a microsecond is 1 / 1.
    let slow = token_bucket(4_999_999, DAY, 10);
    let fast = token_bucket(1_000_000, SECOND, 10);
    assert!(store.admits("a", slow, 10).await);
    store.clock.advance(Duration::from_millis(17));
    let slowed = store.charge([charge("a", slow, 0).recorded()]).await;
    assert!(slowed.readings[0].bucket.fraction > 1_000_000);
    store.clock.advance(MICROSECOND);
    let decision = store.charge([charge("a", fast, 0).recorded()]).await;
    assert_eq!(outcome(&decision).1, [(true, 9)]);
    assert_eq!(decision.readings[0].bucket.fraction, 0);
}

async fn nothing_comes_back_at_a_rate_of_nothing(store: Fixture) {
    let limit = token_bucket(0, MINUTE, 3);
    assert!(store.admits("a", limit, 2).await);
    store.clock.advance(300 * DAY);
    let refused = store.charge([charge("a", limit, 2)]).await;
    assert_eq!(outcome(&refused), (Verdict::Refused, vec![(false, 2)]));
    let wait = refused.readings[0]
        .bucket
        .wait(&limit, limit.threshold(2, 0), refused.now);
    assert_eq!(wait, None);
    assert!(store.admits("a", limit, 1).await);
}

async fn a_full_bucket_leaves_nothing_behind(store: Fixture) {
    let limits = [token_bucket(1, SECOND, 10), fixed_window(10, MINUTE)];
    let all = |cost| limits.map(|limit| charge(&format!("{:?}", limit.algorithm), limit, cost));
    store.charge(all(-3)).await;
    store.charge(all(11)).await;
    assert_eq!(store.bucket_count(), 0);
    store.charge(all(10)).await;
    assert_eq!(store.bucket_count(), 2);
    store.clock.advance(MINUTE);
    store.charge(all(0).map(Vary::recorded)).await;
    assert_eq!(store.bucket_count(), 0);
    store.charge(all(3)).await;
    assert_eq!(store.bucket_count(), 2);
    store.charge(all(-3)).await;
    assert_eq!(store.bucket_count(), 0);
}

async fn keys_live_until_their_bucket_is_full(store: Fixture) {
    let [end, next_end] = [31, 59].map(|days| START.plus(days * DAY));
    let month = Span::new(START, end, next_end).unwrap();
    let limits = [
        token_bucket(7, SECOND, 1000),
        token_bucket(1, MINUTE, 10),
        token_bucket(1, DAY, 1_000_000),
        // Full again in thousands of years, or never.
        token_bucket(1, 366 * DAY, 1_000_000_000_000_000),
        token_bucket(0, SECOND, 10),
        fixed_window(10, DAY),
        Limit {
            algorithm: Algorithm::CalendarWindow(month),
            ..fixed_window(10, DAY)
        },
        Limit {
            when_over: WhenOver::Charge,
            ..fixed_window(0, MINUTE)
        },
    ];
    for (index, limit) in limits.into_iter().enumerate() {
        let cost = i64::try_from(limit.burst).unwrap();
        for cost in [1, cost - 1, 1_000_000_000_000] {
            let name = format!("{index} {cost}");
            let decision = store.charge([charge(&name, limit, cost).recorded()]).await;
            let full = decision.readings[0].bucket.until_full(&limit, decision.now);
            let century = 36_500 * DAY;
            let needed = full.unwrap_or(century).min(century);
            let known = store.bucket_lifetime(&name);
            if decision.readings[0].bucket.spent == 0 {
                assert_eq!(known, None);
            } else if !store.in_memory() {
                // A little time has passed since the key was written.
                let lifetime = known.unwrap() + 30 * SECOND;
                assert!(lifetime > needed, "{name}: {lifetime:?} of {needed:?}");
            }
        }
    }
}
