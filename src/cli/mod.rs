//! The commands: what each does with its settings, and the exit code it ends with.
//!
//! 0: done. 1: it was done, and the answer is no (a mistake in a file, a request over its limit).
//! 2: it could not be done (the command line is wrong, a port is taken, a service does not answer).
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "commands talk to people"
)]

mod bench;
mod call;
mod check;
mod presets;
mod serve;

use std::future::Future;
use std::process::ExitCode;

pub use bench::bench;
pub use call::call;
pub use check::{check, explain};
pub use presets::presets;
pub use serve::serve;

/// Runs a command that waits for the network.
pub fn block_on(command: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => {
            let code = runtime.block_on(command);
            // What still runs (a file watcher, a stuck connection) must not keep us.
            runtime.shutdown_background();
            code
        }
        Err(error) => fail(&format!("cannot start: {error}")),
    }
}

/// Says why it could not be done.
pub fn fail(problem: &str) -> ExitCode {
    eprintln!("tollgate: {problem}");
    ExitCode::from(2)
}
