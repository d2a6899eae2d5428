//! A real Envoy, on an example's configuration with free ports in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::client::Request;
use super::process::Program;

/// Where `scripts/install-test-tools` puts it.
fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/envoy")
}

/// A configuration for Envoy.
#[derive(Clone, Debug)]
pub(crate) struct Config(String);

impl Config {
    /// That of `examples/envoy/NAME`. Its own two ports are left to the kernel to choose.
    pub(crate) fn example(name: &str) -> Self {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/envoy");
        let file = examples.join(name).join("envoy.yaml");
        let text = std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        Self(text).port(10000, 0).port(9901, 0)
    }

    /// As it stands in its file.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// With another port.
    pub(crate) fn port(self, old: u16, new: u16) -> Self {
        // With the brace, because the comments at the top name the ports too.
        self.replace(
            &format!("port_value: {old} }}"),
            &format!("port_value: {new} }}"),
        )
    }

    /// With `new` wherever there was `old`, which has to be there.
    pub(crate) fn replace(self, old: &str, new: &str) -> Self {
        assert!(self.0.contains(old), "there is no '{old}' to replace");
        Self(self.0.replace(old, new))
    }
}

/// A running Envoy.
#[derive(Debug)]
pub(crate) struct Envoy {
    _program: Program,
    /// Where clients connect.
    pub(crate) port: u16,
    admin: u16,
}

impl Envoy {
    /// Starts one and waits until it takes requests.
    pub(crate) fn start(config: &Config) -> Self {
        let mut admin_file = PathBuf::new();
        let command = Command::new(path());
        let mut program = Program::start("envoy", command, |command, directory| {
            let file = directory.join("envoy.yaml");
            std::fs::write(&file, &config.0).expect("a file for envoy");
            admin_file = directory.join("admin");
            command.arg("--config-path").arg(file);
            command.arg("--admin-address-path").arg(&admin_file);
            command.args(["--disable-hot-restart", "--concurrency", "1"]);
            command.args(["--log-level", "warning", "--component-log-level"]);
            command.arg("misc:error");
        });
        let admin = program.until("envoy tells its admin address", |_| {
            let address = std::fs::read_to_string(&admin_file).ok()?;
            address.trim().rsplit_once(':')?.1.parse().ok()
        });
        let port = program.until("envoy is ready", |_| {
            let ready = Request::get("/ready").ask(admin).ok()?;
            if ready.status != 200 {
                return None;
            }
            let listeners = Request::get("/listeners?format=json").ask(admin).ok()?;
            let address = &listeners.json()["listener_statuses"][0]["local_address"];
            let port = address["socket_address"]["port_value"].as_u64()?;
            u16::try_from(port).ok()
        });
        Self {
            _program: program,
            port,
            admin,
        }
    }

    /// One of its counters or gauges.
    pub(crate) fn stat(&self, name: &str) -> u64 {
        let page = Request::get(&format!("/stats?format=json&filter=^{name}$"));
        let stats = page.ask(self.admin).expect("envoy's statistics").json();
        stats["stats"][0]["value"]
            .as_u64()
            .unwrap_or_else(|| panic!("envoy counts no {name}: {stats}"))
    }
}
