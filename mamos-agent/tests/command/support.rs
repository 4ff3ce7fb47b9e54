//! Permits by hand, a log that can be waited for, and processes to look at.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mamos_agent::CommandRunner;
use mamos_core::agent::{Attempt, Cancellation, LogStream, ReportSink, Reporter};
use mamos_core::auth::Principal;
use mamos_core::job::{Counters, Failure, Outcome, Progress};
use mamos_core::lease::{Epoch, RunRef};
use mamos_core::whitelist::{CommandOrder, CommandOutput, CommandRequest, Denial, Permit};
use mamos_core::{Agent, AgentKind, CommandId, JobId, JobKind, Whitelist};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Permits one thing, as a policy never would: shells too.
pub(crate) struct Fixed(pub(crate) Permit);

impl Whitelist for Fixed {
    fn permit(&self, _: &CommandRequest, _: &Principal) -> Result<Permit, Denial> {
        Ok(self.0.clone())
    }

    fn commands(&self) -> Vec<CommandId> {
        vec![self.0.command.clone()]
    }

    fn digest(&self) -> String {
        "fixed".to_owned()
    }
}

pub(crate) fn permit(program: &str, arguments: &[&str]) -> Permit {
    Permit {
        command: CommandId::new("c").unwrap(),
        program: program.into(),
        arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        paths: Vec::new(),
        environment: Default::default(),
        working_directory: "/".into(),
        timeout: Duration::from_secs(60),
        output_cap_bytes: 1 << 20,
    }
}

pub(crate) fn script(text: &str) -> Permit {
    permit("/bin/sh", &["-c", text])
}

type Piece = (LogStream, u64, Bytes);

/// All that a run logged so far.
#[derive(Debug, Clone)]
pub(crate) struct Log(Arc<watch::Sender<Vec<Piece>>>);

#[async_trait]
impl ReportSink for Log {
    fn progress(&self, _: RunRef, _: Progress) {}

    async fn log(&self, _: RunRef, stream: LogStream, offset: u64, bytes: Bytes) {
        self.0.send_modify(|pieces| pieces.push((stream, offset, bytes)));
    }
}

impl Log {
    pub(crate) fn pieces(&self) -> Vec<Piece> {
        self.0.borrow().clone()
    }

    fn of(&self, stream: LogStream) -> Vec<u8> {
        self.pieces().into_iter().filter(|piece| piece.0 == stream).flat_map(|piece| piece.2).collect()
    }

    pub(crate) fn stdout(&self) -> Vec<u8> {
        self.of(LogStream::Stdout)
    }

    pub(crate) fn stderr(&self) -> Vec<u8> {
        self.of(LogStream::Stderr)
    }

    pub(crate) fn notes(&self) -> String {
        String::from_utf8(self.of(LogStream::Note)).unwrap()
    }

    /// The complete lines of standard output, as numbers.
    pub(crate) fn numbers(&self) -> Vec<i32> {
        let text = String::from_utf8(self.stdout()).unwrap();
        let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        lines.map(|line| line.parse().unwrap()).collect()
    }

    pub(crate) fn largest_piece(&self) -> usize {
        self.pieces().iter().map(|piece| piece.2.len()).max().unwrap_or_default()
    }

    pub(crate) async fn until(&self, condition: impl Fn(&Self) -> bool) {
        let mut changes = self.0.subscribe();
        let waiting = async {
            while !condition(self) {
                changes.changed().await.unwrap();
            }
        };
        let limit = tokio::time::timeout(Duration::from_secs(20), waiting).await;
        assert!(limit.is_ok(), "never came; so far: {:?}", self.pieces());
    }
}

/// One attempt, before it begins.
pub(crate) struct Run {
    runner: CommandRunner,
    pub(crate) order: CommandOrder,
    pub(crate) attempt: Attempt,
    pub(crate) payload: Option<Bytes>,
    log: Log,
}

/// One attempt that runs.
pub(crate) struct Running {
    pub(crate) log: Log,
    cancellation: Cancellation,
    end: JoinHandle<Outcome>,
}

impl Run {
    pub(crate) fn of(permit: Permit) -> Self {
        Self::with(Arc::new(Fixed(permit.clone())), permit)
    }

    /// Asks the agent's whitelist for what the orchestrator permitted.
    pub(crate) fn with(whitelist: Arc<dyn Whitelist>, permit: Permit) -> Self {
        let kind = AgentKind::new("ops").unwrap();
        let grace = Duration::from_millis(100);
        Self::on(CommandRunner::builder(whitelist, kind).stop_grace(grace).build().unwrap(), permit)
    }

    pub(crate) fn on(runner: CommandRunner, permit: Permit) -> Self {
        let log = Log(Arc::new(watch::Sender::default()));
        let run = RunRef { job: JobId::from_key("job"), epoch: Epoch::default() };
        let attempt = Attempt {
            run,
            kind: JobKind::of_command(&permit.command),
            payload: Bytes::new(),
            counters: Counters::default(),
            timeout: None,
            deadline: None,
            traceparent: None,
            cancellation: Cancellation::new(),
            reporter: Reporter::new(run, Arc::new(log.clone())),
        };
        let order = CommandOrder {
            request: CommandRequest::new(permit.command.clone()),
            principal: "user:ann".to_owned(),
            roles: vec!["operator".to_owned()],
            permit,
        };
        Self { runner, order, attempt, payload: None, log }
    }

    pub(crate) fn start(mut self) -> Running {
        self.attempt.payload = self.payload.unwrap_or_else(|| self.order.encode().unwrap());
        let cancellation = self.attempt.cancellation.clone();
        let end = tokio::spawn(async move { self.runner.run(self.attempt).await });
        Running { log: self.log, cancellation, end }
    }

    pub(crate) async fn end(self) -> (Outcome, Log) {
        self.start().end().await
    }
}

impl Running {
    pub(crate) async fn end(self) -> (Outcome, Log) {
        let outcome = tokio::time::timeout(Duration::from_secs(20), self.end).await;
        (outcome.expect("the run hangs").unwrap(), self.log)
    }

    pub(crate) async fn cancel(self, grace: Duration) -> (Outcome, Log) {
        self.cancellation.cancel(grace);
        self.end().await
    }

    pub(crate) async fn abort(self) {
        self.end.abort();
        assert!(self.end.await.unwrap_err().is_cancelled());
    }
}

pub(crate) fn output(outcome: &Outcome) -> CommandOutput {
    match outcome {
        Outcome::Succeeded { output } => serde_json::from_slice(output).unwrap(),
        other => panic!("not a success: {other:?}"),
    }
}

pub(crate) fn failure(outcome: &Outcome) -> Failure {
    match outcome {
        Outcome::Retry { failure, .. } | Outcome::Bury { failure } => failure.clone(),
        other => panic!("not a failure: {other:?}"),
    }
}

/// Is there such a process, and is it more than a zombie?
pub(crate) fn lives(pid: i32) -> bool {
    stat(pid).is_some_and(|fields| fields[0] != "Z" && fields[0] != "X")
}

fn stat(pid: i32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

/// Waits for what no event announces, in a test with a limit of its own.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), waiting).await.is_ok(), "never came true");
}

/// A group of processes that nobody watches, as a killed agent leaves it.
pub(crate) struct Orphan {
    pub(crate) group: i32,
    pub(crate) started: u64,
    pub(crate) member: i32,
    child: std::process::Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

/// A group of a shell, which repeats each line that it is told, and one other process.
pub(crate) fn orphan(leader_dies: bool) -> Orphan {
    let mut child = std::process::Command::new("/bin/sh")
        .args(["-c", "/bin/sleep 1000 & echo $!; while read line; do echo $line; done"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let member = line.trim().parse().unwrap();
    let group = child.id() as i32;
    let started = stat(group).unwrap()[19].parse().unwrap();
    let input = child.stdin.take().filter(|_| !leader_dies);
    if leader_dies {
        child.wait().unwrap();
    }
    Orphan { group, started, member, child, input, output }
}

impl Orphan {
    /// Does the leader still answer? A signal that is on its way would come first.
    pub(crate) fn answers(&mut self) -> bool {
        let mut line = String::new();
        self.input.as_mut().unwrap().write_all(b"still here\n").is_ok()
            && self.output.read_line(&mut line).unwrap() > 0
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_raw(self.group).unwrap();
        // It may be gone already: that is what some tests are about.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        self.child.wait().unwrap();
    }
}
