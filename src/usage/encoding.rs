//! Undoing a content encoding, through a buffer of fixed size.

use std::io::{self, Write};

use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

use super::body::Body;

/// How much may come out whatever went in.
const FREE: u64 = 16 << 20;

/// And how many times more than went in. Texts shrink to a third or a tenth; a bomb to a thousandth.
const MOST_FOLD: u64 = 100;

/// A body behind its encoding.
#[derive(Debug)]
pub(super) enum Decoder {
    Identity(Body),
    Gzip(Box<MultiGzDecoder<Inflated>>),
    /// Deflate, whose first byte will tell in which of its two forms.
    Deflate(Inflated),
    Zlib(Box<ZlibDecoder<Inflated>>),
    RawDeflate(Box<DeflateDecoder<Inflated>>),
    /// One that we cannot undo.
    Unknown(Body),
}

/// Where inflated bytes go, as long as they are not too many.
#[derive(Debug)]
pub(super) struct Inflated {
    body: Body,
    taken: u64,
    given: u64,
    too_large: bool,
}

/// What is wrong with an encoded body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Broken,
    TooLarge,
}

impl Decoder {
    /// The decoder for a `content-encoding`.
    pub(super) fn new(encoding: Option<&str>, body: Body) -> Self {
        let encoding = encoding.unwrap_or_default().trim().to_ascii_lowercase();
        let inflated = |body| Inflated {
            body,
            taken: 0,
            given: 0,
            too_large: false,
        };
        match encoding.as_str() {
            "" | "identity" => Self::Identity(body),
            "gzip" | "x-gzip" => Self::Gzip(Box::new(MultiGzDecoder::new(inflated(body)))),
            "deflate" => Self::Deflate(inflated(body)),
            _ => Self::Unknown(body),
        }
    }

    pub(super) fn body(&self) -> &Body {
        match self {
            Self::Identity(body) | Self::Unknown(body) => body,
            Self::Gzip(decoder) => &decoder.get_ref().body,
            Self::Deflate(inflated) => &inflated.body,
            Self::Zlib(decoder) => &decoder.get_ref().body,
            Self::RawDeflate(decoder) => &decoder.get_ref().body,
        }
    }

    /// Takes bytes and passes on all that can be known of them. After a fault nothing more can be.
    pub(super) fn feed(self, bytes: &[u8]) -> (Self, Result<(), Fault>) {
        let mut decoder = match (self, bytes.first()) {
            (Self::Deflate(inflated), Some(first)) => of_deflate(inflated, *first),
            (decoder, _) => decoder,
        };
        let fed = match &mut decoder {
            Self::Identity(body) => {
                body.feed(bytes);
                Ok(())
            }
            Self::Gzip(decoder) => {
                decoder.get_mut().take(bytes);
                write(decoder.as_mut(), bytes).map_err(|_| decoder.get_ref().fault())
            }
            Self::Zlib(decoder) => {
                decoder.get_mut().take(bytes);
                write(decoder.as_mut(), bytes).map_err(|_| decoder.get_ref().fault())
            }
            Self::RawDeflate(decoder) => {
                decoder.get_mut().take(bytes);
                write(decoder.as_mut(), bytes).map_err(|_| decoder.get_ref().fault())
            }
            Self::Deflate(_) | Self::Unknown(_) => Ok(()),
        };
        (decoder, fed)
    }

    /// Passes on what is left; `false`: the encoded body did not come to its end.
    pub(super) fn finish(&mut self) -> bool {
        match self {
            Self::Identity(_) | Self::Deflate(_) | Self::Unknown(_) => true,
            Self::Gzip(decoder) => decoder.try_finish().is_ok(),
            Self::Zlib(decoder) => decoder.try_finish().is_ok(),
            Self::RawDeflate(decoder) => decoder.try_finish().is_ok(),
        }
    }
}

/// Servers mean zlib's format by it, as RFC 9110 does, or the bare one: zlib's first byte ends in 8.
fn of_deflate(inflated: Inflated, first: u8) -> Decoder {
    if first & 0x0F == 8 {
        Decoder::Zlib(Box::new(ZlibDecoder::new(inflated)))
    } else {
        Decoder::RawDeflate(Box::new(DeflateDecoder::new(inflated)))
    }
}

fn write(decoder: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    decoder.write_all(bytes)?;
    // What was inflated is of use now, not with the next chunk.
    decoder.flush()
}

impl Inflated {
    fn take(&mut self, bytes: &[u8]) {
        let bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.taken = self.taken.saturating_add(bytes);
    }

    const fn fault(&self) -> Fault {
        if self.too_large {
            Fault::TooLarge
        } else {
            Fault::Broken
        }
    }
}

impl Write for Inflated {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let more = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.given = self.given.saturating_add(more);
        if self.given > self.taken.saturating_mul(MOST_FOLD).saturating_add(FREE) {
            self.too_large = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.body.feed(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
