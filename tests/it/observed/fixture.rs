//! A served Tollgate, and what its buckets and its metrics say.
#![expect(
    clippy::unwrap_used,
    reason = "a test's scaffolding fails the test where it stands"
)]

use std::collections::{BTreeMap, HashMap};

use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use tempfile::TempDir;
use tollgate::clock;
use tollgate::grpc::proto::tollgate_client::TollgateClient;
use tollgate::grpc::proto::{Descriptor, Entry, InspectRequest, ReserveRequest};
use tonic::transport::Channel;

use crate::support::http;
use crate::support::process::PATIENCE;
use crate::support::rls::channel;
use crate::support::served::Tollgate;

/// A bucket for each measure, and nothing refills.
const RULES: &str = "
descriptors:
  - key: tenant
    limits:
      - { name: input, rate: 1/year, burst: 1M, cost: { input_tokens: 1 }, estimate: 900 }
      - { name: cached, rate: 1/year, burst: 1M, cost: { cache_read_tokens: 1, cache_write_tokens: 1 } }
      - { name: output, rate: 1/year, burst: 1M, cost: { output_tokens: 1 }, estimate: 300 }
";

pub(super) struct Server {
    pub(super) tollgate: Tollgate,
    pub(super) channel: Channel,
    _files: TempDir,
}

impl Server {
    /// With these domains.
    pub(super) async fn start(domains: &[&str]) -> Self {
        let files = tempfile::tempdir().unwrap();
        for domain in domains {
            let file = files.path().join(format!("{domain}.yaml"));
            std::fs::write(file, format!("domain: {domain}\n{RULES}")).unwrap();
        }
        let config = format!("--config={}", files.path().display());
        let tollgate = Tollgate::serve(&[&config, "--drain-delay=0s", "--drain-timeout=1h"]);
        let channel = channel(tollgate.grpc).await;
        Self {
            tollgate,
            channel,
            _files: files,
        }
    }

    /// Reserves for a tenant, under its name.
    pub(super) async fn admit(&self, tenant: &str) {
        let request = ReserveRequest {
            domain: "llm".to_owned(),
            descriptors: vec![descriptor(tenant)],
            id: tenant.to_owned(),
            ..ReserveRequest::default()
        };
        let mut client = TollgateClient::new(self.channel.clone());
        let answer = client.reserve(request).await.unwrap().into_inner();
        assert!(answer.admitted);
    }

    /// What a tenant's buckets have given: input, cached, output.
    pub(super) async fn taken(&self, tenant: &str) -> [i64; 3] {
        let request = InspectRequest {
            domain: "llm".to_owned(),
            descriptor: Some(descriptor(tenant)),
        };
        let mut client = TollgateClient::new(self.channel.clone());
        let answer = client.inspect(request).await.unwrap().into_inner();
        let taken: Vec<i64> = answer
            .buckets
            .iter()
            .map(|bucket| 1_000_000 - bucket.level)
            .collect();
        taken.try_into().unwrap()
    }

    /// The series of a metric that are not zero, by their labels.
    pub(super) async fn series(&self, name: &str) -> BTreeMap<String, u64> {
        let page = http::send(self.tollgate.http, "GET", "/metrics", b"").await;
        let lines = page.body.lines();
        let series = lines.filter_map(|line| {
            let (labels, value) = line.strip_prefix(name)?.split_once(' ')?;
            Some((labels.to_owned(), value.parse().unwrap()))
        });
        series.filter(|(_, count)| *count > 0).collect()
    }

    /// Waits until so many reports came, of all sources, and tells their results.
    pub(super) async fn reports(&self, count: u64) -> BTreeMap<String, u64> {
        let begun = clock::instant();
        loop {
            let reports = self.series("tollgate_reports_total").await;
            if reports.values().sum::<u64>() >= count {
                return reports;
            }
            assert!(begun.elapsed() < PATIENCE, "{reports:?}");
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }

    /// The reasons for which there was nothing to report.
    pub(super) async fn problems(&self) -> BTreeMap<String, u64> {
        self.series("tollgate_observation_problems_total").await
    }
}

fn descriptor(tenant: &str) -> Descriptor {
    Descriptor {
        entries: vec![Entry {
            key: "tenant".to_owned(),
            value: tenant.to_owned(),
        }],
    }
}

/// Series, written down: labels and a count.
pub(super) fn series<const N: usize>(series: [(&str, u64); N]) -> BTreeMap<String, u64> {
    series
        .into_iter()
        .map(|(labels, count)| (labels.to_owned(), count))
        .collect()
}

/// Dynamic metadata: for each namespace, names and values.
pub(super) fn metadata(namespaces: &[(&str, &[(&str, Kind)])]) -> Metadata {
    let filter_metadata: HashMap<String, Struct> = namespaces
        .iter()
        .map(|(namespace, values)| {
            let fields = values.iter().map(|(name, kind)| {
                let kind = Some(kind.clone());
                ((*name).to_owned(), Value { kind })
            });
            let fields = fields.collect();
            ((*namespace).to_owned(), Struct { fields })
        })
        .collect();
    Metadata {
        filter_metadata,
        ..Metadata::default()
    }
}

/// What the rate-limit filter remembers of an admission.
pub(super) fn reservation(id: &str) -> [(&'static str, Kind); 1] {
    [("reservation", text(id))]
}

pub(super) const RATELIMIT: &str = "envoy.filters.http.ratelimit";

pub(super) fn text(text: &str) -> Kind {
    Kind::StringValue(text.to_owned())
}
