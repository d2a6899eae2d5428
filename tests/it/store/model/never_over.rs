//! The promise itself: over no stretch of time is more admitted than the limit allows.

use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tollgate::limit::{Algorithm, Limit};
use tollgate::store::{Store, Verdict};

use super::histories::config;
use super::history::{rate, span};
use crate::store::fixture::{Fixture, START, Vary as _, admission, charge, token_bucket};
use crate::support::tasks::in_order;

/// What a client does: one that asks, or one that reports; a report below zero is a refund.
#[derive(Clone, Copy, Debug)]
enum Act {
    Ask(i64),
    Report(i64),
}

/// By how much the clock moves first, and what is done at that moment: by which client.
type Moment = (u64, Vec<(usize, Act)>);

const CLIENTS: usize = 3;

fn limit() -> impl Strategy<Value = Limit> {
    let burst = prop_oneof![3 => 1_u64..1000, 1 => 1_u64..=1_000_000_000_000_000];
    let algorithm = prop_oneof![
        2 => Just(Algorithm::TokenBucket),
        1 => Just(Algorithm::FixedWindow),
        1 => span().prop_map(Algorithm::CalendarWindow),
    ];
    (algorithm, rate(), burst).prop_map(|(algorithm, rate, burst)| Limit {
        algorithm,
        ..token_bucket(rate.amount(), rate.period(), burst)
    })
}

fn moments() -> impl Strategy<Value = Vec<Moment>> {
    let cost = || prop_oneof![5 => 0_i64..50, 2 => 0_i64..1500, 1 => 0..=1_000_000_000_000_000_i64];
    let act = prop_oneof![
        8 => cost().prop_map(Act::Ask),
        1 => cost().prop_map(Act::Report),
        1 => (-50_i64..0).prop_map(Act::Report),
    ];
    let moves = prop_oneof![
        1 => Just(0),
        4 => 1_u64..3_000_000,
        1 => 1_u64..200_000_000_000,
    ];
    vec((moves, vec((0..CLIENTS, act), 1..8)), 1..15)
}

/// What one moment took: admitted and reported, less what was meant to go beyond the limit, which
/// are refunds and the debts that reports left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub(super) at: u64,
    pub(super) amount: i128,
}

async fn take(
    clients: &[Store],
    fixture: &Fixture,
    name: &str,
    limit: Limit,
    moments: &[Moment],
) -> Vec<Taken> {
    fixture.clock.set(START);
    let mut taken = Vec::new();
    for (moves, acts) in moments {
        let moves = std::time::Duration::from_micros(*moves);
        fixture.clock.advance(moves);
        let amounts = in_order(acts.iter().map(|(client, act)| {
            let store = &clients[client % clients.len()];
            async move {
                let asked = match *act {
                    Act::Ask(cost) => charge(name, limit, cost),
                    Act::Report(cost) => charge(name, limit, cost).recorded(),
                };
                let decision = store.admit(admission([asked])).await.unwrap();
                let spent = i128::from(decision.readings[0].bucket.spent);
                let beyond = spent - i128::from(limit.burst);
                match *act {
                    Act::Ask(cost) if decision.verdict == Verdict::Admitted => i128::from(cost),
                    Act::Ask(_) => 0,
                    Act::Report(cost) if cost < 0 => i128::from(cost),
                    Act::Report(cost) => i128::from(cost) - beyond.clamp(0, i128::from(cost)),
                }
            }
        }))
        .await;
        taken.push(Taken {
            at: fixture.clock.now().as_micros(),
            amount: amounts.iter().sum(),
        });
    }
    taken
}

/// Fails if over any stretch more was taken than the limit allows, and `beyond`.
pub(super) fn check(limit: Limit, taken: &[Taken], beyond: i128) -> Result<(), TestCaseError> {
    let burst = i128::from(limit.burst);
    let period = i128::from(limit.rate.period_micros());
    for (index, first) in taken.iter().enumerate() {
        let mut sum = 0;
        for last in &taken[index..] {
            let first = i128::from(first.at);
            let at = i128::from(last.at);
            sum += last.amount;
            // In periods of a token, so that nothing is rounded.
            let allowed = match limit.algorithm {
                Algorithm::TokenBucket => {
                    burst * period + i128::from(limit.rate.amount()) * (at - first)
                }
                Algorithm::CalendarWindow(span) => {
                    // Before it, in it, after it.
                    let begun = [span.start(), span.end()].map(|time| i128::from(time.as_micros()));
                    let windows = |time| begun.iter().filter(|begun| **begun <= time).count();
                    let windows = windows(at) - windows(first) + 1;
                    burst * period * i128::try_from(windows).unwrap()
                }
                Algorithm::FixedWindow => burst * period * (at / period - first / period + 1),
            };
            let over = (sum - beyond) * period - allowed;
            prop_assert!(over <= 0, "{over}/{period} over from {first} to {at}");
        }
    }
    Ok(())
}

#[test]
fn the_memory_store_never_admits_more_than_the_limit() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    proptest!(config(2000), |(limit in limit(), moments in moments())| {
        let fixture = Fixture::memory();
        let clients = std::slice::from_ref(&fixture.store);
        let taken = runtime.block_on(take(clients, &fixture, "a", limit, &moments));
        check(limit, &taken, 0)?;
    });
}

#[test]
fn redis_never_admits_more_than_the_limit_to_all_its_clients() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (fixture, clients) = runtime.block_on(async {
        let fixture = Fixture::redis();
        let clients: Vec<Store> = (0..CLIENTS).map(|_| fixture.another_client()).collect();
        (fixture, clients)
    });
    let case = AtomicUsize::new(0);
    proptest!(config(256), |(limit in limit(), moments in moments())| {
        let name = case.fetch_add(1, Ordering::Relaxed).to_string();
        let taken = runtime.block_on(take(&clients, &fixture, &name, limit, &moments));
        check(limit, &taken, 0)?;
    });
}
