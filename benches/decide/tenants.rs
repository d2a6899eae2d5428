//! Who asks, what each has been charged, and the proof of it.
//!
//! Limits are so large that nothing is refused, and so slow to refill that what is missing from a
//! bucket at the end is what was charged to it: every decision costs [`COST`], and a bucket gets
//! back less than half of that within any run. Or they hold one decision, and all others have to be
//! refused.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use prost::Message as _;
use tollgate::grpc::client::Question;
use tollgate::load::{Draw, End, Generator, Keys, Messages, Pace, Traffic, Verdict};

use crate::load::drive;
use crate::variant::{Kind, Limits, Shape};

/// Hits that every decision charges.
const COST: u32 = 100;
/// The capacity of every bucket that never gets empty.
const BURST: u32 = 4_000_000_000;
/// How many deployments tenants share, where they do.
const DEPLOYMENTS: usize = 10;
const DOMAIN: &str = "bench";

/// The configuration that requests of this shape meet.
///
/// A store that fails must refuse, and so end the run, rather than let requests pass uncounted.
pub(crate) fn config(shape: &Shape) -> Result<String> {
    let burst = if shape.kind == Kind::Refused {
        COST
    } else {
        BURST
    };
    let lease = if shape.kind == Kind::Leased {
        ", lease: { max: 1%, ttl: 2s }"
    } else {
        ""
    };
    let limit = |name: &str, cost: &str, rate: usize| {
        format!(
            "      - {{ name: {name}, rate: {rate}/year, burst: {burst}, cost: {cost}, \
             on_store_error: deny{lease} }}\n"
        )
    };
    let cost = if shape.kind == Kind::Reserved {
        "tokens"
    } else {
        "hits"
    };
    // Each rule has limits of its own: those that say the same would be one.
    let limits = |rule: usize| {
        let rate = 1000 + rule;
        let mut limits = limit("tokens", cost, rate);
        if shape.limits != Limits::One {
            limits += &limit("requests", "requests", rate);
        }
        if shape.limits == Limits::Six {
            for number in 2..4 {
                limits += &limit(&format!("tokens-{number}"), cost, rate);
                limits += &limit(&format!("requests-{number}"), "requests", rate);
            }
        }
        limits
    };
    let mut config = format!(
        "domain: {DOMAIN}\ndescriptors:\n  - key: tenant\n    limits:\n{}",
        limits(0)
    );
    if shape.limits == Limits::Four {
        write!(config, "  - key: deployment\n    limits:\n{}", limits(0))?;
    }
    for number in 0..shape.rules - 1 {
        write!(
            config,
            "  - key: tenant\n    value: t{number}\n    limits:\n{}",
            limits(number + 1)
        )?;
    }
    Ok(config)
}

/// What a right answer looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// OK and nothing else.
    Nothing,
    /// OK, with a status for each descriptor, of a limit from which something was taken.
    Charged,
    /// The same the first time, and a refusal from then on.
    Refused,
}

/// An answer, without what nobody looks at here. Cheaper by the texts that it does not copy.
#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    #[prost(int32, tag = "1")]
    overall_code: i32,
    #[prost(message, repeated, tag = "2")]
    statuses: Vec<Status>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(message, optional, tag = "2")]
    current_limit: Option<Limit>,
    #[prost(uint32, tag = "3")]
    limit_remaining: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Limit {}

const OK: i32 = 1;
const OVER_LIMIT: i32 = 2;

/// All tenants of one server.
#[derive(Debug)]
pub(crate) struct Tenants {
    /// A request for each.
    pub(crate) messages: Messages,
    /// The same, only to look: a descriptor's addend of zero charges nothing.
    looks: Messages,
    draw: Draw,
    expected: Expected,
    descriptors: usize,
    /// How many charges of a bucket the server may have taken in advance.
    leased: u32,
    /// How many answers each has got.
    answered: Vec<u32>,
    /// How many of them let pass.
    passed: Vec<u32>,
}

impl Tenants {
    /// Tenants whom nobody has answered yet.
    pub(crate) fn new(shape: &Shape, expected: Expected) -> Result<Self> {
        let mut messages = Messages::default();
        let mut looks = Messages::default();
        let descriptors = if shape.limits == Limits::Four { 2 } else { 1 };
        for number in 0..shape.keys {
            let entry = |key: &str, value: String| vec![(key.to_owned(), value)];
            let mut question = Question {
                domain: DOMAIN.to_owned(),
                descriptors: vec![entry("tenant", format!("t{number}"))],
                hits: None,
                request_hits: COST,
            };
            if shape.limits == Limits::Four {
                let deployment = format!("d{}", number % DEPLOYMENTS);
                question.descriptors.push(entry("deployment", deployment));
            }
            messages.push(&question.encode())?;
            question.hits = Some(0);
            looks.push(&question.encode())?;
        }
        Ok(Self {
            messages,
            looks,
            draw: Draw::new(Keys::Uniform(shape.keys), 1),
            expected,
            descriptors,
            leased: if shape.kind == Kind::Leased {
                BURST / 100 / COST
            } else {
                0
            },
            answered: vec![0; shape.keys],
            passed: vec![0; shape.keys],
        })
    }

    /// How many have been answered at least once.
    pub(crate) fn seen(&self) -> usize {
        self.answered.iter().filter(|count| **count > 0).count()
    }

    /// Drives a server, and checks every answer.
    pub(crate) fn drive(
        &mut self,
        generator: &mut Generator,
        pace: Pace,
        end: End,
    ) -> Result<tollgate::load::Measured> {
        let messages = std::mem::take(&mut self.messages);
        let measured = drive(generator, &messages, self, pace, end);
        self.messages = messages;
        measured
    }

    /// Looks into every bucket: each must lack one [`COST`] per answer that let pass.
    pub(crate) fn verify(&self, generator: &mut Generator) -> Result<()> {
        if self.expected == Expected::Nothing {
            return Ok(());
        }
        let mut look = Look {
            tenants: self,
            next: 0,
        };
        let count = End::Requests(self.answered.len().try_into()?);
        drive(generator, &self.looks, &mut look, Pace::Closed, count)?;
        ensure!(look.next == self.answered.len(), "not all were looked at");
        Ok(())
    }

    /// What each tenant's buckets have to lack: the tenant's own, and the deployment's.
    fn charged(&self, tenant: usize) -> Vec<u32> {
        let mut charged = vec![self.passed[tenant]];
        if self.descriptors > 1 {
            let deployment = self.passed.iter().skip(tenant % DEPLOYMENTS);
            charged.push(deployment.step_by(DEPLOYMENTS).sum());
        }
        charged
    }
}

impl Traffic for Tenants {
    fn next(&mut self) -> usize {
        self.draw.key()
    }

    fn judge(&mut self, tenant: usize, answer: &[u8]) -> Result<Verdict, String> {
        let answer = Answer::decode(answer).map_err(|error| error.to_string())?;
        let first = self.passed[tenant] == 0;
        let right = match self.expected {
            Expected::Nothing => answer.overall_code == OK && answer.statuses.is_empty(),
            Expected::Refused if answer.overall_code == OVER_LIMIT => {
                answer.statuses.len() == self.descriptors
            }
            Expected::Refused | Expected::Charged => {
                (first || self.expected == Expected::Charged)
                    && answer.overall_code == OK
                    && answer.statuses.len() == self.descriptors
                    && answer.statuses.iter().all(|status| {
                        status.code == OK
                            && status.current_limit.is_some()
                            && status.limit_remaining < BURST
                    })
            }
        };
        if !right {
            return Err(format!("{answer:?}"));
        }
        self.answered[tenant] += 1;
        if answer.overall_code == OVER_LIMIT {
            return Ok(Verdict::OverLimit);
        }
        self.passed[tenant] += 1;
        Ok(Verdict::Ok)
    }
}

/// One look at each tenant.
struct Look<'t> {
    tenants: &'t Tenants,
    next: usize,
}

impl Traffic for Look<'_> {
    fn next(&mut self) -> usize {
        self.next += 1;
        self.next - 1
    }

    fn judge(&mut self, tenant: usize, answer: &[u8]) -> Result<Verdict, String> {
        let answer = Answer::decode(answer).map_err(|error| error.to_string())?;
        if self.tenants.expected == Expected::Refused {
            // One decision fits. More did not pass, or an answer would have been wrong.
            let (passed, answered) = (self.tenants.passed[tenant], self.tenants.answered[tenant]);
            if passed != answered.min(1) {
                return Err(format!("{answered} answers, of which {passed} let pass"));
            }
            return Ok(Verdict::Ok);
        }
        let lacking: Vec<u32> = answer
            .statuses
            .iter()
            .filter(|status| status.current_limit.is_some())
            .map(|status| (BURST.saturating_sub(status.limit_remaining) + COST / 2) / COST)
            .collect();
        let charged = self.tenants.charged(tenant);
        let leased = self.tenants.leased;
        let right = lacking.len() == charged.len()
            && lacking.iter().zip(&charged).all(|(lacking, charged)| {
                (*charged..=charged.saturating_add(leased)).contains(lacking)
            });
        if !right {
            return Err(format!(
                "tenant {tenant}: {charged:?} answers but {lacking:?} charges"
            ));
        }
        Ok(Verdict::Ok)
    }
}
