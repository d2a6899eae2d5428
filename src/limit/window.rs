//! When a window begins and ends.
//!
//! Windows of the Unix calendar follow from a period. Those of a time zone or of months do not, and
//! nothing here knows zones: whoever plans a charge says which window is under way and when the
//! next one ends ([`Span`]), as numbers that every replica and the Redis script can hold a charge
//! to. The store decides by its own clock, so it has to do right with a clock that has passed the
//! window's end already, or has not come to its beginning yet.

use super::{Algorithm, Limit, Rate, Timestamp};

/// A window, and when the one after it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    start: Timestamp,
    end: Timestamp,
    next_end: Timestamp,
}

/// A window: from its start up to but not including its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// When it began.
    pub start: Timestamp,
    /// When the next one begins.
    pub end: Timestamp,
}

impl Span {
    /// The window from `start` to `end` and the next one, to `next_end`. `None` unless each comes
    /// after the one before, no window is longer than [`Rate::MAX_PERIOD`], and all of them lie
    /// before 2^53 µs, the end of Lua's exact integers.
    pub fn new(start: Timestamp, end: Timestamp, next_end: Timestamp) -> Option<Self> {
        let longest = Rate::MAX_PERIOD.as_micros();
        let follows = |from: Timestamp, to: Timestamp| {
            from < to && u128::from(to.as_micros().saturating_sub(from.as_micros())) <= longest
        };
        let exact = next_end.as_micros() < 1 << 53;
        (follows(start, end) && follows(end, next_end) && exact).then_some(Self {
            start,
            end,
            next_end,
        })
    }

    /// When the window began.
    pub const fn start(self) -> Timestamp {
        self.start
    }

    /// When it ends.
    pub const fn end(self) -> Timestamp {
        self.end
    }

    /// How long the next one is, in microseconds.
    pub const fn next_micros(self) -> u64 {
        self.next_end
            .as_micros()
            .saturating_sub(self.end.as_micros())
    }

    /// The window that `now` lies in, as far as it is known here.
    ///
    /// Before the start: the one before, of which only the end is known. It began at no time that
    /// would reset anything. After the next one's end: still the next one, so that nothing is reset
    /// at a time that nobody named; its end is taken for the next multiple of its length.
    fn window(self, now: Timestamp) -> Window {
        if now < self.start {
            return Window {
                start: Timestamp::default(),
                end: self.start,
            };
        }
        if now < self.end {
            return Window {
                start: self.start,
                end: self.end,
            };
        }
        let (end, now) = (self.end.as_micros(), now.as_micros());
        let into = now.saturating_sub(end).checked_rem(self.next_micros());
        let began = now.saturating_sub(into.unwrap_or(0));
        Window {
            start: self.end,
            end: Timestamp::from_micros(began.saturating_add(self.next_micros())),
        }
    }
}

impl Limit {
    /// The window that `now` lies in; `None` for a token bucket, which has none.
    ///
    /// All that resets, waits for or gives back to a window asks this, here and in the script.
    pub fn window(&self, now: Timestamp) -> Option<Window> {
        match self.algorithm {
            Algorithm::TokenBucket => None,
            Algorithm::CalendarWindow(span) => Some(span.window(now)),
            Algorithm::FixedWindow => {
                let start = self.rate.window_start(now);
                let end = start.as_micros().saturating_add(self.rate.period_micros());
                Some(Window {
                    start,
                    end: Timestamp::from_micros(end),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    #[test]
    fn a_span_knows_its_window_and_the_next() {
        let span = Span::new(at(100), at(200), at(330)).unwrap();
        let window = |now| {
            let Window { start, end } = span.window(at(now));
            (start.as_micros(), end.as_micros())
        };
        let cases = [
            (0, (0, 100)),
            (99, (0, 100)),
            (100, (100, 200)),
            (199, (100, 200)),
            (200, (200, 330)),
            (329, (200, 330)),
            (330, (200, 460)),
            (459, (200, 460)),
            (460, (200, 590)),
        ];
        for (now, expected) in cases {
            assert_eq!(window(now), expected, "at {now}");
        }
    }

    #[test]
    fn a_span_goes_forward_and_is_bounded() {
        let year = u64::try_from(Rate::MAX_PERIOD.as_micros()).unwrap();
        let made = |start, end, next| Span::new(at(start), at(end), at(next)).is_some();
        assert!(made(0, 1, 2));
        assert!(!made(1, 1, 2));
        assert!(!made(0, 2, 2));
        assert!(made(5, 5 + year, 5 + 2 * year));
        assert!(!made(5, 6 + year, 7 + year));
        assert!(!made(5, 6, 7 + year));
        assert!(!made((1 << 53) - 2, (1 << 53) - 1, 1 << 53));
    }
}
