//! The examples, as a reader would use them: a real Envoy must accept every one, and so must we.
//!
//! Istio is not run. What its gateways would do with our patches is done here, to a plain Envoy
//! configuration, and Envoy judges the result.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test's scaffolding fails the test where it stands"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::served::{Tollgate, run};

const TOLLGATE_IN_ISTIO: &str = "outbound|8081||tollgate.tollgate.svc.cluster.local";

/// The examples that have a configuration of Envoy.
const WITH_ENVOY: [&str; 5] = ["access_log", "ext_proc", "quickstart", "redis", "settle"];

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn example(name: &str) -> PathBuf {
    top().join("examples/envoy").join(name)
}

fn read(name: &str) -> Value {
    let path = example(name);
    let text = std::fs::read_to_string(&path).unwrap();
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn assert_envoy_accepts(config: &Path) {
    let envoy = top().join(".tools/envoy");
    let answer = Command::new(&envoy)
        .args(["--mode", "validate", "--log-level", "error", "-c"])
        .arg(config)
        .output()
        .unwrap_or_else(|error| {
            panic!(
                "{}: {error}; run scripts/install-test-tools",
                envoy.display()
            )
        });
    assert!(
        answer.status.success(),
        "{}:\n{}",
        config.display(),
        String::from_utf8_lossy(&answer.stderr)
    );
}

#[test]
fn envoy_accepts_every_example() {
    for name in WITH_ENVOY {
        assert_envoy_accepts(&example(name).join("envoy.yaml"));
    }
}

/// Our own configuration in a directory and below: every `tollgate.yaml`, and all of `config`.
fn configurations(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut configurations(&path));
        } else if path.ends_with("tollgate.yaml") || directory.ends_with("examples/config") {
            found.push(path);
        }
    }
    found
}

#[test]
fn check_accepts_every_example() {
    let files = configurations(&top().join("examples"));
    assert!(files.len() >= 6, "{files:?}");
    for file in files {
        let file = file.to_str().unwrap();
        let ran = run(&["check", file]);
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
        // Nothing but what was loaded: no warning.
        let mut lines = ran.out.lines();
        assert!(lines.all(|line| line.starts_with("domain '")), "{ran:?}");
        assert!(!ran.out.is_empty(), "{file}");
    }
}

#[test]
fn every_port_of_an_example_is_used_once() {
    for name in WITH_ENVOY {
        let text = std::fs::read_to_string(example(name).join("envoy.yaml")).unwrap();
        let (comments, lines): (Vec<_>, Vec<_>) = text
            .lines()
            .filter(|line| line.contains("port_value: "))
            .partition(|line| line.trim_start().starts_with('#'));
        let port = |line: &&str| {
            let (_, rest) = line.split_once("port_value: ").unwrap();
            rest.split_whitespace().next().unwrap().to_owned()
        };
        let mut told: Vec<_> = comments.iter().map(port).collect();
        let mut used: Vec<_> = lines.iter().map(port).collect();
        told.sort_unstable();
        used.sort_unstable();
        assert_eq!(
            told, used,
            "{name}: the ports at its top are not those that it uses"
        );
        told.dedup();
        assert_eq!(told.len(), used.len(), "{name}: a port is used twice");
    }
}

#[test]
fn envoy_accepts_what_istio_makes_of_our_patches() {
    let config = patched_gateway();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gateway.json");
    std::fs::write(&file, config.to_string()).unwrap();
    assert_envoy_accepts(&file);
}

#[test]
fn istio_gets_the_filters_of_settle() {
    let mut expected = filters(&read("settle/envoy.yaml")).clone();
    let limits = &mut expected[2]["typed_config"];
    limits["rate_limit_service"]["grpc_service"]["envoy_grpc"]["cluster_name"] =
        TOLLGATE_IN_ISTIO.into();
    // Routes of Istio cannot carry metadata; their cluster says where they lead.
    limits["rate_limits"][1] = json!({ "actions": [{ "destination_cluster": {} }] });
    assert_eq!(filters(&patched_gateway()), &expected);
}

fn filters(config: &Value) -> &Vec<Value> {
    let manager = &config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0];
    manager["typed_config"]["http_filters"].as_array().unwrap()
}

/// A gateway that knows nothing of Tollgate, with the patches applied.
fn patched_gateway() -> Value {
    let mut config = read("redis/envoy.yaml");
    config["static_resources"]["clusters"][0]["name"] = TOLLGATE_IN_ISTIO.into();
    config["static_resources"]["clusters"][0]["load_assignment"]["cluster_name"] =
        TOLLGATE_IN_ISTIO.into();
    let listener = &mut config["static_resources"]["listeners"][0];
    let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    manager
        .as_object_mut()
        .unwrap()
        .remove("early_header_mutation_extensions");
    manager["http_filters"].as_array_mut().unwrap().remove(0);
    manager["route_config"]["virtual_hosts"][0] = json!({
        "name": "gateway",
        "domains": ["*"],
        "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "service" } }],
    });

    let filter = read("istio/envoyfilter.yaml");
    for patch in filter["spec"]["configPatches"].as_array().unwrap() {
        let value = &patch["patch"]["value"];
        let listener = &mut config["static_resources"]["listeners"][0];
        let operation = patch["patch"]["operation"].as_str().unwrap();
        match (patch["applyTo"].as_str().unwrap(), operation) {
            ("LISTENER", "MERGE") => merge(listener, value),
            ("NETWORK_FILTER", "MERGE") => {
                merge(&mut listener["filter_chains"][0]["filters"][0], value);
            }
            ("HTTP_FILTER", "INSERT_BEFORE") => {
                let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
                let filters = manager["http_filters"].as_array_mut().unwrap();
                filters.insert(filters.len() - 1, value.clone());
            }
            other => panic!("a patch that this test does not know: {other:?}"),
        }
    }
    config
}

/// Merges as protobuf does: fields are set, lists grow.
fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.as_str()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) => into.extend(from.iter().cloned()),
        (into, from) => *into = from.clone(),
    }
}

#[test]
fn the_calls_of_our_api_do_what_they_say() {
    let tollgate = Tollgate::serve(&[]);
    let calls = top().join("examples/api/calls.py");
    let done = Command::new("python3")
        .arg(calls)
        .arg(tollgate.http.to_string())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{done:?}");
    assert!(told.ends_with("all as expected\n"), "{told}");
}
