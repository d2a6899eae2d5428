//! `RateLimitRequest` in protobuf's JSON.
//!
//! Names in lowerCamelCase or as in the .proto file, `null` for what is not said, 64-bit and other
//! integers as numbers or texts, enums by name or number; an unknown name is an error.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Unexpected, Visitor};

use crate::rules::Unit;
use crate::service;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RateLimitRequest {
    #[serde(deserialize_with = "or_default")]
    domain: String,
    #[serde(deserialize_with = "or_default")]
    descriptors: Vec<Descriptor>,
    #[serde(
        rename = "hitsAddend",
        alias = "hits_addend",
        deserialize_with = "or_default"
    )]
    hits_addend: Integer<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Descriptor {
    #[serde(deserialize_with = "or_default")]
    entries: Vec<Entry>,
    limit: Option<Limit>,
    #[serde(rename = "hitsAddend", alias = "hits_addend")]
    hits_addend: Option<Integer<u64>>,
    #[serde(
        rename = "isNegativeHits",
        alias = "is_negative_hits",
        deserialize_with = "or_default"
    )]
    is_negative_hits: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Entry {
    #[serde(deserialize_with = "or_default")]
    key: String,
    #[serde(deserialize_with = "or_default")]
    value: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Limit {
    #[serde(
        rename = "requestsPerUnit",
        alias = "requests_per_unit",
        deserialize_with = "or_default"
    )]
    requests_per_unit: Integer<u32>,
    #[serde(deserialize_with = "or_default")]
    unit: RequestedUnit,
}

impl RateLimitRequest {
    /// What it asks, in our terms.
    pub(super) fn asked(&self) -> service::Request<'_> {
        service::Request {
            domain: &self.domain,
            descriptors: self.descriptors.iter().map(Descriptor::asked).collect(),
            hits_addend: self.hits_addend.0,
            request_id: None,
        }
    }
}

impl Descriptor {
    fn asked(&self) -> service::Descriptor<'_> {
        service::Descriptor {
            entries: self
                .entries
                .iter()
                .map(|entry| (entry.key.as_str(), entry.value.as_str()))
                .collect(),
            hits_addend: self.hits_addend.as_ref().map(|addend| addend.0),
            refund: self.is_negative_hits,
            limit: self.limit.as_ref().map(|limit| service::RequestedLimit {
                requests_per_unit: limit.requests_per_unit.0,
                unit: limit.unit.0,
            }),
        }
    }
}

/// `null` stands for what is not said.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A whole number of zero or more, also in quotes, also as `1.0`.
#[derive(Debug, Default)]
struct Integer<T>(T);

impl<'de, T: TryFrom<u64>> Deserialize<'de> for Integer<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = deserializer.deserialize_any(IntegerVisitor)?;
        T::try_from(number)
            .map(Self)
            .map_err(|_| D::Error::invalid_value(Unexpected::Unsigned(number), &IntegerVisitor))
    }
}

struct IntegerVisitor;

impl Visitor<'_> for IntegerVisitor {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number of zero or more that its field can hold")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<u64, E> {
        Ok(number)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<u64, E> {
        let bad = || E::invalid_value(Unexpected::Float(number), &self);
        if number.fract() != 0.0 {
            return Err(bad());
        }
        format!("{number:.0}").parse().map_err(|_| bad())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
        text.parse()
            .map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
    }
}

/// `envoy.type.v3.RateLimitUnit`; `None` where it is unknown, which is for the service to refuse.
#[derive(Debug, Default)]
struct RequestedUnit(Option<Unit>);

impl<'de> Deserialize<'de> for RequestedUnit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UnitVisitor)
    }
}

struct UnitVisitor;

impl Visitor<'_> for UnitVisitor {
    type Value = RequestedUnit;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a unit, such as MINUTE")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<RequestedUnit, E> {
        Ok(RequestedUnit(match number {
            1 => Some(Unit::Second),
            2 => Some(Unit::Minute),
            3 => Some(Unit::Hour),
            4 => Some(Unit::Day),
            5 => Some(Unit::Month),
            6 => Some(Unit::Year),
            7 => Some(Unit::Week),
            _ => None,
        }))
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<RequestedUnit, E> {
        let lower_case = name.chars().any(|c| c.is_ascii_lowercase());
        match Unit::from_name(name) {
            Some(unit) if !lower_case => Ok(RequestedUnit(Some(unit))),
            _ if name == "UNKNOWN" => Ok(RequestedUnit(None)),
            _ => Err(E::invalid_value(Unexpected::Str(name), &self)),
        }
    }
}
