//! What replicas tell each other of past costs, so that all of them estimate alike.

use std::time::Duration;

use crate::limit::Sketch;
use crate::rules::LearnKey;

/// The costs that one replica saw in one group and one slot of time, and has not told yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Samples {
    /// Which group.
    pub group: LearnKey,
    /// Which slot of time; the same number for all replicas.
    pub slot: u64,
    /// What is new. Nothing: the replica only asks what others saw.
    pub new: Sketch,
}

/// How long the store remembers the samples of a slot after something was added.
///
/// Long enough to be asked for in the slot after; `docs/design/estimates.md` says how long slots
/// are.
pub const SAMPLES_LIFETIME: Duration = Duration::from_mins(70);
