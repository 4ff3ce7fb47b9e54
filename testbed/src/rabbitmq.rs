//! A private RabbitMQ.

use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::{Process, answers, free_port, program};

pub(crate) fn is_installed() -> bool {
    installed("rabbitmq-server").is_some()
}

/// Not the script in the path, if there is another: Debian's changes the user and forgets the environment.
fn installed(name: &str) -> Option<String> {
    program(&[&format!("/usr/lib/rabbitmq/bin/{name}"), name])
}

/// A RabbitMQ of a test's own, with the user `guest`. Takes some seconds to start.
#[derive(Debug)]
pub struct RabbitServer {
    port: u16,
    distribution_port: u16,
    process: Option<Process>,
    directory: TempDir,
}

impl RabbitServer {
    /// Starts one.
    ///
    /// # Panics
    ///
    /// If RabbitMQ is not installed, or does not start.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// Starts one with more lines in its `rabbitmq.conf`.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    pub fn start_with(settings: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let port = free_port();
        let config = format!("listeners.tcp.1 = 127.0.0.1:{port}\nloopback_users.guest = true\n{settings}");
        std::fs::write(directory.path().join("rabbitmq.conf"), config).expect("a file can be written");
        std::fs::write(directory.path().join("plugins"), "[].\n").expect("a file can be written");
        let mut server = Self { port, distribution_port: free_port(), process: None, directory };
        server.resume();
        server
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
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
        let mut process = Process::start(&mut self.command("rabbitmq-server"), &log);
        process.wait_until(&log, || answers(self.port));
        self.process = Some(process);
    }

    /// Runs `rabbitmqctl`, and gives what it prints.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn control(&self, arguments: &[&str]) -> String {
        let mut command = self.command("rabbitmqctl");
        let output =
            command.arg("-q").args(arguments).output().expect("rabbitmqctl is installed with the server");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn command(&self, name: &str) -> Command {
        let found = installed(name);
        let mut command =
            Command::new(found.expect("RabbitMQ is not installed (Debian: apt-get install rabbitmq-server)"));
        let path = self.directory.path();
        command
            .env("HOME", path)
            .env("RABBITMQ_NODENAME", format!("mamos-{}@localhost", self.port))
            .env("RABBITMQ_DIST_PORT", self.distribution_port.to_string())
            .env("RABBITMQ_CONFIG_FILE", path.join("rabbitmq.conf"))
            .env("RABBITMQ_CONF_ENV_FILE", path.join("none"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", path.join("plugins"))
            .env("RABBITMQ_MNESIA_BASE", path.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", path.join("logs"))
            .env("RABBITMQ_PID_FILE", path.join("pid"));
        command
    }

    fn end(&mut self, signal: Signal) {
        if let Some(mut process) = self.process.take() {
            // The leader is a shell script; the server is in its group.
            process.signal_all(signal);
            process.wait();
        }
    }
}
