//! The service with its store in memory, on a clock that only the test moves.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tollgate::clock::{Clock, ManualClock};
use tollgate::config;
use tollgate::limit::Timestamp;
use tollgate::metrics::Metrics;
use tollgate::rules::{Domain, Entry};
use tollgate::service::{
    Answer, Descriptor, InspectAnswer, Options, Request, Service, Status, Target,
};
use tollgate::store::{Memory, Redis, Store, redis};

use super::process::PATIENCE;
use super::redis::RedisServer;

/// Midnight has passed by eight hours, nothing else: every window of an hour or less begins now.
/// 2027-01-15T08:00:00Z.
pub(crate) const START: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

/// A service, and the hand on its clock.
#[derive(Debug)]
pub(crate) struct Limiter {
    pub(crate) service: Service,
    clock: ManualClock,
}

impl Limiter {
    /// One domain, `llm`, whose file goes on with `rest`.
    pub(crate) fn new(rest: &str) -> Self {
        let limiter = Self::without_rules();
        limiter.install(&[&format!("domain: llm\n{rest}")]);
        limiter
    }

    /// Replicas that share a Redis and a clock, each with the domain `llm` as [`Self::new`] has it.
    /// Their keys start with `name`.
    pub(crate) fn replicas<const N: usize>(
        redis: &RedisServer,
        name: &str,
        rest: &str,
    ) -> [Self; N] {
        let clock = ManualClock::new(START);
        std::array::from_fn(|_| {
            let options = redis::Options {
                prefix: format!("{name}:"),
                deadline: PATIENCE,
                clock: Some(clock.clone()),
                ..redis::Options::new(redis.url())
            };
            let store = Store::Redis(Redis::start(options).expect("a store"));
            let limiter = Self::on(store, clock.clone());
            limiter.install(&[&format!("domain: llm\n{rest}")]);
            limiter
        })
    }

    /// Nothing was ever loaded.
    pub(crate) fn without_rules() -> Self {
        let clock = ManualClock::new(START);
        let store = Store::Memory(Memory::new(Clock::Manual(clock.clone())));
        Self::on(store, clock)
    }

    fn on(store: Store, clock: ManualClock) -> Self {
        let metrics = Metrics::new().expect("series");
        let service = Service::new(store, metrics, Options::default());
        Self { service, clock }
    }

    /// Replaces all rules by those of `files`.
    pub(crate) fn install(&self, files: &[&str]) {
        let named = files.iter().map(|file| parse(file)).map(|domain| {
            let name = domain.name.clone();
            (name, Arc::new(domain))
        });
        self.service.install(&named.collect());
    }

    /// Replaces all rules by these.
    pub(crate) fn install_domains(&self, domains: &BTreeMap<String, Arc<Domain>>) {
        self.service.install(domains);
    }

    /// Moves the clock, which replicas share.
    pub(crate) fn set_time(&self, now: Timestamp) {
        self.clock.set(now);
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// The answer to `request`, after what every answer must satisfy.
    pub(crate) async fn answer(&self, request: &Request<'_>) -> Answer {
        let answer = self
            .service
            .should_rate_limit(request)
            .await
            .expect("an answer");
        assert_eq!(
            answer.statuses.len(),
            request.descriptors.len(),
            "a status for each"
        );
        for (name, value) in &answer.headers {
            assert!(
                is_header_text(name) && is_header_text(value),
                "{name}: {value:?}"
            );
        }
        for limit in answer
            .statuses
            .iter()
            .filter_map(|status| status.limit.as_ref())
        {
            // Envoy puts it into a header as it is.
            assert!(!limit.name.contains(['\r', '\n', '"']), "{limit:?}");
        }
        if !answer.over_limit {
            assert_eq!(answer.body, "", "Envoy ignores it");
            assert!(
                !answer
                    .headers
                    .iter()
                    .any(|(name, _)| name.starts_with("retry-after"))
            );
        }
        answer
    }

    /// The answer to the request that these descriptors are.
    pub(crate) async fn ask(&self, descriptors: &[&str]) -> Answer {
        self.answer(&request(descriptors)).await
    }

    /// Whether the request with this one descriptor passes.
    pub(crate) async fn passes(&self, descriptor: &str) -> bool {
        !self.ask(&[descriptor]).await.over_limit
    }

    /// The only status of the request with this one descriptor.
    pub(crate) async fn status(&self, descriptor: &str) -> Status {
        self.ask(&[descriptor]).await.statuses.remove(0)
    }

    /// The state of the buckets that this descriptor comes to.
    pub(crate) async fn inspect(&self, descriptor: &str) -> InspectAnswer {
        self.service
            .inspect(&target(&[descriptor]))
            .await
            .expect("a look")
    }

    /// What is left in the bucket of `limit` for this descriptor; below zero, a debt.
    pub(crate) async fn level(&self, descriptor: &str, limit: &str) -> i64 {
        let seen = self.inspect(descriptor).await;
        let bucket = seen.buckets.iter().find(|bucket| bucket.limit == limit);
        bucket
            .unwrap_or_else(|| panic!("{limit} does not apply to {descriptor}"))
            .level
    }

    /// The value of one series, `0` where it does not exist.
    pub(crate) fn series(&self, name_and_labels: &str) -> u64 {
        self.metrics_text()
            .lines()
            .find_map(|line| line.strip_prefix(name_and_labels)?.strip_prefix(' '))
            .map_or(0, |value| value.parse().expect("a whole number"))
    }

    /// All series.
    pub(crate) fn metrics_text(&self) -> String {
        self.service.metrics().render().expect("text")
    }
}

/// The domain that a file describes.
pub(crate) fn parse(file: &str) -> Domain {
    config::parse(file, "test.yaml").unwrap_or_else(|errors| {
        panic!(
            "{}",
            errors
                .iter()
                .fold(String::new(), |text, error| text + &error.to_string())
        )
    })
}

/// A request to domain `llm`. A descriptor is its entries, `key=value`, and its addend, `@7` or,
/// given back, `@-7`, with blanks between.
pub(crate) fn request<'a>(descriptors: &[&'a str]) -> Request<'a> {
    Request {
        domain: "llm",
        descriptors: descriptors.iter().map(|text| descriptor(text)).collect(),
        ..Request::default()
    }
}

/// A descriptor, written as for [`request`].
pub(crate) fn descriptor(text: &str) -> Descriptor<'_> {
    let mut descriptor = Descriptor::default();
    for word in text.split_whitespace() {
        match word.strip_prefix('@') {
            Some(addend) => {
                descriptor.refund = addend.starts_with('-');
                let addend = addend.trim_start_matches('-').parse();
                descriptor.hits_addend = Some(addend.expect("an addend"));
            }
            None => descriptor.entries.push(entry(word)),
        }
    }
    descriptor
}

/// The same descriptors as our own API takes them.
pub(crate) fn target<'a>(descriptors: &[&'a str]) -> Target<'a> {
    Target {
        domain: "llm",
        descriptors: descriptors
            .iter()
            .map(|text| text.split_whitespace().map(entry).collect())
            .collect(),
    }
}

fn entry(word: &str) -> Entry<'_> {
    word.split_once('=').expect("key=value")
}

/// The headers, a line each.
pub(crate) fn headers(answer: &Answer) -> String {
    answer
        .headers
        .iter()
        .fold(String::new(), |mut text, (name, value)| {
            writeln!(text, "{name}: {value}").expect("a string");
            text
        })
}

/// The value of one piece of dynamic metadata.
pub(crate) fn metadata<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    let found = answer.metadata.iter().find(|(known, _)| *known == name);
    found.map(|(_, value)| value.as_str())
}

fn is_header_text(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte == b' ' || byte.is_ascii_graphic())
}
