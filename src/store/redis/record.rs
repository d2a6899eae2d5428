//! How a reservation is written in Redis. The script reads the charges; the texts behind them are
//! for us.
//!
//! A count of two bytes, then 85 bytes a charge, then the domain and each charge's label, each
//! after its length in two bytes. Where a limit learns, there follows for each charge a byte: 0, or
//! 1 and the 16 bytes of its group. All little-endian. A charge:
//!
//! | bytes | |
//! |---|---|
//! | 16 | the bucket's key |
//! | 1 | flags: 1 fixed window, 2 charge when over, 4 settled by an earlier charge, 8 missing usage releases, 16 oversize when full, 32 zero passes at zero, 64 calendar window |
//! | 5 × 8 | doubles: numerator and denominator of the rate, amount, fixed part, period; of a calendar window, its start and end, amount, fixed part, length of the next one |
//! | 4 × 4 | the weights of the token measures, in thousandths |
//! | 8 + 4 | a double: the burst; of a calendar window, the period of its rate in seconds |

use std::sync::Arc;
use std::time::Duration;

use super::super::{Record, RecordedCharge};
use super::codec::{Malformed, Reader, put_count, put_number};
use crate::limit::{
    Algorithm, Formula, HeldCharge, Limit, MissingUsage, Oversize, Rate, Span, Timestamp, Weight,
    WhenOver, ZeroCost,
};
use crate::rules::{BucketKey, LearnKey};

const FIXED_WINDOW: u8 = 1;
const CHARGE_WHEN_OVER: u8 = 2;
const AGAIN: u8 = 4;
const MISSING_RELEASES: u8 = 8;
const WHEN_FULL: u8 = 16;
const PASSES_AT_ZERO: u8 = 32;
const CALENDAR_WINDOW: u8 = 64;

/// The flags of a limit that the script acts on.
pub(super) fn limit_flags(limit: &Limit) -> u8 {
    let mut flags = 0;
    match limit.algorithm {
        Algorithm::TokenBucket => {}
        Algorithm::FixedWindow => flags |= FIXED_WINDOW,
        Algorithm::CalendarWindow(_) => flags |= FIXED_WINDOW | CALENDAR_WINDOW,
    }
    if limit.when_over == WhenOver::Charge {
        flags |= CHARGE_WHEN_OVER;
    }
    flags
}

/// The three numbers by which the script lets a limit's time pass: numerator and denominator of the
/// rate, and the period; of a calendar window its start, its end, and the length of the next one.
pub(super) const fn limit_times(limit: &Limit) -> [u64; 3] {
    match limit.algorithm {
        Algorithm::CalendarWindow(span) => [
            span.start().as_micros(),
            span.end().as_micros(),
            span.next_micros(),
        ],
        Algorithm::FixedWindow | Algorithm::TokenBucket => [
            limit.rate.numerator(),
            limit.rate.denominator(),
            limit.rate.period_micros(),
        ],
    }
}

/// Appends a record.
pub(super) fn encode(record: &Record, out: &mut Vec<u8>) {
    put_count(out, record.charges.len());
    for RecordedCharge { key, held, .. } in &record.charges {
        let mut flags = limit_flags(&held.limit);
        for (set, flag) in [
            (held.again, AGAIN),
            (
                held.missing_usage == MissingUsage::Release,
                MISSING_RELEASES,
            ),
            (held.limit.oversize == Oversize::WhenFull, WHEN_FULL),
            (
                held.limit.zero_cost == ZeroCost::PassesAtZero,
                PASSES_AT_ZERO,
            ),
        ] {
            if set {
                flags |= flag;
            }
        }
        out.extend_from_slice(key.as_bytes());
        out.push(flags);
        let [first, second, third] = limit_times(&held.limit);
        for number in [first, second, held.amount, held.fixed, third] {
            put_number(out, number);
        }
        for weight in held.formula.tokens {
            out.extend_from_slice(&weight.thousandths().to_le_bytes());
        }
        put_number(out, held.limit.burst);
        let seconds = match held.limit.algorithm {
            // For people only, and no rate is per nothing.
            Algorithm::CalendarWindow(_) => held.limit.rate.period().as_secs().max(1),
            Algorithm::FixedWindow | Algorithm::TokenBucket => 0,
        };
        // At most 366 days.
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        out.extend_from_slice(&seconds.to_le_bytes());
    }
    let labels = record.charges.iter().map(|charge| &charge.label);
    for text in std::iter::once(&record.domain).chain(labels) {
        let text = text.as_bytes();
        let text = &text[..text.len().min(usize::from(u16::MAX))];
        put_count(out, text.len());
        out.extend_from_slice(text);
    }
    if record.charges.iter().any(|charge| charge.group.is_some()) {
        for charge in &record.charges {
            out.push(u8::from(charge.group.is_some()));
            if let Some(group) = &charge.group {
                out.extend_from_slice(group.as_bytes());
            }
        }
    }
}

/// Reads the value of a reservation's key: its state, when it expires and was made (doubles), and the
/// record while it is open.
pub(super) fn open(value: &[u8], now: Timestamp) -> Option<Record> {
    let mut reader = Reader::new(value);
    let state = reader.byte().ok()?.to_ascii_lowercase();
    let expires = Timestamp::from_micros(reader.number().ok()?);
    let is_open = matches!(state, b'o' | b'p') && expires > now;
    let record = value.get(17..).filter(|_| is_open)?;
    decode(record).ok()
}

/// Reads what [`encode`] wrote.
pub(super) fn decode(bytes: &[u8]) -> Result<Record, Malformed> {
    let mut reader = Reader::new(bytes);
    let count = reader.count()?;
    let mut charges = Vec::with_capacity(count);
    for _ in 0..count {
        charges.push(decode_charge(&mut reader)?);
    }
    let domain = text(&mut reader)?;
    for charge in &mut charges {
        charge.label = text(&mut reader)?;
    }
    if !reader.is_at_end() {
        for charge in &mut charges {
            charge.group = match reader.byte()? {
                0 => None,
                1 => Some(LearnKey::from_bytes(reader.array()?)),
                _ => return Err(Malformed),
            };
        }
    }
    Ok(Record { domain, charges })
}

fn decode_charge(reader: &mut Reader<'_>) -> Result<RecordedCharge, Malformed> {
    let key = BucketKey::from_bytes(reader.array()?);
    let flags = reader.byte()?;
    let times = [reader.number()?, reader.number()?];
    let amount = reader.number()?;
    let fixed = reader.number()?;
    let [first, second, third] = [times[0], times[1], reader.number()?];
    let mut tokens = [Weight::ZERO; 4];
    for weight in &mut tokens {
        *weight = Weight::from_thousandths(reader.weight()?).ok_or(Malformed)?;
    }
    let burst = reader.number()?;
    let seconds = reader.weight()?;
    let (algorithm, rate) = if flags & CALENDAR_WINDOW != 0 {
        let span = Span::new(
            Timestamp::from_micros(first),
            Timestamp::from_micros(second),
            Timestamp::from_micros(second.saturating_add(third)),
        );
        // All of a window's amount can be taken at once.
        let rate = Rate::new(burst, Duration::from_secs(u64::from(seconds)));
        (Algorithm::CalendarWindow(span.ok_or(Malformed)?), rate)
    } else {
        let per_period = first.checked_mul(third / second.max(1));
        let rate = Rate::new(per_period.ok_or(Malformed)?, Duration::from_micros(third));
        let algorithm = if flags & FIXED_WINDOW == 0 {
            Algorithm::TokenBucket
        } else {
            Algorithm::FixedWindow
        };
        (algorithm, rate)
    };
    let limit = Limit {
        algorithm,
        rate: rate.map_err(|_| Malformed)?,
        burst,
        when_over: if flags & CHARGE_WHEN_OVER == 0 {
            WhenOver::Refuse
        } else {
            WhenOver::Charge
        },
        oversize: if flags & WHEN_FULL == 0 {
            Oversize::Refuse
        } else {
            Oversize::WhenFull
        },
        zero_cost: if flags & PASSES_AT_ZERO == 0 {
            ZeroCost::NeedsRoom
        } else {
            ZeroCost::PassesAtZero
        },
    };
    Ok(RecordedCharge {
        key,
        label: Arc::from(""),
        held: HeldCharge {
            limit,
            amount,
            fixed,
            formula: Formula {
                tokens,
                ..Formula::default()
            },
            missing_usage: if flags & MISSING_RELEASES == 0 {
                MissingUsage::Keep
            } else {
                MissingUsage::Release
            },
            again: flags & AGAIN != 0,
        },
        group: None,
    })
}

fn text(reader: &mut Reader<'_>) -> Result<Arc<str>, Malformed> {
    let length = reader.count()?;
    Ok(Arc::from(String::from_utf8_lossy(reader.bytes(length)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Identity;

    #[test]
    fn a_record_reads_as_it_was_written() {
        let group = LearnKey::of(Identity::of(&["x"]), [("model", "m")]);
        let charge = |algorithm, zero_cost, amount, group| RecordedCharge {
            key: BucketKey::of(Identity::of(&["x"]), [("k", "v")]),
            label: Arc::from("tenant-tokens"),
            held: HeldCharge {
                limit: Limit {
                    algorithm,
                    rate: Rate::new(450_000, Duration::from_mins(1)).unwrap(),
                    burst: 900_000,
                    when_over: WhenOver::Charge,
                    oversize: Oversize::WhenFull,
                    zero_cost,
                },
                amount,
                fixed: 1,
                formula: Formula {
                    requests: Weight::ZERO,
                    ..Formula::TOKENS
                },
                missing_usage: MissingUsage::Release,
                again: true,
            },
            group,
        };
        let at = Timestamp::from_micros;
        let day = 86_400_000_000;
        // A day of 23 hours, before one of 24.
        let span = Span::new(at(8 * day), at(9 * day - day / 24), at(10 * day - day / 24));
        let mut calendar = charge(
            Algorithm::CalendarWindow(span.unwrap()),
            ZeroCost::NeedsRoom,
            3,
            None,
        );
        calendar.held.limit.rate = Rate::new(900_000, Duration::from_hours(24)).unwrap();
        let record = Record {
            domain: Arc::from("llm"),
            charges: vec![
                charge(Algorithm::TokenBucket, ZeroCost::NeedsRoom, 800, None),
                charge(
                    Algorithm::FixedWindow,
                    ZeroCost::PassesAtZero,
                    1 << 50,
                    Some(group),
                ),
                calendar,
            ],
        };
        let mut bytes = Vec::new();
        encode(&record, &mut bytes);
        assert_eq!(decode(&bytes).as_ref(), Ok(&record));
        // Written by a version that knew no groups, or where no limit learns.
        let without_groups = Record {
            charges: (record.charges.iter().cloned())
                .map(|charge| RecordedCharge {
                    group: None,
                    ..charge
                })
                .collect(),
            ..record
        };
        let mut shorter = Vec::new();
        encode(&without_groups, &mut shorter);
        assert_eq!(bytes[..shorter.len()], shorter);
        assert_eq!(bytes.len() - shorter.len(), 1 + (1 + 16) + 1);
        for cut in 0..bytes.len() {
            let expected = if cut == shorter.len() {
                Ok(without_groups.clone())
            } else {
                Err(Malformed)
            };
            assert_eq!(decode(&bytes[..cut]), expected, "cut at {cut}");
        }
    }
}
