//! The leases of one replica, with a store that the test plays.

use std::time::Duration;

use super::*;
use crate::limit::{Algorithm, LeaseTerms, Oversize, Rate, Timestamp, ZeroCost};
use crate::rules::Identity;

const BURST: u64 = 500;

fn limit() -> Limit {
    Limit {
        algorithm: Algorithm::TokenBucket,
        rate: Rate::new(1, Duration::from_hours(1)).unwrap(),
        burst: BURST,
        when_over: WhenOver::Refuse,
        oversize: Oversize::Refuse,
        zero_cost: ZeroCost::NeedsRoom,
    }
}

/// A charge on the bucket `name`, of which a replica may hold `max`.
fn leased(name: &str, amount: i64, max: u64) -> Charge {
    Charge {
        key: BucketKey::of(Identity::of(&[name]), []),
        charge: limit::Charge {
            limit: limit(),
            amount,
            threshold: limit().threshold(amount, 0),
            effect: Effect::Enforce,
        },
        settles: false,
        lease: Some(LeaseTerms {
            max,
            ttl: LeaseTerms::DEFAULT_TTL,
        }),
    }
}

fn admission(charges: impl IntoIterator<Item = Charge>) -> Admission {
    Admission {
        charges: charges.into_iter().collect(),
        mode: Mode::Apply,
        hold: None,
        keep_when_late: false,
    }
}

/// What the store answers where so much is spent of each bucket afterwards.
fn answer(verdict: Verdict, readings: impl IntoIterator<Item = (bool, u64)>) -> Decision {
    let readings = readings.into_iter().map(|(fits, spent)| {
        let bucket = limit::Bucket {
            spent,
            ..limit::Bucket::default()
        };
        Reading { fits, bucket }
    });
    Decision {
        verdict,
        now: Timestamp::default(),
        readings: readings.collect(),
    }
}

fn at(millis: u64) -> Tick {
    Tick::from_micros(millis * 1000)
}

/// Asks for a hit a millisecond, which the store lets in, until a renewal is due; returns it and the
/// millisecond.
fn until_renewal(leases: &Leases, max: u64, from: u64) -> Option<(Renewal, u64)> {
    let one = admission([leased("a", 1, max)]);
    (from..from + 100).find_map(|now| {
        assert!(leases.ask(&one, at(now)).granted.is_none());
        let let_in = answer(Verdict::Admitted, [(true, now)]);
        let heard = leases.hear(&one, &let_in, at(now), at(now));
        heard.renewals.first().map(|renewal| (*renewal, now))
    })
}

#[test]
fn terms_that_change_while_a_request_is_under_way_leave_no_lease_that_waits_for_ever() {
    let leases = Leases::new(None);
    let old = admission([leased("a", 1, 50)]);
    for now in 0..50 {
        assert!(leases.ask(&old, at(now)).granted.is_none());
    }
    // By the new terms, so many that a renewal is due as soon as something is known.
    let new = admission([leased("a", 1, 40)]);
    for now in 50..100 {
        assert!(leases.ask(&new, at(now)).granted.is_none());
    }
    let let_in = answer(Verdict::Admitted, [(true, 150)]);
    let heard = leases.hear(&old, &let_in, at(99), at(100));
    for renewal in &heard.renewals {
        leases.renewed(renewal, &let_in, at(100), at(100));
    }
    if heard.renewals.is_empty() {
        let (renewal, now) = until_renewal(&leases, 40, 101).expect("a renewal");
        leases.renewed(&renewal, &let_in, at(now), at(now));
    }
    assert!(leases.ask(&new, at(300)).granted.is_some());
    leases.close(at(301));
    assert_eq!(leases.count_leases(), 0);
}

#[test]
fn nothing_goes_back_where_that_could_not_help() {
    let leases = Leases::new(None);
    let (renewal, now) = until_renewal(&leases, 50, 0).expect("a renewal");
    let held = amount(&renewal.charge);
    let charged = answer(Verdict::Admitted, [(true, 150)]);
    leases.renewed(&renewal, &charged, at(now), at(now));

    let large = held + 1;
    let asked = leased("a", large.cast_signed(), 50);
    let hear = |charges: &[Charge], spent: &[u64]| {
        let readings = spent.iter().map(|spent| (false, *spent));
        let refused = answer(Verdict::Refused, readings);
        let asked = admission(charges.iter().copied());
        let heard = leases.hear(&asked, &refused, at(now), at(now));
        let back = heard.refunds.iter().map(|back| -back.charge.amount);
        back.sum::<i64>()
    };
    // One hit more is missing than is held; then another bucket misses some, too.
    let just_fits = BURST - large + held;
    assert_eq!(hear(&[asked], &[just_fits + 1]), 0);
    let other = leased("b", 1, 50);
    assert_eq!(hear(&[asked, other], &[just_fits, BURST]), 0);
    assert_eq!(hear(&[asked], &[just_fits]), held.cast_signed());
    assert_eq!(hear(&[asked], &[just_fits]), 0, "twice");
}
