//! `estimate: learned` over several replicas: what one of them sees, all of them know.
#![expect(
    clippy::unwrap_used,
    reason = "a test's scaffolding fails the test where it stands"
)]

use std::time::Duration;

use tollgate::clock;

use crate::support::limiter::{Limiter, metadata};
use crate::support::process::PATIENCE;
use crate::support::redis::RedisServer;
use crate::support::rls;
use crate::support::served::Tollgate;

const RULES: &str = "
descriptors:
  - key: tenant
    limits:
      - { name: tokens, rate: 1M/minute, cost: tokens, estimate: learned, cold_start: 70 }
";

const ENOUGH: usize = 20;

/// What a request of tenant `a` is taken to cost by this replica, and its reservation.
async fn ask(replica: &Limiter) -> (i64, String) {
    let before = replica.level("tenant=a", "tokens").await;
    let answer = replica.ask(&["tenant=a"]).await;
    assert!(!answer.over_limit);
    let taken = before - replica.level("tenant=a", "tokens").await;
    (taken, metadata(&answer, "reservation").unwrap().to_owned())
}

async fn report(replica: &Limiter, id: &str, tokens: u64) {
    let report = format!(
        "tollgate.phase=report tollgate.id={id} tollgate.input_tokens=0 \
         tollgate.output_tokens={tokens}"
    );
    replica.ask(&[&report]).await;
}

/// Requests that use 30 tokens each, admitted by one replica and reported to another.
async fn use_some(admits: &Limiter, hears: &Limiter, count: usize) {
    for _ in 0..count {
        let (_, id) = ask(admits).await;
        report(hears, &id, 30).await;
    }
}

async fn exchange(replicas: &[Limiter]) {
    for replica in replicas {
        replica.service.exchange_estimates().await;
        assert_eq!(errors(replica), 0);
    }
}

fn errors(replica: &Limiter) -> u64 {
    replica.series("tollgate_estimate_exchange_errors_total")
}

#[tokio::test]
async fn what_one_replica_learned_the_others_know_after_an_exchange() {
    let redis = RedisServer::shared();
    let replicas: [Limiter; 3] = Limiter::replicas(&redis, "learned-one", RULES);
    let [admits, hears, other] = &replicas;
    use_some(admits, hears, ENOUGH).await;
    // The one that hears the reports learns, though another one admitted the requests.
    assert_eq!(ask(hears).await.0, 30);
    assert_eq!(ask(admits).await.0, 70);
    assert_eq!(ask(other).await.0, 70);
    other.service.exchange_estimates().await;
    assert_eq!(ask(other).await.0, 70, "nobody told anything yet");

    hears.service.exchange_estimates().await;
    assert_eq!(ask(other).await.0, 70, "it has not asked yet");
    other.service.exchange_estimates().await;
    assert_eq!(ask(other).await.0, 30);
    assert_eq!(hears.series("tollgate_estimate_groups"), 1);
}

#[tokio::test]
async fn samples_of_several_replicas_add_up_and_count_once() {
    let redis = RedisServer::shared();
    let replicas: [Limiter; 2] = Limiter::replicas(&redis, "learned-sum", RULES);
    let [one, other] = &replicas;
    use_some(one, one, ENOUGH / 2).await;
    use_some(other, other, ENOUGH / 2 - 1).await;
    for _ in 0..5 {
        exchange(&replicas).await;
        for replica in &replicas {
            assert_eq!(ask(replica).await.0, 70, "not enough yet");
        }
    }
    use_some(one, one, 1).await;
    assert_eq!(ask(one).await.0, 30);
    exchange(&replicas).await;
    assert_eq!(ask(other).await.0, 30);
}

#[tokio::test]
async fn what_is_in_redis_is_bounded_and_expires() {
    let redis = RedisServer::shared();
    let replicas: [Limiter; 1] = Limiter::replicas(&redis, "learned-bound", RULES);
    let [replica] = &replicas;
    for exponent in 0..100_u32 {
        let (_, id) = ask(replica).await;
        report(replica, &id, 1_u64 << (exponent % 20)).await;
        replica.advance(Duration::from_hours(24 * 365));
        exchange(&replicas).await;
    }
    let keys = redis.keys("learned-bound:l:");
    assert!(!keys.is_empty());
    for key in keys {
        let left: i64 = redis.command(&["TTL", &key]);
        assert!((3600..=70 * 60).contains(&left), "{key} lives for {left} s");
        let fields: u64 = redis.command(&["HLEN", &key]);
        assert_eq!(fields, 1, "{key}: one slot, one sample");
        assert!(!key.contains("tenant"), "{key}");
    }
}

#[tokio::test]
async fn estimates_follow_traffic_over_the_slots() {
    let redis = RedisServer::shared();
    let replicas: [Limiter; 2] = Limiter::replicas(&redis, "learned-time", RULES);
    let [one, other] = &replicas;
    use_some(one, one, 2 * ENOUGH).await;
    ask(other).await;
    exchange(&replicas).await;
    assert_eq!(ask(other).await.0, 30);
    // In the next slot half is left of their weight after half of it; the other replica asks for
    // the slot before as well.
    one.advance(Duration::from_mins(45));
    // The first look is as of the last answer's time.
    ask(other).await;
    assert_eq!(ask(other).await.0, 30);
    ask(one).await;
    exchange(&replicas).await;
    assert_eq!(ask(other).await.0, 30);
    assert_eq!(ask(one).await.0, 30);
    one.advance(Duration::from_secs(1));
    ask(other).await;
    assert_eq!(
        ask(other).await.0,
        30,
        "20 of 40 are left, and a thousandth goes in 1.8 s"
    );
    one.advance(Duration::from_secs(2));
    ask(other).await;
    assert_eq!(ask(other).await.0, 70);
}

#[tokio::test]
async fn what_redis_refuses_for_ever_is_added_once_when_it_does_no_more() {
    let redis = RedisServer::start();
    let replicas: [Limiter; 1] = Limiter::replicas(&redis, "learned-denied", RULES);
    let [replica] = &replicas;
    use_some(replica, replica, ENOUGH).await;
    for denied in ["expire", "hgetall", "hincrby"] {
        let deny = format!("-{denied}");
        let _: () = redis.command(&["ACL", "SETUSER", "default", &deny]);
        for _ in 0..3 {
            let before = errors(replica);
            replica.service.exchange_estimates().await;
            assert!(errors(replica) > before, "{denied}");
        }
        let allow = format!("+{denied}");
        let _: () = redis.command(&["ACL", "SETUSER", "default", &allow]);
        assert_eq!(redis.keys("learned-denied:l:").len(), 0, "{denied}");
    }
    exchange_again(replica).await;
    assert_eq!(samples(&redis, "learned-denied:l:"), ENOUGH as u64);
}

/// How many samples Redis has under these keys.
fn samples(redis: &RedisServer, prefix: &str) -> u64 {
    let keys = redis.keys(prefix);
    let counts = keys.iter().flat_map(|key| {
        let counts: Vec<u64> = redis.command(&["HVALS", key]);
        counts
    });
    counts.sum()
}

#[tokio::test]
async fn a_key_that_somebody_else_wrote_to_keeps_no_other_from_being_added() {
    let redis = RedisServer::start();
    let replicas: [Limiter; 1] = Limiter::replicas(&redis, "learned-spoilt", RULES);
    let [replica] = &replicas;
    use_some(replica, replica, 1).await;
    replica.service.exchange_estimates().await;
    let keys = redis.keys("learned-spoilt:l:");
    let [spoilt] = keys.as_slice() else {
        panic!("{keys:?}")
    };
    let _: () = redis.command(&["SET", spoilt, "not ours"]);
    for tenant in ["tenant=a", "tenant=b", "tenant=c"] {
        let answer = replica.ask(&[tenant]).await;
        report(replica, metadata(&answer, "reservation").unwrap(), 30).await;
    }
    for round in 1..=3 {
        replica.service.exchange_estimates().await;
        assert_eq!(errors(replica), round, "one slot");
    }
    let _: () = redis.command(&["DEL", spoilt]);
    assert_eq!(samples(&redis, "learned-spoilt:l:"), 2, "each once");
    exchange_again(replica).await;
    assert_eq!(samples(&redis, "learned-spoilt:l:"), 3);
}

async fn exchange_again(replica: &Limiter) {
    let before = errors(replica);
    replica.service.exchange_estimates().await;
    assert_eq!(errors(replica), before);
}

#[tokio::test]
async fn a_redis_that_takes_no_writes_is_asked_once_a_round() {
    let redis = RedisServer::start();
    let replicas: [Limiter; 1] = Limiter::replicas(&redis, "learned-replica", RULES);
    let [replica] = &replicas;
    for n in 0..40 {
        let tenant = format!("tenant={n}");
        let answer = replica.ask(&[&tenant]).await;
        report(replica, metadata(&answer, "reservation").unwrap(), 30).await;
    }
    // Of a primary that nobody is.
    let _: () = redis.command(&["REPLICAOF", "127.0.0.1", "1"]);
    for round in 1..=2 {
        replica.service.exchange_estimates().await;
        assert_eq!(errors(replica), round);
    }
    let _: () = redis.command(&["REPLICAOF", "NO", "ONE"]);
    exchange_again(replica).await;
    assert_eq!(samples(&redis, "learned-replica:l:"), 40);
}

#[tokio::test]
async fn what_could_not_be_told_is_told_later() {
    let redis = RedisServer::start();
    let replicas: [Limiter; 2] = Limiter::replicas(&redis, "learned-away", RULES);
    let [one, other] = &replicas;
    use_some(one, one, ENOUGH).await;
    redis.stop();
    one.service.exchange_estimates().await;
    one.service.exchange_estimates().await;
    assert_eq!(errors(one), 2);
    redis.restart();
    let begun = clock::instant();
    loop {
        let before = errors(one);
        one.service.exchange_estimates().await;
        if errors(one) == before {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "Redis is not found again");
    }
    // The restarted Redis holds nothing but this.
    let keys = redis.keys("learned-away:l:");
    let [key] = keys.as_slice() else {
        panic!("{keys:?}")
    };
    let samples: Vec<u64> = redis.command(&["HVALS", key]);
    assert_eq!(samples, [ENOUGH as u64]);
    while other
        .service
        .should_rate_limit(&crate::support::limiter::request(&["tenant=a"]))
        .await
        .unwrap()
        .statuses[0]
        .limit
        .is_none()
    {
        assert!(begun.elapsed() < PATIENCE, "Redis is not found again");
    }
    other.service.exchange_estimates().await;
    assert_eq!(ask(other).await.0, 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_learned_last_is_told_at_the_end() {
    let redis = RedisServer::shared();
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("llm.yaml");
    std::fs::write(&file, format!("domain: llm\n{RULES}")).unwrap();
    let mut tollgate = Tollgate::serve(&[
        &format!("--config={}", file.display()),
        &format!("--store={}", redis.url()),
        "--redis-prefix=learned-end:",
        "--store-timeout=5s",
        "--drain-delay=0s",
    ]);
    let channel = rls::channel(tollgate.grpc).await;
    let client = rls::Client::new(channel);
    for n in 0..50 {
        let id = format!("call-{n}");
        let admission = [("tenant", "a"), ("tollgate.id", id.as_str())];
        let report = [
            ("tollgate.phase", "report"),
            ("tollgate.id", id.as_str()),
            ("tollgate.input_tokens", "0"),
            ("tollgate.output_tokens", "30"),
        ];
        for entries in [&admission[..], &report] {
            let descriptor = rls::descriptor(entries, None);
            rls::ask(&client, rls::request("llm", [descriptor])).await;
        }
    }
    drop(client);
    tollgate.signal("-TERM");
    assert!(tollgate.ended(PATIENCE).success());
    assert_eq!(samples(&redis, "learned-end:l:"), 50);
}
