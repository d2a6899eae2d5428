use std::time::Duration;

use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitResponse;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::google::protobuf::value::Kind;
use prost::Message as _;

use super::*;
use crate::service::Status;

fn decoded(answer: &Answer) -> RateLimitResponse {
    let mut bytes = Vec::new();
    encode(answer, &mut bytes);
    RateLimitResponse::decode(bytes.as_slice()).unwrap()
}

#[test]
fn an_answer_with_nothing_is_an_empty_ok() {
    let mut bytes = Vec::new();
    encode(&Answer::default(), &mut bytes);
    assert_eq!(bytes, [8, 1]);
    assert_eq!(
        decoded(&Answer::default()),
        RateLimitResponse {
            overall_code: Code::Ok.into(),
            ..RateLimitResponse::default()
        }
    );
}

#[test]
fn statuses_say_code_limit_rest_and_time() {
    for (unit, expected) in [
        (Unit::Second, rate_limit::Unit::Second),
        (Unit::Minute, rate_limit::Unit::Minute),
        (Unit::Hour, rate_limit::Unit::Hour),
        (Unit::Day, rate_limit::Unit::Day),
        (Unit::Week, rate_limit::Unit::Week),
        (Unit::Month, rate_limit::Unit::Month),
        (Unit::Year, rate_limit::Unit::Year),
    ] {
        // Lengths on both sides of what one byte and two can say.
        for length in [0, 1, 100, 127, 128, 129, 300, 16_383, 16_384, 70_000] {
            let name = "n".repeat(length);
            let response = decoded(&Answer {
                over_limit: true,
                statuses: vec![
                    Status::default(),
                    Status {
                        over_limit: true,
                        limit: Some(LimitStatus {
                            name: name.clone(),
                            requests_per_unit: u32::MAX,
                            unit,
                        }),
                        remaining: 7,
                        reset: Some(Duration::from_secs(u64::from(u32::MAX) + 1)),
                    },
                ],
                ..Answer::default()
            });
            assert_eq!(response.overall_code, i32::from(Code::OverLimit));
            let [first, second] = response.statuses.try_into().unwrap();
            assert_eq!(first.code, i32::from(Code::Ok));
            assert_eq!((first.current_limit, first.limit_remaining), (None, 0));
            assert_eq!(first.duration_until_reset, None);
            assert_eq!(second.code, i32::from(Code::OverLimit));
            assert_eq!(second.limit_remaining, 7);
            assert_eq!(second.duration_until_reset.unwrap().seconds, 1 << 32);
            let limit = second.current_limit.unwrap();
            assert_eq!(limit.name, name);
            assert_eq!(limit.requests_per_unit, u32::MAX);
            assert_eq!(limit.unit, i32::from(expected));
        }
    }
}

#[test]
fn a_reset_at_once_is_there() {
    let status = Status {
        reset: Some(Duration::ZERO),
        ..Status::default()
    };
    let response = decoded(&Answer {
        statuses: vec![status],
        ..Answer::default()
    });
    let reset = response.statuses[0].duration_until_reset.unwrap();
    assert_eq!((reset.seconds, reset.nanos), (0, 0));
}

#[test]
fn headers_body_and_metadata_come_as_they_are() {
    let tree = Metadata::Map(
        [
            ("null".to_owned(), Metadata::Null),
            ("no".to_owned(), Metadata::Bool(false)),
            ("zero".to_owned(), Metadata::Number(0.0)),
            ("number".to_owned(), Metadata::Number(-1.5)),
            ("empty".to_owned(), Metadata::Text(String::new())),
            (
                "list".to_owned(),
                Metadata::List(vec![Metadata::Bool(true), Metadata::Text("é".repeat(99))]),
            ),
        ]
        .into_iter()
        .collect(),
    );
    let response = decoded(&Answer {
        headers: vec![("retry-after", "5".to_owned()), ("x-empty", String::new())],
        body: "{}".to_owned(),
        metadata: vec![("limit", "a".to_owned()), ("reservation", String::new())],
        rule_metadata: Some(tree),
        ..Answer::default()
    });
    let headers: Vec<_> = response
        .response_headers_to_add
        .iter()
        .map(|header| (header.key.as_str(), header.value.as_str()))
        .collect();
    assert_eq!(headers, [("retry-after", "5"), ("x-empty", "")]);
    assert_eq!(response.raw_body, b"{}");
    let mut fields = response.dynamic_metadata.unwrap().fields;
    let text = |text: &str| Some(Kind::StringValue(text.to_owned()));
    assert_eq!(fields.remove("limit").unwrap().kind, text("a"));
    assert_eq!(fields.remove("reservation").unwrap().kind, text(""));
    let Some(Kind::StructValue(mut tree)) = fields.remove("metadata").unwrap().kind else {
        panic!("no map");
    };
    assert!(fields.is_empty());
    let mut kind = |name| tree.fields.remove(name).unwrap().kind;
    assert_eq!(kind("null"), Some(Kind::NullValue(0)));
    assert_eq!(kind("no"), Some(Kind::BoolValue(false)));
    assert_eq!(kind("zero"), Some(Kind::NumberValue(0.0)));
    assert_eq!(kind("number"), Some(Kind::NumberValue(-1.5)));
    assert_eq!(kind("empty"), text(""));
    let Some(Kind::ListValue(list)) = kind("list") else {
        panic!("no list");
    };
    let kinds: Vec<_> = list.values.into_iter().map(|value| value.kind).collect();
    assert_eq!(kinds, [Some(Kind::BoolValue(true)), text(&"é".repeat(99))]);
    assert!(tree.fields.is_empty());
}
