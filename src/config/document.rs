//! Whole files to a domain.

use crate::rules::{AnswerStyle, BodyStyle, Domain, HeaderStyle, Limits};

use super::cost::Costs;
use super::error::{Complaint, ConfigError, Findings, Position};
use super::expand::Tiers;
use super::limit::{Defaults, Modes, Surroundings};
use super::lint;
use super::read::Fields;
use super::rule::{Descriptors, Seen};
use super::words::{Place, unknown_word};
use super::yaml::{self, Node};

/// A file whose syntax is right.
#[derive(Debug)]
pub(super) struct Document<'s> {
    pub(super) file: &'s str,
    pub(super) root: Node<'s>,
}

/// A domain, and what is odd about it.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) domain: Domain,
    pub(super) warnings: Vec<ConfigError>,
}

impl<'s> Document<'s> {
    pub(super) fn parse(source: &'s str, file: &'s str) -> Result<Self, ConfigError> {
        yaml::parse(source)
            .map(|root| Self { file, root })
            .map_err(|(at, complaint)| ConfigError {
                file: file.to_owned(),
                position: Some(at),
                rule: None,
                message: complaint.message,
                hint: complaint.hint,
            })
    }

    /// The name of its domain; empty where it has none.
    pub(super) fn domain(&self) -> &str {
        // What is wrong with the file is found when it is compiled.
        let mut findings = Findings::new(self.file);
        let root = findings.fields(&self.root, "a file", Place::Root);
        root.and_then(|root| findings.text_of(&root, "domain"))
            .unwrap_or_default()
    }
}

impl Document<'_> {
    /// The error that another file, `first`, describes `domain` already.
    pub(super) fn duplicate(&self, domain: &str, first: &str) -> ConfigError {
        let mut findings = Findings::new(self.file);
        let root = findings.fields(&self.root, "a file", Place::Root);
        ConfigError {
            file: self.file.to_owned(),
            position: Some(root.map_or(Position::START, |root| root.at("domain"))),
            rule: None,
            message: format!("duplicate domain '{domain}' in config file"),
            hint: Some(format!("the first is {first}")),
        }
    }
}

/// The domain that `documents`, which all name it, are together.
pub(super) fn compile(documents: &[Document<'_>]) -> Result<Compiled, Vec<ConfigError>> {
    let mut domain = Domain::default();
    let mut limits = Limits::default();
    let mut seen = Seen::new();
    let mut answer = None;
    let mut has_limits = false;
    let mut errors = Vec::new();
    let mut warnings = Vec::new();
    for document in documents {
        let mut findings = Findings::new(document.file);
        if document.root.is_null() {
            findings.error(Position::START, "config file cannot have empty domain");
        } else if let Some(root) = findings.fields(&document.root, "a file", Place::Root) {
            let name = findings.text_of(&root, "domain");
            if name == Some("") {
                findings.error(root.at("domain"), "config file cannot have empty domain");
            }
            name.unwrap_or_default().clone_into(&mut domain.name);
            read_answer(&root, &mut answer, &mut findings);
            has_limits |= read_rules(&root, &mut domain, &mut limits, &mut seen, &mut findings);
        }
        findings.errors.sort_by_key(|error| error.position);
        errors.append(&mut findings.errors);
        warnings.append(&mut findings.warnings);
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    domain.limits = limits.into_distinct();
    let (headers, body) = answer.map_or((None, None), |(_, style)| style);
    let usual = if has_limits {
        vec![HeaderStyle::RetryAfter]
    } else {
        Vec::new()
    };
    domain.answer = AnswerStyle {
        headers: headers.unwrap_or(usual),
        body: body.unwrap_or_default(),
    };
    warnings.extend(lint::lint(documents, &domain));
    Ok(Compiled { domain, warnings })
}

/// Whether the file has any `limits:`.
fn read_rules(
    root: &Fields<'_, '_>,
    domain: &mut Domain,
    limits: &mut Limits,
    seen: &mut Seen,
    findings: &mut Findings<'_>,
) -> bool {
    let costs = root.get("costs").map(|node| Costs::read(node, findings));
    let mut costs = costs.unwrap_or_default();
    let defaults = root
        .get("defaults")
        .map(|node| Defaults::read(node, &mut costs, findings));
    let defaults = defaults.unwrap_or_default();
    let name = domain.name.clone();
    let mut surroundings = Surroundings {
        costs: &mut costs,
        defaults: &defaults,
        domain: &name,
        modes: Modes::default(),
    };
    let tiers = root
        .get("tiers")
        .map(|node| Tiers::read(node, &mut surroundings, findings));
    let mut tiers = tiers.unwrap_or_default();
    let Some(node) = root.get("descriptors") else {
        return false;
    };
    let mut descriptors = Descriptors {
        findings,
        costs: &mut costs,
        defaults: &defaults,
        tiers: &mut tiers,
        domain: &name,
        limits,
        has_limits: false,
    };
    descriptors.root(node, domain, seen);
    let has_limits = descriptors.has_limits;
    costs.warn_unused(findings);
    tiers.warn_unused(findings);
    has_limits
}

type Style = (Option<Vec<HeaderStyle>>, Option<BodyStyle>);

fn read_answer(
    root: &Fields<'_, '_>,
    answer: &mut Option<(String, Style)>,
    findings: &mut Findings<'_>,
) {
    let Some(node) = root.get("answer") else {
        return;
    };
    if let Some((file, _)) = answer {
        let twice = Complaint::new("answer is given in two files of one domain");
        findings.error(node.at, twice.hint(format!("the first is {file}")));
        return;
    }
    let Some(fields) = findings.fields(node, "answer", Place::Answer) else {
        return;
    };
    let headers = fields
        .get("headers")
        .map(|node| read_headers(node, findings));
    let body = findings.word_of(&fields, "body", &BodyStyle::NAMES);
    *answer = Some((findings.file.to_owned(), (headers, body)));
}

fn read_headers(node: &Node<'_>, findings: &mut Findings<'_>) -> Vec<HeaderStyle> {
    let mut headers = Vec::new();
    for item in findings.list(node, "headers").unwrap_or_default() {
        let Some(word) = findings.text(item, "a family of headers") else {
            continue;
        };
        match HeaderStyle::NAMES.iter().find(|(name, _)| *name == word) {
            Some((_, style)) if headers.contains(style) => {
                findings.error(item.at, format!("the headers '{word}' are given twice"));
            }
            Some((_, style)) => headers.push(*style),
            None => {
                let known = HeaderStyle::NAMES.map(|(name, _)| name);
                findings.error(item.at, unknown_word("headers", word, &known));
            }
        }
    }
    headers
}
