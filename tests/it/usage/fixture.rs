//! Recorded shapes of answers, and what each of them used.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::Crc;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use tollgate::usage::{Found, Reader, ResponseHead};

/// A file of `tests/data/usage` and its measures: input, cache read, cache write, output.
pub(super) type Expected = (&'static str, Option<[u64; 4]>);

/// Every file.
pub(super) const ALL: &[Expected] = &[
    ("anthropic-cache-write.json", Some([21, 2_048, 18_512, 97])),
    // It begins with 34,824 and ends with 3,883 and 30,464 of them cached.
    ("anthropic-corrected.sse", Some([3_883, 30_464, 0, 503])),
    ("anthropic.json", Some([3_883, 30_464, 0, 503])),
    ("anthropic.sse", Some([3_883, 30_464, 0, 503])),
    ("azure-openai-chat.sse", Some([512, 1_024, 0, 12])),
    ("bedrock-converse.eventstream.txt", Some([16, 2_387, 0, 9])),
    ("bedrock-converse.json", Some([16, 2_387, 0, 9])),
    ("carriage-returns.sse", Some([128, 1_920, 0, 477])),
    ("cohere-embed.json", Some([2, 0, 0, 0])),
    ("cohere-rerank.json", None),
    ("cohere.json", Some([215, 0, 0, 73])),
    ("cohere.sse", Some([215, 0, 0, 73])),
    ("comments-and-multi-line.sse", Some([12, 0, 0, 5])),
    ("gemini-array.json", Some([1_057, 4_096, 0, 900])),
    ("gemini-blocked.json", Some([88, 0, 0, 0])),
    ("gemini.json", Some([1_057, 4_096, 0, 900])),
    ("gemini.sse", Some([1_057, 4_096, 0, 900])),
    ("mistral.json", Some([291, 0, 0, 62])),
    ("mistral.sse", Some([291, 0, 0, 62])),
    ("openai-chat-tools.sse", Some([412, 0, 0, 18])),
    ("openai-chat-without-usage.sse", None),
    ("openai-chat.json", Some([128, 1_920, 0, 477])),
    ("openai-chat.sse", Some([128, 1_920, 0, 477])),
    ("openai-embeddings.json", Some([812, 0, 0, 0])),
    ("openai-responses-incomplete.sse", Some([499, 3_072, 0, 16])),
    ("openai-responses.json", Some([499, 3_072, 0, 1_204])),
    ("openai-responses.sse", Some([499, 3_072, 0, 1_204])),
];

/// The body of a file, and its content type.
pub(super) fn body(name: &str) -> (Vec<u8>, &'static str) {
    let bytes = std::fs::read(directory().join(name)).expect("a file of the table");
    if name.ends_with(".eventstream.txt") {
        let text = String::from_utf8(bytes).expect("text");
        let messages = text.lines().map(|line| {
            let (event, payload) = line.split_once(' ').expect("an event and its payload");
            message(event, payload.as_bytes())
        });
        let body = messages.flatten().collect();
        return (body, "application/vnd.amazon.eventstream");
    }
    let content_type = match name.rsplit_once('.') {
        Some((_, "json")) => "application/json; charset=utf-8",
        _ => "text/event-stream; charset=utf-8",
    };
    (bytes, content_type)
}

pub(super) fn directory() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/usage")
}

/// A message of AWS's event stream.
pub(super) fn message(event: &str, payload: &[u8]) -> Vec<u8> {
    let mut headers = Vec::new();
    for (name, value) in [
        (":event-type", event),
        (":content-type", "application/json"),
        (":message-type", "event"),
    ] {
        headers.push(u8::try_from(name.len()).expect("short"));
        headers.extend(name.bytes());
        headers.push(7); // a string
        headers.extend(u16::try_from(value.len()).expect("short").to_be_bytes());
        headers.extend(value.bytes());
    }
    let length = |length: usize| u32::try_from(length).expect("short").to_be_bytes();
    let mut message = Vec::new();
    message.extend(length(16 + headers.len() + payload.len()));
    message.extend(length(headers.len()));
    message.extend(crc(&message));
    message.extend(headers);
    message.extend(payload);
    message.extend(crc(&message));
    message
}

fn crc(bytes: &[u8]) -> [u8; 4] {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum().to_be_bytes()
}

/// What the reader finds in chunks of one body.
pub(super) fn read<C: AsRef<[u8]>>(
    content_type: &str,
    encoding: Option<&str>,
    chunks: impl IntoIterator<Item = C>,
) -> Found {
    let mut reader = Reader::new(&ResponseHead {
        content_type: Some(content_type),
        content_encoding: encoding,
    });
    for chunk in chunks {
        reader.feed(chunk.as_ref());
    }
    reader.finish()
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("into memory");
    encoder.finish().expect("into memory")
}

pub(super) fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("into memory");
    encoder.finish().expect("into memory")
}

pub(super) fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("into memory");
    encoder.finish().expect("into memory")
}
