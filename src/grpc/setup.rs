//! What a stream of Envoy's says about itself when it begins, in the `initial_metadata` of its
//! `grpc_service`. So everything about a way in stands in one place, Envoy's configuration, and
//! needs no flag of ours.

use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::google::protobuf::Struct;
use envoy_types::pb::google::protobuf::value::Kind;
use tonic::metadata::MetadataMap;

use crate::rules::Entry;

/// The namespace of dynamic metadata that Envoy's rate-limit filter writes our answers to.
const RATELIMIT: &str = "envoy.filters.http.ratelimit";

/// Where usage is looked for in dynamic metadata, unless the stream says otherwise.
const USAGE: &str = "tollgate.usage";

/// How one stream is to be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setup {
    /// `tollgate-domain`: the domain; without it, the only one that is configured.
    pub(super) domain: Option<String>,
    /// `tollgate-usage`: the namespace of dynamic metadata that has the usage.
    pub(super) usage: String,
    /// `tollgate-descriptors`: where to charge what finds no reservation.
    descriptors: Vec<Vec<Part>>,
}

/// An entry: its key, and the name of the header or custom tag that has its value.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    key: String,
    from: String,
}

/// What is wrong with the metadata of a stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SetupError {
    #[error("initial_metadata {0}: its value is no printable ASCII")]
    NotText(&'static str),
    #[error(
        "initial_metadata tollgate-descriptors: '{0}' has an entry without a name; \
         write key=header,key=header; key=header"
    )]
    NoName(String),
}

impl Setup {
    /// Reads the metadata of a stream.
    pub(super) fn of(metadata: &MetadataMap) -> Result<Self, SetupError> {
        let domain = text(metadata, "tollgate-domain")?;
        let usage = text(metadata, "tollgate-usage")?.unwrap_or(USAGE);
        let descriptors = text(metadata, "tollgate-descriptors")?.unwrap_or_default();
        Ok(Self {
            domain: domain.map(ToOwned::to_owned),
            usage: usage.to_owned(),
            descriptors: descriptors
                .split(';')
                .filter(|descriptor| !descriptor.trim().is_empty())
                .map(parts)
                .collect::<Result<_, _>>()?,
        })
    }

    /// Whether a header or tag of that name is in a descriptor.
    pub(super) fn names(&self, name: &str) -> bool {
        let mut parts = self.descriptors.iter().flatten();
        parts.any(|part| part.from == name)
    }

    /// The descriptors of one call. As with Envoy's own, one whose value is missing is left out
    /// altogether: the shorter one would be another.
    pub(super) fn descriptors<'a>(
        &'a self,
        value: impl Fn(&str) -> Option<&'a str>,
    ) -> Vec<Vec<Entry<'a>>> {
        let entry = |part: &'a Part| Some((part.key.as_str(), value(&part.from)?));
        let described = |parts: &'a Vec<Part>| parts.iter().map(entry).collect();
        self.descriptors.iter().filter_map(described).collect()
    }
}

fn text<'a>(metadata: &'a MetadataMap, name: &'static str) -> Result<Option<&'a str>, SetupError> {
    let Some(value) = metadata.get(name) else {
        return Ok(None);
    };
    let value = value
        .to_str()
        .map_err(|_| SetupError::NotText(name))?
        .trim();
    Ok(Some(value).filter(|value| !value.is_empty()))
}

fn parts(descriptor: &str) -> Result<Vec<Part>, SetupError> {
    let part = |part: &str| {
        let (key, from) = part.split_once('=').unwrap_or((part, part));
        let (key, from) = (key.trim(), from.trim());
        if key.is_empty() || from.is_empty() {
            return Err(SetupError::NoName(descriptor.trim().to_owned()));
        }
        Ok(Part {
            key: key.to_owned(),
            from: from.to_owned(),
        })
    };
    descriptor.split(',').map(part).collect()
}

/// The reservation that the admission of a call made, as Envoy remembers it.
pub(super) fn reservation(metadata: &Metadata) -> Option<&str> {
    text_in(metadata.filter_metadata.get(RATELIMIT)?, "reservation")
}

/// A text in a struct.
pub(super) fn text_in<'a>(data: &'a Struct, name: &str) -> Option<&'a str> {
    match data.fields.get(name)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tonic::metadata::MetadataValue;

    use super::*;

    fn setup(descriptors: &str) -> Result<Setup, SetupError> {
        let mut metadata = MetadataMap::new();
        let value = MetadataValue::try_from(descriptors).unwrap();
        metadata.insert("tollgate-descriptors", value);
        Setup::of(&metadata)
    }

    #[test]
    fn a_stream_that_says_nothing_is_read_by_default() {
        let setup = Setup::of(&MetadataMap::new()).unwrap();
        assert_eq!(
            (setup.domain.as_deref(), setup.usage.as_str()),
            (None, USAGE)
        );
        assert!(setup.descriptors(|_| Some("x")).is_empty());
    }

    #[test]
    fn descriptors_are_made_of_headers_and_one_with_a_missing_header_is_left_out() {
        let setup = setup(" tenant=x-tenant ; tenant=x-tenant, model; deployment;").unwrap();
        assert!(setup.names("x-tenant") && setup.names("model") && !setup.names("tenant"));
        let value = |name: &str| match name {
            "x-tenant" => Some("acme"),
            "deployment" => Some("eu"),
            _ => None,
        };
        assert_eq!(
            setup.descriptors(value),
            [vec![("tenant", "acme")], vec![("deployment", "eu")]]
        );
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        for wrong in ["=x-tenant", "tenant=", "tenant,,model", ","] {
            let told = setup(wrong).unwrap_err().to_string();
            assert!(told.contains(wrong), "{told}");
        }
        let mut metadata = MetadataMap::new();
        let value = MetadataValue::try_from(b"\xff".as_slice()).unwrap();
        metadata.insert("tollgate-domain", value);
        assert_eq!(
            Setup::of(&metadata),
            Err(SetupError::NotText("tollgate-domain"))
        );
    }
}
