//! Changes on a real file system, and what is heard of them.

use std::fs;
use std::os::unix::fs::symlink;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::DropGuard;

use std::path::PathBuf;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Library;
use super::watch::{Timing, Watcher, concerns};

const BOUND: Duration = Duration::from_secs(20);

fn text(domain: &str, amount: usize) -> String {
    let limit = format!("rate_limit: {{ unit: day, requests_per_unit: {amount} }}");
    format!("domain: {domain}\ndescriptors:\n  - key: k\n    {limit}\n")
}

/// A watcher at work: what it publishes, as lines.
struct Watched {
    told: UnboundedReceiver<String>,
    _stop: DropGuard,
}

impl Watched {
    /// Events alone bring news here: there is no poll but the first.
    fn new(paths: Vec<PathBuf>) -> Self {
        let timing = Timing {
            poll: Duration::from_hours(1),
            ..Timing::default()
        };
        Self::with(paths, timing)
    }

    fn with(paths: Vec<PathBuf>, timing: Timing) -> Self {
        let (sender, told) = mpsc::unbounded_channel();
        let shutdown = CancellationToken::new();
        let (library, opened) = Library::open(paths, false);
        let watcher = Watcher::new(library, opened, timing);
        tokio::spawn(watcher.run(shutdown.clone(), move |library, report| {
            let outlines = library
                .domains()
                .values()
                .map(|domain| super::outline(domain));
            let errors = report
                .errors
                .iter()
                .map(|error| format!("{}\n", error.message));
            drop(sender.send(outlines.chain(errors).collect()));
        }));
        Self {
            told,
            _stop: shutdown.drop_guard(),
        }
    }

    /// Waits until something with `part` is told.
    async fn hears(&mut self, part: &str) -> String {
        let heard = async {
            loop {
                let told = self.told.recv().await.expect("the watcher ended");
                if told.contains(part) {
                    return told;
                }
            }
        };
        timeout(BOUND, heard)
            .await
            .unwrap_or_else(|_| panic!("never heard of {part}"))
    }
}

#[tokio::test]
async fn a_change_in_a_directory_is_told() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.yaml"), text("a", 1)).unwrap();
    let mut watched = Watched::new(vec![directory.path().to_owned()]);
    fs::write(directory.path().join("a.yaml"), text("a", 2)).unwrap();
    watched.hears("2/day").await;
    fs::write(directory.path().join("b.yaml"), text("b", 3)).unwrap();
    watched.hears("'b'").await;
    fs::write(directory.path().join("a.yaml"), "domain: [").unwrap();
    let told = watched.hears("error loading config file").await;
    assert!(told.contains("2/day"), "{told}");
    fs::remove_file(directory.path().join("b.yaml")).unwrap();
    let told = watched.hears("'a'").await;
    assert!(!told.contains("'b'"), "{told}");
}

#[tokio::test]
async fn a_file_that_is_replaced_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.yaml");
    fs::write(&path, text("a", 1)).unwrap();
    let mut watched = Watched::new(vec![path.clone()]);
    for amount in 2..5 {
        fs::write(directory.path().join("new"), text("a", amount)).unwrap();
        fs::rename(directory.path().join("new"), &path).unwrap();
        watched.hears(&format!("{amount}/day")).await;
    }
}

#[tokio::test]
async fn a_config_map_is_followed() {
    let mount = tempfile::tempdir().unwrap();
    let publish = |version: &str, amount| {
        let directory = mount.path().join(version);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("a.yaml"), text("a", amount)).unwrap();
        symlink(version, mount.path().join("..tmp")).unwrap();
        fs::rename(mount.path().join("..tmp"), mount.path().join("..data")).unwrap();
    };
    publish("..1", 1);
    symlink("..data/a.yaml", mount.path().join("a.yaml")).unwrap();
    let mut watched = Watched::new(vec![mount.path().to_owned()]);
    publish("..2", 2);
    watched.hears("2/day").await;
    publish("..3", 3);
    watched.hears("3/day").await;
}

#[tokio::test]
async fn a_directory_that_is_made_anew_or_is_a_link_that_turns_is_followed() {
    let above = tempfile::tempdir().unwrap();
    for (version, amount) in [("one", 1), ("two", 2)] {
        fs::create_dir(above.path().join(version)).unwrap();
        fs::write(above.path().join(version).join("a.yaml"), text("a", amount)).unwrap();
    }
    let path = above.path().join("conf");
    symlink("one", &path).unwrap();
    let mut watched = Watched::new(vec![path.clone()]);
    symlink("two", above.path().join("next")).unwrap();
    fs::rename(above.path().join("next"), &path).unwrap();
    watched.hears("2/day").await;
    // The watch has turned with the link.
    fs::write(above.path().join("two/a.yaml"), text("a", 3)).unwrap();
    watched.hears("3/day").await;
    fs::remove_file(&path).unwrap();
    let told = watched.hears("cannot be read").await;
    assert!(told.contains("3/day"), "{told}");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("a.yaml"), text("a", 4)).unwrap();
    watched.hears("4/day").await;
}

#[tokio::test]
async fn what_no_event_tells_is_polled() {
    let directory = tempfile::tempdir().unwrap();
    let real = directory.path().join("real");
    fs::create_dir(&real).unwrap();
    fs::write(real.join("a.txt"), text("a", 1)).unwrap();
    let conf = directory.path().join("conf");
    fs::create_dir(&conf).unwrap();
    symlink(real.join("a.txt"), conf.join("a.yaml")).unwrap();
    let timing = Timing {
        poll: Duration::from_millis(20),
        ..Timing::default()
    };
    let mut watched = Watched::with(vec![conf], timing);
    fs::write(real.join("a.txt"), text("a", 2)).unwrap();
    watched.hears("2/day").await;
}

#[test]
fn our_own_reading_is_no_event() {
    let paths = [PathBuf::from("conf")];
    let event = |kind| Event::new(kind).add_path(PathBuf::from("conf/a.yaml"));
    assert!(!concerns(
        &event(EventKind::Access(AccessKind::Open(AccessMode::Any))),
        &paths
    ));
    assert!(concerns(
        &event(EventKind::Access(AccessKind::Close(AccessMode::Write))),
        &paths
    ));
    assert!(concerns(&event(EventKind::Any), &paths));
    let elsewhere = Event::new(EventKind::Any).add_path(PathBuf::from("other"));
    assert!(!concerns(&elsewhere, &paths));
    let here = Event::new(EventKind::Any).add_path(PathBuf::from("./a.yaml"));
    assert!(concerns(&here, &[PathBuf::from("a.yaml")]));
}
