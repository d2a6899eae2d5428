//! What each provider's answer used.

use super::fixture::{ALL, body, directory, gzip, read};
use tollgate::usage::{End, Reader, ResponseHead};

#[test]
fn every_provider_and_every_format_comes_to_its_measures() {
    for (name, expected) in ALL {
        let (body, content_type) = body(name);
        let found = read(content_type, None, [&body[..]]);
        assert_eq!(found.so_far.usage, *expected, "{name}");
        assert_eq!(found.end, End::Whole, "{name}");
        assert!(!found.so_far.bad_count, "{name}");
        assert_eq!(
            found.missing(),
            expected.is_none().then_some("no_usage"),
            "{name}"
        );
    }
}

#[test]
fn every_file_is_in_the_table() {
    let entries = std::fs::read_dir(directory()).expect("a directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    for name in names {
        let known = ALL.iter().any(|(known, _)| name.to_str() == Some(known));
        assert!(known, "{} is not in the table", name.display());
    }
}

#[test]
fn the_type_is_seen_in_the_body_where_the_head_does_not_say_it() {
    for (name, expected) in ALL {
        let (body, _) = body(name);
        for content_type in ["", "text/plain; charset=utf-8"] {
            let found = read(content_type, None, [&body[..]]);
            assert_eq!(found.so_far.usage, *expected, "{name}");
        }
        let mut reader = Reader::new(&ResponseHead::default());
        reader.feed(&body);
        assert_eq!(reader.finish().so_far.usage, *expected, "{name}");
    }
}

#[test]
fn a_stream_is_counted_while_its_usage_is_not_known() {
    let (body, content_type) = body("openai-chat.sse");
    let mut reader = Reader::new(&ResponseHead {
        content_type: Some(content_type),
        content_encoding: None,
    });
    let (mut bytes, mut texts) = (0, 0);
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        reader.feed(line);
        let so_far = reader.so_far();
        assert!(so_far.text_bytes >= bytes && so_far.texts >= texts);
        (bytes, texts) = (so_far.text_bytes, so_far.texts);
    }
    // The first and empty one, nine words, and one that tries to be a usage.
    assert_eq!(texts, 11);
    let text = String::from_utf8(body).expect("text");
    let parts = text.lines().filter_map(|line| {
        let json: serde_json::Value = serde_json::from_str(line.strip_prefix("data: ")?).ok()?;
        let delta = json.pointer("/choices/0/delta/content")?;
        delta.as_str().map(str::len)
    });
    assert_eq!(bytes, u64::try_from(parts.sum::<usize>()).expect("small"));
}

#[test]
fn the_texts_of_every_provider_are_counted() {
    for (name, expected) in ALL {
        let without = ["embed", "rerank", "blocked", "comments"];
        let (body, content_type) = body(name);
        let found = read(content_type, None, [&body[..]]);
        let wrote = expected.is_none_or(|[.., output]| output > 0)
            && !without.iter().any(|part| name.contains(part));
        assert_eq!(found.so_far.text_bytes > 0, wrote, "{name}");
    }
}

#[test]
fn a_stream_that_breaks_off_keeps_what_was_said() {
    let (body, content_type) = body("anthropic.sse");
    let text = String::from_utf8(body).expect("text");
    let (before, _) = text.split_once("event: message_delta").expect("an end");
    for encoding in [None, Some("gzip")] {
        let bytes = match encoding {
            None => before.as_bytes().to_vec(),
            Some(_) => gzip(before.as_bytes()),
        };
        let found = read(content_type, encoding, [&bytes[..]]);
        assert_eq!(found.so_far.usage, Some([3_883, 30_464, 0, 1]));
        assert_eq!(found.end, End::CutShort);
        assert!(found.so_far.text_bytes > 100);
    }
}
