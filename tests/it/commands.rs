//! The commands, as people and scripts use them: what they print, and how they end.
#![expect(
    clippy::unwrap_used,
    reason = "a test's scaffolding fails the test where it stands"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::process::PATIENCE;
use crate::support::served::{Ran, Tollgate, run, tollgate};

const EXAMPLE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/examples/config/quickstart.yaml"
);

/// A domain whose numbers stay as they are while a test runs.
const SLOW: &str = "
domain: slow
descriptors:
  - key: tenant
    limits:
      - { name: hits, rate: 10/year, cost: hits }
  - key: tenant
    value: free
";

fn file(text: &str) -> (TempDir, PathBuf) {
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("file.yaml");
    std::fs::write(&file, text).unwrap();
    (files, file)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

struct Slow(Tollgate);

impl Slow {
    fn start() -> Self {
        let (_files, file) = file(SLOW);
        Self(Tollgate::serve(&["--config", text(&file)]))
    }

    fn call(&self, arguments: &[&str]) -> Ran {
        let address = self.0.grpc.to_string();
        let start = ["call", address.as_str(), "--domain", "slow"];
        run(&[&start, arguments].concat())
    }
}

#[test]
fn check_tells_what_it_found() {
    let ran = run(&["check", EXAMPLE]);
    assert_eq!(
        (ran.code, ran.out.as_str(), ran.err.as_str()),
        (Some(0), "domain 'llm': 4 rules, 8 limits\n", "")
    );
    let (_files, slow) = file(SLOW);
    let ran = run(&["check", EXAMPLE, text(&slow)]);
    assert_eq!(ran.code, Some(0));
    assert!(
        ran.out.ends_with("domain 'slow': 2 rules, 1 limit\n"),
        "{ran:?}"
    );
}

#[test]
fn check_tells_every_mistake_with_its_place() {
    let (files, wrong) = file(
        "domain: a
descriptors:
  - key: k
    limits:
      - { name: n, rate: 5/fortnight }
      - { name: m, rate: 5/minute, brust: 7 }
",
    );
    let syntax = files.path().join("syntax.yaml");
    std::fs::write(&syntax, "domain: b\ndescriptors: [\n").unwrap();
    std::fs::write(files.path().join("good.yaml"), SLOW).unwrap();
    let ran = run(&["check", text(files.path())]);
    assert_eq!(ran.code, Some(1));
    let (wrong, syntax) = (text(&wrong), text(&syntax));
    let lines: Vec<&str> = ran.out.lines().collect();
    for (place, what) in [
        (format!("error: {wrong}:5:26: "), "'fortnight'"),
        (format!("error: {wrong}:6:36: "), "did you mean 'burst'?"),
        (format!("error: {syntax}:"), ""),
    ] {
        let told = |line: &&&str| line.starts_with(&place) && line.contains(what);
        assert_eq!(
            lines.iter().filter(told).count(),
            1,
            "{place}{what}: {ran:?}"
        );
    }
    assert!(
        lines.contains(&"domain 'slow': 2 rules, 1 limit"),
        "{ran:?}"
    );
    assert_eq!(lines.last(), Some(&"3 errors"));

    let ran = run(&["check", "/nonexistent/file.yaml"]);
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.out.contains("/nonexistent/file.yaml: cannot be read"),
        "{ran:?}"
    );

    let nothing = tempfile::tempdir().unwrap();
    let ran = run(&["check", text(nothing.path())]);
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.out, "error: no configuration files found\n");
}

#[test]
fn two_files_of_one_domain_need_a_flag() {
    let (files, _) = file(SLOW);
    let more = "domain: slow\ndescriptors: [{ key: more }]\n";
    std::fs::write(files.path().join("more.yaml"), more).unwrap();
    let ran = run(&["check", text(files.path())]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let merged = "domain 'slow': 3 rules, 1 limit\n";
    let ran = run(&["check", "--merge-domains", text(files.path())]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), merged));
    let ran = Ran::of(
        tollgate()
            .args(["check", text(files.path())])
            .env("TOLLGATE_MERGE_DOMAINS", "true"),
    );
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), merged));
}

#[test]
fn explain_tells_what_a_descriptor_comes_to() {
    let ran = run(&["explain", EXAMPLE, "tenant=acme"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    // What buckets are called is not for people to know, but to look up.
    let (buckets, told): (Vec<&str>, Vec<&str>) = ran
        .out
        .lines()
        .partition(|line| line.starts_with("    bucket "));
    assert_eq!(
        told.join("\n"),
        "domain 'llm', descriptor (tenant=acme)
rule: tenant=acme
  tenant-requests: 50/minute, token_bucket, burst 50, cost: requests, keeps 10 free of batch
  tenant-tokens: 50000/minute, token_bucket, burst 100000, cost: tokens, estimate 800
  tenant-daily-requests: 10000/day, fixed_window, cost: requests"
    );
    assert_eq!(buckets.len(), 3);

    let ran = run(&["explain", EXAMPLE, "nobody=x"]);
    assert_eq!(ran.code, Some(0));
    assert!(ran.out.contains("no rule, so everything passes"), "{ran:?}");

    let (files, _) = file(SLOW);
    std::fs::copy(EXAMPLE, files.path().join("example.yaml")).unwrap();
    let both = text(files.path());
    let ran = run(&["explain", both, "tenant=free"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("llm, slow"), "{ran:?}");
    let ran = run(&["explain", both, "--domain", "slow", "tenant=free"]);
    assert_eq!(ran.code, Some(0));
    assert!(ran.out.contains("rule: tenant=free\n"), "{ran:?}");
    let ran = run(&["explain", both, "--domain", "fast", "tenant=free"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("no domain 'fast'"), "{ran:?}");
}

#[test]
fn presets_are_listed_and_shown_with_their_source() {
    let all = run(&["presets"]);
    assert_eq!((all.code, all.err.as_str()), (Some(0), ""));
    let some = run(&["presets", "anthropic/start/"]);
    let names: Vec<&str> = some.out.lines().collect();
    assert!(names.contains(&"anthropic/start/claude-opus-5"), "{some:?}");
    assert!(all.out.lines().count() > names.len(), "{all:?}");

    let one = run(&["presets", "azure-openai/standard", "tpm=60k"]);
    assert_eq!((one.code, one.err.as_str()), (Some(0), ""));
    assert!(
        one.out.starts_with(
            "azure-openai/standard
  azure-requests: 360/minute, token_bucket, burst 60, cost: requests
"
        ),
        "{one:?}"
    );
    assert!(one.out.contains("\n  figures: https://"), "{one:?}");

    let none = run(&["presets", "openai/tier1/gpt-4o"]);
    assert_eq!((none.code, none.out.as_str()), (Some(1), ""));
    assert_eq!(
        none.err,
        "error: unknown preset 'openai/tier1/gpt-4o': did you mean 'openai/tier-1/gpt-4o'?\n"
    );
}

#[test]
fn call_prints_answers_for_people() {
    let slow = Slow::start();
    let ran = slow.call(&["tenant=a", "--hits", "3"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    assert!(
        ran.out
            .starts_with("OK\n  OK         tenant=a  hits: 10/year, 7 left"),
        "{ran:?}"
    );

    // Looking changes nothing, whatever it is that one looks at.
    for _ in 0..2 {
        let ran = slow.call(&["tenant=a", "tollgate.phase=peek"]);
        assert_eq!(ran.code, Some(0));
        assert!(ran.out.contains("hits: 10/year, 7 left"), "{ran:?}");
        let ran = slow.call(&["tenant=a", "--hits", "0"]);
        assert_eq!(ran.code, Some(0));
        assert!(ran.out.contains("hits: 10/year, 7 left"), "{ran:?}");
    }

    let ran = slow.call(&["tenant=a", "--hits", "8"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.out.starts_with("OVER_LIMIT\n  OVER_LIMIT tenant=a"),
        "{ran:?}"
    );

    // One more than there are left; the answers are numbered, and one that is refused is enough.
    let ran = slow.call(&["tenant=a", "--repeat", "8"]);
    assert_eq!(ran.code, Some(1));
    let verdicts: Vec<&str> = ran
        .out
        .lines()
        .filter(|line| !line.starts_with(' '))
        .collect();
    let expected: Vec<String> = (1..=8)
        .map(|number| format!("{number}: {}", if number < 8 { "OK" } else { "OVER_LIMIT" }))
        .collect();
    assert_eq!(verdicts, expected);

    let ran = slow.call(&[
        "--descriptor",
        "tenant=b",
        "--descriptor",
        "tenant=free,x=y",
        "tenant=free",
    ]);
    assert_eq!(ran.code, Some(0));
    let lines: Vec<&str> = ran.out.lines().take(4).collect();
    assert_eq!(lines[0..2], ["OK", "  OK         tenant=free  no limit"]);
    assert!(lines[2].starts_with("  OK         tenant=b  hits: 10/year, 9 left"));
    assert_eq!(lines[3], "  OK         tenant=free x=y  no limit");
}

#[test]
fn call_prints_answers_for_programs() {
    let slow = Slow::start();
    let ran = slow.call(&[
        "tenant=a",
        "--descriptor",
        "tenant=free",
        "--json",
        "--hits",
        "4",
        "--repeat",
        "3",
    ]);
    assert_eq!(ran.code, Some(1));
    let answers: Vec<Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let told: Vec<_> = answers
        .iter()
        .map(|answer| {
            (
                answer["code"].as_str().unwrap(),
                answer["statuses"][0]["remaining"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(told, [("OK", 6), ("OK", 2), ("OVER_LIMIT", 0)]);
    let first = &answers[0]["statuses"];
    assert_eq!(first[0]["limit"], "hits");
    assert_eq!(first[0]["requests_per_unit"], 10);
    assert_eq!(first[0]["unit"], "year");
    assert_eq!(first[1]["limit"], Value::Null);
    assert_eq!(first.as_array().unwrap().len(), 2);
}

#[test]
fn call_says_why_there_is_no_answer() {
    let slow = Slow::start();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let address = slow.0.grpc.to_string();
    let url = format!("http://{address}");
    let ran = run(&["call", &url, "--domain", "slow", "tenant=free"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");

    let domain = ["--domain", "slow"];
    let wrong: [(&[&str], &str); 9] = [
        (&[&nobody, "tenant=a"], "refused"),
        (&["not an address", "tenant=a"], "is no address"),
        (&[&address, "tenant"], "write KEY=VALUE"),
        (&[&address, "=a"], "write KEY=VALUE"),
        (&[&address, "--descriptor", "tenant=a,b"], "write KEY=VALUE"),
        (&[&address], "KEY=VALUE"),
        (&[&address, "tenant=a", "--hits", "-1"], "-1"),
        (&[&address, "tenant=a", "--repeat", "0"], "--repeat"),
        (&[&address, "tollgate.phase=guess"], "a phase is one of"),
    ];
    for (arguments, part) in wrong {
        let ran = run(&[&["call"], arguments, &domain].concat());
        assert_eq!(ran.code, Some(2), "{arguments:?}: {ran:?}");
        assert!(ran.err.contains(part), "{arguments:?}: {ran:?}");
        assert_eq!(ran.out, "");
    }
}

#[test]
fn the_built_in_example_is_served_as_its_greeting_says() {
    let mut tollgate = Tollgate::serve(&[]);
    let greeting = tollgate.wait_for_line(|line| line.contains("Try: tollgate call"));
    let (_, command) = greeting.split_once("Try: tollgate ").unwrap();
    let ran = run(&command.split_whitespace().collect::<Vec<&str>>());
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.out.contains("5: OK") && ran.out.contains("6: OVER_LIMIT"),
        "{ran:?}"
    );
}

#[test]
fn every_flag_of_serve_names_its_environment_twin() {
    let help = run(&["serve", "--help"]);
    assert_eq!(help.code, Some(0));
    let flags = help.out.split("\n      --").skip(1);
    let mut count = 0;
    for flag in flags {
        let (name, rest) = flag.split_once([' ', '\n']).unwrap();
        let twin = format!("[env: TOLLGATE_{}", name.to_uppercase().replace('-', "_"));
        assert!(rest.contains(&twin), "--{name} does not name {twin}");
        count += 1;
    }
    assert!(count >= 10, "only {count} flags were found");
}

#[test]
fn every_command_has_help_and_the_version() {
    for command in [
        &[][..],
        &["serve"],
        &["check"],
        &["explain"],
        &["presets"],
        &["call"],
        &["bench"],
    ] {
        let help = run(&[command, &["--help"]].concat());
        assert_eq!(help.code, Some(0));
        assert!(help.out.contains("Usage: tollgate"), "{help:?}");
        let widest = help.out.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(100), "a line of {widest:?}: {}", help.out);
        let version = run(&[command, &["--version"]].concat());
        assert_eq!(version.code, Some(0));
        assert!(
            version.out.trim_end().ends_with(env!("CARGO_PKG_VERSION")),
            "{version:?}"
        );
    }
    let ran = run(&[]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("Usage: tollgate"), "{ran:?}");
    assert_eq!(run(&["sing"]).code, Some(2));
}

#[test]
fn flags_may_come_from_the_environment_and_the_command_line_wins() {
    let (_files, slow) = file(SLOW);
    let environment = |command: &mut Command| {
        command
            .arg("serve")
            .env("TOLLGATE_GRPC_ADDR", "127.0.0.1:0")
            .env("TOLLGATE_HTTP_ADDR", "127.0.0.1:0")
            .env("TOLLGATE_CONFIG", format!("{},{EXAMPLE}", text(&slow)))
            .env("TOLLGATE_STORE", "memory")
            .env("TOLLGATE_DRAIN_DELAY", "1h")
            .env("TOLLGATE_LOG_LEVEL", "debug");
    };
    let mut command = tollgate();
    environment(&mut command);
    let mut serving = Tollgate::start(command.arg("--drain-delay=0s"));
    for domain in ["slow", "llm"] {
        let line = format!("configuration loaded domain=\"{domain}\"");
        assert_eq!(serving.lines_with(&line), 1);
    }
    serving.signal("-TERM");
    assert_eq!(serving.ended(PATIENCE).code(), Some(0));
    assert_eq!(serving.lines_with("leaving delay=0ns"), 1);

    let ran = Ran::of(tollgate().arg("serve").env("TOLLGATE_STORE_TIMEOUT", "15"));
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("--store-timeout"), "{ran:?}");
}

#[test]
fn logs_are_json_where_asked_for() {
    let mut command = tollgate();
    command.args([
        "serve",
        "--log-format=json",
        "--grpc-addr=127.0.0.1:0",
        "--http-addr=127.0.0.1:0",
    ]);
    let serving = Tollgate::start(&mut command);
    for line in serving.log().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(
            line["message"].is_string() && line["level"].is_string(),
            "{line}"
        );
    }
    assert!(serving.log().lines().count() > 0);
}
