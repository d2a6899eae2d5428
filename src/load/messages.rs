//! What is sent, made ready to be copied out: a DATA frame for each message.

use super::LoadError;

/// What every peer takes in one frame.
const MAX_FRAME: usize = 16_384;
/// Of a frame: length, type, flags, stream.
const FRAME_HEADER: usize = 9;
/// Of a gRPC message: whether it is compressed, its length.
const PREFIX: usize = 5;

const DATA: u8 = 0;
const END_STREAM: u8 = 1;

/// Messages, each known by its number, in the order in which they were added.
#[derive(Clone, Debug, Default)]
pub struct Messages {
    frames: Vec<u8>,
    ends: Vec<usize>,
}

impl Messages {
    /// One more.
    pub fn push(&mut self, message: &[u8]) -> Result<(), LoadError> {
        let payload = message.len() + PREFIX;
        let (Ok(length), true) = (u32::try_from(message.len()), payload <= MAX_FRAME) else {
            return Err(LoadError::TooLong(message.len()));
        };
        // The payload's length has three bytes of four.
        let [_, frame @ ..] = (length + 5).to_be_bytes();
        self.frames.extend_from_slice(&frame);
        self.frames
            .extend_from_slice(&[DATA, END_STREAM, 0, 0, 0, 0, 0]);
        self.frames.extend_from_slice(&length.to_be_bytes());
        self.frames.extend_from_slice(message);
        self.ends.push(self.frames.len());
        Ok(())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The frame of a message; the stream's number has still to be written into it. A number that
    /// no message has gives an empty one.
    pub(super) fn frame(&self, number: usize) -> &[u8] {
        let start = match number.checked_sub(1) {
            Some(before) => self.ends.get(before).copied().unwrap_or_default(),
            None => 0,
        };
        let end = self.ends.get(number).copied().unwrap_or(start);
        &self.frames[start..end]
    }
}

/// How much of the peer's window a frame takes.
pub(super) fn payload_of(frame: &[u8]) -> usize {
    frame.len().saturating_sub(FRAME_HEADER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_becomes_a_frame() {
        let mut messages = Messages::default();
        messages.push(b"").unwrap();
        messages.push(b"abc").unwrap();
        assert_eq!(messages.frame(0), b"\0\0\x05\0\x01\0\0\0\0\0\0\0\0\0");
        assert_eq!(messages.frame(1), b"\0\0\x08\0\x01\0\0\0\0\0\0\0\0\x03abc");
        assert_eq!(payload_of(messages.frame(1)), 8);
        assert_eq!(messages.frame(2), b"");
        assert_eq!(messages.len(), 2);
    }

    #[test]
    fn a_message_has_to_fit_a_frame() {
        let mut messages = Messages::default();
        assert!(messages.push(&[0; MAX_FRAME - PREFIX]).is_ok());
        assert!(messages.push(&[0; MAX_FRAME - PREFIX + 1]).is_err());
    }
}
