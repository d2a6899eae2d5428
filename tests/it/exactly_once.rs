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
use std::sync::atomic::{AtomicUsize, Ordering};
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
use tollgate::store::{Memory, Redis, Store, redis};
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
}

impl Fleet {
    fn new(replicas: usize, make: impl Fn() -> Service + Send + Sync + 'static) -> Self {
        Self {
            replicas: (0..replicas).map(|_| Mutex::new(make())).collect(),
            make: Box::new(make),
            replaced: AtomicUsize::new(0),
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

fn made(store: Store) -> Service {
    let service = Service::new(store, Metrics::new().unwrap(), Options::default());
    let domains = [("llm".to_owned(), Arc::new(parse(CONFIG)))];
    service.install(&BTreeMap::from(domains));
    service
}

async fn run(fleet: &Fleet, case: usize, history: History) {
    let mut calls = [Call::NEW; CALLS];
    let descriptor = format!("k=c{case}");
    for (index, step, replica) in &history.steps {
        let used = history.used[*index];
        calls[*index].step(*step, used);
        let id = format!("{case}-{index}");
        do_step(fleet, *replica, &descriptor, &id, *step, used).await;
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

async fn run_all(fleet: Fleet) -> usize {
    let seed = *b"exactly once, whatever the order";
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), rng);
    let strategy = histories();
    let fleet = Arc::new(fleet);
    let free = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for case in 0..HISTORIES {
        let history = strategy.new_tree(&mut runner).unwrap().current();
        let turn = Arc::clone(&free).acquire_owned().await.unwrap();
        let fleet = Arc::clone(&fleet);
        running.spawn(async move {
            run(&fleet, case, history).await;
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
    let only = made(Store::Memory(Memory::new(Clock::Manual(clock))));
    // Its buckets go with the process, so a crash leaves nothing to compare.
    run_all(Fleet::new(1, move || only.clone())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_redis_every_bucket_ends_at_what_was_used_whoever_crashed() {
    let server = RedisServer::shared();
    let clock = ManualClock::new(START);
    let fleet = Fleet::new(4, move || {
        let options = redis::Options {
            prefix: "exactly-once:".to_owned(),
            deadline: std::time::Duration::from_secs(20),
            clock: Some(clock.clone()),
            ..redis::Options::new(server.url())
        };
        made(Store::Redis(Redis::start(options).unwrap()))
    });
    let replaced = run_all(fleet).await;
    assert!(replaced > 100, "{replaced} replicas were replaced");
}
