//! What a domain says, in words: for checks, for people, for tests.

use std::fmt::{self, Display, Write as _};
use std::time::Duration;

use crate::limit::{
    Algorithm, Effect, Formula, Measure, MissingUsage, Oversize, Rate, WEIGHT_ONE, Weight, WhenOver,
};
use crate::rules::{
    BytesPerToken, CALENDAR_MONTH, CalendarWindows, ConfiguredLimit, Domain, Estimate, LearnBy,
    OnStoreError, ReserveOutput, Terms, Unit,
};

/// One line: how much there is.
pub fn summary(domain: &Domain) -> String {
    let (mut rules, mut limits) = (0_usize, 0_usize);
    domain.for_each_rule(|rule| {
        rules += 1;
        limits += rule.limits.len();
    });
    let plural = |count: usize, what: &str| match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    };
    format!(
        "domain '{}': {}, {}",
        domain.name,
        plural(rules, "rule"),
        plural(limits, "limit")
    )
}

/// Every rule and its limits, a line each, sorted by path.
pub fn outline(domain: &Domain) -> String {
    let mut rules = Vec::new();
    domain.for_each_rule(|rule| rules.push(rule));
    rules.sort_by(|a, b| a.path.cmp(&b.path));
    let mut text = format!("{}; {}\n", summary(domain), answer(domain));
    for rule in rules {
        text.push_str(&rule.path);
        if rule.shared_value.is_some() {
            text.push_str(" (one bucket for all)");
        }
        text.push('\n');
        for limit in &rule.limits {
            line(&mut text, format_args!("  {}", Described(limit)));
        }
    }
    text
}

fn answer(domain: &Domain) -> String {
    let headers = domain.answer.headers.iter().filter_map(|style| {
        let known = crate::rules::HeaderStyle::NAMES.into_iter();
        known
            .clone()
            .find(|(_, known)| known == style)
            .map(|(name, _)| name)
    });
    let headers: Vec<&str> = headers.collect();
    let body = crate::rules::BodyStyle::NAMES
        .into_iter()
        .find(|(_, known)| *known == domain.answer.body)
        .map_or("none", |(name, _)| name);
    let headers = if headers.is_empty() {
        "none".to_owned()
    } else {
        headers.join(", ")
    };
    format!("headers: {headers}; body: {body}")
}

/// A limit in one line.
#[derive(Debug)]
pub(super) struct Described<'l>(pub(super) &'l ConfiguredLimit);

impl Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = self.0;
        write!(f, "{}: ", limit.label)?;
        match limit.terms {
            Terms::Unlimited => f.write_str("unlimited")?,
            Terms::Limited(terms) => {
                match &limit.calendar {
                    Some(calendar) if calendar.windows() == CalendarWindows::Months => {
                        write!(f, "{}/{CALENDAR_MONTH}, ", terms.rate.amount())?;
                    }
                    _ => write!(f, "{}, ", RateText(terms.rate))?,
                }
                match terms.algorithm {
                    Algorithm::CalendarWindow(_) | Algorithm::FixedWindow => {
                        f.write_str("fixed_window")?;
                    }
                    Algorithm::TokenBucket => write!(f, "token_bucket, burst {}", terms.burst)?,
                }
                if let Some(calendar) = &limit.calendar {
                    write!(f, ", timezone {}", calendar.zone_name())?;
                }
                write!(f, ", cost: {}", FormulaText(limit.formula))?;
                admission(limit, f)?;
                f.write_str(match terms.when_over {
                    WhenOver::Charge => ", charged when over",
                    WhenOver::Refuse => "",
                })?;
                f.write_str(match terms.oversize {
                    Oversize::Refuse => "",
                    Oversize::WhenFull => ", oversize when full",
                })?;
            }
        }
        f.write_str(match limit.effect {
            Effect::Enforce | Effect::Record => "",
            Effect::Quota => ", quota_mode",
            Effect::Shadow => ", shadow_mode",
        })?;
        f.write_str(match limit.on_store_error {
            OnStoreError::Allow => "",
            OnStoreError::Deny => ", denied without the store",
        })?;
        f.write_str(match limit.missing_usage {
            MissingUsage::Keep => "",
            MissingUsage::Release => ", released without usage",
        })?;
        alerts(limit, f)?;
        if let Some(terms) = &limit.lease {
            let ttl = super::lease::written(terms.ttl);
            write!(f, ", leases of up to {} for {ttl}", terms.max)?;
        }
        for (class, amount) in &limit.headroom {
            write!(f, ", keeps {amount} free of {class}")?;
        }
        if !limit.replaces.is_empty() {
            write!(f, ", replaces {}", limit.replaces.join(", "))?;
        }
        Ok(())
    }
}

/// What a request is taken to cost before its answer, where that is not the usual.
fn admission(limit: &ConfiguredLimit, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match &limit.estimate {
        Estimate::None => {}
        Estimate::Constant(estimate) => write!(f, ", estimate {estimate}")?,
        Estimate::Learned(learning) => {
            let quantile = u32::from(learning.quantile.thousandths());
            f.write_str(", estimate learned (p")?;
            decimal(quantile * (WEIGHT_ONE / 10), f)?;
            match &learning.by {
                LearnBy::Bucket => {}
                LearnBy::Entries(keys) if keys.is_empty() => f.write_str(" of all")?,
                LearnBy::Entries(keys) => write!(f, " by {}", keys.join(", "))?,
            }
            write!(f, ", {} at first)", learning.cold_start)?;
        }
    }
    if limit.formula.counts_output() {
        match limit.stating.reserve_output {
            ReserveOutput::AtCost => {}
            ReserveOutput::AtWeight(weight) => {
                f.write_str(", stated output reserved at ")?;
                decimal(weight.thousandths(), f)?;
            }
            ReserveOutput::Larger => {
                f.write_str(", the larger of stated prompt and output reserved")?;
            }
            ReserveOutput::Nothing => f.write_str(", stated output not reserved")?,
        }
    }
    let bytes = limit.stating.bytes_per_token;
    if limit.formula.counts_input() && bytes != BytesPerToken::default() {
        f.write_str(", ")?;
        decimal(bytes.thousandths(), f)?;
        f.write_str(" bytes per token")?;
    }
    Ok(())
}

/// The shares of a budget that are told, as in `0.7, 0.9 and 1`.
fn alerts(limit: &ConfiguredLimit, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Some(budget) = &limit.budget else {
        return Ok(());
    };
    let shares: Vec<String> = budget.alert_at.iter().map(ToString::to_string).collect();
    match shares.split_last() {
        Some((last, [])) => write!(f, ", alerts at {last}"),
        Some((last, before)) => write!(f, ", alerts at {} and {last}", before.join(", ")),
        None => Ok(()),
    }
}

/// A number given in thousandths.
fn decimal(thousandths: u32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (whole, part) = (thousandths / WEIGHT_ONE, thousandths % WEIGHT_ONE);
    write!(f, "{whole}")?;
    match format!("{part:03}").trim_end_matches('0') {
        "" => Ok(()),
        part => write!(f, ".{part}"),
    }
}

/// A rate as one would write it.
struct RateText(Rate);

impl Display for RateText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (amount, period) = (self.0.amount(), self.0.period());
        let unit = Unit::ALL.into_iter().find(|unit| unit.period() == period);
        match unit {
            Some(unit) => write!(f, "{amount}/{}", unit.name()),
            None if period.subsec_nanos() == 0 => write!(f, "{amount}/{}s", period.as_secs()),
            None => write!(f, "{amount}/{}ms", millis(period)),
        }
    }
}

fn millis(period: Duration) -> u128 {
    period.as_millis()
}

/// A formula by its built-in name, or in full.
struct FormulaText(Formula);

impl Display for FormulaText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let formula = self.0;
        if formula == Formula::REQUESTS {
            return f.write_str("requests");
        }
        if formula == Formula::HITS {
            return f.write_str("hits");
        }
        if formula == Formula::TOKENS {
            return f.write_str("tokens");
        }
        let tokens = Measure::TOKENS.into_iter().zip(formula.tokens);
        let calls = [
            (Measure::Requests, formula.requests),
            (Measure::Hits, formula.hits),
        ];
        let mut first = true;
        for (measure, weight) in calls.into_iter().chain(tokens) {
            if weight.thousandths() == 0 {
                continue;
            }
            if !first {
                f.write_str(" + ")?;
            }
            first = false;
            if weight != Weight::ONE {
                decimal(weight.thousandths(), f)?;
                f.write_str(" ")?;
            }
            f.write_str(measure.name())?;
        }
        Ok(())
    }
}

/// Adds a line; writing into a `String` does not fail.
pub(super) fn line(text: &mut String, line: fmt::Arguments<'_>) {
    if text.write_fmt(line).is_ok() {
        text.push('\n');
    }
}
