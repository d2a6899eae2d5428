//! Configuration: YAML files to [`crate::rules`], and how they are followed while they change.
//!
//! The whole grammar of envoyproxy/ratelimit loads unchanged and means the same; `limits:` beside
//! or instead of `rate_limit:`, and the top-level keys `costs:`, `defaults:` and `answer:`, are
//! ours. `examples/config/quickstart.yaml` shows most of it.
//!
//! | promise | where |
//! |---|---|
//! | a key that nobody would read is an error, and so is a value that means nothing where it stands | `words`, `limit` |
//! | every mistake has its file, line, column, rule, and what was probably meant; all are told at once | `error`, `read` |
//! | numbers are exact | `amount` |
//! | no input takes unbounded time or memory | `yaml` |
//! | a mistake keeps the last good version of its domain, and of no other | [`Library`] |
//!
//! What the reference allows and this does not: a misplaced key (it is ignored there), and a key
//! that is given twice in one map (the last wins there). What this allows and the reference does
//! not: numbers with a fraction as `value`, which are the text that is written.

mod amount;
mod budget;
mod cost;
mod describe;
mod document;
mod error;
mod estimate;
mod expand;
mod explain;
mod files;
mod lease;
mod library;
mod limit;
mod lint;
mod metadata;
pub mod presets;
mod rate_limit;
mod read;
mod rule;
pub mod watch;
mod window;
mod words;
mod yaml;

pub use describe::{outline, summary};
pub use error::{ConfigError, Position};
pub use explain::explain;
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
    // A test holds that it parses; if it did not, nothing would be limited.
    parse(BUILTIN, "built-in").unwrap_or_default()
}

/// The text of [`builtin`].
pub const BUILTIN: &str = include_str!("../../examples/config/quickstart.yaml");

#[cfg(test)]
mod bounds_tests;
#[cfg(test)]
mod library_tests;
#[cfg(test)]
mod presets_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod watch_tests;
