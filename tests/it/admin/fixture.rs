//! A served edge on a clock that stands still.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test whose server does not start has failed"
)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tollgate::admin;
use tollgate::clock::{Clock, ManualClock};
use tollgate::health::Health;
use tollgate::limit::{
    Algorithm, Effect, Formula, Limit, MissingUsage, Oversize, Rate, Timestamp, WhenOver, ZeroCost,
};
use tollgate::metrics::Metrics;
use tollgate::rules::{
    AnswerStyle, BodyStyle, ConfiguredLimit, Domain, Estimate, HeaderStyle, LimitIndex, Metadata,
    OnStoreError, Rule, Stating, Terms, Unit,
};
use tollgate::service::{Options, Service};
use tollgate::store::{Memory, Redis, Store, redis};

use crate::support::http::{self, Reply};

/// 20 s into a minute.
pub(crate) const START: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

/// An edge that serves until it is dropped.
pub(crate) struct Edge {
    pub(crate) address: SocketAddr,
    pub(crate) clock: ManualClock,
    pub(crate) health: Health,
    pub(crate) service: Service,
    pub(crate) shutdown: CancellationToken,
    pub(crate) served: JoinHandle<std::io::Result<()>>,
    _stop: DropGuard,
}

impl Edge {
    /// Ready, with the rules of [`domains`] and buckets in memory.
    pub(crate) async fn start() -> Self {
        let clock = ManualClock::new(START);
        let memory = Memory::new(Clock::Manual(clock.clone()));
        let edge = Self::on(Store::Memory(memory), clock).await;
        edge.service.install(&domains());
        edge.health.ready();
        edge
    }

    /// Ready, with the rules of [`domains`] and a store at `redis`.
    pub(crate) async fn on_redis(redis: SocketAddr) -> Self {
        let mut options = redis::Options::new(format!("redis://{redis}"));
        options.deadline = Duration::from_millis(200);
        let store = Store::Redis(Redis::start(options).unwrap());
        let edge = Self::on(store, ManualClock::new(START)).await;
        edge.service.install(&domains());
        edge.health.ready();
        edge
    }

    /// Starting, and without rules.
    pub(crate) async fn on(store: Store, clock: ManualClock) -> Self {
        let service = Service::new(store, Metrics::new().unwrap(), Options::default());
        let health = Health::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let router = admin::router(service.clone(), health.clone());
        let until = shutdown.clone().cancelled_owned();
        Self {
            address,
            clock,
            health,
            service,
            served: tokio::spawn(admin::serve(listener, router, until)),
            _stop: shutdown.clone().drop_guard(),
            shutdown,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        http::send(self.address, "GET", path, b"").await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.post_text(path, &body.to_string()).await
    }

    pub(crate) async fn post_text(&self, path: &str, body: &str) -> Reply {
        http::send(self.address, "POST", path, body.as_bytes()).await
    }

    /// The body of a request that has to succeed.
    pub(crate) async fn ok(&self, path: &str, body: &Value) -> Value {
        let reply = self.post(path, body).await;
        assert_eq!(reply.status, 200, "{path} {body}: {}", reply.body);
        reply.json()
    }

    /// What is left of acme's tokens.
    pub(crate) async fn tokens_left(&self) -> i64 {
        let reply = self.get("/v1/bucket?domain=llm&tenant=acme").await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        level(&reply.json(), "tenant-tokens")
    }
}

/// The level of the limit of that name in an answer.
pub(crate) fn level(answer: &Value, limit: &str) -> i64 {
    let buckets = answer["buckets"].as_array().expect("buckets");
    let bucket = buckets.iter().find(|bucket| bucket["limit"] == limit);
    bucket.expect(limit)["level"].as_i64().expect("a level")
}

/// `llm`: a tenant has 5 requests and 5000 tokens a minute, 10,000 at once. `ref`: as the reference
/// has it, two a minute for each `path`; another descriptor with metadata; answers dressed up.
pub(crate) fn domains() -> BTreeMap<String, Arc<Domain>> {
    let mut llm = domain("llm");
    let minute = Unit::Minute;
    let requests = limits(&llm, "tenant-requests", 5, minute, 5, Formula::REQUESTS);
    let mut tokens = limits(&llm, "tenant-tokens", 5000, minute, 10_000, tokens());
    tokens.estimate = Estimate::Constant(800);
    tokens.headroom = vec![("batch".to_owned(), 9_500)];
    insert(&mut llm, "tenant", vec![requests, tokens], None);

    let mut reference = domain("ref");
    let path = as_reference(&reference, "per-path", 2);
    insert(&mut reference, "path", vec![path], None);
    let tagged = as_reference(&reference, "", 100);
    let pool = [("pool".to_owned(), Metadata::Text("blue".to_owned()))];
    let metadata = Metadata::Map(pool.into());
    insert(&mut reference, "tag", vec![tagged], Some(metadata));
    reference.answer = AnswerStyle {
        headers: vec![HeaderStyle::RetryAfter],
        body: BodyStyle::Plain,
    };
    [llm, reference]
        .into_iter()
        .map(|domain| (domain.name.clone(), Arc::new(domain)))
        .collect()
}

fn domain(name: &str) -> Domain {
    Domain {
        name: name.to_owned(),
        ..Domain::default()
    }
}

fn insert(
    domain: &mut Domain,
    key: &str,
    limits: Vec<ConfiguredLimit>,
    metadata: Option<Metadata>,
) {
    let limits = limits.into_iter().map(|mut limit| {
        limit.index = LimitIndex(domain.limits.len());
        let limit = Arc::new(limit);
        domain.limits.push(Arc::clone(&limit));
        limit
    });
    let rule = Rule {
        path: key.into(),
        limits: limits.collect(),
        metadata: metadata.map(Box::new),
        ..Rule::default()
    };
    domain.root.insert(key, "", rule).unwrap();
}

fn tokens() -> Formula {
    use tollgate::limit::Weight;
    Formula {
        tokens: [Weight::ONE; 4],
        ..Formula::default()
    }
}

fn as_reference(domain: &Domain, name: &str, amount: u64) -> ConfiguredLimit {
    let mut limit = limits(domain, name, amount, Unit::Minute, amount, Formula::HITS);
    if let Terms::Limited(terms) = &mut limit.terms {
        terms.algorithm = Algorithm::FixedWindow;
        terms.when_over = WhenOver::Charge;
        terms.zero_cost = ZeroCost::PassesAtZero;
    }
    limit
}

fn limits(
    domain: &Domain,
    name: &str,
    amount: u64,
    unit: Unit,
    burst: u64,
    formula: Formula,
) -> ConfiguredLimit {
    let algorithm = Algorithm::TokenBucket;
    ConfiguredLimit {
        index: LimitIndex::default(),
        name: name.into(),
        label: name.into(),
        identity: ConfiguredLimit::identity_of(&domain.name, name, algorithm, None),
        terms: Terms::Limited(Limit {
            algorithm,
            rate: Rate::new(amount, unit.period()).unwrap(),
            burst,
            when_over: WhenOver::Refuse,
            oversize: Oversize::Refuse,
            zero_cost: ZeroCost::NeedsRoom,
        }),
        calendar: None,
        budget: None,
        formula,
        estimate: Estimate::None,
        stating: Stating::default(),
        effect: Effect::Enforce,
        replaces: Vec::new(),
        on_store_error: OnStoreError::Allow,
        missing_usage: MissingUsage::default(),
        headroom: Vec::new(),
        lease: None,
        origin: None,
    }
}
