//! The running programs, wired up: clients → Envoy → taps → replicas of Tollgate → Redis.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use tollgate::grpc::proto;
use tollgate::grpc::proto::tollgate_client::TollgateClient;

use crate::support::client::{Answer, Request};
use crate::support::envoy::{Config, Envoy};
use crate::support::process::until;
use crate::support::redis::RedisServer;
use crate::support::served::Tollgate;
use crate::support::tap::{Call, Calls, End, Tap};
use crate::support::upstream::Upstream;

/// The levels of a descriptor's buckets, by the names of their limits.
pub(super) type Levels = BTreeMap<String, i64>;

/// Everything that runs. What is started last ends first.
pub(super) struct Stage {
    pub(super) envoy: Envoy,
    pub(super) upstream: Upstream,
    pub(super) replicas: [Tollgate; 2],
    pub(super) taps: [Tap; 2],
    calls: Calls,
    _redis: Arc<RedisServer>,
    pub(super) runtime: Runtime,
}

impl Stage {
    /// `examples/envoy/settle`, with limits that make every token visible.
    pub(super) fn settle() -> Self {
        Self::settle_on(RedisServer::shared())
    }

    /// The same, on a Redis of one's own.
    pub(super) fn settle_on(redis: Arc<RedisServer>) -> Self {
        Self::settle_with("20s", redis)
    }

    /// The same, where Envoy gives up on an attempt, and makes the next, after a second.
    pub(super) fn settle_impatient(redis: Arc<RedisServer>) -> Self {
        Self::settle_with("1s", redis)
    }

    fn settle_with(patience: &str, redis: Arc<RedisServer>) -> Self {
        let envoy = Config::example("settle")
            .replace("timeout: 0.25s", "timeout: 20s")
            .replace("max_interval: 0.1s", &format!("max_interval: {patience}"));
        Self::start(envoy, &data("llm.yaml"), redis, |envoy, taps, _| {
            envoy
                .port(8081, taps[0].address.port())
                .port(8181, taps[1].address.port())
        })
    }

    /// `examples/envoy/redis`, where each request is checked first and charged 10 when it is done.
    pub(super) fn check_and_charge() -> Self {
        let envoy = Config::example("redis")
            .replace("timeout: 0.1s", "timeout: 20s")
            .replace("timeout: 0.25s", "timeout: 20s")
            .replace(
                "              domain: edge\n",
                r"
              domain: edge
              rate_limits:
              - actions: [{ request_headers: { header_name: x-tenant, descriptor_key: tenant } }]
                hits_addend: { number: 0 }
              - actions: [{ request_headers: { header_name: x-tenant, descriptor_key: tenant } }]
                hits_addend: { number: 10 }
                apply_on_stream_done: true
",
            );
        let redis = RedisServer::shared();
        Self::start(envoy, &data("reference.yaml"), redis, |envoy, taps, _| {
            envoy.port(8081, taps[0].address.port())
        })
    }

    /// `examples/envoy/access_log` or `examples/envoy/ext_proc`, past the taps, which pass nothing on
    /// but rate-limit requests.
    pub(super) fn observing(example: &str) -> Self {
        Self::observing_as(Config::example(example))
    }

    /// A configuration that was made of one of these.
    pub(super) fn observing_as(envoy: Config) -> Self {
        let envoy = envoy.replace(
            "timeout: 0.25s\n              fail",
            "timeout: 20s\n              fail",
        );
        let redis = RedisServer::shared();
        Self::start(envoy, &data("llm.yaml"), redis, |envoy, _, replicas| {
            envoy
                .port(8081, replicas[0].grpc.port())
                .port(8181, replicas[1].grpc.port())
        })
    }

    fn start(
        envoy: Config,
        tollgate: &Path,
        redis: Arc<RedisServer>,
        wire: impl FnOnce(Config, &[Tap; 2], &[Tollgate; 2]) -> Config,
    ) -> Self {
        static STAGES: AtomicUsize = AtomicUsize::new(0);
        let prefix = format!("envoy-{}:", STAGES.fetch_add(1, Ordering::Relaxed));
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime for the taps");
        let calls = Calls::default();
        let config = format!("--config={}", tollgate.display());
        // They wait for Redis as long as a slow machine may need.
        let replicas = [(); 2].map(|()| {
            let url = redis.url();
            Tollgate::serve(&[
                &config,
                "--store",
                &url,
                "--redis-prefix",
                &prefix,
                "--store-timeout=10s",
            ])
        });
        let tap =
            |index: usize| runtime.block_on(Tap::open(index, replicas[index].grpc, calls.clone()));
        let taps = [tap(0), tap(1)];
        let upstream = Upstream::start();
        let envoy = wire(envoy, &taps, &replicas);
        let envoy = Envoy::start(&envoy.port(8000, upstream.port));
        Self {
            envoy,
            upstream,
            replicas,
            taps,
            calls,
            _redis: redis,
            runtime,
        }
    }

    /// Sends a request and reads the whole answer.
    pub(super) fn ask(&self, request: &Request) -> Answer {
        request.ask(self.envoy.port).expect("an answer from envoy")
    }

    /// The calls so far, once there are `count` and Tollgate has done with all of them.
    pub(super) fn calls(&self, count: usize) -> Vec<Call> {
        let calls = until(&format!("there are {count} calls"), || {
            let calls = self.calls.so_far();
            let pending = |call: &Call| matches!(call.end, End::Pending);
            (calls.len() >= count && !calls.iter().any(pending)).then_some(calls)
        });
        for call in &calls {
            if let End::Failed(status) = &call.end {
                panic!("a call failed: {status}");
            }
        }
        assert_eq!(calls.len(), count, "{calls:#?}");
        calls
    }

    /// The calls so far, whatever they are at.
    pub(super) fn calls_so_far(&self) -> Vec<Call> {
        self.calls.so_far()
    }

    /// How many reports came from `source`, by their results, once there are `count`.
    pub(super) fn reports(&self, source: &str, count: u64) -> BTreeMap<String, u64> {
        until(&format!("{count} reports came from {source}"), || {
            let reports = self.reports_so_far(source);
            (reports.values().sum::<u64>() >= count).then_some(reports)
        })
    }

    /// How many reports came from `source`, by their results, on both replicas together.
    pub(super) fn reports_so_far(&self, source: &str) -> BTreeMap<String, u64> {
        let end = format!("\",source=\"{source}\"}} ");
        let mut reports = BTreeMap::new();
        for replica in &self.replicas {
            let page = Request::get("/metrics").ask(replica.http.port());
            for line in page.expect("metrics").body.lines() {
                let series = line.strip_prefix("tollgate_reports_total{result=\"");
                let Some((result, count)) = series.and_then(|rest| rest.split_once(&end)) else {
                    continue;
                };
                *reports.entry(result.to_owned()).or_default() += count.parse::<u64>().unwrap();
            }
        }
        reports.retain(|_, count| *count > 0);
        reports
    }

    /// The levels of the buckets that a descriptor with one entry comes to, as a replica sees them.
    pub(super) fn levels(&self, key: &str, value: &str) -> Levels {
        let request = proto::InspectRequest {
            domain: "llm".to_owned(),
            descriptor: Some(proto::Descriptor {
                entries: vec![proto::Entry {
                    key: key.to_owned(),
                    value: value.to_owned(),
                }],
            }),
        };
        let mut client = TollgateClient::new(self.taps[1].replica.clone());
        let answer = self.runtime.block_on(client.inspect(request));
        let buckets = answer.expect("the state of buckets").into_inner().buckets;
        buckets
            .into_iter()
            .map(|bucket| (bucket.limit, bucket.level))
            .collect()
    }
}

/// Levels, written down.
pub(super) fn levels<const N: usize>(levels: [(&str, i64); N]) -> Levels {
    levels
        .into_iter()
        .map(|(name, level)| (name.to_owned(), level))
        .collect()
}

/// Counts, written down.
pub(super) fn counts<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    counts
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count))
        .collect()
}

/// A file of `tests/data/envoy`.
pub(super) fn data(name: &str) -> PathBuf {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    top.join("tests/data/envoy").join(name)
}

/// A question to a provider at `path`, on account of `tenant`.
pub(super) fn prompt(path: &str, tenant: &str, stream: bool) -> Request {
    let mut body = json!({
        "model": "fake",
        "messages": [{ "role": "user", "content": "Is the gate open?" }],
        "stream": stream,
    });
    if stream {
        body["stream_options"] = json!({ "include_usage": true });
    }
    Request::post(path, &body).header("x-tenant", tenant)
}

/// The same of OpenAI's chat.
pub(super) fn chat(tenant: &str, stream: bool) -> Request {
    prompt("/v1/chat/completions", tenant, stream)
}
