//! A real redis-server for the tests that need one.
//!
//! On a port of its own, with nothing on disk, and gone when its last user is done: it is killed
//! on drop, and a watcher kills it when the test process dies without dropping anything. A machine
//! without redis-server fails these tests; it does not skip them.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use redis::FromRedisValue;
use tempfile::TempDir;
use tollgate::clock;

use super::process::{PATIENCE, Watcher};

/// A running redis-server.
pub(crate) struct RedisServer {
    port: u16,
    directory: TempDir,
    process: Mutex<Process>,
}

struct Process {
    server: Child,
    watcher: Watcher,
}

impl RedisServer {
    /// A server of one's own, to stop and to restart.
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory for redis-server");
        for _ in 0..10 {
            let port = TcpListener::bind(("127.0.0.1", 0))
                .and_then(|listener| listener.local_addr())
                .expect("a free port")
                .port();
            // Somebody else may take the port before redis-server does: then with another one.
            if let Some(process) = Process::start(port, &directory) {
                return Self {
                    port,
                    directory,
                    process: Mutex::new(process),
                };
            }
        }
        panic!("redis-server found no free port");
    }

    /// A server that is shared with the tests that run at the same time. Use keys of your own.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<RedisServer>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::start());
            *shared = Arc::downgrade(&server);
            server
        })
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The port it listens on.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Runs a command.
    pub(crate) fn command<T: FromRedisValue>(&self, arguments: &[&str]) -> T {
        let (name, arguments) = arguments.split_first().expect("a command");
        self.ask(redis::cmd(name).arg(arguments))
    }

    /// The answer to `command`, which may have any bytes.
    pub(crate) fn ask<T: FromRedisValue>(&self, command: &redis::Cmd) -> T {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_connection().expect("a connection to redis");
        command
            .query(&mut connection)
            .unwrap_or_else(|error| panic!("{command:?} failed: {error}"))
    }

    /// All keys that start with `prefix`.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let mut keys: Vec<String> = self.command(&["KEYS", &format!("{prefix}*")]);
        keys.sort_unstable();
        keys
    }

    /// The bytes that it uses.
    pub(crate) fn memory_used(&self) -> u64 {
        let info: String = self.command(&["INFO", "memory"]);
        info.lines()
            .find_map(|line| line.strip_prefix("used_memory:"))
            .and_then(|bytes| bytes.trim().parse().ok())
            .expect("used_memory in INFO")
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process().server.id()
    }

    /// Kills it; all that it held is lost.
    pub(crate) fn stop(&self) {
        self.process().end();
    }

    /// Kills it and starts an empty one on the same port; returns when that one answers.
    pub(crate) fn restart(&self) {
        let mut process = self.process();
        process.end();
        let begun = clock::instant();
        loop {
            if let Some(started) = Process::start(self.port, &self.directory) {
                *process = started;
                return;
            }
            let waited = begun.elapsed();
            assert!(waited < PATIENCE, "port {} was taken over", self.port);
        }
    }

    /// Stops it where it is: it keeps its connections and answers nothing.
    pub(crate) fn pause(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([signal, &self.pid().to_string()])
            .status()
            .expect("kill to be in PATH");
        assert!(status.success(), "kill {signal} failed");
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for RedisServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisServer({})", self.url())
    }
}

impl Process {
    /// Starts one and waits until it answers; `None` if it ended instead.
    fn start(port: u16, directory: &TempDir) -> Option<Self> {
        let mut server = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("these tests need redis-server in PATH");
        let watcher = Watcher::of(&mut server, "KILL");
        let mut process = Self { server, watcher };
        let begun = clock::instant();
        loop {
            if process.server.try_wait().unwrap().is_some() {
                return None;
            }
            if answering_pid(port) == Some(process.server.id()) {
                return Some(process);
            }
            let waited = begun.elapsed();
            assert!(waited < PATIENCE, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn end(&mut self) {
        self.watcher.stop(&mut self.server);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Which process answers on `port`: a stranger may have been faster.
fn answering_pid(port: u16) -> Option<u32> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"INFO server\r\n").ok()?;
    let mut stream = BufReader::new(stream);
    let mut length = String::new();
    stream.read_line(&mut length).ok()?;
    let mut info = vec![0; length.trim().strip_prefix('$')?.parse().ok()?];
    stream.read_exact(&mut info).ok()?;
    String::from_utf8(info)
        .ok()?
        .lines()
        .find_map(|line| line.strip_prefix("process_id:")?.trim().parse().ok())
}
