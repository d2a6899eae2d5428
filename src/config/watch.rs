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
    followed: Library,
    timing: Timing,
    /// None where the system has no watches left: polling goes on.
    notify: Option<RecommendedWatcher>,
    events: mpsc::Receiver<()>,
    /// From the beginning: a SIGHUP that nobody listens to ends the process.
    hangups: Hangups,
    /// The mistakes that were told, so that one that stays is not told at every poll.
    told: Vec<ConfigError>,
}

impl Watcher {
    /// Watches the directories of the library's files; `opened` is what loading it found. Needs a
    /// tokio runtime.
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
            followed: library,
            timing,
            notify,
            events,
            hangups: Hangups::new(),
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
        let mut poll = interval(self.timing.poll.max(Duration::from_millis(1)));
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick comes at once: it finds what changed before the watch stood.
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = poll.tick() => {}
                () = self.hangups.next() => debug!("configuration reload asked for by SIGHUP"),
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
                publish(&self.followed, &report);
                self.told = report.errors;
            }
        }
    }

    /// Reading and compiling may take long, so it does not hold up the runtime.
    async fn reload(&mut self) -> Option<LoadReport> {
        let mut library = self.followed.clone();
        let loaded = tokio::task::spawn_blocking(move || {
            let report = library.reload();
            (library, report)
        });
        match loaded.await {
            Ok((library, report)) => {
                self.followed = library;
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
        for directory in directories(self.followed.paths()) {
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
pub(super) fn concerns(event: &Event, paths: &[PathBuf]) -> bool {
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
#[derive(Debug)]
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
