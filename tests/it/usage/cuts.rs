//! Chunks are cut anywhere, and streams break off anywhere.

use proptest::prelude::*;
use tollgate::usage::{Found, Reader, ResponseHead};

use super::fixture::{ALL, body, deflate, gzip, read, zlib};

/// How a body may be sent.
type Encode = fn(&[u8]) -> Vec<u8>;
const ENCODINGS: &[(Option<&str>, Encode)] = &[
    (None, <[u8]>::to_vec),
    (Some("gzip"), gzip),
    (Some("deflate"), zlib),
    (Some("deflate"), deflate),
];

/// Every body in every encoding, with what is found in it whole.
fn all() -> impl Iterator<Item = (String, Vec<u8>, &'static str, Option<&'static str>, Found)> {
    ALL.iter().flat_map(|(name, expected)| {
        let (body, content_type) = body(name);
        ENCODINGS.iter().map(move |(encoding, encode)| {
            let bytes = encode(&body);
            let found = read(content_type, *encoding, [&bytes[..]]);
            assert_eq!(found.so_far.usage, *expected, "{name} {encoding:?}");
            (
                format!("{name} {encoding:?}"),
                bytes,
                content_type,
                *encoding,
                found,
            )
        })
    })
}

/// Encodings by themselves, so that their tests run beside each other.
fn one_cut_anywhere(in_encoding: Option<&str>) {
    for (name, bytes, content_type, encoding, whole) in all() {
        if encoding != in_encoding {
            continue;
        }
        for at in 0..=bytes.len() {
            let (left, right) = bytes.split_at(at);
            let found = read(content_type, encoding, [left, right]);
            assert_eq!(found, whole, "{name} cut at {at}");
        }
    }
}

#[test]
fn one_cut_anywhere_changes_nothing() {
    one_cut_anywhere(None);
}

#[test]
fn one_cut_anywhere_changes_nothing_when_gzipped() {
    one_cut_anywhere(Some("gzip"));
}

#[test]
fn one_cut_anywhere_changes_nothing_when_deflated() {
    one_cut_anywhere(Some("deflate"));
}

#[test]
fn byte_by_byte_changes_nothing() {
    for (name, bytes, content_type, encoding, whole) in all() {
        let found = read(content_type, encoding, bytes.chunks(1));
        assert_eq!(found, whole, "{name}");
    }
}

#[test]
fn a_body_that_breaks_off_never_tells_more_than_was_said() {
    for (name, bytes, content_type, encoding, whole) in all() {
        let head = ResponseHead {
            content_type: Some(content_type),
            content_encoding: encoding,
        };
        // Anthropic's clones take a part of the input out at the end.
        let most = match (whole.so_far.usage, name.contains("corrected")) {
            (Some([.., output]), true) => Some([34_824, 30_464, 0, output]),
            (usage, _) => usage,
        };
        for at in 0..bytes.len() {
            let (start, _) = bytes.split_at(at);
            let mut reader = Reader::new(&head);
            reader.feed(start);
            let before = reader.so_far();
            let found = reader.finish();
            assert_eq!(found.so_far, before, "{name} at {at}: told at the end only");
            let Some(usage) = found.so_far.usage else {
                continue;
            };
            let most = most.expect("a whole that has usage");
            for (part, most) in usage.into_iter().zip(most) {
                assert!(part <= most, "{name} at {at}: {usage:?} of {most:?}");
            }
            assert!(found.so_far.text_bytes <= whole.so_far.text_bytes);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn many_cuts_change_nothing(
        which in 0..ALL.len(),
        encoding in 0..ENCODINGS.len(),
        sizes in prop::collection::vec(0_usize..700, 1..40),
    ) {
        let (name, expected) = ALL[which];
        let (encoding, encode) = ENCODINGS[encoding];
        let (plain, content_type) = body(name);
        let bytes = encode(&plain);
        let whole = read(content_type, encoding, [&bytes[..]]);
        prop_assert_eq!(whole.so_far.usage, expected);
        let mut rest = &bytes[..];
        let mut chunks = Vec::new();
        for size in sizes {
            let (chunk, after) = rest.split_at(size.min(rest.len()));
            chunks.push(chunk);
            rest = after;
        }
        chunks.push(rest);
        prop_assert_eq!(read(content_type, encoding, chunks), whole);
    }
}
