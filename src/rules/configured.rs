//! A limit with everything that the configuration says about it.

use std::sync::Arc;
use std::time::Duration;

use crate::limit::{
    Algorithm, Effect, Formula, LeaseTerms, Limit, MissingUsage, Oversize, Rate, Timestamp,
    WhenOver, ZeroCost,
};

use super::{Budget, CALENDAR_MONTH, Calendar, CalendarWindows, Estimate, Identity, Stating};

/// The place of a limit among all limits of its domain: dense, for tables beside the rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LimitIndex(pub usize);

/// One limit of a rule.
#[derive(Clone, Debug)]
pub struct ConfiguredLimit {
    /// Its place in the domain's tables.
    pub index: LimitIndex,
    /// The name as written; empty where a `rate_limit:` has none. What `replaces` names, and what
    /// goes to Envoy as `current_limit.name`.
    pub name: Arc<str>,
    /// The name in metrics and logs: [`Self::name`], or the rule's path where that is empty.
    pub label: Arc<str>,
    /// What its buckets are keyed by, beside the entries.
    pub identity: Identity,
    /// The numbers, or none. Of windows that go by a calendar, [`Self::terms_at`] has them.
    pub terms: Terms,
    /// The calendar that its windows go by; `None`: they are multiples of its period.
    pub calendar: Option<Box<Calendar>>,
    /// What is watched of its use; `None`: nothing.
    pub budget: Option<Box<Budget>>,
    /// What is counted.
    pub formula: Formula,
    /// What the tokens are taken to be that nobody stated.
    pub estimate: Estimate,
    /// How what the caller stated is taken.
    pub stating: Stating,
    /// What happens when it is over: refuse, tell, or vote.
    pub effect: Effect,
    /// The names of limits that do not apply where this one does.
    pub replaces: Vec<String>,
    /// What to answer when the store cannot.
    pub on_store_error: OnStoreError,
    /// What becomes of an estimate without a usage report.
    pub missing_usage: MissingUsage,
    /// What has to stay free, by priority class. A class that is not listed needs nothing.
    pub headroom: Vec<(String, u64)>,
    /// What a replica may take of a bucket in advance; `None`: nothing.
    pub lease: Option<LeaseTerms>,
    /// The preset or tier that it comes from; `None`: it was written out. Only for people.
    pub origin: Option<Arc<Origin>>,
}

/// Where a limit comes from that was not written out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// As in `preset openai/tier-1/gpt-4o`.
    pub from: String,
    /// Where its figures come from.
    pub source: Option<String>,
    /// The keys that were given where it is used.
    pub overridden: Vec<String>,
}

/// What a limit allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Terms {
    /// So much.
    Limited(Limit),
    /// Everything; never counted.
    Unlimited,
}

/// What to answer when the store cannot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnStoreError {
    /// The request passes.
    #[default]
    Allow,
    /// The request is refused.
    Deny,
}

impl ConfiguredLimit {
    /// Whether `other` says the same, whatever its place.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let Self {
            index: _,
            name,
            label,
            identity,
            terms,
            calendar,
            budget,
            formula,
            estimate,
            stating,
            effect,
            replaces,
            on_store_error,
            missing_usage,
            headroom,
            lease,
            origin,
        } = self;
        *identity == other.identity
            && *terms == other.terms
            && *label == other.label
            && *name == other.name
            && *calendar == other.calendar
            && *budget == other.budget
            && *formula == other.formula
            && *estimate == other.estimate
            && *stating == other.stating
            && *effect == other.effect
            && *replaces == other.replaces
            && *on_store_error == other.on_store_error
            && *missing_usage == other.missing_usage
            && *headroom == other.headroom
            && *lease == other.lease
            && *origin == other.origin
    }

    /// What has to stay free for a request of this class.
    pub fn headroom(&self, class: Option<&str>) -> u64 {
        let Some(class) = class else { return 0 };
        self.headroom
            .iter()
            .find(|(name, _)| name == class)
            .map_or(0, |(_, amount)| *amount)
    }

    /// The numbers at `now`, with the window that is under way where a calendar says which.
    pub fn terms_at(&self, now: Timestamp) -> Terms {
        let span = self
            .calendar
            .as_ref()
            .and_then(|calendar| calendar.span(now));
        match (self.terms, span) {
            (Terms::Limited(terms), Some(span)) => Terms::Limited(Limit {
                algorithm: Algorithm::CalendarWindow(span),
                ..terms
            }),
            (terms, _) => terms,
        }
    }

    /// The identity of a limit: domain, name and algorithm. Not its rule, so that a tenant that
    /// gets a rule of its own keeps its buckets; the entries tell rules apart.
    ///
    /// With a calendar, its zone and the length of its windows too: a bucket that was held to
    /// another calendar's windows would end at the boundaries of both.
    pub fn identity_of(
        domain: &str,
        label: &str,
        algorithm: Algorithm,
        calendar: Option<&Calendar>,
    ) -> Identity {
        let Some(calendar) = calendar else {
            let algorithm = match algorithm {
                Algorithm::CalendarWindow(_) | Algorithm::FixedWindow => "fixed_window",
                Algorithm::TokenBucket => "token_bucket",
            };
            return Identity::of(&["limit", domain, label, algorithm]);
        };
        let windows = match calendar.windows() {
            CalendarWindows::Days(days) => format!("{days}d"),
            CalendarWindows::Months => CALENDAR_MONTH.to_owned(),
        };
        let zone = calendar.zone_name();
        Identity::of(&["limit", domain, label, "calendar_window", &windows, zone])
    }
}

/// The units of the rate-limit API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the units are what they are called")]
pub enum Unit {
    Second,
    Minute,
    Hour,
    Day,
    Week,
    /// 30 days, as in envoyproxy/ratelimit.
    Month,
    /// 365 days, as in envoyproxy/ratelimit.
    Year,
}

impl Unit {
    /// All units, shortest first.
    pub const ALL: [Self; 7] = [
        Self::Second,
        Self::Minute,
        Self::Hour,
        Self::Day,
        Self::Week,
        Self::Month,
        Self::Year,
    ];

    /// The name in configuration, singular and in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }

    /// The unit of that name, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|unit| unit.name().eq_ignore_ascii_case(name))
    }

    /// How long it is.
    pub const fn period(self) -> Duration {
        match self {
            Self::Second => Duration::from_secs(1),
            Self::Minute => Duration::from_mins(1),
            Self::Hour => Duration::from_hours(1),
            Self::Day => Duration::from_hours(24),
            Self::Week => Duration::from_hours(7 * 24),
            Self::Month => Duration::from_hours(30 * 24),
            Self::Year => Duration::from_hours(365 * 24),
        }
    }
}

/// A limit that the request itself brought (`descriptor.limit`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Override {
    /// How much.
    pub requests_per_unit: u32,
    /// Per how long.
    pub unit: Unit,
}

impl Override {
    /// The limit it stands for: a fixed window as under `rate_limit:`. Its identity has the unit
    /// and not the amount, so that a caller whose amount changes keeps its bucket.
    pub fn limit(self, domain: &str) -> ConfiguredLimit {
        let amount = u64::from(self.requests_per_unit);
        ConfiguredLimit {
            index: LimitIndex::default(),
            name: "".into(),
            label: "override".into(),
            identity: Identity::of(&["override", domain, self.unit.name()]),
            terms: Rate::new(amount, self.unit.period()).map_or(Terms::Unlimited, |rate| {
                Terms::Limited(rate_limit_terms(rate))
            }),
            calendar: None,
            budget: None,
            formula: Formula::HITS,
            estimate: Estimate::None,
            stating: Stating::default(),
            effect: Effect::Enforce,
            replaces: Vec::new(),
            on_store_error: OnStoreError::default(),
            missing_usage: MissingUsage::default(),
            headroom: Vec::new(),
            lease: None,
            origin: None,
        }
    }
}

/// The numbers of a `rate_limit:`, as envoyproxy/ratelimit means them.
pub(crate) fn rate_limit_terms(rate: Rate) -> Limit {
    Limit {
        algorithm: Algorithm::FixedWindow,
        rate,
        burst: rate.amount(),
        when_over: WhenOver::Charge,
        oversize: Oversize::Refuse,
        zero_cost: ZeroCost::PassesAtZero,
    }
}
