//! One command from start to end.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use mamos_core::agent::{Attempt, LogStream};
use mamos_core::job::{Failure, Outcome};
use mamos_core::whitelist::{CommandOutput, Permit};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::output::{Output, Printed};
use super::pids::Pids;
use crate::group::{ProcessGroup, describe};

/// How long the pipes may stay open and quiet after the command itself has ended: some other process
/// has them, and what it still wants to say has then been said.
const QUIET_AFTER_EXIT: Duration = Duration::from_millis(500);

/// How long the rest of the output may take once the whole group is dead: a slow link needs some time, and
/// a process that left the group and goes on printing gets no more than this.
const REST_WITHIN: Duration = Duration::from_secs(30);

/// How long a killed process may take to be gone. Only one that hangs in the kernel takes longer.
const DEAD_WITHIN: Duration = Duration::from_secs(5);

/// Why a command was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stopped {
    Cancelled,
    TimedOut(Duration),
}

pub(super) async fn run(
    permit: &Permit,
    attempt: &Attempt,
    stop_grace: Duration,
    pids: Option<&Pids>,
) -> Outcome {
    let started = Instant::now();
    let mut child = match command(permit, attempt).spawn() {
        Ok(child) => child,
        Err(error) => return not_started(permit, &error),
    };
    // Dropped in the opposite order: first the group is killed, then it is forgotten.
    let _remembered = pids.zip(child.id()).map(|(pids, id)| pids.remember(id));
    let Some(mut group) = ProcessGroup::of(&child) else {
        return not_started(permit, &io::Error::other("it has no process id"));
    };
    let mut output = Output::new(permit.output_cap_bytes, attempt.reporter.clone());
    output.pump(LogStream::Stdout, child.stdout.take());
    output.pump(LogStream::Stderr, child.stderr.take());

    let timeout = attempt.timeout.map_or(permit.timeout, |timeout| timeout.min(permit.timeout));
    let deadline = started + timeout;
    let (ended, stopped) = tokio::select! {
        biased;
        status = child.wait() => (status, None),
        grace = attempt.cancellation.cancelled() => {
            (stop(&mut child, &mut group, grace).await, Some(Stopped::Cancelled))
        }
        () = tokio::time::sleep_until(deadline) => {
            (stop(&mut child, &mut group, stop_grace).await, Some(Stopped::TimedOut(timeout)))
        }
    };
    let elapsed = started.elapsed();
    // What a descendant still prints belongs to the output, but it may not keep the run from ending.
    tokio::select! {
        () = output.closed_or_quiet(QUIET_AFTER_EXIT) => {}
        () = tokio::time::sleep_until(deadline) => {}
        _ = attempt.cancellation.cancelled() => {}
    }
    group.finish().await;
    let rest = output.closed_or_quiet(QUIET_AFTER_EXIT);
    if tokio::time::timeout(REST_WITHIN, rest).await.is_err() {
        tracing::warn!(run = ?attempt.run, "the rest of a command's output took too long and is left out");
    }
    outcome(ended, stopped, &output.finish().await, elapsed)
}

fn command(permit: &Permit, attempt: &Attempt) -> Command {
    let mut command = Command::new(&permit.program);
    command
        .args(&permit.arguments)
        .env_clear()
        .envs(&permit.environment)
        .current_dir(&permit.working_directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    if let Some(traceparent) = &attempt.traceparent {
        command.env("TRACEPARENT", traceparent.as_ref());
    }
    command
}

/// Asks the whole group to end, and ends it by force after `grace`.
async fn stop(child: &mut Child, group: &mut ProcessGroup, grace: Duration) -> io::Result<ExitStatus> {
    let deadline = Instant::now() + grace;
    group.terminate();
    if let Ok(status) = tokio::time::timeout_at(deadline, child.wait()).await {
        // Its descendants have the same grace.
        group.gone(deadline.saturating_duration_since(Instant::now())).await;
        return status;
    }
    group.kill();
    let killed = tokio::time::timeout(DEAD_WITHIN, child.wait()).await;
    killed.unwrap_or_else(|_| Err(io::Error::other("it was killed, and hangs in the kernel")))
}

fn outcome(
    ended: io::Result<ExitStatus>,
    stopped: Option<Stopped>,
    printed: &Printed,
    elapsed: Duration,
) -> Outcome {
    let retry = |code: &str, what: String| {
        let tail = &printed.tail;
        let message = if tail.is_empty() { what } else { format!("{what}; it last said: {tail}") };
        Outcome::Retry { failure: Failure::new(code, message), after: None }
    };
    match (stopped, ended) {
        (Some(Stopped::Cancelled), _) => Outcome::Cancelled,
        (Some(Stopped::TimedOut(timeout)), _) => {
            retry("timeout", format!("took longer than {timeout:?} and was stopped"))
        }
        (None, Err(error)) => retry("lost", format!("how it ended is not known: {error}")),
        (None, Ok(status)) if status.success() => {
            let output = CommandOutput {
                exit_code: status.code(),
                signal: status.signal(),
                output_bytes: printed.kept,
                dropped_bytes: printed.dropped,
                elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            };
            match serde_json::to_vec(&output) {
                Ok(output) => Outcome::Succeeded { output: Bytes::from(output) },
                Err(error) => retry("output", format!("its output cannot be written: {error}")),
            }
        }
        (None, Ok(status)) => {
            let code = if status.signal().is_some() { "signal" } else { "exit_code" };
            retry(code, describe(status))
        }
    }
}

fn not_started(permit: &Permit, error: &io::Error) -> Outcome {
    let (program, directory) = (permit.program.display(), permit.working_directory.display());
    let failure = Failure::new("spawn", format!("{program} could not be started in {directory}: {error}"));
    match error.kind() {
        io::ErrorKind::NotFound
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::PermissionDenied
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::ArgumentListTooLong => Outcome::Bury { failure },
        // Too many processes, no memory, a program that is just being replaced: that passes.
        _ => Outcome::Retry { failure, after: None },
    }
}
