//! While Redis stalls, Envoy gives up on one replica and asks the other. One request is one charge.

use std::sync::Arc;

use super::stage::{Stage, chat};
use crate::support::process::until;
use crate::support::redis::RedisServer;
use crate::support::tap::End;

#[test]
fn a_request_that_was_tried_on_both_replicas_while_redis_stalled_is_charged_once() {
    // Of its own: it is stopped in the middle.
    let redis = Arc::new(RedisServer::start());
    let stage = Stage::settle_impatient(Arc::clone(&redis));
    assert_eq!(stage.ask(&chat("warm", false)).status, 200);
    stage.calls(2);

    let _: () = redis.command(&["CLIENT", "PAUSE", "60000", "WRITE"]);
    let request = chat("patient", false)
        .header("x-fake-input-tokens", &70)
        .header("x-fake-output-tokens", &9);
    let sent = request.send(stage.envoy.port).unwrap();
    until("both replicas wait for redis", || {
        let clients: String = redis.command(&["CLIENT", "LIST"]);
        let waits = |line: &&str| line.contains("flags=b") && line.contains("cmd=evalsha");
        (clients.lines().filter(waits).count() == 2).then_some(())
    });
    let _: () = redis.command(&["CLIENT", "UNPAUSE"]);
    let answer = sent.begin().unwrap().finish().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);

    until("the report has come", || {
        let calls = stage.calls_so_far();
        let report = calls.iter().skip(2).find(|call| !call.ids().is_empty())?;
        matches!(report.end, End::Answered(_)).then_some(())
    });
    let levels = stage.levels("tenant", "patient");
    assert_eq!(
        [levels["requests"], levels["input"], levels["output"]],
        [99, 999_930, 999_991]
    );
    let calls = stage.calls_so_far();
    let first = &calls[2];
    assert!(matches!(first.end, End::Cancelled), "{:?}", first.end);
}
