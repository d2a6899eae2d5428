//! YAML text to a tree of positioned nodes.
//!
//! Built from the parser's events rather than by serde: only so does every node keep its place, a
//! repeated key is found at its second place, and `value: 010` stays the text that was written.
//! What a scalar means (a number, a boolean, text) is for the reader of the key to say.
//!
//! Input is bounded before it is believed: [`MAX_BYTES`], [`MAX_NODES`] with every alias counted as
//! often as it is used (so that a few lines cannot stand for a billion nodes), and [`MAX_DEPTH`].
//! A file with 100,000 descriptors of one limit each has 7 MB and about 1,500,000 nodes.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_saphyr::granit_parser::{
    self, ErrorKind, Event, Marker, Parser, ScalarStyle, Span, StrInput, Tag,
};

use super::error::{Complaint, Position};

/// The longest file: 64 MiB.
pub const MAX_BYTES: usize = 64 << 20;
/// The most scalars, lists and maps in one file, keys and the uses of aliases counted too.
pub const MAX_NODES: usize = 5_000_000;
/// How deep lists and maps may be nested. A level of descriptors takes two.
pub const MAX_DEPTH: usize = 64;

/// A piece of YAML and where it begins.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    pub(super) at: Position,
    pub(super) value: Value<'a>,
}

#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    List(Vec<Node<'a>>),
    Map(Vec<(Node<'a>, Node<'a>)>),
    Scalar { text: Cow<'a, str>, plain: bool },
}

impl Node<'_> {
    /// Whether it says nothing: `null`, `~`, or no text at all.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true }
            if matches!(&**text, "" | "~" | "null" | "Null" | "NULL"))
    }

    /// What it is, for messages.
    pub(super) fn kind(&self) -> Cow<'_, str> {
        match &self.value {
            _ if self.is_null() => "nothing".into(),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a map".into(),
            Value::Scalar { text, plain: true } => format!("'{text}'").into(),
            Value::Scalar { text, plain: false } => format!("the text '{text}'").into(),
        }
    }

    /// The nodes it is made of, itself and keys included, and how deep lists and maps nest in it.
    fn extent(&self) -> (usize, usize) {
        let mut nodes = 1;
        let mut depth = usize::from(!matches!(self.value, Value::Scalar { .. }));
        let mut add = |child: &Node<'_>| {
            let (below, deep) = child.extent();
            nodes += below;
            depth = depth.max(deep + 1);
        };
        match &self.value {
            Value::List(items) => items.iter().for_each(&mut add),
            Value::Map(entries) => {
                for (key, value) in entries {
                    add(key);
                    add(value);
                }
            }
            Value::Scalar { .. } => {}
        }
        (nodes, depth)
    }
}

impl<'a> Node<'a> {
    /// The value of `key`, where this is a map that has it.
    pub(super) fn field(&self, key: &str) -> Option<&Self> {
        let Value::Map(entries) = &self.value else {
            return None;
        };
        let is = |node: &Node<'a>| matches!(&node.value, Value::Scalar { text, .. } if text == key);
        entries
            .iter()
            .find(|(known, _)| is(known))
            .map(|(_, value)| value)
    }

    /// The items, where this is a list.
    pub(super) fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            Value::Map(_) | Value::Scalar { .. } => &[],
        }
    }

    /// The text, where this is a scalar that says something.
    pub(super) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } if !self.is_null() => Some(text),
            _ => None,
        }
    }

    /// The same, with texts of its own.
    pub(super) fn into_owned(self) -> Node<'static> {
        let value = match self.value {
            Value::List(items) => Value::List(items.into_iter().map(Node::into_owned).collect()),
            Value::Map(entries) => {
                let owned =
                    |(key, value): (Node<'_>, Node<'_>)| (key.into_owned(), value.into_owned());
                Value::Map(entries.into_iter().map(owned).collect())
            }
            Value::Scalar { text, plain } => Value::Scalar {
                text: text.into_owned().into(),
                plain,
            },
        };
        Node { at: self.at, value }
    }
}

/// The one document that `source` is; `Err` has the place of the first fault.
pub(super) fn parse(source: &str) -> Result<Node<'_>, (Position, Complaint)> {
    if source.len() > MAX_BYTES {
        return Err((
            Position::START,
            format!("the file is longer than {MAX_BYTES} bytes").into(),
        ));
    }
    let mut options = granit_parser::Options::default();
    options.set_emit_comments(false);
    // Ours is checked first; these keep the parser's own state as small.
    options.flow_nesting_limit = MAX_DEPTH + 1;
    options.block_nesting_limit = MAX_DEPTH + 1;
    let parser = Parser::new_from_str_with_options(source, options);
    Composer {
        parser,
        anchors: HashMap::new(),
        nodes: 0,
    }
    .stream()
}

struct Composer<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Anchored<'a>>,
    nodes: usize,
}

struct Anchored<'a> {
    node: Node<'a>,
    nodes: usize,
    depth: usize,
}

type Composed<T> = Result<T, (Position, Complaint)>;

impl<'a> Composer<'a> {
    fn stream(&mut self) -> Composed<Node<'a>> {
        let mut document = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                Event::StreamEnd => break,
                event => {
                    let at = position(span.start);
                    let node = self.node(event, span, 0)?;
                    if document.is_none() {
                        document = Some(node);
                    } else if !node.is_null() {
                        let twice = Complaint::new("a second YAML document");
                        return Err((at, twice.hint("one file holds one domain")));
                    }
                }
            }
        }
        let nothing = || Node {
            at: Position::START,
            value: Value::Scalar {
                text: "".into(),
                plain: true,
            },
        };
        Ok(document.unwrap_or_else(nothing))
    }

    fn next(&mut self) -> Composed<(Event<'a>, Span)> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) if *error.kind() == ErrorKind::RecursionLimitExceeded => {
                Err((position(*error.marker()), too_deep()))
            }
            Some(Err(error)) => {
                let message = format!("error loading config file: {}", error.kind());
                Err((position(*error.marker()), message.into()))
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    /// The node that `event` begins.
    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Composed<Node<'a>> {
        let at = position(span.start);
        self.count(1, at)?;
        let (anchor, value) = match event {
            Event::Alias(anchor) => return self.alias(anchor, at, depth),
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && !is_text(tag.as_deref(), at)?;
                (anchor, Value::Scalar { text, plain })
            }
            Event::SequenceStart(_, anchor, tag) => {
                is_text(tag.as_deref(), at)?;
                (anchor, Value::List(self.list(at, depth + 1)?))
            }
            Event::MappingStart(_, anchor, tag) => {
                is_text(tag.as_deref(), at)?;
                (anchor, Value::Map(self.map(at, depth + 1)?))
            }
            _ => return Err((at, "error loading config file: unexpected end".into())),
        };
        let node = Node { at, value };
        if anchor != 0 {
            let (nodes, depth) = node.extent();
            // The copy takes memory, so it counts.
            self.count(nodes, at)?;
            self.anchors.insert(
                anchor,
                Anchored {
                    node: node.clone(),
                    nodes,
                    depth,
                },
            );
        }
        Ok(node)
    }

    fn list(&mut self, at: Position, depth: usize) -> Composed<Vec<Node<'a>>> {
        check_depth(depth, at)?;
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, span) => items.push(self.node(event, span, depth)?),
            }
        }
    }

    fn map(&mut self, at: Position, depth: usize) -> Composed<Vec<(Node<'a>, Node<'a>)>> {
        check_depth(depth, at)?;
        let mut entries: Vec<(Node<'a>, Node<'a>)> = Vec::new();
        let mut merged = Vec::new();
        // Most maps are small; a large one must not be searched for each of its keys.
        let mut seen: HashMap<String, Position> = HashMap::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let key = self.node(event, span, depth)?;
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth)?;
            if let Value::Scalar { text, plain } = &key.value {
                if *plain && text == "<<" {
                    merged.push(value);
                    continue;
                }
                if let Some(first) = seen.insert(text.to_string(), key.at) {
                    let twice = Complaint::new(format!("key '{text}' is given twice"))
                        .hint(format!("the first is on line {}", first.line));
                    return Err((key.at, twice));
                }
            }
            entries.push((key, value));
        }
        for value in merged {
            merge(&mut entries, &mut seen, value)?;
        }
        Ok(entries)
    }

    fn alias(&mut self, anchor: usize, at: Position, depth: usize) -> Composed<Node<'a>> {
        let Some(anchored) = self.anchors.get(&anchor) else {
            return Err((at, "an alias inside of what it stands for".into()));
        };
        check_depth(depth + anchored.depth, at)?;
        let (node, nodes) = (&anchored.node, anchored.nodes);
        self.nodes = self.nodes.saturating_add(nodes);
        check_nodes(self.nodes, at)?;
        Ok(node.clone())
    }

    fn count(&mut self, nodes: usize, at: Position) -> Composed<()> {
        self.nodes = self.nodes.saturating_add(nodes);
        check_nodes(self.nodes, at)
    }
}

/// Adds the entries of `value` (a map, or a list of maps) whose keys are not there yet.
fn merge<'a>(
    entries: &mut Vec<(Node<'a>, Node<'a>)>,
    seen: &mut HashMap<String, Position>,
    value: Node<'a>,
) -> Composed<()> {
    match value.value {
        Value::Map(more) => {
            for (key, value) in more {
                let known = match &key.value {
                    Value::Scalar { text, .. } if seen.contains_key(&**text) => true,
                    Value::Scalar { text, .. } => {
                        seen.insert(text.to_string(), key.at);
                        false
                    }
                    Value::List(_) | Value::Map(_) => false,
                };
                if !known {
                    entries.push((key, value));
                }
            }
            Ok(())
        }
        Value::List(maps) if maps.iter().all(|map| matches!(map.value, Value::Map(_))) => maps
            .into_iter()
            .try_for_each(|map| merge(entries, seen, map)),
        Value::List(_) | Value::Scalar { .. } => {
            Err((value.at, "'<<' takes a map, or a list of maps".into()))
        }
    }
}

/// Whether the tag makes a plain scalar text. Tags of the core schema change nothing else: what a
/// scalar means is asked where it is used.
fn is_text(tag: Option<&Tag>, at: Position) -> Composed<bool> {
    let Some(tag) = tag else { return Ok(false) };
    match tag.core_suffix() {
        Some("str") => Ok(true),
        Some("bool" | "float" | "int" | "map" | "null" | "seq") => Ok(false),
        _ => Err((
            at,
            format!("the tag {} is not supported", tag.original()).into(),
        )),
    }
}

fn check_depth(depth: usize, at: Position) -> Composed<()> {
    if depth > MAX_DEPTH {
        Err((at, too_deep()))
    } else {
        Ok(())
    }
}

fn check_nodes(nodes: usize, at: Position) -> Composed<()> {
    if nodes > MAX_NODES {
        let message = format!("the file has more than {MAX_NODES} values, aliases written out");
        return Err((at, message.into()));
    }
    Ok(())
}

fn too_deep() -> Complaint {
    format!("lists and maps are nested deeper than {MAX_DEPTH} levels").into()
}

fn position(marker: Marker) -> Position {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Position {
        line: count(marker.line().max(1)),
        column: count(marker.col().saturating_add(1)),
    }
}
