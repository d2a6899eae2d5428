//! The reservations of one shard: which are known, when each expires and is forgotten, how many are
//! open.

use std::collections::BTreeSet;
use std::time::Duration;

use hashbrown::HashMap;

use crate::limit::{Settlement, Timestamp, Usage};
use crate::store::{HoldKey, Record};

/// How long a reservation that ended is remembered, to know what comes again, unless it could be open
/// for a shorter time only. Whatever comes twice comes within seconds.
pub(super) const REMEMBERED: Duration = Duration::from_mins(10);

/// Room that is not worth giving back.
const MIN_CAPACITY: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Holds {
    pub(super) known: HashMap<HoldKey, Remembered, foldhash::quality::RandomState>,
    expiries: BTreeSet<(Timestamp, HoldKey)>,
    pub(super) open: u64,
    pub(super) newly_unreported: u64,
    pub(super) newly_cut_short: u64,
}

#[derive(Debug)]
pub(super) struct Remembered {
    pub(super) state: State,
    /// When it changes by itself: an open one expires, all others are forgotten.
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
        /// Whether a report came of what was used so far.
        grown: bool,
    },
    /// Open until it expired. A report still settles it.
    Late(Record),
    /// Ended by a report that did not find all usage. One that has found it still settles it.
    Unmeasured(Record),
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

    /// Ends a reservation that is open or late, or whose usage nobody had found; what it remembered,
    /// and when it was made. `None`: it is none of these.
    pub(super) fn end(
        &mut self,
        key: HoldKey,
        settlement: Settlement,
        now: Timestamp,
    ) -> Option<(Record, Timestamp)> {
        let measured = matches!(
            settlement,
            Settlement::Settle(Usage::Measured(_) | Usage::Total(_))
        );
        let held = self.known.get(&key).filter(|held| match held.state {
            State::Open { .. } | State::Late(_) => true,
            State::Unmeasured(_) => measured,
            State::Closed | State::Released | State::Reported => false,
        })?;
        let made = held.made;
        let state = match settlement {
            Settlement::Release => State::Released,
            Settlement::Settle(Usage::AtLeast(_) | Usage::Missing) => {
                held.state.record().map_or(State::Closed, |record| {
                    State::Unmeasured(record.after(settlement, made, now))
                })
            }
            Settlement::Settle(_) | Settlement::SoFar(_) => State::Closed,
        };
        let known = held.expires.as_micros().saturating_sub(made.as_micros());
        let length = match held.state {
            // Known for twice as long as it was open.
            State::Late(_) => Duration::from_micros(known / 2),
            _ => Duration::from_micros(known),
        };
        let before = self.close(key, state, length, now)?;
        before.into_record().map(|record| (record, made))
    }

    /// What a reservation that can go on remembers, and when it was made.
    pub(super) fn growing(&self, key: HoldKey) -> Option<(&Record, Timestamp)> {
        let held = self.known.get(&key)?;
        let goes_on = held.state.is_counted() || matches!(held.state, State::Late(_));
        held.state
            .record()
            .filter(|_| goes_on)
            .map(|record| (record, held.made))
    }

    /// Goes on with what was used so far in its record, until `expires`; a late one is open again.
    pub(super) fn grow(&mut self, key: HoldKey, record: Record, expires: Timestamp) {
        let Some(held) = self.known.get_mut(&key) else {
            return;
        };
        self.open += u64::from(!held.state.is_counted());
        held.state = State::Open {
            record,
            counted: true,
            grown: true,
        };
        self.expiries.remove(&(held.expires, key));
        held.expires = expires;
        self.expiries.insert((expires, key));
    }

    /// Ends a reservation that could be open for `length`, and remembers that for a while. Returns
    /// what it was before.
    pub(super) fn close(
        &mut self,
        key: HoldKey,
        state: State,
        length: Duration,
        now: Timestamp,
    ) -> Option<State> {
        let held = self.known.get_mut(&key)?;
        let before = std::mem::replace(&mut held.state, state);
        self.open = self.open.saturating_sub(u64::from(before.is_counted()));
        self.expiries.remove(&(held.expires, key));
        held.expires = now.plus(length.min(REMEMBERED));
        self.expiries.insert((held.expires, key));
        Some(before)
    }

    /// What expires expires, what is over is forgotten, and so is the room that it took.
    pub(super) fn expire(&mut self, now: Timestamp) {
        while let Some((expires, key)) = self.expiries.first().copied() {
            if expires > now {
                break;
            }
            self.expiries.pop_first();
            let Some(held) = self.known.remove(&key) else {
                continue;
            };
            let State::Open {
                record,
                counted: true,
                grown,
            } = held.state
            else {
                continue;
            };
            self.open = self.open.saturating_sub(1);
            self.newly_cut_short += u64::from(grown);
            self.newly_unreported += u64::from(!grown);
            let forgotten = late_until(held.made, expires);
            if forgotten > now {
                self.insert(key, State::Late(record), forgotten, held.made);
            }
        }
        if self.known.capacity() > (4 * self.known.len()).max(MIN_CAPACITY) {
            self.known.shrink_to(2 * self.known.len());
        }
    }
}

/// Until when a reservation that expired is remembered: for as long again as it was open.
fn late_until(made: Timestamp, expires: Timestamp) -> Timestamp {
    let open = expires.as_micros().saturating_sub(made.as_micros());
    expires.plus(Duration::from_micros(open))
}

impl State {
    const fn record(&self) -> Option<&Record> {
        match self {
            Self::Open { record, .. } | Self::Late(record) | Self::Unmeasured(record) => {
                Some(record)
            }
            Self::Closed | Self::Released | Self::Reported => None,
        }
    }

    fn into_record(self) -> Option<Record> {
        match self {
            Self::Open { record, .. } | Self::Late(record) | Self::Unmeasured(record) => {
                Some(record)
            }
            Self::Closed | Self::Released | Self::Reported => None,
        }
    }

    /// Whether it counts among the open reservations.
    const fn is_counted(&self) -> bool {
        matches!(self, Self::Open { counted: true, .. })
    }
}
