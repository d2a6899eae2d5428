//! Server-sent events (WHATWG HTML, "Interpreting an event stream"): each one's data is a document.
//!
//! Nothing is gathered: the bytes of `data` lines go straight into the scanner. Lines end with LF,
//! CRLF or CR; several data lines of one event are joined by LF; other fields and comments say
//! nothing about usage.

use super::body::Findings;
use super::json::Scanner;

/// What OpenAI and those who follow it end a stream with.
const DONE: &[u8] = b"[DONE]";

const DATA: &[u8] = b"data";

#[derive(Debug, Default)]
pub(super) struct Events {
    scanner: Scanner,
    line: Line,
    /// The last byte was a CR, so that an LF now belongs to it.
    after_cr: bool,
    /// How many bytes of [`DONE`] this line is so far; `None`: it is something else.
    done: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// So many bytes of `data`, and nothing else.
    Field(usize),
    /// A space may follow, which is not of the value.
    AfterColon,
    Data,
    /// Some other field, or a comment.
    Other,
}

impl Default for Line {
    fn default() -> Self {
        Self::Field(0)
    }
}

impl Events {
    pub(super) fn feed(&mut self, mut bytes: &[u8], found: &mut Findings) {
        while let Some((&byte, rest)) = bytes.split_first() {
            if matches!(self.line, Line::Data | Line::Other) {
                let run = bytes
                    .iter()
                    .position(|byte| matches!(byte, b'\n' | b'\r'))
                    .unwrap_or(bytes.len());
                let (text, after) = bytes.split_at_checked(run).unwrap_or((bytes, &[]));
                if self.line == Line::Data {
                    self.data(text, found);
                }
                if run > 0 {
                    self.after_cr = false;
                    bytes = after;
                    continue;
                }
            }
            let again = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match (byte, self.line) {
                (b'\n', _) if again => {}
                (b'\n' | b'\r', line) => self.end_line(line, found),
                (b':', Line::Field(matched)) => {
                    self.line = if matched == DATA.len() {
                        Line::AfterColon
                    } else {
                        Line::Other
                    };
                }
                (byte, Line::Field(matched)) => {
                    self.line = match DATA.get(matched) {
                        Some(expected) if *expected == byte => Line::Field(matched + 1),
                        _ => Line::Other,
                    };
                }
                (byte, Line::AfterColon) => {
                    self.line = Line::Data;
                    self.done = Some(0);
                    if byte != b' ' {
                        continue;
                    }
                }
                (_, Line::Data | Line::Other) => {}
            }
            bytes = rest;
        }
    }

    fn data(&mut self, text: &[u8], found: &mut Findings) {
        self.done = self.done.and_then(|matched| {
            let rest = DONE.get(matched..)?;
            rest.starts_with(text).then_some(matched + text.len())
        });
        self.scanner.feed(text, found);
    }

    fn end_line(&mut self, line: Line, found: &mut Findings) {
        match line {
            Line::Field(0) => self.scanner.end_document(),
            Line::Data => {
                found.finished |= self.done == Some(DONE.len());
                self.scanner.feed(b"\n", found);
            }
            Line::AfterColon | Line::Field(_) | Line::Other => {}
        }
        self.line = Line::Field(0);
    }
}
