//! Which files there are, and what is in them.
//!
//! A directory stands for its `*.yaml` and `*.yml` files, sorted by name, so that every load sees
//! them in the same order. It is not entered further. What begins with a dot is passed over: in a
//! mounted ConfigMap the files are links into a hidden `..data`, and would be found twice.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::{Complaint, ConfigError, Position};
use super::yaml::MAX_BYTES;

/// A file that was found, and under which of the given paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) under: PathBuf,
}

/// The files that `path` stands for.
pub(super) fn list(path: &Path) -> Result<Vec<Found>, ConfigError> {
    let found = |file: PathBuf| Found { path: file, under: path.to_owned() };
    let metadata = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    if !metadata.is_dir() {
        return Ok(vec![found(path.to_owned())]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(|error| unreadable(path, &error))? {
        let file = entry.map_err(|error| unreadable(path, &error))?.path();
        // Follows links; one that leads nowhere is told of when it is read.
        if is_ours(&file) && !file.is_dir() {
            files.push(found(file));
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn is_ours(file: &Path) -> bool {
    let hidden = file.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
    !hidden && file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

/// The text of a file.
pub(super) fn read(path: &Path) -> Result<String, ConfigError> {
    let length = fs::metadata(path).map_err(|error| unreadable(path, &error))?.len();
    if length > u64::try_from(MAX_BYTES).unwrap_or(u64::MAX) {
        let message = format!("the file is longer than {MAX_BYTES} bytes");
        return Err(wrong(path, None, message.into()));
    }
    let bytes = fs::read(path).map_err(|error| unreadable(path, &error))?;
    String::from_utf8(bytes).map_err(|error| {
        let text = String::from_utf8_lossy(error.as_bytes());
        let good = text.split('\u{fffd}').next().unwrap_or_default();
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let line = good.matches('\n').count().saturating_add(1);
        let column = good.chars().rev().take_while(|c| *c != '\n').count().saturating_add(1);
        let at = Position { line: number(line), column: number(column) };
        wrong(path, Some(at), "the file is not UTF-8 text".into())
    })
}

fn unreadable(path: &Path, error: &io::Error) -> ConfigError {
    wrong(path, None, format!("cannot be read: {error}").into())
}

fn wrong(path: &Path, position: Option<Position>, complaint: Complaint) -> ConfigError {
    ConfigError {
        file: path.display().to_string(),
        position,
        rule: None,
        message: complaint.message,
        hint: complaint.hint,
    }
}
