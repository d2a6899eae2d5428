//! Answers that come too late, and callers who have gone.

use std::sync::Arc;
use std::time::Duration;

use tollgate::limit::{Limit, Settlement, Usage};
use tollgate::store::{
    Admission, EndResult, Ending, HoldCounts, HoldKey, Store, StoreError, Verdict,
};

use super::{Calls, eventually};
use crate::store::fixture::{
    Fixture, LIFETIME, MINUTE, PATIENT, Vary as _, admission, charge, reservation, token_bucket,
    tokens,
};
use crate::support::gate::Gate;
use crate::support::redis::RedisServer;
use crate::support::tasks::{begin, in_order};

const DEADLINE: Duration = Duration::from_millis(40);

fn limit() -> Limit {
    token_bucket(1, MINUTE, 1000)
}

/// A store that reaches its Redis through a gate, connected and with its script loaded. The
/// fixture's own store goes past the gate.
async fn behind_a_gate(deadline: Duration) -> (Fixture, Gate, Store, Calls) {
    let fixture = Fixture::redis();
    let gate = Gate::before(fixture.server().port()).await;
    let mut calls = Calls::default();
    let store = fixture.another_client_with(|options| {
        options.url = format!("redis://127.0.0.1:{}", gate.port()).into();
        options.deadline = deadline;
        calls = Calls::of(options);
    });
    eventually("a connection", || async {
        store.admit(admission([])).await.is_ok()
    })
    .await;
    calls.forget();
    (fixture, gate, store, calls)
}

fn kept(admission: Admission) -> Admission {
    Admission {
        keep_when_late: true,
        ..admission
    }
}

fn open(open: u64) -> HoldCounts {
    HoldCounts {
        open,
        ..HoldCounts::default()
    }
}

#[tokio::test]
async fn a_stalled_server_is_waited_for_until_the_deadline_and_no_longer() {
    let server = Arc::new(RedisServer::start());
    let fixture = Fixture::redis_on(server, |_| ());
    let store = fixture.another_client_with(|options| options.deadline = DEADLINE);
    eventually("a connection", || async { store.ping().await.is_ok() }).await;
    fixture.server().pause();
    for _ in 0..8 {
        let begun = tollgate::clock::instant();
        let outcome = store.admit(admission([charge("a", limit(), 1)])).await;
        assert_eq!(outcome, Err(StoreError::Timeout));
        // Less than the deadline: when four calls are stuck, the others fail at once.
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
    fixture.server().resume();
    eventually("everything is given back", || async {
        fixture.spent("a", limit()).await == 0 && store.ping().await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_late_admission_is_given_back_or_kept_as_it_asked() {
    let (fixture, gate, store, calls) = behind_a_gate(DEADLINE).await;
    gate.close();
    let asked = [
        admission([charge("back", limit(), 7), charge("both", limit(), 7)]),
        kept(admission([
            charge("kept", limit(), 7),
            charge("both", limit(), 7),
        ])),
        Admission {
            hold: Some(reservation("back", &[tokens("back", limit(), 50)])),
            ..admission([charge("back", limit(), 50)])
        },
        kept(Admission {
            hold: Some(reservation("kept", &[tokens("kept", limit(), 50)])),
            ..admission([charge("kept", limit(), 50)])
        }),
    ];
    for outcome in in_order(asked.map(|asked| store.admit(asked))).await {
        assert_eq!(outcome, Err(StoreError::Timeout));
    }
    assert_eq!(calls.operations(), [4]);
    eventually("all are charged", || async {
        fixture.spent("kept", limit()).await == 57
    })
    .await;
    assert_eq!(fixture.spent("back", limit()).await, 57);
    assert_eq!(fixture.spent("both", limit()).await, 14);
    assert_eq!(fixture.count_holds().await, open(2));
    gate.open();
    eventually("the charges are given back", || async {
        fixture.spent("back", limit()).await == 0
    })
    .await;
    eventually("the reservation is released", || async {
        fixture.count_holds().await == open(1)
    })
    .await;
    assert_eq!(fixture.spent("both", limit()).await, 7);
    assert_eq!(fixture.spent("kept", limit()).await, 57);
}

#[tokio::test]
async fn a_caller_who_goes_away_while_the_call_is_under_way_gets_everything_back() {
    let (fixture, gate, store, _) = behind_a_gate(PATIENT).await;
    gate.close();
    // Even one that would be kept if it were late: nobody let the request through.
    let asked = kept(admission([charge("a", limit(), 7)]));
    let mut held = admission([charge("b", limit(), 7)]);
    held.hold = Some(reservation("id", &[tokens("b", limit(), 7)]));
    let pending = (
        begin(store.admit(asked)).await,
        begin(store.admit(held)).await,
    );
    eventually("both are charged", || async {
        fixture.spent("a", limit()).await == 7 && fixture.spent("b", limit()).await == 7
    })
    .await;
    drop(pending);
    gate.open();
    eventually("the charges are given back", || async {
        fixture.spent("a", limit()).await == 0 && fixture.spent("b", limit()).await == 0
    })
    .await;
    assert_eq!(fixture.count_holds().await, open(0));
}

#[tokio::test]
async fn a_retry_that_was_let_in_keeps_the_charge_of_the_try_that_was_given_up() {
    let (fixture, gate, store, calls) = behind_a_gate(PATIENT).await;
    gate.close();
    let held = [tokens("a", limit(), 50)];
    let mut first_try = admission([held[0].0]);
    first_try.hold = Some(reservation("id", &held));
    let pending = begin(store.admit(first_try)).await;
    eventually("it is charged", || async {
        fixture.spent("a", limit()).await == 50
    })
    .await;
    drop(pending);
    // Through another replica, before the first one knows that nobody waits for its answer.
    assert_eq!(fixture.hold("id", held).await.verdict, Verdict::Repeated);
    gate.open();
    eventually("the first try is withdrawn", || async {
        calls.operations() == [1, 1]
    })
    .await;
    assert_eq!(fixture.spent("a", limit()).await, 50);
    assert_eq!(fixture.count_holds().await, open(1));
    let settled = fixture
        .settle("id", Usage::Measured([30, 0, 0, 4]))
        .await
        .result;
    assert!(matches!(settled, EndResult::Settled { .. }));
    assert_eq!(fixture.spent("a", limit()).await, 34);
    assert_eq!(fixture.count_holds().await, open(0));
}

#[tokio::test]
async fn a_retry_of_what_was_given_back_is_charged_anew() {
    let (fixture, gate, store, _) = behind_a_gate(PATIENT).await;
    gate.close();
    let held = [tokens("a", limit(), 50)];
    let mut first_try = admission([held[0].0]);
    first_try.hold = Some(reservation("id", &held));
    let pending = begin(store.admit(first_try)).await;
    eventually("it is charged", || async {
        fixture.spent("a", limit()).await == 50
    })
    .await;
    drop(pending);
    gate.open();
    eventually("it is given back", || async {
        fixture.spent("a", limit()).await == 0
    })
    .await;
    assert_eq!(fixture.hold("id", held).await.verdict, Verdict::Admitted);
    assert_eq!(fixture.spent("a", limit()).await, 50);
    assert_eq!(fixture.count_holds().await, open(1));
}

#[tokio::test]
async fn a_caller_who_goes_away_with_the_answer_unread_gets_everything_back() {
    let (fixture, _, store, calls) = behind_a_gate(PATIENT).await;
    let pending = begin(store.admit(admission([charge("a", limit(), 7)]))).await;
    // On one thread: the answer is handed out in the same turn in which the call is noted.
    eventually("an answer", || async { !calls.operations().is_empty() }).await;
    assert_eq!(fixture.spent("a", limit()).await, 7);
    drop(pending);
    eventually("the charge is given back", || async {
        fixture.spent("a", limit()).await == 0
    })
    .await;
}

#[tokio::test]
async fn a_caller_who_goes_away_before_the_call_is_never_charged() {
    let (fixture, _, store, calls) = behind_a_gate(PATIENT).await;
    let gone = begin(store.admit(admission([charge("a", limit(), 7)]))).await;
    let stays = begin(store.admit(admission([charge("b", limit(), 7)]))).await;
    drop(gone);
    assert_eq!(stays.await.unwrap().verdict, Verdict::Admitted);
    assert_eq!(calls.operations(), [1]);
    assert_eq!(fixture.spent("a", limit()).await, 0);
}

#[tokio::test]
async fn when_too_many_calls_are_stuck_the_others_fail_without_a_call() {
    let (fixture, gate, store, calls) = behind_a_gate(DEADLINE).await;
    gate.close();
    for _ in 0..20 {
        let outcome = store.admit(admission([charge("a", limit(), 7)])).await;
        assert_eq!(outcome, Err(StoreError::Timeout));
    }
    assert_eq!(calls.operations(), [1; 4]);
    eventually("four are charged", || async {
        fixture.spent("a", limit()).await == 28
    })
    .await;
    gate.open();
    eventually("all four are given back", || async {
        fixture.spent("a", limit()).await == 0
    })
    .await;
    eventually("calls are made again", || async {
        store.admit(admission([])).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_report_has_more_time_than_the_admissions_of_its_call() {
    let (fixture, gate, store, calls) = behind_a_gate(DEADLINE).await;
    fixture.hold("id", [tokens("a", limit(), 50)]).await;
    gate.close();
    let ending = Ending {
        key: HoldKey::of("llm", "id"),
        settlement: Settlement::Release,
        fallback: [].into_iter().collect(),
        lifetime: LIFETIME,
    };
    let admit = begin(store.admit(admission([charge("b", limit(), 7)]))).await;
    let end = begin(store.end(ending)).await;
    assert_eq!(admit.await, Err(StoreError::Timeout));
    assert_eq!(calls.operations(), [2]);
    gate.open();
    let ended = end.await.unwrap();
    assert!(matches!(ended.result, EndResult::Settled { .. }));
}

#[tokio::test]
async fn a_report_under_way_does_not_keep_admissions_waiting() {
    let (fixture, gate, store, _) = behind_a_gate(DEADLINE).await;
    gate.close();
    let report = Ending {
        key: HoldKey::of("llm", "id"),
        settlement: Settlement::Release,
        fallback: [charge("a", limit(), 7).recorded()].into_iter().collect(),
        lifetime: LIFETIME,
    };
    let end = begin(store.end(report)).await;
    eventually("the report is done", || async {
        fixture.spent("a", limit()).await == 7
    })
    .await;
    let outcome = store.admit(admission([charge("b", limit(), 7)])).await;
    assert_eq!(outcome, Err(StoreError::Timeout));
    // It was told so before the report's time was over.
    gate.open();
    assert_eq!(end.await.unwrap().result, EndResult::Charged);
}
