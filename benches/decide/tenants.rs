//! Who asks, what each has been charged, and the proof of it.
//!
//! One token limit, so large that nothing is refused and so slow to refill that what is missing
//! from a bucket at the end is what was charged to it: every decision costs [`COST`], and a bucket
//! gets back less than half of that within any run.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, bail, ensure};
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use envoy_types::pb::google::protobuf::UInt64Value;
use tonic::transport::Channel;

/// Tokens that every decision charges.
const COST: u32 = 1000;
/// The capacity of every bucket.
const BURST: u32 = 1_000_000_000;
const DOMAIN: &str = "bench";

/// Writes the configuration that these requests meet.
///
/// A store that fails must refuse, and so end the run, rather than let requests pass uncounted.
pub(crate) fn write_config(path: &Path, cost: &str) -> Result<()> {
    let config = format!(
        "domain: {DOMAIN}
descriptors:
  - key: tenant
    limits:
      - name: tenant-cost
        rate: 1000/day
        burst: {BURST}
        cost: {cost}
        on_store_error: deny
"
    );
    Ok(fs::write(path, config)?)
}

/// What a right answer looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// OK and nothing else.
    Nothing,
    /// OK, with one status, of a limit from which something was taken.
    Charged,
}

/// One tenant: its request, and how many answers it has got.
#[derive(Debug)]
pub(crate) struct Tenant {
    request: RateLimitRequest,
    answered: AtomicU32,
}

impl Tenant {
    fn new(number: usize) -> Self {
        let entry = Entry {
            key: "tenant".to_owned(),
            value: format!("t{number}"),
        };
        let descriptor = RateLimitDescriptor {
            entries: vec![entry],
            ..Default::default()
        };
        Self {
            request: RateLimitRequest {
                domain: DOMAIN.to_owned(),
                descriptors: vec![descriptor],
                hits_addend: COST,
            },
            answered: AtomicU32::new(0),
        }
    }

    /// The request to send.
    pub(crate) fn request(&self) -> RateLimitRequest {
        self.request.clone()
    }

    /// The same request, only to look: a descriptor's addend of zero charges nothing.
    fn look(&self) -> RateLimitRequest {
        let mut request = self.request.clone();
        for descriptor in &mut request.descriptors {
            descriptor.hits_addend = Some(UInt64Value { value: 0 });
        }
        request
    }

    /// Checks an answer to [`Self::request`] and counts it.
    pub(crate) fn answered(&self, answer: &RateLimitResponse, expected: Expected) -> Result<()> {
        let taken = match (expected, answer.statuses.as_slice()) {
            (Expected::Nothing, []) => true,
            (Expected::Charged, [status]) => {
                status.code() == Code::Ok
                    && status.current_limit.is_some()
                    && status.limit_remaining < BURST
            }
            _ => false,
        };
        ensure!(
            taken && answer.overall_code() == Code::Ok,
            "not the answer expected: {answer:?}"
        );
        self.answered.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// All tenants of one server.
#[derive(Debug)]
pub(crate) struct Tenants(Vec<Tenant>);

impl Tenants {
    /// `count` tenants that nobody has answered yet.
    pub(crate) fn new(count: usize) -> Self {
        Self((0..count).map(Tenant::new).collect())
    }

    /// The tenant that a random number picks.
    pub(crate) fn pick(&self, random: u64) -> &Tenant {
        let index = usize::try_from(random >> 32).unwrap_or_default() % self.0.len();
        &self.0[index]
    }

    /// How many have been answered at least once.
    pub(crate) fn seen(&self) -> usize {
        self.0
            .iter()
            .filter(|tenant| tenant.answered.load(Ordering::Relaxed) > 0)
            .count()
    }

    /// Looks into every bucket: each must lack one [`COST`] per answer.
    pub(crate) async fn verify(&self, mut client: RateLimitServiceClient<Channel>) -> Result<()> {
        for tenant in &self.0 {
            let answer = client.should_rate_limit(tenant.look()).await?.into_inner();
            let [status] = answer.statuses.as_slice() else {
                bail!("not one status: {answer:?}");
            };
            ensure!(status.current_limit.is_some(), "no limit: {answer:?}");
            let charged = (BURST.saturating_sub(status.limit_remaining) + COST / 2) / COST;
            let answered = tenant.answered.load(Ordering::Relaxed);
            ensure!(
                charged == answered,
                "{answered} answers but {charged} charges: {:?}",
                tenant.request.descriptors,
            );
        }
        Ok(())
    }
}
