//! Where a server of a test keeps its files, and the programs around it.

use std::fs;
use std::process::{Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const PASSWORD: &str = "correct horse battery\n";

const WHITELIST: &str = r#"
version = 1

[commands.hello]
description = "Says hello"
program = "/usr/bin/echo"
arguments = ["hello", "{whom}"]
allow = { roles = ["operator"] }

[commands.hello.parameters.whom]
type = "string"
pattern = "[a-z]+"
max_bytes = 20

[commands.sleep]
program = "/usr/bin/sleep"
arguments = ["600"]
timeout = "1h"
allow = { roles = ["operator"] }
"#;

/// A directory with everything that a server, an agent and an operator need.
pub(crate) struct Place {
    directory: TempDir,
}

/// How a program ended: its exit code, its standard output, and what it said beside.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        place.write("whitelist.toml", WHITELIST);
        place
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.directory.path().join(name), text).unwrap();
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).env_clear().env("HOME", self.directory.path()).env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// A command line for the server, which keeps its state here and listens at any free port.
    pub(crate) fn server(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_mamos-server"), arguments);
        command
            .env("MAMOS_SERVER_LISTEN", "127.0.0.1:0")
            .env("MAMOS_SERVER_STATE_DIRECTORY", self.path("state"))
            .env("MAMOS_SERVER_WHITELIST", self.path("whitelist.toml"));
        command
    }

    /// Runs the server until it ends by itself.
    pub(crate) async fn ended(&self, arguments: &[&str]) -> Ended {
        let ended = self.server(arguments).output();
        finish(tokio::time::timeout(PATIENCE, ended).await.unwrap().unwrap())
    }

    /// Starts the server, and waits until it serves.
    pub(crate) async fn start(&self, arguments: &[&str]) -> Server {
        let mut program = Program::start(self.server(arguments));
        let line = program.until("mamos-server serves ").await;
        let url = line.rsplit(' ').next().unwrap().to_owned();
        Server { program, url }
    }

    /// Starts an agent that keeps its state here, and waits until it is connected.
    pub(crate) async fn agent(&self, server: &Server, arguments: &[&str]) -> Program {
        let link = server.url.replacen("http", "ws", 1);
        let all = [&["run", "--server", &link][..], arguments].concat();
        let mut agent = Program::start(self.agent_command(&all));
        agent.until(": connected agent=").await;
        agent
    }

    /// A command line for an agent that keeps its state here.
    pub(crate) fn agent_command(&self, arguments: &[&str]) -> Command {
        let (state, whitelist) = (self.path("agent"), self.path("whitelist.toml"));
        let mut all = vec!["--state-directory", &state, "--whitelist", &whitelist];
        all.extend(arguments);
        self.command(env!("CARGO_BIN_EXE_mamos-agent"), &all)
    }

    /// A command line for the operator.
    pub(crate) fn operator(&self, server: &Server, token: &str, arguments: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_mamosctl"), arguments);
        command.env("MAMOS_SERVER", &server.url).env("MAMOS_TOKEN", token);
        command
    }

    /// Runs `mamosctl` with a token, or with the login that it remembers if that is empty.
    pub(crate) async fn ctl(&self, server: &Server, token: &str, arguments: &[&str], input: &str) -> Ended {
        let mut process = self.operator(server, token, arguments).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = process.stdin.take().unwrap();
        // A program that reads nothing may have ended before this is written.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        finish(tokio::time::timeout(PATIENCE, process.wait_with_output()).await.unwrap().unwrap())
    }
}

pub(crate) fn finish(output: Output) -> Ended {
    Ended {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A server that serves.
pub(crate) struct Server {
    pub(crate) program: Program,
    pub(crate) url: String,
}

impl Server {
    /// Where it listens, for one that takes its place.
    pub(crate) fn address(&self) -> String {
        self.url.rsplit('/').next().unwrap().to_owned()
    }

    /// Stops it in order.
    pub(crate) async fn stop(mut self) {
        self.program.send(Signal::TERM);
        assert_eq!(self.program.end().await, 0, "{}", self.program.said);
    }
}

/// A program that runs, and what it said so far.
pub(crate) struct Program {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
    pub(crate) said: String,
}

impl Program {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let (sender, lines) = mpsc::unbounded_channel();
        read(child.stdout.take().unwrap(), sender.clone());
        read(child.stderr.take().unwrap(), sender);
        Self { child, lines, said: String::new() }
    }

    /// Waits until it says so, and gives the line.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        let patience = tokio::time::Instant::now() + PATIENCE;
        loop {
            match tokio::time::timeout_at(patience, self.lines.recv()).await {
                Ok(Some(line)) => {
                    self.said.push_str(&line);
                    self.said.push('\n');
                    if line.contains(text) {
                        return line;
                    }
                }
                end => panic!("{text:?} was not said ({end:?}), but:\n{}", self.said),
            }
        }
    }

    /// The first word that begins so, of what was said.
    pub(crate) fn word(&self, beginning: &str) -> String {
        let mut words = self.said.split(|c: char| c.is_whitespace() || c == '=');
        words.find(|word| word.starts_with(beginning)).expect("it was said").to_owned()
    }

    pub(crate) fn send(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id().unwrap().cast_signed()).unwrap(), signal).unwrap();
    }

    /// Waits for its end, and gives the exit code. Everything that it said is kept.
    pub(crate) async fn end(&mut self) -> i32 {
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap();
        while let Some(line) = self.lines.recv().await {
            self.said.push_str(&line);
            self.said.push('\n');
        }
        status.code().unwrap_or(-1)
    }
}

fn read(stream: impl AsyncRead + Unpin + Send + 'static, sender: mpsc::UnboundedSender<String>) {
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
}

/// Pauses a queue again and again until a stream, which opens in its own time, tells of it.
pub(crate) async fn until_told(place: &Place, server: &Server, key: &str, tail: &mut Program) {
    for _ in 0..PATIENCE.as_secs() {
        for verb in ["pause", "resume"] {
            let done = place.ctl(server, key, &["queues", verb, "watched"], "").await;
            assert_eq!(done.code, 0, "{}", done.err);
        }
        if tokio::time::timeout(Duration::from_secs(1), tail.until("queue=watched")).await.is_ok() {
            return;
        }
    }
    panic!("nothing is told, but:\n{}", tail.said);
}

/// Makes the first administrator, who is an operator too and logged in.
pub(crate) async fn set_up(place: &Place, server: &mut Server) {
    if !server.program.said.contains("setup --user admin") {
        server.program.until("setup --user admin").await;
    }
    let token = server.program.word("mamos_setup_");
    let setup = ["setup", "--user", "admin", "--password-stdin"];
    let made = place.ctl(server, &token, &setup, PASSWORD).await;
    assert_eq!(made.code, 0, "{}", made.err);
    let roles = place.ctl(server, "", &["users", "set-roles", "admin", "admin", "operator"], "").await;
    assert_eq!(roles.code, 0, "{}", roles.err);
}

/// Starts a server for trying out; gives its key and its registration token, too.
pub(crate) async fn dev(place: &Place) -> (Server, String, String) {
    dev_with(place, &[]).await
}

/// The same with more arguments.
pub(crate) async fn dev_with(place: &Place, arguments: &[&str]) -> (Server, String, String) {
    let mut server = place.start(&[&["--dev"], arguments].concat()).await;
    server.program.until("mamos-agent run").await;
    let (key, token) = (server.program.word("mamos_key_"), server.program.word("mamos_reg_"));
    (server, key, token)
}
