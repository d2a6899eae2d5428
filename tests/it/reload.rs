//! Configuration that changes under load: no call fails, no answer mixes two versions, a file with
//! mistakes changes nothing, and what did not change is not touched.
//!
//! The load is a closed loop: its rate is what the machine gives, and is printed. What is held is
//! that every call was answered and that there were many, [`FLOOR`] a second over all changes.
//!
//! Every version has limits whose numbers belong together, and every answer names two of them.
#![expect(
    clippy::unwrap_used,
    reason = "a test's scaffolding fails the test where it stands"
)]

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::task::JoinSet;
use tollgate::clock;
use tollgate::grpc::proto::tollgate_client::TollgateClient;
use tollgate::grpc::proto::{Descriptor, Entry, InspectRequest};
use tonic::transport::Channel;

use crate::support::http;
use crate::support::http::metric;
use crate::support::process::PATIENCE;
use crate::support::rls::{Client, ask, channel, connect, descriptor, limit_of, request};
use crate::support::served::Tollgate;

/// How soon a change of a file has to be in force. About a second is promised; the rest is for a
/// busy machine. Files are looked at without any event every 30 s, which would be too late.
const SOON: Duration = Duration::from_secs(10);

const KEPT: &str = "keeping the last good configuration domain=\"moving\"";

/// How many ask at one moment, and on how many connections.
const CALLERS: usize = 16;
const CONNECTIONS: usize = 4;

/// Calls a second, over all changes, that a debug build still answers on a machine with other work.
const FLOOR: f64 = 100.0;

const ONE: u32 = 1_000_000;
const TWO: u32 = 2_000_000;

/// A version: its number is in three limits.
fn moving(version: u32) -> String {
    let (one, two) = (ONE + version, TWO + version);
    format!(
        "domain: moving
descriptors:
  - key: pair
    limits:
      - {{ name: one, rate: {one}/year, cost: hits }}
      - {{ name: two, rate: {two}/year, cost: hits }}
  - key: other
    limits: [{{ name: two, rate: {two}/year, cost: hits }}]
"
    )
}

const STEADY: &str = "domain: steady
descriptors: [{ key: k, limits: [{ name: steady, rate: 1M/year, cost: requests }] }]
";

/// What somebody may save instead of a version, each with the right numbers for a start.
fn broken(version: u32) -> String {
    let good = moving(version);
    match version % 5 {
        0 => good.replace("rate:", "rat:"),
        1 => good.replacen("/year", "/fortnight", 1),
        2 => format!("{good}  - key: pair\n"),
        3 => format!("{good}\t["),
        _ => String::new(),
    }
}

/// A directory like a mounted ConfigMap: files are links into `..data`, which is a link too and is
/// swapped whole.
struct Mount(TempDir);

impl Mount {
    fn new() -> Self {
        let mount = Self(tempfile::tempdir().unwrap());
        mount.swap(0, &moving(0));
        for name in ["moving.yaml", "steady.yaml"] {
            symlink(Path::new("..data").join(name), mount.path(name)).unwrap();
        }
        mount
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn swap(&self, version: u32, moving: &str) {
        let data = self.path(&format!("..2026_{version}"));
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("moving.yaml"), moving).unwrap();
        std::fs::write(data.join("steady.yaml"), STEADY).unwrap();
        let old = std::fs::read_link(self.path("..data")).ok();
        symlink(&data, self.path("..data_tmp")).unwrap();
        std::fs::rename(self.path("..data_tmp"), self.path("..data")).unwrap();
        if let Some(old) = old {
            std::fs::remove_dir_all(old).unwrap();
        }
    }

    /// What editors and tools do: another file under the same name.
    fn replace(&self, moving: &str) {
        std::fs::write(self.path("moving.yaml.new"), moving).unwrap();
        std::fs::rename(self.path("moving.yaml.new"), self.path("moving.yaml")).unwrap();
    }
}

/// The version that a call of Envoy's was decided by.
async fn version(client: &Client) -> u32 {
    let both = [
        descriptor(&[("pair", "x")], Some(1)),
        descriptor(&[("other", "x")], Some(1)),
    ];
    let answer = ask(client, request("moving", both)).await;
    let [one, two] = answer.statuses.as_slice() else {
        panic!("not two statuses: {answer:?}");
    };
    // Of the pair, the smaller share is left of the smaller limit.
    let (one, two) = (limit_of(one).unwrap() - ONE, limit_of(two).unwrap() - TWO);
    assert_eq!(one, two, "an answer of two versions");
    one
}

/// The version of the two limits of one rule.
async fn inspected(client: &mut TollgateClient<Channel>) -> u32 {
    let entry = Entry {
        key: "pair".to_owned(),
        value: "x".to_owned(),
    };
    let question = InspectRequest {
        domain: "moving".to_owned(),
        descriptor: Some(Descriptor {
            entries: vec![entry],
        }),
    };
    let answer = client.inspect(question).await.unwrap().into_inner();
    let bursts: Vec<u64> = answer.buckets.iter().map(|bucket| bucket.burst).collect();
    let version = u32::try_from(bursts[0]).unwrap() - ONE;
    let expected = [ONE, TWO].map(|base| u64::from(base + version));
    assert_eq!(bursts, expected, "a rule of two versions");
    version
}

/// Waits until calls are decided by this version.
async fn until(client: &Client, wanted: u32) {
    let begun = clock::instant();
    loop {
        let found = version(client).await;
        if found == wanted {
            return;
        }
        let waited = begun.elapsed();
        assert!(
            waited < SOON,
            "version {found} after {waited:?}, not {wanted}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// How much is left in the domain that does not change.
async fn steady(client: &Client) -> u32 {
    let answer = ask(client, request("steady", [descriptor(&[("k", "x")], None)])).await;
    assert_eq!(limit_of(&answer.statuses[0]), Some(1_000_000));
    answer.statuses[0].limit_remaining
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_changes_under_load_are_whole_and_harm_nobody() {
    let mount = Mount::new();
    let started = clock::Clock::System.now().as_micros() / 1_000_000;
    let config = format!("--config={}", mount.0.path().display());
    let mut tollgate = Tollgate::serve(&[&config]);
    let client = connect(&tollgate).await;

    // Callers that ask as fast as they are answered, until the changes are over.
    let over = Arc::new(AtomicBool::new(false));
    let latest = Arc::new(AtomicU32::new(0));
    let mut callers: JoinSet<(usize, u32)> = JoinSet::new();
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(channel(tollgate.grpc).await);
    }
    for connection in connections.iter().cycle().take(CALLERS) {
        let connection = connection.clone();
        let (over, latest) = (Arc::clone(&over), Arc::clone(&latest));
        callers.spawn(async move {
            let client = Client::new(connection.clone());
            let mut inspector = TollgateClient::new(connection);
            let (mut calls, mut changes, mut last) = (0, 0, 0);
            while !over.load(Ordering::SeqCst) {
                // Versions only ever go on: what was replaced is never seen again.
                for found in [version(&client).await, inspected(&mut inspector).await] {
                    assert!(found >= last, "version {found} after {last}");
                    assert!(
                        found <= latest.load(Ordering::SeqCst),
                        "an unwritten version"
                    );
                    changes += u32::from(found > last);
                    last = found;
                    calls += 1;
                }
            }
            (calls, changes)
        });
    }

    let mut left = 1_000_000;
    let mut good = 0;
    let begun = clock::instant();
    for number in 1..=20_u32 {
        let is_broken = number % 4 == 2;
        let text = if is_broken {
            broken(number)
        } else {
            moving(number)
        };
        if !is_broken {
            good = number;
            latest.store(number, Ordering::SeqCst);
        }
        let told = tollgate.lines_with(KEPT);
        // The first ones as Kubernetes does it. A replaced file is no link any more, so no way back.
        if number <= 10 {
            mount.swap(number, &text);
        } else {
            mount.replace(&text);
        }
        if is_broken {
            tollgate.wait_until(|tollgate| tollgate.lines_with(KEPT) > told);
        }
        until(&client, good).await;
        left -= 1;
        assert_eq!(steady(&client).await, left);
    }
    let took = begun.elapsed();
    over.store(true, Ordering::SeqCst);
    let callers = callers.join_all().await;
    let calls: usize = callers.iter().map(|(calls, _)| calls).sum();
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let rate = calls as f64 / took.as_secs_f64();
    println!("{calls} calls during 20 changes in {took:?}: {rate:.0} a second");
    for (calls, changes) in callers {
        assert!(
            calls > 20 && changes > 5,
            "{calls} calls saw {changes} changes"
        );
    }
    assert!(calls > 500, "{calls} calls are no load");
    assert!(rate >= FLOOR, "{rate:.0} calls a second");

    assert_eq!(version(&client).await, 20);
    assert_eq!(
        tollgate.lines_with("domain=\"steady\""),
        1,
        "it was loaded once"
    );
    assert_eq!(tollgate.lines_with(KEPT), 5);
    assert!(tollgate.lines_with("configuration error") >= 5);
    // The load at the start, and one for each change; a save may be seen in two steps.
    let metrics = http::send(tollgate.http, "GET", "/metrics", b"").await.body;
    let loads = |result| {
        let series = format!("tollgate_config_loads_total{{result=\"{result}\"}}");
        metric(&metrics, &series)
    };
    let (good, bad) = (loads("success"), loads("error"));
    assert!(good >= 16 && bad >= 5, "{good} good loads, {bad} bad ones");
    let last = metric(&metrics, "tollgate_config_last_success_timestamp_seconds");
    let now = clock::Clock::System.now().as_micros() / 1_000_000;
    assert!(
        started <= last && last <= now,
        "{last} not in {started}..={now}"
    );
    assert!(tollgate.runs());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_asks_for_a_look_at_what_cannot_be_watched() {
    // The file is behind a link, and where it is nobody watches.
    let (here, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = elsewhere.path().join("text");
    std::fs::write(&file, moving(0)).unwrap();
    let link = here.path().join("moving.yaml");
    symlink(&file, &link).unwrap();
    let config = format!("--config={}", link.display());
    let mut tollgate = Tollgate::serve(&[&config, "--log-level=debug"]);
    let client = connect(&tollgate).await;
    // The first look is taken without being asked for. With this one it is over.
    tollgate.signal("-HUP");
    tollgate.wait_for_line(|line| line.contains("asked for by SIGHUP"));
    for number in 1..=3 {
        std::fs::write(&file, moving(number)).unwrap();
        if number > 1 {
            assert_eq!(version(&client).await, number - 1, "it was watched");
        }
        tollgate.signal("-HUP");
        until(&client, number).await;
    }
    assert!(tollgate.runs());
    tollgate.signal("-TERM");
    tollgate.signal("-TERM");
    assert_eq!(tollgate.ended(PATIENCE).code(), Some(0));
}
