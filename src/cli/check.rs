//! `tollgate check` and `tollgate explain`: configuration, without a service.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use crate::clock::Clock;
use crate::config::{self, Library};
use crate::rules::Domain;
use crate::service::CONTROL_PREFIX;
use crate::settings::{CheckArgs, ExplainArgs};

/// Prints every mistake, or what was loaded.
pub fn check(args: &CheckArgs) -> ExitCode {
    let (library, report) = Library::open(args.paths.clone(), args.merge_domains);
    for warning in &report.warnings {
        println!("warning: {warning}");
    }
    for error in &report.errors {
        println!("error: {error}");
    }
    for domain in library.domains().values() {
        println!("{}", config::summary(domain));
    }
    if library.domains().is_empty() && report.errors.is_empty() {
        println!("error: no configuration files found");
        return ExitCode::FAILURE;
    }
    match report.errors.len() {
        0 => ExitCode::SUCCESS,
        1 => {
            println!("1 error");
            ExitCode::FAILURE
        }
        errors => {
            println!("{errors} errors");
            ExitCode::FAILURE
        }
    }
}

/// Prints what a descriptor comes to.
pub fn explain(args: &ExplainArgs) -> ExitCode {
    let (library, report) = open(&args.path, args.merge_domains);
    for error in &report.errors {
        eprintln!("error: {error}");
    }
    let domain = match find(&library, args.domain.as_deref()) {
        Ok(domain) => domain,
        Err(problem) => return super::fail(&problem),
    };
    // Control entries take no part in matching.
    let entries: Vec<(&str, &str)> = args
        .entries
        .iter()
        .filter(|(key, _)| !key.starts_with(CONTROL_PREFIX))
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    print!("{}", config::explain(domain, &entries, Clock::System.now()));
    if report.errors.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn open(path: &Path, merge: bool) -> (Library, config::LoadReport) {
    Library::open(vec![PathBuf::from(path)], merge)
}

fn find<'a>(library: &'a Library, name: Option<&str>) -> Result<&'a Arc<Domain>, String> {
    let domains = library.domains();
    let known = || {
        domains
            .keys()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", ")
    };
    match name {
        Some(name) => domains
            .get(name)
            .ok_or_else(|| format!("no domain '{name}' is configured; there are: {}", known())),
        None if domains.len() == 1 => domains
            .values()
            .next()
            .ok_or_else(|| "no domain is configured".to_owned()),
        None if domains.is_empty() => Err("no domain is configured".to_owned()),
        None => Err(format!("which domain? There are: {} (--domain)", known())),
    }
}
