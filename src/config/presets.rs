//! `preset:`, a provider's limits and accounting by one name.
//!
//! The figures are data (`presets.yaml`, with a source in every row), read by the same YAML layer
//! as a configuration. A preset becomes what one would have written: entries of `limits:`, which
//! `expand` joins with what is written beside it. So a preset can say nothing that a
//! configuration cannot.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::amount;
use super::describe::{Described, line};
use super::document::{Document, compile};
use super::error::{Complaint, ConfigError, Findings, Position};
use super::words::nearest;
use super::yaml::{self, Node, Value};

const DATA: &str = include_str!("presets.yaml");

/// All presets. A test holds that the data can be read; if not, there would be none.
static TABLE: LazyLock<Table> = LazyLock::new(|| Table::read(DATA).unwrap_or_default());

#[derive(Debug, Default)]
struct Table {
    accountings: BTreeMap<String, Accounting>,
    presets: BTreeMap<String, Preset>,
    /// What to call the sources.
    sources: BTreeMap<String, String>,
}

/// How a provider counts.
#[derive(Debug)]
struct Accounting {
    figures: Vec<(String, Figure)>,
    limits: Vec<Node<'static>>,
}

/// Whether a figure has to be given.
#[derive(Debug)]
enum Figure {
    /// So many times another, for each so many of it.
    Derived {
        of: String,
        times: u64,
        per: u64,
    },
    Optional,
    Required,
}

#[derive(Debug)]
struct Preset {
    accounting: String,
    figures: BTreeMap<String, u64>,
    source: String,
    unverified: bool,
}

/// What a preset is where it is used.
#[derive(Debug)]
pub(super) struct Expanded {
    pub(super) name: String,
    /// Entries of `limits:`, all of them at the place of the use.
    pub(super) limits: Vec<Node<'static>>,
    /// Where its figures come from, for people.
    pub(super) source: String,
}

/// All names, sorted.
pub fn names() -> Vec<&'static str> {
    TABLE.presets.keys().map(String::as_str).collect()
}

/// What the preset of this name becomes with these figures, in words.
pub fn show(name: &str, figures: &[(String, String)]) -> Result<String, Vec<ConfigError>> {
    let named = [("name", name)].into_iter();
    let given = figures
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()));
    let preset = map(named.chain(given).map(|(key, value)| (key, scalar(value))));
    let rule = map([("key", scalar("preset")), ("preset", preset)]);
    let rules = Node {
        at: Position::START,
        value: Value::List(vec![rule]),
    };
    let root = map([("domain", scalar("preset")), ("descriptors", rules)]);
    let file = "preset";
    let compiled = compile(&[Document { file, root }])?;
    let mut text = String::new();
    let mut source = None;
    line(&mut text, format_args!("{name}"));
    for limit in &compiled.domain.limits {
        line(&mut text, format_args!("  {}", Described(limit)));
        source = limit
            .origin
            .as_ref()
            .and_then(|origin| origin.source.clone());
    }
    if let Some(source) = source {
        line(&mut text, format_args!("  figures: {source}"));
    }
    Ok(text)
}

fn map<'a>(entries: impl IntoIterator<Item = (&'a str, Node<'a>)>) -> Node<'a> {
    let entries = entries.into_iter().map(|(key, value)| (scalar(key), value));
    Node {
        at: Position::START,
        value: Value::Map(entries.collect()),
    }
}

fn scalar(text: &str) -> Node<'_> {
    Node {
        at: Position::START,
        value: Value::Scalar {
            text: text.into(),
            plain: false,
        },
    }
}

/// The preset that `node` names, with the figures that it gives, if it has any.
pub(super) fn read(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<Expanded> {
    let (name_node, given) = match &node.value {
        Value::Map(entries) => {
            let is_name =
                |key: &Node<'_>| matches!(&key.value, Value::Scalar { text, .. } if text == "name");
            let Some((_, name)) = entries.iter().find(|(key, _)| is_name(key)) else {
                let none = Complaint::new("a preset needs a name");
                findings.error(
                    node.at,
                    none.hint("write it as in { name: azure-openai/standard, tpm: 450k }"),
                );
                return None;
            };
            let given: Vec<&(Node<'_>, Node<'_>)> =
                entries.iter().filter(|(key, _)| !is_name(key)).collect();
            (name, given)
        }
        Value::List(_) | Value::Scalar { .. } => (node, Vec::new()),
    };
    let name = findings.text(name_node, "preset")?;
    let found = TABLE.presets.get_key_value(name);
    let Some((name, preset, accounting)) = found.and_then(|(name, preset)| {
        Some((name, preset, TABLE.accountings.get(&preset.accounting)?))
    }) else {
        findings.error(name_node.at, unknown(name));
        return None;
    };
    let mut figures = preset.figures.clone();
    let errors = findings.errors.len();
    for (key, value) in given {
        if let Some((figure, amount)) = accounting.given(name, key, value, findings) {
            figures.insert(figure, amount);
        }
    }
    if findings.errors.len() > errors {
        return None;
    }
    let missing = accounting.complete(&mut figures);
    if !missing.is_empty() {
        let wants = Complaint::new(format!(
            "the preset '{name}' needs {}",
            missing.join(" and ")
        ));
        let given: Vec<String> = missing
            .iter()
            .map(|figure| format!("{figure}: 450k"))
            .collect();
        let example = format!("write it as in {{ name: {name}, {} }}", given.join(", "));
        findings.error(name_node.at, wants.hint(example));
        return None;
    }
    let of = TABLE.sources.get(&preset.source);
    let mut source = of.unwrap_or(&preset.source).clone();
    if preset.unverified {
        source.push_str("; unverified");
    }
    let limits = accounting.limits.iter();
    Some(Expanded {
        name: name.clone(),
        limits: limits
            .filter_map(|limit| placed(limit, &figures, node.at))
            .collect(),
        source,
    })
}

fn unknown(name: &str) -> Complaint {
    let complaint = Complaint::new(format!("unknown preset '{name}'"));
    let known = TABLE.presets.keys().map(String::as_str);
    complaint.hint(match nearest(name, known) {
        Some(meant) => format!("did you mean '{meant}'?"),
        None => "`tollgate presets` lists them".to_owned(),
    })
}

impl Accounting {
    /// A figure that a configuration gives.
    fn given(
        &self,
        preset: &str,
        key: &Node<'_>,
        value: &Node<'_>,
        findings: &mut Findings<'_>,
    ) -> Option<(String, u64)> {
        let figure = findings.text(key, "a figure of a preset")?;
        if !self.figures.iter().any(|(known, _)| known == figure) {
            let known: Vec<&str> = self
                .figures
                .iter()
                .map(|(known, _)| known.as_str())
                .collect();
            let unknown = Complaint::new(format!("the preset '{preset}' has no figure '{figure}'"));
            findings.error(key.at, unknown.hint(format!("it has {}", known.join(", "))));
            return None;
        }
        let text = findings.text(value, figure)?;
        match findings.take(value.at, amount::amount(text))? {
            0 => {
                findings.error(value.at, format!("{figure} may not be 0"));
                None
            }
            amount => Some((figure.to_owned(), amount)),
        }
    }

    /// Adds what follows from other figures; the answer is what is missing.
    fn complete(&self, figures: &mut BTreeMap<String, u64>) -> Vec<&str> {
        let mut missing = Vec::new();
        for (name, figure) in &self.figures {
            if figures.contains_key(name) {
                continue;
            }
            match figure {
                Figure::Derived { of, times, per } => {
                    if let Some(of) = figures.get(of) {
                        let amount = of.saturating_mul(*times).checked_div(*per).unwrap_or(0);
                        figures.insert(name.clone(), amount.max(1));
                    }
                }
                Figure::Optional => {}
                Figure::Required => missing.push(name.as_str()),
            }
        }
        missing
    }
}

/// A copy of `node` at `at`, with the figures in it; `None` where one is missing.
fn placed(
    node: &Node<'static>,
    figures: &BTreeMap<String, u64>,
    at: Position,
) -> Option<Node<'static>> {
    let value = match &node.value {
        Value::Scalar { text, plain } => match text.strip_prefix('$') {
            None => Value::Scalar {
                text: text.clone(),
                plain: *plain,
            },
            Some(figure) => {
                let (figure, rest) = match figure.find('/') {
                    Some(end) => figure.split_at(end),
                    None => (figure, ""),
                };
                Value::Scalar {
                    text: format!("{}{rest}", figures.get(figure)?).into(),
                    plain: true,
                }
            }
        },
        Value::List(items) => Value::List(
            items
                .iter()
                .map(|item| placed(item, figures, at))
                .collect::<Option<_>>()?,
        ),
        Value::Map(entries) => Value::Map(
            entries
                .iter()
                .map(|(key, value)| Some((placed(key, figures, at)?, placed(value, figures, at)?)))
                .collect::<Option<_>>()?,
        ),
    };
    Some(Node { at, value })
}

/// The reading of the data. Its mistakes are ours, and found by a test.
impl Table {
    fn read(data: &'static str) -> Result<Self, Vec<ConfigError>> {
        let mut findings = Findings::new("presets.yaml");
        let mut table = Self::default();
        match yaml::parse(data) {
            Ok(root) => table.fill(&root, &mut findings),
            Err((at, complaint)) => findings.error(at, complaint),
        }
        if findings.errors.is_empty() {
            Ok(table)
        } else {
            Err(findings.errors)
        }
    }

    fn fill(&mut self, root: &Node<'static>, findings: &mut Findings<'_>) {
        for (key, part) in findings.map(root, "the data").unwrap_or_default() {
            let part_name = findings.text(key, "a part of the data").unwrap_or_default();
            for (name, node) in findings.map(part, part_name).unwrap_or_default() {
                let Some(name) = findings.text(name, "a name").map(str::to_owned) else {
                    continue;
                };
                let read = match part_name {
                    "sources" => {
                        source(node, findings).map(|source| drop(self.sources.insert(name, source)))
                    }
                    "accounting" => accounting(node, findings)
                        .map(|read| drop(self.accountings.insert(name, read))),
                    "presets" => self
                        .preset(node, findings)
                        .map(|preset| drop(self.presets.insert(name, preset))),
                    _ => None,
                };
                if read.is_none() {
                    findings.error(node.at, "this is not understood");
                }
            }
        }
    }

    fn preset(&self, node: &Node<'static>, findings: &mut Findings<'_>) -> Option<Preset> {
        let fields = findings.unchecked(node, "a preset")?;
        let accounting = findings.text_of(&fields, "like")?.to_owned();
        let source = findings.text_of(&fields, "source")?.to_owned();
        let unverified = findings.boolean_of(&fields, "unverified").unwrap_or(false);
        let like = self.accountings.get(&accounting)?;
        self.sources.get(&source)?;
        let mut figures = BTreeMap::new();
        for (key, value) in findings.map(node, "a preset")? {
            let key_name = findings.text(key, "a figure")?;
            if !["like", "source", "unverified"].contains(&key_name) {
                let (figure, amount) = like.given("", key, value, findings)?;
                figures.insert(figure, amount);
            }
        }
        Some(Preset {
            accounting,
            figures,
            source,
            unverified,
        })
    }
}

fn source(node: &Node<'static>, findings: &mut Findings<'_>) -> Option<String> {
    let fields = findings.unchecked(node, "a source")?;
    let document = findings.text_of(&fields, "document")?;
    let read = findings.text_of(&fields, "read")?;
    let whole = !document.is_empty() && !read.is_empty();
    whole.then(|| format!("{document}, read {read}"))
}

fn accounting(node: &Node<'static>, findings: &mut Findings<'_>) -> Option<Accounting> {
    let fields = findings.unchecked(node, "an accounting")?;
    let mut figures = Vec::new();
    for (name, kind) in findings.map(fields.get("figures")?, "figures")? {
        let name = findings.text(name, "a figure")?.to_owned();
        let kind = match &kind.value {
            Value::Scalar { text, .. } if text == "required" => Figure::Required,
            Value::Scalar { text, .. } if text == "optional" => Figure::Optional,
            _ => {
                let derived = findings.unchecked(kind, "a figure")?;
                Figure::Derived {
                    of: findings.text_of(&derived, "of")?.to_owned(),
                    times: u64::from(findings.u32_of(&derived, "times")?),
                    per: u64::from(findings.u32_of(&derived, "per")?),
                }
            }
        };
        figures.push((name, kind));
    }
    Some(Accounting {
        figures,
        limits: findings.list(fields.get("limits")?, "limits")?.to_vec(),
    })
}
