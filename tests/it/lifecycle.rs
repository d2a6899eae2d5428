//! Beginning and leaving: signals, ports that are taken, files that are wrong.
//!
//! The limits in these tests refill so slowly that every hit which was counted stays counted.
#![expect(
    clippy::unwrap_used,
    reason = "a test's scaffolding fails the test where it stands"
)]

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use tempfile::TempDir;
use tollgate::clock;
use tonic::transport::Channel;
use tonic_health::pb::health_check_response::ServingStatus::{self, NotServing, Serving};

use crate::support::gate::Gate;
use crate::support::http;
use crate::support::process::PATIENCE;
use crate::support::redis::RedisServer;
use crate::support::rls::{
    Client, admitted, ask, channel, connect, descriptor, health, health_of, limit_of, request,
    until_health,
};
use crate::support::served::{Tollgate, run};

/// A limit that lets pass, and one that refuses, while the store is away.
pub(crate) const CONFIG: &str = "
domain: life
descriptors:
  - key: allow
    limits: [{ name: allow, rate: 1M/year, cost: requests, on_store_error: allow }]
  - key: deny
    limits: [{ name: deny, rate: 1M/year, cost: requests, on_store_error: deny }]
";

/// An answer is due within the 15 ms that a decision waits for the store. The rest is for a busy
/// machine; whoever waits for the store's connection or response waits much longer.
pub(crate) const SOON: Duration = Duration::from_millis(500);

/// The names that load balancers and orchestrators ask health for.
const HEALTH_NAMES: [&str; 6] = [
    "",
    "ratelimit",
    "envoy.service.accesslog.v3.AccessLogService",
    "envoy.service.ext_proc.v3.ExternalProcessor",
    "envoy.service.ratelimit.v3.RateLimitService",
    "tollgate.v1.Tollgate",
];

pub(crate) struct Config {
    pub(crate) flag: String,
    _files: TempDir,
}

pub(crate) fn config(text: &str) -> Config {
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("life.yaml");
    std::fs::write(&file, text).unwrap();
    Config {
        flag: format!("--config={}", file.display()),
        _files: files,
    }
}

pub(crate) fn asked(key: &str) -> RateLimitRequest {
    request("life", [descriptor(&[(key, "x")], None)])
}

/// How much is left; `None` where no store said so.
pub(crate) fn remaining(answer: &RateLimitResponse) -> Option<u32> {
    limit_of(&answer.statuses[0]).map(|_| answer.statuses[0].limit_remaining)
}

/// What gRPC health says under each of its names.
async fn healths(connection: &Channel) -> [ServingStatus; 6] {
    let mut said = [ServingStatus::Unknown; 6];
    for (said, name) in said.iter_mut().zip(HEALTH_NAMES) {
        *said = health_of(connection, name).await;
    }
    said
}

/// Looks until `/readyz` and `/healthcheck` answer with these.
async fn until_probes(tollgate: &Tollgate, wanted: [(u16, &str); 2]) {
    let begun = clock::instant();
    loop {
        let ready = http::send(tollgate.http, "GET", "/readyz", b"").await;
        let check = http::send(tollgate.http, "GET", "/healthcheck", b"").await;
        let found = [&ready, &check].map(|reply| (reply.status, reply.body.as_str()));
        if found == wanted {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{found:?}, not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Asks until the store decides again.
pub(crate) async fn until_decided(client: &Client, key: &str) -> RateLimitResponse {
    let begun = clock::instant();
    loop {
        let answer = ask(client, asked(key)).await;
        if remaining(&answer).is_some() {
            return answer;
        }
        let waited = begun.elapsed();
        assert!(waited < PATIENCE, "the store was not asked again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_tells_health_at_once_and_goes_on_serving() {
    let config = config(CONFIG);
    let mut tollgate = Tollgate::serve(&[&config.flag, "--drain-delay=1h"]);
    let connection = channel(tollgate.grpc).await;
    let client = Client::new(connection.clone());
    until_health(&connection, Serving).await;

    tollgate.signal("-TERM");
    let begun = clock::instant();
    until_health(&connection, NotServing).await;
    let waited = begun.elapsed();
    assert!(waited < SOON, "health said so after {waited:?}");
    for left in (999_950..1_000_000).rev() {
        let answer = ask(&client, asked("deny")).await;
        assert_eq!(remaining(&answer), Some(left));
    }
    // New connections too: whoever has not heard yet must not be turned away.
    assert!(admitted(
        &ask(&connect(&tollgate).await, asked("deny")).await
    ));
    assert_eq!(health(&connection).await, NotServing);
    let probe = http::send(tollgate.http, "GET", "/readyz", b"").await;
    assert_eq!((probe.status, probe.body.as_str()), (503, "draining"));
    assert!(tollgate.runs());

    // A second one means it: what is left of the hour is not waited for.
    tollgate.signal("-TERM");
    assert_eq!(tollgate.ended(Duration::from_secs(5)).code(), Some(0));
    assert_eq!(tollgate.lines_with("stopped"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_the_same_under_all_its_names_and_over_http() {
    let config = config(CONFIG);
    let tollgate = Tollgate::serve(&[&config.flag, "--drain-delay=1h"]);
    let connection = channel(tollgate.grpc).await;
    let client = Client::new(connection.clone());
    until_health(&connection, Serving).await;
    // Both are moved by one hand, though not at one instant.
    until_probes(&tollgate, [(200, "ready"), (200, "OK")]).await;
    assert_eq!(healths(&connection).await, [Serving; 6]);
    assert!(admitted(&ask(&client, asked("deny")).await));

    tollgate.signal("-TERM");
    let begun = clock::instant();
    until_health(&connection, NotServing).await;
    until_probes(&tollgate, [(503, "draining"), (500, "")]).await;
    while healths(&connection).await != [NotServing; 6] {
        assert!(begun.elapsed() < SOON, "{:?}", healths(&connection).await);
    }
    let waited = begun.elapsed();
    assert!(waited < SOON, "all said so after {waited:?}");
    // It is alive, and answers.
    let alive = http::send(tollgate.http, "GET", "/livez", b"").await;
    assert_eq!(alive.status, 200);
    assert!(admitted(&ask(&client, asked("deny")).await));
    assert_eq!(healths(&connection).await, [NotServing; 6]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_told_at_once_while_redis_keeps_us_waiting() {
    let redis = RedisServer::start();
    let gate = Gate::before(redis.port()).await;
    let config = config(CONFIG);
    let store = format!("--store=redis://127.0.0.1:{}", gate.port());
    let tollgate = Tollgate::serve(&[&config.flag, &store, "--drain-delay=1h"]);
    let connection = channel(tollgate.grpc).await;
    until_health(&connection, Serving).await;
    // Redis is asked every second whether it is there; this time it does not say so.
    gate.close();
    let begun = clock::instant();
    while gate.held_back() == 0 {
        assert!(begun.elapsed() < PATIENCE, "Redis was not asked");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tollgate.signal("-TERM");
    let begun = clock::instant();
    until_health(&connection, NotServing).await;
    let waited = begun.elapsed();
    assert!(waited < SOON, "health said so after {waited:?}");
}

#[test]
fn the_drain_delay_is_waited_for_and_no_longer() {
    let config = config(CONFIG);
    let mut tollgate = Tollgate::serve(&[&config.flag, "--drain-delay=700ms"]);
    tollgate.signal("-TERM");
    let begun = clock::instant();
    let status = tollgate.ended(Duration::from_secs(5));
    let waited = begun.elapsed();
    assert_eq!(status.code(), Some(0));
    assert!(
        waited >= Duration::from_millis(700),
        "ended after {waited:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigint_does_not_wait() {
    let config = config(CONFIG);
    let mut tollgate = Tollgate::serve(&[&config.flag, "--drain-delay=1h"]);
    let client = connect(&tollgate).await;
    assert!(admitted(&ask(&client, asked("deny")).await));
    tollgate.signal("-INT");
    assert_eq!(tollgate.ended(Duration::from_secs(5)).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_under_way_at_the_stop_is_answered() {
    let redis = RedisServer::start();
    let (config, store) = (config(CONFIG), format!("--store={}", redis.url()));
    let mut tollgate = Tollgate::serve(&[&config.flag, &store, "--store-timeout=1s"]);
    let connection = channel(tollgate.grpc).await;
    let client = Client::new(connection.clone());
    until_decided(&client, "deny").await;

    redis.pause();
    let begun = clock::instant();
    let (allowed, refused, ()) = tokio::join!(
        ask(&client, asked("allow")),
        ask(&client, asked("deny")),
        async {
            // On the same connection behind them: when this is answered, they are under way.
            health(&connection).await;
            tollgate.signal("-INT");
        }
    );
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_millis(900), "Redis answered");
    assert!(admitted(&allowed) && !admitted(&refused));
    assert_eq!(remaining(&allowed), None);
    assert_eq!(tollgate.ended(Duration::from_secs(5)).code(), Some(0));
    assert_eq!(tollgate.lines_with("did not finish"), 0);
    redis.resume();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_does_not_end_is_left_after_the_drain_timeout() {
    let redis = RedisServer::start();
    let (config, store) = (config(CONFIG), format!("--store={}", redis.url()));
    let mut tollgate = Tollgate::serve(&[
        &config.flag,
        &store,
        "--store-timeout=1h",
        "--drain-timeout=300ms",
    ]);
    let connection = channel(tollgate.grpc).await;
    let mut client = Client::new(connection.clone());
    until_decided(&client, "deny").await;
    redis.pause();
    let (answer, ()) = tokio::join!(client.should_rate_limit(asked("deny")), async {
        health(&connection).await;
        tollgate.signal("-INT");
    });
    assert!(answer.is_err(), "{answer:?}");
    assert_eq!(tollgate.ended(Duration::from_secs(5)).code(), Some(0));
    assert_eq!(tollgate.lines_with("did not finish"), 1);
    redis.resume();
}

#[test]
fn connections_that_say_nothing_hold_us_up_no_longer_than_the_drain_timeout() {
    let config = config(CONFIG);
    let mut tollgate = Tollgate::serve(&[&config.flag, "--drain-timeout=300ms"]);
    let _silent = TcpStream::connect(tollgate.grpc).unwrap();
    let _silent = TcpStream::connect(tollgate.http).unwrap();
    tollgate.signal("-INT");
    assert_eq!(tollgate.ended(Duration::from_secs(5)).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_have_not_begun_do_not_hold_us_up() {
    let config = config(CONFIG);
    let mut tollgate = Tollgate::serve(&[&config.flag, "--drain-timeout=1h"]);
    let _silent = TcpStream::connect(tollgate.grpc).unwrap();
    let mut half = TcpStream::connect(tollgate.grpc).unwrap();
    half.write_all(b"PRI * HTTP/2.0").unwrap();
    // Accepted after them: so they are, too.
    health(&channel(tollgate.grpc).await).await;
    tollgate.signal("-INT");
    assert_eq!(tollgate.ended(Duration::from_secs(5)).code(), Some(0));
    assert_eq!(tollgate.lines_with("did not finish"), 0);
}

#[test]
fn the_log_says_when_all_connections_are_taken() {
    let config = config(CONFIG);
    let mut tollgate = Tollgate::serve(&[&config.flag]);
    let _all: Vec<TcpStream> = (0..256)
        .map(|_| TcpStream::connect(tollgate.http).unwrap())
        .collect();
    let line = tollgate.wait_for_line(|line| line.contains("all connections are taken"));
    assert!(line.contains(&tollgate.http.to_string()), "{line}");
    assert!(line.contains("WARN"), "{line}");
}

#[test]
fn a_port_that_is_taken_is_told_with_its_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (flag, other) in [
        ("--grpc-addr", "--http-addr"),
        ("--http-addr", "--grpc-addr"),
    ] {
        let ran = run(&["serve", flag, &taken, other, "127.0.0.1:0"]);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        for part in [flag, &taken, "in use"] {
            assert!(ran.err.contains(part), "{part} is not in {}", ran.err);
        }
    }
}

#[test]
fn nothing_is_served_by_a_configuration_with_mistakes() {
    let files = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let file = files.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    write("good.yaml", CONFIG);
    let rate = write(
        "rate.yaml",
        "domain: a\ndescriptors:\n  - key: k\n    limits:\n      - { name: n, rate: 5/fortnight }\n      - { name: m, rate: 5/minute, brust: 7 }\n",
    );
    let syntax = write("syntax.yaml", "domain: b\ndescriptors: [\n");
    let directory = files.path().display().to_string();
    let ran = run(&[
        "serve",
        "--config",
        &directory,
        "--grpc-addr=127.0.0.1:0",
        "--http-addr=127.0.0.1:0",
    ]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    for place in [
        format!("{rate}:5:"),
        format!("{rate}:6:"),
        format!("{syntax}:"),
    ] {
        assert_eq!(ran.err.matches(&place).count(), 1, "{place}: {}", ran.err);
    }
    assert!(!ran.err.contains("listening"), "{}", ran.err);

    let nothing = tempfile::tempdir().unwrap();
    let directory = nothing.path().display().to_string();
    let ran = run(&[
        "serve",
        "--config",
        &directory,
        "--grpc-addr=127.0.0.1:0",
        "--http-addr=127.0.0.1:0",
    ]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.contains("no configuration files"), "{}", ran.err);
}
