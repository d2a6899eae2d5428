//! Input that is too much, and input that is nonsense.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::parse;
use super::tests::{files, messages};
use super::yaml::{MAX_BYTES, MAX_DEPTH, MAX_NODES};

/// A file whose lists and maps are nested `depth` levels deep.
fn nested(depth: usize) -> String {
    let inner = depth - 3;
    let (open, close) = ("[".repeat(inner - 1), "]".repeat(inner - 1));
    format!("domain: d\ndescriptors:\n  - key: k\n    metadata: {{ a: {open}{close} }}\n")
}

#[test]
fn nesting_is_bounded() {
    assert_eq!(messages(&nested(MAX_DEPTH)), [""; 0]);
    let too_deep = "lists and maps are nested deeper than 64 levels";
    assert!(messages(&nested(MAX_DEPTH + 1))[0].ends_with(too_deep));
    assert!(messages(&nested(100_000))[0].ends_with(too_deep));
    let mut block = String::new();
    for level in 0..2000 {
        writeln!(block, "{}- ", " ".repeat(level)).unwrap();
    }
    assert!(messages(&format!("domain: d\ndescriptors:\n{block}"))[0].ends_with(too_deep));
}

#[test]
fn an_alias_cannot_nest_deeper_than_what_it_stands_for_allows() {
    let half = "[".repeat(40) + &"]".repeat(40);
    let text = |open: &str, close: &str| {
        format!(
            "domain: d\ndescriptors:\n  - key: k\n    metadata: {{ a: &x {half}, b: {open}*x{close} }}\n"
        )
    };
    // The file and its descriptor are four levels, and the anchored list is 40 more.
    assert_eq!(messages(&text(&"[".repeat(20), &"]".repeat(20))), [""; 0]);
    let too_deep = messages(&text(&"[".repeat(21), &"]".repeat(21)));
    assert!(
        too_deep[0].ends_with("nested deeper than 64 levels"),
        "{too_deep:?}"
    );
}

#[test]
fn a_few_lines_cannot_stand_for_a_billion_nodes() {
    let mut text = "domain: d\na: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        writeln!(text, "b{level}: &a{level} [{aliases}]").unwrap();
    }
    let said = messages(&text);
    let expected = format!("the file has more than {MAX_NODES} values, aliases written out");
    assert!(said[0].ends_with(&expected), "{said:?}");
}

#[test]
fn a_hundred_thousand_descriptors_load() {
    let mut text = "domain: d\ndescriptors:\n".to_owned();
    for number in 0..100_000 {
        let limit = format!("{{ unit: minute, requests_per_unit: {number} }}");
        writeln!(
            text,
            "  - key: tenant
    value: t{number}
    rate_limit: {limit}"
        )
        .unwrap();
    }
    assert!(text.len() < MAX_BYTES);
    let domain = parse(&text, "f").unwrap();
    assert_eq!(domain.limits.len(), 100_000);
}

#[test]
fn fifty_thousand_limits_that_differ_in_nothing_but_their_headroom_load() {
    let mut text = "domain: d\ndescriptors:\n".to_owned();
    for number in 0..50_000 {
        writeln!(
            text,
            "  - key: tenant
    value: t{number}
    limits: [{{ name: l, rate: 100k/minute, priority: {{ low: {number} }} }}]"
        )
        .unwrap();
    }
    let domain = parse(&text, "f").unwrap();
    assert_eq!(domain.limits.len(), 50_000);
}

#[test]
fn a_file_that_is_too_long_is_not_looked_at() {
    let said = messages(&" ".repeat(MAX_BYTES + 1));
    assert_eq!(
        said,
        [format!("f:1:1: the file is longer than {MAX_BYTES} bytes")]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_text_makes_it_panic(text in "\\PC*") {
        drop(parse(&text, "f"));
    }

    #[test]
    fn no_yaml_like_text_makes_it_panic(
        words in prop::collection::vec(
            prop::sample::select(vec![
                "domain: d\n", "descriptors:\n", "  - key: k\n", "    value: a*\n", "    limits:\n",
                "      - { name: n, rate: 5/minute }\n", "    rate_limit:\n", "      unit: day\n",
                "[", "]", "{", "}", ": ", ", ", "- ", "&a ", "*a", "<<: ", "\n", "  ", "\"", "'",
                "!!str ", "|\n", "? ", "#", "---\n", "~", "0x", "1.5k/", "%", "key", "\u{feff}", "\0",
            ]),
            0..60,
        )
    ) {
        drop(parse(&words.concat(), "f"));
    }

    #[test]
    fn no_change_to_a_good_file_makes_it_panic(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<Option<char>>()), 1..6),
    ) {
        let files = files("valid");
        let mut text: Vec<char> = which.get(&files).2.chars().collect();
        for (place, change) in changes {
            let place = place.index(text.len());
            match change {
                Some(change) => text[place] = change,
                None => { text.remove(place); }
            }
            if text.is_empty() { break; }
        }
        drop(parse(&text.into_iter().collect::<String>(), "f"));
    }
}
