//! The domains that are in force, and how they follow their files.
//!
//! **The last good version stays, domain by domain.** A mistake in one tenant's file must not
//! freeze everybody else's configuration, and must not leave that tenant unlimited either. So a
//! file that is wrong keeps its domain as it was (also when it does not even parse: it is
//! remembered which file gave which domain), while all other domains load. A file that is gone
//! takes its domain with it; a directory that is gone is a mistake, and keeps everything. While
//! there is a wrong file of which nobody knows whose it is, no domain goes: it may be that of a
//! file that got a new name and a mistake at once.
//!
//! **Nothing changes that did not change.** A domain whose files are byte for byte the same keeps
//! its `Arc`, so that whoever holds tables beside it need not build them again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use crate::rules::Domain;

use super::document::{Compiled, Document, compile};
use super::error::ConfigError;
use super::files::{self, Found};

/// The domains that some files and directories describe.
#[derive(Clone, Debug)]
pub struct Library {
    paths: Vec<PathBuf>,
    merge: bool,
    domains: BTreeMap<String, Arc<Domain>>,
    /// What each domain in force was made of.
    made_of: BTreeMap<String, Vec<Source>>,
}

/// What a load found. Each list is sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// The domains that are new or different.
    pub changed: Vec<String>,
    /// The domains that are as they were.
    pub unchanged: Vec<String>,
    /// The domains that are as they were because a file of theirs is wrong now.
    pub kept: Vec<String>,
    /// The domains that are gone.
    pub removed: Vec<String>,
    /// What is wrong.
    pub errors: Vec<ConfigError>,
    /// What is odd about the domains that changed.
    pub warnings: Vec<ConfigError>,
}

impl LoadReport {
    /// Whether the domains in force are others than before.
    pub fn changes_anything(&self) -> bool {
        !self.changed.is_empty() || !self.removed.is_empty()
    }
}

/// What stays as it is because something is wrong.
#[derive(Debug, Default)]
struct Held {
    domains: BTreeSet<String>,
    /// No domain goes.
    all: bool,
}

impl Held {
    /// Holds the `domains` of a file that is wrong.
    fn hold(&mut self, domains: Vec<String>) {
        self.all |= domains.is_empty();
        self.domains.extend(domains);
    }
}

/// A version of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    found: Found,
    digest: blake3::Hash,
}

/// A file that could be read.
struct Text {
    source: Source,
    name: String,
    content: String,
}

/// A file of a domain; parsed, unless its text is the one in force.
struct Member<'t> {
    text: &'t Text,
    document: Option<Document<'t>>,
}

impl Library {
    /// Loads `paths`, which are files or directories. With `merge`, several files may describe one
    /// domain together.
    ///
    /// What is wrong is in the report, and what is right is in force; whether to start with that
    /// is for the caller to say.
    pub fn open(paths: Vec<PathBuf>, merge: bool) -> (Self, LoadReport) {
        let mut library = Self {
            paths,
            merge,
            domains: BTreeMap::new(),
            made_of: BTreeMap::new(),
        };
        let report = library.reload();
        (library, report)
    }

    /// The domains in force, by name.
    pub const fn domains(&self) -> &BTreeMap<String, Arc<Domain>> {
        &self.domains
    }

    /// The files and directories it is loaded from.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Looks at all files again.
    pub fn reload(&mut self) -> LoadReport {
        let mut report = LoadReport::default();
        let mut held = Held::default();
        let texts = self.read(&mut held, &mut report.errors);
        let groups = self.group(&texts, &mut held, &mut report.errors);
        let named: BTreeSet<String> = groups.keys().cloned().collect();

        for (name, members) in groups {
            self.load(name, members, &mut held, &mut report);
        }
        for name in self.domains.keys() {
            if named.contains(name) || held.domains.contains(name) {
                continue;
            }
            if held.all {
                held.domains.insert(name.clone());
            } else {
                report.removed.push(name.clone());
            }
        }
        for name in &report.removed {
            self.domains.remove(name);
            self.made_of.remove(name);
        }
        held.domains
            .retain(|name| self.domains.contains_key(name) && !report.changed.contains(name));
        report.kept = held.domains.into_iter().collect();
        report
    }

    /// All files that can be read. What hangs on those that cannot is held.
    fn read(&self, held: &mut Held, errors: &mut Vec<ConfigError>) -> Vec<Text> {
        let mut texts = Vec::new();
        // A file may be given by its name and by its directory.
        let mut read = BTreeSet::new();
        for path in &self.paths {
            let files = files::list(path).unwrap_or_else(|error| {
                errors.push(error);
                held.hold(self.domains_of(|known| known.under == *path));
                Vec::new()
            });
            for found in files {
                if !read.insert(found.path.clone()) {
                    continue;
                }
                match files::read(&found.path) {
                    Ok(text) => {
                        let digest = blake3::hash(text.as_bytes());
                        let name = found.path.display().to_string();
                        texts.push(Text {
                            source: Source { found, digest },
                            name,
                            content: text,
                        });
                    }
                    Err(error) => {
                        errors.push(error);
                        held.hold(self.domains_of(|known| known.path == found.path));
                    }
                }
            }
        }
        texts
    }

    /// The files of each domain, by the domain's name. A file whose syntax is wrong is in none.
    fn group<'t>(
        &self,
        texts: &'t [Text],
        held: &mut Held,
        errors: &mut Vec<ConfigError>,
    ) -> BTreeMap<String, Vec<Member<'t>>> {
        let mut known = BTreeMap::new();
        for (domain, sources) in &self.made_of {
            known.extend(
                sources
                    .iter()
                    .map(|source| (&source.found.path, (source, domain))),
            );
        }
        let mut groups: BTreeMap<String, Vec<Member<'_>>> = BTreeMap::new();
        for text in texts {
            let (domain, document) = match known.get(&text.source.found.path) {
                // As in the version in force: parsed only where the domain has to be made anew.
                Some((source, domain)) if **source == text.source => ((*domain).clone(), None),
                _ => match Document::parse(&text.content, &text.name) {
                    Ok(document) => (document.domain().to_owned(), Some(document)),
                    Err(error) => {
                        errors.push(error);
                        held.hold(self.domains_of(|known| known.path == text.source.found.path));
                        continue;
                    }
                },
            };
            groups
                .entry(domain)
                .or_default()
                .push(Member { text, document });
        }
        groups
    }

    /// Brings the domain `name` to what `members` say, unless something is wrong.
    fn load(
        &mut self,
        name: String,
        members: Vec<Member<'_>>,
        held: &mut Held,
        report: &mut LoadReport,
    ) {
        let sources: Vec<Source> = members
            .iter()
            .map(|member| member.text.source.clone())
            .collect();
        if self.made_of.get(&name) == Some(&sources) {
            if !held.domains.contains(&name) {
                report.unchanged.push(name);
            }
            return;
        }
        match self.compile(&name, members) {
            // Part of it is missing.
            Ok(_) if held.domains.contains(&name) => {}
            Ok(Compiled { domain, warnings }) => {
                report.warnings.extend(warnings);
                report.changed.push(name.clone());
                self.domains.insert(name.clone(), Arc::new(domain));
                self.made_of.insert(name, sources);
            }
            Err(errors) => {
                report.errors.extend(errors);
                held.all |= name.is_empty();
                held.domains.insert(name);
                // A file may have been another domain's before.
                for source in sources {
                    held.domains
                        .extend(self.domains_of(|known| known.path == source.found.path));
                }
            }
        }
    }

    fn compile(&self, name: &str, members: Vec<Member<'_>>) -> Result<Compiled, Vec<ConfigError>> {
        let mut documents = Vec::with_capacity(members.len());
        for Member { text, document } in members {
            documents.push(match document {
                Some(document) => document,
                None => Document::parse(&text.content, &text.name).map_err(|error| vec![error])?,
            });
        }
        match documents.as_slice() {
            // Without a name, each file is wrong for itself.
            [first, others @ ..] if !self.merge && !name.is_empty() && !others.is_empty() => {
                Err(others
                    .iter()
                    .map(|other| other.duplicate(name, first.file))
                    .collect())
            }
            documents => compile(documents),
        }
    }

    /// The domains in force that have a file which `is`.
    fn domains_of(&self, is: impl Fn(&Found) -> bool) -> Vec<String> {
        self.made_of
            .iter()
            .filter(|(_, files)| files.iter().any(|file| is(&file.found)))
            .map(|(domain, _)| domain.clone())
            .collect()
    }
}
