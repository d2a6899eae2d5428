//! 64 replicas on one limit: the bounds hold, and how much of the limit is used.
//!
//! `docs/design/leases.md` has the figures that this prints.

use std::time::Duration;

use fastrand::Rng;
use tollgate::limit::{Algorithm, LeaseTerms, Limit, Oversize, Rate, WhenOver, ZeroCost};

use super::world::{Act, MILLISECOND, SECOND, Setting, World};

const REPLICAS: usize = 64;
const REPLICAS_U64: u64 = 64;

/// A minute's worth, 1,000 a second.
const BURST: u64 = 60_000;

/// How replicas are asked.
#[derive(Clone, Copy, Debug)]
enum Load {
    /// Each as often as any other.
    Even,
    /// The second half as often as the first, and so on.
    Skewed,
    /// For some seconds many, then nobody, each replica by itself.
    Bursts,
}

struct Fleet {
    rng: Rng,
    load: Load,
    /// Asked of all replicas together in a second.
    rate: u64,
    crashes: bool,
}

impl Fleet {
    fn replica(&mut self, at: u64) -> Option<usize> {
        let replica = self.rng.usize(..REPLICAS);
        match self.load {
            Load::Even => Some(replica),
            Load::Skewed => {
                let mut most = REPLICAS;
                while most > 1 && self.rng.bool() {
                    most /= 2;
                }
                Some(self.rng.usize(..most))
            }
            Load::Bursts => {
                // Busy for three seconds of eight, at times of its own.
                let phase = at / SECOND + (replica as u64 * 5) % 8;
                (phase % 8 < 3).then_some(replica)
            }
        }
    }

    fn run(&mut self, name: &str, seconds: u64) -> World {
        let setting = Setting {
            limit: Limit {
                algorithm: Algorithm::TokenBucket,
                rate: Rate::new(BURST, Duration::from_mins(1)).unwrap(),
                burst: BURST,
                when_over: WhenOver::Refuse,
                oversize: Oversize::Refuse,
                zero_cost: ZeroCost::NeedsRoom,
            },
            terms: LeaseTerms {
                max: BURST / 100,
                ttl: LeaseTerms::DEFAULT_TTL,
            },
            replicas: REPLICAS,
            start: 1_700_006_400 * SECOND,
            slow: 1000,
            lost: 10_000,
        };
        let mut world = World::new(setting.clone(), self.rng.u64(..));
        let mut crashes = 0;
        for step in 0..seconds * 100 {
            let now = step * 10 * MILLISECOND;
            for _ in 0..self.rng.u64(..=2 * self.rate / 100) {
                let at = now + self.rng.u64(..10 * MILLISECOND);
                if let Some(replica) = self.replica(at) {
                    world.act(at, Act::Ask(replica, 1));
                }
            }
            if self.crashes && step % 500 == 250 {
                crashes += 1;
                world.act(now, Act::Crash(self.rng.usize(..REPLICAS)));
            }
            world.run(now);
        }
        let figures = world.figures;
        let allowed = BURST + BURST / 60 * seconds;
        let used = share(figures.admitted, allowed.min(figures.asked));
        println!(
            "{name}: asked {}, let in {} ({used:.1} % of what could be), over by {}; \
             {:.1} % without a call, {:.2} messages a decision; held at most {}, stranded at most \
             {}; taken {}, given back {}, dropped {}, crashed {crashes} with {}, lost {}",
            figures.asked,
            figures.admitted,
            figures.most_over,
            share(figures.granted_here, figures.admitted),
            share(figures.messages, figures.asks) / 100.0,
            figures.most_held,
            figures.most_stranded,
            figures.taken,
            figures.given_back,
            figures.dropped,
            figures.crashed,
            figures.lost,
        );
        assert_eq!(figures.most_over, 0);
        let most = REPLICAS_U64 * setting.terms.max;
        assert!(figures.most_held <= most, "{figures:?}");
        // With all that was dropped, crashed or went astray, and has not refilled yet.
        assert!(figures.most_stranded <= most, "{figures:?}");
        world
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn share(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole as f64
}

#[test]
fn sixty_four_replicas_keep_every_bound() {
    let loads = [
        ("even, four fifths of the limit", Load::Even, 800, false),
        ("even, twice the limit", Load::Even, 2000, false),
        ("skewed, twice the limit", Load::Skewed, 2000, false),
        ("bursts, twice the limit", Load::Bursts, 5333, false),
        ("bursts, twice the limit, crashes", Load::Bursts, 5333, true),
        ("bursts, a half of the limit", Load::Bursts, 1333, false),
    ];
    for (seed, (name, load, rate, crashes)) in (1..).zip(loads) {
        let mut fleet = Fleet {
            rng: Rng::with_seed(seed),
            load,
            rate,
            crashes,
        };
        let world = fleet.run(name, 90);
        let figures = world.figures;
        let allowed = (BURST + BURST / 60 * 90).min(figures.asked);
        // Who asks all of a sudden and then no more leaves leases that are dropped.
        let least = if matches!(load, Load::Bursts) { 85 } else { 99 };
        assert!(
            figures.admitted * 100 >= allowed * least,
            "{name}: {figures:?}"
        );
    }
}
