//! The quickstart shows what it promises, and leaves nothing behind, however it ends.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::process::Program;

/// The quickstart under way. Whatever it starts inherits a name that nobody else has.
struct Quickstart {
    program: Program,
    /// Where its files go.
    files: TempDir,
}

impl Quickstart {
    fn start() -> Self {
        let files = tempfile::tempdir().unwrap();
        let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/envoy/quickstart/run");
        let mut command = Command::new(run);
        command
            .env("TOLLGATE_BIN", env!("CARGO_BIN_EXE_tollgate"))
            .env("TMPDIR", files.path());
        let program = Program::start("quickstart", command, |_, _| {});
        Self { program, files }
    }

    /// The programs that it started and that still run: those that inherited the mark, and those
    /// that live among its files (redis-server writes its title over what it inherited).
    fn running(&self) -> Vec<String> {
        let files = self.files.path();
        let mark = format!("TMPDIR={}\0", files.display());
        // Those of others cannot be read, nor those that end meanwhile.
        let is_ours = |process: &Path| {
            let environment = std::fs::read(process.join("environ")).unwrap_or_default();
            let directory = std::fs::read_link(process.join("cwd")).unwrap_or_default();
            String::from_utf8_lossy(&environment).contains(&mark) || directory.starts_with(files)
        };
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let mut running: Vec<String> = processes
            .filter(|process| is_ours(&process.path()))
            .filter_map(|process| std::fs::read_to_string(process.path().join("comm")).ok())
            .map(|name| name.trim().to_owned())
            .collect();
        running.sort();
        running
    }

    fn assert_nothing_is_left(&self) {
        assert_eq!(self.running(), [""; 0]);
        let files = std::fs::read_dir(self.files.path()).unwrap();
        assert_eq!(files.count(), 0, "files in {}", self.files.path().display());
    }
}

impl Drop for Quickstart {
    fn drop(&mut self) {
        // Killed, it could not end what it started.
        if self.program.is_running() {
            self.program.signal("TERM");
            self.program.wait();
        }
    }
}

#[test]
fn the_quickstart_runs_as_it_says() {
    let mut quickstart = Quickstart::start();
    let status = quickstart.program.wait();
    assert!(status.success(), "{status}");
    assert!(quickstart.program.output().ends_with("all as expected\n"));
    quickstart.assert_nothing_is_left();
}

#[test]
fn the_quickstart_cleans_up_when_it_is_interrupted() {
    let mut quickstart = Quickstart::start();
    quickstart.program.until("an answer streams", |program| {
        let output = program.output();
        output.contains("while it streams").then_some(())
    });
    let running = quickstart.running();
    for program in ["envoy", "redis-server", "tollgate"] {
        assert!(running.iter().any(|name| name == program), "{running:?}");
    }
    quickstart.program.signal("INT");
    assert_eq!(quickstart.program.wait().code(), Some(130));
    quickstart.assert_nothing_is_left();
}
