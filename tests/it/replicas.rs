//! Many replicas, one limit: what all of them admit together is the limit, to the last hit.
//!
//! Up to 2,000 calls are under way at one moment, from 16 connections spread over the replicas.
//! The limits refill so slowly that nothing comes back while a test runs.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test's scaffolding fails the test where it stands"
)]

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::support::http;
use crate::support::http::metric;
use crate::support::process::PATIENCE;
use crate::support::redis::RedisServer;
use crate::support::rls::{Client, admitted, ask, connect, descriptor, request};
use crate::support::served::Tollgate;

const LIMIT: u64 = 500;
const CALLS: usize = 2_000;
/// Where the limit is reached sooner, or was reached in another way before.
const FEWER: usize = 600;
const CONNECTIONS: usize = 16;

/// The same limit as a bucket and as a budget, told apart by the value. A store that is slow must
/// not make callers pass.
const CONFIG: &str = "
domain: fleet
defaults: { on_store_error: deny }
descriptors:
  - key: pool
    limits: [{ name: pool, rate: 500/year, cost: hits }]
  - key: leased
    limits: [{ name: leased, rate: 500/year, cost: hits, lease: { max: 50 } }]
  - key: leased budget
    limits:
      - { name: leased budget, rate: 500/year, algorithm: fixed_window, cost: hits, lease: { max: 50 } }
  - key: budget
    rate_limit: { unit: year, requests_per_unit: 500 }
  - key: watched
    limits:
      - { name: watched, rate: 500/year, algorithm: fixed_window, timezone: Asia/Tokyo, cost: hits,
          alert_at: [0.5, 0.9, 1] }
";

struct Fleet {
    replicas: Vec<Tollgate>,
    clients: Vec<Client>,
    _files: TempDir,
}

impl Fleet {
    async fn start(replicas: usize, store: &str) -> Self {
        Self::start_with(replicas, store, &[]).await
    }

    async fn start_with(replicas: usize, store: &str, flags: &[&str]) -> Self {
        let files = tempfile::tempdir().unwrap();
        let config = files.path().join("fleet.yaml");
        std::fs::write(&config, CONFIG).unwrap();
        let config = format!("--config={}", config.display());
        let store = format!("--store={store}");
        // Each answer has to come from the store, however busy the machine is.
        let mut all = vec![&*config, &*store, "--store-timeout=15s", "--drain-delay=0s"];
        all.extend(flags);
        let replicas: Vec<Tollgate> = (0..replicas).map(|_| Tollgate::serve(&all)).collect();
        let mut clients = Vec::new();
        for replica in replicas.iter().cycle().take(CONNECTIONS) {
            clients.push(connect(replica).await);
        }
        Self {
            replicas,
            clients,
            _files: files,
        }
    }

    /// How many of so many calls are admitted, each costing `addend`.
    async fn admitted(
        &self,
        calls: usize,
        (key, value): (&'static str, &'static str),
        addend: u64,
    ) -> usize {
        let under_way = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let mut asking = JoinSet::new();
        for client in self.clients.iter().cycle().take(calls) {
            let client = client.clone();
            let (under_way, most) = (Arc::clone(&under_way), Arc::clone(&most));
            asking.spawn(async move {
                let asked = request("fleet", [descriptor(&[(key, value)], Some(addend))]);
                let now = under_way.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                let answer = ask(&client, asked).await;
                under_way.fetch_sub(1, Ordering::SeqCst);
                admitted(&answer)
            });
        }
        let answers = asking.join_all().await;
        assert_eq!(answers.len(), calls);
        let most = most.load(Ordering::SeqCst);
        assert!(most > calls / 4, "only {most} calls were under way at once");
        answers.into_iter().filter(|admitted| *admitted).count()
    }

    /// What all calls on one connection after another are answered.
    async fn all_refuse(&self, key: &str, value: &str, addend: u64) {
        for client in &self.clients {
            let asked = request("fleet", [descriptor(&[(key, value)], Some(addend))]);
            let answer = ask(client, asked).await;
            assert!(!admitted(&answer), "admitted after all was spent");
        }
    }
}

fn exactly(cost: u64) -> usize {
    usize::try_from(LIMIT / cost).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_replicas_on_one_redis_admit_the_limit_and_no_more() {
    let redis = RedisServer::start();
    let fleet = Fleet::start(4, &redis.url()).await;
    redis.command::<()>(&["CONFIG", "RESETSTAT"]);
    assert_eq!(fleet.admitted(CALLS, ("pool", "ones"), 1).await, exactly(1));

    // The replicas did meet: Redis got fewer calls than were made, from every one of them.
    let calls = script_calls(&redis);
    assert!(
        (4..CALLS).contains(&calls),
        "{calls} scripts for {CALLS} calls"
    );
    assert!(connected(&redis) >= fleet.replicas.len());

    assert_eq!(
        fleet.admitted(FEWER, ("pool", "sevens"), 7).await,
        exactly(7)
    );
    assert_eq!(
        fleet.admitted(FEWER, ("budget", "ones"), 1).await,
        exactly(1)
    );
    assert_eq!(
        fleet.admitted(FEWER, ("budget", "sevens"), 7).await,
        exactly(7)
    );

    // What is left of 500 after 71 sevens is three: enough for three ones, from any replica.
    let mut ones = 0;
    for client in &fleet.clients {
        let asked = request("fleet", [descriptor(&[("pool", "sevens")], Some(1))]);
        ones += usize::from(admitted(&ask(client, asked).await));
    }
    assert_eq!(ones, 3);
    fleet.all_refuse("pool", "ones", 1).await;
    fleet.all_refuse("budget", "ones", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_of_replicas_let_in_no_more_than_the_limit_and_go_back_when_they_leave() {
    /// What each may hold.
    const MAX: usize = 50;

    let redis = RedisServer::start();
    let mut fleet = Fleet::start(4, &redis.url()).await;
    let one = || request("fleet", [descriptor(&[("leased", "a")], Some(1))]);
    // One after the other, so that leases come before the limit is reached.
    let mut let_in = 0;
    for client in fleet.clients.iter().cycle().take(200) {
        let_in += usize::from(admitted(&ask(client, one()).await));
    }
    assert_eq!(let_in, 200);
    let_in += fleet.admitted(CALLS, ("leased", "a"), 1).await;
    assert!(let_in <= exactly(1), "{let_in}");
    assert!(let_in >= exactly(1) - 4 * MAX, "{let_in}");
    let mut granted = 0;
    for replica in &fleet.replicas {
        let page = http::send(replica.http, "GET", "/metrics", b"").await.body;
        granted += metric(&page, "tollgate_lease_grants_total");
    }
    assert!(granted > 0, "no lease was used");

    for replica in fleet.replicas.iter_mut().skip(1) {
        replica.signal("-TERM");
        assert!(replica.ended(PATIENCE).success());
    }
    let client = connect(&fleet.replicas[0]).await;
    while admitted(&ask(&client, one()).await) {
        let_in += 1;
    }
    assert_eq!(let_in, exactly(1), "{granted} by leases");
}

/// The same as without leases, but for what others hold while all ask at once; and when that has gone
/// back, exactly the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_replicas_with_leases_admit_the_limit_less_what_they_hold_and_in_the_end_all_of_it() {
    /// What each may hold.
    const MAX: u64 = 50;

    let redis = RedisServer::start();
    let fleet = Fleet::start(4, &redis.url()).await;
    for key in ["leased", "leased budget"] {
        for (value, cost) in [("ones", 1), ("sevens", 7)] {
            // One after the other first, so that leases come before the limit is reached.
            let mut let_in = 0;
            for client in fleet.clients.iter().cycle().take(exactly(cost) / 2) {
                let asked = request("fleet", [descriptor(&[(key, value)], Some(cost))]);
                let_in += usize::from(admitted(&ask(client, asked).await));
            }
            assert_eq!(let_in, exactly(cost) / 2, "{key} {value}");
            let_in += fleet.admitted(FEWER, (key, value), cost).await;
            assert!(let_in <= exactly(cost), "{key} {value}: {let_in}");
            let least = (LIMIT - 4 * MAX) / cost;
            assert!(
                let_in >= usize::try_from(least).unwrap(),
                "{key} {value}: {let_in}"
            );

            // What is held goes back when it has ended, and whoever asks has it.
            let until = tokio::time::Instant::now() + PATIENCE;
            while let_in < exactly(cost) {
                assert!(
                    tokio::time::Instant::now() < until,
                    "{key} {value}: {let_in}"
                );
                let_in += fleet.admitted(CONNECTIONS, (key, value), cost).await;
            }
            assert_eq!(let_in, exactly(cost), "{key} {value}");
            fleet.all_refuse(key, value, cost).await;
        }
    }
    let mut granted = 0;
    for replica in &fleet.replicas {
        let page = http::send(replica.http, "GET", "/metrics", b"").await.body;
        granted += metric(&page, "tollgate_lease_grants_total");
    }
    assert!(granted > 0, "no lease was used");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_go_back_though_a_call_does_not_end() {
    let redis = RedisServer::start();
    let flags = ["--drain-timeout=200ms"];
    let mut leaving = Fleet::start_with(1, &redis.url(), &flags).await;
    let one = || request("fleet", [descriptor(&[("leased", "a")], Some(1))]);
    let mut let_in = 0;
    for _ in 0..100 {
        let_in += usize::from(admitted(&ask(&leaving.clients[0], one()).await));
    }
    let replica = &mut leaving.replicas[0];
    let page = http::send(replica.http, "GET", "/metrics", b"").await.body;
    assert!(metric(&page, "tollgate_lease_grants_total") > 0);

    let mut unfinished = TcpStream::connect(replica.http).unwrap();
    let head = b"POST /v1/release HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n";
    unfinished.write_all(head).unwrap();
    replica.signal("-TERM");
    assert!(replica.ended(PATIENCE).success());
    assert_eq!(replica.lines_with("did not finish"), 1);
    drop(unfinished);

    let other = Fleet::start(1, &redis.url()).await;
    while admitted(&ask(&other.clients[0], one()).await) {
        let_in += 1;
    }
    assert_eq!(let_in, exactly(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_in_memory_admits_the_limit_and_no_more() {
    let fleet = Fleet::start(1, "memory").await;
    assert_eq!(fleet.admitted(CALLS, ("pool", "ones"), 1).await, exactly(1));
    assert_eq!(
        fleet.admitted(FEWER, ("pool", "sevens"), 7).await,
        exactly(7)
    );
    assert_eq!(
        fleet.admitted(FEWER, ("budget", "ones"), 1).await,
        exactly(1)
    );
    assert_eq!(
        fleet.admitted(FEWER, ("budget", "sevens"), 7).await,
        exactly(7)
    );
    fleet.all_refuse("pool", "ones", 1).await;
}

/// How many scripts Redis ran.
fn script_calls(redis: &RedisServer) -> usize {
    let stats: String = redis.command(&["INFO", "commandstats"]);
    stats
        .lines()
        .find_map(|line| {
            let (_, rest) = line
                .strip_prefix("cmdstat_evalsha:")?
                .split_once("calls=")?;
            rest.split_once(',')?.0.parse().ok()
        })
        .unwrap_or_else(|| panic!("no scripts in {stats}"))
}

/// How many connections there are of those that count.
fn connected(redis: &RedisServer) -> usize {
    let clients: String = redis.command(&["CLIENT", "LIST"]);
    let last = ["evalsha", "eval", "ping"].map(|name| format!("cmd={name} "));
    let ours = |line: &&str| last.iter().any(|last| line.contains(last));
    clients.lines().filter(ours).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_replica_tells_that_a_share_of_a_budget_was_crossed() {
    let redis = RedisServer::start();
    let fleet = Fleet::start(3, &redis.url()).await;
    assert_eq!(fleet.admitted(FEWER, ("watched", "a"), 1).await, exactly(1));
    let mut alerts = [0; 3];
    for replica in &fleet.replicas {
        let page = http::send(replica.http, "GET", "/metrics", b"").await.body;
        for (sum, threshold) in alerts.iter_mut().zip(["0.5", "0.9", "1"]) {
            let labels = format!("domain=\"fleet\",limit=\"watched\",threshold=\"{threshold}\"");
            *sum += metric(&page, &format!("tollgate_budget_alerts_total{{{labels}}}"));
        }
    }
    assert_eq!(alerts, [1, 1, 1]);
}
