//! `timezone`, and months: windows that go by a calendar.

use std::time::Duration;

use jiff::tz::TimeZone;

use crate::limit::Algorithm;
use crate::rules::{Calendar, CalendarWindows};

use super::amount::WrittenRate;
use super::error::{Complaint, Findings};
use super::read::Fields;
use super::words::nearest;

const DAY: Duration = Duration::from_hours(24);

/// The longest windows of days, in days: an hour more, where clocks change, still is a period.
const MOST_DAYS: u16 = 365;

/// The zone that `timezone` names.
pub(super) fn zone(fields: &Fields<'_, '_>, findings: &mut Findings<'_>) -> Option<TimeZone> {
    let node = fields.get("timezone")?;
    let name = findings.text(node, "timezone")?;
    let zone = TimeZone::get(name).map_err(|_| unknown(name));
    findings.take(node.at, zone)
}

fn unknown(name: &str) -> Complaint {
    let complaint = Complaint::new(format!("unknown timezone '{name}'"));
    let known: Vec<String> = jiff::tz::db()
        .available()
        .map(|known| known.to_string())
        .collect();
    let city = name.replace(' ', "_");
    let of_city = known.iter().find(|known| {
        let last = known.rsplit_once('/').map(|(_, last)| last);
        last.is_some_and(|last| last.eq_ignore_ascii_case(&city))
    });
    let meant = match of_city {
        Some(known) => Some(known.as_str()),
        None => nearest(name, known.iter().map(String::as_str)),
    };
    complaint.hint(match meant {
        Some(meant) => format!("did you mean '{meant}'?"),
        None => "write a name of the IANA database, such as America/Los_Angeles or UTC".to_owned(),
    })
}

/// The calendar that windows of this rate go by; `None`: they are multiples of their period. What
/// `timezone` says of other limits is refused, unless it stands in `defaults`.
pub(super) fn calendar(
    fields: &Fields<'_, '_>,
    algorithm: Algorithm,
    written: WrittenRate,
    default: Option<&TimeZone>,
    findings: &mut Findings<'_>,
) -> Option<Calendar> {
    let own = zone(fields, findings);
    if algorithm == Algorithm::TokenBucket {
        if let Some(node) = fields.own("timezone") {
            let idle = Complaint::new("'timezone' means nothing for a token_bucket");
            findings.error(
                node.at,
                idle.hint("only the windows of a fixed_window begin at midnight"),
            );
        }
        if written.calendar_month {
            let longer =
                Complaint::new("a calendar_month has no length that a token_bucket refills in");
            findings.error(
                fields.at("rate"),
                longer.hint("write algorithm: fixed_window, or a rate per month (30 days)"),
            );
        }
        return None;
    }
    let zone = own.or_else(|| default.cloned());
    if written.calendar_month {
        return Some(Calendar::new(
            zone.unwrap_or(TimeZone::UTC),
            CalendarWindows::Months,
        ));
    }
    let Some(days) = days(written.rate.period()) else {
        if let Some(node) = fields.own("timezone") {
            let idle = Complaint::new(
                "'timezone' means nothing for windows that are not 1 to 365 whole days",
            );
            findings.error(
                node.at,
                idle.hint("write a rate per day, week, month, calendar_month or year"),
            );
        }
        return None;
    };
    // In UTC they are the multiples of their period.
    zone.filter(|zone| zone.iana_name() != Some("UTC"))
        .map(|zone| Calendar::new(zone, CalendarWindows::Days(days)))
}

/// A period as whole days.
fn days(period: Duration) -> Option<u16> {
    let seconds = period.as_secs();
    let whole = period.subsec_nanos() == 0 && seconds.is_multiple_of(DAY.as_secs());
    let days = u16::try_from(seconds / DAY.as_secs()).ok()?;
    (whole && (1..=MOST_DAYS).contains(&days)).then_some(days)
}
