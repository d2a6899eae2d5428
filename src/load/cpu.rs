//! The CPU time that a process has spent, as the kernel counted it.
//!
//! `/proc/PID/task/*/schedstat` counts in nanoseconds but forgets threads that have ended;
//! `/proc/PID/stat` remembers them but counts in ticks of 10 ms. So both are read: threads give
//! the figure, and the ticks take over when they saw more than rounding can explain.

use std::collections::HashMap;
use std::time::Duration;
use std::{fs, io};

/// Linux reports to user space in hundredths of a second, whatever its own tick is.
const TICK: Duration = Duration::from_millis(10);

/// A process of which the kernel tells nothing: it has ended, or this is no Linux.
#[derive(Debug, thiserror::Error)]
#[error("cannot tell the CPU time of process {pid}: {source}")]
pub struct CpuError {
    pid: u32,
    source: io::Error,
}

/// What a process had spent at one moment.
#[derive(Debug)]
pub struct CpuReading {
    threads: HashMap<u32, Duration>,
    process: Duration,
}

impl CpuReading {
    /// What process `pid` has spent until now.
    pub fn of(pid: u32) -> Result<Self, CpuError> {
        let unknown = |source| CpuError { pid, source };
        Ok(Self {
            threads: read_threads(pid).map_err(unknown)?,
            process: read_process(pid).map_err(unknown)?,
        })
    }

    /// What was spent between `earlier` and this.
    pub fn since(&self, earlier: &Self) -> Duration {
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

fn read_threads(pid: u32) -> io::Result<HashMap<u32, Duration>> {
    let mut threads = HashMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let entry = entry?;
        let text = match fs::read_to_string(entry.path().join("schedstat")) {
            Ok(text) => text,
            // It ended while we were listing; or the kernel keeps no such figures.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let id = entry.file_name().to_string_lossy().parse().ok();
        let nanos = text.split_whitespace().next();
        if let (Some(id), Some(Ok(nanos))) = (id, nanos.map(str::parse)) {
            threads.insert(id, Duration::from_nanos(nanos));
        }
    }
    Ok(threads)
}

fn read_process(pid: u32) -> io::Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = ticks(&text).ok_or(io::ErrorKind::InvalidData)?;
    Ok(TICK * ticks)
}

/// What a process spent by itself and in the kernel.
fn ticks(stat: &str) -> Option<u32> {
    // The second field is the program's name in parentheses and may hold anything, `)` included.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_name_may_hold_anything() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 2 3 4 250 31 0 0 20 0 1 0 9 1 1";
        assert_eq!(ticks(stat), Some(281));
        assert_eq!(ticks("7 (a"), None);
    }

    #[test]
    fn work_costs_time() {
        let pid = std::process::id();
        let before = CpuReading::of(pid).unwrap();
        let spent = loop {
            let spent = CpuReading::of(pid).unwrap().since(&before);
            if spent > 3 * TICK {
                break spent;
            }
        };
        assert!(spent < Duration::from_mins(10), "{spent:?}");
    }

    #[test]
    fn nobody_spends_nothing() {
        let error = CpuReading::of(u32::MAX).unwrap_err().to_string();
        assert!(error.contains("4294967295"), "{error}");
    }
}
