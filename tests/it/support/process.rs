//! Programs that a test starts. They end when the test does, however it ends, each by its own
//! process id; what they wrote is shown when the test fails.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tollgate::clock;

/// How long anything may take that a test waits for. Only a broken machine needs that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How much of a program's output is shown when a test fails.
const SHOWN_LINES: usize = 40;

/// Asks again and again until there is an answer; fails when the patience is over.
pub(crate) fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let begun = clock::instant();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A running program.
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    child: Child,
    watcher: Watcher,
    /// A place for its files, its output among them.
    directory: TempDir,
}

impl Program {
    /// Starts `command`; `fill` may put files into its directory and arguments on its line first.
    pub(crate) fn start(
        name: &str,
        mut command: Command,
        fill: impl FnOnce(&mut Command, PathBuf),
    ) -> Self {
        let directory = tempfile::tempdir().expect("a directory for a program");
        fill(&mut command, directory.path().to_owned());
        let output = open_output(&directory);
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .spawn();
        let mut child = child.unwrap_or_else(|error| {
            let program = command.get_program().display();
            panic!("{name}: {program}: {error}; run scripts/install-test-tools")
        });
        // Gently, because it may have started others.
        let watcher = Watcher::of(&mut child, "TERM");
        Self {
            name: name.to_owned(),
            child,
            watcher,
            directory,
        }
    }

    /// What it wrote so far, to its standard output and its standard error.
    pub(crate) fn output(&self) -> String {
        let bytes = std::fs::read(self.directory.path().join("output")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Asks again and again until there is an answer, as long as it runs.
    pub(crate) fn until<T>(&mut self, what: &str, mut probe: impl FnMut(&Self) -> Option<T>) -> T {
        until(what, || {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                panic!("{} ended: {status}", self.name);
            }
            probe(self)
        })
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let name = format!("{} ends", self.name);
        until(&name, || self.child.try_wait().expect("a child of ours"))
    }

    /// Whether it has not ended yet.
    pub(crate) fn is_running(&mut self) -> bool {
        let ended = self.child.try_wait().expect("a child of ours");
        ended.is_none()
    }

    /// Sends it a signal: `INT`, `TERM`. It must not have ended.
    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args(["-s", signal, &self.child.id().to_string()])
            .status()
            .expect("kill to be in PATH");
        assert!(status.success(), "kill -s {signal} failed");
    }

    /// Kills it.
    pub(crate) fn stop(&mut self) {
        self.watcher.stop(&mut self.child);
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            let output = self.output();
            let lines: Vec<&str> = output.lines().collect();
            let from = lines.len().saturating_sub(SHOWN_LINES);
            eprintln!("--- {}\n{}", self.name, lines[from..].join("\n"));
        }
    }
}

/// Ends a program when the test process dies without dropping anything: a shell that reads from a
/// pipe which only we hold.
#[derive(Debug)]
pub(crate) struct Watcher(Child);

impl Watcher {
    /// Sends `child` this signal (`TERM`, `KILL`) when we are gone.
    pub(crate) fn of(child: &mut Child, signal: &str) -> Self {
        let script = format!("read -r _; kill -s {signal} \"$0\"");
        let watcher = Command::new("sh")
            .args(["-c", &script, &child.id().to_string()])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        Self(watcher.unwrap_or_else(|error| {
            drop(child.kill());
            panic!("these tests need sh in PATH: {error}")
        }))
    }

    /// Kills the program that it watches.
    pub(crate) fn stop(&mut self, child: &mut Child) {
        // Itself first: the number of a program that has ended may be somebody else's.
        self.dismiss();
        drop(child.kill());
        drop(child.wait());
    }

    /// Watches no more. Killed, not let go: without its pipe it would do its work.
    fn dismiss(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.dismiss();
    }
}

/// A file that several writers append to: Envoy opens its standard output once more.
fn open_output(directory: &TempDir) -> File {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(directory.path().join("output"))
        .expect("a file for a program's output")
}
