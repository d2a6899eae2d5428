//! The observer of one answer.

use super::body::{Body, Format};
use super::encoding::{Decoder, Fault};

/// What the head of an answer says about its body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseHead<'a> {
    /// `content-type`, with or without parameters. Without one, or with one that says nothing
    /// (`text/plain`, `application/octet-stream`), the first byte decides.
    pub content_type: Option<&'a str>,
    /// `content-encoding`: gzip and deflate are undone.
    pub content_encoding: Option<&'a str>,
}

/// Observes the body of one answer and finds what it used.
///
/// It is fed in order, in chunks of any size, and holds nothing of them: itself a few hundred bytes,
/// and some 80 KiB for the window of a compressed body, whatever the size of the answer. It never
/// panics and never fails; what cannot be read is told at the [`finish`](Self::finish).
#[derive(Debug)]
pub struct Reader {
    /// `None` only while it is replaced.
    decoder: Option<Decoder>,
    fault: Option<Fault>,
}

/// What is known of an answer while it is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SoFar {
    /// What the provider said last, in the order of
    /// [`Measure::TOKENS`](crate::limit::Measure::TOKENS). Providers that tell as they go (Gemini)
    /// make it grow; Anthropic tells the input at the beginning and the output at the end; others
    /// say nothing before the end.
    pub usage: Option<[u64; 4]>,
    /// How many bytes of text the model wrote: answer, reasoning and arguments of tools, as far as
    /// providers show them. Not quite exact where characters are escaped. To divide by the bytes of
    /// a token, as an estimate of the output until `usage` tells it.
    pub text_bytes: u64,
    /// In how many pieces it came: in a stream, about one each token.
    pub texts: u64,
    /// Whether there was a usage with a count that cannot be: negative, above
    /// [`MAX_MEASURED`](crate::limit::MAX_MEASURED), not whole, no number. Such a usage is not
    /// believed at all.
    pub bad_count: bool,
}

/// What is known of an answer after its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// All that was found.
    pub so_far: SoFar,
    /// How the body ended. A usage may have been found whatever it is; if the end is not
    /// [`End::Whole`], it may be less than what was used.
    pub end: End,
}

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// As it should.
    Whole,
    /// In the middle: somebody hung up. A stream of events is whole when its provider said what it
    /// says last, and not before.
    CutShort,
    /// It was no JSON, or no event stream, as its type had said.
    Malformed,
    /// Its compression was broken.
    BrokenEncoding,
    /// It inflated to more than 16 MiB and a hundred times its size, and was given up.
    TooLarge,
    /// Its type is none that has usage in it: audio, an image.
    UnknownType,
    /// Its encoding is neither gzip nor deflate.
    UnknownEncoding,
}

impl Reader {
    /// An observer of the body that comes after `head`.
    pub fn new(head: &ResponseHead<'_>) -> Self {
        let body = Body::new(Format::of(head.content_type));
        Self {
            decoder: Some(Decoder::new(head.content_encoding, body)),
            fault: None,
        }
    }

    /// Takes the next bytes of the body.
    pub fn feed(&mut self, chunk: &[u8]) {
        if self.fault.is_some() || chunk.is_empty() {
            return;
        }
        if let Some(decoder) = self.decoder.take() {
            let (decoder, fed) = decoder.feed(chunk);
            self.decoder = Some(decoder);
            self.fault = fed.err();
        }
    }

    /// What is known by now.
    pub fn so_far(&self) -> SoFar {
        let decoder = self.decoder.as_ref();
        decoder.map_or_else(SoFar::default, |decoder| decoder.body().found.so_far)
    }

    /// The body is at its end.
    pub fn finish(mut self) -> Found {
        let end = self.end();
        Found {
            so_far: self.so_far(),
            end,
        }
    }

    fn end(&mut self) -> End {
        match (&mut self.decoder, self.fault) {
            (_, Some(Fault::Broken)) => End::BrokenEncoding,
            (_, Some(Fault::TooLarge)) => End::TooLarge,
            (Some(Decoder::Unknown(_)), None) => End::UnknownEncoding,
            (Some(decoder), None) => match (decoder.finish(), decoder.body().end()) {
                (false, End::Whole) => End::CutShort,
                (_, end) => end,
            },
            (None, None) => End::CutShort,
        }
    }
}

impl Found {
    /// Why there is no usage, for a metric's label and for people; `None`: there is one.
    pub const fn missing(&self) -> Option<&'static str> {
        match (self.so_far.usage, self.so_far.bad_count, self.end) {
            (Some(_), _, _) => None,
            (None, true, _) => Some("bad_count"),
            (None, false, End::Whole) => Some("no_usage"),
            (None, false, end) => Some(end.name()),
        }
    }
}

impl End {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::CutShort => "cut_short",
            Self::Malformed => "malformed",
            Self::BrokenEncoding => "broken_encoding",
            Self::TooLarge => "too_large",
            Self::UnknownType => "unknown_type",
            Self::UnknownEncoding => "unknown_encoding",
        }
    }
}
