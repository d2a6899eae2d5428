//! Reserve, settle, release, report, inspect.

use std::time::Duration;

use serde_json::{Value, json};

use super::fixture::{Edge, level};

fn reserve(id: &str) -> Value {
    json!({ "domain": "llm", "descriptors": [{ "tenant": "acme" }], "id": id })
}

#[tokio::test]
async fn a_settlement_replaces_the_estimate_and_counts_once() {
    let edge = Edge::start().await;
    let answer = edge.ok("/v1/reserve", &reserve("r1")).await;
    assert_eq!(
        (&answer["admitted"], &answer["id"]),
        (&json!(true), &json!("r1"))
    );
    assert_eq!(level(&answer, "tenant-tokens"), 9_200);
    assert_eq!(level(&answer, "tenant-requests"), 4);

    let settle = json!({
        "domain": "llm", "id": "r1",
        "usage": { "input_tokens": 300, "cache_read_tokens": 20, "cache_write_tokens": 0, "output_tokens": 1000 },
    });
    let settled = edge.ok("/v1/settle", &settle).await;
    assert_eq!(settled["result"], "settled");
    assert_eq!(settled["buckets"][1]["charged"], 520);
    assert_eq!(edge.tokens_left().await, 8_680);

    let again = edge.ok("/v1/settle", &settle).await;
    assert_eq!(again, json!({ "result": "already_settled", "buckets": [] }));
    assert_eq!(edge.tokens_left().await, 8_680);
}

#[tokio::test]
async fn a_stream_says_what_it_used_so_far_and_settles_in_the_end() {
    let edge = Edge::start().await;
    edge.ok("/v1/reserve", &reserve("r1")).await;
    let so_far = |output: u64| json!({ "domain": "llm", "id": "r1", "usage": { "prompt_tokens": 300, "output_tokens": output } });
    for (output, left) in [(100, 9_200), (1000, 8_700), (1000, 8_700), (900, 8_700)] {
        let grown = edge.ok("/v1/progress", &so_far(output)).await;
        assert_eq!(grown["result"], "grown");
        assert_eq!(edge.tokens_left().await, left);
    }
    let alive = json!({ "domain": "llm", "id": "r1" });
    assert_eq!(edge.ok("/v1/progress", &alive).await["result"], "grown");
    assert_eq!(
        edge.ok("/v1/settle", &so_far(950)).await["result"],
        "settled"
    );
    assert_eq!(edge.tokens_left().await, 8_750);
    let after = edge.ok("/v1/progress", &so_far(5000)).await;
    assert_eq!(after["result"], "already_settled");
    assert_eq!(edge.tokens_left().await, 8_750);

    let total = json!({ "domain": "llm", "id": "r1", "usage": { "total": 5 } });
    let nobodys = json!({ "domain": "llm", "id": "r2" });
    for (body, status) in [(total, 400), (nobodys, 404)] {
        assert_eq!(edge.post("/v1/progress", &body).await.status, status);
    }
}

#[tokio::test]
async fn a_settlement_by_total_needs_no_descriptors() {
    let edge = Edge::start().await;
    edge.ok("/v1/reserve", &reserve("r1")).await;
    let settle = json!({ "domain": "llm", "id": "r1", "usage": { "total": 12_000 } });
    assert_eq!(edge.ok("/v1/settle", &settle).await["result"], "settled");
    assert_eq!(edge.tokens_left().await, -2_000);
}

#[tokio::test]
async fn an_id_is_made_where_the_caller_has_none() {
    let edge = Edge::start().await;
    let mut body = reserve("");
    body["estimate"] = json!({ "input_tokens": 100, "output_tokens": 50 });
    let answer = edge.ok("/v1/reserve", &body).await;
    assert_eq!(level(&answer, "tenant-tokens"), 9_850);
    let release = json!({ "domain": "llm", "id": answer["id"] });
    assert_eq!(edge.ok("/v1/release", &release).await["result"], "released");
    assert_eq!(edge.tokens_left().await, 10_000);
    let again = edge.ok("/v1/release", &release).await;
    assert_eq!(again["result"], "already_settled");
}

#[tokio::test]
async fn a_refusal_is_429_with_the_time_to_wait_rounded_up() {
    let edge = Edge::start().await;
    for id in ["1", "2", "3", "4", "5"] {
        edge.ok("/v1/reserve", &reserve(id)).await;
    }
    // One comes back every 12 s.
    edge.clock.advance(Duration::from_micros(500_001));
    let refused = edge.post("/v1/reserve", &reserve("6")).await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("retry-after"), Some("12"));
    let answer = refused.json();
    assert_eq!(answer["admitted"], false);
    assert_eq!(answer["retry_after_ms"], 11_500);
    assert_eq!(answer.get("id"), None);
    let fits = |bucket: &Value| (bucket["limit"].clone(), bucket["fits"].clone());
    let buckets: Vec<_> = answer["buckets"]
        .as_array()
        .unwrap()
        .iter()
        .map(fits)
        .collect();
    assert_eq!(
        buckets,
        [
            (json!("tenant-requests"), json!(false)),
            (json!("tenant-tokens"), json!(true)),
        ]
    );
}

#[tokio::test]
async fn what_can_never_fit_names_no_time_to_wait() {
    let edge = Edge::start().await;
    let mut body = reserve("r1");
    body["estimate"] = json!({ "total": 10_001 });
    let refused = edge.post("/v1/reserve", &body).await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, None));
    assert_eq!(refused.json().get("retry_after_ms"), None);
}

#[tokio::test]
async fn a_class_of_lower_priority_leaves_its_headroom() {
    let edge = Edge::start().await;
    let mut body = reserve("r1");
    body["priority"] = json!("batch");
    // All but 500 stay free of its class, and an estimate of ours would be cut to that.
    body["estimate"] = json!({ "total": 501 });
    let refused = edge.post("/v1/reserve", &body).await;
    assert_eq!(refused.status, 429);
    body["priority"] = json!("interactive");
    assert_eq!(edge.post("/v1/reserve", &body).await.status, 200);
}

#[tokio::test]
async fn usage_without_a_reservation_is_charged_in_full() {
    let edge = Edge::start().await;
    let usage = json!({
        "domain": "llm",
        "descriptors": [{ "entries": [{ "key": "tenant", "value": "acme" }] }],
        "usage": { "output_tokens": 30_000 },
    });
    let answer = edge.ok("/v1/usage", &usage).await;
    assert_eq!(answer["result"], "charged");
    assert_eq!(level(&answer, "tenant-tokens"), -20_000);
    assert_eq!(edge.tokens_left().await, -20_000);

    let nothing = json!({ "domain": "llm", "descriptors": [{ "tenant": "acme" }] });
    let answer = edge.ok("/v1/usage", &nothing).await;
    assert_eq!(answer, json!({ "result": "without_usage", "buckets": [] }));

    let settle = json!({
        "domain": "llm", "id": "never reserved",
        "descriptors": [{ "tenant": "acme" }], "usage": { "total": 7 },
    });
    assert_eq!(edge.ok("/v1/settle", &settle).await["result"], "charged");
    assert_eq!(edge.tokens_left().await, -20_007);
}

#[tokio::test]
async fn a_bucket_is_shown_as_it_stands() {
    let edge = Edge::start().await;
    let mut body = reserve("r1");
    body["estimate"] = json!({ "total": 9_500 });
    body["descriptors"] = json!([{ "tenant": "a b/é" }]);
    edge.ok("/v1/reserve", &body).await;
    let reply = edge.get("/v1/bucket?domain=llm&tenant=a+b%2F%C3%A9").await;
    assert_eq!(reply.status, 200);
    let answer = reply.json();
    assert_eq!(answer["rule"], "tenant");
    let requests = &answer["buckets"][0];
    assert_eq!(
        (&requests["fits"], &requests["charged"]),
        (&json!(true), &json!(0))
    );
    let mut tokens = answer["buckets"][1].clone();
    let key = tokens["key"].take();
    assert_eq!(key.as_str().map(str::len), Some(22));
    assert_eq!(
        tokens,
        json!({
            "limit": "tenant-tokens", "key": null, "burst": 10_000, "rate": 5_000,
            "period_ms": 60_000, "level": 500, "charged": 0, "fits": false,
            // 300 are missing to the estimate of 800, at 5000 a minute.
            "retry_after_ms": 3_600, "full_after_ms": 114_000,
            "held_reservations": 1, "held_amount": 9_500,
        })
    );
    // Looking changed nothing.
    assert_eq!(
        edge.get("/v1/bucket?domain=llm&tenant=a+b%2F%C3%A9")
            .await
            .json(),
        answer
    );
}

#[tokio::test]
async fn a_query_is_one_descriptor_in_its_order() {
    let edge = Edge::start().await;
    for path in [
        "/v1/bucket?domain=llm&tenant=acme&tenant=acme",
        "/v1/bucket?model=x&domain=llm&tenant=acme",
    ] {
        let reply = edge.get(path).await;
        assert_eq!(
            (reply.status, reply.json()),
            (200, json!({ "rule": null, "buckets": [] }))
        );
    }
    let reply = edge.get("/v1/bucket?tenant=acme&domain=llm").await;
    assert_eq!(reply.json()["rule"], "tenant");
}
