//! Whole files: what loads, what it means, and what is said about every mistake.
//!
//! `tests/data/config/invalid` has one file for each mistake and its exact messages beside it in
//! `.error`; `tests/data/config/valid` has files that load and what they say in `.rules`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::limit::{Algorithm, Effect, WhenOver, ZeroCost};
use crate::rules::{BodyStyle, Domain, HeaderStyle, Metadata, Rule, Terms};

use super::document::{Document, compile};
use super::{BUILTIN, builtin, outline, parse};

fn data(directory: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/config")
        .join(directory)
}

/// The YAML files of a directory, as they are named and with their texts.
pub(super) fn files(directory: &str) -> Vec<(PathBuf, String, String)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(data(directory)).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let text = fs::read_to_string(&path).unwrap();
            files.push((path, name, text));
        }
    }
    assert!(!files.is_empty(), "no files in {directory}");
    files.sort();
    files
}

/// What should be said of `path`, from the file beside it.
fn expected(path: &Path, extension: &str) -> String {
    let beside = path.with_extension(extension);
    fs::read_to_string(&beside).unwrap_or_else(|error| panic!("{}: {error}", beside.display()))
}

pub(super) fn messages(source: &str) -> Vec<String> {
    let errors = parse(source, "f").err().unwrap_or_default();
    errors.iter().map(ToString::to_string).collect()
}

fn warnings(source: &str) -> Vec<String> {
    let compiled = compile(&[Document::parse(source, "f").unwrap()]).unwrap();
    compiled.warnings.iter().map(ToString::to_string).collect()
}

fn rule<'d>(domain: &'d Domain, path: &str) -> &'d Rule {
    let mut found = None;
    domain.for_each_rule(|rule| {
        if *rule.path == *path {
            found = Some(rule);
        }
    });
    found.unwrap_or_else(|| panic!("no rule {path}"))
}

#[test]
fn every_mistake_is_told_exactly() {
    for (path, name, text) in files("invalid") {
        let errors = parse(&text, &name).expect_err(&name);
        let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let expected = expected(&path, "error");
        assert_eq!(told, expected.lines().collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn every_valid_file_says_what_is_written_beside_it() {
    for (path, name, text) in files("valid") {
        let domain = parse(&text, &name).unwrap_or_else(|errors| panic!("{name}: {errors:?}"));
        assert_eq!(outline(&domain), expected(&path, "rules"), "{name}");
    }
}

#[test]
fn the_built_in_domain_is_the_example() {
    let domain = builtin();
    assert_eq!(domain.name, "llm");
    assert_eq!(warnings(BUILTIN), [""; 0]);
    let acme = rule(&domain, "tenant=acme");
    let names: Vec<&str> = acme.limits.iter().map(|limit| &*limit.name).collect();
    assert_eq!(
        names,
        ["tenant-requests", "tenant-tokens", "tenant-daily-requests"]
    );
    assert_eq!(
        domain.answer.headers,
        [HeaderStyle::RetryAfter, HeaderStyle::OpenAi]
    );
    assert_eq!(domain.answer.body, BodyStyle::OpenAi);
}

#[test]
fn a_rate_limit_is_the_limit_of_the_reference_and_limits_are_ours() {
    let text = "domain: d
descriptors:
  - key: k
    rate_limit: { unit: minute, requests_per_unit: 5 }
    limits: [{ name: l, rate: 5/minute }]
";
    let domain = parse(text, "f").unwrap();
    let rule = rule(&domain, "k");
    let [theirs, ours] = rule.limits.as_slice() else {
        panic!("{rule:?}")
    };
    let (Terms::Limited(their_terms), Terms::Limited(our_terms)) = (theirs.terms, ours.terms)
    else {
        panic!("{rule:?}")
    };
    assert_eq!(their_terms.algorithm, Algorithm::FixedWindow);
    assert_eq!(their_terms.when_over, WhenOver::Charge);
    assert_eq!(their_terms.zero_cost, ZeroCost::PassesAtZero);
    assert_eq!((&*theirs.name, &*theirs.label), ("", "k"));
    assert_eq!(our_terms.algorithm, Algorithm::TokenBucket);
    assert_eq!(our_terms.when_over, WhenOver::Refuse);
    assert_eq!(our_terms.zero_cost, ZeroCost::NeedsRoom);
    assert_eq!((&*ours.name, &*ours.label), ("l", "l"));
    assert_eq!(
        (theirs.index.0, ours.index.0, domain.limits.len()),
        (0, 1, 2)
    );
    assert_ne!(theirs.identity, ours.identity);
}

#[test]
fn the_same_name_in_two_rules_is_the_same_limit() {
    let text = "domain: d
descriptors:
  - key: k
    limits: [{ name: l, rate: 5/minute }]
  - key: k
    value: v
    limits: [{ name: l, rate: 50/hour }]
  - key: k
    value: w
    limits: [{ name: l, rate: 50/hour, algorithm: fixed_window }]
";
    let domain = parse(text, "f").unwrap();
    let identity = |path| rule(&domain, path).limits[0].identity;
    assert_eq!(identity("k"), identity("k=v"));
    assert_ne!(identity("k"), identity("k=w"));
}

#[test]
fn indexes_are_dense() {
    for (_, name, text) in files("valid") {
        let domain = parse(&text, &name).unwrap();
        let indexes: Vec<usize> = domain.limits.iter().map(|limit| limit.index.0).collect();
        assert_eq!(
            indexes,
            (0..domain.limits.len()).collect::<Vec<_>>(),
            "{name}"
        );
    }
}

#[test]
fn modes_of_the_descriptor_hold_for_all_its_limits() {
    let text = "domain: d
descriptors:
  - key: k
    quota_mode: true
    rate_limit: { unit: day, requests_per_unit: 1 }
    limits:
      - { name: a, rate: 1/day }
      - { name: b, rate: 1/day, shadow_mode: true }
      - { name: c, rate: 1/day, quota_mode: false }
";
    let domain = parse(text, "f").unwrap();
    let effects: Vec<Effect> = rule(&domain, "k").limits.iter().map(|l| l.effect).collect();
    assert_eq!(
        effects,
        [
            Effect::Quota,
            Effect::Quota,
            Effect::Shadow,
            Effect::Enforce
        ]
    );
}

#[test]
fn metadata_keeps_its_types() {
    let text = fs::read_to_string(data("valid/reference-tree.yaml")).unwrap();
    let domain = parse(&text, "f").unwrap();
    let Some(Metadata::Map(map)) = rule(&domain, "plan=gold").metadata.as_deref() else {
        panic!()
    };
    assert_eq!(map["tier"], Metadata::Text("gold".to_owned()));
    assert_eq!(map["seats"], Metadata::Number(12.0));
    assert_eq!(map["ratio"], Metadata::Number(0.5));
    assert_eq!(map["trial"], Metadata::Bool(false));
    assert_eq!(map["note"], Metadata::Text("1".to_owned()));
    assert_eq!(map["owner"], Metadata::Null);
    let regions = ["eu", "us"].map(|region| Metadata::Text(region.to_owned()));
    assert_eq!(map["regions"], Metadata::List(regions.to_vec()));
    let Metadata::Map(nested) = &map["nested"] else {
        panic!()
    };
    assert_eq!(nested["a"], Metadata::Number(16.0));
}

#[test]
fn a_shared_wildcard_keeps_its_pattern() {
    let text = fs::read_to_string(data("valid/reference-tree.yaml")).unwrap();
    let domain = parse(&text, "f").unwrap();
    assert_eq!(
        rule(&domain, "path=files/*").shared_value.as_deref(),
        Some("files/*")
    );
    assert_eq!(rule(&domain, "path=*/download").shared_value, None);
}

#[test]
fn lines_may_end_as_on_windows_and_a_file_may_begin_with_a_byte_order_mark() {
    let text = format!("\u{feff}{}", BUILTIN.replace('\n', "\r\n"));
    assert_eq!(outline(&parse(&text, "f").unwrap()), outline(&builtin()));
    let wrong = text.replace("body: openai", "body: open");
    assert_eq!(
        messages(&wrong),
        messages(&BUILTIN.replace("body: openai", "body: open"))
    );
    assert_eq!(messages(&wrong).len(), 1);
}

#[test]
fn an_estimate_for_all_limits_does_not_stand_against_a_ban() {
    let text = "domain: d
defaults: { cost: tokens, estimate: 800 }
descriptors:
  - key: k
    limits: [{ name: l, rate: 0/day, algorithm: fixed_window }]
";
    assert_eq!(messages(text), [""; 0]);
}

#[test]
fn an_estimate_for_all_limits_that_is_too_large_for_one_is_told() {
    let text = "domain: d
defaults: { cost: tokens, estimate: 800 }
descriptors:
  - key: k
    limits: [{ name: l, rate: 500/minute }, { name: m, rate: 500/minute, oversize: when_full }]
";
    assert_eq!(
        warnings(text),
        [
            "f:5:14: the estimate 800 is more than the burst 500 (in rule k): \
             each request of unknown cost takes all of the burst"
        ]
    );
}

#[test]
fn odd_things_are_told() {
    let text = "domain: d
costs: { unused: { hits: 1 } }
descriptors:
  - key: k
    rate_limit: { unit: day }
    limits: [{ name: daily, rate: 5/day, algorithm: fixed_window, alert_at: [0.7] }]
";
    assert_eq!(
        warnings(text),
        [
            "f:5:17: requests_per_unit is not given, so every request is refused (in rule k): \
             write requests_per_unit: 0 if that is meant",
            "f:6:14: alert_at makes no gauge here: callers choose values of this rule (in rule k): \
             crossings are counted and logged; a gauge takes a rule for each value",
            "f:2:10: the cost 'unused' is never used",
        ]
    );
}

#[test]
fn a_lease_that_is_never_used_is_told() {
    let text = "domain: d
descriptors:
  - key: k
    limits: [{ name: l, rate: 500/day, lease: {} }, { name: m, rate: 500/day }]
  - key: all
    limits: [{ name: l, rate: 500/day, lease: {} }, { name: free, unlimited: true }]
";
    assert_eq!(
        warnings(text),
        [
            "f:4:47: the lease is never used, because 'm' of the same rule has none (in rule k): \
             a request is let in without the store only if all of its limits have leases"
        ]
    );
}

#[test]
fn a_rule_that_hides_what_is_below_the_general_one_is_told() {
    let text = "domain: d
descriptors:
  - key: k
    descriptors: [{ key: model }, { key: user }]
  - { key: k, value: exempt }
  - { key: k, value: limited, rate_limit: { unit: day, requests_per_unit: 1 } }
  - { key: k, value: half*, descriptors: [{ key: model }] }
  - { key: k, value: full, descriptors: [{ key: model }, { key: user, value: u }] }
";
    let hint = "the first rule that fits is taken for good; repeat what is to hold here";
    assert_eq!(
        warnings(text),
        [
            format!("f:6:5: hides the rule 'model' below 'k' (in rule k=limited): {hint}"),
            format!("f:7:5: hides the rule 'user' below 'k' (in rule k=half*): {hint}"),
        ]
    );
}

#[test]
fn a_wildcard_that_is_never_found_and_a_name_that_does_not_exist_are_told() {
    let text = "domain: d
descriptors:
  - { key: k, value: a* }
  - { key: k, value: b* }
  - { key: k, value: ab*c }
  - key: l
    limits:
      - { name: one, rate: 1/day, replaces: [two, { name: three }] }
      - { name: two, rate: 1/day }
";
    assert_eq!(
        warnings(text),
        [
            "f:5:5: is never found: the earlier wildcard 'k_a*' covers it (in rule k=ab*c): move it up",
            "f:8:59: replaces 'three', but no limit is called that (in rule l)",
        ]
    );
}
