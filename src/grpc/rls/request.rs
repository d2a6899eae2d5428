//! `RateLimitRequest` off the wire, with its texts borrowed from the message.
//!
//! The generated type would copy every key and value into a string of its own, only to be borrowed
//! from. Field numbers and types are those of `envoy/service/ratelimit/v3/rls.proto` and
//! `envoy/extensions/common/ratelimit/v3/ratelimit.proto`; unknown fields are skipped, and what comes
//! twice is merged, as protobuf wants it. A property holds it equal to the generated decoder.

use envoy_types::pb::envoy::r#type::v3::RateLimitUnit;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::rules::Unit;
use crate::service::{Descriptor, MAX_DESCRIPTORS, MAX_ENTRIES, Request, RequestedLimit};

/// Bytes that are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    /// They are no protobuf, or a field has another type.
    #[error("not a RateLimitRequest: {0}")]
    Wire(String),
    /// A text is not UTF-8.
    #[error("not a RateLimitRequest: a text is not UTF-8")]
    Text,
    /// A length goes beyond the end.
    #[error("not a RateLimitRequest: it is cut off")]
    Cut,
}

impl From<prost::DecodeError> for Malformed {
    fn from(error: prost::DecodeError) -> Self {
        Self::Wire(error.to_string())
    }
}

/// Reads a request.
///
/// Of descriptors and entries beyond the most that are allowed only one is kept, for which the
/// request is refused: a message of empty ones would be many times its size.
pub(super) fn decode<'a>(
    message: &'a [u8],
    request_id: Option<&'a str>,
) -> Result<Request<'a>, Malformed> {
    let mut request = Request {
        request_id,
        ..Request::default()
    };
    let mut fields = Fields(message);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => request.domain = field.text(&mut fields)?,
            2 => {
                let mut descriptor = Descriptor::default();
                read_descriptor(&mut descriptor, field.message(&mut fields)?)?;
                if request.descriptors.len() <= MAX_DESCRIPTORS {
                    request.descriptors.push(descriptor);
                }
            }
            3 => request.hits_addend = field.uint32(&mut fields)?,
            _ => field.skip(&mut fields)?,
        }
    }
    Ok(request)
}

fn read_descriptor<'a>(
    descriptor: &mut Descriptor<'a>,
    mut fields: Fields<'a>,
) -> Result<(), Malformed> {
    while let Some(field) = fields.next()? {
        match field.number {
            1 => {
                let entry = read_entry(field.message(&mut fields)?)?;
                if descriptor.entries.len() <= MAX_ENTRIES {
                    descriptor.entries.push(entry);
                }
            }
            2 => read_limit(&mut descriptor.limit, field.message(&mut fields)?)?,
            3 => read_addend(
                descriptor.hits_addend.get_or_insert_default(),
                field.message(&mut fields)?,
            )?,
            4 => descriptor.refund = field.varint(&mut fields)? != 0,
            _ => field.skip(&mut fields)?,
        }
    }
    Ok(())
}

fn read_entry(mut fields: Fields<'_>) -> Result<(&str, &str), Malformed> {
    let (mut key, mut value) = ("", "");
    while let Some(field) = fields.next()? {
        match field.number {
            1 => key = field.text(&mut fields)?,
            2 => value = field.text(&mut fields)?,
            _ => field.skip(&mut fields)?,
        }
    }
    Ok((key, value))
}

fn read_limit(limit: &mut Option<RequestedLimit>, mut fields: Fields<'_>) -> Result<(), Malformed> {
    let limit = limit.get_or_insert(RequestedLimit {
        requests_per_unit: 0,
        unit: None,
    });
    while let Some(field) = fields.next()? {
        match field.number {
            1 => limit.requests_per_unit = field.uint32(&mut fields)?,
            2 => limit.unit = unit(field.uint32(&mut fields)?.cast_signed()),
            _ => field.skip(&mut fields)?,
        }
    }
    Ok(())
}

fn read_addend(addend: &mut u64, mut fields: Fields<'_>) -> Result<(), Malformed> {
    while let Some(field) = fields.next()? {
        match field.number {
            1 => *addend = field.varint(&mut fields)?,
            _ => field.skip(&mut fields)?,
        }
    }
    Ok(())
}

fn unit(unit: i32) -> Option<Unit> {
    match RateLimitUnit::try_from(unit).ok()? {
        RateLimitUnit::Unknown => None,
        RateLimitUnit::Second => Some(Unit::Second),
        RateLimitUnit::Minute => Some(Unit::Minute),
        RateLimitUnit::Hour => Some(Unit::Hour),
        RateLimitUnit::Day => Some(Unit::Day),
        RateLimitUnit::Month => Some(Unit::Month),
        RateLimitUnit::Year => Some(Unit::Year),
    }
}

/// The fields of a message that are left.
struct Fields<'a>(&'a [u8]);

struct Field {
    number: u32,
    wire_type: WireType,
}

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<Field>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let (number, wire_type) = decode_key(&mut self.0)?;
        Ok(Some(Field { number, wire_type }))
    }

    fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(decode_varint(&mut self.0)?).map_err(|_| Malformed::Cut)?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Malformed::Cut)?;
        self.0 = rest;
        Ok(bytes)
    }
}

impl Field {
    fn expect(&self, wire_type: WireType) -> Result<(), Malformed> {
        if self.wire_type == wire_type {
            return Ok(());
        }
        let (number, found) = (self.number, self.wire_type);
        Err(Malformed::Wire(format!(
            "field {number} is {found:?}, not {wire_type:?}"
        )))
    }

    fn varint(&self, fields: &mut Fields<'_>) -> Result<u64, Malformed> {
        self.expect(WireType::Varint)?;
        Ok(decode_varint(&mut fields.0)?)
    }

    /// Cut to 32 bits, as protobuf wants it.
    fn uint32(&self, fields: &mut Fields<'_>) -> Result<u32, Malformed> {
        #[expect(clippy::cast_possible_truncation, reason = "that is the rule")]
        Ok(self.varint(fields)? as u32)
    }

    fn message<'a>(&self, fields: &mut Fields<'a>) -> Result<Fields<'a>, Malformed> {
        self.expect(WireType::LengthDelimited)?;
        fields.bytes().map(Fields)
    }

    fn text<'a>(&self, fields: &mut Fields<'a>) -> Result<&'a str, Malformed> {
        self.expect(WireType::LengthDelimited)?;
        std::str::from_utf8(fields.bytes()?).map_err(|_| Malformed::Text)
    }

    /// Groups are the only unknown fields that nest. How deep they may is counted from here, not from
    /// the message as the generated decoder does: it may refuse some that are skipped here.
    fn skip(&self, fields: &mut Fields<'_>) -> Result<(), Malformed> {
        let context = DecodeContext::default();
        Ok(skip_field(
            self.wire_type,
            self.number,
            &mut fields.0,
            context,
        )?)
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
