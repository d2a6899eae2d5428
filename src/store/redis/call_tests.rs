//! What a call says, byte by byte.

use std::time::Duration;

use super::*;
use crate::limit::{Oversize, Rate, WhenOver, ZeroCost};

fn charge(bucket: u8, burst: u64, amount: i64) -> Charge {
    let limit = Limit {
        algorithm: Algorithm::TokenBucket,
        rate: Rate::new(5, Duration::from_mins(1)).unwrap(),
        burst,
        when_over: WhenOver::Refuse,
        oversize: Oversize::Refuse,
        zero_cost: ZeroCost::NeedsRoom,
    };
    Charge {
        key: BucketKey::from_bytes([bucket; 16]),
        charge: limit::Charge {
            limit,
            amount,
            threshold: limit.threshold(amount, 0),
            effect: Effect::Enforce,
        },
        settles: false,
        lease: None,
    }
}

/// A group: buckets, times, whether the next goes on with it, and the amount.
type Told = (u16, u16, bool, f64);

/// The groups, the buckets named, and the places of the operations.
fn called(asked: &[Charge]) -> (Vec<Told>, Vec<u8>, Vec<(usize, bool)>) {
    let operations: Vec<_> = asked.iter().map(|charge| admit(&[*charge])).collect();
    let (arguments, places) = arguments(&operations);
    let [_, plain, _, _, names] = arguments;
    let mut plain = plain.as_slice();
    let groups = std::iter::from_fn(|| {
        let (group, more) = plain.split_at_checked(35)?;
        let count = |bytes: &[u8]| u16::from_le_bytes(bytes.try_into().unwrap());
        let buckets = count(&group[1..3]);
        let amount = f64::from_le_bytes(group[19..27].try_into().unwrap());
        if group[0] >= 128 {
            plain = more;
            return Some((buckets, 1, false, amount));
        }
        let (rest, more) = more.split_at(11);
        plain = more;
        Some((buckets, count(&rest[8..10]), rest[10] >= 128, amount))
    });
    let names = names.chunks(16).map(|name| name[0]).collect();
    let places = places.0.iter().map(|place| (place.operation, place.first));
    (groups.collect(), names, places.collect())
}

#[test]
fn what_many_buckets_have_in_common_is_told_once() {
    let asked = [charge(1, 9, 3), charge(2, 9, 3), charge(3, 9, 3)];
    let (groups, names, places) = called(&asked);
    assert_eq!(groups, [(3, 1, false, 3.0)]);
    assert_eq!(names, [1, 2, 3]);
    assert_eq!(places, [(0, true), (1, true), (2, true)]);
}

#[test]
fn buckets_with_the_same_stand_together() {
    let asked = [
        charge(1, 9, 3),
        charge(2, 9, 4),
        charge(3, 9, 3),
        charge(4, 9, 4),
    ];
    let (groups, names, places) = called(&asked);
    assert_eq!(groups, [(2, 1, false, 3.0), (2, 1, false, 4.0)]);
    assert_eq!(names, [1, 3, 2, 4]);
    assert_eq!(places, [(0, true), (2, true), (1, true), (3, true)]);
}

#[test]
fn charges_of_one_bucket_keep_their_order() {
    let asked = [
        charge(1, 9, 3),
        charge(1, 9, 3),
        charge(1, 9, 4),
        charge(2, 9, 3),
        charge(1, 9, 3),
    ];
    let (groups, names, places) = called(&asked);
    assert_eq!(
        groups,
        [
            (1, 2, true, 3.0),
            (1, 1, true, 4.0),
            (1, 1, false, 3.0),
            // Not one with the group before, which goes on with another bucket.
            (1, 1, false, 3.0),
        ]
    );
    assert_eq!(names, [1, 2]);
    let expected = [(0, true), (1, false), (2, false), (4, false), (3, true)];
    assert_eq!(places, expected);
}

#[test]
fn a_bucket_that_is_held_to_two_limits_is_in_both_parts() {
    let (groups, names, places) = called(&[charge(1, 9, 3), charge(1, 8, 3)]);
    assert_eq!(groups, [(1, 1, false, 3.0)]);
    assert_eq!(names, [1, 1]);
    assert_eq!(places, [(0, true)]);
}

/// The arguments of a call (header, plain part, others, time, names), and the places.
fn arguments(operations: &[Operation]) -> ([Vec<u8>; 5], Places) {
    let mut call = Call::default();
    for operation in operations {
        call.push(operation);
    }
    let mut arguments = Vec::new();
    let places = call.arguments("t:", None, |argument| arguments.push(argument.to_vec()));
    let keys = arguments.len() - 5;
    (arguments.split_off(keys).try_into().unwrap(), places)
}

fn admit(charges: &[Charge]) -> Operation {
    Operation::Admit(Admission {
        charges: charges.to_vec(),
        mode: Mode::Apply,
        hold: None,
        keep_when_late: false,
    })
}

#[test]
fn only_what_needs_more_words_is_told_at_length() {
    let length = |change: fn(&mut limit::Charge)| {
        let mut charge = charge(1, 9, 3);
        change(&mut charge.charge);
        arguments(&[admit(&[charge])]).0[1].len()
    };
    assert_eq!(length(|_| {}), 35);
    assert_eq!(
        length(|charge| charge.limit.when_over = WhenOver::Charge),
        35
    );
    assert_eq!(length(|charge| charge.effect = Effect::Shadow), 46);
    assert_eq!(
        length(|charge| charge.limit.algorithm = Algorithm::FixedWindow),
        46
    );
    let twice = [admit(&[charge(1, 9, 3)]), admit(&[charge(1, 9, 3)])];
    assert_eq!(arguments(&twice).0[1].len(), 46);
}

#[test]
fn it_is_told_whether_charges_are_on_different_buckets() {
    let flags = |charges: &[Charge]| arguments(&[admit(charges)]).0[2][1];
    assert_eq!(flags(&[charge(1, 9, 3), charge(2, 9, 3)]), 16);
    assert_eq!(
        flags(&[charge(1, 9, 3), charge(2, 9, 3), charge(1, 9, 1)]),
        0
    );
}

#[test]
fn the_first_limits_of_buckets_are_told_up_to_the_first_ending() {
    let several = |buckets: [u8; 2]| admit(&buckets.map(|bucket| charge(bucket, 9, 3)));
    let ending = || Operation::Withdraw(HoldKey::of("d", "id"));
    let firsts = |operations: &[Operation]| {
        let ([header, ..], _) = arguments(operations);
        // Three counts, and one limit.
        let firsts = header[6 + 25..].chunks(2);
        firsts
            .map(|first| u16::from_le_bytes([first[0], first[1]]))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        firsts(&[several([1, 2]), ending(), several([2, 3])]),
        [1, 1, 0]
    );
    assert_eq!(firsts(&[ending(), several([1, 2])]), [0, 0]);
}
