//! Who may use whom. Arrows go up the table only, and each outside crate stays where its matter is.
#![expect(
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test's scaffolding fails the test where it stands"
)]

mod source;

use std::path::{Path, PathBuf};

use self::source::{NamedPath, declares, is_async, paths};

/// A module, what it may use of ours (itself always), and which crates it may name.
struct Layer {
    module: &'static str,
    uses: &'static [&'static str],
    crates: &'static [&'static str],
}

const fn layer(
    module: &'static str,
    uses: &'static [&'static str],
    crates: &'static [&'static str],
) -> Layer {
    Layer {
        module,
        uses,
        crates,
    }
}

/// Of two rows that fit, the longer name is meant: `store::redis` is no `store`.
#[rustfmt::skip]
const TABLE: &[Layer] = &[
    //    module           may use                                      may name
    // Pure.
    layer("limit",         &[],                                         &["smallvec", "thiserror"]),
    layer("rules",         &["limit"],                                  &["arc_swap", "base64", "blake3", "foldhash", "jiff", "smallvec", "thiserror"]),
    // Leaves.
    layer("clock",         &["limit"],                                  &[]),
    layer("load",          &["clock"],                                  &["fastrand", "foldhash", "hashbrown", "hdrhistogram", "loona_hpack", "rustix", "thiserror"]),
    layer("health",        &[],                                         &["tokio"]),
    layer("settings",      &["load"],                                   &["clap", "jiff", "secrecy"]),
    layer("shutdown",      &[],                                         &["tokio", "tokio_util", "tracing"]),
    layer("telemetry",     &["clock", "settings"],                      &["tracing", "tracing_subscriber"]),
    layer("connections",   &["clock", "telemetry"],                     &["hyper_util", "socket2", "tokio", "tokio_util", "tracing"]),
    // What is configured. Only the watch knows files that change, and waits for them.
    layer("config",        &["limit", "rules"],                         &["blake3", "jiff", "serde", "serde_saphyr", "thiserror"]),
    layer("config::watch", &["config"],                                 &["notify", "tokio", "tokio_util", "tracing"]),
    // Where buckets live.
    layer("store",         &["limit", "rules", "clock"],                &["base64", "blake3", "foldhash", "hashbrown", "smallvec", "thiserror", "tokio"]),
    layer("store::redis",  &["limit", "rules", "clock", "store"],       &["base64", "foldhash", "hashbrown", "redis", "secrecy", "smallvec", "thiserror", "tokio"]),
    layer("metrics",       &["store"],                                  &["prometheus"]),
    layer("usage",         &["limit"],                                  &["flate2", "thiserror"]),
    // The use cases.
    layer("service",       &["limit", "rules", "store", "usage", "metrics", "clock", "telemetry"],
                                                                        &["arc_swap", "base64", "blake3", "foldhash", "jiff", "serde_json", "smallvec", "thiserror", "tokio", "tokio_util", "tracing"]),
    // The edges.
    layer("grpc",          &["limit", "rules", "config", "metrics", "health", "service", "usage", "connections"],
                                                                        &["bytes", "envoy_types", "http", "http_body", "http_body_util", "hyper", "hyper_util", "prost", "serde", "serde_json", "thiserror", "tokio", "tokio_stream", "tokio_util", "tonic", "tonic_health", "tonic_prost", "tower", "tracing"]),
    layer("admin",         &["limit", "rules", "config", "metrics", "health", "service", "usage", "connections"],
                                                                        &["axum", "base64", "hyper", "hyper_util", "serde", "serde_json", "tokio", "tokio_util", "tower", "tracing"]),
    // Composition. `prometheus` is the name of an error.
    layer("run",           EVERYTHING,                                  &["prometheus", "secrecy", "thiserror", "tokio", "tracing"]),
    layer("cli",           EVERYTHING,                                  &["serde_json", "tokio", "tracing"]),
    layer("lib",           EVERYTHING,                                  &[]),
    layer("main",          &[],                                         &["clap", "tikv_jemallocator", "tollgate"]),
];

const EVERYTHING: &[&str] = &[
    "admin",
    "clock",
    "config",
    "connections",
    "grpc",
    "health",
    "limit",
    "load",
    "metrics",
    "rules",
    "run",
    "service",
    "settings",
    "shutdown",
    "store",
    "telemetry",
    "usage",
];

/// These do nothing but compute: no waiting, no clock, nothing outside.
const PURE: &[&str] = &["limit", "rules"];
const IMPURE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
];

/// What is wrong with a file of the module `module` (`store::redis::batch`).
fn violations(module: &str, text: &str, crates: &[String]) -> Vec<String> {
    let Some(layer) = layer_of(module) else {
        return vec![format!("{module} has no row in the table")];
    };
    let mut wrong = Vec::new();
    for path in paths(text) {
        let shown = path.join("::");
        match target(module, &path, text, crates) {
            Target::Ours(used) => {
                let allowed = layer.uses.iter().any(|known| covers(known, &used));
                if !allowed && !covers(layer.module, &used) {
                    wrong.push(format!("{module} uses {shown}"));
                }
            }
            Target::Crate(name) if !layer.crates.contains(&name.as_str()) => {
                wrong.push(format!("{module} names {shown}"));
            }
            Target::Crate(_) | Target::Nothing => {}
        }
        let impure = IMPURE.iter().any(|impure| covers(impure, &shown));
        if PURE.contains(&layer.module) && impure {
            wrong.push(format!("{module} is pure and names {shown}"));
        }
    }
    if PURE.contains(&layer.module) && is_async(text) {
        wrong.push(format!("{module} is pure and waits"));
    }
    wrong.dedup();
    wrong
}

/// Whether `inner` is `outer` or in it.
fn covers(outer: &str, inner: &str) -> bool {
    let rest = inner.strip_prefix(outer);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn layer_of(module: &str) -> Option<&'static Layer> {
    let fitting = TABLE.iter().filter(|layer| covers(layer.module, module));
    fitting.max_by_key(|layer| layer.module.len())
}

/// What a path leads to.
enum Target {
    Ours(String),
    Crate(String),
    Nothing,
}

fn target(module: &str, path: &NamedPath, text: &str, crates: &[String]) -> Target {
    let mut here: Vec<&str> = module.split("::").collect();
    let mut rest = path.iter().map(String::as_str).peekable();
    match rest.peek() {
        Some(&"crate") => {
            here.clear();
            rest.next();
        }
        Some(&"super") => {
            while rest.next_if_eq(&"super").is_some() {
                here.pop();
            }
        }
        Some(&name) if crates.iter().any(|known| known == name) && !declares(text, name) => {
            return Target::Crate(name.to_owned());
        }
        _ => return Target::Nothing,
    }
    // What is in the root by itself is of `run`.
    let of_root = |name: &str| name.starts_with(char::is_uppercase);
    here.extend(rest.take_while(|name| !of_root(name)));
    if here.is_empty() {
        here.push("run");
    }
    Target::Ours(here.join("::"))
}

/// The outside crates, as code names them.
fn crates() -> Vec<String> {
    let manifest = std::fs::read_to_string(top().join("Cargo.toml")).unwrap();
    let dependencies = manifest.split("\n[").filter(|part| {
        let title = part.split(']').next().unwrap();
        title.ends_with("dependencies") && !title.contains("dev-") && !title.contains("build-")
    });
    let mut crates: Vec<String> = dependencies
        .flat_map(|part| part.lines().skip(1))
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name.replace('-', "_"))
        .collect();
    crates.push("tollgate".to_owned());
    crates
}

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of `src` that is not all tests, with its module.
fn files() -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut directories = vec![top().join("src")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") && !name.ends_with("tests.rs")
            {
                let inside = path.strip_prefix(top().join("src")).unwrap();
                let inside = inside.with_extension("");
                let module = inside.to_string_lossy().replace(['/', '\\'], "::");
                let module = module.strip_suffix("::mod").unwrap_or(&module);
                files.push((module.to_owned(), std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    files
}

#[test]
fn every_module_keeps_to_its_row() {
    let crates = crates();
    let files = files();
    assert!(files.len() > 60, "only {} files were found", files.len());
    let wrong: Vec<String> = files
        .iter()
        .flat_map(|(module, text)| violations(module, text, &crates))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_goes_up_only_and_names_what_there_is() {
    let crates = crates();
    let row = |module: &str| TABLE.iter().position(|layer| layer.module == module);
    for (index, layer) in TABLE.iter().enumerate() {
        for used in layer.uses {
            let above = row(used).expect("a row for whatever is used");
            let itself = covers(layer.module, used);
            assert!(above < index || itself, "{} uses {used}", layer.module);
        }
        for name in layer.crates {
            assert!(crates.iter().any(|known| known == name), "no crate {name}");
        }
    }
}

#[test]
fn the_crates_that_matter_most_are_in_one_place() {
    for (name, places) in [
        ("axum", &["admin"][..]),
        ("envoy_types", &["grpc"]),
        ("notify", &["config::watch"]),
        ("prometheus", &["metrics", "run"]),
        ("prost", &["grpc"]),
        ("redis", &["store::redis"]),
        ("serde_saphyr", &["config"]),
        ("tonic", &["grpc"]),
    ] {
        let naming: Vec<&str> = TABLE
            .iter()
            .filter(|layer| layer.crates.contains(&name))
            .map(|layer| layer.module)
            .collect();
        assert_eq!(naming, places, "{name}");
    }
}

/// What the check says of a line that stands in `module`.
fn said(module: &str, line: &str) -> Vec<String> {
    violations(module, line, &crates())
}

#[test]
fn what_is_against_the_table_is_caught_however_it_is_written() {
    for (module, line) in [
        ("limit::rate", "use crate::rules::Rule;"),
        ("limit::rate", "use crate::{clock::Clock, limit::Rate};"),
        ("limit::rate", "use super::super::rules::Rule;"),
        ("limit", "use super::rules::Rule;"),
        ("limit::rate", "fn f() { let _ = crate::clock::instant(); }"),
        ("limit::rate", "use tokio::time::sleep;"),
        ("limit::rate", "use std::time::{Duration, Instant};"),
        ("limit::rate", "fn f() -> std::io::Result<()> { Ok(()) }"),
        ("rules::key", "async fn f() {}"),
        ("rules", "#[derive(serde::Serialize)] struct S;"),
        ("rules::key", "use crate::config;"),
        ("config::yaml", "use tokio::fs;"),
        ("config::library", "use notify as n;"),
        ("config", "use crate::store::Store;"),
        ("store::memory", "use redis::Client;"),
        ("store::memory", "fn f() { ::redis::cmd(\"GET\"); }"),
        ("store", "use crate::service::Service;"),
        ("store::redis::batch", "use crate::metrics::Metrics;"),
        ("service::plan", "use tonic::Status;"),
        ("service::plan", "use crate::grpc::proto;"),
        ("service", "use { serde_json::Value, axum::Router };"),
        ("grpc::rls", "use crate::store::Store;"),
        ("grpc::rls", "use axum::Router;"),
        ("admin::v1", "use crate::grpc::proto;"),
        ("admin::v1", "use envoy_types::pb::google;"),
        ("admin::v1", "use crate::{Listeners, health};"),
        ("metrics", "use crate::service;"),
        ("load::generator", "use crate::grpc::client::Question;"),
        ("run", "fn f(_: redis::Client) {}"),
        ("cli::call", "use tonic::Status;"),
        ("novelty", "use std::fmt;"),
    ] {
        let wrong = said(module, line);
        assert_eq!(wrong.len(), 1, "{module}: {line}: {wrong:?}");
    }
}

#[test]
fn what_is_by_the_table_passes() {
    for (module, line) in [
        (
            "limit::rate",
            "use super::{Cost, spec::Limit}; use std::time::Duration;",
        ),
        (
            "limit",
            "//! Not [`crate::rules`], nor `use tokio::spawn;`\n/* use redis::Cmd; */",
        ),
        (
            "limit",
            "const S: &str = \"use tokio::spawn; \\\" tokio::x\"; const C: char = '\"';",
        ),
        (
            "limit",
            "const S: &str = r#\"tokio::spawn(\"x\")\"#; fn f<'a>(_: &'a u8) {}",
        ),
        (
            "limit",
            "#[cfg(test)]\nmod tests { use proptest::x; mod a { use tokio::y; } } use std::fmt;",
        ),
        ("limit", "#[cfg(test)]\nuse crate::clock;\nuse std::fmt;"),
        ("rules::key", "use crate::limit::{self, Rate};"),
        ("store", "mod redis; pub use redis::Redis;"),
        (
            "store::redis::batch",
            "use redis::{Cmd, Value}; use super::super::Charges;",
        ),
        (
            "store::redis",
            "use super::StoreError; fn f() { ::redis::cmd(\"GET\"); }",
        ),
        (
            "config::watch",
            "use super::{Library, LoadReport}; use notify::Event;",
        ),
        (
            "run",
            "use crate::{admin, clock, grpc, store}; use crate::config::{self, Library};",
        ),
        ("cli::serve", "use crate::{Listeners, run};"),
        ("main", "use tollgate::settings::Cli;"),
    ] {
        assert_eq!(said(module, line), [] as [&str; 0], "{module}: {line}");
    }
    let after = "#[cfg(test)]\nmod tests { fn f() { if true {} } }\nuse tokio::spawn;";
    assert_eq!(
        said("limit", after).len(),
        1,
        "what comes after tests counts"
    );
}
