//! What a request is taken to cost before its answer: `estimate:`, how it is learned, and how what
//! the caller states is taken.

use crate::limit::{Formula, Limit, Oversize, Weight};
use crate::rules::{
    BytesPerToken, ConfiguredLimit, Estimate, LearnBy, Learning, Quantile, ReserveOutput, Stating,
};

use super::amount;
use super::error::{Complaint, Findings};
use super::read::{Fields, boolean};
use super::yaml::{Node, Value};

/// The keys that say something only where the estimate is learned.
const OF_LEARNING: [&str; 3] = ["cold_start", "learn_by", "learn_quantile"];
/// The cold start where none is written: a tenth of the burst, and at most so much. A tenth leaves
/// room for several calls at once before the first report; and a call is no larger because the
/// limit is.
const MOST_COLD_START: u64 = 2000;
/// Keys with this beginning are control entries.
const CONTROL: &str = "tollgate.";

/// What a limit, or `defaults:`, says about estimates.
#[derive(Debug, Default)]
pub(super) struct Estimates {
    mode: Option<Mode>,
    by: Option<LearnBy>,
    quantile: Option<Quantile>,
    cold_start: Option<u64>,
    bytes_per_token: Option<BytesPerToken>,
    reserve_output: Option<ReserveOutput>,
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    Constant(u64),
    Learned,
}

impl Estimates {
    pub(super) fn read(fields: &Fields<'_, '_>, findings: &mut Findings<'_>) -> Self {
        let amount = |node: &Node<'_>, what: &str, findings: &mut Findings<'_>| {
            let text = findings.text(node, what)?;
            findings.take(node.at, amount::amount(text))
        };
        Self {
            mode: fields.get("estimate").and_then(|node| {
                match findings.text(node, "estimate")? {
                    "learned" => Some(Mode::Learned),
                    _ => amount(node, "estimate", findings).map(Mode::Constant),
                }
            }),
            by: fields
                .get("learn_by")
                .and_then(|node| learn_by(node, findings)),
            quantile: fields.get("learn_quantile").and_then(|node| {
                let text = findings.text(node, "learn_quantile")?;
                findings.take(node.at, amount::quantile(text))
            }),
            cold_start: fields
                .get("cold_start")
                .and_then(|node| amount(node, "cold_start", findings)),
            bytes_per_token: fields.get("bytes_per_token").and_then(|node| {
                let text = findings.text(node, "bytes_per_token")?;
                findings.take(node.at, amount::bytes_per_token(text))
            }),
            reserve_output: fields
                .get("reserve_output")
                .and_then(|node| reserve_output(node, findings)),
        }
    }

    /// Sets what `limit`, whose cost is known, takes a request to cost.
    pub(super) fn apply(
        &self,
        defaults: &Self,
        limit: &mut ConfiguredLimit,
        terms: &Limit,
        fields: &Fields<'_, '_>,
        findings: &mut Findings<'_>,
    ) {
        refuse_idle(fields, limit.formula, findings);
        if !limit.formula.counts_tokens() {
            return;
        }
        let usual = Stating::default();
        limit.stating = Stating {
            bytes_per_token: self
                .bytes_per_token
                .or(defaults.bytes_per_token)
                .unwrap_or(usual.bytes_per_token),
            reserve_output: self
                .reserve_output
                .or(defaults.reserve_output)
                .unwrap_or(usual.reserve_output),
        };
        let mode = self.mode.or(defaults.mode);
        limit.estimate = match mode {
            None => Estimate::None,
            Some(Mode::Constant(amount)) => {
                check(fields, "estimate", amount, terms, findings);
                Estimate::Constant(amount)
            }
            Some(Mode::Learned) => {
                Estimate::Learned(Box::new(self.learning(defaults, terms, fields, findings)))
            }
        };
        if !matches!(mode, Some(Mode::Learned)) {
            for key in OF_LEARNING {
                if let Some(node) = fields.own(key) {
                    let idle = Complaint::new(format!("'{key}' means nothing here"));
                    findings.error(node.at, idle.hint("it goes with estimate: learned"));
                }
            }
        }
    }

    fn learning(
        &self,
        defaults: &Self,
        terms: &Limit,
        fields: &Fields<'_, '_>,
        findings: &mut Findings<'_>,
    ) -> Learning {
        let by = self.by.as_ref().or(defaults.by.as_ref());
        let quantile = self.quantile.or(defaults.quantile);
        let cold_start = self.cold_start.or(defaults.cold_start);
        if let Some(cold_start) = cold_start {
            check(fields, "cold_start", cold_start, terms, findings);
        }
        let usual = terms.burst.div_ceil(10).min(MOST_COLD_START);
        Learning {
            quantile: quantile.unwrap_or(Quantile::P90),
            cold_start: cold_start.unwrap_or(usual),
            by: by.cloned().unwrap_or_default(),
        }
    }
}

/// What counts nothing that the key is about is refused, not ignored.
fn refuse_idle(fields: &Fields<'_, '_>, formula: Formula, findings: &mut Findings<'_>) {
    let tokens = ["estimate", "cold_start", "learn_by", "learn_quantile"];
    let about = |key: &str| match key {
        "bytes_per_token" => (formula.counts_input(), "tokens of the prompt"),
        "reserve_output" => (formula.counts_output(), "tokens of the answer"),
        _ => (formula.counts_tokens(), "tokens"),
    };
    for key in tokens
        .into_iter()
        .chain(["bytes_per_token", "reserve_output"])
    {
        let (counted, what) = about(key);
        if let Some(node) = fields.own(key).filter(|_| !counted) {
            let idle = Complaint::new(format!("'{key}' means nothing for this cost"));
            findings.error(
                node.at,
                idle.hint(format!("only a cost that counts {what} has it")),
            );
        }
    }
}

/// An estimate above the burst is cut to it at admission, so it says nothing that is meant. Beside
/// the burst that is a mistake; one for all limits of a file may well be too large for a small one.
fn check(
    fields: &Fields<'_, '_>,
    key: &str,
    amount: u64,
    terms: &Limit,
    findings: &mut Findings<'_>,
) {
    // Without a burst the limit is a ban.
    if amount <= terms.burst || terms.oversize == Oversize::WhenFull || terms.burst == 0 {
        return;
    }
    let burst = terms.burst;
    let above = Complaint::new(match key {
        "estimate" => format!("the estimate {amount} is more than the burst {burst}"),
        key => format!("the {key} {amount} is more than the burst {burst}"),
    });
    if fields.own(key).is_some() {
        findings.error(
            fields.at(key),
            above.hint("what is more than fits is cut off; or write oversize: when_full"),
        );
    } else {
        findings.warning(
            fields.at,
            above.hint("each request of unknown cost takes all of the burst"),
        );
    }
}

/// `true`, `false`, `larger`, or a weight in place of the cost's.
fn reserve_output(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<ReserveOutput> {
    let text = findings.text(node, "reserve_output")?;
    match boolean(text) {
        Some(true) => Some(ReserveOutput::AtCost),
        Some(false) => Some(ReserveOutput::Nothing),
        None if text == "larger" => Some(ReserveOutput::Larger),
        None => match amount::weight(text) {
            Ok(Weight::ZERO) => {
                let nothing = Complaint::new("reserve_output has the weight 0");
                findings.error(node.at, nothing.hint("write false"));
                None
            }
            Ok(weight) => Some(ReserveOutput::AtWeight(weight)),
            Err(_) => {
                let words = "true, false, larger or a weight";
                let unknown = format!("reserve_output must be {words}, not '{text}'");
                findings.error(node.at, unknown);
                None
            }
        },
    }
}

fn learn_by(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<LearnBy> {
    let one = std::slice::from_ref(node);
    let items = match &node.value {
        Value::Scalar { .. } => one,
        Value::List(_) | Value::Map(_) => findings.list(node, "learn_by")?,
    };
    let mut keys = Vec::new();
    for item in items {
        let key = findings.text(item, "a key of learn_by")?;
        if key.is_empty() {
            findings.error(item.at, "a key of learn_by is empty");
        } else if key.starts_with(CONTROL) {
            let control = Complaint::new(format!("'{key}' is a control entry"));
            findings.error(
                item.at,
                control.hint("learn_by takes the keys of other entries"),
            );
        } else {
            keys.push(key.to_owned());
        }
    }
    // The order in which they are written makes no other group.
    keys.sort_unstable();
    keys.dedup();
    Some(LearnBy::Entries(keys))
}
