//! Configuration files to [`crate::rules`].

mod amount;
mod cost;
mod document;
mod error;
mod limit;
mod lint;
mod metadata;
mod rate_limit;
mod read;
mod rule;
mod words;
mod yaml;

pub use error::{ConfigError, Position};
pub use yaml::{MAX_BYTES, MAX_DEPTH, MAX_NODES};

use crate::rules::Domain;

/// The domain that `source` describes; `file` is what errors call it.
pub fn parse(source: &str, file: &str) -> Result<Domain, Vec<ConfigError>> {
    let document = document::Document::parse(source, file).map_err(|error| vec![error])?;
    document::compile(&[document]).map(|compiled| compiled.domain)
}
