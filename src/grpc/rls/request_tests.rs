use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::{
    Entry, RateLimitOverride,
};
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitRequest;
use envoy_types::pb::google::protobuf::UInt64Value;
use proptest::prelude::*;
use prost::Message as _;

use super::*;

/// A request, comparable.
type Plain<'a> = (
    String,
    u32,
    Vec<(
        Vec<(String, String)>,
        Option<u64>,
        bool,
        Option<(u32, Option<Unit>)>,
    )>,
);

/// As much of it as we keep.
fn generated(request: &RateLimitRequest) -> Plain<'_> {
    let descriptors = request.descriptors.iter().take(MAX_DESCRIPTORS + 1);
    let descriptors = descriptors.map(|descriptor| {
        let entries = descriptor.entries.iter().take(MAX_ENTRIES + 1);
        (
            entries
                .map(|entry| (entry.key.clone(), entry.value.clone()))
                .collect(),
            descriptor.hits_addend.as_ref().map(|addend| addend.value),
            descriptor.is_negative_hits,
            descriptor
                .limit
                .as_ref()
                .map(|limit| (limit.requests_per_unit, unit(limit.unit))),
        )
    });
    (
        request.domain.clone(),
        request.hits_addend,
        descriptors.collect(),
    )
}

fn ours<'a>(request: &Request<'_>) -> Plain<'a> {
    let descriptors = request.descriptors.iter().map(|descriptor| {
        let entries = descriptor.entries.iter();
        (
            entries
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            descriptor.hits_addend,
            descriptor.refund,
            descriptor
                .limit
                .map(|limit| (limit.requests_per_unit, limit.unit)),
        )
    });
    (
        request.domain.to_owned(),
        request.hits_addend,
        descriptors.collect(),
    )
}

/// Both decoders take the bytes for the same, or both refuse them.
fn compare(bytes: &[u8]) -> Result<(), TestCaseError> {
    let expected = RateLimitRequest::decode(bytes);
    let found = decode(bytes, None);
    match (expected, found) {
        (Ok(expected), Ok(found)) => prop_assert_eq!(generated(&expected), ours(&found)),
        (Err(_), Err(_)) => {}
        (expected, found) => prop_assert!(false, "{expected:?} is not {found:?}"),
    }
    Ok(())
}

prop_compose! {
    fn descriptor()(
        entries in prop::collection::vec(("[a-zé]{0,3}", ".{0,200}"), 0..4),
        hits_addend in prop::option::of(any::<u64>()),
        is_negative_hits in any::<bool>(),
        limit in prop::option::of((any::<u32>(), -1..9_i32)),
    ) -> RateLimitDescriptor {
        RateLimitDescriptor {
            entries: entries.into_iter().map(|(key, value)| Entry { key, value }).collect(),
            limit: limit.map(|(requests_per_unit, unit)| RateLimitOverride { requests_per_unit, unit }),
            hits_addend: hits_addend.map(|value| UInt64Value { value }),
            is_negative_hits,
        }
    }
}

prop_compose! {
    fn request()(
        domain in ".{0,9}",
        descriptors in prop::collection::vec(descriptor(), 0..4),
        hits_addend in any::<u32>(),
    ) -> RateLimitRequest {
        RateLimitRequest { domain, descriptors, hits_addend }
    }
}

prop_compose! {
    /// Around the most descriptors and entries that are allowed.
    fn large()(
        descriptors in MAX_DESCRIPTORS - 1..MAX_DESCRIPTORS + 4,
        entries in MAX_ENTRIES - 1..MAX_ENTRIES + 4,
        at in any::<prop::sample::Index>(),
    ) -> RateLimitRequest {
        let mut request = RateLimitRequest {
            descriptors: vec![RateLimitDescriptor::default(); descriptors],
            ..RateLimitRequest::default()
        };
        request.descriptors[at.index(descriptors)].entries = vec![Entry::default(); entries];
        request
    }
}

#[test]
fn of_millions_of_descriptors_and_entries_few_are_kept() {
    let descriptors = [0x12, 0].repeat(1 << 20);
    let read = decode(&descriptors, None).unwrap();
    assert_eq!(read.descriptors.len(), MAX_DESCRIPTORS + 1);
    assert!(read.descriptors.capacity() < 4 * MAX_DESCRIPTORS);
    let descriptor = RateLimitDescriptor {
        entries: vec![Entry::default(); 1 << 20],
        ..RateLimitDescriptor::default()
    };
    let request = RateLimitRequest {
        descriptors: vec![descriptor],
        ..RateLimitRequest::default()
    };
    let bytes = request.encode_to_vec();
    let read = decode(&bytes, None).unwrap();
    assert_eq!(read.descriptors[0].entries.len(), MAX_ENTRIES + 1);
    assert!(read.descriptors[0].entries.capacity() < 4 * MAX_ENTRIES);
}

proptest! {
    #[test]
    fn what_is_beyond_the_most_that_are_allowed_is_read_all_the_same(
        request in large(),
        change in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut bytes = request.encode_to_vec();
        compare(&bytes)?;
        if let Some((at, byte)) = change {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            compare(&bytes)?;
        }
    }

    #[test]
    fn requests_read_as_the_generated_decoder_reads_them(request in request()) {
        let bytes = request.encode_to_vec();
        compare(&bytes)?;
        let found = decode(&bytes, Some("id")).unwrap();
        prop_assert_eq!(generated(&request), ours(&found));
        prop_assert_eq!(found.request_id, Some("id"));
    }

    #[test]
    fn two_messages_in_a_row_are_merged(first in request(), second in request()) {
        let mut bytes = first.encode_to_vec();
        second.encode(&mut bytes).unwrap();
        compare(&bytes)?;
    }

    #[test]
    fn what_is_broken_is_broken_for_both(
        request in request(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = request.encode_to_vec();
        for (at, byte) in changes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        compare(&bytes)?;
        bytes.truncate(cut.index(bytes.len() + 1));
        compare(&bytes)?;
    }

    #[test]
    fn noise_is_the_same_to_both(bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0..40_u8], 0..60)) {
        compare(&bytes)?;
    }
}
