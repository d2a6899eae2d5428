//! A client that hangs up while its admission is pending leaves nothing behind.

use std::sync::Arc;

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::stage::{Stage, chat, levels};
use crate::support::process::until;
use crate::support::redis::RedisServer;
use crate::support::tap::End;

const AZURE: &str = "azure-eastus-gpt-4o";

#[test]
fn an_admission_that_nobody_waits_for_gives_back_what_it_charged() {
    // Of its own: it is stopped in the middle.
    let redis = Arc::new(RedisServer::start());
    let stage = Stage::settle_on(Arc::clone(&redis));
    assert_eq!(stage.ask(&chat("warm", false)).status, 200);
    stage.calls(2);
    let deployment = stage.levels("deployment", AZURE);
    let scripts = scripts_run(&redis);

    // Redis takes the charge, but does not do it yet.
    let _: () = redis.command(&["CLIENT", "PAUSE", "60000", "WRITE"]);
    let client = chat("gone", false).send(stage.envoy.port).unwrap();
    until("the charge waits in redis", || {
        let clients: String = redis.command(&["CLIENT", "LIST"]);
        let waits = |line: &str| line.contains("flags=b") && line.contains("cmd=evalsha");
        clients.lines().any(waits).then_some(())
    });
    drop(client);
    let call = until("envoy has cancelled the admission", || {
        let call = stage.calls_so_far().get(2).cloned()?;
        matches!(call.end, End::Cancelled).then_some(call)
    });
    // What Tollgate answers on the same connection after the cancellation, it answers knowing it.
    let mut health = HealthClient::new(stage.taps[call.replica].replica.clone());
    for _ in 0..2 {
        let question = HealthCheckRequest::default();
        stage.runtime.block_on(health.check(question)).unwrap();
    }

    let _: () = redis.command(&["CLIENT", "UNPAUSE"]);
    until("redis has charged and given back", || {
        (scripts_run(&redis) >= scripts + 2).then_some(())
    });
    let full = levels([
        ("requests", 100),
        ("input", 1_000_000),
        ("cache-read", 1_000_000),
        ("cache-write", 1_000_000),
        ("output", 1_000_000),
    ]);
    assert_eq!(stage.levels("tenant", "gone"), full);
    assert_eq!(stage.levels("deployment", AZURE), deployment);

    // Nor did the request go on without its client.
    assert_eq!(stage.upstream.requests(), 1);
    assert_eq!(stage.ask(&chat("later", false)).status, 200);
    let calls = stage.calls(2 + 1 + 2);
    assert_eq!(calls[2].descriptors()[0], "tenant=gone");
    assert_eq!(calls[3].descriptors()[0], "tenant=later");
}

/// How often a script was run. Only decisions and reports run one by its hash.
fn scripts_run(redis: &RedisServer) -> u64 {
    let statistics: String = redis.command(&["INFO", "commandstats"]);
    statistics
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="))
        .and_then(|rest| rest.split(',').next()?.parse().ok())
        .unwrap_or(0)
}
