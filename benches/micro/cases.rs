//! The cases: each is made ready once, and then run many times.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::{
    DescriptorStatus, RateLimit,
};
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use prost::Message as _;
use tollgate::clock::{Clock, ManualClock};
use tollgate::config;
use tollgate::limit::{
    Algorithm, Bucket, Charge, Effect, Limit, Mode, Oversize, Rate, Timestamp, WhenOver, ZeroCost,
    decide,
};
use tollgate::metrics::Metrics;
use tollgate::rules::Domain;
use tollgate::service::{Answer, Descriptor, Options, Request, Service};
use tollgate::store::{Memory, Store};

/// 2027-01-15T08:00:00Z.
const START: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

/// All cases.
pub(crate) const NAMES: [&str; 13] = [
    "match among 1 rule",
    "match among 10,000 rules",
    "refill and charge a bucket",
    "refill a fixed window",
    "decide over 1 charge",
    "decide over 4 charges",
    "admit, 1 limit",
    "admit, 4 limits",
    "admit, 1 limit of 10,000 rules",
    "admit with a reservation",
    "refuse",
    "decode a request",
    "encode a response",
];

type Case = Box<dyn FnMut()>;

/// Makes a case ready; `None`: there is none of that name.
pub(crate) fn prepare(name: &str) -> Option<Case> {
    Some(match name {
        "match among 1 rule" => matching(1)?,
        "match among 10,000 rules" => matching(10_000)?,
        "refill and charge a bucket" => bucket(limit(Algorithm::TokenBucket)?),
        "refill a fixed window" => bucket(limit(Algorithm::FixedWindow)?),
        "decide over 1 charge" => deciding(1)?,
        "decide over 4 charges" => deciding(4)?,
        "admit, 1 limit" => admitting(&rules(1, "1G/second"), &[], false)?,
        "admit, 4 limits" => admitting(FOUR, &[("deployment", "eastus")], false)?,
        "admit, 1 limit of 10,000 rules" => admitting(&rules(10_000, "1G/second"), &[], false)?,
        "admit with a reservation" => admitting(RESERVED, &[], false)?,
        "refuse" => admitting(&rules(1, "1/year"), &[], true)?,
        "decode a request" => decoding(),
        "encode a response" => encoding(),
        _ => return None,
    })
}

const FOUR: &str = "
domain: bench
descriptors:
  - key: tenant
    limits:
      - { name: tenant-requests, rate: 1G/second, cost: requests }
      - { name: tenant-tokens, rate: 1G/second, cost: hits }
  - key: deployment
    limits:
      - { name: deployment-requests, rate: 1G/second, cost: requests }
      - { name: deployment-tokens, rate: 1G/second, cost: hits }
";

const RESERVED: &str = "
domain: bench
descriptors:
  - key: tenant
    limits: [{ name: tenant-tokens, rate: 1G/second, cost: tokens, estimate: 800 }]
";

/// A rule for every tenant of so many.
fn rules(count: usize, rate: &str) -> String {
    let mut text = "domain: bench\ndescriptors:\n".to_owned();
    for tenant in 0..count {
        write!(
            text,
            "  - key: tenant\n    value: t{tenant}\n    limits: [{{ name: tenant, rate: {rate} }}]\n"
        ).unwrap_or_default(); // Writing to a string cannot fail.
    }
    text
}

fn parse(text: &str) -> Option<Domain> {
    config::parse(text, "bench.yaml").ok()
}

fn limit(algorithm: Algorithm) -> Option<Limit> {
    Some(Limit {
        algorithm,
        rate: Rate::new(450_000, Duration::from_mins(1)).ok()?,
        burst: 450_000,
        when_over: WhenOver::Refuse,
        oversize: Oversize::Refuse,
        zero_cost: ZeroCost::NeedsRoom,
    })
}

fn matching(count: usize) -> Option<Case> {
    let domain = parse(&rules(count, "1G/second"))?;
    let mut scratch = String::new();
    Some(Box::new(move || {
        let found = domain.find(black_box(&[("tenant", "t0")]), &mut scratch);
        black_box(found.map(|found| found.key(&found.rule.limits[0])));
    }))
}

fn bucket(limit: Limit) -> Case {
    let mut bucket = Bucket::default();
    let mut now = START;
    Box::new(move || {
        now = now.plus(Duration::from_micros(997));
        bucket.refill(black_box(&limit), now);
        bucket.spend(black_box(8));
    })
}

fn deciding(count: usize) -> Option<Case> {
    let limit = limit(Algorithm::TokenBucket)?;
    let charge = Charge {
        limit,
        amount: 8,
        threshold: limit.threshold(8, 0),
        effect: Effect::Enforce,
    };
    let charges = vec![charge; count];
    let slots: Vec<usize> = (0..count).collect();
    let mut buckets = vec![Bucket::default(); count];
    let mut readings = Vec::new();
    let mut now = START;
    Some(Box::new(move || {
        now = now.plus(Duration::from_micros(997));
        let (charges, slots) = (black_box(&charges), black_box(&slots));
        let verdict = decide(
            charges,
            slots,
            &mut buckets,
            now,
            Mode::Apply,
            &mut readings,
        );
        black_box(verdict);
    }))
}

/// A whole decision, from our own terms to an answer in them, by the memory store. It has to come
/// out as it should.
fn admitting(config: &str, more: &[(&'static str, &'static str)], refused: bool) -> Option<Case> {
    let clock = ManualClock::new(START);
    let store = Store::Memory(Memory::new(Clock::Manual(clock.clone())));
    let service = Service::new(store, Metrics::new().ok()?, Options::default());
    let domain = Arc::new(parse(config)?);
    service.install(&BTreeMap::from([("bench".to_owned(), domain)]));
    let entries = std::iter::once(("tenant", "t0")).chain(more.iter().copied());
    let descriptors = entries.map(|entry| Descriptor {
        entries: std::iter::once(entry).collect(),
        ..Descriptor::default()
    });
    let request = Request {
        domain: "bench",
        descriptors: descriptors.collect(),
        ..Request::default()
    };
    // The first is admitted anyway.
    answer(&service, &request, &clock)?;
    if answer(&service, &request, &clock)?.over_limit != refused {
        return None;
    }
    Some(Box::new(move || {
        black_box(answer(&service, black_box(&request), &clock));
    }))
}

/// The answer, a little later than the one before. The memory store never waits.
fn answer(service: &Service, request: &Request<'_>, clock: &ManualClock) -> Option<Answer> {
    clock.advance(Duration::from_micros(997));
    let deciding = pin!(service.should_rate_limit(request));
    match deciding.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer.ok(),
        Poll::Pending => None,
    }
}

fn decoding() -> Case {
    let descriptor = |key: &str, value: &str| RateLimitDescriptor {
        entries: vec![Entry {
            key: key.to_owned(),
            value: value.to_owned(),
        }],
        ..RateLimitDescriptor::default()
    };
    let request = RateLimitRequest {
        domain: "bench".to_owned(),
        descriptors: vec![
            descriptor("tenant", "t0"),
            descriptor("deployment", "azure-eastus-gpt-4o"),
        ],
        hits_addend: 0,
    };
    let bytes = request.encode_to_vec();
    Box::new(move || {
        black_box(RateLimitRequest::decode(black_box(bytes.as_slice())).is_ok());
    })
}

fn encoding() -> Case {
    let status = DescriptorStatus {
        code: 1,
        current_limit: Some(RateLimit {
            name: "tenant-tokens".to_owned(),
            requests_per_unit: 450_000,
            unit: 2,
        }),
        limit_remaining: 449_200,
        duration_until_reset: Some(envoy_types::pb::google::protobuf::Duration {
            seconds: 1,
            nanos: 0,
        }),
        quota: None,
    };
    let response = RateLimitResponse {
        overall_code: 1,
        statuses: vec![status; 2],
        ..RateLimitResponse::default()
    };
    let mut bytes = Vec::new();
    Box::new(move || {
        bytes.clear();
        black_box(black_box(&response).encode(&mut bytes).is_ok());
    })
}
