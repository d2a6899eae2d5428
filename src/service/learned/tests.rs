use super::group::{ENOUGH, Group, SLOT};
use super::*;
use crate::limit::Sketch;
use crate::rules::{Identity, LearnBy, Quantile};

const TICK: Duration = Duration::from_micros(1);

/// The beginning of a slot.
fn start() -> Timestamp {
    Timestamp::from_micros(1_800_000_000_000_000)
}

fn learning() -> Learning {
    Learning {
        quantile: Quantile::P90,
        cold_start: 1,
        by: LearnBy::Bucket,
    }
}

fn group(name: impl std::fmt::Display + Copy) -> LearnKey {
    LearnKey::of(
        Identity::of(&["limit"]),
        [("k", format!("{name}").as_str())],
    )
}

fn estimates() -> (Estimates, Metrics) {
    let metrics = Metrics::new().unwrap();
    (Estimates::new(&metrics), metrics)
}

fn taught(costs: impl IntoIterator<Item = u64>, at: Timestamp) -> Group {
    let mut group = Group::default();
    for cost in costs {
        group.record(cost, at);
    }
    group
}

fn p90(group: &mut Group, at: Timestamp) -> Option<u64> {
    group.estimate(Quantile::P90, at)
}

#[test]
fn nothing_is_said_before_there_are_enough_samples() {
    let mut group = taught((1..ENOUGH).map(|_| 10), start());
    assert_eq!(p90(&mut group, start()), None);
    group.record(10, start());
    assert_eq!(p90(&mut group, start()), Some(10));
}

#[test]
fn another_quantile_is_another_estimate() {
    let mut group = taught(1..=20, start());
    assert_eq!(p90(&mut group, start()), Some(18));
    let median = Quantile::from_thousandths(500).unwrap();
    assert_eq!(group.estimate(median, start()), Some(10));
    assert_eq!(p90(&mut group, start()), Some(18));
}

#[test]
fn the_slot_before_weighs_less_and_less() {
    // A hundred old samples of 20, forty new ones of 10: p90 is 20 while the old ones are more than
    // a tenth of the weight.
    let mut group = taught([20; 100], start());
    let next = start().plus(SLOT);
    for _ in 0..40 {
        group.record(10, next);
    }
    assert_eq!(p90(&mut group, next), Some(20));
    // They are a tenth when each weighs 40 / 9 / 100 = 0.0444.
    let fades = |thousandths: u32| next.plus(SLOT * thousandths / 1000);
    assert_eq!(p90(&mut group, fades(955)), Some(20));
    assert_eq!(p90(&mut group, fades(956)), Some(10));
}

#[test]
fn after_two_slots_everything_is_forgotten() {
    let full = || taught([20; 1000], start());
    let end = start().plus(SLOT * 2);
    // 1000 samples that weigh a thousandth each are too few.
    let almost = |thousandths: u32| start().plus(SLOT + SLOT * thousandths / 1000);
    assert_eq!(p90(&mut full(), almost(980)), Some(20));
    assert_eq!(p90(&mut full(), almost(981)), None);
    let mut group = full();
    group.record(7, end);
    assert_eq!(p90(&mut group, end), None);
    for _ in 1..ENOUGH {
        group.record(7, end);
    }
    assert_eq!(p90(&mut group, end), Some(7));
}

#[test]
fn traffic_that_grows_is_followed_when_a_tenth_of_the_samples_are_new() {
    let mut group = taught([1000; 90], start());
    for _ in 0..10 {
        group.record(30_000, start());
    }
    let p90 = |group: &mut Group| p90(group, start()).unwrap();
    assert!(p90(&mut group) < 1032);
    group.record(30_000, start());
    assert!(p90(&mut group) > 29_000);
}

#[test]
fn a_clock_that_was_set_back_begins_anew_and_one_that_lags_does_not() {
    let mut group = taught([20; 100], start());
    let before = Timestamp::from_micros(start().as_micros() - 1);
    group.record(20, before);
    assert_eq!(p90(&mut group, before), Some(20));
    let long_before = Timestamp::from_micros(start().as_micros() - 3_600_000_000);
    assert_eq!(p90(&mut group, long_before), None);
}

#[test]
fn what_the_store_took_is_not_sent_again_and_what_came_meanwhile_is() {
    let mut group = taught([5; 3], start());
    let key = self::group("g");
    let sent = group.news(key, start());
    assert_eq!(
        sent.len(),
        2,
        "the current slot, and what others saw in the one before"
    );
    assert_eq!(sent[0].slot, sent[1].slot + 1);
    assert!(sent[1].new.is_empty());
    group.record(6, start());
    let all = Sketch::from_counts([(5, 30)]);
    group.exchanged(&sent[0], all, start());
    let next = group.news(key, start());
    assert_eq!(next[0].new, Sketch::from_counts([(6, 1)]));
    assert_eq!(p90(&mut group, start()), Some(5));
}

#[test]
fn a_slot_is_asked_for_until_nobody_adds_to_it() {
    let mut group = taught([5], start());
    let key = self::group("g");
    let over = start().plus(SLOT);
    let late = over.plus(Duration::from_mins(2));
    let last = Timestamp::from_micros(late.as_micros() - 1);
    for at in [over, last, late, late.plus(TICK)] {
        let sent = group.news(key, at);
        let asked = sent.iter().any(|samples| samples.slot + 1 == sent[0].slot);
        assert_eq!(asked, at <= late, "{at:?}");
        for samples in sent {
            group.exchanged(&samples, Sketch::default(), at);
        }
    }
}

#[test]
fn groups_are_bounded_and_those_of_which_nothing_is_known_go_first() {
    let (estimates, metrics) = estimates();
    let kept = group("kept");
    for _ in 0..ENOUGH {
        estimates.record(kept, 20, start());
    }
    let later = start().plus(Duration::from_secs(1));
    estimates.tell_time(later);
    let asked = 40_000;
    for name in 0..asked {
        assert_eq!(estimates.learned(&learning(), group(name)), None);
    }
    assert_eq!(estimates.learned(&learning(), kept), Some(20));
    let known: usize = estimates
        .shards
        .iter()
        .map(|shard| shard.groups.load().len())
        .sum();
    assert_eq!(known, SHARDS * GROUPS_OF_SHARD);
    assert_eq!(metrics.estimate_groups.get(), signed(known));
    let forgotten = metrics.estimate_groups_forgotten.get();
    assert_eq!(forgotten, asked + 1 - known as u64);

    // Where all are known, the one that was not used for longest makes room.
    let (estimates, _) = self::estimates();
    let names: Vec<u64> = (0..asked).collect();
    for name in &names {
        let at = start().plus(Duration::from_secs(*name));
        estimates.record(group(name), 20, at);
    }
    let oldest = names
        .iter()
        .find(|name| knows(&estimates, group(name)))
        .unwrap();
    assert!(*oldest > 25_000, "{oldest} was kept for long");
}

#[test]
fn a_group_that_is_only_asked_for_displaces_none_that_is_known() {
    let (estimates, metrics) = estimates();
    let names: Vec<u64> = (0..20_000).collect();
    for name in &names {
        estimates.record(group(name), 20, start());
    }
    let known = |name: &&u64| knows(&estimates, group(*name));
    let kept: Vec<&u64> = names.iter().filter(known).collect();
    assert_eq!(kept.len(), SHARDS * GROUPS_OF_SHARD);
    let forgotten = metrics.estimate_groups_forgotten.get();
    estimates.tell_time(start().plus(Duration::from_secs(1)));
    for name in 100_000..110_000_u64 {
        assert_eq!(estimates.learned(&learning(), group(name)), None);
    }
    assert!(kept.iter().all(known));
    assert_eq!(metrics.estimate_groups_forgotten.get(), forgotten);
    // One that is taught does.
    let taught = group("taught");
    estimates.record(taught, 20, start());
    assert!(knows(&estimates, taught));
    assert_eq!(metrics.estimate_groups_forgotten.get(), forgotten + 1);
}

#[test]
fn a_decision_reads_what_was_told_and_waits_for_nobody() {
    let entry = Entry::new(0);
    let ask = |at| entry.estimate(Quantile::P90, at);
    assert_eq!(ask(start()), None);
    for _ in 0..ENOUGH {
        entry.record(10, start(), start());
    }
    // Whoever holds the group keeps no decision waiting.
    let held = entry.group();
    assert_eq!(ask(start()), Some(10));
    drop(held);
    // A weight that moved is told anew.
    let step = SLOT / 1000;
    assert_eq!(ask(start().plus(SLOT).plus(step)), None, "20 faded");
}

fn knows(estimates: &Estimates, group: LearnKey) -> bool {
    let groups = estimates.shard(group).groups.load();
    groups.contains_key(&group)
}

#[test]
fn idle_groups_are_forgotten_and_none_too_early() {
    let (estimates, metrics) = estimates();
    estimates.record(group("a"), 20, start());
    estimates.forget_idle();
    let end = start().plus(IDLE);
    estimates.tell_time(Timestamp::from_micros(end.as_micros() - LAG));
    estimates.forget_idle();
    assert_eq!(metrics.estimate_groups.get(), 1);
    estimates.tell_time(end);
    estimates.forget_idle();
    assert_eq!(metrics.estimate_groups.get(), 0);
    assert_eq!(metrics.estimate_groups_forgotten.get(), 0);
}

#[test]
fn a_group_that_was_asked_for_before_the_time_was_known_is_not_idle() {
    let (estimates, metrics) = estimates();
    assert_eq!(estimates.learned(&learning(), group("a")), None);
    estimates.tell_time(start());
    estimates.forget_idle();
    assert_eq!(metrics.estimate_groups.get(), 1);
    assert_eq!(estimates.to_exchange().len(), 2);
}

#[test]
fn an_exchange_is_bounded_and_everybody_has_a_turn() {
    let (estimates, _) = estimates();
    for name in 0..=EXCHANGED * 2 {
        estimates.record(group(name), 20, start());
    }
    let mut told = std::collections::HashSet::new();
    for expected in [EXCHANGED, EXCHANGED, 1] {
        let sent = estimates.to_exchange();
        let new: Vec<&Samples> = sent.iter().filter(|sent| !sent.new.is_empty()).collect();
        let fresh = new.iter().filter(|sent| told.insert(sent.group)).count();
        assert_eq!(fresh, expected);
        for sent in &sent {
            estimates.exchanged(sent, sent.new.clone());
        }
    }
    assert!(estimates.to_exchange().is_empty(), "nobody used any");
}

#[test]
fn groups_that_come_between_exchanges_do_not_keep_others_waiting() {
    let (estimates, _) = estimates();
    let established: Vec<LearnKey> = (0..100).map(group).collect();
    let exchange = || {
        let sent = estimates.to_exchange();
        for samples in &sent {
            estimates.exchanged(samples, samples.new.clone());
        }
        let told = sent.iter().filter(|samples| !samples.new.is_empty());
        told.map(|samples| samples.group).collect::<Vec<_>>()
    };
    for key in &established {
        estimates.record(*key, 20, start());
    }
    exchange();
    for key in &established {
        estimates.record(*key, 20, start());
    }
    let mut told = std::collections::HashSet::new();
    for round in 1..=2 {
        for name in 0..EXCHANGED + 100 {
            estimates.record(group(round * 10_000 + name), 20, start());
        }
        told.extend(exchange());
    }
    let waiting = established.iter().filter(|key| !told.contains(key));
    assert_eq!(waiting.count(), 0);
}
