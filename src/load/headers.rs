//! Header blocks: the one that every request begins with, and those of answers.
//!
//! We forbid the peer a table of its own (`SETTINGS_HEADER_TABLE_SIZE = 0`), so that a block of an
//! answer means the same whenever it comes. There are few different ones, and each is decoded once.

use std::str;

use hashbrown::HashMap;
use loona_hpack::Decoder;

use super::Target;

/// A `date` among the headers makes a new block each second.
const MAX_BLOCKS: usize = 256;

/// What peers keep of ours unless they say otherwise.
pub(super) const DEFAULT_TABLE: u32 = 4096;

/// The blocks that requests begin with, as ordinary clients send them: spelled out once, pointed at
/// from then on.
#[derive(Clone, Debug)]
pub(super) struct RequestBlocks {
    /// The first of a connection.
    pub(super) first: Vec<u8>,
    /// All others.
    pub(super) next: Vec<u8>,
}

impl RequestBlocks {
    /// For a peer that keeps a table of `table` bytes for us.
    pub(super) fn new(target: &Target, table: u32) -> Self {
        // By their places in the static table: `:method: POST`, `:scheme: http`.
        let fixed = [0x83, 0x86];
        // And `:path`, `:authority`, `content-type`, `user-agent`; `te` is not in it.
        let fields: [(u8, &str); 5] = [
            (4, &target.path),
            (1, &target.authority),
            (31, "application/grpc"),
            (58, concat!("tollgate-bench/", env!("CARGO_PKG_VERSION"))),
            (0, "trailers"),
        ];
        let size: usize = fields.iter().map(|(_, value)| value.len() + 32 + 16).sum();
        let kept = usize::try_from(table).is_ok_and(|table| size <= table);
        let mut first = fixed.to_vec();
        let mut next = fixed.to_vec();
        // The table's newest entry is 62.
        for ((name, value), place) in fields.into_iter().zip((62..=66).rev()) {
            match (kept, name) {
                (true, name) => first.push(0x40 | name),
                (false, name @ 0..15) => first.push(name),
                (false, name) => first.extend([0x0f, name - 15]),
            }
            if name == 0 {
                text(&mut first, "te");
            }
            text(&mut first, value);
            next.push(0x80 | place);
        }
        if !kept {
            next.clone_from(&first);
        }
        Self { first, next }
    }
}

/// A text after its length, which has seven bits and then as many bytes as it needs.
fn text(block: &mut Vec<u8>, text: &str) {
    match text.len().checked_sub(127) {
        None => block.push(text.len().to_le_bytes()[0]),
        Some(mut rest) => {
            block.push(127);
            while rest >= 128 {
                block.push(rest.to_le_bytes()[0] | 0x80);
                rest /= 128;
            }
            block.push(rest.to_le_bytes()[0]);
        }
    }
    block.extend_from_slice(text.as_bytes());
}

/// What of a header block matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Block {
    /// `:status`, unless it is 200.
    pub(super) http_error: Option<String>,
    /// `grpc-status`.
    pub(super) grpc_status: Option<u32>,
    /// `grpc-message`, decoded.
    pub(super) message: String,
}

/// The blocks met so far.
#[derive(Debug, Default)]
pub(super) struct Blocks(HashMap<Box<[u8]>, Block, foldhash::fast::RandomState>);

impl Blocks {
    /// What a block says; `None` if it cannot be read.
    pub(super) fn read(&mut self, block: &[u8]) -> Option<&Block> {
        if !self.0.contains_key(block) {
            let read = decode(block)?;
            if self.0.len() >= MAX_BLOCKS {
                self.0.clear();
            }
            self.0.insert(block.into(), read);
        }
        self.0.get(block)
    }
}

fn decode(block: &[u8]) -> Option<Block> {
    let mut decoder = Decoder::new();
    decoder.set_max_table_size(0);
    decoder.set_max_allowed_table_size(0);
    let mut read = Block::default();
    let headers = decoder.decode(block).ok()?;
    for (name, value) in headers {
        let value = String::from_utf8_lossy(&value);
        match name.as_slice() {
            b":status" if value != "200" => read.http_error = Some(value.into_owned()),
            // A status that is no number is an error all the same: UNKNOWN.
            b"grpc-status" => read.grpc_status = Some(value.parse().unwrap_or(2)),
            b"grpc-message" => read.message = percent_decoded(&value),
            _ => {}
        }
    }
    Some(read)
}

/// `grpc-message` has `%20` and the like.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = match after {
            [high, low, ..] if *first == b'%' => str::from_utf8(&[*high, *low])
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 16).ok()),
            _ => None,
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = match escaped {
            Some(_) => &after[2..],
            None => after,
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(host: &str) -> Target {
        Target::new(&format!("{host}:80"), "/a.B/C").unwrap()
    }

    #[test]
    fn requests_say_the_same_whether_spelled_out_or_pointed_at() {
        let long = "h".repeat(700);
        for (table, host) in [(DEFAULT_TABLE, "host"), (0, "host"), (DEFAULT_TABLE, &long)] {
            let target = target(host);
            let blocks = RequestBlocks::new(&target, table);
            assert_eq!(blocks.next.len() == 7, table > 0);
            let mut decoder = Decoder::new();
            let first = decoder.decode(&blocks.first).unwrap();
            let field = |name: &str, value: &str| (name.into(), value.into());
            let expected: Vec<(Vec<u8>, Vec<u8>)> = vec![
                field(":method", "POST"),
                field(":scheme", "http"),
                field(":path", "/a.B/C"),
                field(":authority", &target.authority),
                field("content-type", "application/grpc"),
                field(
                    "user-agent",
                    concat!("tollgate-bench/", env!("CARGO_PKG_VERSION")),
                ),
                field("te", "trailers"),
            ];
            assert_eq!(first, expected);
            assert_eq!(decoder.decode(&blocks.next).unwrap(), expected);
            assert_eq!(decoder.decode(&blocks.next).unwrap(), expected);
        }
    }

    #[test]
    fn answers_are_read_however_they_are_written() {
        let mut encoder = loona_hpack::Encoder::new();
        let headers: [(&[u8], &[u8]); 3] = [
            (b":status", b"200"),
            (b"grpc-status", b"14"),
            (b"grpc-message", b"no%20store%2"),
        ];
        let block = encoder.encode(headers);
        let mut blocks = Blocks::default();
        let expected = Block {
            http_error: None,
            grpc_status: Some(14),
            message: "no store%2".to_owned(),
        };
        assert_eq!(blocks.read(&block), Some(&expected));
        assert_eq!(blocks.read(&block), Some(&expected));
        // `:status: 404`; `grpc-status` after a change of the table's size, its value in
        // Huffman's code; a place in a table that we do not keep.
        let missing = blocks.read(&[0x8d]).unwrap();
        assert_eq!(missing.http_error.as_deref(), Some("404"));
        let huffman = b"\x20\x00\x0bgrpc-status\x81\x07";
        assert_eq!(blocks.read(huffman).unwrap().grpc_status, Some(0));
        assert_eq!(blocks.read(&[0xc2]), None);
    }
}
