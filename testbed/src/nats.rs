//! A private NATS.

use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::{Process, answers, free_port, program};

/// What the server is called. Debian's is not in everybody's path.
const SERVERS: [&str; 2] = ["nats-server", "/usr/sbin/nats-server"];

pub(crate) fn is_installed() -> bool {
    program(&SERVERS).is_some()
}

/// A NATS of a test's own, with JetStream unless told otherwise.
#[derive(Debug)]
pub struct NatsServer {
    port: u16,
    process: Option<Process>,
    directory: TempDir,
}

impl NatsServer {
    /// Starts one with JetStream.
    ///
    /// # Panics
    ///
    /// If NATS is not installed, or does not start.
    pub fn start() -> Self {
        Self::at(free_port())
    }

    /// Starts one with these lines of a configuration file, for example its users and their permissions.
    pub fn with_config(config: &str) -> Self {
        Self::started(tempfile::tempdir().expect("a temporary directory can be made"), config)
    }

    /// Starts one with JetStream and these lines.
    pub fn with_jetstream(config: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let config = format!("{}\n{config}", jetstream(&directory));
        Self::started(directory, &config)
    }

    /// Starts one with JetStream at this port of 127.0.0.1, for programs that are to be there before it.
    pub fn at(port: u16) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let jetstream = jetstream(&directory);
        Self::started_at(port, directory, &jetstream)
    }

    fn started(directory: TempDir, config: &str) -> Self {
        Self::started_at(free_port(), directory, config)
    }

    fn started_at(port: u16, directory: TempDir, config: &str) -> Self {
        std::fs::write(directory.path().join("nats.conf"), config).expect("a file can be written");
        let mut server = Self { port, process: None, directory };
        server.resume();
        server
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
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
            Command::new(server.expect("NATS is not installed (Debian: apt-get install nats-server)"));
        command.args(["-a", "127.0.0.1", "-p", &self.port.to_string(), "-c"]);
        command.arg(self.directory.path().join("nats.conf"));
        let mut process = Process::start(&mut command, &log);
        process.wait_until(&log, || answers(self.port));
        self.process = Some(process);
    }

    fn end(&mut self, signal: Signal) {
        if let Some(mut process) = self.process.take() {
            process.signal(signal);
            process.wait();
        }
    }
}

fn jetstream(directory: &TempDir) -> String {
    format!("jetstream {{ store_dir: \"{}\" }}", directory.path().join("js").display())
}
