//! `RateLimitResponse` onto the wire, straight from the answer.
//!
//! The generated type would want every name in a string of its own and the dynamic metadata in a hash
//! table. Field numbers are those of `envoy/service/ratelimit/v3/rls.proto` and of
//! `google.protobuf.Struct`. A test reads what is written by the generated decoder.

use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::{Code, rate_limit};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use crate::rules::{Metadata, Unit};
use crate::service::{Answer, LimitStatus};

/// Appends the answer's message to `out`.
pub(in crate::grpc) fn encode(answer: &Answer, out: &mut Vec<u8>) {
    put_number(out, 1, code(answer.over_limit));
    for status in &answer.statuses {
        put_message(out, 2, |out| {
            put_number(out, 1, code(status.over_limit));
            if let Some(limit) = &status.limit {
                put_message(out, 2, |out| put_limit(out, limit));
            }
            put_number(out, 3, status.remaining.into());
            if let Some(reset) = status.reset {
                put_message(out, 4, |out| put_number(out, 1, reset.as_secs()));
            }
        });
    }
    for (name, value) in &answer.headers {
        put_message(out, 3, |out| {
            put_bytes(out, 1, name.as_bytes());
            put_bytes(out, 2, value.as_bytes());
        });
    }
    put_bytes(out, 5, answer.body.as_bytes());
    if !answer.metadata.is_empty() || answer.rule_metadata.is_some() {
        put_message(out, 6, |out| {
            for (name, text) in &answer.metadata {
                put_field(out, name, |out| put_text(out, text));
            }
            if let Some(metadata) = &answer.rule_metadata {
                put_field(out, "metadata", |out| put_value(out, metadata));
            }
        });
    }
}

fn put_limit(out: &mut Vec<u8>, limit: &LimitStatus) {
    put_number(out, 1, limit.requests_per_unit.into());
    let unit = match limit.unit {
        Unit::Second => rate_limit::Unit::Second,
        Unit::Minute => rate_limit::Unit::Minute,
        Unit::Hour => rate_limit::Unit::Hour,
        Unit::Day => rate_limit::Unit::Day,
        Unit::Week => rate_limit::Unit::Week,
        Unit::Month => rate_limit::Unit::Month,
        Unit::Year => rate_limit::Unit::Year,
    };
    put_number(out, 2, enumerator(unit.into()));
    put_bytes(out, 3, limit.name.as_bytes());
}

fn code(over: bool) -> u64 {
    enumerator(if over { Code::OverLimit } else { Code::Ok }.into())
}

fn enumerator(number: i32) -> u64 {
    i64::from(number).cast_unsigned()
}

/// An entry of a `Struct`.
fn put_field(out: &mut Vec<u8>, name: &str, value: impl FnOnce(&mut Vec<u8>)) {
    put_message(out, 1, |out| {
        put_bytes(out, 1, name.as_bytes());
        put_message(out, 2, value);
    });
}

// The fields of a `Value`: one of them is there, also where it is empty or zero.

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_message(out, 3, |out| out.extend_from_slice(text.as_bytes()));
}

fn put_value(out: &mut Vec<u8>, value: &Metadata) {
    match value {
        Metadata::Null => put_always(out, 1, 0),
        Metadata::Number(number) => {
            encode_key(2, WireType::SixtyFourBit, out);
            out.extend_from_slice(&number.to_le_bytes());
        }
        Metadata::Text(text) => put_text(out, text),
        Metadata::Bool(truth) => put_always(out, 4, u64::from(*truth)),
        Metadata::Map(map) => put_message(out, 5, |out| {
            for (name, value) in map {
                put_field(out, name, |out| put_value(out, value));
            }
        }),
        Metadata::List(list) => put_message(out, 6, |out| {
            for value in list {
                put_message(out, 1, |out| put_value(out, value));
            }
        }),
    }
}

/// A number that is left out where it is zero.
fn put_number(out: &mut Vec<u8>, field: u32, number: u64) {
    if number != 0 {
        put_always(out, field, number);
    }
}

fn put_always(out: &mut Vec<u8>, field: u32, number: u64) {
    encode_key(field, WireType::Varint, out);
    encode_varint(number, out);
}

/// A text or bytes, left out where they are empty.
fn put_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_message(out, field, |out| out.extend_from_slice(bytes));
    }
}

/// Something after its length. One byte is left for that; what is longer moves.
fn put_message(out: &mut Vec<u8>, field: u32, write: impl FnOnce(&mut Vec<u8>)) {
    encode_key(field, WireType::LengthDelimited, out);
    let at = out.len();
    out.push(0);
    write(out);
    let length = out.len() - at - 1;
    if let (Ok(short @ 0..=0x7f), Some(byte)) = (u8::try_from(length), out.get_mut(at)) {
        *byte = short;
        return;
    }
    let length = length as u64;
    let mut prefix = Vec::with_capacity(encoded_len_varint(length));
    encode_varint(length, &mut prefix);
    drop(out.splice(at..=at, prefix));
}

#[cfg(test)]
#[path = "response_tests.rs"]
mod tests;
