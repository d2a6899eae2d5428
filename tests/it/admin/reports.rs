//! Reports: by which names, and several at once.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::fixture::{Edge, level};

fn report(usage: &Value) -> Value {
    json!({ "domain": "llm", "descriptors": [{ "tenant": "acme" }], "usage": usage })
}

async fn invalid(edge: &Edge) -> u64 {
    let text = edge.get("/metrics").await.body;
    let name = "tollgate_reports_total{result=\"invalid\",source=\"api\"} ";
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    value.map_or(0, |value| value.parse().expect("a number"))
}

#[tokio::test]
async fn inclusive_names_are_taken_apart() {
    let edge = Edge::start().await;
    let used = json!({ "prompt_tokens": 2_048, "cached_tokens": 1_920, "completion_tokens": 477, "total_tokens": 2_525 });
    let answer = edge.ok("/v1/usage", &report(&used)).await;
    assert_eq!(level(&answer, "tenant-tokens"), 10_000 - 2_525);

    let edge = Edge::start().await;
    let answer = edge
        .ok("/v1/usage", &report(&json!({ "total_tokens": 3_000 })))
        .await;
    assert_eq!(level(&answer, "tenant-tokens"), 7_000);
    let mut reserve = report(&Value::Null);
    reserve["estimate"] = json!({ "prompt_tokens": 100, "completion_tokens": 50 });
    reserve["id"] = json!("r1");
    reserve.as_object_mut().expect("an object").remove("usage");
    edge.ok("/v1/reserve", &reserve).await;
    assert_eq!(edge.tokens_left().await, 6_850);
    let mut settle = report(&json!({ "prompt_tokens": 90, "total_tokens": 100 }));
    settle["id"] = json!("r1");
    edge.ok("/v1/settle", &settle).await;
    assert_eq!(edge.tokens_left().await, 6_900);
}

#[tokio::test]
async fn counts_that_contradict_each_other_are_refused_and_counted() {
    let edge = Edge::start().await;
    for (index, (usage, reason, message)) in [
        (
            json!({ "prompt_tokens": 3_883, "cached_tokens": 30_464 }),
            "bad_usage",
            "part of it and come to 30464",
        ),
        (
            json!({ "prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 9 }),
            "bad_usage",
            "total_tokens is 9, but prompt and answer come to 10",
        ),
        (
            json!({ "total": 5, "prompt_tokens": 5 }),
            "ambiguous_usage",
            "not both",
        ),
        (
            json!({ "prompt_token": 5 }),
            "bad_usage",
            "usage.prompt_token: no such count",
        ),
        (
            json!({ "prompt_tokens": 1e13 }),
            "bad_usage",
            "no whole number",
        ),
        (
            json!({ "total_tokens": 2_000_000_000 }),
            "bad_usage",
            "more than the 1000000000",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        for path in ["/v1/usage", "/v1/settle"] {
            let mut body = report(&usage);
            body["id"] = json!("r1");
            let reply = edge.post(path, &body).await;
            let error = &reply.json()["error"];
            assert_eq!(
                (reply.status, &error["reason"]),
                (400, &json!(reason)),
                "{usage}"
            );
            let told = error["message"].as_str().expect("a message");
            assert!(told.contains(message), "{told}");
        }
        let before = u64::try_from(index).expect("small");
        assert_eq!(invalid(&edge).await, 2 * before + 2, "{usage}");
    }
    assert_eq!(edge.tokens_left().await, 10_000);
}

#[tokio::test]
async fn a_report_with_an_id_settles() {
    let edge = Edge::start().await;
    let reserve = json!({ "domain": "llm", "descriptors": [{ "tenant": "acme" }], "id": "r1" });
    edge.ok("/v1/reserve", &reserve).await;
    let settle = json!({ "domain": "llm", "id": "r1", "usage": { "output_tokens": 30 } });
    for expected in ["settled", "already_settled"] {
        assert_eq!(edge.ok("/v1/usage", &settle).await["result"], expected);
    }
    assert_eq!(edge.tokens_left().await, 9_970);
}

#[tokio::test]
async fn each_report_of_a_list_is_answered_for_itself() {
    let edge = Edge::start().await;
    for id in ["r1", "r2"] {
        let reserve = json!({ "domain": "llm", "descriptors": [{ "tenant": "acme" }], "id": id });
        edge.ok("/v1/reserve", &reserve).await;
    }
    let list = json!({ "reports": [
        { "domain": "llm", "id": "r1", "usage": { "output_tokens": 100 } },
        { "domain": "llm", "id": "r2", "usage": { "output_tokens": -1 } },
        { "domain": "elsewhere", "descriptors": [{ "tenant": "acme" }], "usage": { "total": 1 } },
        { "domain": "llm", "descriptors": [{ "tenant": "acme" }], "usage": { "prompt_tokens": 7 } },
        { "domain": "llm", "id": "nobody's", "usage": { "total": 1 } },
        { "domain": "llm", "descriptor": [] },
        17,
        { "reports": [] },
        { "domain": "llm", "id": "r2" },
    ]});
    let answer = edge.ok("/v1/usage", &list).await;
    let answers = answer["reports"].as_array().expect("a list");
    let told: Vec<&str> = answers
        .iter()
        .map(|answer| {
            let result = answer["result"].as_str();
            result
                .or_else(|| answer["error"]["reason"].as_str())
                .expect("either")
        })
        .collect();
    assert_eq!(
        told,
        [
            "settled",
            "bad_usage",
            "unknown_domain",
            "charged",
            "unknown_id",
            "bad_json",
            "bad_json",
            "bad_json",
            "settled",
        ]
    );
    // 100 and 7 were used, and what is unknown of r2 stays at its estimate.
    assert_eq!(edge.tokens_left().await, 10_000 - 100 - 7 - 800);
    assert_eq!(invalid(&edge).await, 5);
}

#[tokio::test]
async fn a_list_stands_by_itself_and_has_a_bound() {
    let edge = Edge::start().await;
    let mut list = String::new();
    for index in 0..1_000 {
        let comma = if index > 0 { "," } else { "" };
        let item =
            r#"{"domain":"llm","descriptors":[{"tenant":"acme"}],"usage":{"output_tokens":1}}"#;
        write!(list, "{comma}{item}").expect("into memory");
    }
    let body = format!(r#"{{"reports":[{list}]}}"#);
    let reply = edge.post_text("/v1/usage", &body).await;
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.json()["reports"].as_array().map(Vec::len),
        Some(1_000)
    );
    assert_eq!(edge.tokens_left().await, 9_000);

    let body = format!(r#"{{"reports":[{list},{{}}]}}"#);
    let reply = edge.post_text("/v1/usage", &body).await;
    let reason = &reply.json()["error"]["reason"];
    assert_eq!((reply.status, reason), (400, &json!("too_many_reports")));
    let body = r#"{"domain":"llm","reports":[]}"#;
    let reply = edge.post_text("/v1/usage", body).await;
    assert_eq!(
        (reply.status, &reply.json()["error"]["reason"]),
        (400, &json!("bad_json"))
    );
    assert_eq!(
        edge.ok("/v1/usage", &json!({ "reports": [] })).await,
        json!({ "reports": [] })
    );
    assert_eq!(edge.tokens_left().await, 9_000);
}

#[tokio::test]
async fn a_report_that_cannot_be_read_is_counted() {
    let edge = Edge::start().await;
    let paths = ["/v1/settle", "/v1/progress", "/v1/release", "/v1/usage"];
    let mut refused = 0;
    for path in paths {
        let nan = r#"{"domain":"llm","id":"r1","usage":{"output_tokens":NaN}}"#;
        let unknown = r#"{"domain":"llm","id":"r1","uasge":{"output_tokens":5}}"#;
        let elsewhere = r#"{"domain":"elsewhere","id":"r1"}"#;
        let long = " ".repeat((1 << 20) + 1);
        for body in [nan, unknown, elsewhere, &long] {
            assert!(edge.post_text(path, body).await.status >= 400, "{path}");
            refused += 1;
            assert_eq!(invalid(&edge).await, refused, "{path}: {body:.80}");
        }
    }
    let many = format!(r#"{{"reports":[{}0]}}"#, "0,".repeat(1_000));
    // A list has to be JSON as a whole.
    let broken = r#"{"reports":[{"domain":"llm","id":"r1"},{"usage":{"output_tokens":NaN}}]}"#;
    for list in [&many, broken, r#"{"domain":"llm","reports":[]}"#] {
        assert_eq!(edge.post_text("/v1/usage", list).await.status, 400);
        refused += 1;
        assert_eq!(invalid(&edge).await, refused, "{list:.80}");
    }
    // An admission is no report.
    assert_eq!(edge.post_text("/v1/reserve", "{").await.status, 400);
    assert_eq!(invalid(&edge).await, refused);
}
