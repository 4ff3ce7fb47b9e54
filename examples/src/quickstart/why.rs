//! `quickstart why JOB`: where a job is, what it waits for, and what it went through.

use anyhow::Result;
use mamos_core::orchestrator::WaitsFor;
use mamos_core::{JobId, Orchestrator};

use super::ending::Ending;
use super::place::Place;
use super::service;
use super::voice::Voice;

pub(super) async fn run(place: &Place, job: JobId, voice: &Voice) -> Result<Ending> {
    let orchestrator: Orchestrator = service::look_only(place).await?;
    let why = orchestrator.why(job).await?;
    let record = orchestrator.job(job).await?;
    voice.say(format_args!("job {job}, a {}, is {}", record.spec.lane.kind(), why.state.as_str()));
    match why.waits_for {
        WaitsFor::Nothing => {}
        // Agents are connected to the quickstart that runs, if one does, and not to this look at its file.
        WaitsFor::AgentOfKind(kind) => voice.say(format_args!("  it waits for an agent that can run {kind}")),
        waits_for => voice.say(format_args!("  it waits for {waits_for}")),
    }
    if let Some(failure) = &record.failure {
        voice.say(format_args!("  {failure}"));
    }
    for run in orchestrator.attempts(job).await? {
        let agent = run.agent.map_or_else(|| "nobody".to_owned(), |agent| agent.to_string());
        let end = run.end.map_or("goes on", |end| end.as_str());
        let late = if run.is_late { ", too late to count" } else { "" };
        voice.say(format_args!("  {}: run {} by {agent}: {end}{late}", run.leased_at, run.run.epoch));
    }
    Ok(Ending::Fine)
}
