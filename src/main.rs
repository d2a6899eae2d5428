//! Flags, then settings, then run, then an exit code.

use std::process::ExitCode;

use clap::Parser as _;
use tollgate::settings::{Cli, Command};
use tollgate::{cli, telemetry};

#[cfg(all(feature = "jemalloc", target_os = "linux", target_env = "gnu"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(args) => {
            if let Err(problem) = telemetry::init(&args.log_level, args.log_format) {
                return cli::fail(&problem);
            }
            cli::block_on(cli::serve(args))
        }
        Command::Check(args) => cli::check(&args),
        Command::Explain(args) => cli::explain(&args),
        Command::Presets(args) => cli::presets(&args),
        Command::Bench(args) => cli::block_on(cli::bench(args)),
        Command::Call(args) => cli::block_on(cli::call(args)),
    }
}
