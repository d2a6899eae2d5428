//! The script, what it is asked and what it answers.

use crate::store::{Admission, Decision, Ended, Ending, HoldKey};

/// The script.
pub(super) const SOURCE: &str = include_str!("script.lua");

/// What is asked of Redis.
#[derive(Debug)]
pub(super) enum Operation {
    Admit(Admission),
    End(Ending),
    /// Undo an admission that nobody heard of, and forget it: whoever tries again is charged anew.
    /// One that was tried again meanwhile stays, because that try was let in on its account.
    Withdraw(HoldKey),
}

/// What it answers.
#[derive(Debug)]
pub(super) enum Answer {
    Admit(Decision),
    End(Ended),
}

impl Operation {
    /// An upper bound of the keys it adds to a call.
    pub(super) fn key_count(&self) -> usize {
        match self {
            Self::Admit(admission) => admission.charges.len() + 1,
            Self::End(ending) => ending.fallback.len() + 1,
            Self::Withdraw(_) => 1,
        }
    }
}

/// What the keys of reservations start with.
pub(super) fn holds_prefix(prefix: &str) -> String {
    format!("{prefix}r:")
}

/// The key of the hash of all buckets.
pub(super) fn buckets_key(prefix: &str) -> String {
    format!("{prefix}buckets")
}

/// The key under which it is remembered how far the buckets were looked through.
pub(super) fn sweep_key(prefix: &str) -> String {
    format!("{prefix}sweep")
}

/// The key under which open reservations are counted.
pub(super) fn open_holds_key(prefix: &str) -> String {
    format!("{prefix}holds")
}
