//! `tollgate bench`, against Tollgate and against services that break off.
#![expect(
    clippy::unwrap_used,
    reason = "a test's scaffolding fails the test where it stands"
)]

mod peer;

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use self::peer::{Do, Peer};
use crate::support::http;
use crate::support::served::{Ran, Tollgate, run, tollgate};

/// Ten hits for each tenant, and none of them comes back while a test runs.
const TEN: &str = "
domain: ten
descriptors:
  - key: tenant
    limits:
      - { name: hits, rate: 10/year, cost: hits }
";

const TENANTS: &[&str] = &["--domain=ten", "--descriptor=tenant=t{key}"];

fn ten() -> Tollgate {
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("ten.yaml");
    std::fs::write(&file, TEN).unwrap();
    Tollgate::serve(&["--config", file.to_str().unwrap()])
}

fn bench(address: &str, flags: &[&str]) -> Ran {
    run(&[&["bench", address, "--warm-up=0s"], TENANTS, flags].concat())
}

/// What it measured.
fn measured(address: &str, flags: &[&str]) -> (Option<i32>, Value) {
    let ran = bench(address, &[flags, &["--json"]].concat());
    let told = serde_json::from_str(&ran.out);
    (
        ran.code,
        told.unwrap_or_else(|_| panic!("no JSON: {ran:?}")),
    )
}

#[test]
fn every_request_is_asked_and_every_answer_counted() {
    let ten = ten();
    let address = ten.grpc.to_string();
    for (pace, key) in [("closed", 0), ("gathered", 1), ("open", 2)] {
        let descriptor = format!("--descriptor=tenant={key}");
        let flags = ["--keys=one", "--requests=700", &descriptor];
        let more: &[&str] = match pace {
            "gathered" => &["--gather", "--in-flight=32", "--connections=3"],
            "open" => &["--rate=5000"],
            _ => &[],
        };
        // A tenant that only this turn asks for, besides the one of the key.
        let (code, told) = measured(&address, &[&flags[..], more].concat());
        assert_eq!(code, Some(0), "{told}");
        assert_eq!(told["mode"], pace);
        assert_eq!(told["answers"], 700);
        // `t0` is spent when the first turn is over; all that follows is refused for its sake.
        let passed = if key == 0 { 10 } else { 0 };
        assert_eq!(told["codes"]["OVER_LIMIT"], 700 - passed, "{told}");
        assert_eq!(told["codes"]["OK"].as_u64().unwrap_or(0), passed);
        let latency = |name: &str| told["latency_us"][name].as_f64().unwrap();
        assert!(latency("p50") > 0.0, "{told}");
        let names = ["p50", "p90", "p99", "p99.9", "max"];
        assert!(names.is_sorted_by_key(|name| latency(name)), "{told}");
        assert_eq!(told["unanswered"], 0);
        assert_eq!(told["interrupted"], false);
    }
}

#[test]
fn an_open_loop_keeps_to_its_schedule() {
    let ten = ten();
    let flags = ["--rate=400", "--requests=101"];
    let (code, told) = measured(&ten.grpc.to_string(), &flags);
    assert_eq!((code, &told["answers"]), (Some(0), &json!(101)), "{told}");
    // The last one goes out a quarter of a second after the first, whatever the service does.
    let seconds = told["seconds"].as_f64().unwrap();
    assert!(seconds >= 0.25, "{told}");
    assert_eq!(told["rate"], 400.0);
}

#[test]
fn waiting_for_a_slot_counts_as_latency() {
    // Answers nothing for 50 ms; a closed loop would have sent one request, and waited once.
    let peer = Peer::start(&[&[Do::Pause(50), Do::Answer(20)]]);
    let flags = [
        "--rate=2000",
        "--requests=20",
        "--in-flight=1",
        "--connections=1",
    ];
    let (code, told) = measured(&peer.address(), &flags);
    assert_eq!((code, &told["answers"]), (Some(0), &json!(20)), "{told}");
    let p50 = told["latency_us"]["p50"].as_f64().unwrap();
    assert!(p50 > 30_000.0, "{told}");
    assert_eq!(told["without_slot"], 19, "{told}");
    assert_eq!(told["late"], 19, "{told}");
}

#[test]
fn reports_are_mixed_in() {
    let ten = ten();
    let address = ten.grpc.to_string();
    // Of 18 hits every third is a report, which is charged whatever is left.
    let flags = ["--keys=one", "--requests=6", "--hits=3", "--report-every=3"];
    let one_by_one = ["--in-flight=1", "--connections=1"];
    let (code, told) = measured(&address, &[&flags[..], &one_by_one].concat());
    assert_eq!(code, Some(0), "{told}");
    // 3, 6, reported 9; 12 is too much, twice; reported 12.
    assert_eq!(told["codes"], json!({"OK": 4, "OVER_LIMIT": 2}));
}

#[test]
fn some_keys_are_drawn_more_often_than_others() {
    let ten = ten();
    let address = ten.grpc.to_string();
    let (_, even) = measured(&address, &["--keys=uniform:1000", "--requests=200"]);
    assert_eq!(even["codes"], json!({"OK": 200}));
    let (_, steep) = measured(&address, &["--keys=zipf:1000:2", "--requests=200"]);
    // Six of ten are the first key's.
    let refused = steep["codes"]["OVER_LIMIT"].as_u64().unwrap();
    assert!((90..160).contains(&refused), "{steep}");
    assert_eq!(steep["keys"], "zipf:1000:2");
}

#[test]
fn the_price_of_an_answer_is_told() {
    let ten = ten();
    let pid = format!("--pid=tollgate={}", ten.pid());
    let own = format!("--pid=tests={}", std::process::id());
    let address = ten.grpc.to_string();
    let flags = ["--duration=300ms", "--warm-up=100ms", &pid, &own];
    let start = ["bench", &address, "--json"];
    let ran = run(&[&start, TENANTS, &flags].concat());
    let told: Value = serde_json::from_str(&ran.out).unwrap();
    let cost = told["cpu_us_per_answer"]["tollgate"].as_f64().unwrap();
    assert!((1.0..100_000.0).contains(&cost), "{told}");
    assert!(told["cpu_us_per_answer"]["tests"].is_number(), "{told}");
    assert!(told["seconds"].as_f64().unwrap() >= 0.3, "{told}");

    let shown = bench(&address, &["--requests=100", &pid, &own]).out;
    for part in [
        "100 answers in ",
        "\n  OK ",
        "\n  p99.9 ",
        "\n  tollgate ",
        "\n  together ",
    ] {
        assert!(shown.contains(part), "no {part:?} in {shown}");
    }
}

#[test]
fn errors_are_told_by_their_codes() {
    let ten = ten();
    let address = ten.grpc.to_string();
    let flags = ["--domain=", "--descriptor=a=b", "--requests=50", "--json"];
    let ran = run(&[&["bench", &address, "--warm-up=0s"], &flags[..]].concat());
    assert_eq!(ran.code, Some(1));
    let told: Value = serde_json::from_str(&ran.out).unwrap();
    let why = told["errors"].as_object().unwrap().values().next().unwrap();
    assert!(why.as_str().unwrap().contains("domain"), "{told}");
    let codes = told["codes"].as_object().unwrap();
    assert_eq!(codes.values().collect::<Vec<_>>(), [50], "{told}");
}

#[test]
fn nobody_to_ask_is_told() {
    let closed = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let ran = bench(&closed, &[]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""));
    let expected = format!("tollgate: cannot reach {closed}: Connection refused");
    assert!(ran.err.starts_with(&expected), "{ran:?}");

    let ten = ten();
    let ran = bench(&ten.http.to_string(), &[]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("does not speak gRPC"), "{ran:?}");

    let ran = bench(&ten.grpc.to_string(), &["--pid=4294967295"]);
    assert_eq!(ran.code, Some(2));
    assert!(
        ran.err.contains("CPU time of process 4294967295"),
        "{ran:?}"
    );
}

#[test]
fn wrong_flags_are_told() {
    for (flag, why) in [
        ("--keys=two", "uniform:N"),
        ("--rate=0", "0.001"),
        ("--duration=10", "a number and a unit"),
        ("--requests=0", "--requests"),
        ("--pid=redis", "NAME=PID"),
        ("--descriptor=tenant", "KEY=VALUE"),
        ("--in-flight=3", "--connections 4"),
    ] {
        let ran = bench("127.0.0.1:1", &[flag]);
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{flag}");
        assert!(ran.err.contains(why), "{flag}: {ran:?}");
    }
    assert_eq!(
        bench("127.0.0.1:1", &["--rate=5", "--gather"]).code,
        Some(2)
    );
    let ran = bench("https://limits:443", &[]);
    assert!(
        ran.err.contains("'https://limits:443' is no address"),
        "{ran:?}"
    );
    assert_eq!(run(&["bench", "127.0.0.1:1", "--domain=d"]).code, Some(2));
}

#[tokio::test]
async fn an_interrupt_ends_it_and_what_was_measured_is_told() {
    let ten = ten();
    let address = ten.grpc.to_string();
    let child = tollgate()
        .args([
            "bench",
            &address,
            "--duration=10m",
            "--json",
            "--warm-up=0s",
        ])
        .args(TENANTS)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    loop {
        let page = http::send(ten.http, "GET", "/metrics", b"").await.body;
        let asked = page.lines().any(|line| {
            line.starts_with("tollgate_decision_duration_seconds_count") && !line.ends_with(" 0")
        });
        if asked {
            break;
        }
    }
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["interrupted"], true, "{told}");
    assert!(told["answers"].as_u64().unwrap() > 0, "{told}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_service_that_goes_away_is_connected_to_again() {
    let peer = Peer::start(&[&[Do::Answer(2), Do::GoAway], &[Do::Ping, Do::Answer(7)]]);
    let flags = ["--requests=10", "--in-flight=1", "--connections=1"];
    let (code, told) = measured(&peer.address(), &flags);
    assert_eq!((code, &told["answers"]), (Some(0), &json!(10)), "{told}");
    assert_eq!(peer.pongs(), 1);
}

#[test]
fn broken_connections_and_streams_are_failures() {
    let peer = Peer::start(&[&[Do::Answer(2), Do::Reset(8), Do::HangUp], &[Do::Answer(6)]]);
    let flags = ["--requests=10", "--in-flight=1", "--connections=1"];
    let (code, told) = measured(&peer.address(), &flags);
    assert_eq!(code, Some(1));
    let codes = json!({"OK": 8, "CANCELLED": 1, "UNAVAILABLE": 1});
    assert_eq!(told["codes"], codes, "{told}");
}

#[test]
fn answers_may_come_in_pieces() {
    let peer = Peer::start(&[&[Do::Dribble(5)]]);
    let flags = ["--requests=5", "--in-flight=2", "--connections=1"];
    let (code, told) = measured(&peer.address(), &flags);
    assert_eq!(
        (code, &told["codes"]),
        (Some(0), &json!({"OK": 5})),
        "{told}"
    );
}

#[test]
fn what_is_not_understood_is_told_as_that() {
    let peer = Peer::start(&[&[Do::Answer(3), Do::Continue]]);
    let flags = ["--requests=9", "--in-flight=1", "--connections=1"];
    let ran = bench(&peer.address(), &flags);
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("CONTINUATION"), "{ran:?}");
    // What there was is told all the same.
    assert!(ran.out.contains("\n3 answers in "), "{ran:?}");
}
