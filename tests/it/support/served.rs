//! The `tollgate` program as others meet it: a process with flags, signals, a log and an exit code.
//!
//! A service picks its own ports and tells them in its log, which is kept and shown when a test
//! fails. It is killed on drop, and by a watcher when the test process dies without dropping
//! anything. Nothing of our own environment reaches it, so that no `TOLLGATE_…` changes a test.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tollgate::clock;

use super::process::{PATIENCE, Watcher};

/// The program, with nothing in its environment.
pub(crate) fn tollgate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// Runs a command that ends by itself.
pub(crate) fn run(arguments: &[&str]) -> Ran {
    Ran::of(tollgate().args(arguments))
}

/// What a command did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn of(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tollgate to start");
        let _watcher = Watcher::of(&mut child, "KILL");
        let output: Output = child.wait_with_output().unwrap();
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A running `tollgate serve`.
#[derive(Debug)]
pub(crate) struct Tollgate {
    child: Child,
    log: Log,
    reader: Option<JoinHandle<()>>,
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    watcher: Watcher,
}

impl Tollgate {
    /// Serves with these flags, on ports of its own, and returns when it listens.
    pub(crate) fn serve(arguments: &[&str]) -> Self {
        Self::start(
            tollgate()
                .arg("serve")
                .args(arguments)
                .args(["--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0"]),
        )
    }

    /// Runs a command that serves, and returns when it listens.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tollgate to start");
        let watcher = Watcher::of(&mut child, "KILL");
        let log = Log::default();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let keep = log.clone();
        let reader = std::thread::spawn(move || {
            for line in lines {
                keep.lines().push(line.unwrap());
            }
        });
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut tollgate = Self {
            child,
            log,
            reader: Some(reader),
            grpc: unknown,
            http: unknown,
            watcher,
        };
        let listening = tollgate.wait_for_line(|line| line.contains("listening"));
        // As text or as JSON.
        let address = |name: &str| -> SocketAddr {
            let (_, rest) = listening.split_once(name).expect("its addresses");
            let rest = rest.trim_start_matches(['=', ':', '"']);
            rest.split([' ', '"']).next().unwrap().parse().unwrap()
        };
        tollgate.grpc = address("grpc_addr");
        tollgate.http = address("http_addr");
        tollgate
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends `-TERM`, `-INT`, `-HUP`.
    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([signal, &self.pid().to_string()])
            .status()
            .expect("kill to be in PATH");
        assert!(status.success(), "kill {signal} failed");
    }

    /// Kills it.
    pub(crate) fn stop(&mut self) {
        self.watcher.stop(&mut self.child);
    }

    /// Waits for its end, and for the last of its log.
    pub(crate) fn ended(&mut self, patience: Duration) -> ExitStatus {
        let begun = clock::instant();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            pause(begun, patience, || "tollgate to end".to_owned());
        };
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        status
    }

    /// The log so far.
    pub(crate) fn log(&self) -> String {
        self.log.lines().join("\n")
    }

    /// How many lines of the log `count`.
    pub(crate) fn lines_with(&self, text: &str) -> usize {
        let lines = self.log.lines();
        lines.iter().filter(|line| line.contains(text)).count()
    }

    /// Waits for a line of the log.
    pub(crate) fn wait_for_line(&mut self, is: impl Fn(&str) -> bool) -> String {
        let find = |tollgate: &Self| tollgate.log.lines().iter().find(|line| is(line)).cloned();
        self.wait_until(|tollgate| find(tollgate).is_some());
        find(self).unwrap()
    }

    /// Waits until something is so while it runs.
    pub(crate) fn wait_until(&mut self, is: impl Fn(&Self) -> bool) {
        let begun = clock::instant();
        while !is(self) {
            assert!(self.runs(), "tollgate ended early");
            pause(begun, PATIENCE, || "tollgate".to_owned());
        }
    }

    /// The memory that it holds, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let kilobytes: u64 = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse().ok())
            .expect("VmRSS in /proc/…/status");
        kilobytes * 1024
    }
}

impl Drop for Tollgate {
    fn drop(&mut self) {
        self.stop();
        if let Some(reader) = self.reader.take() {
            drop(reader.join());
        }
        if std::thread::panicking() {
            let mut shown = format!("log of tollgate {}:\n", self.child.id());
            for line in self.log.lines().iter().rev().take(100).rev() {
                writeln!(shown, "    {line}").unwrap();
            }
            print!("{shown}");
        }
    }
}

/// The lines that a process wrote.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets a moment pass, unless what is waited for has taken too long already.
pub(crate) fn pause(begun: Instant, patience: Duration, what: impl Fn() -> String) {
    let waited = begun.elapsed();
    assert!(waited < patience, "waited {waited:?} for {}", what());
    std::thread::sleep(Duration::from_millis(5));
}
