//! A whitelisted command runs on an agent, and its output is shown as it comes.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Result, anyhow};
use mamos_core::event::What;
use mamos_core::job::Failure;
use mamos_core::job::retry::RetryPolicy;
use mamos_core::lease::RunRef;
use mamos_core::orchestrator::{Seen, WaitError};
use mamos_core::store::{JobFilter, PageRequest};
use mamos_core::whitelist::{CommandOutput, CommandRequest, DenialCode};
use mamos_core::{CommandId, ErrorKind, JobId, JobState, Orchestrator, QueueName, Whitelist};

use super::agents::AgentProcess;
use super::ending::Ending;
use super::place::Place;
use super::policy;
use super::service::Service;
use super::voice::Voice;

const QUEUE: &str = "commands";
/// How much of a log is read at once.
const PIECE: u32 = 64 * 1024;
/// How long an interrupted command may take to end by itself.
const GRACE: Duration = Duration::from_secs(2);

/// What became of a wish to run a command.
#[derive(Debug)]
pub(super) enum Ran {
    Succeeded,
    Failed(JobId, Failure),
    Denied(String),
}

/// `quickstart run NAME [PARAMETER=VALUE]...`
pub(super) async fn run(
    place: &Place,
    command: &str,
    parameters: Vec<(String, String)>,
    voice: &Voice,
) -> Result<Ending> {
    let request = match CommandId::new(command) {
        Ok(command) => {
            CommandRequest { command, parameters: parameters.into_iter().collect::<BTreeMap<_, _>>() }
        }
        Err(error) => {
            voice.complain(error);
            return Ok(Ending::Usage);
        }
    };
    let service = Service::start(place).await?;
    let ending = run_on(&service.orchestrator, place, request, voice).await;
    service.stop().await?;
    ending
}

async fn run_on(
    orchestrator: &Orchestrator,
    place: &Place,
    request: CommandRequest,
    voice: &Voice,
) -> Result<Ending> {
    let agent = AgentProcess::prepare("first", place, orchestrator).await?;
    let mut interrupt = pin!(tokio::signal::ctrl_c());
    let ran = tokio::select! {
        ran = async { agent.start(orchestrator).await?; show(orchestrator, request, voice).await } => ran,
        _ = &mut interrupt => {
            cancel_open(orchestrator).await?;
            agent.stop().await?;
            return Ok(Ending::Interrupted);
        }
    };
    agent.stop().await?;
    Ok(match ran? {
        Ran::Succeeded => Ending::Fine,
        Ran::Failed(job, failure) => {
            voice.complain(format_args!("the command failed: {failure}"));
            voice.complain(format_args!("its history: quickstart why {job}"));
            Ending::CommandFailed
        }
        Ran::Denied(why) => {
            voice.complain(format_args!("denied: {why}"));
            let known: Vec<String> = policy::load()?.commands().iter().map(ToString::to_string).collect();
            voice.complain(format_args!("this whitelist has {}", known.join(", ")));
            Ending::Denied
        }
    })
}

/// Nobody waits for the command any more, so that it must not run on, or later.
async fn cancel_open(orchestrator: &Orchestrator) -> Result<()> {
    let states = vec![JobState::Scheduled, JobState::Ready, JobState::Leased, JobState::Running];
    let filter = JobFilter { states, queue: Some(QueueName::new(QUEUE)?), ..JobFilter::default() };
    for job in orchestrator.jobs(filter, PageRequest::default()).await?.items {
        orchestrator.cancel(job.spec.id, "interrupted", GRACE).await?;
        // Killed after the grace at the latest, and if that is not on record in time, it will be.
        let _ = tokio::time::timeout(GRACE * 2, orchestrator.wait(job.spec.id)).await;
    }
    Ok(())
}

/// Asks for a command, and shows what it prints until it has ended.
pub(super) async fn show(orchestrator: &Orchestrator, request: CommandRequest, voice: &Voice) -> Result<Ran> {
    let mut events = orchestrator.events();
    let wish = match orchestrator.run_command(request, &policy::operator()) {
        Ok(wish) => wish.queue(QUEUE).retry(RetryPolicy::never()),
        Err(error) if error.kind() == ErrorKind::Denied => {
            return Ok(Ran::Denied(error.message().to_owned()));
        }
        Err(error) => return Err(error.into()),
    };
    let handle = wish.await?;
    let mut shown = Shown { job: handle.id(), bytes: 0 };
    let mut ended = pin!(handle.wait());
    let ended = loop {
        tokio::select! {
            ended = &mut ended => break ended,
            seen = events.next() => match seen {
                Some(Seen::Event(event)) => if let What::JobLog { run, .. } = &event.what && run.job == shown.job {
                    shown.rest(orchestrator, *run, voice).await?;
                },
                Some(Seen::Missed(_)) => {}
                None => return Err(anyhow!("the orchestrator is gone")),
            },
        }
    };
    let record = handle.record().await?;
    shown.rest(orchestrator, RunRef { job: record.spec.id, epoch: record.epoch }, voice).await?;
    outcome(handle.id(), ended)
}

/// How much of a run's log was shown. Events only say that there is more; the store has the bytes.
struct Shown {
    job: JobId,
    bytes: u64,
}

impl Shown {
    async fn rest(&mut self, orchestrator: &Orchestrator, run: RunRef, voice: &Voice) -> Result<()> {
        loop {
            let pieces = orchestrator.log(run, self.bytes, PIECE).await?;
            if pieces.is_empty() {
                return Ok(());
            }
            for piece in pieces {
                self.bytes += piece.bytes.len() as u64;
                voice.pass_on(&piece.bytes);
            }
        }
    }
}

fn outcome(job: JobId, ended: Result<CommandOutput, WaitError>) -> Result<Ran> {
    match ended {
        Ok(_) => Ok(Ran::Succeeded),
        Err(WaitError::Dead(failure)) if is_denial(&failure) => Ok(Ran::Denied(failure.message)),
        Err(WaitError::Dead(failure)) => Ok(Ran::Failed(job, failure)),
        Err(WaitError::Cancelled(reason)) => Ok(Ran::Failed(job, Failure::new("cancelled", reason))),
        Err(error) => Err(error.into()),
    }
}

/// The agent has a whitelist of its own, and may say no where the orchestrator said yes.
fn is_denial(failure: &Failure) -> bool {
    use DenialCode::{
        BadValue, Differs, MissingParameter, NotForPrincipal, UnknownCommand, UnknownParameter,
    };
    [BadValue, Differs, MissingParameter, NotForPrincipal, UnknownCommand, UnknownParameter]
        .iter()
        .any(|code| code.as_str() == failure.code)
}
