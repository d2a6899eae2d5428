//! Requests that are none, and requests that are only odd.

use tollgate::service::{
    Descriptor, MAX_DESCRIPTORS, MAX_ENTRIES, MAX_TEXT, Request, RequestError,
};

use crate::support::limiter::{Limiter, request};

const RULES: &str = "
descriptors:
  - { key: k, limits: [{ name: requests, rate: 3/hour }, { name: tokens, rate: 1k/hour, cost: tokens }] }
";

async fn error(limiter: &Limiter, request: &Request<'_>) -> RequestError {
    limiter
        .service
        .should_rate_limit(request)
        .await
        .expect_err("an error")
}

#[tokio::test]
async fn the_errors_of_the_reference_have_its_texts_and_its_order() {
    let unloaded = Limiter::without_rules();
    let nothing = Request::default();
    let text = error(&unloaded, &nothing).await.to_string();
    assert_eq!(text, "rate limit domain must not be empty");
    let text = error(&unloaded, &request(&[])).await.to_string();
    assert_eq!(text, "rate limit descriptor list must not be empty");
    let text = error(&unloaded, &request(&["k=a"])).await.to_string();
    assert_eq!(text, "no rate limit configuration loaded");
    assert!(unloaded.service.ready().await.is_err());
}

#[tokio::test]
async fn an_unknown_domain_is_not_limited() {
    let limiter = Limiter::new(RULES);
    let elsewhere = Request {
        domain: "elsewhere",
        ..request(&["k=a", "k=b"])
    };
    for _ in 0..5 {
        let answer = limiter.answer(&elsewhere).await;
        assert!(!answer.over_limit);
        assert_eq!((answer.statuses.len(), answer.headers.len()), (2, 0));
    }
    assert_eq!(limiter.series("tollgate_unknown_domain_requests_total"), 5);
}

#[tokio::test]
async fn a_request_has_bounds() {
    let limiter = Limiter::new(RULES);
    let many = vec!["k=a"; 10_000];
    assert_eq!(
        error(&limiter, &request(&many)).await,
        RequestError::TooManyDescriptors
    );
    let many = request(&many[..=MAX_DESCRIPTORS]);
    assert_eq!(
        error(&limiter, &many).await,
        RequestError::TooManyDescriptors
    );

    let long = "x".repeat(1 << 20);
    let with_entry = |key, value| Request {
        descriptors: [Descriptor {
            entries: [(key, value)].into_iter().collect(),
            ..Descriptor::default()
        }]
        .into_iter()
        .collect(),
        ..request(&[])
    };
    // A client can make a header long: an error would let it pass where Envoy fails open.
    for long in [with_entry("k", &long), with_entry(&long, "v")] {
        assert!(limiter.answer(&long).await.over_limit);
    }
    assert!(
        !limiter
            .answer(&with_entry("k", &"x".repeat(MAX_TEXT)))
            .await
            .over_limit
    );

    let mut deep = request(&["k=a"]);
    deep.descriptors[0].entries = vec![("k", "a"); MAX_ENTRIES + 1].into();
    assert_eq!(error(&limiter, &deep).await, RequestError::TooManyEntries);
}

#[tokio::test]
async fn the_most_descriptors_that_a_request_may_have_are_all_answered() {
    let limiter = Limiter::new(RULES);
    let most: Vec<String> = (0..MAX_DESCRIPTORS)
        .map(|index| format!("k={index}"))
        .collect();
    let most: Vec<&str> = most.iter().map(String::as_str).collect();
    let answer = limiter.ask(&most).await;
    assert!(!answer.over_limit);
    assert!(answer.statuses.iter().all(|status| status.limit.is_some()));
}

#[tokio::test]
async fn more_limits_than_one_decision_can_hold_are_an_error() {
    let limits: Vec<String> = (0..5)
        .map(|index| format!("{{ name: l{index}, rate: 3/hour }}"))
        .collect();
    let limiter = Limiter::new(&format!(
        "descriptors: [{{ key: k, limits: [{}] }}]",
        limits.join(", ")
    ));
    let most: Vec<String> = (0..MAX_DESCRIPTORS)
        .map(|index| format!("k={index}"))
        .collect();
    let most: Vec<&str> = most.iter().map(String::as_str).collect();
    assert_eq!(
        error(&limiter, &request(&most)).await,
        RequestError::TooManyCharges
    );
    assert!(!limiter.ask(&most[..200]).await.over_limit);
}

#[tokio::test]
async fn a_mistake_in_a_control_entry_is_an_error_that_names_it() {
    let limiter = Limiter::new(RULES);
    for mistake in [
        "tollgate.phase=bogus",
        "tollgate.measure=tokens",
        "tollgate.inptu_tokens=1",
    ] {
        let text = error(&limiter, &request(&["k=a", mistake]))
            .await
            .to_string();
        assert!(text.contains(mistake), "{text}");
    }
    let refund = request(&["k=a tollgate.measure=output_tokens @-5"]);
    let text = error(&limiter, &refund).await.to_string();
    assert!(text.contains("tollgate.measure=output_tokens"), "{text}");
}

#[tokio::test]
async fn a_count_that_is_no_number_refuses_what_counts_it_and_nothing_else() {
    let limiter = Limiter::new(
        "
answer: { body: plain, headers: [retry-after] }
descriptors:
  - { key: k, limits: [{ name: tokens, rate: 1k/hour, cost: tokens }] }
  - { key: r, limits: [{ name: requests, rate: 9/hour }] }
",
    );
    for bad in ["abc", "-5", "1e3", "nan", "1000000000001", ""] {
        let count = format!("k=a tollgate.input_tokens={bad}");
        let answer = limiter.ask(&[&count]).await;
        assert!(answer.over_limit && answer.statuses[0].over_limit, "{bad}");
        assert_eq!(
            answer.body,
            "The request states a count that is no number, or too large a one."
        );
        assert_eq!(
            answer.headers,
            [("content-type", "text/plain; charset=utf-8".to_owned())]
        );
        assert!(
            limiter
                .passes(&format!("r=a tollgate.input_tokens={bad}"))
                .await,
            "{bad}"
        );
    }
    assert_eq!(limiter.level("k=a", "tokens").await, 1000);
}
