//! One body after its encoding was undone: which format it has, and what was found in it.

use super::counts::{Counts, Field};
use super::event_stream::Messages;
use super::json::Scanner;
use super::paths::{Node, Place};
use super::reader::{End, SoFar};
use super::sse::Events;
use crate::limit::MAX_MEASURED;

const BYTE_ORDER_MARK: [u8; 3] = [0xEF, 0xBB, 0xBF];

/// A body, read as it comes.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) found: Findings,
    format: Format,
    /// How many bytes of a byte order mark came; 3: no more are expected.
    mark: usize,
    empty: bool,
}

/// How documents are put into a body.
#[derive(Debug)]
pub(super) enum Format {
    /// One, or one after the other.
    Json(Scanner),
    Events(Events),
    Messages(Messages),
    /// The first byte will tell.
    Unknown,
    /// None that has usage in it.
    Other,
}

impl Format {
    /// The format of a content type; without one, the body's first byte decides.
    pub(super) fn of(content_type: Option<&str>) -> Self {
        let content_type = content_type.unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let is = |known: &[&str]| {
            known
                .iter()
                .any(|known| essence.eq_ignore_ascii_case(known))
        };
        let lower = essence.to_ascii_lowercase();
        if is(&["text/event-stream"]) {
            Self::Events(Events::default())
        } else if is(&["application/vnd.amazon.eventstream"]) {
            Self::Messages(Messages::default())
        } else if is(&["", "text/plain", "application/octet-stream"]) {
            Self::Unknown
        } else if lower.ends_with("json") || is(&["application/jsonl", "application/json-lines"]) {
            Self::Json(Scanner::default())
        } else {
            Self::Other
        }
    }

    fn of_first(byte: u8) -> Self {
        match byte {
            b'{' | b'[' => Self::Json(Scanner::default()),
            0 => Self::Messages(Messages::default()),
            _ => Self::Events(Events::default()),
        }
    }
}

impl Body {
    pub(super) fn new(format: Format) -> Self {
        Self {
            found: Findings::default(),
            format,
            mark: 0,
            empty: true,
        }
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while self.mark < BYTE_ORDER_MARK.len()
            && let Some((first, rest)) = bytes.split_first()
        {
            if BYTE_ORDER_MARK.get(self.mark) == Some(first) {
                self.mark += 1;
                bytes = rest;
            } else {
                self.mark = BYTE_ORDER_MARK.len();
            }
        }
        let whitespace = |byte: &u8| byte.is_ascii_whitespace();
        if matches!(self.format, Format::Unknown) {
            let start = bytes.iter().position(|byte| !whitespace(byte));
            bytes = start
                .and_then(|start| bytes.get(start..))
                .unwrap_or_default();
            if let Some(first) = bytes.first() {
                self.format = Format::of_first(*first);
            }
        }
        self.empty &= bytes.is_empty();
        match &mut self.format {
            Format::Json(scanner) => scanner.feed(bytes, &mut self.found),
            Format::Events(events) => events.feed(bytes, &mut self.found),
            Format::Messages(messages) => messages.feed(bytes, &mut self.found),
            Format::Unknown | Format::Other => {}
        }
    }

    /// How it ended, if this is the end.
    pub(super) fn end(&self) -> End {
        match &self.format {
            Format::Other => End::UnknownType,
            _ if self.empty => End::Whole,
            Format::Json(scanner) if scanner.is_broken() => End::Malformed,
            Format::Json(scanner) if scanner.is_between_documents() => End::Whole,
            Format::Messages(messages) if messages.is_broken() => End::Malformed,
            Format::Events(_) | Format::Messages(_) if self.found.finished => End::Whole,
            _ => End::CutShort,
        }
    }
}

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// What all usage objects said.
    counts: Counts,
    /// What the usage object that is open said.
    open: Counts,
    /// Whether it said something that is no count.
    bad: bool,
    /// What is told outside.
    pub(super) so_far: SoFar,
    /// Whether the provider said what it says last.
    pub(super) finished: bool,
}

impl Findings {
    pub(super) fn begin_usage(&mut self) {
        self.open = Counts::default();
        self.bad = false;
    }

    /// A usage object was closed. One with a count that cannot be is not believed at all: the other
    /// half of it would be charged as if it were the whole.
    pub(super) fn end_usage(&mut self, node: Node) {
        if self.bad {
            self.so_far.bad_count = true;
            return;
        }
        if self.open.is_empty() {
            return;
        }
        // Chat streams go on to `[DONE]`, and Gemini to its `finishReason`.
        self.finished |=
            !matches!(node, Node::FirstUsage | Node::UsageMetadata) && !self.open.is_of_chat();
        self.counts.take_over(&self.open);
        self.so_far.usage = self.counts.measures();
    }

    pub(super) fn count(&mut self, field: Field, count: Option<u64>) {
        match count {
            Some(count) if count <= MAX_MEASURED => self.open.set(field, count),
            _ => self.bad = true,
        }
    }

    /// What stands at `place` is something else than a count.
    pub(super) fn not_a_count(&mut self, place: Place) {
        self.bad |= matches!(place, Place::Count(_));
    }

    pub(super) fn text(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.so_far.text_bytes = self.so_far.text_bytes.saturating_add(bytes);
    }

    pub(super) fn text_ended(&mut self, counted: bool) {
        self.so_far.texts = self.so_far.texts.saturating_add(u64::from(counted));
    }
}
