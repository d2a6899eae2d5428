//! Control entries: what a request says about itself in descriptor entries.
//!
//! They work with every Envoy and Istio, because they need nothing but descriptors. They never take
//! part in matching and hold for the whole request. A control entry that means nothing is a mistake
//! in somebody's Envoy configuration, and an error; a *count* that is no number may come from a
//! client's header, and an error would let that client pass wherever Envoy fails open. So a bad
//! count refuses the request instead.

use smallvec::SmallVec;

use super::request::{MAX_ADDEND, Request, RequestError};
use crate::limit::MAX_MEASURED;
use crate::rules::Entry;
use crate::usage::{Name, Reported, Said};

/// What control entries start with.
pub const PREFIX: &str = "tollgate.";

/// What a request says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Control<'a> {
    /// What it wants.
    pub phase: Phase,
    /// What ties a report to its admission.
    pub id: Option<&'a str>,
    /// The priority class.
    pub priority: Option<&'a str>,
    /// How the response ended, as the caller calls it.
    pub outcome: Option<&'a str>,
    /// What was counted, in the order of [`Measure::TOKENS`](crate::limit::Measure::TOKENS);
    /// `None`: nobody counted.
    pub counts: Option<[u64; 4]>,
    /// All tokens together, where nobody told them apart.
    pub total: Option<u64>,
    /// Whether a count was none, or counts contradict each other.
    pub bad_count: bool,
}

/// What a request wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// In.
    #[default]
    Admit,
    /// To know whether it would get in.
    Peek,
    /// To say what was used.
    Report,
}

/// The entries that take part in matching.
pub(super) fn without_control<'a>(entries: &[Entry<'a>]) -> SmallVec<[Entry<'a>; 8]> {
    let matched = |(key, _): &&Entry<'a>| !key.starts_with(PREFIX);
    entries.iter().filter(matched).copied().collect()
}

impl<'a> Control<'a> {
    /// Reads the control entries of all descriptors.
    pub fn of(request: &Request<'a>) -> Result<Self, RequestError> {
        let mut control = Self::default();
        let mut reported = Reported::default();
        for descriptor in &request.descriptors {
            let mut measure = None;
            for (key, value) in &descriptor.entries {
                let Some(name) = key.strip_prefix(PREFIX) else {
                    continue;
                };
                match name {
                    "id" => control.id = Some(value).filter(|id| !id.is_empty()).copied(),
                    "measure" => measure = Some(measure_named(key, value)?),
                    "outcome" => control.outcome = Some(value),
                    "phase" => control.phase = phase_named(key, value)?,
                    "priority" => control.priority = Some(value),
                    "max_output_tokens" => control.count(&mut reported, Name::OutputTokens, value),
                    name => match countable(name) {
                        Some(counted) => control.count(&mut reported, counted, value),
                        None => return Err(unknown(key, value, "there is no such control entry")),
                    },
                }
            }
            if let Some(measure) = measure
                && let Some(addend) = descriptor.hits_addend
            {
                if descriptor.refund {
                    let key = "tollgate.measure";
                    let name = measure.name();
                    return Err(unknown(
                        key,
                        name,
                        "a measure counts what was used, no refunds",
                    ));
                }
                if addend > MAX_ADDEND {
                    control.bad_count = true;
                } else {
                    add(&mut reported, measure, addend);
                }
            }
        }
        match reported.resolve() {
            Ok(Said::Nothing) => {}
            Ok(Said::Measures(counts)) => control.counts = Some(counts),
            Ok(Said::Total(total)) if total <= MAX_ADDEND => control.total = Some(total),
            Ok(Said::Total(_)) | Err(_) => control.bad_count = true,
        }
        Ok(control)
    }

    fn count(&mut self, reported: &mut Reported, name: Name, value: &str) {
        match value.trim().parse() {
            Ok(count) if count <= MAX_MEASURED => add(reported, name, count),
            _ => self.bad_count = true,
        }
    }
}

/// Counts under one name add up.
fn add(reported: &mut Reported, name: Name, count: u64) {
    let before = reported.get(name).unwrap_or_default();
    let sum = before.saturating_add(count).min(MAX_MEASURED);
    reported.set(name, Some(sum));
}

/// The count of that name. `total` is none here: an addend without a measure is one.
fn countable(name: &str) -> Option<Name> {
    Name::from_name(name).filter(|name| *name != Name::Total)
}

fn measure_named(key: &str, value: &str) -> Result<Name, RequestError> {
    countable(value).ok_or_else(|| {
        unknown(
            key,
            value,
            "a measure is one of input_tokens, cache_read_tokens, cache_write_tokens, \
             output_tokens, prompt_tokens, cached_tokens, completion_tokens, total_tokens",
        )
    })
}

fn phase_named(key: &str, value: &str) -> Result<Phase, RequestError> {
    match value {
        "admit" => Ok(Phase::Admit),
        "peek" => Ok(Phase::Peek),
        "report" => Ok(Phase::Report),
        _ => Err(unknown(key, value, "a phase is one of admit, peek, report")),
    }
}

fn unknown(key: &str, value: &str, problem: &'static str) -> RequestError {
    RequestError::UnknownControl {
        key: key.chars().take(64).collect(),
        value: value.chars().take(64).collect(),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::Descriptor;
    use super::*;

    type Described<'d, 'a> = (&'d [(&'a str, &'a str)], Option<u64>);

    fn request<'a>(descriptors: &[Described<'_, 'a>]) -> Request<'a> {
        Request {
            domain: "llm",
            descriptors: descriptors
                .iter()
                .map(|(entries, hits_addend)| Descriptor {
                    entries: entries.iter().copied().collect(),
                    hits_addend: *hits_addend,
                    ..Descriptor::default()
                })
                .collect(),
            ..Request::default()
        }
    }

    #[test]
    fn a_request_without_control_entries_wants_in() {
        let request = request(&[(&[("tenant", "acme")], Some(7))]);
        assert_eq!(Control::of(&request), Ok(Control::default()));
    }

    #[test]
    fn a_report_carries_its_id_and_counts_by_measure() {
        let report = |measure| [("tollgate.phase", "report"), ("tollgate.id", "r1"), measure];
        let request = request(&[
            (&report(("tollgate.measure", "input_tokens")), Some(11)),
            (&report(("tollgate.measure", "output_tokens")), Some(30)),
            (&report(("tollgate.measure", "output_tokens")), Some(1)),
            (&report(("tollgate.outcome", "via_upstream")), Some(0)),
        ]);
        let control = Control::of(&request).unwrap();
        assert_eq!(control.phase, Phase::Report);
        assert_eq!(
            (control.id, control.outcome),
            (Some("r1"), Some("via_upstream"))
        );
        assert_eq!(control.counts, Some([11, 0, 0, 31]));
    }

    #[test]
    fn counts_come_from_headers_too() {
        let request = request(&[(
            &[
                ("tollgate.input_tokens", " 812 "),
                ("tollgate.max_output_tokens", "500"),
            ],
            None,
        )]);
        assert_eq!(
            Control::of(&request).unwrap().counts,
            Some([812, 0, 0, 500])
        );
    }

    #[test]
    fn a_count_that_is_none_is_told_apart_from_a_mistake() {
        for bad in ["abc", "-5", "1e3", "", "1000000000001", "nan"] {
            let request = request(&[(&[("tollgate.input_tokens", bad)], None)]);
            assert!(Control::of(&request).unwrap().bad_count, "{bad}");
        }
        for mistake in [
            ("tollgate.phase", "bogus"),
            ("tollgate.measure", "tokens"),
            ("tollgate.measure", "requests"),
            ("tollgate.inptu_tokens", "1"),
            ("tollgate.", ""),
        ] {
            let entries = [mistake];
            let error = Control::of(&request(&[(&entries, None)])).unwrap_err();
            assert!(error.to_string().contains(mistake.0), "{error}");
        }
    }
}
