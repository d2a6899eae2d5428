//! Child processes that never outlive us, and when they are ready.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep};

const READY_WITHIN: Duration = Duration::from_secs(20);
const POLL_EVERY: Duration = Duration::from_millis(20);
const IO_TIMEOUT: Duration = Duration::from_millis(500);
/// Somebody else may take a port between our finding it free and the child's binding it.
const ATTEMPTS: usize = 3;

/// A child process, killed and reaped on drop.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts `command`, to be killed with this value.
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        let child = command
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        Ok(Self { child })
    }

    /// Starts what `command` makes of `N` free ports, and waits until `is_ready`.
    pub(crate) async fn launch<const N: usize>(
        log: &Path,
        command: impl Fn([u16; N]) -> Command,
        is_ready: impl Fn([u16; N]) -> bool,
    ) -> Result<(Self, [u16; N])> {
        let mut last_error = None;
        for _ in 0..ATTEMPTS {
            let ports = free_ports()?;
            let mut command = command(ports);
            let output = File::create(log)?;
            command
                .stdin(Stdio::null())
                .stdout(output.try_clone()?)
                .stderr(output);
            let mut process = Self::spawn(&mut command)?;
            match process.wait_until(|| is_ready(ports)).await {
                Ok(()) => return Ok((process, ports)),
                Err(error) => {
                    last_error = Some(error.context(format!(
                        "{} did not get ready; it said:\n{}",
                        command.get_program().display(),
                        fs::read_to_string(log).unwrap_or_default(),
                    )));
                }
            }
        }
        Err(last_error.context("never started")?)
    }

    /// Its id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it prints, if that was piped; once.
    pub(crate) fn take_stdout(&mut self) -> Option<impl Read + use<>> {
        self.child.stdout.take()
    }

    async fn wait_until(&mut self, is_ready: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                bail!("ended by itself: {status}");
            }
            if is_ready() {
                return Ok(());
            }
            sleep(POLL_EVERY).await;
        }
        bail!("not ready within {READY_WITHIN:?}")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only for a child that has ended, which is what we want.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Whether `GET /readyz` on this port is answered by 200.
pub(crate) fn is_http_ready(port: u16) -> bool {
    let ask = || -> std::io::Result<Vec<u8>> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&address, IO_TIMEOUT)?;
        stream.set_read_timeout(Some(IO_TIMEOUT))?;
        stream.set_write_timeout(Some(IO_TIMEOUT))?;
        stream
            .write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        Ok(status.to_vec())
    };
    ask().is_ok_and(|status| status == b"HTTP/1.1 200")
}

/// Where the output of the child called `name` goes.
pub(crate) fn log_path(scratch: &Path, name: &str) -> PathBuf {
    scratch.join(format!("{name}.log"))
}

/// Ports that were free a moment ago; all held at once, so that they differ.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut ports = [0; N];
    let mut held = Vec::with_capacity(N);
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}
