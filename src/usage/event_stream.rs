//! AWS's binary event stream (`application/vnd.amazon.eventstream`): each message's payload is a
//! document.
//!
//! A message is its length and the length of its headers (four bytes each, big-endian), a CRC of
//! these, the headers, the payload, and a CRC of it all. The first CRC is checked, because lengths
//! that are none would lead astray. The last one is not: TLS has checked the bytes already, and
//! usage would have to wait for it.

use flate2::Crc;

use super::body::Findings;
use super::json::Scanner;

/// The bytes before the headers.
const PRELUDE: usize = 12;

/// The bytes of a CRC.
const CHECKSUM: u32 = 4;

/// The bytes of a message without headers and payload.
const LEAST: u32 = 16;

/// Far more than AWS allows in a message (16 MiB).
const MOST: u32 = 64 << 20;

#[derive(Debug, Default)]
pub(super) struct Messages {
    scanner: Scanner,
    prelude: [u8; PRELUDE],
    part: Part,
}

/// What comes next, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// So many bytes of the prelude are there.
    Prelude(usize),
    Headers {
        left: u32,
        payload: u32,
    },
    Payload(u32),
    Checksum(u32),
    Broken,
}

impl Default for Part {
    fn default() -> Self {
        Self::Prelude(0)
    }
}

impl Messages {
    /// Whether what came is no event stream.
    pub(super) fn is_broken(&self) -> bool {
        self.part == Part::Broken
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8], found: &mut Findings) {
        while let Some((&byte, rest)) = bytes.split_first() {
            match self.part {
                Part::Prelude(filled) => {
                    if let Some(place) = self.prelude.get_mut(filled) {
                        *place = byte;
                    }
                    self.part = match filled + 1 {
                        PRELUDE => self.begin(),
                        filled => Part::Prelude(filled),
                    };
                    bytes = rest;
                }
                Part::Headers { left: 0, payload } => {
                    self.scanner.end_document();
                    self.part = Part::Payload(payload);
                }
                Part::Headers { left, payload } => {
                    let (_, left, after) = take(bytes, left);
                    self.part = Part::Headers { left, payload };
                    bytes = after;
                }
                Part::Payload(0) => self.part = Part::Checksum(CHECKSUM),
                Part::Payload(left) => {
                    let (payload, left, after) = take(bytes, left);
                    self.scanner.feed(payload, found);
                    self.part = Part::Payload(left);
                    bytes = after;
                }
                Part::Checksum(0) => self.part = Part::Prelude(0),
                Part::Checksum(left) => {
                    let (_, left, after) = take(bytes, left);
                    self.part = Part::Checksum(left);
                    bytes = after;
                }
                Part::Broken => return,
            }
        }
    }

    /// What the prelude says.
    fn begin(&self) -> Part {
        let (lengths, crc) = self.prelude.split_at(8);
        let (total, headers) = lengths.split_at(4);
        let (total, headers) = (number(total), number(headers));
        let mut expected = Crc::new();
        expected.update(lengths);
        let payload = total
            .checked_sub(LEAST)
            .and_then(|rest| rest.checked_sub(headers));
        match payload {
            Some(payload) if total <= MOST && expected.sum() == number(crc) => Part::Headers {
                left: headers,
                payload,
            },
            _ => Part::Broken,
        }
    }
}

/// As much of `bytes` as is wanted, how much is wanted then, and the bytes after it.
fn take(bytes: &[u8], wanted: u32) -> (&[u8], u32, &[u8]) {
    let room = usize::try_from(wanted).unwrap_or(usize::MAX);
    if let Some((taken, after)) = bytes.split_at_checked(room) {
        return (taken, 0, after);
    }
    let taken = u32::try_from(bytes.len()).unwrap_or(wanted);
    (bytes, wanted.saturating_sub(taken), &[])
}

/// Four bytes, the first one the highest.
fn number(bytes: &[u8]) -> u32 {
    let shift = |number: u32, byte: &u8| (number << 8) | u32::from(*byte);
    bytes.iter().fold(0, shift)
}
