//! The headers and bodies of each dialect, in full.

use std::time::Duration;

use crate::support::limiter::{Limiter, headers};

/// Requests and tokens, dressed as `style` says.
fn limiter(style: &str) -> Limiter {
    Limiter::new(&format!(
        "
answer: {style}
descriptors:
  - key: k
    limits:
      - {{ name: tenant-requests, rate: 60/minute }}
      - {{ name: tenant-tokens, rate: 6000/minute, burst: 10000, cost: tokens }}
"
    ))
}

/// The headers when 2500 tokens are taken from full buckets, and the headers and the body when
/// 8000 more are wanted 1.25 seconds later.
async fn headers_and_body(style: &str) -> (String, String, String) {
    let limiter = limiter(style);
    let admitted = limiter.ask(&["k=a @2500"]).await;
    assert!(!admitted.over_limit);
    limiter.advance(Duration::from_millis(1_250));
    let refused = limiter.ask(&["k=a @8000"]).await;
    assert!(refused.over_limit);
    (headers(&admitted), headers(&refused), refused.body)
}

#[tokio::test]
async fn retry_after_alone() {
    let (admitted, refused, body) = headers_and_body("{ headers: [retry-after] }").await;
    assert_eq!(admitted, "");
    // 375 tokens are missing, at 100 a second.
    assert_eq!(refused, "retry-after: 4\n");
    assert_eq!(body, "");
}

#[tokio::test]
async fn ietf() {
    let (admitted, refused, _) = headers_and_body("{ headers: [ietf, retry-after] }").await;
    assert_eq!(
        admitted,
        "ratelimit-policy: \"tenant-requests\";q=60;w=60, \"tenant-tokens\";q=10000;w=60\n\
         ratelimit: \"tenant-requests\";r=59;t=1, \"tenant-tokens\";r=7500;t=25\n"
    );
    assert_eq!(
        refused,
        "ratelimit-policy: \"tenant-requests\";q=60;w=60, \"tenant-tokens\";q=10000;w=60\n\
         ratelimit: \"tenant-requests\";r=60;t=0, \"tenant-tokens\";r=7625;t=4\n\
         retry-after: 4\n"
    );
}

#[tokio::test]
async fn open_ai() {
    let (admitted, refused, body) =
        headers_and_body("{ headers: [openai, retry-after], body: openai }").await;
    assert_eq!(
        admitted,
        "x-ratelimit-limit-requests: 60\n\
         x-ratelimit-remaining-requests: 59\n\
         x-ratelimit-reset-requests: 1s\n\
         x-ratelimit-limit-tokens: 10000\n\
         x-ratelimit-remaining-tokens: 7500\n\
         x-ratelimit-reset-tokens: 25s\n"
    );
    assert_eq!(
        refused,
        "x-ratelimit-limit-requests: 60\n\
         x-ratelimit-remaining-requests: 60\n\
         x-ratelimit-reset-requests: 0ms\n\
         x-ratelimit-limit-tokens: 10000\n\
         x-ratelimit-remaining-tokens: 7625\n\
         x-ratelimit-reset-tokens: 23.75s\n\
         retry-after-ms: 3750\n\
         retry-after: 4\n\
         content-type: application/json\n"
    );
    assert_eq!(
        body,
        "{\"error\":{\"code\":\"rate_limit_exceeded\",\
         \"message\":\"Rate limit reached for tenant-tokens: limit 10000, used 2375, \
         requested 8000. Please try again in 3.750s.\",\
         \"param\":null,\"type\":\"tokens\"}}"
    );
}

#[tokio::test]
async fn anthropic() {
    let (admitted, refused, body) =
        headers_and_body("{ headers: [anthropic], body: anthropic }").await;
    assert_eq!(
        admitted,
        "anthropic-ratelimit-requests-limit: 60\n\
         anthropic-ratelimit-requests-remaining: 59\n\
         anthropic-ratelimit-requests-reset: 2027-01-15T08:00:01Z\n\
         anthropic-ratelimit-tokens-limit: 10000\n\
         anthropic-ratelimit-tokens-remaining: 7500\n\
         anthropic-ratelimit-tokens-reset: 2027-01-15T08:00:25Z\n"
    );
    assert_eq!(
        refused,
        "anthropic-ratelimit-requests-limit: 60\n\
         anthropic-ratelimit-requests-remaining: 60\n\
         anthropic-ratelimit-requests-reset: 2027-01-15T08:00:02Z\n\
         anthropic-ratelimit-tokens-limit: 10000\n\
         anthropic-ratelimit-tokens-remaining: 7625\n\
         anthropic-ratelimit-tokens-reset: 2027-01-15T08:00:25Z\n\
         retry-after: 4\n\
         content-type: application/json\n"
    );
    assert_eq!(
        body,
        "{\"error\":{\"message\":\"Rate limit reached for tenant-tokens: limit 10000, used 2375, \
         requested 8000. Please try again in 3.750s.\",\"type\":\"rate_limit_error\"},\
         \"type\":\"error\"}"
    );
}

#[tokio::test]
async fn anthropic_tells_input_from_output() {
    let limiter = Limiter::new(
        "
answer: { headers: [anthropic] }
descriptors:
  - key: k
    limits:
      - { name: in, rate: 6000/minute, cost: { input_tokens: 1, cache_write_tokens: 1 } }
      - { name: out, rate: 600/minute, cost: { output_tokens: 1 } }
",
    );
    let counts = "k=a tollgate.input_tokens=1000 tollgate.max_output_tokens=300";
    assert_eq!(
        headers(&limiter.ask(&[counts]).await),
        "anthropic-ratelimit-input-tokens-limit: 6000\n\
         anthropic-ratelimit-input-tokens-remaining: 5000\n\
         anthropic-ratelimit-input-tokens-reset: 2027-01-15T08:00:10Z\n\
         anthropic-ratelimit-output-tokens-limit: 600\n\
         anthropic-ratelimit-output-tokens-remaining: 300\n\
         anthropic-ratelimit-output-tokens-reset: 2027-01-15T08:00:30Z\n"
    );
}

#[tokio::test]
async fn plain_text() {
    let (_, refused, body) = headers_and_body("{ headers: [], body: plain }").await;
    assert_eq!(refused, "content-type: text/plain; charset=utf-8\n");
    assert_eq!(
        body,
        "Rate limit reached for tenant-tokens: limit 10000, used 2375, requested 8000. \
         Please try again in 3.750s."
    );
}

#[tokio::test]
async fn a_refusal_by_a_request_limit_says_so() {
    let limiter = limiter("{ headers: [openai], body: openai }");
    for _ in 0..60 {
        assert!(limiter.passes("k=a @1").await);
    }
    let answer = limiter.ask(&["k=a @1"]).await;
    assert!(
        answer.body.contains("\"type\":\"requests\""),
        "{}",
        answer.body
    );
    assert!(
        answer.body.contains("limit 60, used 60, requested 1"),
        "{}",
        answer.body
    );
    assert!(headers(&answer).contains("x-ratelimit-remaining-requests: 0\n"));
}

#[tokio::test]
async fn what_can_never_fit_is_not_told_to_come_back() {
    let limiter = limiter("{ headers: [openai, anthropic, ietf, retry-after], body: plain }");
    let answer = limiter.ask(&["k=a @10001"]).await;
    assert_eq!(
        answer.body,
        "Rate limit reached for tenant-tokens: limit 10000, used 0, requested 10001. \
         It costs more than the limit can ever hold; trying again will not help."
    );
    assert!(
        !headers(&answer).contains("retry-after"),
        "{}",
        headers(&answer)
    );
    assert!(
        headers(&answer).contains("\"tenant-tokens\";r=10000\n"),
        "{}",
        headers(&answer)
    );
}

#[tokio::test]
async fn limits_are_dressed_with_retry_after_unless_told_otherwise_and_rate_limit_with_nothing() {
    let ours = Limiter::new("descriptors: [{ key: k, limits: [{ name: l, rate: 1/minute }] }]");
    ours.ask(&["k=a"]).await;
    assert_eq!(headers(&ours.ask(&["k=a"]).await), "retry-after: 60\n");
    let theirs = Limiter::new(
        "descriptors: [{ key: k, rate_limit: { unit: minute, requests_per_unit: 1 } }]",
    );
    theirs.ask(&["k=a"]).await;
    assert_eq!(headers(&theirs.ask(&["k=a"]).await), "");
}
