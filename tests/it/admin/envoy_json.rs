//! `/json`, as people with curl know it from envoyproxy/ratelimit.

use serde_json::json;

use super::fixture::Edge;
use crate::support::http;

#[tokio::test]
async fn a_window_counts_down_and_refuses() {
    let edge = Edge::start().await;
    let body = json!({
        "domain": "ref",
        "descriptors": [{ "entries": [{ "key": "path", "value": "/a" }] }],
    });
    let limit = json!({ "name": "per-path", "requestsPerUnit": 2, "unit": "MINUTE" });
    for (status, code, left) in [
        (200, "OK", Some(1)),
        (200, "OK", None),
        (429, "OVER_LIMIT", None),
    ] {
        let reply = edge.post("/json", &body).await;
        let answer = reply.json();
        assert_eq!(
            (reply.status, &answer["overallCode"]),
            (status, &json!(code))
        );
        let mut wanted =
            json!({ "code": code, "currentLimit": limit, "durationUntilReset": "40s" });
        if let Some(left) = left {
            wanted["limitRemaining"] = json!(left);
        }
        assert_eq!(answer["statuses"], json!([wanted]));
        let refused = status == 429;
        assert_eq!(answer.get("rawBody").is_some(), refused);
        let headers = answer.get("responseHeadersToAdd");
        assert_eq!(headers.is_some(), refused);
        if refused {
            assert_eq!(
                headers.unwrap()[0],
                json!({ "key": "retry-after", "value": "40" })
            );
        }
    }
}

#[tokio::test]
async fn all_fields_are_read_under_both_of_their_names() {
    let edge = Edge::start().await;
    let entry = json!([{ "key": "path", "value": "/b" }]);
    let left = async |body: &serde_json::Value| {
        let reply = edge.post("/json", body).await;
        assert_eq!(reply.status, 200, "{body}");
        reply.json()["statuses"][0]["limitRemaining"].clone()
    };
    for (take, give) in [
        (
            json!({ "domain": "ref", "hitsAddend": 2, "descriptors": [{ "entries": entry }] }),
            json!({ "domain": "ref", "descriptors": [{ "entries": entry, "hitsAddend": "1", "isNegativeHits": true }] }),
        ),
        (
            json!({ "domain": "ref", "hits_addend": "1", "descriptors": [{ "entries": entry, "limit": null }] }),
            json!({ "domain": "ref", "descriptors": [{ "entries": entry, "hits_addend": 1.0, "is_negative_hits": true }] }),
        ),
    ] {
        assert_eq!(
            left(&take).await,
            json!(null),
            "none left: zero is not written"
        );
        assert_eq!(left(&give).await, json!(1));
    }
    for (limit, unit) in [
        (json!({ "requestsPerUnit": 9, "unit": "HOUR" }), "HOUR"),
        (json!({ "requests_per_unit": 9, "unit": 1 }), "SECOND"),
    ] {
        let body =
            json!({ "domain": "ref", "descriptors": [{ "entries": entry, "limit": limit }] });
        let status = edge.post("/json", &body).await.json()["statuses"][0].clone();
        let wanted = json!({ "requestsPerUnit": 9, "unit": unit });
        assert_eq!(
            (&status["currentLimit"], &status["limitRemaining"]),
            (&wanted, &json!(8))
        );
    }
}

#[tokio::test]
async fn what_no_rule_limits_passes_without_a_limit() {
    let edge = Edge::start().await;
    for domain in ["ref", "nobody's"] {
        let body = json!({ "domain": domain, "descriptors": [{ "entries": [{ "key": "x" }] }] });
        let reply = http::send(edge.address, "PUT", "/json", body.to_string().as_bytes()).await;
        let wanted = json!({ "overallCode": "OK", "statuses": [{ "code": "OK" }] });
        assert_eq!((reply.status, reply.json()), (200, wanted));
    }
}

#[tokio::test]
async fn the_reservation_and_the_rules_metadata_come_back() {
    let edge = Edge::start().await;
    let body = json!({ "domain": "llm", "descriptors": [{ "entries": [{ "key": "tenant", "value": "acme" }] }] });
    let answer = edge.post("/json", &body).await.json();
    let id = answer["dynamicMetadata"]["reservation"].clone();
    let release = json!({ "domain": "llm", "id": id });
    assert_eq!(edge.ok("/v1/release", &release).await["result"], "released");

    let body = json!({ "domain": "ref", "descriptors": [{ "entries": [{ "key": "tag", "value": "x" }] }] });
    let answer = edge.post("/json", &body).await.json();
    assert_eq!(
        answer["dynamicMetadata"]["metadata"],
        json!({ "pool": "blue" })
    );
}

#[tokio::test]
async fn a_request_that_is_none_is_a_bad_request_and_nothing_else() {
    let edge = Edge::start().await;
    let with = |field: &str| {
        format!(
            r#"{{"domain":"ref","descriptors":[{{"entries":[{{"key":"path","value":"/c"}}]{field}}}]}}"#
        )
    };
    for body in [
        String::new(),
        "{}".to_owned(),
        "not JSON".to_owned(),
        r#"{"domain":"ref"}"#.to_owned(),
        with(r#","hits":1"#),
        with(r#","hitsAddend":-1"#),
        with(r#","hitsAddend":1.5"#),
        with(r#","hitsAddend":"x""#),
        with(r#","limit":{"requestsPerUnit":4294967296,"unit":"HOUR"}"#),
        with(r#","limit":{"requestsPerUnit":1,"unit":"UNKNOWN"}"#),
        with(r#","limit":{"requestsPerUnit":1,"unit":"hour"}"#),
    ] {
        let reply = edge.post_text("/json", &body).await;
        assert_eq!(
            (reply.status, reply.body.as_str()),
            (400, "Bad Request\n"),
            "{body}"
        );
        let content_type = reply.header("content-type").unwrap();
        assert!(content_type.starts_with("text/plain"), "{content_type}");
    }
    assert_eq!(edge.post_text("/json", &with("")).await.status, 200);
}
