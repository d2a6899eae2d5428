//! What concurrency makes of a token limit: four replicas on one Redis, 200 callers, and calls whose
//! cost nobody knows before they end.
//!
//! A simulation on the store's own clock: every call, report and retry happens at its simulated
//! time, one after the other, so that a seed always gives the same run. A caller that is refused
//! comes again when it was told to, or up to half a minute later. `docs/design/estimates.md` has the
//! figures of more seeds.
#![expect(
    clippy::unwrap_used,
    reason = "a test's scaffolding fails the test where it stands"
)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use fastrand::Rng;
use tollgate::limit::Timestamp;

use crate::support::limiter::{Limiter, START, metadata};
use crate::support::redis::RedisServer;

const RATE: u64 = 100_000;
const BURST: u64 = 100_000;
const CALLERS: usize = 200;
const SECOND: u64 = 1_000_000;
const MINUTE: u64 = 60 * SECOND;

/// What a limit allows in any minute.
const ALLOWED: u64 = BURST + RATE;

const RULES: &str = "
descriptors:
  - key: guessed
    limits: [{ name: guessed, rate: 100k/minute, burst: 100k, cost: tokens, estimate: learned }]
  - key: unguessed
    limits: [{ name: unguessed, rate: 100k/minute, burst: 100k, cost: tokens }]
";

/// How admission is told what a call will cost.
#[derive(Clone, Copy, Debug)]
enum Knowing {
    /// The caller knows it.
    Exact,
    /// By what calls cost before.
    Learned,
    /// Not at all: admitted while the level is above zero, charged when it is known.
    Nothing,
}

/// How the costs from 1,000 to 30,000 are spread.
#[derive(Clone, Copy, Debug)]
enum Costs {
    /// All alike.
    Even,
    /// Most are small: as many between 1,000 and 2,000 as between 10,000 and 20,000.
    Skewed,
}

impl Costs {
    fn next(self, rng: &mut Rng) -> u64 {
        match self {
            Self::Even => rng.u64(1_000..=30_000),
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 1,000 and 30,000"
            )]
            Self::Skewed => (1000.0 * 30_f64.powf(rng.f64())) as u64,
        }
    }
}

/// What happens at a time; the earliest comes first, then the one that was planned first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Ask { cost: u64 },
    Done { id: String, cost: u64 },
    Exchange,
}

struct Run {
    replicas: [Limiter; 4],
    knowing: Knowing,
    costs: Costs,
    rng: Rng,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    planned: u64,
    now: u64,
    /// Until when callers want more.
    until: u64,
    /// When calls were admitted, and what they cost in the end.
    admitted: Vec<(u64, u64)>,
    most_in_flight: usize,
    in_flight: usize,
}

/// What came out.
#[derive(Debug)]
struct Seen {
    /// The most that was used in any minute by the calls that were admitted in it, of what the
    /// limit allows.
    minute: f64,
    /// The deepest debt if all costs had been known at once, of the burst.
    debt: f64,
    /// What was used of all that the limit allowed.
    utilisation: f64,
    most_in_flight: usize,
}

impl Run {
    fn new(redis: &RedisServer, knowing: Knowing, costs: Costs, seed: u64) -> Self {
        let name = format!("overshoot-{knowing:?}-{costs:?}-{seed}");
        Self {
            replicas: Limiter::replicas(redis, &name, RULES),
            knowing,
            costs,
            rng: Rng::with_seed(seed),
            events: BinaryHeap::new(),
            planned: 0,
            now: START.as_micros(),
            until: 0,
            admitted: Vec::new(),
            most_in_flight: 0,
            in_flight: 0,
        }
    }

    fn plan(&mut self, at: u64, event: Event) {
        self.planned += 1;
        self.events.push(Reverse((at, self.planned, event)));
    }

    /// 200 callers want as much as they get for so long; returns when all calls have ended.
    async fn busy(&mut self, minutes: u64) -> Seen {
        let begun = self.now;
        self.until = begun + minutes * MINUTE;
        self.admitted.clear();
        (self.most_in_flight, self.in_flight) = (0, 0);
        for _ in 0..CALLERS {
            let cost = self.costs.next(&mut self.rng);
            let at = begun + self.rng.u64(..SECOND);
            self.plan(at, Event::Ask { cost });
        }
        self.plan(begun, Event::Exchange);
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            self.now = at;
            self.replicas[0].set_time(Timestamp::from_micros(at));
            match event {
                Event::Ask { cost } => self.ask(cost).await,
                Event::Done { id, cost } => self.done(&id, cost).await,
                Event::Exchange => self.exchange().await,
            }
        }
        self.seen(minutes)
    }

    /// Nobody wants anything for so long.
    fn quiet(&mut self, minutes: u64) {
        self.now += minutes * MINUTE;
        self.replicas[0].set_time(Timestamp::from_micros(self.now));
    }

    async fn ask(&mut self, cost: u64) {
        if self.now >= self.until {
            return;
        }
        let descriptor = match self.knowing {
            Knowing::Exact => {
                format!("guessed=x tollgate.input_tokens={cost} tollgate.output_tokens=0")
            }
            Knowing::Learned => "guessed=x".to_owned(),
            Knowing::Nothing => "unguessed=x".to_owned(),
        };
        let replica = self.rng.usize(..self.replicas.len());
        let answer = self.replicas[replica].ask(&[&descriptor]).await;
        if answer.over_limit {
            let wait = answer.statuses[0].reset.unwrap();
            let wait = u64::try_from(wait.as_micros()).unwrap() + self.rng.u64(..30 * SECOND);
            self.plan(self.now + wait, Event::Ask { cost });
        } else {
            let id = metadata(&answer, "reservation").unwrap().to_owned();
            self.admitted.push((self.now, cost));
            self.in_flight += 1;
            self.most_in_flight = self.most_in_flight.max(self.in_flight);
            let lasts = self.rng.u64(2 * SECOND..60 * SECOND);
            self.plan(self.now + lasts, Event::Done { id, cost });
        }
    }

    /// A call ended: it is reported, to any replica, and the caller wants the next one.
    async fn done(&mut self, id: &str, cost: u64) {
        let input = cost / 3;
        let output = cost - input;
        let report = format!(
            "tollgate.phase=report tollgate.id={id} tollgate.input_tokens={input} \
             tollgate.output_tokens={output}"
        );
        let replica = self.rng.usize(..self.replicas.len());
        self.replicas[replica].ask(&[&report]).await;
        self.in_flight -= 1;
        let cost = self.costs.next(&mut self.rng);
        self.plan(self.now, Event::Ask { cost });
    }

    async fn exchange(&mut self) {
        for replica in &self.replicas {
            replica.service.exchange_estimates().await;
        }
        if !self.events.is_empty() {
            self.plan(self.now + 2 * SECOND, Event::Exchange);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    fn seen(&self, minutes: u64) -> Seen {
        let share = |part: u64, whole: u64| part as f64 / whole as f64;
        let used: u64 = self.admitted.iter().map(|(_, cost)| cost).sum();
        Seen {
            minute: share(most_in_a_minute(&self.admitted), ALLOWED),
            debt: share(deepest_debt(&self.admitted), BURST),
            utilisation: share(used, BURST + RATE * minutes),
            most_in_flight: self.most_in_flight,
        }
    }
}

/// The most that was used by calls that were admitted within one minute.
fn most_in_a_minute(admitted: &[(u64, u64)]) -> u64 {
    let within = |(from, rest): (u64, &[(u64, u64)])| -> u64 {
        let inside = rest.iter().take_while(|(at, _)| *at <= from + MINUTE);
        inside.map(|(_, cost)| cost).sum()
    };
    (0..admitted.len())
        .map(|first| within((admitted[first].0, &admitted[first..])))
        .max()
        .unwrap()
}

/// How far below zero the level would have been, had every call been charged what it cost when it
/// was admitted.
fn deepest_debt(admitted: &[(u64, u64)]) -> u64 {
    let per_minute = |cost: u64| u128::from(cost) * u128::from(MINUTE);
    let mut spent = 0_u128;
    let mut deepest = 0;
    let mut last = 0;
    for (at, cost) in admitted {
        spent = spent.saturating_sub(u128::from(at - last) * u128::from(RATE));
        spent += per_minute(*cost);
        deepest = deepest.max(spent.saturating_sub(per_minute(BURST)));
        last = *at;
    }
    u64::try_from(deepest / u128::from(MINUTE)).unwrap()
}

/// Learns for five minutes, waits until all is paid for, and is busy again, from a full bucket.
async fn run(redis: &RedisServer, knowing: Knowing, costs: Costs, seed: u64) -> Seen {
    let mut run = Run::new(redis, knowing, costs, seed);
    if matches!(knowing, Knowing::Learned) {
        let cold = run.busy(5).await;
        println!("{costs:?} {seed} cold start: {cold:.3?}");
        run.quiet(15);
    }
    let seen = run.busy(15).await;
    println!("{costs:?} {seed} {knowing:?}: {seen:.3?}");
    seen
}

/// The three ways of knowing, side by side.
async fn compare(costs: Costs, seed: u64) {
    let redis = RedisServer::shared();
    let exact = run(&redis, Knowing::Exact, costs, seed).await;
    assert!(exact.minute <= 1.0, "{exact:?}");
    assert!(exact.debt <= 0.0, "{exact:?}");
    assert!(exact.utilisation >= 0.85, "{exact:?}");

    let learned = run(&redis, Knowing::Learned, costs, seed).await;
    assert!(learned.minute <= 1.05, "{learned:?}");
    assert!(learned.utilisation >= 0.85, "{learned:?}");

    let nothing = run(&redis, Knowing::Nothing, costs, seed).await;
    assert_eq!(nothing.most_in_flight, CALLERS, "all of them");
    assert!(nothing.minute > 4.0, "{nothing:?}");
}

#[tokio::test]
async fn costs_that_are_spread_evenly() {
    compare(Costs::Even, 1).await;
}

#[tokio::test]
async fn costs_of_which_most_are_small() {
    compare(Costs::Skewed, 3).await;
}
