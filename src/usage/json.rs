//! JSON as it comes: a scanner that follows known paths, and keeps nothing else.
//!
//! It is told bytes, cut anywhere, and notes counts and texts where [`paths`](super::paths) say
//! they are. What it holds is the way it came (a fixed number of levels, because known paths are
//! short), and the key or number that it is in. Values that are not wanted are skipped: there it
//! knows strings and depth only. So it accepts some documents that are no JSON (a bracket closed by
//! a brace, deep in an unwanted value); it is not there to find fault with a provider.
//!
//! A count is taken when its number has ended, and a usage object when it is closed. So a document
//! that breaks off never tells half a number, nor an input without its cached part.

use super::body::Findings;
use super::counts::Field;
use super::paths::{Node, Place};

/// More levels than any known path has, lists included.
const MAX_LEVELS: usize = 12;

/// Longer than any known key.
const KEY: usize = 32;

/// Longer than any count: 10^12, and a fraction of zeros.
const NUMBER: usize = 24;

/// Follows one document after the other.
#[derive(Debug)]
pub(super) struct Scanner {
    state: State,
    /// The objects and lists that it is in, from the outside.
    levels: [Level; MAX_LEVELS],
    depth: usize,
    key: Short<KEY>,
    number: Short<NUMBER>,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    node: Node,
    list: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A value comes, or the end of an empty list.
    Value(Place),
    /// A key comes, or the end of the object.
    Key,
    InKey,
    KeyEscape,
    Colon,
    /// A comma comes, or the end.
    AfterValue,
    Text {
        counted: bool,
    },
    TextEscape {
        counted: bool,
    },
    /// In a number that is a count.
    Number(Field),
    /// In a number, `true`, `false` or `null`.
    Scalar,
    /// In an unwanted value, so many levels deep.
    Skip(u64),
    SkipText(u64),
    SkipEscape(u64),
    /// This is no JSON. The next document is a new chance.
    Broken,
}

/// Where a document begins.
const START: State = State::Value(Place::Node(Node::Root));

impl Default for Scanner {
    fn default() -> Self {
        let root = Level {
            node: Node::Root,
            list: false,
        };
        Self {
            state: START,
            levels: [root; MAX_LEVELS],
            depth: 0,
            key: Short::default(),
            number: Short::default(),
        }
    }
}

impl Scanner {
    /// Whether what came so far are whole documents.
    pub(super) fn is_between_documents(&self) -> bool {
        self.state == START && self.depth == 0
    }

    /// Whether what came is no JSON.
    pub(super) fn is_broken(&self) -> bool {
        self.state == State::Broken
    }

    /// Whatever comes next is a new document.
    pub(super) fn end_document(&mut self) {
        self.state = START;
        self.depth = 0;
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8], found: &mut Findings) {
        while let Some((&byte, rest)) = bytes.split_first() {
            let passed = match self.state {
                State::Broken => return,
                State::Text { counted } => {
                    let run = run_of_text(bytes);
                    if counted {
                        found.text(run);
                    }
                    run
                }
                State::SkipText(_) => run_of_text(bytes),
                State::Skip(_) => bytes
                    .iter()
                    .position(|byte| matches!(byte, b'"' | b'{' | b'}' | b'[' | b']'))
                    .unwrap_or(bytes.len()),
                _ => 0,
            };
            if passed > 0 {
                bytes = bytes.get(passed..).unwrap_or_default();
                continue;
            }
            if self.step(byte, found) {
                bytes = rest;
            }
        }
    }

    /// Takes one byte; `false`: it ended a number, and is still to be taken.
    fn step(&mut self, byte: u8, found: &mut Findings) -> bool {
        match self.state {
            State::Value(place) => self.begin_value(place, byte, found),
            State::Key => match byte {
                b' ' | b'\t' | b'\n' | b'\r' => {}
                b'"' => {
                    self.key.clear();
                    self.state = State::InKey;
                }
                b'}' => self.close(false, found),
                _ => self.state = State::Broken,
            },
            State::InKey => match byte {
                b'"' => self.state = State::Colon,
                b'\\' => self.state = State::KeyEscape,
                byte => self.key.push(byte),
            },
            // No known key needs an escape; one that has some is none of them.
            State::KeyEscape => {
                self.key.spoil();
                self.state = State::InKey;
            }
            State::Colon => match byte {
                b' ' | b'\t' | b'\n' | b'\r' => {}
                b':' => self.state = State::Value(self.place_of_key()),
                _ => self.state = State::Broken,
            },
            State::AfterValue => self.after_value(byte, found),
            State::Text { counted } => {
                if byte == b'"' {
                    found.text_ended(counted);
                    self.state = State::AfterValue;
                } else {
                    self.state = State::TextEscape { counted };
                }
            }
            State::TextEscape { counted } => {
                // An escaped character is one byte; a numbered one its four digits, which follow.
                if counted && byte != b'u' {
                    found.text(1);
                }
                self.state = State::Text { counted };
            }
            State::Number(field) => {
                if !is_of_scalar(byte) {
                    found.count(field, whole_number(self.number.get()));
                    self.state = State::AfterValue;
                    return false;
                }
                self.number.push(byte);
            }
            State::Scalar => {
                if !is_of_scalar(byte) {
                    self.state = State::AfterValue;
                    return false;
                }
            }
            State::Skip(depth) => match byte {
                b'"' => self.state = State::SkipText(depth),
                b'{' | b'[' => self.state = State::Skip(depth.saturating_add(1)),
                _ if depth > 1 => self.state = State::Skip(depth - 1),
                _ => self.state = State::AfterValue,
            },
            State::SkipText(depth) => {
                self.state = match byte {
                    b'"' => State::Skip(depth),
                    _ => State::SkipEscape(depth),
                }
            }
            State::SkipEscape(depth) => self.state = State::SkipText(depth),
            State::Broken => {}
        }
        true
    }

    fn begin_value(&mut self, place: Place, byte: u8, found: &mut Findings) {
        let in_list = self.top().is_some_and(|level| level.list);
        match (byte, place) {
            (b' ' | b'\t' | b'\n' | b'\r', _) => {}
            (b'{', Place::Node(node)) => self.open(node, false, found),
            (b'[', Place::Node(node)) if node.may_be_list() && !in_list => {
                self.open(node, true, found);
            }
            (b']', _) if in_list => self.close(true, found),
            (b'{' | b'[', _) => {
                found.not_a_count(place);
                self.state = State::Skip(1);
            }
            (b'"', _) => {
                found.not_a_count(place);
                found.finished |= place == Place::Finish;
                let counted = match place {
                    Place::Text => true,
                    Place::Node(node) => node.may_be_text() && !in_list,
                    _ => false,
                };
                self.state = State::Text { counted };
            }
            (b'n', _) => self.state = State::Scalar,
            (byte, Place::Count(field)) if is_of_scalar(byte) => {
                self.number.clear();
                self.number.push(byte);
                self.state = State::Number(field);
            }
            (byte, _) if is_of_scalar(byte) && self.depth > 0 => self.state = State::Scalar,
            _ => self.state = State::Broken,
        }
    }

    fn open(&mut self, node: Node, list: bool, found: &mut Findings) {
        let Some(level) = self.levels.get_mut(self.depth) else {
            self.state = State::Skip(1);
            return;
        };
        *level = Level { node, list };
        self.depth += 1;
        if node.is_usage() {
            found.begin_usage();
        }
        self.state = if list {
            State::Value(Place::Node(node))
        } else {
            State::Key
        };
    }

    fn close(&mut self, list: bool, found: &mut Findings) {
        match self.top() {
            Some(level) if level.list == list => {
                self.depth -= 1;
                if !list && level.node.is_usage() {
                    found.end_usage(level.node);
                }
                self.state = match self.depth {
                    0 => START,
                    _ => State::AfterValue,
                };
            }
            _ => self.state = State::Broken,
        }
    }

    fn after_value(&mut self, byte: u8, found: &mut Findings) {
        match (byte, self.top()) {
            (b' ' | b'\t' | b'\n' | b'\r', _) => {}
            (b',', Some(level)) if level.list => self.state = State::Value(Place::Node(level.node)),
            (b',', Some(_)) => self.state = State::Key,
            (b'}', _) => self.close(false, found),
            (b']', _) => self.close(true, found),
            _ => self.state = State::Broken,
        }
    }

    fn place_of_key(&self) -> Place {
        match (self.top(), self.key.get()) {
            (Some(level), Some(key)) => level.node.child(key),
            _ => Place::Unwanted,
        }
    }

    fn top(&self) -> Option<Level> {
        self.levels.get(self.depth.checked_sub(1)?).copied()
    }
}

/// How many bytes are plain text, before a quote or a backslash.
fn run_of_text(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .position(|byte| matches!(byte, b'"' | b'\\'))
        .unwrap_or(bytes.len())
}

const fn is_of_scalar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')
}

/// The number that it is, if it is a whole one. Cohere's are doubles, which may come as `12.0`.
fn whole_number(text: Option<&[u8]>) -> Option<u64> {
    let text = std::str::from_utf8(text?).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(whole) && digits(fraction) && fraction.bytes().all(|byte| byte == b'0'))
        .then(|| whole.parse().ok())
        .flatten()
}

/// A few bytes; more than there is room for are none.
#[derive(Debug)]
struct Short<const N: usize> {
    bytes: [u8; N],
    /// Above N: spoilt.
    len: usize,
}

impl<const N: usize> Default for Short<N> {
    fn default() -> Self {
        Self {
            bytes: [0; N],
            len: 0,
        }
    }
}

impl<const N: usize> Short<N> {
    const fn clear(&mut self) {
        self.len = 0;
    }

    const fn spoil(&mut self) {
        self.len = N + 1;
    }

    fn push(&mut self, byte: u8) {
        match self.bytes.get_mut(self.len) {
            Some(place) => {
                *place = byte;
                self.len += 1;
            }
            None => self.spoil(),
        }
    }

    fn get(&self) -> Option<&[u8]> {
        self.bytes.get(..self.len)
    }
}
