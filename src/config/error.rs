//! What is wrong in a configuration file, and where.
//!
//! An error is written for the person who has the file open: the place as an editor takes it, the
//! rule it is in, what is wrong in the words of the file, and what was probably meant. All errors
//! of a file are reported at once, except that nothing can be said behind a broken syntax.

use std::fmt;

/// A place in a file. Both numbers count from one; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

impl Position {
    /// Where every file begins.
    pub const START: Self = Self { line: 1, column: 1 };
}

/// One thing that is wrong in a file (or, among warnings, odd).
///
/// Shown as `FILE:LINE:COLUMN: MESSAGE (in rule PATH): HINT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file as it was named to us.
    pub file: String,
    /// Where in it; none where the file could not be read.
    pub position: Option<Position>,
    /// The path of the rule it is in, as in `tenant=acme > model`.
    pub rule: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What was probably meant, or what to write instead.
    pub hint: Option<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(Position { line, column }) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(rule) = &self.rule {
            write!(f, " (in rule {rule})")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, ": {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// What is wrong, before it is known where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Complaint {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl From<String> for Complaint {
    fn from(message: String) -> Self {
        Self::new(message)
    }
}

impl From<&str> for Complaint {
    fn from(message: &str) -> Self {
        Self::new(message)
    }
}

/// Collects what is wrong in one file while it is compiled.
#[derive(Debug)]
pub(super) struct Findings<'f> {
    pub(super) file: &'f str,
    /// The path of the rule that is being compiled; empty outside of rules.
    pub(super) rule: String,
    pub(super) errors: Vec<ConfigError>,
    pub(super) warnings: Vec<ConfigError>,
}

impl<'f> Findings<'f> {
    pub(super) fn new(file: &'f str) -> Self {
        Self { file, rule: String::new(), errors: Vec::new(), warnings: Vec::new() }
    }

    pub(super) fn error(&mut self, at: Position, complaint: impl Into<Complaint>) {
        let error = self.place(at, complaint.into());
        self.errors.push(error);
    }

    pub(super) fn warning(&mut self, at: Position, complaint: impl Into<Complaint>) {
        let warning = self.place(at, complaint.into());
        self.warnings.push(warning);
    }

    /// The value, or the complaint put on record.
    pub(super) fn take<T>(&mut self, at: Position, result: Result<T, Complaint>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(complaint) => {
                self.error(at, complaint);
                None
            }
        }
    }

    fn place(&self, at: Position, complaint: Complaint) -> ConfigError {
        ConfigError {
            file: self.file.to_owned(),
            position: Some(at),
            rule: (!self.rule.is_empty()).then(|| self.rule.clone()),
            message: complaint.message,
            hint: complaint.hint,
        }
    }
}
