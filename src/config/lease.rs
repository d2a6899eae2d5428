//! `lease`: limits of which a replica may take a little in advance.
//!
//! Only what is known when a request is admitted can be granted without the store, and only where
//! nobody has to hear of every hit at once. Where a lease could never be used it is refused.

use std::time::Duration;

use crate::limit::{Effect, LeaseTerms, Limit, WhenOver};
use crate::rules::ConfiguredLimit;

use super::amount;
use super::error::{Complaint, Findings};
use super::read::Fields;
use super::words::Place;

/// A hundredth.
const DEFAULT_MAX: &str = "1%";

/// What `lease` says, for a `limit` of which all else has been read.
pub(super) fn read(
    fields: &Fields<'_, '_>,
    limit: &ConfiguredLimit,
    terms: &Limit,
    findings: &mut Findings<'_>,
) -> Option<LeaseTerms> {
    let node = fields.get("lease")?;
    if let Some(complaint) = useless(limit, terms) {
        findings.error(node.at, complaint);
        return None;
    }
    let lease = findings.fields(node, "lease", Place::Lease)?;
    let written = match lease.get("max") {
        Some(node) => findings.text(node, "max")?,
        None => DEFAULT_MAX,
    };
    let max = findings.take(lease.at("max"), amount::share(written, terms.burst))?;
    let most = terms.burst / LeaseTerms::LEAST_PARTS;
    if max > most {
        let much = Complaint::new(format!("the max {max} of a lease is more than {most}"));
        findings.error(
            lease.at("max"),
            much.hint("one replica may hold a tenth of the burst at most"),
        );
        return None;
    }
    if max < 2 {
        let little = Complaint::new(format!(
            "the max {max} of a lease saves nothing ({written} of the burst {})",
            terms.burst
        ));
        findings.error(
            lease.at("max"),
            little.hint("write 2 or more, or leave lease out"),
        );
        return None;
    }
    let ttl = match lease.get("ttl") {
        Some(node) => {
            let text = findings.text(node, "ttl")?;
            let ttl = findings.take(node.at, amount::period(text))?;
            let (shortest, longest) = LeaseTerms::TTLS;
            if ttl < shortest || ttl > longest {
                let wrong = Complaint::new(format!("the ttl '{text}' of a lease is out of range"));
                findings.error(node.at, wrong.hint("write 100ms to 1m"));
                return None;
            }
            ttl
        }
        None => LeaseTerms::DEFAULT_TTL,
    };
    Some(LeaseTerms { max, ttl })
}

/// Why no request could ever be let in by a lease.
fn useless(limit: &ConfiguredLimit, terms: &Limit) -> Option<Complaint> {
    let nothing = |what| Complaint::new(format!("'lease' means nothing {what}"));
    match limit.effect {
        Effect::Shadow => Some(nothing("in shadow_mode").hint("only what is enforced is leased")),
        Effect::Quota => Some(nothing("in quota_mode").hint("only what is enforced is leased")),
        Effect::Enforce | Effect::Record if terms.when_over == WhenOver::Charge => Some(
            nothing("with when_over: charge").hint("the store has to count what is refused, too"),
        ),
        Effect::Enforce | Effect::Record if limit.formula.counts_tokens() => Some(
            nothing("where tokens are counted")
                .hint("a report changes that cost; leases are for cost: requests and cost: hits"),
        ),
        Effect::Enforce | Effect::Record if limit.budget.is_some() => {
            Some(nothing("beside alert_at").hint("the store has to see every hit at once"))
        }
        Effect::Enforce | Effect::Record => None,
    }
}

/// A time as one would write it.
pub(super) fn written(ttl: Duration) -> String {
    if ttl.subsec_millis() == 0 {
        format!("{}s", ttl.as_secs())
    } else {
        format!("{}ms", ttl.as_millis())
    }
}
