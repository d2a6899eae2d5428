//! Sends requests, as fast as answers come or by a schedule.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::connection::{Connection, Ended, Lost};
use super::headers::Blocks;
use super::{LoadError, Measured, Messages, Target, Verdict};
use crate::clock;

/// Far above any latency that is not a hang.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long it takes at most until a wish to stop is seen.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A request that goes out this much after its time is told.
const LATE: Duration = Duration::from_millis(1);

/// Between looks for answers, when they are gathered.
const LEAST_PAUSE: Duration = Duration::from_micros(20);
const MOST_PAUSE: Duration = Duration::from_millis(5);

/// What is asked, and what answers mean.
pub trait Traffic {
    /// The number of the message to send next.
    fn next(&mut self) -> usize;

    /// What the answer to a message says. An error ends the run.
    fn judge(&mut self, message: usize, answer: &[u8]) -> Result<Verdict, String>;
}

/// How fast requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// A closed loop: each request when one before it has been answered.
    Closed,
    /// The same, but answers are looked for only when about half of them should be there, and no
    /// answer wakes us. Requests go out many at a time, as they come to a service that is busy.
    /// Waking and being woken, which costs either side more than the request does on some machines,
    /// is left out of the figures; latencies get longer.
    Gathered,
    /// An open loop: so many in a second, at equal distances, whether answers come or not. Latency
    /// counts from when a request was to be sent, so that a service that makes us wait is not
    /// spared the waiting of those who come meanwhile.
    Open(f64),
}

/// How long a run lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Requests are sent for so long.
    After(Duration),
    /// So many are sent.
    Requests(u64),
}

/// Where others look at a run, and end it.
#[derive(Debug, Default)]
pub struct Watch {
    stop: AtomicBool,
    answers: AtomicU64,
    failures: AtomicU64,
}

impl Watch {
    /// Sends nothing more; the run ends when what is under way has been answered.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Answers and failures so far.
    pub fn progress(&self) -> (u64, u64) {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (count(&self.answers), count(&self.failures))
    }
}

/// Connections to a service, and how many requests may be under way on them. Everything happens in
/// the thread that runs it.
#[derive(Debug)]
pub struct Generator {
    target: Target,
    connections: Vec<Connection>,
    slots: Vec<usize>,
    blocks: Blocks,
}

impl Generator {
    /// Connects. Requests in flight are spread evenly; each connection has one at least.
    pub fn connect(
        target: &Target,
        connections: usize,
        in_flight: usize,
    ) -> Result<Self, LoadError> {
        let mut generator = Self {
            target: target.clone(),
            connections: Vec::new(),
            slots: Vec::new(),
            blocks: Blocks::default(),
        };
        let connections = connections.max(1);
        for number in 0..connections {
            generator.connections.push(Connection::open(target)?);
            let more = usize::from(number < in_flight % connections);
            generator
                .slots
                .push((in_flight / connections + more).max(1));
        }
        Ok(generator)
    }

    /// Runs until the end, and until everything sent has been answered. It blocks its thread.
    ///
    /// What was measured until an error is told, too.
    pub fn run(
        &mut self,
        messages: &Messages,
        traffic: &mut impl Traffic,
        pace: Pace,
        end: End,
        watch: &Watch,
    ) -> (Measured, Result<(), LoadError>) {
        if pace != Pace::Closed {
            sleep_exactly();
        }
        let mut schedule = Schedule::new(pace, end, clock::instant());
        let mut measured = Measured::default();
        let result = self.run_to_end(messages, traffic, &mut schedule, &mut measured, watch);
        measured.elapsed = clock::instant().duration_since(schedule.start);
        (measured, result)
    }

    fn run_to_end(
        &mut self,
        messages: &Messages,
        traffic: &mut impl Traffic,
        schedule: &mut Schedule,
        measured: &mut Measured,
        watch: &Watch,
    ) -> Result<(), LoadError> {
        let mut ready = Vec::new();
        loop {
            let now = clock::instant();
            let sending = !watch.stop.load(Ordering::Relaxed) && schedule.goes_on(now);
            if sending {
                self.send_due(messages, traffic, schedule, measured, now);
            }
            for number in 0..self.connections.len() {
                if self.connections[number].has_output() {
                    let flushed = self.connections[number].flush();
                    self.renew(number, flushed, measured)?;
                }
            }
            let in_flight: usize = self.connections.iter().map(Connection::in_flight).sum();
            if !sending {
                let over = *schedule.ended_at.get_or_insert(now);
                if in_flight == 0 || now.duration_since(over) > ANSWER_WITHIN {
                    measured.unanswered = u64::try_from(in_flight).unwrap_or(u64::MAX);
                    measured.unsent = schedule.unsent(over);
                    return Ok(());
                }
            }
            if schedule.gathers() {
                thread::sleep(schedule.pause);
                ready.clear();
                ready.resize(self.connections.len(), true);
            } else {
                self.wait(schedule.until_next(now), &mut ready)?;
            }
            for (number, _) in ready.iter().enumerate().filter(|(_, ready)| **ready) {
                self.receive(number, traffic, measured)?;
            }
            let left: usize = self.connections.iter().map(Connection::in_flight).sum();
            schedule.gathered(in_flight, left);
            watch.answers.store(measured.answers(), Ordering::Relaxed);
            watch.failures.store(measured.failures(), Ordering::Relaxed);
        }
    }

    /// Puts into buffers what is to be sent by now.
    fn send_due(
        &mut self,
        messages: &Messages,
        traffic: &mut impl Traffic,
        schedule: &mut Schedule,
        measured: &mut Measured,
        now: Instant,
    ) {
        let mut full = 0;
        while full < self.connections.len()
            && let Some(due) = schedule.due(now)
        {
            let message = match schedule.waiting {
                Some(message) => message,
                None => traffic.next(),
            };
            schedule.waiting = Some(message);
            let frame = messages.frame(message);
            let number = schedule.connection % self.connections.len();
            let connection = &mut self.connections[number];
            if connection.in_flight() < self.slots[number] && connection.has_room(frame) {
                connection.begin(message, frame, due);
                schedule.sent(now, measured);
                full = 0;
                if !matches!(schedule.pace, Pace::Open(_)) {
                    // Fill this one up before the next.
                    continue;
                }
            } else {
                full += 1;
            }
            schedule.connection = number + 1;
        }
        schedule.full = full == self.connections.len();
        if schedule.full && schedule.due(now).is_some() {
            schedule.held_up = true;
        }
    }

    /// Waits for something to happen, and tells which connections it happened to.
    fn wait(&self, most: Duration, ready: &mut Vec<bool>) -> Result<(), LoadError> {
        let mut waiting: Vec<PollFd<'_>> = self
            .connections
            .iter()
            .map(|connection| {
                let wanted = if connection.has_output() {
                    PollFlags::IN | PollFlags::OUT
                } else {
                    PollFlags::IN
                };
                PollFd::new(connection.stream(), wanted)
            })
            .collect();
        let most = Timespec::try_from(most.min(LOOK_EVERY)).ok();
        match poll(&mut waiting, most.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(LoadError::Wait(error.into())),
        }
        ready.clear();
        let writable_only = PollFlags::OUT;
        ready.extend(
            waiting
                .iter()
                .map(|waited| !writable_only.contains(waited.revents())),
        );
        Ok(())
    }

    fn receive(
        &mut self,
        number: usize,
        traffic: &mut impl Traffic,
        measured: &mut Measured,
    ) -> Result<(), LoadError> {
        let now = clock::instant();
        let received = self.connections[number].receive(&mut self.blocks, &mut |ended| {
            record(&ended, now, traffic, measured)
        });
        self.renew(number, received, measured)
    }

    /// Replaces a connection that is of no more use.
    fn renew(
        &mut self,
        number: usize,
        result: Result<(), Lost>,
        measured: &mut Measured,
    ) -> Result<(), LoadError> {
        let connection = &mut self.connections[number];
        match result {
            Ok(()) if connection.is_spent() => {}
            Ok(()) => return Ok(()),
            Err(Lost::Load(error)) => return Err(error),
            Err(lost @ Lost::Connection(_)) => {
                let now = clock::instant();
                connection.fail_all(&lost.to_string(), &mut |ended| {
                    if let Err((code, message)) = ended.answer {
                        measured.failed(code, message, now.duration_since(ended.sent));
                    }
                    Ok(())
                })?;
            }
        }
        connection.close();
        *connection = Connection::open(&self.target)?;
        Ok(())
    }
}

fn record(
    ended: &Ended<'_>,
    now: Instant,
    traffic: &mut impl Traffic,
    measured: &mut Measured,
) -> Result<(), LoadError> {
    let latency = now.saturating_duration_since(ended.sent);
    match ended.answer {
        Ok(answer) => {
            let verdict = traffic
                .judge(ended.message, answer)
                .map_err(LoadError::WrongAnswer)?;
            measured.answered(verdict, latency);
        }
        Err((code, message)) => measured.failed(code, message, latency),
    }
    Ok(())
}

/// Who is to be sent when.
#[derive(Debug)]
struct Schedule {
    pace: Pace,
    end: End,
    start: Instant,
    sent: u64,
    /// The connection to try first.
    connection: usize,
    /// A message that found no room.
    waiting: Option<usize>,
    full: bool,
    /// The next request has found no room at its time.
    held_up: bool,
    ended_at: Option<Instant>,
    /// Between two looks, if answers are gathered.
    pause: Duration,
}

impl Schedule {
    fn new(pace: Pace, end: End, start: Instant) -> Self {
        Self {
            pace,
            end,
            start,
            sent: 0,
            connection: 0,
            waiting: None,
            full: false,
            held_up: false,
            ended_at: None,
            pause: LEAST_PAUSE,
        }
    }

    fn gathers(&self) -> bool {
        self.pace == Pace::Gathered
    }

    /// Learns from how many were under way before a pause, and are still.
    fn gathered(&mut self, before: usize, left: usize) {
        let sixteenths = if left * 2 > before { 17 } else { 15 };
        self.pause = (self.pause * sixteenths / 16).clamp(LEAST_PAUSE, MOST_PAUSE);
    }

    fn goes_on(&self, now: Instant) -> bool {
        match self.end {
            End::After(length) => now.saturating_duration_since(self.start) < length,
            End::Requests(count) => self.sent < count,
        }
    }

    /// When the next request is to be sent, if its time has come.
    fn due(&self, now: Instant) -> Option<Instant> {
        if !self.goes_on(now) {
            return None;
        }
        match self.pace {
            Pace::Closed | Pace::Gathered => Some(now),
            Pace::Open(rate) => Some(self.time_of(self.sent, rate)).filter(|due| *due <= now),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "requests are far below 2^53")]
    fn time_of(&self, number: u64, rate: f64) -> Instant {
        self.start + Duration::from_secs_f64(number as f64 / rate)
    }

    fn sent(&mut self, now: Instant, measured: &mut Measured) {
        if let Pace::Open(rate) = self.pace {
            let due = self.time_of(self.sent, rate);
            measured.late += u64::from(now.saturating_duration_since(due) > LATE);
            measured.without_slot += u64::from(self.held_up);
        }
        self.held_up = false;
        self.waiting = None;
        self.sent += 1;
    }

    /// How long nothing is to be sent.
    fn until_next(&self, now: Instant) -> Duration {
        match self.pace {
            Pace::Open(rate) if !self.full && self.ended_at.is_none() => {
                self.time_of(self.sent, rate).saturating_duration_since(now)
            }
            _ => LOOK_EVERY,
        }
    }

    /// How many were to be sent until then, and were not.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "requests are far below 2^53, and not negative"
    )]
    fn unsent(&self, end: Instant) -> u64 {
        match self.pace {
            Pace::Closed | Pace::Gathered => 0,
            Pace::Open(rate) => {
                let planned = match self.end {
                    End::Requests(count) => count,
                    End::After(length) => (length.as_secs_f64() * rate).ceil() as u64,
                };
                let by_now = (end.duration_since(self.start).as_secs_f64() * rate).ceil() as u64;
                planned.min(by_now).saturating_sub(self.sent)
            }
        }
    }
}

/// Linux lets a thread oversleep by 50 µs, unless it asks for better.
#[cfg(target_os = "linux")]
fn sleep_exactly() {
    // If it may not, it sends a little later, and that is told as latency.
    rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1)).unwrap_or_default();
}

#[cfg(not(target_os = "linux"))]
fn sleep_exactly() {}
