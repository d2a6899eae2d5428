//! The CPU time that a process has spent, as the kernel counted it.
//!
//! `/proc/PID/task/*/schedstat` counts in nanoseconds but forgets threads that have ended;
//! `/proc/PID/stat` remembers them but counts in ticks of 10 ms. So both are read: threads give
//! the figure, and the ticks take over when they saw more than rounding can explain.

use std::collections::HashMap;
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context, Result};

/// Linux reports to user space in hundredths of a second, whatever its own tick is.
const TICK: Duration = Duration::from_millis(10);

/// What a process had spent at one moment.
#[derive(Debug)]
pub(crate) struct CpuReading {
    threads: HashMap<u32, Duration>,
    process: Duration,
}

impl CpuReading {
    /// What process `pid` has spent until now.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        Ok(Self {
            threads: read_threads(pid).with_context(|| format!("reading threads of {pid}"))?,
            process: read_process(pid).with_context(|| format!("reading /proc/{pid}/stat"))?,
        })
    }

    /// What was spent between `earlier` and this.
    pub(crate) fn since(&self, earlier: &Self) -> Duration {
        let threads: Duration = self
            .threads
            .iter()
            .map(|(id, spent)| match earlier.threads.get(id) {
                Some(before) => spent.saturating_sub(*before),
                None => *spent,
            })
            .sum();
        let process = self.process.saturating_sub(earlier.process);
        // Two readings, each short by less than a tick.
        if process.saturating_sub(threads) > 2 * TICK {
            process
        } else {
            threads
        }
    }
}

fn read_threads(pid: u32) -> Result<HashMap<u32, Duration>> {
    let mut threads = HashMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let entry = entry?;
        let text = match fs::read_to_string(entry.path().join("schedstat")) {
            Ok(text) => text,
            // It ended while we were listing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        let id = entry.file_name().to_string_lossy().parse()?;
        let nanos = text
            .split_whitespace()
            .next()
            .context("an empty schedstat")?
            .parse()?;
        threads.insert(id, Duration::from_nanos(nanos));
    }
    Ok(threads)
}

fn read_process(pid: u32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the program's name in parentheses and may hold anything, `)` included.
    let (_, rest) = text.rsplit_once(") ").context("no program name")?;
    let mut fields = rest.split(' ').skip(11);
    let mut ticks = || -> Result<u32> { Ok(fields.next().context("too short")?.parse()?) };
    let (user, system) = (ticks()?, ticks()?);
    Ok(TICK * (user + system))
}
