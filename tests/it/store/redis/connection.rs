//! Connecting, and connecting again.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use tollgate::limit::Limit;
use tollgate::store::{Redis, StoreError, Verdict, redis::Options};

use super::eventually;
use crate::store::fixture::{Fixture, MINUTE, PATIENT, admission, charge, token_bucket};
use crate::support::gate::Gate;
use crate::support::redis::RedisServer;
use crate::support::tasks::in_order;

fn limit() -> Limit {
    token_bucket(1, MINUTE, 1000)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_while_idle_is_invisible_once_the_server_is_back() {
    let fixture = Fixture::redis_on(Arc::new(RedisServer::start()), |_| ());
    assert!(fixture.admits("a", limit(), 600).await);
    for _ in 0..3 {
        fixture.server().restart();
        for _ in 0..10 {
            assert!(fixture.admits("a", limit(), 60).await);
        }
        // What the old server held is lost, and only that.
        assert_eq!(fixture.spent("a", limit()).await, 600);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_goes_away_is_an_error_until_it_is_back() {
    let fixture = Fixture::redis_on(Arc::new(RedisServer::start()), |_| ());
    assert!(fixture.admits("a", limit(), 1).await);
    fixture.server().stop();
    for _ in 0..3 {
        let outcome = fixture
            .store
            .admit(admission([charge("a", limit(), 1)]))
            .await;
        assert_eq!(outcome.unwrap_err().kind(), "connection");
        assert_eq!(fixture.store.ping().await.unwrap_err().kind(), "connection");
        assert_eq!(
            fixture.store.count_holds().await.unwrap_err().kind(),
            "connection"
        );
    }
    fixture.server().restart();
    eventually("an answer", || async { fixture.store.ping().await.is_ok() }).await;
    for _ in 0..10 {
        assert!(fixture.admits("a", limit(), 1).await);
    }
}

#[tokio::test]
async fn no_server_is_an_error_at_once() {
    let closed = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let store = Redis::start(Options {
        deadline: PATIENT,
        ..Options::new(format!("redis://127.0.0.1:{port}"))
    });
    let store = store.unwrap();
    let begun = tollgate::clock::instant();
    for _ in 0..100 {
        let outcome = store.admit(admission([charge("a", limit(), 1)])).await;
        assert_eq!(outcome.unwrap_err().kind(), "connection");
    }
    assert!(begun.elapsed() < PATIENT / 2);
}

#[tokio::test]
async fn a_connection_that_takes_longer_than_a_deadline_is_made_once_and_used() {
    let fixture = Fixture::redis();
    let gate = Gate::before(fixture.server().port()).await;
    gate.close();
    let store = fixture.another_client_with(|options| {
        options.url = format!("redis://127.0.0.1:{}", gate.port()).into();
        options.deadline = Duration::from_millis(20);
    });
    for _ in 0..3 {
        let outcome = store.admit(admission([charge("a", limit(), 1)])).await;
        assert_eq!(outcome, Err(StoreError::Timeout));
    }
    gate.open();
    eventually("an answer", || async {
        store
            .admit(admission([charge("b", limit(), 1)]))
            .await
            .is_ok()
    })
    .await;
    assert_eq!(gate.connections(), 1);
    eventually("what was asked too early is given back", || async {
        fixture.spent("a", limit()).await == 0
    })
    .await;
}

#[tokio::test]
async fn what_is_no_redis_url_is_rejected_without_its_password() {
    for url in [
        "",
        "nonsense",
        "http://:hunter2@127.0.0.1:6379",
        "redis://:hunter2@127.0.0.1:port",
        "redis://user:hunter2@",
    ] {
        let error = Redis::start(Options::new(url)).unwrap_err();
        assert_eq!(error.kind(), "rejected", "{url}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn a_password_is_used_and_never_shown() {
    let server = Arc::new(RedisServer::start());
    let url = |password| format!("redis://:{password}@127.0.0.1:{}", server.port()).into();
    server.command::<()>(&["CONFIG", "SET", "requirepass", "hunter2"]);
    let mut shown = Vec::new();
    let fixture = Fixture::redis_on(Arc::clone(&server), |options| {
        options.url = url("hunter2");
        shown.push(format!("{options:?}"));
    });
    assert!(fixture.admits("a", limit(), 1).await);
    shown.push(format!("{:?}", fixture.store));
    let intruder = fixture.another_client_with(|options| options.url = url("hunter3"));
    let error = intruder
        .admit(admission([charge("a", limit(), 1)]))
        .await
        .unwrap_err();
    shown.push(format!("{error} {error:?} {intruder:?}"));
    let shown = shown.concat();
    assert!(
        shown.contains("Options") && shown.contains("Redis"),
        "{shown}"
    );
    assert!(!shown.contains("hunter"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_restarts_under_load_is_found_again() {
    let fixture = Arc::new(Fixture::redis_on(Arc::new(RedisServer::start()), |_| ()));
    let asking = tokio::spawn({
        let fixture = Arc::clone(&fixture);
        async move {
            let mut failed = false;
            // Until it has failed and works again.
            loop {
                let asks = (0..10).map(|_| {
                    let asked = admission([charge("a", limit(), 1)]);
                    fixture.store.admit(asked)
                });
                let outcomes = in_order(asks).await;
                let errors = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
                let errors: Vec<_> = errors.map(StoreError::kind).collect();
                assert!(errors.iter().all(|kind| *kind == "connection"));
                if failed && errors.is_empty() {
                    return outcomes.into_iter().map(Result::unwrap).next_back();
                }
                failed |= !errors.is_empty();
            }
        }
    });
    fixture.server().restart();
    let last = tokio::time::timeout(PATIENT, asking)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(last.unwrap().verdict, Verdict::Admitted);
}
