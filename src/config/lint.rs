//! What is allowed and probably not meant.

use super::document::Document;
use super::error::ConfigError;

pub(super) fn lint(_documents: &[Document<'_>]) -> Vec<ConfigError> {
    Vec::new()
}
