//! Frames of HTTP/2 (RFC 9113, section 4): a head of nine bytes, and a payload.

/// The bytes of a head.
pub(super) const HEADER: usize = 9;

/// The highest number of a stream; the bit above it is reserved.
pub(super) const LAST_STREAM: u32 = (1 << 31) - 1;

/// The kinds of frames.
pub(super) mod kind {
    pub(in crate::load) const DATA: u8 = 0;
    pub(in crate::load) const HEADERS: u8 = 1;
    pub(in crate::load) const RST_STREAM: u8 = 3;
    pub(in crate::load) const SETTINGS: u8 = 4;
    pub(in crate::load) const PUSH_PROMISE: u8 = 5;
    pub(in crate::load) const PING: u8 = 6;
    pub(in crate::load) const GOAWAY: u8 = 7;
    pub(in crate::load) const WINDOW_UPDATE: u8 = 8;
    pub(in crate::load) const CONTINUATION: u8 = 9;
}

/// What a frame may say of itself.
pub(super) mod flag {
    pub(in crate::load) const ACK: u8 = 1;
    pub(in crate::load) const END_STREAM: u8 = 1;
    pub(in crate::load) const END_HEADERS: u8 = 4;
    pub(in crate::load) const PADDED: u8 = 8;
    pub(in crate::load) const PRIORITY: u8 = 32;
}

/// What each side may ask of the other.
pub(super) mod setting {
    pub(in crate::load) const HEADER_TABLE_SIZE: u16 = 1;
    pub(in crate::load) const ENABLE_PUSH: u16 = 2;
    pub(in crate::load) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(in crate::load) const INITIAL_WINDOW_SIZE: u16 = 4;
}

/// A frame that has come whole.
#[derive(Debug)]
pub(super) struct Frame<'f> {
    pub(super) kind: u8,
    flags: u8,
    pub(super) stream: u32,
    pub(super) payload: &'f [u8],
}

impl<'f> Frame<'f> {
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The payload without padding and priority.
    pub(super) fn unpadded(&self) -> Result<&'f [u8], &'static str> {
        let mut payload = self.payload;
        if self.has(flag::PADDED) {
            payload = payload
                .split_first()
                .and_then(|(padding, rest)| {
                    let kept = rest.len().checked_sub((*padding).into())?;
                    rest.get(..kept)
                })
                .ok_or("a frame is all padding")?;
        }
        if self.kind == kind::HEADERS && self.has(flag::PRIORITY) {
            payload = payload.get(5..).ok_or("a frame is too short")?;
        }
        Ok(payload)
    }

    /// Four bytes of the payload.
    pub(super) fn number(&self, place: usize) -> Option<u32> {
        let bytes = self.payload.get(place..)?.first_chunk()?;
        Some(u32::from_be_bytes(*bytes))
    }
}

/// The length that the next frame's payload will have.
pub(super) fn length_at(input: &[u8]) -> Option<usize> {
    let [a, b, c] = *input.first_chunk()?;
    usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()
}

/// The first frame, if it is there whole, and what comes after it.
pub(super) fn frame_at(input: &[u8]) -> Option<(Frame<'_>, &[u8])> {
    let length = length_at(input)?;
    let (header, rest) = input.split_first_chunk::<HEADER>()?;
    let (payload, after) = rest.split_at_checked(length)?;
    let [_, _, _, kind, flags, stream @ ..] = *header;
    let frame = Frame {
        kind,
        flags,
        stream: u32::from_be_bytes(stream) & LAST_STREAM,
        payload,
    };
    Some((frame, after))
}

/// Appends the head of a frame; its payload follows.
pub(super) fn push_header(output: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    let [.., a, b, c] = length.to_be_bytes();
    output.extend_from_slice(&[a, b, c, kind, flags]);
    output.extend_from_slice(&stream.to_be_bytes());
}
