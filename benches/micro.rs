//! What the parts of a decision cost by themselves.
//!
//! `cargo bench --bench micro` gives times, which on a busy machine say little;
//! `benches/instructions` runs the same cases under callgrind and holds their instructions to
//! `benches/instructions.txt`. For that this program runs a single case on request:
//! `--count CASE TIMES`, and `--cases` lists them.

#![expect(
    clippy::print_stdout,
    reason = "the list of cases is what it was asked for"
)]

#[path = "micro/cases.rs"]
mod cases;

use anyhow::{Context, Result, bail};
use divan::Bencher;

/// As the program itself has it.
#[cfg(all(feature = "jemalloc", target_os = "linux", target_env = "gnu"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How often a case is run before it is counted: by then all memory is there that it reuses.
const WARM_UP: u32 = 100;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--cases", ..] => cases::NAMES.iter().for_each(|name| println!("{name}")),
        ["--count", name, times, ..] => {
            let mut case = cases::prepare(name).context("there is no such case")?;
            repeat(case.as_mut(), WARM_UP);
            counted(case.as_mut(), times.parse()?);
        }
        ["--count", ..] => bail!("write --count CASE TIMES"),
        _ => divan::main(),
    }
    Ok(())
}

/// What callgrind counts: it is told this function's name.
#[inline(never)]
fn counted(case: &mut dyn FnMut(), times: u32) {
    repeat(case, times);
}

#[inline(never)]
fn repeat(case: &mut dyn FnMut(), times: u32) {
    for _ in 0..times {
        case();
    }
}

#[divan::bench(args = cases::NAMES)]
fn case(bencher: Bencher<'_, '_>, name: &str) {
    if let Some(mut case) = cases::prepare(name) {
        bencher.bench_local(case.as_mut());
    }
}
