//! The answers to a call of the script, out of the string that it returns.

use smallvec::SmallVec;

use super::call::Places;
use super::codec::{Malformed, Reader};
use super::record;
use super::script::{Answer, Operation};
use crate::limit::{self, Bucket, Limit, Reading, Timestamp};
use crate::store::{Admission, Charges, Decision, EndResult, Ended, Readings, Verdict};

/// Reads the answers to `operations`, in their order.
pub(super) fn read(
    bytes: &[u8],
    operations: &[&Operation],
    places: &Places,
) -> Result<Vec<Answer>, Malformed> {
    let mut reader = Reader::new(bytes);
    let now = Timestamp::from_micros(reader.number()?);
    let mut plain: Vec<Option<Decision>> = operations.iter().map(|_| None).collect();
    let mut found = Bucket::default();
    for place in &places.0 {
        if place.first {
            found = read_state(&mut reader)?;
        }
        if let Some(Operation::Admit(admission)) = operations.get(place.operation) {
            plain[place.operation] = Some(decide_again(&mut found, admission, now));
        }
    }
    operations
        .iter()
        .zip(plain)
        .map(|(operation, plain)| match (operation, plain) {
            (_, Some(decision)) => Ok(Answer::Admit(decision)),
            (Operation::Admit(admission), None) => {
                let verdict = match reader.byte()? {
                    b'A' => Verdict::Admitted,
                    b'P' => Verdict::Repeated,
                    b'R' => Verdict::Refused,
                    _ => return Err(Malformed),
                };
                let readings = read_readings(&mut reader, limits_of(&admission.charges), now)?;
                Ok(Answer::Admit(Decision {
                    verdict,
                    now,
                    readings,
                }))
            }
            (Operation::End(ending), None) => {
                read_ended(&mut reader, &ending.fallback, now).map(Answer::End)
            }
            (Operation::Withdraw(_), None) => {
                read_ended(&mut reader, &Charges::new(), now).map(Answer::End)
            }
        })
        .collect()
}

/// Reads a bucket as the script found it.
fn read_state(reader: &mut Reader<'_>) -> Result<Bucket, Malformed> {
    let bucket = Bucket {
        spent: reader.number()?,
        fraction: reader.number()?,
        at: Timestamp::from_micros(reader.number()?),
    };
    // Until when it is remembered.
    reader.bytes(8)?;
    Ok(bucket)
}

/// What the script decided over a plain charge: the same arithmetic comes to the same.
fn decide_again(bucket: &mut Bucket, admission: &Admission, now: Timestamp) -> Decision {
    let charges: SmallVec<[limit::Charge; 1]> = admission
        .charges
        .iter()
        .map(|charge| charge.charge)
        .collect();
    let mut readings = Vec::with_capacity(1);
    let verdict = limit::decide(
        &charges,
        &[0],
        std::slice::from_mut(bucket),
        now,
        admission.mode,
        &mut readings,
    );
    Decision {
        verdict: match verdict {
            limit::Verdict::Admitted => Verdict::Admitted,
            limit::Verdict::Refused => Verdict::Refused,
        },
        now,
        readings: readings.into(),
    }
}

fn read_ended(
    reader: &mut Reader<'_>,
    fallback: &Charges,
    now: Timestamp,
) -> Result<Ended, Malformed> {
    let (result, readings) = match reader.byte()? {
        b'C' => {
            let limits = limits_of(fallback);
            (EndResult::Charged, read_readings(reader, limits, now)?)
        }
        b'D' => (EndResult::Already, Readings::new()),
        kind @ (b'G' | b'S') => {
            let made = Timestamp::from_micros(reader.number()?);
            let length = usize::try_from(reader.weight()?).map_err(|_| Malformed)?;
            let record = record::decode(reader.bytes(length)?)?;
            let limits = record.charges.iter().map(|charge| &charge.held.limit);
            let readings = read_readings(reader, limits, now)?;
            let result = if kind == b'G' {
                EndResult::Grown { record, made }
            } else {
                EndResult::Settled { record, made }
            };
            (result, readings)
        }
        b'U' => (EndResult::Unknown, Readings::new()),
        _ => return Err(Malformed),
    };
    Ok(Ended {
        result,
        now,
        readings,
    })
}

fn limits_of(charges: &Charges) -> impl Iterator<Item = &Limit> {
    charges.iter().map(|charge| &charge.charge.limit)
}

#[expect(single_use_lifetimes, reason = "`impl Trait` takes no anonymous one")]
fn read_readings<'a>(
    reader: &mut Reader<'_>,
    limits: impl Iterator<Item = &'a Limit>,
    now: Timestamp,
) -> Result<Readings, Malformed> {
    limits
        .map(|limit| {
            // A charge that did not fit comes as −1 − spent.
            let spent = reader.signed()?;
            let fraction = reader.number()?;
            let fits = spent >= 0;
            let spent = if fits { spent } else { -1 - spent }.cast_unsigned();
            Ok(Reading {
                fits,
                bucket: Bucket {
                    spent,
                    fraction,
                    at: limit.window(now).map_or(now, |window| window.start),
                },
            })
        })
        .collect()
}
