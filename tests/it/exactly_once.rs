//! Random histories of calls, each reported in several ways, in any order, twice, by any replica,
//! and with replicas that are replaced between the steps: every bucket ends at what the model says.
//!
//! The ways in are those of Envoy's stream-done call, its access log, an `ext_proc` observer and our
//! own API. They differ in what they carry: an id only, descriptors too, progress before the end.
#![expect(
    clippy::unwrap_used,
    reason = "a test's scaffolding fails the test where it stands"
)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tollgate::clock::{Clock, ManualClock};
use tollgate::metrics::Metrics;
use tollgate::service::{Options, Service};
use tollgate::store::{LeaseEvent, Memory, OnLease, Redis, Store, redis};
use tollgate::usage::Reported;

use crate::support::limiter::{START, parse, request, target};
use crate::support::redis::RedisServer;

const HISTORIES: usize = 10_000;
const AT_ONCE: usize = 64;
const CALLS: usize = 3;

const CONFIG: &str = "
domain: llm
descriptors:
  - key: k
    limits:
      - { name: requests, rate: 1000000/year }
      - { name: kept, rate: 1G/year, cost: tokens, estimate: 800 }
      - { name: given, rate: 1G/year, cost: { input_tokens: 1, output_tokens: 5 }, estimate: 900, missing_usage: release }
";

/// The same, where what does not count tokens may be leased; and a limit that everybody asks for, of
/// which most is let in by leases.
const LEASED: &str = "
domain: llm
descriptors:
  - key: k
    limits:
      - { name: requests, rate: 1000000/year, lease: { max: 100 } }
      - { name: kept, rate: 1G/year, cost: tokens, estimate: 800 }
      - { name: given, rate: 1G/year, cost: { input_tokens: 1, output_tokens: 5 }, estimate: 900, missing_usage: release }
  - key: all
    limits: [{ name: all, rate: 1000000/year, lease: { max: 100 } }]
";

/// What the limits begin with, in their order.
const FULL: [i64; 3] = [1_000_000, 1_000_000_000, 1_000_000_000];

/// Something that happens to one of the calls of a history.
#[derive(Clone, Copy, Debug)]
enum Step {
    Admit,
    /// Envoy's call when the stream is done: an id only.
    StreamDone {
        found: bool,
    },
    /// The same, after another filter refused: nothing was sent to a provider.
    NotSent,
    /// The access log: the id and the descriptors.
    AccessLog {
        found: bool,
    },
    /// The observer, while the answer streams: so many hundredths of it.
    SoFar(u64),
    /// The observer, in the end.
    Observed {
        found: bool,
    },
    /// A replica goes, and another comes.
    Crash,
}

#[derive(Clone, Debug)]
struct History {
    /// What each call uses: input and output.
    used: Vec<[u64; 2]>,
    /// Which call, what, and through which replica.
    steps: Vec<(usize, Step, usize)>,
}

fn histories() -> impl Strategy<Value = History> {
    let found = || prop_oneof![4 => Just(true), 1 => Just(false)];
    let step = prop_oneof![
        60 => Just(Step::Admit),
        40 => found().prop_map(|found| Step::StreamDone { found }),
        10 => Just(Step::NotSent),
        40 => found().prop_map(|found| Step::AccessLog { found }),
        40 => (0_u64..=100).prop_map(Step::SoFar),
        40 => found().prop_map(|found| Step::Observed { found }),
        1 => Just(Step::Crash),
    ];
    let used = vec([0_u64..3000, 0_u64..3000], CALLS);
    let steps = vec((0..CALLS, step, any::<usize>()), 1..16);
    (used, steps).prop_map(|(used, steps)| History { used, steps })
}

/// What the model knows of a call, by limit: what is charged now, and what may become of it.
#[derive(Clone, Copy, Debug)]
struct Call {
    state: State,
    charged: [u64; 3],
    /// Whether it told what it used so far.
    told: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unknown,
    Open,
    Unmeasured,
    Settled,
    Reported,
}

impl Call {
    const NEW: Self = Self {
        state: State::Unknown,
        charged: [0; 3],
        told: false,
    };

    fn step(&mut self, step: Step, [input, output]: [u64; 2]) {
        let actual = [1, input + output, input + 5 * output];
        match (self.state, step) {
            (State::Unknown, Step::Admit) => {
                self.state = State::Open;
                self.charged = [1, 800, 900];
            }
            (State::Reported, Step::Admit) => {
                self.state = State::Settled;
                self.charged[0] = 1;
            }
            (State::Open, Step::SoFar(hundredths)) => {
                self.told = true;
                let (input, output) = (input, output * hundredths / 100);
                self.charged[1] = self.charged[1].max(input + output);
                self.charged[2] = self.charged[2].max(input + 5 * output);
            }
            (
                State::Open | State::Unmeasured,
                Step::StreamDone { found: true }
                | Step::AccessLog { found: true }
                | Step::Observed { found: true },
            ) => {
                self.state = State::Settled;
                self.charged = actual;
            }
            (
                State::Open,
                Step::StreamDone { found: false }
                | Step::AccessLog { found: false }
                | Step::Observed { found: false },
            ) => {
                self.state = State::Unmeasured;
                if !self.told {
                    self.charged[2] = 0;
                }
            }
            (State::Open | State::Unmeasured, Step::NotSent) => {
                self.state = State::Settled;
                self.charged = [1, 0, 0];
            }
            // Descriptors say what to charge before anybody was admitted.
            (State::Unknown, Step::AccessLog { found: true }) if input + output > 0 => {
                self.state = State::Reported;
                self.charged = [0, actual[1], actual[2]];
            }
            _ => {}
        }
    }
}

/// Replicas of which any can be replaced.
struct Fleet {
    replicas: Vec<Mutex<Service>>,
    make: Box<dyn Fn() -> Service + Send + Sync>,
    replaced: AtomicUsize,
    /// Requests that were let in and count no tokens.
    asked_beside: AtomicU64,
}

impl Fleet {
    fn new(replicas: usize, make: impl Fn() -> Service + Send + Sync + 'static) -> Self {
        Self {
            replicas: (0..replicas).map(|_| Mutex::new(make())).collect(),
            make: Box::new(make),
            replaced: AtomicUsize::new(0),
            asked_beside: AtomicU64::new(0),
        }
    }

    fn replica(&self, index: usize) -> Service {
        self.replicas[index % self.replicas.len()]
            .lock()
            .unwrap()
            .clone()
    }

    fn replace(&self, index: usize) {
        *self.replicas[index % self.replicas.len()].lock().unwrap() = (self.make)();
        self.replaced.fetch_add(1, Ordering::Relaxed);
    }
}

fn made(store: Store, config: &str) -> Service {
    let service = Service::new(store, Metrics::new().unwrap(), Options::default());
    let domains = [("llm".to_owned(), Arc::new(parse(config)))];
    service.install(&BTreeMap::from(domains));
    service
}

async fn run(fleet: &Fleet, case: usize, history: History, beside: usize) {
    let mut calls = [Call::NEW; CALLS];
    let descriptor = format!("k=c{case}");
    for (index, step, replica) in &history.steps {
        let used = history.used[*index];
        calls[*index].step(*step, used);
        let id = format!("{case}-{index}");
        do_step(fleet, *replica, &descriptor, &id, *step, used).await;
        for _ in 0..beside {
            let service = fleet.replica(*replica);
            let answer = service.should_rate_limit(&request(&["all=a"])).await;
            assert!(!answer.unwrap().over_limit);
            fleet.asked_beside.fetch_add(1, Ordering::Relaxed);
        }
    }
    let expected: Vec<i64> = (0..3)
        .map(|limit| {
            let charged: u64 = calls.iter().map(|call| call.charged[limit]).sum();
            FULL[limit] - charged.cast_signed()
        })
        .collect();
    // Charges one request and no tokens, and tells where that leaves the buckets.
    let look = fleet
        .replica(0)
        .reserve(
            &target(&[&descriptor]),
            Reported::of_measures([Some(0); 4]),
            None,
            None,
        )
        .await
        .unwrap();
    let mut levels: Vec<i64> = look.buckets.iter().map(|bucket| bucket.level).collect();
    levels[0] += 1;
    assert_eq!(levels, expected, "{history:?}");
}

async fn do_step(
    fleet: &Fleet,
    replica: usize,
    descriptor: &str,
    id: &str,
    step: Step,
    [input, output]: [u64; 2],
) {
    let service = fleet.replica(replica);
    let measures = |found: bool, output: u64| {
        if found {
            Reported::of_measures([Some(input), None, None, Some(output)])
        } else {
            Reported::default()
        }
    };
    match step {
        Step::Admit => {
            let admit = format!("{descriptor} tollgate.id={id}");
            let answer = service.should_rate_limit(&request(&[&admit])).await;
            assert!(!answer.unwrap().over_limit);
        }
        Step::StreamDone { found } => {
            let report = format!("tollgate.phase=report tollgate.id={id}");
            let used_input = format!("{report} tollgate.measure=input_tokens @{input}");
            let used_output = format!("{report} tollgate.measure=output_tokens @{output}");
            let end = format!("{report} tollgate.outcome=via_upstream @0");
            let found: &[&str] = if found {
                &[&used_input, &used_output, &end]
            } else {
                &[&end]
            };
            service.should_rate_limit(&request(found)).await.unwrap();
        }
        Step::NotSent => {
            let end = format!(
                "tollgate.phase=report tollgate.id={id} tollgate.outcome=ext_authz_denied @0"
            );
            service.should_rate_limit(&request(&[&end])).await.unwrap();
        }
        Step::AccessLog { found } => {
            let target = target(&[descriptor]);
            let usage = measures(found, output);
            service
                .report_under(Some(id), usage, &target)
                .await
                .unwrap();
        }
        Step::SoFar(hundredths) => {
            let usage = measures(true, output * hundredths / 100);
            service.progress("llm", id, usage).await.unwrap();
        }
        Step::Observed { found } => {
            let usage = measures(found, output);
            service
                .report_under(Some(id), usage, &target(&[]))
                .await
                .unwrap();
        }
        Step::Crash => fleet.replace(replica),
    }
}

/// Runs so many histories; `beside` each step, so many requests that count no tokens. Returns how
/// many replicas were replaced.
async fn run_all(fleet: &Arc<Fleet>, histories: usize, beside: usize) -> usize {
    let seed = *b"exactly once, whatever the order";
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), rng);
    let strategy = self::histories();
    let free = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for case in 0..histories {
        let history = strategy.new_tree(&mut runner).unwrap().current();
        let turn = Arc::clone(&free).acquire_owned().await.unwrap();
        let fleet = Arc::clone(fleet);
        running.spawn(async move {
            run(&fleet, case, history, beside).await;
            drop(turn);
        });
        while let Some(done) = running.try_join_next() {
            done.unwrap();
        }
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
    fleet.replaced.load(Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread")]
async fn in_memory_every_bucket_ends_at_what_was_used() {
    let clock = ManualClock::new(START);
    let only = made(Store::Memory(Memory::new(Clock::Manual(clock))), CONFIG);
    // Its buckets go with the process, so a crash leaves nothing to compare.
    let fleet = Arc::new(Fleet::new(1, move || only.clone()));
    run_all(&fleet, HISTORIES, 0).await;
}

/// Replicas on one Redis that are told of leases by `on_lease`.
fn on_redis(prefix: &'static str, config: &'static str, on_lease: Option<OnLease>) -> Arc<Fleet> {
    let server = RedisServer::shared();
    let clock = ManualClock::new(START);
    Arc::new(Fleet::new(4, move || {
        let options = redis::Options {
            prefix: prefix.to_owned(),
            deadline: std::time::Duration::from_secs(20),
            clock: Some(clock.clone()),
            on_lease: on_lease.clone(),
            ..redis::Options::new(server.url())
        };
        made(Store::Redis(Redis::start(options).unwrap()), config)
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn in_redis_every_bucket_ends_at_what_was_used_whoever_crashed() {
    let fleet = on_redis("exactly-once:", CONFIG, None);
    let replaced = run_all(&fleet, HISTORIES, 0).await;
    assert!(replaced > 100, "{replaced} replicas were replaced");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_leases_too_and_what_is_let_in_by_them_is_counted_once() {
    const MAX: u64 = 100;

    let (granted, dropped) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let told = (Arc::clone(&granted), Arc::clone(&dropped));
    let on_lease: OnLease = Arc::new(move |event| {
        match event {
            LeaseEvent::Granted => told.0.fetch_add(1, Ordering::Relaxed),
            LeaseEvent::Dropped(hits) => told.1.fetch_add(hits, Ordering::Relaxed),
            _ => 0,
        };
    });
    let fleet = on_redis("exactly-once-leased:", LEASED, Some(on_lease));
    let replaced = run_all(&fleet, HISTORIES / 20, 5).await;
    assert!(replaced > 5, "{replaced} replicas were replaced");
    for index in 0..4 {
        fleet.replica(index).close_leases().await;
    }
    let (granted, dropped) = (
        granted.load(Ordering::Relaxed),
        dropped.load(Ordering::Relaxed),
    );
    assert!(granted > 1000, "{granted} were let in by leases");

    // All that was let in is there, and besides it what went with those that crashed.
    let look = fleet.replica(0).inspect(&target(&["all=a"])).await.unwrap();
    let spent = (FULL[0] - look.buckets[0].level).unsigned_abs();
    let let_in = fleet.asked_beside.load(Ordering::Relaxed);
    let lost = u64::try_from(replaced).unwrap() * MAX + dropped;
    let range = let_in..=let_in + lost;
    assert!(range.contains(&spent), "{spent} of {range:?}");
}
