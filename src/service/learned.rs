//! What past requests cost, by group, for limits with `estimate: learned`.

use crate::rules::{LearnKey, Learning};

/// What was learned. Asked on the path of every decision, so it answers from memory.
#[derive(Debug)]
pub(super) struct Estimates;

impl Estimates {
    /// What a request of this group is taken to cost in tokens, by the formula of its limit;
    /// `None`: too little is known, and the cold start holds.
    #[expect(clippy::unused_self, reason = "nothing is learned yet")]
    pub(super) const fn learned(&self, _learning: &Learning, _group: LearnKey) -> Option<u64> {
        None
    }
}
