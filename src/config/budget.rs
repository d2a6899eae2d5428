//! `alert_at`: limits whose use is watched.

use crate::limit::{Algorithm, Limit};
use crate::rules::{Budget, Share};

use super::amount;
use super::error::{Complaint, Findings};
use super::read::Fields;

/// More shares than this tell nobody more.
const MOST_SHARES: usize = 8;

/// What `alert_at` says; the rule and the bucket are not set.
pub(super) fn read(
    fields: &Fields<'_, '_>,
    terms: &Limit,
    findings: &mut Findings<'_>,
) -> Option<Budget> {
    let node = fields.get("alert_at")?;
    if terms.algorithm == Algorithm::TokenBucket {
        if let Some(node) = fields.own("alert_at") {
            let idle = Complaint::new("'alert_at' means nothing for a token_bucket");
            let hint = "it refills all the time; a budget is a limit with algorithm: fixed_window";
            findings.error(node.at, idle.hint(hint));
        }
        return None;
    }
    let items = findings.list(node, "alert_at")?;
    if items.is_empty() || items.len() > MOST_SHARES {
        let count = items.len();
        let wrong = Complaint::new(format!("alert_at has {count} shares"));
        findings.error(
            node.at,
            wrong.hint(format!("write 1 to {MOST_SHARES}, as in [0.7, 0.9]")),
        );
        return None;
    }
    if terms.burst == 0 {
        findings.error(node.at, "nothing is a share of a limit of 0");
        return None;
    }
    let mut alert_at: Vec<Share> = Vec::new();
    for item in items {
        let text = findings.text(item, "a share of alert_at")?;
        let share = findings.take(item.at, amount::share_of_limit(text))?;
        if alert_at.last().is_some_and(|last| *last >= share) {
            let order = Complaint::new(format!(
                "the share {share} does not come after a smaller one"
            ));
            findings.error(
                item.at,
                order.hint("write the shares in ascending order, each once"),
            );
            return None;
        }
        alert_at.push(share);
    }
    Some(Budget {
        alert_at,
        rule: String::new(),
        bucket: None,
    })
}
