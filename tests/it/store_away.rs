//! Bad days of the store: a Redis that forgets, restarts, goes away, comes late.

use std::net::TcpListener;
use std::time::Duration;

use tollgate::clock;
use tonic_health::pb::health_check_response::ServingStatus::{NotServing, Serving};

use crate::lifecycle::{CONFIG, SOON, asked, config, remaining, until_decided};
use crate::support::http;
use crate::support::process::PATIENCE;
use crate::support::redis::RedisServer;
use crate::support::rls::{Client, admitted, ask, channel, connect, health, until_health};
use crate::support::served::{Ran, Tollgate, run, tollgate};

/// Something that is done to a Redis.
type Way = fn(&RedisServer);

/// Looks until `/metrics` says that the store answers, or that it does not.
async fn until_up(tollgate: &Tollgate, up: bool) {
    let wanted = format!("tollgate_store_up {}", u8::from(up));
    let begun = clock::instant();
    while !http::send(tollgate.http, "GET", "/metrics", b"")
        .await
        .body
        .contains(&wanted)
    {
        assert!(begun.elapsed() < PATIENCE, "no {wanted}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_redis_forgot_are_brought_back_unnoticed() {
    let redis = RedisServer::start();
    let (config, store) = (config(CONFIG), format!("--store={}", redis.url()));
    let tollgate = Tollgate::serve(&[&config.flag, &store, "--store-timeout=5s"]);
    let client = connect(&tollgate).await;
    let mut left = remaining(&until_decided(&client, "deny").await).unwrap();
    for _ in 0..5 {
        redis.command::<()>(&["SCRIPT", "FLUSH"]);
        left -= 1;
        assert_eq!(remaining(&ask(&client, asked("deny")).await), Some(left));
    }
    assert_eq!(tollgate.lines_with("WARN"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_restarted_is_found_again() {
    let redis = RedisServer::start();
    let (config, store) = (config(CONFIG), format!("--store={}", redis.url()));
    let tollgate = Tollgate::serve(&[&config.flag, &store, "--store-timeout=5s"]);
    let client = connect(&tollgate).await;
    until_decided(&client, "deny").await;
    // Nobody asked while it was away, and so nobody notices that it was.
    for _ in 0..3 {
        redis.restart();
        let answer = ask(&client, asked("deny")).await;
        assert_eq!(remaining(&answer), Some(999_999));
    }
    assert_eq!(tollgate.lines_with("did not answer"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_each_limit_answers_its_own_way_and_soon() {
    let redis = RedisServer::start();
    let (config, store) = (config(CONFIG), format!("--store={}", redis.url()));
    let tollgate = Tollgate::serve(&[&config.flag, &store]);
    let connection = channel(tollgate.grpc).await;
    let client = Client::new(connection.clone());
    until_health(&connection, Serving).await;

    let ways: [(Way, Way); 2] = [
        (RedisServer::stop, RedisServer::restart),
        (RedisServer::pause, RedisServer::resume),
    ];
    for (gone, back) in ways {
        until_decided(&client, "deny").await;
        gone(&redis);
        let begun = clock::instant();
        for _ in 0..20 {
            for (key, passes) in [("allow", true), ("deny", false)] {
                let began = clock::instant();
                let answer = ask(&client, asked(key)).await;
                let took = began.elapsed();
                assert_eq!(admitted(&answer), passes, "{key}");
                assert_eq!(remaining(&answer), None);
                assert!(took < SOON, "{key} took {took:?}");
            }
        }
        // If it called itself unready, Envoy would have nobody to ask, and `deny` no voice.
        until_up(&tollgate, false).await;
        assert_eq!(health(&connection).await, Serving);

        // Many at once are many answers, and few lines: one a second and what readiness says.
        let before = tollgate.lines_with("WARN");
        let burst = (0..1_000).flat_map(|_| ["allow", "deny"]);
        let calls: tokio::task::JoinSet<bool> = burst
            .map(|key| {
                let client = client.clone();
                async move { admitted(&ask(&client, asked(key)).await) == (key == "allow") }
            })
            .collect();
        assert!(calls.join_all().await.into_iter().all(|right| right));
        let lines = tollgate.lines_with("WARN") - before;
        let seconds = begun.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        let per_second = lines as f64 / (seconds + 1.0);
        assert!(per_second <= 3.0, "{lines} warnings in {seconds:.1} s");
        assert!(tollgate.lines_with("did not answer") > 0);

        back(&redis);
        until_up(&tollgate, true).await;
        until_decided(&client, "deny").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_later_is_waited_for() {
    let redis = RedisServer::start();
    redis.stop();
    let (config, store) = (config(CONFIG), format!("--store={}", redis.url()));
    let tollgate = Tollgate::serve(&[&config.flag, &store]);
    let connection = channel(tollgate.grpc).await;
    assert_eq!(health(&connection).await, NotServing);
    let client = Client::new(connection.clone());
    assert!(!admitted(&ask(&client, asked("deny")).await));
    redis.restart();
    until_health(&connection, Serving).await;
    until_decided(&client, "deny").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_password_of_the_store_is_shown_to_nobody() {
    const PASSWORD: &str = "hunter2sesame";
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let config = config(CONFIG);
    let store = format!("redis://me:{PASSWORD}@{nobody}");
    let mut serving = Tollgate::serve(&[&config.flag, "--store", &store, "--log-level=trace"]);
    let client = connect(&serving).await;
    assert!(!admitted(&ask(&client, asked("deny")).await));
    serving.wait_for_line(|line| line.contains("the store does not answer"));
    serving.signal("-INT");
    serving.ended(PATIENCE);
    assert!(!serving.log().contains(PASSWORD), "{}", serving.log());

    // The right scheme with a wrong rest, a wrong scheme, and none at all.
    for wrong in [
        "redis://me:{}@h:port",
        "redis://me:{}@",
        "valkey://me:{}@h",
        "me:{}@h",
    ] {
        let store = wrong.replace("{}", PASSWORD);
        for ran in [
            run(&[
                "serve",
                "--store",
                &store,
                "--grpc-addr=127.0.0.1:0",
                "--http-addr=127.0.0.1:0",
            ]),
            Ran::of(
                tollgate()
                    .args([
                        "serve",
                        "--grpc-addr=127.0.0.1:0",
                        "--http-addr=127.0.0.1:0",
                    ])
                    .env("TOLLGATE_STORE", &store),
            ),
        ] {
            assert_eq!(ran.code, Some(2), "{wrong}: {ran:?}");
            assert!(ran.err.contains("--store"), "{wrong}: {}", ran.err);
            let shown = ran.out + &ran.err;
            assert!(!shown.contains(PASSWORD), "{wrong}: {shown}");
        }
    }
    let help = Ran::of(
        tollgate()
            .args(["serve", "--help"])
            .env("TOLLGATE_STORE", &store),
    );
    assert_eq!(help.code, Some(0));
    assert!(!help.out.contains(PASSWORD), "{}", help.out);
}
