//! What is no usage, whatever it looks like; and bodies that are not what they should be.

use tollgate::usage::{End, Found};

use super::fixture::{body, deflate, gzip, message, read, zlib};

const JSON: &str = "application/json";
const SSE: &str = "text/event-stream";

fn json(body: &str) -> Found {
    read(JSON, None, [body.as_bytes()])
}

fn sse(body: &str) -> Found {
    read(SSE, None, [body.as_bytes()])
}

#[test]
fn only_known_places_are_looked_at() {
    let usage = r#"{"prompt_tokens":11,"completion_tokens":31,"input_tokens":9}"#;
    for body in [
        format!(r#"{{"result":{{"usage":{usage}}}}}"#),
        format!(r#"{{"metadata":{{"usage":{usage}}}}}"#),
        format!(r#"{{"usage":{{"usage":{usage}}}}}"#),
        format!(r#"{{"usage":[{usage}]}}"#),
        format!(r#"[[{{"usage":{usage}}}]]"#),
        format!(r#"{{"choices":[{{"message":{{"content":"x","usage":{usage}}}}}]}}"#),
        format!(r#"{{"choices":[{{"usage":{usage}}}]}}"#),
        format!(r#"{{"content":[{{"type":"tool_use","input":{{"usage":{usage}}}}}]}}"#),
        format!(r#"{{"output":[{{"usage":{usage}}}]}}"#),
        format!(
            r#"{{"response":{{"output":[{{"usage":{usage}}}],"response":{{"usage":{usage}}}}}}}"#
        ),
        format!(r#"{{"a\"usage":{usage}}}"#),
        format!(r#"{{"us\u0061ge":{usage}}}"#),
        format!(r#"{{"usage_":{usage},"Usage":{usage},"":{usage}}}"#),
        r#"{"delta":"\"usage\":{\"prompt_tokens\":5}"}"#.to_owned(),
        format!(
            r#"{{"text":"{{\"usage\":{}}}"}}"#,
            usage.replace('"', "\\\"")
        ),
        usage.to_owned(),
        format!(r#""{{\"usage\":{}}}""#, usage.replace('"', "\\\"")),
    ] {
        let found = json(&body);
        assert_eq!(found.so_far.usage, None, "{body}");
        let found = sse(&format!(
            "data: {body}\n\nevent: {body}\n: {body}\nusage: {body}\n\n"
        ));
        assert_eq!(found.so_far.usage, None, "{body}");
    }
}

#[test]
fn a_count_that_cannot_be_is_not_believed_and_neither_is_what_stands_beside_it() {
    for bad in [
        "-1",
        "-0",
        "1.5",
        "1e3",
        "1000000000001",
        "99999999999999999999999999999999999999",
        "NaN",
        "Infinity",
        "+5",
        "0x10",
        "5.",
        ".5",
        "true",
        "\"12\"",
        "[12]",
        "{\"a\":12}",
    ] {
        for body in [
            format!(r#"{{"usage":{{"prompt_tokens":{bad},"completion_tokens":31}}}}"#),
            format!(
                r#"{{"usage":{{"prompt_tokens":5,"prompt_tokens_details":{{"cached_tokens":{bad}}}}}}}"#
            ),
            format!(r#"{{"usageMetadata":{{"promptTokenCount":3,"thoughtsTokenCount":{bad}}}}}"#),
            format!(r#"{{"meta":{{"billed_units":{{"input_tokens":{bad}}}}}}}"#),
        ] {
            let found = json(&body);
            assert_eq!(found.so_far.usage, None, "{body}");
            assert_eq!(found.missing(), Some("bad_count"), "{body}");
        }
    }
    for (said, expected) in [
        ("null", None),
        ("12.0", Some(12)),
        ("1000000000000", Some(1_000_000_000_000)),
    ] {
        let found = json(&format!(r#"{{"usage":{{"prompt_tokens":{said}}}}}"#));
        assert_eq!(found.so_far.usage.map(|usage| usage[0]), expected, "{said}");
        assert!(!found.so_far.bad_count, "{said}");
    }
    // A later one is a new chance, and an earlier one stays.
    let good = r#"{"usage":{"prompt_tokens":5,"completion_tokens":6}}"#;
    let bad = r#"{"usage":{"prompt_tokens":50,"completion_tokens":-6}}"#;
    for body in [
        format!("data: {good}\n\ndata: {bad}\n\n"),
        format!("data: {bad}\n\ndata: {good}\n\n"),
    ] {
        assert_eq!(sse(&body).so_far.usage, Some([5, 0, 0, 6]), "{body}");
    }
}

#[test]
fn inclusive_counts_are_taken_apart_and_never_go_below_zero() {
    for (usage, expected) in [
        // More cached than there was: nothing is uncached.
        (
            r#""usage":{"prompt_tokens":10,"prompt_tokens_details":{"cached_tokens":64}}"#,
            [0, 64, 0, 0],
        ),
        (
            r#""usage":{"prompt_tokens":100,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":60,"cache_write_tokens":30}}"#,
            [10, 60, 30, 7],
        ),
        // One that speaks OpenAI's protocol in front of Anthropic says it twice.
        (
            r#""usage":{"prompt_tokens":100,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":60},"cache_read_input_tokens":60,"cache_creation_input_tokens":30}"#,
            [10, 60, 30, 7],
        ),
        // … or counts in the one protocol and fills in zeros in the other's details.
        (
            r#""usage":{"prompt_tokens":30500,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":0,"cache_write_tokens":0},"cache_read_input_tokens":30464,"cache_creation_input_tokens":20}"#,
            [16, 30_464, 20, 7],
        ),
        (
            r#""usage":{"input_tokens":100,"input_tokens_details":{"cached_tokens":60},"output_tokens":7}"#,
            [40, 60, 0, 7],
        ),
        (
            r#""usage":{"input_tokens":100,"cache_read_input_tokens":60,"output_tokens":7}"#,
            [100, 60, 0, 7],
        ),
        (
            r#""usage":{"input_tokens":1,"cache_creation":{"ephemeral_5m_input_tokens":20,"ephemeral_1h_input_tokens":3},"output_tokens":7}"#,
            [1, 0, 23, 7],
        ),
        // Reasoning beside the completion: only the total has it.
        (
            r#""usage":{"prompt_tokens":10120,"completion_tokens":1499,"total_tokens":14428,"prompt_tokens_details":{"cached_tokens":120},"completion_tokens_details":{"reasoning_tokens":2809}}"#,
            [10_000, 120, 0, 4_308],
        ),
        // A total that is less, or beside a prompt that is not known as a whole, says nothing.
        (
            r#""usage":{"prompt_tokens":100,"completion_tokens":7,"total_tokens":100}"#,
            [100, 0, 0, 7],
        ),
        (
            r#""usage":{"input_tokens":10,"output_tokens":7,"total_tokens":99}"#,
            [10, 0, 0, 7],
        ),
        (
            r#""usage":{"prompt_tokens":12,"total_tokens":20}"#,
            [12, 0, 0, 8],
        ),
        (r#""usage":{"total_tokens":20}"#, [20, 0, 0, 0]),
        (
            r#""usage":{"billed_units":{"input_tokens":17,"output_tokens":71}}"#,
            [17, 0, 0, 71],
        ),
        (
            r#""usage":{"billed_units":{"input_tokens":1},"tokens":{"input_tokens":17.0,"output_tokens":71.0},"cached_tokens":16}"#,
            [1, 16, 0, 71],
        ),
        (
            r#""response":{"usageMetadata":{"promptTokenCount":5,"candidatesTokenCount":6}}"#,
            [5, 0, 0, 6],
        ),
        (
            r#""response":{"meta":{"tokens":{"input_tokens":5,"output_tokens":6}}}"#,
            [5, 0, 0, 6],
        ),
        (
            r#""usage":{"prompt_tokens":1000000000000,"completion_tokens":1000000000000},"usageMetadata":{"toolUsePromptTokenCount":1000000000000,"thoughtsTokenCount":1000000000000}"#,
            [1_000_000_000_000, 0, 0, 1_000_000_000_000],
        ),
    ] {
        let found = json(&format!("{{{usage}}}"));
        assert_eq!(found.so_far.usage, Some(expected), "{usage}");
    }
}

#[test]
fn zeros_at_the_end_of_a_stream_correct_nothing() {
    let begin = r#"{"type":"message_start","message":{"usage":{"input_tokens":21,"cache_read_input_tokens":100,"output_tokens":1}}}"#;
    for (usage, expected) in [
        (r#"{"output_tokens":50}"#, [21, 100, 0, 50]),
        (
            r#"{"input_tokens":0,"cache_read_input_tokens":0,"output_tokens":50}"#,
            [21, 100, 0, 50],
        ),
        (
            r#"{"input_tokens":0,"cache_read_input_tokens":121,"output_tokens":50}"#,
            [0, 121, 0, 50],
        ),
        (r#"{"input_tokens":22,"output_tokens":0}"#, [22, 100, 0, 1]),
        ("{}", [21, 100, 0, 1]),
        ("null", [21, 100, 0, 1]),
    ] {
        let found = sse(&format!(
            "data: {begin}\n\ndata: {{\"type\":\"message_delta\",\"usage\":{usage}}}\n\n"
        ));
        assert_eq!(found.so_far.usage, Some(expected), "{usage}");
    }
}

#[test]
fn one_event_that_is_none_does_not_lose_the_next() {
    let good = r#"data: {"usage":{"input_tokens":5,"output_tokens":6}}"#;
    for bad in [
        "data: {\"usage\":{\"input_tokens\":7",
        "data: {]",
        "data: \"half a text",
        "data: hello",
        "data",
        "data:",
        "\u{feff}data: {}",
        "nonsense without a colon",
    ] {
        let found = sse(&format!("{bad}\n\n{good}\n\n"));
        assert_eq!(found.so_far.usage, Some([5, 0, 0, 6]), "{bad}");
        assert_eq!(found.end, End::Whole, "{bad}");
    }
}

#[test]
fn lines_of_json_are_documents_too() {
    let lines = "{\"message\":{\"content\":\"a\"}}\n{\"usage\":{\"prompt_tokens\":5}}\n";
    let found = read("application/x-ndjson", None, [lines.as_bytes()]);
    assert_eq!(found.so_far.usage, Some([5, 0, 0, 0]));
    assert_eq!(found.end, End::Whole);
}

#[test]
fn what_is_missing_says_why() {
    let (whole, _) = body("openai-chat.json");
    let half = &whole[..whole.len() / 2];
    let broken = [&gzip(&whole)[..40], &[0xFF; 40]].concat();
    let zeros = gzip(&vec![b' '; 24 << 20]);
    for (content_type, encoding, bytes, missing) in [
        (JSON, None, &b""[..], "no_usage"),
        (JSON, None, b"{}", "no_usage"),
        (JSON, None, b"{\"error\":{\"message\":\"no\"}}", "no_usage"),
        (JSON, None, half, "cut_short"),
        (JSON, None, b"<html>", "malformed"),
        (JSON, None, b"{\"a\" 5}", "malformed"),
        (SSE, None, b"data: {}\n\n", "cut_short"),
        (SSE, None, b"data: {}\n\ndata: [DONE]\n\n", "no_usage"),
        (SSE, None, b"data: {}\n\ndata: [DONE] \n\n", "cut_short"),
        (SSE, Some("gzip"), &gzip(&whole)[..100], "cut_short"),
        (JSON, Some("gzip"), &whole[..], "broken_encoding"),
        (JSON, Some("gzip"), &broken, "broken_encoding"),
        (JSON, Some("deflate"), &zlib(&whole)[..30], "cut_short"),
        (JSON, Some("deflate"), &deflate(&whole)[..30], "cut_short"),
        (JSON, Some("gzip"), &zeros, "too_large"),
        (JSON, Some("br"), &whole, "unknown_encoding"),
        ("audio/mpeg", None, &whole, "unknown_type"),
        (
            "application/vnd.amazon.eventstream",
            None,
            b"{\"usage\":{}}....",
            "malformed",
        ),
    ] {
        let found = read(content_type, encoding, [bytes]);
        let told = found.missing();
        assert_eq!(told, Some(missing), "{content_type} {encoding:?} {found:?}");
    }
}

#[test]
fn types_and_encodings_are_known_however_they_are_written() {
    let (whole, _) = body("openai-chat.json");
    for (content_type, encoding, bytes) in [
        (
            "Application/JSON;charset=utf-8",
            Some("identity"),
            whole.clone(),
        ),
        (" application/problem+json ; a=b", None, whole.clone()),
        ("application/json", Some(" GZIP "), gzip(&whole)),
        ("application/json", Some("x-gzip"), gzip(&whole)),
        ("application/json", Some("deflate"), zlib(&whole)),
        ("application/json", Some("deflate"), deflate(&whole)),
        (
            "application/json",
            Some("gzip"),
            [gzip(&whole[..9]), gzip(&whole[9..])].concat(),
        ),
        (
            "application/json",
            None,
            ["\u{feff}".as_bytes(), &whole].concat(),
        ),
    ] {
        let found = read(content_type, encoding, [&bytes[..]]);
        assert_eq!(
            found.so_far.usage,
            Some([128, 1_920, 0, 477]),
            "{content_type} {encoding:?}"
        );
        assert_eq!(found.end, End::Whole, "{content_type} {encoding:?}");
    }
}

#[test]
fn a_message_whose_lengths_are_wrong_leads_nowhere() {
    let usage = br#"{"usage":{"inputTokens":5,"outputTokens":6}}"#;
    let good = message("metadata", usage);
    let stream = "application/vnd.amazon.eventstream";
    assert_eq!(
        read(stream, None, [&good[..]]).so_far.usage,
        Some([5, 0, 0, 6])
    );
    for at in 0..12 {
        let mut bad = good.clone();
        bad[at] ^= 1;
        let found = read(stream, None, [&bad[..], &good[..]]);
        assert_eq!(
            (found.so_far.usage, found.end),
            (None, End::Malformed),
            "{at}"
        );
    }
}

#[test]
fn a_line_of_an_event_ends_in_three_ways() {
    let (body, content_type) = body("comments-and-multi-line.sse");
    let text = String::from_utf8(body).expect("text");
    for end in ["\n", "\r\n", "\r"] {
        let text = text.replace('\n', end);
        for size in [1, 2, 3, text.len()] {
            let found = read(content_type, None, text.as_bytes().chunks(size));
            assert_eq!(found.so_far.usage, Some([12, 0, 0, 5]), "{end:?} {size}");
            assert_eq!(found.end, End::Whole, "{end:?} {size}");
        }
    }
}
