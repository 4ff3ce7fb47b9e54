//! A private Redis.

use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::{Process, answers, free_port, program};

/// What the server is called.
const SERVERS: [&str; 2] = ["redis-server", "valkey-server"];

pub(crate) fn is_installed() -> bool {
    program(&SERVERS).is_some()
}

/// A Redis of a test's own. Writes its append-only file before each answer, so that nothing is lost when
/// it is killed, unless settings say otherwise.
#[derive(Debug)]
pub struct RedisServer {
    settings: Vec<String>,
    port: u16,
    process: Option<Process>,
    directory: TempDir,
}

impl RedisServer {
    /// Starts one.
    ///
    /// # Panics
    ///
    /// If Redis is not installed, or does not start.
    pub fn start() -> Self {
        Self::with_settings(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    /// Starts one with arguments as `redis-server` takes them.
    pub fn with_settings(settings: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let mut server = Self { settings, port: free_port(), process: None, directory };
        server.resume();
        server
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    /// Ends it in order.
    pub fn stop_in_order(&mut self) {
        self.end(Signal::TERM);
    }

    /// Stops it in its tracks: its connections stay, and nothing is answered.
    pub fn freeze(&self) {
        if let Some(process) = &self.process {
            process.freeze();
        }
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        if let Some(process) = &self.process {
            process.thaw();
        }
    }

    /// Starts it again, on the same port and with the same files.
    pub fn resume(&mut self) {
        let log = self.directory.path().join("log");
        let server = program(&SERVERS);
        let mut command =
            Command::new(server.expect("Redis is not installed (Debian: apt-get install redis-server)"));
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--save", ""]);
        command.arg("--dir").arg(self.directory.path()).args(&self.settings);
        let mut process = Process::start(&mut command, &log);
        process.wait_until(&log, || answers(self.port) && self.command(&["PING"]) == "PONG");
        self.process = Some(process);
    }

    /// Runs one command with `redis-cli`, and gives what it prints.
    pub fn command(&self, arguments: &[&str]) -> String {
        let client = program(&["redis-cli", "valkey-cli"]).expect("redis-cli is installed with the server");
        let mut command = Command::new(client);
        let output = command.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]).args(arguments).output();
        String::from_utf8_lossy(&output.expect("redis-cli runs").stdout).trim().to_owned()
    }

    fn end(&mut self, signal: Signal) {
        if let Some(mut process) = self.process.take() {
            process.signal(signal);
            process.wait();
        }
    }
}
