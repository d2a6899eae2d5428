//! Leases by hand: what may be granted when, to the microsecond.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::{Algorithm, Limit, Oversize, Rate, Timestamp, WhenOver, ZeroCost};
use super::*;

const SECOND: u64 = 1_000_000;

/// 100 a second.
fn limit(burst: u64) -> Limit {
    Limit {
        algorithm: Algorithm::TokenBucket,
        rate: Rate::new(100, Duration::from_secs(1)).unwrap(),
        burst,
        when_over: WhenOver::Refuse,
        oversize: Oversize::Refuse,
        zero_cost: ZeroCost::NeedsRoom,
    }
}

fn terms(max: u64) -> LeaseTerms {
    LeaseTerms {
        max,
        ttl: Duration::from_secs(2),
    }
}

fn at(micros: u64) -> Tick {
    Tick::from_micros(micros)
}

fn seen(sent: u64, spent: u64) -> Seen {
    Seen {
        sent: at(sent),
        now: Timestamp::from_micros(1_700_006_400_000_000).plus(Duration::from_micros(sent)),
        spent,
        fraction: 0,
    }
}

/// A lease of so much, after which so much was spent.
fn leased(limit: Limit, amount: u64, spent: u64) -> Lease {
    let mut lease = Lease::new(limit, terms(1000), at(0));
    lease.taken(amount, seen(0, spent));
    lease
}

#[test]
fn what_was_taken_is_granted_once() {
    let mut lease = leased(limit(1000), 10, 500);
    assert!(lease.grant(7, at(1)));
    assert!(!lease.grant(4, at(1)));
    assert!(lease.grant(3, at(1)));
    assert_eq!((lease.usable(at(1)), lease.held()), (0, 0));
}

#[test]
fn what_sinks_is_not_granted() {
    // Ten of ten spent: each that comes back is one less, and the first at once, because our clock
    // may be slow.
    let lease = leased(limit(1000), 10, 10);
    assert_eq!(lease.usable(at(0)), 9);
    assert_eq!(lease.usable(at(50_000)), 4);
    assert_eq!(lease.usable(at(100_000)), 0);
    // Beneath it lie ten more.
    let lease = leased(limit(1000), 10, 20);
    assert_eq!(lease.usable(at(99_000)), 10);
    assert_eq!(lease.usable(at(100_000)), 9);
}

#[test]
fn what_sank_is_not_granted_in_place_of_what_was() {
    let mut lease = leased(limit(1000), 10, 10);
    assert_eq!(lease.usable(at(50_000)), 4);
    assert!(lease.grant(1, at(50_000)));
    assert_eq!(lease.usable(at(50_000)), 3);
    assert_eq!(lease.held(), 3);
    let returned = lease.give_back(at(50_000));
    assert_eq!(
        returned,
        Returned {
            refund: 0,
            dropped: 9
        }
    );
}

#[test]
fn a_lease_ends_with_its_ttl_and_not_a_microsecond_before() {
    let lease = leased(limit(1000), 10, 900);
    assert_eq!(lease.usable(at(2 * SECOND - 1)), 10);
    assert_eq!(lease.usable(at(2 * SECOND)), 0);
    assert_eq!(lease.held(), 10);
}

#[test]
fn a_lease_ends_before_its_window() {
    let window = Limit {
        algorithm: Algorithm::FixedWindow,
        ..limit(100)
    };
    let lease = leased(window, 10, 10);
    // A thousandth and some microseconds before the second is over.
    assert_eq!(lease.usable(at(999_019)), 10);
    assert_eq!(lease.usable(at(999_020)), 0);
}

#[test]
fn what_is_left_goes_back_where_enough_was_used() {
    // 602 refill until it has arrived and all leases have ended.
    for (used, refund) in [(601, 0), (603, 10)] {
        let mut lease = leased(limit(10_000), 10, 5000);
        lease.see(seen(0, 5000), used);
        let returned = lease.give_back(at(0));
        let dropped = 10 - refund;
        assert_eq!(returned, Returned { refund, dropped }, "{used} used");
    }
}

#[test]
fn what_is_left_goes_back_where_too_much_is_spent_to_be_all_leases() {
    // Three quarters of the burst, the 602, and one that may have come back since.
    for (spent, refund) in [(8102, 0), (8103, 10)] {
        let mut lease = leased(limit(10_000), 10, spent);
        let returned = lease.give_back(at(0));
        let dropped = 10 - refund;
        assert_eq!(returned, Returned { refund, dropped }, "{spent} spent");
    }
}

#[test]
fn what_ended_long_ago_does_not_go_back() {
    for (now, refund) in [(3 * SECOND - 1, 10), (3 * SECOND, 0)] {
        let mut lease = leased(limit(10_000), 10, 9900);
        lease.see(seen(now, 9900), 0);
        let returned = lease.expire(at(now));
        let dropped = 10 - refund;
        assert_eq!(returned, Returned { refund, dropped }, "at {now}");
    }
}

#[test]
fn a_lease_is_as_large_as_what_is_asked_for() {
    let mut lease = Lease::new(limit(10_000), terms(1000), at(0));
    lease.ask(1, at(0));
    lease.see(seen(0, 1), 1);
    assert_eq!(lease.wants(1, at(0)), None, "asked for once");
    for _ in 0..49 {
        lease.ask(1, at(0));
    }
    assert_eq!(lease.wants(1, at(0)), Some(50));
    assert_eq!(lease.wants(1, at(0)), None, "one at a time");
    lease.taken(50, seen(0, 5000));
    // Less than half is left.
    assert!(lease.grant(25, at(0)));
    assert_eq!(lease.wants(1, at(0)), None);
    assert!(lease.grant(1, at(0)));
    assert_eq!(lease.wants(1, at(0)), Some(26));
    lease.not_taken(None, at(0));
    assert_eq!(lease.wants(1, at(499_999)), None, "not for a while");
    assert_eq!(lease.wants(1, at(500_000)), Some(26));
    lease.not_taken(None, at(0));
    // Nobody asked for the time of a lease.
    assert_eq!(lease.wants(1, at(2 * SECOND)), None);
}

#[test]
fn the_last_of_a_bucket_is_not_leased() {
    let mut lease = Lease::new(limit(1000), terms(100), at(0));
    for _ in 0..100 {
        lease.ask(1, at(0));
    }
    lease.see(seen(0, 900), 1);
    assert_eq!(lease.wants(1, at(0)), Some(12), "an eighth of what is left");
    assert_eq!(lease.renewal(12).threshold, Some(904));
    lease.not_taken(None, at(0));
    lease.see(seen(SECOND, 999), 1);
    assert_eq!(lease.wants(1, at(SECOND)), None);
}

#[test]
fn a_reading_tells_what_is_left_for_this_replica() {
    let mut lease = leased(limit(1000), 10, 510);
    let (now, bucket) = lease.reading(at(0)).unwrap();
    assert_eq!((now, bucket.spent), (seen(0, 0).now, 500));
    assert!(lease.grant(4, at(0)));
    let (now, bucket) = lease.reading(at(SECOND)).unwrap();
    assert_eq!((now, bucket.spent), (seen(SECOND, 0).now, 404));
}

/// What it would take next, were it asked for a thousand.
fn wanted(lease: &Lease, now: u64) -> Option<u64> {
    let mut lease = lease.clone();
    lease.ask(1000, at(now));
    lease.wants(1, at(now))
}

#[test]
fn what_was_dropped_counts_until_the_refill_has_come_to_it() {
    let mut lease = Lease::new(limit(1000), terms(20), at(0));
    lease.taken(12, seen(0, 500));
    // Not enough is known to lie there for it to go back.
    let returned = lease.expire(at(2 * SECOND));
    assert_eq!(
        (returned.refund, returned.dropped, lease.held()),
        (0, 12, 0)
    );
    // Five seconds for what was spent, and three for the call.
    let gone = part::stretched(5 * SECOND) + 3 * SECOND;
    assert_eq!(wanted(&lease, gone - 1), Some(8));
    assert!(!lease.is_idle(at(gone - 1)));
    assert_eq!(wanted(&lease, gone), Some(20));
    assert!(lease.is_idle(at(gone)));
}

#[test]
fn what_is_dropped_while_other_things_lie_there_counts_as_long_as_they_do() {
    let mut lease = Lease::new(limit(1000), terms(20), at(0));
    lease.taken(3, seen(0, 100));
    lease.taken(4, seen(SECOND, 400));
    assert_eq!(lease.expire(at(2 * SECOND)).dropped, 3);
    assert_eq!(wanted(&lease, 2 * SECOND), Some(13));
    assert_eq!(lease.expire(at(3 * SECOND)).dropped, 4);
    let gone = SECOND + part::stretched(4 * SECOND) + 3 * SECOND;
    assert_eq!(wanted(&lease, gone - 1), Some(13));
    assert_eq!(wanted(&lease, gone), Some(20));
}

/// Nothing is granted or goes back here, so all that was taken lies in the pile until the refill has
/// come to it: to what was spent after it was taken, however much others add on top.
#[test]
#[expect(clippy::arithmetic_side_effects, reason = "a minute, and a thousand")]
fn what_lies_there_of_a_replica_is_never_more_than_it_may_hold() {
    const MAX: u64 = 20;
    proptest!(|(steps in vec((0..900_u64, 1..40_u64), 1..30))| {
        let mut lease = Lease::new(limit(1000), terms(MAX), at(0));
        let (mut now, mut lying) = (0, Vec::new());
        for (spent, tenths) in steps {
            lease.ask(1000, at(now));
            lease.see(seen(now, spent), 0);
            if let Some(want) = lease.wants(1, at(now)) {
                lease.taken(want, seen(now, spent + want));
                lying.push((want, now + (spent + want) * SECOND / 100));
            }
            lying.retain(|(_, gone)| now < *gone);
            let sum: u64 = lying.iter().map(|(amount, _)| amount).sum();
            prop_assert!(sum <= MAX, "{:?}", lying);
            now += tenths * SECOND / 10;
            prop_assert_eq!(lease.expire(at(now)).refund, 0);
        }
    });
}

#[test]
fn what_a_window_held_is_gone_when_it_ends() {
    let mut limit = limit(1000);
    limit.algorithm = Algorithm::FixedWindow;
    limit.rate = Rate::new(1000, Duration::from_secs(10)).unwrap();
    let mut lease = Lease::new(limit, terms(20), at(0));
    // The window ends in ten seconds; in its last three nothing goes back.
    lease.taken(12, seen(6 * SECOND, 500));
    assert_eq!(lease.expire(at(8 * SECOND)).dropped, 12);
    let gone = 6 * SECOND + part::stretched(4 * SECOND) + 3 * SECOND;
    assert_eq!(wanted(&lease, gone - 1), Some(8));
    assert_eq!(wanted(&lease, gone), Some(20));
}
