//! A hundred thousand calls, of which three in ten are abandoned somewhere: after the hold time
//! nothing is left of any of them.
#![expect(
    clippy::unwrap_used,
    reason = "a test's scaffolding fails the test where it stands"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tollgate::metrics::Metrics;
use tollgate::service::{Options, Service};
use tollgate::store::{Redis, Store, redis};
use tollgate::usage::Reported;

use crate::support::limiter::{metadata, parse, request, target};
use crate::support::process::until;
use crate::support::redis::RedisServer;

const CALLS: usize = 100_000;
const AT_ONCE: usize = 512;
/// Long enough for a call, short enough to be over when the last has ended.
const HOLD_TIME: Duration = Duration::from_millis(500);

const CONFIG: &str = "
domain: llm
descriptors:
  - key: tenant
    limits:
      - { name: requests, rate: 1G/second }
      - { name: tokens, rate: 1G/second, cost: tokens, estimate: 800 }
";

fn service(url: &str) -> Service {
    let options = redis::Options {
        deadline: Duration::from_secs(20),
        ..redis::Options::new(url)
    };
    let store = Store::Redis(Redis::start(options).unwrap());
    let hold_time = HOLD_TIME;
    let service = Service::new(store, Metrics::new().unwrap(), Options { hold_time });
    let domains = [("llm".to_owned(), Arc::new(parse(CONFIG)))];
    service.install(&BTreeMap::from(domains));
    service
}

/// One call from its admission to its end, or to where it is abandoned.
async fn call(service: Service, number: usize) {
    let tenant = format!("tenant=t{}", number % 100);
    let asked = request(&[&tenant]);
    let point = if number % 10 < 3 { number / 10 % 5 } else { 5 };
    // Polled once, and then its caller is gone.
    let gone = Duration::ZERO;
    if point == 0 {
        drop(timeout(gone, service.should_rate_limit(&asked)).await);
        return;
    }
    let answer = service.should_rate_limit(&asked).await.unwrap();
    let id = metadata(&answer, "reservation").unwrap();
    let used = Reported::of_measures([Some(11), None, None, Some(31)]);
    let nowhere = target(&[]);
    match point {
        1 => {}
        2 => drop(service.progress("llm", id, used).await.unwrap()),
        3 => drop(timeout(gone, service.progress("llm", id, used)).await),
        4 => drop(timeout(gone, service.settle(id, used, &nowhere)).await),
        _ => drop(service.settle(id, used, &nowhere).await.unwrap()),
    }
}

async fn calls(services: &[Service], count: usize) {
    let free = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for (number, service) in services.iter().cycle().take(count).enumerate() {
        let turn = Arc::clone(&free).acquire_owned().await.unwrap();
        let service = service.clone();
        running.spawn(async move {
            call(service, number).await;
            drop(turn);
        });
        while let Some(done) = running.try_join_next() {
            done.unwrap();
        }
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
}

/// What Redis uses once no reservation is left in it.
fn memory_without_holds(server: &RedisServer) -> u64 {
    until("no reservation is left", || {
        let left = server.keys("tollgate:r:");
        left.is_empty().then_some(())
    });
    server.memory_used()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_calls_that_are_abandoned_anywhere_nothing_is_left() {
    let server = RedisServer::start();
    let services = [service(&server.url()), service(&server.url())];
    // Once all there is was touched: buckets, the scripts, the buffers of connections.
    calls(&services, 5000).await;
    let before = memory_without_holds(&server);
    calls(&services, CALLS).await;
    for service in &services {
        service.finish_reports().await;
    }
    // Each that leaked would be some 400 bytes: thirty thousand are 12 MB.
    until("memory is back at what it was", || {
        let after = memory_without_holds(&server);
        (after < before + 300_000).then_some(())
    });
    // The buckets, the count of the open ones, and how far the buckets were looked through.
    let keys = server.keys("tollgate:");
    assert!(keys.len() <= 3, "{keys:?}");
}
