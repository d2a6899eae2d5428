//! Our own API: reserve, settle, release, report, inspect.

use std::time::Duration;

use tollgate::service::{ApiError, BucketView, ReportResult, RequestError, Target};
use tollgate::usage::{Contradiction, Name, Reported};

use crate::support::limiter::{Limiter, target};

const RULES: &str = "
descriptors:
  - key: k
    limits:
      - { name: requests, rate: 100/hour }
      - { name: tokens, rate: 6000/minute, cost: tokens, estimate: 800, priority: { batch: 3000 } }
  - key: plain
    limits: [{ name: requests, rate: 1/hour }]
";

fn nothing() -> Reported {
    Reported::default()
}

const fn total(total: u64) -> Reported {
    Reported::of_total(total)
}

const fn in_and_out(input: u64, output: u64) -> Reported {
    Reported::of_measures([Some(input), None, None, Some(output)])
}

/// Name, level and what the call charged, of each bucket.
fn summary(buckets: &[BucketView]) -> Vec<(&str, i64, i64)> {
    buckets
        .iter()
        .map(|bucket| (bucket.limit.as_str(), bucket.level, bucket.charged))
        .collect()
}

#[tokio::test]
async fn a_reservation_is_made_settled_and_then_over() {
    let limiter = Limiter::new(RULES);
    let service = &limiter.service;
    let reserved = service
        .reserve(&target(&["k=a"]), nothing(), None, None)
        .await
        .expect("answer");
    assert!(reserved.admitted);
    assert_eq!(reserved.retry_after, None);
    assert_eq!(
        summary(&reserved.buckets),
        [("requests", 99, 1), ("tokens", 5200, 800)]
    );
    let id = reserved.id.expect("an id");

    let none = target(&[]);
    let settled = service
        .settle(&id, in_and_out(11, 31), &none)
        .await
        .expect("answer");
    assert_eq!(settled.result, ReportResult::Settled);
    assert_eq!(
        summary(&settled.buckets),
        [("requests", 99, 0), ("tokens", 5958, -758)]
    );
    let again = service
        .settle(&id, in_and_out(11, 31), &none)
        .await
        .expect("answer");
    assert_eq!(
        (again.result, again.buckets.len()),
        (ReportResult::AlreadySettled, 0)
    );
    let release = service.release("llm", &id).await.expect("answer");
    assert_eq!(release.result, ReportResult::AlreadySettled);
}

#[tokio::test]
async fn an_estimate_is_a_total_or_measures_and_not_both() {
    let limiter = Limiter::new(RULES);
    let reserve = async |usage| {
        let target = target(&["k=a"]);
        limiter
            .service
            .reserve(&target, usage, None, None)
            .await
            .map(|answer| {
                let tokens = answer
                    .buckets
                    .iter()
                    .find(|bucket| bucket.limit == "tokens");
                tokens.expect("it applies").charged
            })
    };
    assert_eq!(reserve(total(500)).await, Ok(500));
    assert_eq!(reserve(in_and_out(100, 20)).await, Ok(120));
    assert_eq!(reserve(total(0)).await, Ok(0));
    let mut both = in_and_out(1, 1);
    both.set(Name::Total, Some(1));
    let ambiguous = ApiError::Contradiction(Contradiction::Ambiguous);
    assert_eq!(reserve(both).await, Err(ambiguous));
    let error = reserve(total(1_000_000_001)).await.expect_err("too much");
    assert_eq!(
        error.to_string(),
        "total: 1000000001 is more than the 1000000000 that one report may count"
    );
    assert!(reserve(in_and_out(0, 1_000_000_000_001)).await.is_err());
}

#[tokio::test]
async fn a_refused_reservation_says_when_to_come_back() {
    let limiter = Limiter::new(RULES);
    let service = &limiter.service;
    let reserve = async |tokens, priority| {
        let target = target(&["k=a"]);
        service
            .reserve(&target, total(tokens), None, priority)
            .await
            .expect("answer")
    };
    assert!(reserve(4000, None).await.admitted);
    let refused = reserve(500, Some("batch")).await;
    assert!(!refused.admitted);
    assert_eq!(
        (refused.id, refused.retry_after),
        (None, Some(Duration::from_secs(15)))
    );
    assert_eq!(
        summary(&refused.buckets),
        [("requests", 99, 0), ("tokens", 2000, 0)]
    );
    let waits: Vec<_> = refused
        .buckets
        .iter()
        .map(|bucket| bucket.retry_after)
        .collect();
    assert_eq!(waits, [None, Some(Duration::from_secs(15))]);
    assert_eq!(refused.buckets[1].full_after, Some(Duration::from_secs(40)));
    let never = reserve(6001, None).await;
    assert_eq!((never.admitted, never.retry_after), (false, None));
}

#[tokio::test]
async fn a_caller_may_name_the_reservation_and_reserve_it_twice() {
    let limiter = Limiter::new(RULES);
    let service = &limiter.service;
    for charged in [1, 0] {
        let plain = target(&["plain=a"]);
        let answer = service
            .reserve(&plain, nothing(), Some("mine"), None)
            .await
            .expect("answer");
        assert!(
            answer.admitted,
            "the second is the same request, whether it fits or not"
        );
        assert_eq!(answer.id.as_deref(), Some("mine"));
        assert_eq!(summary(&answer.buckets), [("requests", 0, charged)]);
        assert!(answer.buckets[0].fits);
    }
    let unnamed = service
        .reserve(&target(&["plain=b"]), nothing(), Some(""), None)
        .await;
    assert_eq!(
        unnamed.expect("answer").id,
        None,
        "no id, and nothing to settle"
    );
}

#[tokio::test]
async fn a_release_gives_back_everything() {
    let limiter = Limiter::new(RULES);
    let service = &limiter.service;
    let reserved = service
        .reserve(&target(&["k=a"]), nothing(), None, None)
        .await
        .expect("answer");
    let id = reserved.id.expect("an id");
    let released = service.release("llm", &id).await.expect("answer");
    assert_eq!(released.result, ReportResult::Released);
    assert_eq!(
        summary(&released.buckets),
        [("requests", 100, -1), ("tokens", 6000, -800)]
    );
    let again = service.release("llm", &id).await.expect("answer");
    assert_eq!(again.result, ReportResult::AlreadySettled);
    let unknown = service.release("llm", "unheard-of").await.expect("answer");
    assert_eq!(unknown.result, ReportResult::UnknownId);
}

#[tokio::test]
async fn settling_what_nobody_reserved_charges_where_the_descriptors_say() {
    let limiter = Limiter::new(RULES);
    let service = &limiter.service;
    let unknown = service
        .settle("lost", total(42), &target(&[]))
        .await
        .expect("answer");
    assert_eq!(
        (unknown.result, unknown.buckets.len()),
        (ReportResult::UnknownId, 0)
    );
    let charged = service
        .settle("lost", total(42), &target(&["k=a"]))
        .await
        .expect("answer");
    assert_eq!(charged.result, ReportResult::Charged);
    assert_eq!(summary(&charged.buckets), [("tokens", 5958, 42)]);
    let again = service
        .settle("lost", total(42), &target(&["k=a"]))
        .await
        .expect("answer");
    assert_eq!(again.result, ReportResult::AlreadySettled);
}

#[tokio::test]
async fn a_total_of_zero_is_a_usage_and_no_total_is_none() {
    let limiter = Limiter::new(RULES);
    let service = &limiter.service;
    for (usage, left) in [
        (total(0), 6000),
        (in_and_out(0, 0), 6000),
        (nothing(), 5200),
    ] {
        let reserved = service
            .reserve(&target(&["k=a"]), nothing(), None, None)
            .await;
        let id = reserved.expect("answer").id.expect("an id");
        let settled = service
            .settle(&id, usage, &target(&[]))
            .await
            .expect("answer");
        assert_eq!(settled.result, ReportResult::Settled);
        assert_eq!(settled.buckets[1].level, left, "{usage:?}");
    }
}

#[tokio::test]
async fn usage_without_a_reservation_is_charged_in_full_every_time() {
    let limiter = Limiter::new(RULES);
    let service = &limiter.service;
    for level in [5958, 5916] {
        let target = target(&["k=a"]);
        let charged = service
            .report_usage(&target, in_and_out(11, 31))
            .await
            .expect("answer");
        assert_eq!(charged.result, ReportResult::Charged);
        assert_eq!(summary(&charged.buckets), [("tokens", level, 42)]);
    }
    let nothing = service
        .report_usage(&target(&["k=a"]), nothing())
        .await
        .expect("answer");
    assert_eq!(nothing.result, ReportResult::WithoutUsage);
    let huge = service
        .report_usage(&target(&["k=a"]), total(1_000_000_000))
        .await
        .expect("answer");
    assert_eq!(
        huge.buckets[0].level,
        5916 - 1_000_000_000,
        "reports are never refused"
    );
}

#[tokio::test]
async fn a_look_takes_nothing_and_tells_rule_and_levels() {
    let limiter = Limiter::new(RULES);
    limiter.ask(&["k=a @2000"]).await;
    for _ in 0..3 {
        let seen = limiter.inspect("k=a").await;
        assert_eq!(seen.rule.as_deref(), Some("k"));
        assert_eq!(
            summary(&seen.buckets),
            [("requests", 99, 0), ("tokens", 4000, 0)]
        );
        assert!(seen.buckets.iter().all(|bucket| bucket.fits));
        assert_eq!(seen.buckets[1].full_after, Some(Duration::from_secs(20)));
    }
    let nowhere = limiter.inspect("unknown=a").await;
    assert_eq!((nowhere.rule, nowhere.buckets), (None, vec![]));
}

#[tokio::test]
async fn a_look_is_at_the_first_descriptor_without_its_control_entries() {
    let limiter = Limiter::new(RULES);
    let both = target(&["tollgate.priority=batch k=a", "plain=a"]);
    let seen = limiter.service.inspect(&both).await.expect("answer");
    assert_eq!(seen.rule.as_deref(), Some("k"));
    assert_eq!(
        summary(&seen.buckets),
        [("requests", 100, 0), ("tokens", 6000, 0)]
    );
}

#[tokio::test]
async fn calls_that_cannot_be_done_say_why() {
    let limiter = Limiter::new(RULES);
    let service = &limiter.service;
    let elsewhere = Target {
        domain: "elsewhere",
        ..target(&["k=a"])
    };
    let unknown = ApiError::UnknownDomain("elsewhere".to_owned());
    let reserve = service.reserve(&elsewhere, nothing(), None, None).await;
    assert_eq!(reserve, Err(unknown.clone()));
    assert_eq!(
        service.settle("id", total(1), &elsewhere).await,
        Err(unknown.clone())
    );
    assert_eq!(
        service.release("elsewhere", "id").await,
        Err(unknown.clone())
    );
    assert_eq!(
        service.report_usage(&elsewhere, total(1)).await,
        Err(unknown.clone())
    );
    assert_eq!(service.inspect(&elsewhere).await, Err(unknown));

    let no_domain = Target {
        domain: "",
        ..target(&["k=a"])
    };
    let error = service.inspect(&no_domain).await;
    assert_eq!(error, Err(RequestError::NoDomain.into()));
    let none = target(&[]);
    let no_descriptors = || ApiError::from(RequestError::NoDescriptors);
    assert_eq!(
        service.reserve(&none, nothing(), None, None).await,
        Err(no_descriptors())
    );
    assert_eq!(
        service.report_usage(&none, total(1)).await,
        Err(no_descriptors())
    );
    assert_eq!(service.inspect(&none).await, Err(no_descriptors()));
    assert_eq!(
        service.settle("", total(1), &none).await,
        Err(ApiError::NoId)
    );
    assert_eq!(service.release("llm", "").await, Err(ApiError::NoId));

    let unloaded = Limiter::without_rules();
    let error = unloaded.service.inspect(&target(&["k=a"])).await;
    assert_eq!(error, Err(RequestError::NotConfigured.into()));
}

#[tokio::test]
async fn all_tokens_together_are_no_hits() {
    let limiter = Limiter::new(
        "
descriptors:
  - key: k
    rate_limit: { unit: hour, requests_per_unit: 100 }
    limits:
      - { name: hits, rate: 100/hour, cost: hits }
      - { name: requests, rate: 100/hour }
      - { name: tokens, rate: 10k/hour, cost: tokens, estimate: 800 }
",
    );
    let (service, k) = (&limiter.service, target(&["k=a"]));
    let levels = async || {
        let levels = limiter.inspect("k=a").await.buckets;
        levels.iter().map(|bucket| bucket.level).collect::<Vec<_>>()
    };
    let mut tokens = nothing();
    tokens.set(Name::TotalTokens, Some(3000));
    // One call, whose tokens are known.
    let reserved = service.reserve(&k, tokens, None, None).await.unwrap();
    assert!(reserved.admitted);
    assert_eq!(levels().await, [99, 99, 99, 7000]);
    tokens.set(Name::TotalTokens, Some(2000));
    let (id, none) = (reserved.id.unwrap(), target(&[]));
    let settled = service.settle(&id, tokens, &none).await.unwrap();
    assert_eq!(settled.result, ReportResult::Settled);
    assert_eq!(levels().await, [99, 99, 99, 8000]);
    // A report is no call.
    tokens.set(Name::TotalTokens, Some(500));
    service.report_usage(&k, tokens).await.unwrap();
    assert_eq!(levels().await, [99, 99, 99, 7500]);
    service.settle("unknown", tokens, &k).await.unwrap();
    assert_eq!(levels().await, [99, 99, 99, 7000]);
    // One number that is the cost itself is that of hits, too.
    service.report_usage(&k, total(50)).await.unwrap();
    assert_eq!(levels().await, [49, 49, 99, 6950]);
}
