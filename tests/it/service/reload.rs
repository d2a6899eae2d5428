//! New rules while requests run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::limiter::{Limiter, parse, request};

/// Every limit of one version of the rules has the same amount.
fn rules(amount: u32) -> String {
    let rule = |key| {
        format!(
            "  - {{ key: {key}, limits: [{{ name: {key}, rate: {amount}/hour, burst: {amount}M }}] }}\n"
        )
    };
    let keys = ["a", "b", "c", "d", "e", "f", "g", "h"].map(rule);
    format!("domain: llm\ndescriptors:\n{}", keys.concat())
}

/// Asks until both versions of the rules answered often, or `stop` is set; counts what answered.
async fn ask_until_both_answered(limiter: Arc<Limiter>, stop: Arc<AtomicBool>) -> [u64; 2] {
    let mut seen = [0; 2];
    while seen.iter().any(|times| *times < 50) && !stop.load(Ordering::Relaxed) {
        let all = ["a=x", "b=x", "c=x", "d=x", "e=x", "f=x", "g=x", "h=x"];
        let answer = limiter.ask(&all).await;
        let mut amounts: Vec<u32> = answer
            .statuses
            .iter()
            .filter_map(|status| status.limit.as_ref())
            .map(|limit| limit.requests_per_unit)
            .collect();
        assert_eq!(amounts.len(), all.len());
        amounts.dedup();
        match amounts[..] {
            [1] => seen[0] += 1,
            [2] => seen[1] += 1,
            _ => panic!("a mix: {amounts:?}"),
        }
        tokio::task::yield_now().await;
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_request_sees_all_of_the_old_rules_or_all_of_the_new() {
    let limiter = Arc::new(Limiter::without_rules());
    let domains =
        [1, 2].map(|amount| BTreeMap::from([("llm".to_owned(), Arc::new(parse(&rules(amount))))]));
    limiter.install_domains(&domains[0]);
    let stop = Arc::new(AtomicBool::new(false));
    let askers = [(); 3].map(|()| {
        tokio::spawn(ask_until_both_answered(
            Arc::clone(&limiter),
            Arc::clone(&stop),
        ))
    });
    for version in domains.iter().cycle().take(1_000_000) {
        if askers.iter().all(tokio::task::JoinHandle::is_finished) {
            break;
        }
        limiter.install_domains(version);
        tokio::task::yield_now().await;
    }
    stop.store(true, Ordering::Relaxed);
    for asker in askers {
        let seen = asker.await.expect("no mix");
        assert!(
            seen.iter().all(|times| *times >= 50),
            "the race did not happen: {seen:?}"
        );
    }
}

#[tokio::test]
async fn a_limit_that_changes_keeps_its_buckets_and_holds_at_once() {
    let limiter = Limiter::new("descriptors: [{ key: k, limits: [{ name: l, rate: 10/hour }] }]");
    for _ in 0..8 {
        assert!(limiter.passes("k=x").await);
    }
    let install = |rate| {
        limiter.install(&[&format!(
            "domain: llm\ndescriptors: [{{ key: k, limits: [{{ name: l, rate: {rate}/hour }}] }}]"
        )]);
    };
    install(20);
    assert_eq!(limiter.level("k=x", "l").await, 12);
    install(5);
    assert_eq!(limiter.level("k=x", "l").await, -3);
    assert!(!limiter.passes("k=x").await);
}

#[tokio::test]
async fn domains_come_and_go() {
    let limiter = Limiter::without_rules();
    let file = |domain| {
        format!(
            "domain: {domain}\ndescriptors: [{{ key: k, limits: [{{ name: l, rate: 1/hour }}] }}]"
        )
    };
    limiter.install(&[&file("llm"), &file("other")]);
    assert_eq!(limiter.series("tollgate_config_domains"), 2);
    let mut other = request(&["k=x"]);
    other.domain = "other";
    assert!(limiter.passes("k=x").await);
    assert!(
        !limiter.answer(&other).await.over_limit,
        "each domain has its own buckets"
    );
    assert!(limiter.answer(&other).await.over_limit);

    limiter.install(&[&file("llm")]);
    assert_eq!(limiter.series("tollgate_config_domains"), 1);
    assert!(
        !limiter.answer(&other).await.over_limit,
        "nobody limits it any more"
    );
    assert!(!limiter.passes("k=x").await);
    assert!(limiter.service.ready().await.is_ok());

    limiter.install(&[&file("llm"), &file("other")]);
    assert!(
        limiter.answer(&other).await.over_limit,
        "its buckets were kept"
    );
}

/// A domain that did not change is the same value; it is taken over, and not compiled anew.
#[tokio::test]
async fn a_reload_takes_over_what_did_not_change() {
    let limiter = Limiter::without_rules();
    let (kept, dropped) = (Arc::new(parse(&rules(1))), Arc::new(parse(&rules(2))));
    let install = |domain: &Arc<_>| {
        limiter.install_domains(&BTreeMap::from([("llm".to_owned(), Arc::clone(domain))]));
    };
    install(&dropped);
    install(&kept);
    let holders = Arc::strong_count(&kept);
    for _ in 0..3 {
        install(&kept);
    }
    assert_eq!(Arc::strong_count(&kept), holders);
    assert_eq!(Arc::strong_count(&dropped), 1, "the old rules are gone");
    limiter.ask(&["a=x"]).await;
    let admitted = "tollgate_decisions_total{domain=\"llm\",limit=\"a\",result=\"admitted\"}";
    assert_eq!(limiter.series(admitted), 1);
    install(&kept);
    limiter.ask(&["a=x"]).await;
    assert_eq!(limiter.series(admitted), 2, "series go on counting");
}
