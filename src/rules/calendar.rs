//! Windows that go by a calendar: days that begin at local midnight, and months.
//!
//! A day has 23 or 25 hours where the clocks change, and a month has its own length. So these
//! windows are no multiples of a period: which one is under way has to be looked up for a time. The
//! stores take it as numbers ([`Span`]) and know nothing of zones.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use jiff::SignedDuration;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::limit::{Span, Timestamp};

/// Windows of a time zone.
#[derive(Clone, Debug)]
pub struct Calendar {
    zone: TimeZone,
    windows: CalendarWindows,
    /// The window that was looked up last: it mostly is the one that is asked for next, and looking
    /// it up takes half a microsecond.
    last: Arc<ArcSwapOption<Span>>,
}

impl PartialEq for Calendar {
    fn eq(&self, other: &Self) -> bool {
        (&self.zone, self.windows) == (&other.zone, other.windows)
    }
}

impl Eq for Calendar {}

/// How long the windows of a calendar are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CalendarWindows {
    /// So many days. They begin where windows of as many times 24 hours begin in UTC: at multiples
    /// since 1970-01-01, so weeks begin on Thursdays.
    Days(u16),
    /// A month, from its first day to the next one's.
    Months,
}

/// How a calendar month is written as a unit.
pub const CALENDAR_MONTH: &str = "calendar_month";

const EPOCH: Date = Date::constant(1970, 1, 1);

impl Calendar {
    /// The windows of a time zone. Days are at least one.
    pub fn new(zone: TimeZone, windows: CalendarWindows) -> Self {
        Self {
            zone,
            windows,
            last: Arc::default(),
        }
    }

    /// How long its windows are.
    pub const fn windows(&self) -> CalendarWindows {
        self.windows
    }

    /// The IANA name of its zone.
    pub fn zone_name(&self) -> &str {
        self.zone.iana_name().unwrap_or("UTC")
    }

    /// The window that `now` lies in. `None` for times that no calendar has, far from today.
    pub fn span(&self, now: Timestamp) -> Option<Span> {
        if let Some(last) = &*self.last.load()
            && last.start() <= now
            && now < last.end()
        {
            return Some(**last);
        }
        let span = self.look_up(now)?;
        self.last.store(Some(Arc::new(span)));
        Some(span)
    }

    fn look_up(&self, now: Timestamp) -> Option<Span> {
        let mut index = self.index(&self.local(now)?);
        let mut start = self.begin(index)?;
        // Where a change of the clocks took midnight away, its day may begin before what stands
        // for it here.
        while start > now {
            index -= 1;
            start = self.begin(index)?;
        }
        let end = self.begin_after(&mut index, start)?;
        let next_end = self.begin_after(&mut index, end)?;
        Span::new(start, end, next_end)
    }

    /// A time as the zone's clocks show it, for people.
    pub fn show(&self, time: Timestamp) -> String {
        self.local(time)
            .map_or_else(|| "?".to_owned(), |local| local.to_string())
    }

    fn local(&self, time: Timestamp) -> Option<jiff::Zoned> {
        let micros = i64::try_from(time.as_micros()).ok()?;
        let time = jiff::Timestamp::from_microsecond(micros).ok()?;
        Some(time.to_zoned(self.zone.clone()))
    }

    /// The number of a window, counted from 1970.
    fn index(&self, local: &jiff::Zoned) -> i64 {
        let date = local.date();
        match self.windows {
            CalendarWindows::Days(days) => {
                let day = date.duration_since(EPOCH).as_hours().div_euclid(24);
                day.div_euclid(i64::from(days.max(1)))
            }
            CalendarWindows::Months => i64::from(date.year()) * 12 + i64::from(date.month()) - 1,
        }
    }

    /// When a window begins: with its first day.
    fn begin(&self, index: i64) -> Option<Timestamp> {
        let date = match self.windows {
            CalendarWindows::Days(days) => {
                let hours = index.checked_mul(i64::from(days.max(1)))?.checked_mul(24)?;
                EPOCH.checked_add(SignedDuration::from_hours(hours)).ok()?
            }
            CalendarWindows::Months => {
                let year = i16::try_from(index.div_euclid(12)).ok()?;
                let month = i8::try_from(index.rem_euclid(12) + 1).ok()?;
                Date::new(year, month, 1).ok()?
            }
        };
        let midnight = date.to_zoned(self.zone.clone()).ok()?;
        let micros = midnight.timestamp().as_microsecond();
        Some(Timestamp::from_micros(u64::try_from(micros).unwrap_or(0)))
    }

    /// The first beginning after `time` of the windows after `index`. Zones that moved across the
    /// date line have left days out; those begin when the next one does.
    fn begin_after(&self, index: &mut i64, time: Timestamp) -> Option<Timestamp> {
        loop {
            *index += 1;
            let begin = self.begin(*index)?;
            if begin > time {
                return Some(begin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).unwrap()
    }

    /// A time written as RFC 3339.
    fn at(text: &str) -> Timestamp {
        let time: jiff::Timestamp = text.parse().unwrap();
        Timestamp::from_micros(u64::try_from(time.as_microsecond()).unwrap())
    }

    fn before(time: Timestamp) -> Timestamp {
        Timestamp::from_micros(time.as_micros() - 1)
    }

    /// The boundaries follow each other: each begins its window at that instant and not a
    /// microsecond before.
    fn follow(calendar: &Calendar, boundaries: &[&str]) {
        let boundaries: Vec<Timestamp> = boundaries.iter().map(|text| at(text)).collect();
        for three in boundaries.windows(3) {
            let [start, end, next_end] = three else {
                unreachable!()
            };
            let span = Span::new(*start, *end, *next_end);
            assert_eq!(calendar.span(*start), span);
            assert_eq!(calendar.span(before(*end)), span);
            assert_ne!(calendar.span(*end), span);
        }
    }

    #[test]
    fn days_begin_at_local_midnight_however_long_they_are() {
        let days = Calendar::new(zone("America/Los_Angeles"), CalendarWindows::Days(1));
        // 23 hours.
        follow(
            &days,
            &[
                "2026-03-07T00:00:00-08:00",
                "2026-03-08T00:00:00-08:00",
                "2026-03-09T00:00:00-07:00",
                "2026-03-10T00:00:00-07:00",
            ],
        );
        // 25 hours.
        follow(
            &days,
            &[
                "2026-10-31T00:00:00-07:00",
                "2026-11-01T00:00:00-07:00",
                "2026-11-02T00:00:00-08:00",
                "2026-11-03T00:00:00-08:00",
            ],
        );
        let lengths = ["2026-03-08T12:00:00-07:00", "2026-11-01T12:00:00-08:00"].map(|noon| {
            let span = days.span(at(noon)).unwrap();
            span.start().until(span.end()).as_secs() / 3600
        });
        assert_eq!(lengths, [23, 25]);
    }

    #[test]
    fn a_day_whose_midnight_the_clocks_left_out_begins_after_it() {
        // At midnight of 2018-11-04 clocks went ahead to one o'clock.
        let days = Calendar::new(zone("America/Sao_Paulo"), CalendarWindows::Days(1));
        follow(
            &days,
            &[
                "2018-11-03T00:00:00-03:00",
                "2018-11-04T01:00:00-02:00",
                "2018-11-05T00:00:00-02:00",
            ],
        );
        // There was no 2011-12-30 in Samoa.
        let days = Calendar::new(zone("Pacific/Apia"), CalendarWindows::Days(1));
        follow(
            &days,
            &[
                "2011-12-29T00:00:00-10:00",
                "2011-12-31T00:00:00+14:00",
                "2012-01-01T00:00:00+14:00",
            ],
        );
    }

    #[test]
    fn months_have_their_own_lengths_also_at_the_end_of_a_year() {
        let months = Calendar::new(TimeZone::UTC, CalendarWindows::Months);
        follow(
            &months,
            &[
                "2027-12-01T00:00:00Z",
                "2028-01-01T00:00:00Z",
                "2028-02-01T00:00:00Z",
                "2028-03-01T00:00:00Z",
                "2028-04-01T00:00:00Z",
            ],
        );
        let days = |month| {
            let span = months.span(at(month)).unwrap();
            span.start().until(span.end()).as_secs() / 86_400
        };
        assert_eq!(days("2028-02-29T23:59:59Z"), 29);
        assert_eq!(days("2027-02-28T23:59:59Z"), 28);
        assert_eq!(days("2100-02-28T23:59:59Z"), 28);
        let berlin = Calendar::new(zone("Europe/Berlin"), CalendarWindows::Months);
        follow(
            &berlin,
            &[
                "2026-03-01T00:00:00+01:00",
                "2026-04-01T00:00:00+02:00",
                "2026-05-01T00:00:00+02:00",
            ],
        );
    }

    #[test]
    fn in_utc_days_are_the_windows_of_a_period() {
        const DAY: u64 = 86_400_000_000;
        proptest!(|(now in 0..4_000_000_000_000_000_u64, days in 1_u16..=365)| {
            let calendar = Calendar::new(TimeZone::UTC, CalendarWindows::Days(days));
            let period = u64::from(days) * DAY;
            let start = now - now % period;
            let windows = [start, start + period, start + 2 * period].map(Timestamp::from_micros);
            let [start, end, next_end] = windows;
            let span = calendar.span(Timestamp::from_micros(now));
            prop_assert_eq!(span, Span::new(start, end, next_end));
        });
    }

    #[test]
    fn in_every_zone_and_at_any_time_there_is_a_window_and_it_stays_the_same_to_its_end() {
        let zones: Vec<TimeZone> = jiff::tz::db()
            .available()
            .map(|name| zone(name.as_str()))
            .collect();
        assert!(zones.len() > 400);
        let windows = prop_oneof![
            Just(CalendarWindows::Days(1)),
            (1_u16..=365).prop_map(CalendarWindows::Days),
            Just(CalendarWindows::Months),
        ];
        // From 1971, so that no window begins before 1970, to 2096.
        let now = 31_622_400_000_000..4_000_000_000_000_000_u64;
        let config = ProptestConfig::with_cases(5000);
        proptest!(config, |(zone in proptest::sample::select(zones), windows in windows, now in now)| {
            let calendar = Calendar::new(zone, windows);
            let now = Timestamp::from_micros(now);
            let span = calendar.look_up(now).unwrap();
            prop_assert_eq!(calendar.span(now), Some(span));
            prop_assert!(span.start() <= now && now < span.end(), "{:?}", span);
            for same in [span.start(), before(span.end())] {
                prop_assert_eq!(calendar.look_up(same), Some(span));
                prop_assert_eq!(calendar.span(same), Some(span));
            }
            let next = calendar.span(span.end()).unwrap();
            prop_assert_eq!(next.start(), span.end());
            prop_assert_eq!(next.start().until(next.end()).as_micros(), u128::from(span.next_micros()));
        });
    }
}
