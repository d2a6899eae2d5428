//! Wildcard patterns over `key_value`.

/// A text in which every `*` stands for zero or more characters. There is no escape: a literal `*`
/// cannot be written, as in envoyproxy/ratelimit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    first: String,
    middle: Vec<String>,
    last: String,
}

impl Pattern {
    /// The pattern that `text` spells; `None` where it has no `*`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('*');
        let first = parts.next()?.to_owned();
        let mut middle: Vec<String> = parts.map(str::to_owned).collect();
        let last = middle.pop()?;
        middle.retain(|part| !part.is_empty());
        Some(Self {
            text: text.to_owned(),
            first,
            middle,
            last,
        })
    }

    /// As written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it covers `text`.
    pub fn matches(&self, text: &str) -> bool {
        let Some(rest) = text.strip_prefix(self.first.as_str()) else {
            return false;
        };
        let Some(mut rest) = rest.strip_suffix(self.last.as_str()) else {
            return false;
        };
        for part in &self.middle {
            let Some((_, after)) = rest.split_once(part.as_str()) else {
                return false;
            };
            rest = after;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_a_star_is_no_pattern() {
        assert_eq!(Pattern::parse("key_value"), None);
    }

    #[test]
    fn stars_stand_for_anything_also_nothing() {
        let cases = [
            ("files_files/*", "files_files/", true),
            ("files_files/*", "files_files/a/b", true),
            ("files_files/*", "files_file", false),
            ("p_/users/*/orders/*", "p_/users/7/orders/9", true),
            ("p_/users/*/orders/*", "p_/users/7/carts/9", false),
            ("p_a*a", "p_a", false),
            ("p_a*a", "p_aa", true),
            ("p_a*b*c", "p_abc", true),
            ("p_a*b*c", "p_acb", false),
            ("p_**", "p_", true),
            ("*", "", true),
        ];
        for (pattern, text, expected) in cases {
            let pattern = Pattern::parse(pattern).unwrap();
            assert_eq!(
                pattern.matches(text),
                expected,
                "{} on {text}",
                pattern.text()
            );
        }
    }
}
