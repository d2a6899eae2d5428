//! Configuration files to [`crate::rules`].

mod amount;
mod cost;
mod describe;
mod document;
mod error;
mod files;
mod limit;
mod library;
mod lint;
mod metadata;
mod rate_limit;
mod read;
mod rule;
mod words;
mod yaml;

pub use describe::{outline, summary};
pub use error::{ConfigError, Position};
pub use library::{Library, LoadReport};
pub use yaml::{MAX_BYTES, MAX_DEPTH, MAX_NODES};

use crate::rules::Domain;

/// The domain that `source` describes; `file` is what errors call it.
pub fn parse(source: &str, file: &str) -> Result<Domain, Vec<ConfigError>> {
    let document = document::Document::parse(source, file).map_err(|error| vec![error])?;
    document::compile(&[document]).map(|compiled| compiled.domain)
}

/// The domain that is in force when no configuration is given: `examples/config/quickstart.yaml`.
pub fn builtin() -> Domain {
    // A test holds that it parses; without it, nothing is limited.
    parse(BUILTIN, "built-in").unwrap_or_default()
}

/// The text of [`builtin`].
pub const BUILTIN: &str = include_str!("../../examples/config/quickstart.yaml");

#[cfg(test)]
mod tests;
