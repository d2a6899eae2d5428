use super::*;
use crate::limit::{Algorithm, Effect, Mode, Oversize, Rate, WhenOver, ZeroCost};
use crate::rules::Identity;
use crate::store::Charge;

fn remembering(clock: &ManualClock) -> Refusals {
    Refusals::new(&Options {
        clock: Some(clock.clone()),
        ..Options::new("redis://nowhere")
    })
}

fn refused(bucket: usize) -> (Operation, Answer) {
    let limit = Limit {
        algorithm: Algorithm::TokenBucket,
        rate: Rate::new(1, Duration::from_hours(1)).unwrap(),
        burst: 1,
        when_over: WhenOver::Refuse,
        oversize: Oversize::Refuse,
        zero_cost: ZeroCost::NeedsRoom,
    };
    let charge = Charge {
        key: BucketKey::of(Identity::of(&["bucket", &bucket.to_string()]), []),
        charge: limit::Charge {
            limit,
            amount: 1,
            threshold: limit.threshold(1, 0),
            effect: Effect::Enforce,
        },
        settles: false,
        lease: None,
    };
    let bucket = Bucket {
        spent: 1,
        ..Bucket::default()
    };
    let reading = Reading {
        fits: false,
        bucket,
    };
    let admission = Admission {
        charges: vec![charge],
        mode: Mode::Apply,
        hold: None,
        keep_when_late: false,
    };
    let decision = Decision {
        verdict: Verdict::Refused,
        now: Timestamp::default(),
        readings: Readings::from_slice(&[reading]),
    };
    (Operation::Admit(admission), Answer::Admit(decision))
}

/// How many of these buckets are remembered.
fn known(refusals: &Refusals, buckets: impl Iterator<Item = usize>) -> usize {
    buckets
        .filter(|bucket| match refused(*bucket) {
            (Operation::Admit(admission), _) => refusals.refuse(&admission, |_| 0).is_some(),
            _ => false,
        })
        .count()
}

fn heed(refusals: &Refusals, bucket: usize, sent: u64) {
    let (operation, answer) = refused(bucket);
    refusals.heed(std::iter::once((&operation, &answer)), Some(sent));
}

fn insert(shard: &mut Shard, bucket: usize, sent: u64, memory: u64) {
    if let (Operation::Admit(admission), Answer::Admit(decision)) = refused(bucket) {
        let entry = Entry {
            bucket: decision.readings[0].bucket,
            limit: admission.charges[0].charge.limit,
            now: decision.now,
            sent,
            heard: sent,
        };
        shard.insert(admission.charges[0].key, entry, memory);
    }
}

#[test]
fn the_oldest_leave_when_there_is_no_more_room() {
    let mut shard = Shard::default();
    for bucket in 0..5 * HALF {
        insert(&mut shard, bucket, 0, 100);
        let entries = shard.young.len() + shard.old.len();
        assert!(entries >= HALF.min(bucket + 1) && entries <= 2 * HALF);
    }
    for bucket in 0..HALF {
        let (Operation::Admit(admission), _) = refused(4 * HALF + bucket) else {
            unreachable!();
        };
        assert!(shard.young.contains_key(&admission.charges[0].key));
    }
}

#[test]
fn what_is_too_old_makes_room_for_what_comes() {
    let mut shard = Shard::default();
    for bucket in 0..100 {
        insert(&mut shard, bucket, 100 * bucket as u64, 100);
        assert!(shard.young.len() + shard.old.len() <= 2);
    }
}

#[test]
fn a_time_before_the_call_was_sent_tells_nothing() {
    let clock = ManualClock::new(Timestamp::from_micros(1000));
    let refusals = remembering(&clock);
    heed(&refusals, 0, 1000);
    assert_eq!(known(&refusals, 0..1), 1);
    clock.set(Timestamp::from_micros(999));
    assert_eq!(known(&refusals, 0..1), 0);
}

#[test]
fn an_answer_that_came_late_is_not_remembered() {
    let clock = ManualClock::new(Timestamp::default());
    let refusals = remembering(&clock);
    let (operation, answer) = refused(0);
    refusals.heed(std::iter::once((&operation, &answer)), None);
    assert_eq!(known(&refusals, 0..1), 0);
}

#[test]
fn what_may_be_returned_or_is_on_its_way_makes_a_refusal_uncertain() {
    let clock = ManualClock::new(Timestamp::from_micros(1000));
    let refusals = remembering(&clock);
    let (operation, answer) = refused(0);
    let Operation::Admit(admission) = &operation else {
        unreachable!();
    };
    let key = admission.charges[0].key;
    let refuses = |back| refusals.refuse(admission, |_| back).is_some();
    let heed = |sent| {
        refusals.heed(std::iter::once((&operation, &answer)), Some(sent));
    };
    heed(1000);
    assert!(refuses(0) && !refuses(1));

    refusals.expect(key);
    assert!(!refuses(0));
    // One that was decided before is no proof either.
    heed(1000);
    assert!(!refuses(0));
    let mut refund = admission.clone();
    refund.charges[0].charge.amount = -1;
    let refund = Operation::Admit(refund);
    // Something else came back, and what is expected was sent later.
    refusals.heed(std::iter::once((&refund, &answer)), Some(1000));
    heed(1000);
    assert!(!refuses(0));
    refusals.heed(std::iter::once((&refund, &answer)), Some(1001));
    assert!(!refuses(0));
    heed(1000);
    assert!(refuses(0));
}

#[test]
fn what_never_comes_is_not_expected_for_ever() {
    let clock = ManualClock::new(Timestamp::from_micros(1000));
    let refusals = remembering(&clock);
    let (operation, _) = refused(0);
    if let Operation::Admit(admission) = &operation {
        refusals.expect(admission.charges[0].key);
    }
    clock.advance(TRAVEL);
    heed(&refusals, 0, clock.now().as_micros());
    assert_eq!(known(&refusals, 0..1), 1);
}
