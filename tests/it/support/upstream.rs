//! The fake LLM provider of the examples.

use std::path::Path;
use std::process::Command;

use super::client::Request;
use super::process::Program;

/// A running provider.
#[derive(Debug)]
pub(crate) struct Upstream {
    program: Program,
    /// Where it listens.
    pub(crate) port: u16,
}

impl Upstream {
    /// Starts one and waits until it listens.
    pub(crate) fn start() -> Self {
        let file =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/envoy/upstream/fake_llm.py");
        let mut command = Command::new("python3");
        command.arg(file).args(["--port", "0"]);
        let mut program = Program::start("provider", command, |_, _| {});
        let port = program.until("the provider listens", |program| {
            let output = program.output();
            let (_, address) = output.lines().next()?.split_once("listening on ")?;
            address.rsplit_once(':')?.1.parse().ok()
        });
        Self { program, port }
    }

    /// Ends it: nobody listens where it was.
    pub(crate) fn stop(&mut self) {
        self.program.signal("TERM");
        self.program.wait();
    }

    /// How many requests came so far.
    pub(crate) fn requests(&self) -> u64 {
        let stats = Request::get("/fake/stats").ask(self.port);
        stats.expect("the provider's statistics").json()["requests"]
            .as_u64()
            .expect("a number of requests")
    }
}
