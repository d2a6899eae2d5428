//! Replicas with leases on one bucket, in a world where every clock is an argument.
//!
//! The store is [`Bucket`] itself, the leases are [`Lease`] as the service uses it, and what lies
//! between them is messages that take their time, arrive in the order of their replica, and may get
//! lost. A seed always gives the same run. What was let in is held against an exact bucket of its
//! own, which knows nothing of leases. All of it is one piece: a part of a world shows nothing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use fastrand::Rng;
use tollgate::limit::{
    Algorithm, Bucket, Lease, LeaseTerms, Limit, Returned, Seen, Tick, Timestamp,
};

pub(super) const MILLISECOND: u64 = 1000;
pub(super) const SECOND: u64 = 1_000_000;

/// How often a replica looks for leases that ended.
const EXPIRING: u64 = 200 * MILLISECOND;

/// What a world is made of.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) limit: Limit,
    pub(super) terms: LeaseTerms,
    pub(super) replicas: usize,
    /// Where the store's clock begins.
    pub(super) start: u64,
    /// One message in so many takes up to 2.9 s; 0: none.
    pub(super) slow: u32,
    /// One message in so many gets lost, or its answer; 0: none.
    pub(super) lost: u32,
}

/// What happens to the world from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Act {
    /// A request for so much comes to a replica.
    Ask(usize, u64),
    /// A replica dies, and another takes its place.
    Crash(usize),
    /// A replica gives all back.
    Leave(usize),
    /// Something that was charged before is given back by somebody.
    Refund(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Act(Act),
    Arrives(Message),
    Answered(Message, Option<Answer>),
    Expire(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Message {
    replica: usize,
    /// Which of the processes that were this replica sent it.
    life: u32,
    sent: u64,
    ask: Ask,
    /// It does not arrive, or its answer does not.
    lost: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ask {
    Admit { amount: u64, again: bool },
    Renew(u64),
    Return(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Answer {
    at: u64,
    fits: bool,
    spent: u64,
    fraction: u64,
}

#[derive(Debug)]
struct Replica {
    lease: Lease,
    life: u32,
    /// Its clock is so much off, and so many parts in 4,096 faster.
    offset: u64,
    pace: i64,
    /// When its last message arrives.
    last_arrival: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Figures {
    pub(super) asked: u64,
    pub(super) asks: u64,
    pub(super) admitted: u64,
    pub(super) granted_here: u64,
    pub(super) decisions: u64,
    pub(super) messages: u64,
    pub(super) taken: u64,
    pub(super) given_back: u64,
    pub(super) dropped: u64,
    pub(super) crashed: u64,
    pub(super) lost: u64,
    /// The most that all replicas held at once.
    pub(super) most_held: u64,
    /// The most that lay in the bucket and was nobody's, or not used.
    pub(super) most_stranded: u64,
    /// The furthest that what was let in went above the limit, rounded up.
    pub(super) most_over: u64,
}

/// Replicas, a bucket, and what is under way between them.
#[derive(Debug)]
pub(super) struct World {
    setting: Setting,
    replicas: Vec<Replica>,
    bucket: Bucket,
    exact: Exact,
    rng: Rng,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    planned: u64,
    now: u64,
    pub(super) figures: Figures,
}

impl World {
    pub(super) fn new(setting: Setting, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let replicas = (0..setting.replicas)
            .map(|_| Replica {
                lease: Lease::new(setting.limit, setting.terms, Tick::default()),
                life: 0,
                offset: rng.u64(..1000 * SECOND),
                pace: rng.i64(-3..=3),
                last_arrival: 0,
            })
            .collect();
        let mut world = Self {
            exact: Exact::new(setting.limit),
            setting,
            replicas,
            bucket: Bucket::default(),
            rng,
            events: BinaryHeap::new(),
            planned: 0,
            now: 0,
            figures: Figures::default(),
        };
        for replica in 0..world.replicas.len() {
            world.plan(EXPIRING, Event::Expire(replica));
        }
        world
    }

    /// Has something happen, not before now.
    pub(super) fn act(&mut self, at: u64, act: Act) {
        self.plan(at, Event::Act(act));
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, until: u64) {
        while let Some(Reverse((at, _, _))) = self.events.peek()
            && *at <= until
        {
            let Some(Reverse((at, _, event))) = self.events.pop() else {
                break;
            };
            self.now = at;
            match event {
                Event::Act(act) => self.do_act(act),
                Event::Arrives(message) => self.arrives(message),
                Event::Answered(message, answer) => self.answered(message, answer),
                Event::Expire(replica) => {
                    let now = self.tick(replica);
                    let returned = self.replicas[replica].lease.expire(now);
                    self.returned(replica, returned);
                    self.plan(at + EXPIRING, Event::Expire(replica));
                }
            }
            self.look();
        }
        self.now = until;
    }

    /// What all hold that live.
    pub(super) fn held(&self) -> u64 {
        self.replicas
            .iter()
            .map(|replica| replica.lease.held())
            .sum()
    }

    /// What is spent now, for the store.
    pub(super) fn spent(&self) -> u64 {
        let mut bucket = self.bucket;
        bucket.refill(&self.setting.limit, self.store_now());
        bucket.spent
    }

    /// What is spent now by those that were let in.
    pub(super) fn used(&mut self) -> u64 {
        let now = self.store_now();
        self.exact.spent(now)
    }

    fn plan(&mut self, at: u64, event: Event) {
        self.planned += 1;
        let at = at.max(self.now);
        self.events.push(Reverse((at, self.planned, event)));
    }

    fn store_now(&self) -> Timestamp {
        Timestamp::from_micros(self.setting.start + self.now)
    }

    fn tick(&self, replica: usize) -> Tick {
        self.tick_at(replica, self.now)
    }

    fn tick_at(&self, replica: usize, at: u64) -> Tick {
        let replica = &self.replicas[replica];
        let drift = i64::try_from(at).unwrap() * replica.pace / 4096;
        Tick::from_micros((replica.offset + at).saturating_add_signed(drift))
    }

    fn do_act(&mut self, act: Act) {
        match act {
            Act::Ask(replica, amount) => {
                self.figures.asks += 1;
                self.figures.asked += amount;
                let now = self.tick(replica);
                let lease = &mut self.replicas[replica].lease;
                lease.ask(amount, now);
                if lease.grant(amount, now) {
                    let want = lease.wants(amount, now);
                    self.figures.granted_here += amount;
                    self.figures.decisions += 1;
                    self.admitted(amount);
                    self.renew(replica, want);
                } else {
                    self.send(
                        replica,
                        Ask::Admit {
                            amount,
                            again: false,
                        },
                    );
                }
            }
            Act::Crash(replica) => {
                let now = self.tick(replica);
                // Nobody gives it back.
                let gone = self.replicas[replica].lease.give_back(now);
                self.figures.crashed += gone.refund + gone.dropped;
                let fresh = Lease::new(self.setting.limit, self.setting.terms, now);
                let replica = &mut self.replicas[replica];
                replica.lease = fresh;
                replica.life += 1;
            }
            Act::Leave(replica) => {
                let now = self.tick(replica);
                let returned = self.replicas[replica].lease.give_back(now);
                self.returned(replica, returned);
            }
            Act::Refund(amount) => {
                let now = self.store_now();
                self.bucket.refill(&self.setting.limit, now);
                self.bucket.spend(-i64::try_from(amount).unwrap());
                self.exact.refund(amount, now);
            }
        }
    }

    fn admitted(&mut self, amount: u64) {
        self.figures.admitted += amount;
        let now = self.store_now();
        self.exact.admit(amount, now);
        self.figures.most_over = self.figures.most_over.max(self.exact.over());
    }

    fn renew(&mut self, replica: usize, want: Option<u64>) {
        if let Some(want) = want {
            self.send(replica, Ask::Renew(want));
        }
    }

    fn returned(&mut self, replica: usize, returned: Returned) {
        self.figures.dropped += returned.dropped;
        if returned.refund > 0 {
            self.send(replica, Ask::Return(returned.refund));
        }
    }

    fn one_in(&mut self, count: u32) -> bool {
        count > 0 && self.rng.u32(..count) == 0
    }

    fn send(&mut self, replica: usize, ask: Ask) {
        self.figures.messages += 1;
        let slow = self.setting.slow;
        let takes = if self.one_in(slow) {
            self.rng.u64(..2_900 * MILLISECOND)
        } else {
            self.rng.u64(50..5 * MILLISECOND)
        };
        let chance = self.setting.lost;
        let lost = self.one_in(chance).then(|| self.rng.bool());
        let sender = &mut self.replicas[replica];
        sender.last_arrival = sender.last_arrival.max(self.now + takes);
        let at = sender.last_arrival;
        let message = Message {
            replica,
            life: sender.life,
            sent: self.now,
            ask,
            lost,
        };
        // What takes longer than anybody waits for a connection does not arrive at all.
        if at < self.now + 2_900 * MILLISECOND {
            self.plan(at, Event::Arrives(message));
        } else {
            self.lose(message);
            self.plan(self.now + SECOND, Event::Answered(message, None));
        }
    }

    fn arrives(&mut self, message: Message) {
        if message.lost == Some(true) {
            self.lose(message);
            self.plan(self.now + SECOND, Event::Answered(message, None));
            return;
        }
        let now = self.store_now();
        let limit = self.setting.limit;
        self.bucket.refill(&limit, now);
        let (amount, threshold) = match message.ask {
            Ask::Admit { amount, .. } => (amount.cast_signed(), limit.burst.checked_sub(amount)),
            Ask::Renew(want) => {
                let lease = &self.replicas[message.replica].lease;
                (want.cast_signed(), lease.renewal(want).threshold)
            }
            Ask::Return(amount) => (-amount.cast_signed(), Some(u64::MAX)),
        };
        let fits = threshold.is_some_and(|threshold| self.bucket.spent <= threshold);
        if fits {
            self.bucket.spend(amount);
        }
        match message.ask {
            Ask::Admit { amount, .. } if fits => self.admitted(amount),
            Ask::Renew(want) if fits => self.figures.taken += want,
            Ask::Admit { .. } | Ask::Renew(_) => {}
            Ask::Return(amount) => {
                self.figures.given_back += amount;
                return;
            }
        }
        let answer = Answer {
            at: now.as_micros(),
            fits,
            spent: self.bucket.spent,
            fraction: self.bucket.fraction,
        };
        let back = self.now + self.rng.u64(50..3 * MILLISECOND);
        if message.lost.is_some() {
            if let Ask::Renew(want) = message.ask
                && fits
            {
                self.figures.lost += want;
            }
            self.plan(back + SECOND, Event::Answered(message, None));
        } else {
            self.plan(back, Event::Answered(message, Some(answer)));
        }
    }

    /// What is given back and does not arrive is lost until it refills.
    fn lose(&mut self, message: Message) {
        if let Ask::Return(amount) = message.ask {
            self.figures.lost += amount;
        }
    }

    fn answered(&mut self, message: Message, answer: Option<Answer>) {
        let Message { replica, ask, .. } = message;
        if let (Ask::Admit { .. }, Some(_)) = (ask, answer) {
            self.figures.decisions += 1;
        }
        if self.replicas[replica].life != message.life {
            if let (Ask::Renew(want), Some(Answer { fits: true, .. })) = (ask, answer) {
                self.figures.crashed += want;
            }
            return;
        }
        let now = self.tick(replica);
        let sent = self.tick_at(replica, message.sent);
        let seen = answer.map(|answer| Seen {
            sent,
            now: Timestamp::from_micros(answer.at),
            spent: answer.spent,
            fraction: answer.fraction,
        });
        let fits = answer.is_some_and(|answer| answer.fits);
        let lease = &mut self.replicas[replica].lease;
        match (ask, seen) {
            (Ask::Admit { amount, again }, Some(seen)) => {
                lease.see(seen, if fits { amount } else { 0 });
                let want = lease.wants(amount, now);
                let returned = if fits {
                    Returned::default()
                } else {
                    lease.give_back_if_welcome(now)
                };
                self.renew(replica, want);
                self.returned(replica, returned);
                if returned.refund > 0 && !again {
                    self.figures.decisions -= 1;
                    self.send(
                        replica,
                        Ask::Admit {
                            amount,
                            again: true,
                        },
                    );
                }
            }
            (Ask::Renew(want), Some(seen)) if fits => lease.taken(want, seen),
            (Ask::Renew(_), seen) => lease.not_taken(seen, now),
            (Ask::Admit { .. } | Ask::Return(_), _) => {}
        }
    }

    fn look(&mut self) {
        let held = self.held();
        self.figures.most_held = self.figures.most_held.max(held);
        let stranded = self.spent().saturating_sub(self.used());
        self.figures.most_stranded = self.figures.most_stranded.max(stranded);
    }
}

/// A bucket that knows only what was let in, and when, in fractions that nobody rounds.
#[derive(Debug)]
struct Exact {
    limit: Limit,
    /// In parts of the rate's denominator.
    spent: i128,
    at: u64,
}

impl Exact {
    const fn new(limit: Limit) -> Self {
        Self {
            limit,
            spent: 0,
            at: 0,
        }
    }

    fn parts(&self, amount: u64) -> i128 {
        i128::from(amount) * i128::from(self.limit.rate.denominator())
    }

    fn pass(&mut self, now: Timestamp) {
        let at = now.as_micros();
        let elapsed = i128::from(at.saturating_sub(self.at));
        match self.limit.algorithm {
            Algorithm::TokenBucket => {
                let refilled = elapsed * i128::from(self.limit.rate.numerator());
                self.spent = (self.spent - refilled).max(0);
            }
            Algorithm::CalendarWindow(_) | Algorithm::FixedWindow => {
                let window = |at: u64| at / self.limit.rate.period_micros();
                if window(at) > window(self.at) {
                    self.spent = 0;
                }
            }
        }
        self.at = at;
    }

    fn admit(&mut self, amount: u64, now: Timestamp) {
        self.pass(now);
        self.spent += self.parts(amount);
    }

    fn refund(&mut self, amount: u64, now: Timestamp) {
        self.pass(now);
        self.spent = (self.spent - self.parts(amount)).max(0);
    }

    fn over(&self) -> u64 {
        let over = (self.spent - self.parts(self.limit.burst)).max(0);
        let denominator = i128::from(self.limit.rate.denominator());
        u64::try_from((over + denominator - 1) / denominator).unwrap()
    }

    fn spent(&mut self, now: Timestamp) -> u64 {
        self.pass(now);
        u64::try_from(self.spent / i128::from(self.limit.rate.denominator())).unwrap()
    }
}
