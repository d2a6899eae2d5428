//! Putting the parts together, and taking them down in order.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use tokio::net::TcpListener;
use tokio::time::MissedTickBehavior;

use crate::config::watch::{Timing, Watcher};
use crate::config::{self, ConfigError, Library, LoadReport};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::rules::Domain;
use crate::service::{self, Service};
use crate::settings::{ServeArgs, StoreUrl};
use crate::shutdown::Shutdown;
use crate::store::{Memory, Redis, Store, StoreError};
use crate::{admin, clock, grpc, store};

/// How often readiness is looked at.
const READINESS: Duration = Duration::from_secs(1);

/// How often reservations are counted and full buckets forgotten.
const TIDYING: Duration = Duration::from_secs(10);

/// How often replicas exchange what estimates are learned from. Where no more groups are in use than
/// one exchange takes, a replica's estimate is older by so much at most.
const EXCHANGING: Duration = Duration::from_secs(2);

/// How long the last exchange may take. What it does not tell is lost.
const LAST_EXCHANGE: Duration = Duration::from_secs(1);

/// How long giving back leases may take at the end. What is not given back has to refill.
const LAST_LEASES: Duration = Duration::from_secs(1);

/// The open ports.
#[derive(Debug)]
pub struct Listeners {
    /// For gRPC.
    pub grpc: TcpListener,
    /// For HTTP.
    pub http: TcpListener,
}

/// Why serving could not begin, or broke off.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration has mistakes. Nothing is served by half of one; once serving, a mistake
    /// only keeps the last good version.
    #[error("the configuration has {} error(s):\n{}", .0.len(), lines(.0))]
    Config(Vec<ConfigError>),
    /// The files that were named configure nothing.
    #[error("no configuration files found in the given --config paths")]
    NoConfig,
    /// A listener failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The metrics contradict each other.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The store cannot be used at all.
    #[error("--store: {0}")]
    Store(#[from] StoreError),
}

/// Serves on `listeners` until `shutdown`.
///
/// # Errors
///
/// See [`RunError`].
pub async fn run(
    args: ServeArgs,
    listeners: Listeners,
    shutdown: Shutdown,
) -> Result<(), RunError> {
    let metrics = Metrics::new()?;
    let loaded = load(&args, &metrics)?;
    let store = open_store(&args, &metrics)?;
    let options = service::Options {
        hold_time: args.hold_time,
    };
    let service = Service::new(store, metrics, options);
    service.install(&loaded.domains);

    let grpc_addr = listeners.grpc.local_addr()?;
    let http_addr = listeners.http.local_addr()?;
    let health = Health::default();
    let grpc_health = grpc::Health::default();
    grpc_health.set_ready(false).await;
    let watch = follow(loaded.files, service.clone(), &shutdown);
    let ready = tokio::spawn(watch_readiness(
        service.clone(),
        health.clone(),
        grpc_health.clone(),
        shutdown.clone(),
    ));
    let tidy = tokio::spawn(tidy(service.clone()));
    let exchange = tokio::spawn(exchange_estimates(service.clone()));

    let stopping = || {
        let shutdown = shutdown.clone();
        async move { shutdown.stopping().await }
    };
    let grpc = tokio::spawn(grpc::serve(
        listeners.grpc,
        service.clone(),
        grpc_health,
        stopping(),
    ));
    let router = admin::router(service.clone(), health);
    let http = tokio::spawn(admin::serve(listeners.http, router, stopping()));
    tracing::info!(%grpc_addr, %http_addr, "listening");
    greet(&args, grpc_addr);

    let result = supervise(grpc, http, &service, &shutdown, args.drain_timeout).await;
    watch.abort();
    ready.abort();
    tidy.abort();
    exchange.abort();
    result
}

/// Says what somebody who just started it needs to know.
fn greet(args: &ServeArgs, mut grpc_addr: SocketAddr) {
    if grpc_addr.ip().is_unspecified() {
        grpc_addr.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    if matches!(args.store, StoreUrl::Memory) {
        tracing::info!(
            "buckets live in this process: other replicas do not share them (see --store)"
        );
    }
    if args.config.is_empty() {
        tracing::info!(
            "no --config given: serving the example that is built in, domain llm. \
             Try: tollgate call {grpc_addr} --domain llm tenant=demo --repeat 6"
        );
    }
}

type Served = tokio::task::JoinHandle<std::io::Result<()>>;

/// Waits for the end: a listener that fails ends everything; after `stopping`, what is under way
/// may take `patience`, and what is handed over a second more.
async fn supervise(
    grpc: Served,
    http: Served,
    service: &Service,
    shutdown: &Shutdown,
    patience: Duration,
) -> Result<(), RunError> {
    // One that has nothing under way ends at once when stopping; the other must not be cut short.
    let both = async { tokio::try_join!(ended(grpc, shutdown), ended(http, shutdown)).map(drop) };
    tokio::pin!(both);
    tokio::select! {
        biased;
        () = shutdown.stopping() => {}
        result = &mut both => return result,
    }
    let drained = async {
        let result = both.await;
        service.finish_reports().await;
        result
    };
    let result = if let Ok(result) = tokio::time::timeout(patience, drained).await {
        result
    } else {
        tracing::warn!(
            ?patience,
            "calls or reports under way did not finish, or connections did not close, in time"
        );
        Ok(())
    };
    hand_over(service).await;
    result
}

/// Leaves to the other replicas what only this one has. Whatever else is still under way: one stream
/// that does not end must not keep it.
async fn hand_over(service: &Service) {
    let leases = tokio::time::timeout(LAST_LEASES, service.close_leases());
    // What the last reports taught is known here only.
    let samples = tokio::time::timeout(LAST_EXCHANGE, service.exchange_estimates());
    let (leases, samples) = tokio::join!(leases, samples);
    if leases.is_err() {
        tracing::warn!("leases were not given back in time");
    }
    if samples.is_err() {
        tracing::warn!("the last samples of estimates were not told in time");
    }
}

async fn ended(server: Served, shutdown: &Shutdown) -> Result<(), RunError> {
    server.await.map_err(std::io::Error::other)??;
    if shutdown.is_stopping() {
        return Ok(());
    }
    Err(RunError::Io(std::io::Error::other(
        "a listener ended unasked",
    )))
}

type Domains = BTreeMap<String, Arc<Domain>>;

/// What is in force at the start, and the files to follow.
struct Loaded {
    domains: Domains,
    files: Option<(Library, LoadReport)>,
}

fn load(args: &ServeArgs, metrics: &Metrics) -> Result<Loaded, RunError> {
    if args.config.is_empty() {
        let domain = config::builtin();
        tell(&LoadReport::default(), metrics);
        let domains = BTreeMap::from([(domain.name.clone(), Arc::new(domain))]);
        return Ok(Loaded {
            domains,
            files: None,
        });
    }
    let (library, report) = Library::open(args.config.clone(), args.merge_domains);
    if !report.errors.is_empty() {
        return Err(RunError::Config(report.errors));
    }
    tell(&report, metrics);
    if library.domains().is_empty() {
        return Err(RunError::NoConfig);
    }
    let domains = library.domains().clone();
    Ok(Loaded {
        domains,
        files: Some((library, report)),
    })
}

/// Installs what the files say whenever they change. Listens from now on.
fn follow(
    files: Option<(Library, LoadReport)>,
    service: Service,
    shutdown: &Shutdown,
) -> tokio::task::JoinHandle<()> {
    let watcher = files.map(|(library, report)| Watcher::new(library, report, Timing::default()));
    let stopping = shutdown.stopping_token();
    tokio::spawn(async move {
        let Some(watcher) = watcher else { return };
        watcher
            .run(stopping, move |library, report| {
                tell(report, service.metrics());
                if report.changes_anything() {
                    service.install(library.domains());
                }
            })
            .await;
    })
}

/// Logs and counts a load.
fn tell(report: &LoadReport, metrics: &Metrics) {
    for error in &report.errors {
        tracing::error!(%error, "configuration error");
    }
    for warning in &report.warnings {
        tracing::warn!(%warning, "configuration warning");
    }
    for domain in &report.kept {
        tracing::warn!(domain, "keeping the last good configuration");
    }
    for domain in &report.removed {
        tracing::info!(domain, "configuration removed");
    }
    for domain in &report.changed {
        tracing::info!(domain, "configuration loaded");
    }
    let success = report.errors.is_empty();
    metrics.count_config_load(success);
    if success {
        let now = clock::Clock::System.now().as_micros() / 1_000_000;
        metrics
            .config_last_success
            .set(i64::try_from(now).unwrap_or(i64::MAX));
    }
}

fn open_store(args: &ServeArgs, metrics: &Metrics) -> Result<Store, RunError> {
    let StoreUrl::Redis(url) = &args.store else {
        return Ok(Store::Memory(Memory::new(clock::Clock::System)));
    };
    let mut options = store::redis::Options::new(url.expose_secret());
    options.prefix.clone_from(&args.redis_prefix);
    options.deadline = args.store_timeout;
    options.refusal_memory = args.refusal_memory;
    let refusals = metrics.local_refusals.clone();
    options.on_local_refusal = Some(Arc::new(move || refusals.inc()));
    let operations = metrics.store_batch_operations.clone();
    options.on_call = Some(Arc::new(move |call: &store::redis::CallReport| {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a count of operations in one call"
        )]
        operations.observe(call.operations as f64);
    }));
    let leases = metrics.leases.clone();
    options.on_lease = Some(Arc::new(move |event| leases.count(event)));
    Ok(Store::Redis(Redis::start(options)?))
}

async fn watch_readiness(
    service: Service,
    health: Health,
    grpc_health: grpc::Health,
    shutdown: Shutdown,
) {
    let mut interval = tokio::time::interval(READINESS);
    let mut was_up = None;
    while !shutdown.is_leaving() {
        // Redis may keep us waiting for longer than whoever ends us.
        let answered = tokio::select! {
            () = shutdown.leaving() => break,
            answered = service.ping() => answered,
        };
        let up = answered.is_ok();
        if was_up != Some(up) {
            match answered {
                // In this process it always does.
                Ok(()) if service.store_kind() == "memory" => {}
                Ok(()) => tracing::info!("the store answers"),
                Err(error) => {
                    tracing::warn!(%error, "the store does not answer: on_store_error decides");
                }
            }
            was_up = Some(up);
        }
        // Does not ask again where it has answered once.
        let ready = tokio::select! {
            () = shutdown.leaving() => break,
            state = service.ready() => state.is_ok(),
        };
        if ready {
            health.ready();
        }
        grpc_health.set_ready(ready).await;
        tokio::select! {
            _ = interval.tick() => {}
            () = shutdown.leaving() => break,
        }
    }
    health.drain();
    grpc_health.set_ready(false).await;
}

#[expect(clippy::infinite_loop, reason = "its task is aborted at the end")]
async fn tidy(service: Service) {
    let mut interval = tokio::time::interval(TIDYING);
    loop {
        interval.tick().await;
        service.tidy().await;
    }
}

#[expect(clippy::infinite_loop, reason = "its task is aborted at the end")]
async fn exchange_estimates(service: Service) {
    let mut interval = tokio::time::interval(EXCHANGING);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        service.exchange_estimates().await;
    }
}

fn lines(errors: &[ConfigError]) -> String {
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}
