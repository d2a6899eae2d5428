//! Many clients at once: exact, and in fewer calls than operations.

use std::sync::Arc;
use std::time::Duration;

use tollgate::clock::Clock;
use tollgate::limit::{Effect, Rate, Usage};
use tollgate::store::{Charge, Ended, Verdict};

use super::Calls;
use crate::store::fixture::{Fixture, MINUTE, PATIENT, admission, charge, token_bucket, tokens};
use crate::support::redis::RedisServer;
use crate::support::tasks::in_order;

/// Asks for `cost` 1,280 times, from 16 tasks on 4 stores; returns how many were admitted.
async fn storm(cost: i64, refusal_memory: Duration) -> i64 {
    // On the server's own clock: not one of 500 comes back within 17 hours.
    let limit = token_bucket(500, Rate::MAX_PERIOD, 500);
    let fixture = Fixture::redis_with(|options| options.clock = None);
    let mut calls = Vec::new();
    let stores: Vec<_> = (0..4)
        .map(|_| {
            fixture.another_client_with(|options| {
                options.refusal_memory = refusal_memory;
                calls.push(Calls::of(options));
            })
        })
        .map(Arc::new)
        .collect();
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let store = Arc::clone(&stores[task % 4]);
            tokio::spawn(async move {
                let mut admitted = 0;
                for _ in 0..8 {
                    let asks = (0..10).map(|_| store.admit(admission([charge("a", limit, cost)])));
                    for decision in in_order(asks).await {
                        admitted += i64::from(decision.unwrap().verdict == Verdict::Admitted);
                    }
                }
                admitted
            })
        })
        .collect();
    let mut admitted = 0;
    for task in tasks {
        admitted += task.await.unwrap();
    }
    let mut asked_of_all = 0;
    for calls in calls {
        let carried = calls.operations();
        let asked: usize = carried.iter().sum();
        if refusal_memory.is_zero() {
            assert_eq!(asked, 320);
        }
        asked_of_all += asked;
        assert!(carried.len() < 320 / 2, "{} calls for 320", carried.len());
    }
    assert_eq!(asked_of_all < 1280, !refusal_memory.is_zero());
    let spent = u64::try_from(admitted * cost).unwrap();
    assert_eq!(fixture.spent("a", limit).await, spent);
    admitted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_clients_are_admitted_exactly_up_to_the_limit() {
    assert_eq!(storm(1, Duration::ZERO).await, 500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_clients_are_admitted_as_often_as_their_cost_fits() {
    assert_eq!(storm(7, Duration::ZERO).await, 500 / 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_refused_without_redis_changes_nothing_of_that() {
    assert_eq!(storm(1, Duration::from_secs(10)).await, 500);
    assert_eq!(storm(7, Duration::from_secs(10)).await, 500 / 7);
}

#[tokio::test]
async fn the_time_is_the_servers() {
    let fixture = Fixture::redis_with(|options| options.clock = None);
    let limit = token_bucket(1, MINUTE, 10);
    let before = Clock::System.now();
    let first = fixture.charge([charge("a", limit, 1)]).await.now;
    let second = fixture.charge([charge("a", limit, 1)]).await.now;
    let after = Clock::System.now();
    // The server is on this machine.
    assert!(before <= first && first <= second && second <= after);
}

#[tokio::test]
async fn what_gathers_is_sent_together_as_far_as_a_call_carries() {
    let mut calls = Calls::default();
    let fixture = Fixture::redis_with(|options| calls = Calls::of(options));
    let limit = token_bucket(1, MINUTE, 2000);
    let asks = (0..1200).map(|_| fixture.charge([charge("a", limit, 1)]));
    let decisions = in_order(asks).await;
    assert_eq!(calls.operations(), [512, 512, 176]);
    // In the order in which they were asked.
    let spent: Vec<u64> = decisions
        .iter()
        .map(|decision| decision.readings[0].bucket.spent)
        .collect();
    assert_eq!(spent, (1..=1200).collect::<Vec<u64>>());
}

#[tokio::test]
async fn reservations_of_more_buckets_than_a_call_carries_are_released_together() {
    const EACH: usize = 999;
    let mut calls = Calls::default();
    let fixture = Fixture::redis_with(|options| calls = Calls::of(options));
    let limit = token_bucket(1, MINUTE, 10);
    let ids = ["0", "1", "2", "3", "4", "5", "6"];
    let charges = |id: &str| -> Vec<_> {
        let names = (0..EACH).map(|name| format!("{id}/{name}"));
        names.map(|name| tokens(&name, limit, 10)).collect()
    };
    in_order(ids.iter().map(|id| fixture.hold(id, charges(id)))).await;
    assert_eq!(fixture.bucket_count(), ids.len() * EACH);
    let before = calls.operations().len();
    // None of them names a bucket: only the reservations know which.
    let halves = in_order(ids.iter().map(|id| fixture.settle(id, Usage::Total(5)))).await;
    assert_eq!(calls.operations()[before..], [ids.len()]);
    let spent = |ended: &Ended| {
        ended
            .readings
            .iter()
            .map(|told| told.bucket.spent)
            .sum::<u64>()
    };
    let half = 5 * u64::try_from(EACH).unwrap();
    assert_eq!(halves.iter().map(spent).collect::<Vec<_>>(), [half; 7]);
    assert_eq!(fixture.bucket_count(), ids.len() * EACH);
    in_order(ids.iter().map(|id| {
        fixture.charge(
            charges(id)
                .into_iter()
                .map(|(charge, _)| give_back(charge, 5)),
        )
    }))
    .await;
    assert_eq!(fixture.bucket_count(), 0);
}

/// A refund of so much.
fn give_back(mut charge: Charge, amount: i64) -> Charge {
    charge.charge.amount = -amount;
    charge.charge.effect = Effect::Record;
    charge
}

#[tokio::test]
async fn a_call_carries_no_more_keys_than_the_script_takes() {
    let mut calls = Calls::default();
    let fixture = Fixture::redis_with(|options| calls = Calls::of(options));
    let limit = token_bucket(1, MINUTE, 10);
    let asks = (0..8).map(|ask| {
        let names = (0..999).map(move |name| format!("{ask}/{name}"));
        let charges: Vec<Charge> = names.map(|name| charge(&name, limit, 1)).collect();
        fixture.charge(charges)
    });
    for decision in in_order(asks).await {
        assert_eq!(decision.verdict, Verdict::Admitted);
    }
    assert_eq!(calls.operations(), [3, 3, 2]);
    assert_eq!(fixture.bucket_count(), 8 * 999);
}

#[tokio::test]
async fn an_operation_too_many_for_the_queue_fails_at_once() {
    let fixture = Fixture::redis_with(|options| options.queue = 3);
    let limit = token_bucket(1, MINUTE, 10);
    let asks = (0..5).map(|_| fixture.store.admit(admission([charge("a", limit, 1)])));
    let outcomes: Vec<_> = in_order(asks)
        .await
        .into_iter()
        .map(|outcome| outcome.map(|decision| decision.verdict))
        .collect();
    assert_eq!(outcomes[..3], [const { Ok(Verdict::Admitted) }; 3]);
    for refused in &outcomes[3..] {
        assert_eq!(refused.as_ref().unwrap_err().kind(), "overloaded");
    }
    assert_eq!(fixture.spent("a", limit).await, 3);
    assert!(fixture.store.ping().await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushed_scripts_are_loaded_again_and_nobody_notices() {
    let server = Arc::new(RedisServer::start());
    let fixture = Arc::new(Fixture::redis_on(server, |_| ()));
    let limit = token_bucket(1, MINUTE, 100_000);
    let asking = tokio::spawn({
        let fixture = Arc::clone(&fixture);
        async move {
            for _ in 0..50 {
                let asks = (0..10).map(|_| fixture.charge([charge("a", limit, 1)]));
                for decision in in_order(asks).await {
                    assert_eq!(decision.verdict, Verdict::Admitted);
                }
            }
        }
    });
    while !asking.is_finished() {
        fixture.server().command::<()>(&["SCRIPT", "FLUSH"]);
    }
    tokio::time::timeout(PATIENT, asking)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(fixture.spent("a", limit).await, 500);
}
