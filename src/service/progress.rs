//! What a call has used so far, while its answer still streams.

use super::Service;
use crate::usage::Reported;

impl Service {
    /// Tells what the call under reservation `id` has used so far. The reservation stays open: the
    /// report at the end says what counts.
    ///
    /// Does not wait, so that whoever reads a stream never falls behind it. Without a domain, the
    /// only one that is configured is meant.
    ///
    /// It changes nothing yet: until the end a reservation holds what it held at admission.
    pub fn progress(&self, _domain: Option<&str>, _id: &str, _so_far: Reported) {}
}
