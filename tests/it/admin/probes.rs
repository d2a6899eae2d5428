//! Probes, metrics, and the list of endpoints.

use serde_json::json;
use tokio::net::TcpListener;
use tollgate::clock::{Clock, ManualClock};
use tollgate::store::{Memory, Store};

use super::fixture::{Edge, START};
use crate::support::http;

/// Status and body of `/readyz`, then of `/healthcheck`.
async fn health(edge: &Edge) -> [(u16, String); 2] {
    let ready = edge.get("/readyz").await;
    let healthcheck = edge.get("/healthcheck").await;
    [ready, healthcheck].map(|reply| (reply.status, reply.body))
}

fn unready(reason: &str) -> [(u16, String); 2] {
    [(503, reason.to_owned()), (500, String::new())]
}

#[tokio::test]
async fn a_process_is_healthy_from_its_rules_to_its_drain() {
    let clock = ManualClock::new(START);
    let memory = Memory::new(Clock::Manual(clock.clone()));
    let edge = Edge::on(Store::Memory(memory), clock).await;
    let no_rules = "no rate limit configuration loaded";
    let starting = format!("starting: {no_rules}");
    assert_eq!(health(&edge).await, unready(&starting));
    edge.health.ready();
    assert_eq!(health(&edge).await, unready(no_rules));
    edge.service.install(&super::fixture::domains());
    let healthy = [(200, "ready".to_owned()), (200, "OK".to_owned())];
    assert_eq!(health(&edge).await, healthy);
    for method in ["POST", "PUT", "HEAD"] {
        let reply = http::send(edge.address, method, "/healthcheck", b"").await;
        assert_eq!(reply.status, 200, "{method}");
    }
    edge.health.drain();
    assert_eq!(health(&edge).await, unready("draining"));
    assert_eq!(edge.get("/livez").await.status, 200);
}

#[tokio::test]
async fn a_process_is_not_ready_before_it_says_so() {
    let clock = ManualClock::new(START);
    let memory = Memory::new(Clock::Manual(clock.clone()));
    let edge = Edge::on(Store::Memory(memory), clock).await;
    edge.service.install(&super::fixture::domains());
    assert_eq!(health(&edge).await, unready("starting"));
}

#[tokio::test]
async fn a_store_that_hangs_fails_the_probe_instead_of_hanging_it() {
    // Takes connections and never answers.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let edge = Edge::on_redis(mute.local_addr().unwrap()).await;
    let [(status, reason), healthcheck] = health(&edge).await;
    assert_eq!(
        (status, reason.as_str()),
        (503, "the store does not answer")
    );
    assert_eq!(healthcheck, (500, String::new()));
    assert_eq!(edge.get("/livez").await.status, 200);
}

#[tokio::test]
async fn metrics_count_what_the_api_did() {
    let edge = Edge::start().await;
    let reserve = json!({ "domain": "llm", "descriptors": [{ "tenant": "acme" }], "id": "r1" });
    edge.ok("/v1/reserve", &reserve).await;
    let reply = edge.get("/metrics").await;
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.header("content-type"),
        Some("text/plain; version=0.0.4")
    );
    for line in [
        "tollgate_hits_total{domain=\"llm\",limit=\"tenant-tokens\",result=\"admitted\"} 800",
        "tollgate_reservations_opened_total 1",
    ] {
        assert!(
            reply.body.lines().any(|known| known == line),
            "{line}\n{}",
            reply.body
        );
    }
}

#[tokio::test]
async fn the_list_names_only_what_is_there() {
    let edge = Edge::start().await;
    let list = edge.get("/").await;
    assert_eq!(list.status, 200);
    let mut listed = 0;
    for line in list.body.lines() {
        let mut words = line.split_whitespace();
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let reply = http::send(edge.address, method, path, b"").await;
        assert!(![404, 405].contains(&reply.status), "{line}");
        listed += 1;
    }
    assert_eq!(listed, 12);
}
