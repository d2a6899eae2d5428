//! The reservations of one shard: which are known, when each is forgotten, how many are open.

use std::collections::BTreeSet;
use std::time::Duration;

use hashbrown::HashMap;

use crate::limit::Timestamp;
use crate::store::{HoldKey, Record};

/// How long a reservation that ended is remembered, to know what comes again. Whatever comes twice
/// comes within seconds.
pub(super) const REMEMBERED: Duration = Duration::from_mins(10);

#[derive(Debug, Default)]
pub(super) struct Holds {
    pub(super) known: HashMap<HoldKey, Remembered, foldhash::quality::RandomState>,
    expiries: BTreeSet<(Timestamp, HoldKey)>,
    pub(super) open: u64,
    pub(super) newly_expired: u64,
}

#[derive(Debug)]
pub(super) struct Remembered {
    pub(super) state: State,
    expires: Timestamp,
    made: Timestamp,
}

#[derive(Debug)]
pub(super) enum State {
    /// Settled.
    Closed,
    Open {
        record: Record,
        /// Not one that only tells retries.
        counted: bool,
    },
    /// Released: the request did not happen, and may come anew.
    Released,
    /// The report came, the admission has not yet.
    Reported,
}

impl Holds {
    pub(super) fn insert(
        &mut self,
        key: HoldKey,
        state: State,
        expires: Timestamp,
        made: Timestamp,
    ) {
        self.open += u64::from(state.is_counted());
        let remembered = Remembered {
            state,
            expires,
            made,
        };
        if let Some(before) = self.known.insert(key, remembered) {
            self.expiries.remove(&(before.expires, key));
        }
        self.expiries.insert((expires, key));
    }

    /// Ends an open reservation; what it remembered, and when it was made. `None`: it is not open.
    pub(super) fn end(
        &mut self,
        key: HoldKey,
        state: State,
        now: Timestamp,
    ) -> Option<(Record, Timestamp)> {
        let held = self
            .known
            .get_mut(&key)
            .filter(|held| matches!(held.state, State::Open { .. }))?;
        let made = held.made;
        let before = std::mem::replace(&mut held.state, state);
        self.open = self.open.saturating_sub(u64::from(before.is_counted()));
        self.shorten(key, now);
        match before {
            State::Open { record, .. } => Some((record, made)),
            State::Closed | State::Released | State::Reported => None,
        }
    }

    /// What ended is remembered for a while only.
    pub(super) fn shorten(&mut self, key: HoldKey, now: Timestamp) {
        if let Some(held) = self.known.get_mut(&key) {
            self.expiries.remove(&(held.expires, key));
            held.expires = held.expires.min(now.plus(REMEMBERED));
            self.expiries.insert((held.expires, key));
        }
    }

    pub(super) fn expire(&mut self, now: Timestamp) {
        while let Some((expires, key)) = self.expiries.first().copied() {
            if expires > now {
                break;
            }
            self.expiries.pop_first();
            let expired = self.known.remove(&key);
            if expired.is_some_and(|held| held.state.is_counted()) {
                self.open = self.open.saturating_sub(1);
                self.newly_expired += 1;
            }
        }
    }
}

impl State {
    /// Whether it counts among the open reservations.
    const fn is_counted(&self) -> bool {
        matches!(self, Self::Open { counted: true, .. })
    }
}
