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
    /// How the response ended, in the words of Envoy's response code details.
    pub outcome: Option<&'a str>,
    /// What was counted, in the order of [`Measure::TOKENS`](crate::limit::Measure::TOKENS);
    /// `None`: nobody counted.
    pub counts: Option<[u64; 4]>,
    /// What else is known of a request before its answer. No report's business.
    pub facts: Facts,
    /// All tokens together, where nobody told them apart: the cost of limits on tokens, and of no
    /// others.
    pub total: Option<u64>,
    /// Whether a count was none, or counts contradict each other.
    pub bad_count: bool,
}

/// What is known of a request before its answer.
///
/// Saying one in several descriptors says it once: the largest holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Whether [`Control::counts`] has a count of the prompt, cached or not.
    pub counted_input: bool,
    /// Whether [`Control::counts`] has a count of the answer.
    pub counted_output: bool,
    /// How long the request is, in bytes; it holds where the prompt was not counted.
    pub input_bytes: Option<u64>,
    /// The most tokens that the answer may have; it holds where the answer was not counted.
    pub max_output_tokens: Option<u64>,
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
        let mut counts = Counts::default();
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
                    "input_bytes" => control.fact(value, |facts| &mut facts.input_bytes),
                    "max_output_tokens" => {
                        control.fact(value, |facts| &mut facts.max_output_tokens);
                    }
                    name => match countable(name) {
                        Some(counted) => control.count(&mut counts, counted, value),
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
                    add(&mut counts.measured, measure, addend);
                }
            }
        }
        let reported = counts.of(control.phase);
        control.facts.counted_input = reported.says_prompt();
        control.facts.counted_output = reported.says_answer();
        match reported.resolve() {
            Ok(Said::Nothing) => {}
            Ok(Said::Measures(counts)) => control.counts = Some(counts),
            Ok(Said::Tokens(total)) if total <= MAX_ADDEND => control.total = Some(total),
            // `total` is no control entry.
            Ok(Said::Tokens(_) | Said::Total(_)) | Err(_) => control.bad_count = true,
        }
        Ok(control)
    }

    /// Whether the request says of its tokens what its cost can be made of.
    pub(super) fn says_tokens(&self) -> bool {
        let Facts {
            input_bytes,
            max_output_tokens,
            ..
        } = self.facts;
        let fact = input_bytes.is_some() || max_output_tokens.is_some();
        self.counts.is_some() || (fact && self.total.is_none() && self.phase != Phase::Report)
    }

    fn count(&mut self, counts: &mut Counts, name: Name, value: &str) {
        match counted(value) {
            Some(count) => {
                add(&mut counts.sum, name, count);
                counts
                    .largest
                    .set(name, counts.largest.get(name).max(Some(count)));
            }
            None => self.bad_count = true,
        }
    }

    fn fact(&mut self, value: &str, place: impl FnOnce(&mut Facts) -> &mut Option<u64>) {
        match counted(value) {
            Some(count) => {
                let place = place(&mut self.facts);
                *place = (*place).max(Some(count));
            }
            None => self.bad_count = true,
        }
    }
}

/// What control entries count. Only when all of them were read is the phase known, and with it
/// whether entries of one name are parts or the same said again.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// Of each `tollgate.NAME` = N: all of them together.
    sum: Reported,
    /// The same: the largest.
    largest: Reported,
    /// Addends that count a measure.
    measured: Reported,
}

impl Counts {
    /// A report says of parts what they used. An admission says of one request what is known of
    /// it, and the usual Envoy configuration has the same entries in each of its descriptors.
    fn of(self, phase: Phase) -> Reported {
        let mut reported = match phase {
            Phase::Admit | Phase::Peek => self.largest,
            Phase::Report => self.sum,
        };
        for name in Name::ALL {
            if let Some(count) = self.measured.get(name) {
                add(&mut reported, name, count);
            }
        }
        reported
    }
}

fn counted(value: &str) -> Option<u64> {
    let count = value.trim().parse().ok();
    count.filter(|count| *count <= MAX_MEASURED)
}

/// More of the same.
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
    fn counts_and_facts_come_from_headers_too() {
        let request = request(&[
            (&[("tollgate.input_tokens", " 812 ")], None),
            (
                &[
                    ("tollgate.max_output_tokens", "500"),
                    ("tollgate.input_bytes", "3000"),
                ],
                None,
            ),
            (&[("tollgate.max_output_tokens", "400")], None),
        ]);
        let control = Control::of(&request).unwrap();
        assert_eq!(control.counts, Some([812, 0, 0, 0]));
        assert_eq!(
            control.facts,
            Facts {
                counted_input: true,
                counted_output: false,
                input_bytes: Some(3000),
                max_output_tokens: Some(500),
            }
        );
    }

    #[test]
    fn an_admission_says_a_count_once_and_a_report_says_parts() {
        let counts = |phase| {
            let input = ("tollgate.input_tokens", "812");
            let request = request(&[
                (
                    &[("tenant", "acme"), input, ("tollgate.phase", phase)],
                    None,
                ),
                (&[("model", "m"), input], None),
                (&[("tollgate.input_tokens", "300")], None),
                (&[("tollgate.measure", "output_tokens")], Some(30)),
                (&[("tollgate.measure", "output_tokens")], Some(1)),
            ]);
            Control::of(&request).unwrap().counts
        };
        assert_eq!(counts("admit"), Some([812, 0, 0, 31]));
        assert_eq!(counts("peek"), Some([812, 0, 0, 31]));
        assert_eq!(counts("report"), Some([812 + 812 + 300, 0, 0, 31]));
    }

    #[test]
    fn facts_of_a_request_are_nothing_that_a_report_used() {
        let fact = ("tollgate.max_output_tokens", "500");
        let admission = [fact];
        let admission = request(&[(&admission, None)]);
        assert!(Control::of(&admission).unwrap().says_tokens());
        let report = [fact, ("tollgate.phase", "report")];
        let report = request(&[(&report, None)]);
        let control = Control::of(&report).unwrap();
        assert_eq!((control.counts, control.says_tokens()), (None, false));
    }

    #[test]
    fn a_count_that_is_none_is_told_apart_from_a_mistake() {
        for bad in ["abc", "-5", "1e3", "", "1000000000001", "nan"] {
            for key in ["tollgate.input_tokens", "tollgate.input_bytes"] {
                let request = request(&[(&[(key, bad)], None)]);
                assert!(Control::of(&request).unwrap().bad_count, "{bad}");
            }
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
