//! The words of the grammar: which key belongs where, and what a misspelt one was meant to be.
//!
//! A key that nobody reads is worse than an error: the limit that it was to change is then silently
//! another one. So every key is checked against the place that it stands in.

use super::error::Complaint;

/// A map of the grammar, by where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Answer,
    Defaults,
    Descriptor,
    Lease,
    Limit,
    RateLimit,
    Replaces,
    Root,
    Tier,
}

impl Place {
    /// In the order in which a hint names them. Not a tier: what it takes, a descriptor does too.
    const ALL: [Self; 8] = [
        Self::Descriptor,
        Self::RateLimit,
        Self::Limit,
        Self::Replaces,
        Self::Root,
        Self::Answer,
        Self::Defaults,
        Self::Lease,
    ];

    /// The keys that may stand here.
    pub(super) const fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Answer => &["headers", "body"],
            Self::Defaults => &[
                "algorithm",
                "bytes_per_token",
                "cold_start",
                "cost",
                "estimate",
                "learn_by",
                "learn_quantile",
                "missing_usage",
                "on_store_error",
                "oversize",
                "reserve_output",
                "timezone",
                "when_over",
            ],
            Self::Descriptor => &[
                "key",
                "value",
                "rate_limit",
                "limits",
                "preset",
                "tier",
                "descriptors",
                "shadow_mode",
                "quota_mode",
                "share_threshold",
                "detailed_metric",
                "value_to_metric",
                "metadata",
            ],
            Self::Lease => &["max", "ttl"],
            Self::Limit => &[
                "name",
                "rate",
                "burst",
                "algorithm",
                "timezone",
                "alert_at",
                "cost",
                "estimate",
                "learn_by",
                "learn_quantile",
                "cold_start",
                "bytes_per_token",
                "reserve_output",
                "lease",
                "missing_usage",
                "on_store_error",
                "oversize",
                "priority",
                "quota_mode",
                "replaces",
                "shadow_mode",
                "unlimited",
                "when_over",
            ],
            Self::RateLimit => &["unit", "requests_per_unit", "unlimited", "name", "replaces"],
            Self::Replaces => &["name"],
            Self::Root => &[
                "domain",
                "descriptors",
                "costs",
                "defaults",
                "tiers",
                "answer",
            ],
            Self::Tier => &["limits", "preset"],
        }
    }

    const fn here(self) -> &'static str {
        match self {
            Self::Answer => "in answer",
            Self::Defaults => "in defaults",
            Self::Descriptor => "on a descriptor",
            Self::Lease => "in lease",
            Self::Limit => "in an entry of limits",
            Self::RateLimit => "in rate_limit",
            Self::Replaces => "in replaces",
            Self::Root => "at the top level of the file",
            Self::Tier => "in a tier",
        }
    }

    /// Where the place is, as seen from `here`.
    const fn there(self, here: Self) -> &'static str {
        match (here, self) {
            (Self::RateLimit, Self::Descriptor) => "beside rate_limit, on the descriptor",
            (Self::Limit, Self::Descriptor) => "beside limits, on the descriptor",
            (_, Self::Descriptor) => "on a descriptor",
            (_, place) => place.here(),
        }
    }
}

/// What to say about a key that may not stand `here`.
pub(super) fn stray(key: &str, here: Place) -> Complaint {
    let homes: Vec<Place> = Place::ALL
        .into_iter()
        .filter(|place| place.keys().contains(&key))
        .collect();
    if let [first, rest @ ..] = homes.as_slice() {
        // Beside a rate_limit the key acts on all limits, which is what was meant inside of it.
        let rest = if here == Place::RateLimit && *first == Place::Descriptor {
            &[]
        } else {
            rest
        };
        let homes: Vec<&str> = [*first]
            .iter()
            .chain(rest)
            .map(|home| home.there(here))
            .collect();
        return Complaint::new(format!("'{key}' does not belong {}", here.here()))
            .hint(format!("it belongs {}", homes.join(", or ")));
    }
    let complaint = Complaint::new(format!("unknown key '{key}'"));
    if let Some(known) = nearest(key, here.keys().iter().copied()) {
        return complaint.hint(format!("did you mean '{known}'?"));
    }
    for place in Place::ALL {
        if let Some(known) = nearest(key, place.keys().iter().copied()) {
            let there = place.there(here);
            return complaint.hint(format!("did you mean '{known}'? It belongs {there}"));
        }
    }
    complaint.hint(format!(
        "the keys {} are {}",
        here.here(),
        here.keys().join(", ")
    ))
}

/// What to say about a word that is none of the `known`.
pub(super) fn unknown_word(what: &str, word: &str, known: &[&str]) -> Complaint {
    Complaint::new(format!("unknown {what} '{word}'")).hint(choice_hint(word, known))
}

/// Which of the `known` words was meant.
pub(super) fn choice_hint(word: &str, known: &[&str]) -> String {
    match (nearest(word, known.iter().copied()), known) {
        (Some(meant), _) => format!("did you mean '{meant}'?"),
        (None, [only]) => format!("only {only} is known"),
        (None, known) => format!("write one of {}", known.join(", ")),
    }
}

/// The word that `word` was probably meant to be.
pub(super) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let plain = simplified(word);
    known
        .into_iter()
        .map(|candidate| (distance(&plain, &simplified(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(4).min(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Without what people vary: `rateLimit`, `rate-limit`.
fn simplified(word: &str) -> Vec<char> {
    let letters = word.chars().filter(|c| !matches!(c, '_' | '-' | ' '));
    // Nobody misspells a word by this much; and the time is bounded.
    letters.take(64).flat_map(char::to_lowercase).collect()
}

/// How many letters have to be added, removed, changed or swapped with their neighbour.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut a_before = None;
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        let mut b_before = None;
        for (j, y) in b.iter().enumerate() {
            let at = |row: &[usize], column: usize| row.get(column).copied().unwrap_or(usize::MAX);
            let changed = at(&last, j) + usize::from(x != y);
            let mut least = changed.min(at(&last, j + 1) + 1).min(at(&row, j) + 1);
            if j > 0 && a_before == Some(y) && b_before == Some(x) {
                least = least.min(at(&before, j - 1) + 1);
            }
            row.push(least);
            b_before = Some(y);
        }
        before = std::mem::replace(&mut last, row);
        a_before = Some(x);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_word_is_found() {
        let known = Place::Descriptor.keys().iter().copied();
        let cases = [
            ("ratelimit", Some("rate_limit")),
            ("rateLimit", Some("rate_limit")),
            ("rate-limit", Some("rate_limit")),
            ("descriptor", Some("descriptors")),
            ("vlaue", Some("value")),
            ("limit", Some("limits")),
            ("shadow", None),
            ("something", None),
            ("", None),
        ];
        for (word, expected) in cases {
            assert_eq!(nearest(word, known.clone()), expected, "{word}");
        }
    }

    #[test]
    fn the_distance_counts_letters() {
        let distance = |a: &str, b: &str| {
            distance(
                &a.chars().collect::<Vec<_>>(),
                &b.chars().collect::<Vec<_>>(),
            )
        };
        assert_eq!(distance("abc", "abc"), 0);
        assert_eq!(distance("abc", "acb"), 1);
        assert_eq!(distance("abc", "ab"), 1);
        assert_eq!(distance("abc", "xabc"), 1);
        assert_eq!(distance("abc", "xyz"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
    }

    #[test]
    fn a_misplaced_key_is_told_where_it_belongs() {
        let hint = |key, here| stray(key, here).to_string_for_test();
        assert_eq!(
            hint("shadow_mode", Place::RateLimit),
            "'shadow_mode' does not belong in rate_limit: \
             it belongs beside rate_limit, on the descriptor"
        );
        assert_eq!(
            hint("requests_per_unit", Place::Descriptor),
            "'requests_per_unit' does not belong on a descriptor: it belongs in rate_limit"
        );
        assert_eq!(
            hint("cost", Place::Root),
            "'cost' does not belong at the top level of the file: \
             it belongs in an entry of limits, or in defaults"
        );
        assert_eq!(
            hint("bursts", Place::Descriptor),
            "unknown key 'bursts': did you mean 'burst'? It belongs in an entry of limits"
        );
    }

    impl Complaint {
        fn to_string_for_test(&self) -> String {
            format!(
                "{}: {}",
                self.message,
                self.hint.as_deref().unwrap_or_default()
            )
        }
    }
}
