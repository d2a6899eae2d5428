//! Two replicas are one limit.

use std::thread;

use super::stage::{Stage, chat};
use crate::support::tap::End;

/// What `llm.yaml` gives the tenant `counted`.
const LIMIT: usize = 25;

#[test]
fn a_limit_holds_exactly_over_all_replicas() {
    const CLIENTS: usize = 4;
    const REQUESTS_EACH: usize = 10;

    let stage = Stage::settle();
    let request = chat("counted", false);
    let statuses: Vec<u16> = thread::scope(|scope| {
        let client = || [(); REQUESTS_EACH].map(|()| request.ask(stage.envoy.port).unwrap().status);
        let clients = [(); CLIENTS].map(|()| scope.spawn(client));
        let statuses = clients.map(|client| client.join().unwrap());
        statuses.concat()
    });
    let count = |wanted| statuses.iter().filter(|status| **status == wanted).count();
    let refused = CLIENTS * REQUESTS_EACH - LIMIT;
    assert_eq!((count(200), count(429)), (LIMIT, refused), "{statuses:?}");
    assert_eq!(stage.levels("tenant", "counted")["requests"], 0);

    let calls = stage.calls(2 * LIMIT + refused);
    for replica in [0, 1] {
        let admitted = calls
            .iter()
            .filter(|call| call.replica == replica && call.reservation().is_some());
        assert!(admitted.count() > 0, "replica {replica} admitted nothing");
    }
}

#[test]
fn a_replica_that_goes_away_costs_no_request_and_no_token() {
    let mut stage = Stage::settle();
    let request = chat("loyal", false)
        .header("x-fake-input-tokens", &50)
        .header("x-fake-output-tokens", &6);
    assert_eq!(stage.ask(&request).status, 200);
    stage.calls(2);

    stage.replicas[0].stop();
    for _ in 0..4 {
        assert_eq!(stage.ask(&request).status, 200);
    }
    let answered = || {
        let calls = stage.calls_so_far();
        let answered = |replica| {
            let of_replica = calls.iter().filter(move |call| call.replica == replica);
            of_replica.filter(|call| matches!(call.end, End::Answered(_)))
        };
        [answered(0).count(), answered(1).count()]
    };
    crate::support::process::until("all reports have come", || {
        (answered() == [1, 9]).then_some(())
    });
    let levels = stage.levels("tenant", "loyal");
    assert_eq!(levels["requests"], 95);
    assert_eq!(levels["input"], 1_000_000 - 5 * 50);
    assert_eq!(levels["output"], 1_000_000 - 5 * 6);
}
