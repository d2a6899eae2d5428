//! Follows the files of a [`Library`] and loads them again when they change.
//!
//! Watched are directories, never files: editors and Kubernetes replace files by renaming, and a
//! watch on a file stays with the old one. In a mounted ConfigMap that is the link `..data`, which
//! changes in the directory that the files are in. Events come in bursts, so a reload waits until
//! they pause; and because events get lost (network file systems, exhausted watches, a directory
//! that is made anew) everything is looked at again every [`Timing::poll`] besides, which costs
//! little: files are read, but what did not change is not parsed. SIGHUP asks for the same at once.

use std::collections::BTreeSet;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{ConfigError, Library, LoadReport};

/// How patient a [`Watcher`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long events have to pause before files are read.
    pub pause: Duration,
    /// How long events that do not pause may hold a reload up.
    pub patience: Duration,
    /// How often all files are looked at without any event.
    pub poll: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            pause: Duration::from_millis(100),
            patience: Duration::from_secs(1),
            poll: Duration::from_secs(30),
        }
    }
}

/// Follows the files of a library.
#[derive(Debug)]
pub struct Watcher {
    library: Library,
    timing: Timing,
    /// None where the system has no watches left: polling goes on.
    notify: Option<RecommendedWatcher>,
    events: mpsc::Receiver<()>,
    /// The mistakes that were told, so that one that stays is not told at every poll.
    told: Vec<ConfigError>,
}

impl Watcher {
    /// Watches the directories of the library's files; `opened` is what loading it found.
    pub fn new(library: Library, opened: LoadReport, timing: Timing) -> Self {
        let (sender, events) = mpsc::channel(1);
        let paths = library.paths().to_vec();
        let handler = move |event: notify::Result<Event>| {
            // A full channel says already that there is something to do.
            if event.map_or(true, |event| concerns(&event, &paths)) {
                sender.try_send(()).ok();
            }
        };
        let notify = notify::recommended_watcher(handler)
            .inspect_err(|error| warn!(%error, "cannot watch configuration files, polling only"))
            .ok();
        let told = opened.errors;
        let mut watcher = Self {
            library,
            timing,
            notify,
            events,
            told,
        };
        watcher.watch();
        watcher
    }

    /// Loads again whenever files change, SIGHUP comes or time has passed, and calls `publish` with
    /// what is in force now if that, or what is wrong, is not what was told last. Ends with
    /// `shutdown`.
    pub async fn run(
        mut self,
        shutdown: CancellationToken,
        mut publish: impl FnMut(&Library, &LoadReport) + Send,
    ) {
        let mut hangups = Hangups::new();
        let mut poll = interval(self.timing.poll.max(Duration::from_millis(1)));
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick comes at once: it finds what changed before the watch stood.
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = poll.tick() => {}
                () = hangups.next() => debug!("configuration reload asked for by SIGHUP"),
                Some(()) = self.events.recv() => {
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = settle(&mut self.events, self.timing) => {}
                    }
                }
            }
            // Before the files are read, so that nothing falls between.
            self.watch();
            let Some(report) = self.reload().await else {
                continue;
            };
            if report.changes_anything() || report.errors != self.told {
                publish(&self.library, &report);
                self.told = report.errors;
            }
        }
    }

    /// Reading and compiling may take long, so it does not hold up the runtime.
    async fn reload(&mut self) -> Option<LoadReport> {
        let mut library = self.library.clone();
        let loaded = tokio::task::spawn_blocking(move || {
            let report = library.reload();
            (library, report)
        });
        match loaded.await {
            Ok((library, report)) => {
                self.library = library;
                Some(report)
            }
            Err(error) => {
                warn!(%error, "configuration reload broke off");
                None
            }
        }
    }

    /// Watches all directories anew: one that was replaced is another one to the system.
    fn watch(&mut self) {
        let Some(notify) = &mut self.notify else {
            return;
        };
        for directory in directories(self.library.paths()) {
            // Fails where it was not watched yet, or is gone.
            drop(notify.unwatch(&directory));
            if let Err(error) = notify.watch(&directory, RecursiveMode::NonRecursive) {
                debug!(directory = %directory.display(), %error, "cannot watch, polling only");
            }
        }
    }
}

/// The directories in which something happens when one of `paths` changes: it itself, and what it
/// is in.
fn directories(paths: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut directories = BTreeSet::new();
    for path in paths {
        if path.is_dir() {
            directories.insert(path.clone());
        }
        directories.insert(match path.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        });
    }
    directories
}

/// Whether the event may mean that one of `paths` reads differently now.
fn concerns(event: &Event, paths: &[PathBuf]) -> bool {
    match event.kind {
        // Our own reading opens files.
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
        EventKind::Access(_) => return false,
        _ => {}
    }
    event.need_rescan()
        || event.paths.is_empty()
        || event.paths.iter().any(|changed| {
            let hidden = changed
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(".."));
            hidden
                || paths
                    .iter()
                    .any(|path| changed.starts_with(path) || same_file(changed, path))
        })
}

/// Whether the names are the same; an event names a file of the working directory with `./`.
fn same_file(changed: &Path, path: &Path) -> bool {
    changed.strip_prefix(".").unwrap_or(changed) == path.strip_prefix(".").unwrap_or(path)
}

/// Until events have paused, or have gone on for too long.
async fn settle(events: &mut mpsc::Receiver<()>, timing: Timing) {
    let last = sleep(timing.patience);
    tokio::pin!(last);
    loop {
        tokio::select! {
            () = &mut last => return,
            more = timeout(timing.pause, events.recv()) => {
                if !matches!(more, Ok(Some(()))) {
                    return;
                }
            }
        }
    }
}

/// SIGHUP, where there is such a thing.
struct Hangups(#[cfg(unix)] Option<tokio::signal::unix::Signal>);

impl Hangups {
    #[cfg(unix)]
    fn new() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        Self(
            signal(SignalKind::hangup())
                .inspect_err(|error| warn!(%error, "cannot listen for SIGHUP"))
                .ok(),
        )
    }

    #[cfg(not(unix))]
    fn new() -> Self {
        Self()
    }

    async fn next(&mut self) {
        #[cfg(unix)]
        if let Some(signal) = &mut self.0
            && signal.recv().await.is_some()
        {
            return;
        }
        pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use tokio::sync::mpsc::UnboundedReceiver;
    use tokio_util::sync::DropGuard;

    use super::*;

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
                    .map(|domain| super::super::outline(domain));
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
}
