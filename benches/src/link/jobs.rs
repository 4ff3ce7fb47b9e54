//! From a backlog to the last end on record, over the link and inside the process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mamos_core::JobId;
use mamos_core::transport::{Connector, Listener};
use mamos_store::MemoryStore;
use mamos_transport::memory::pair;

use super::settings::LinkSettings;
use super::{Report, ours};
use crate::agents::Crew;
use crate::audit;
use crate::figures::{Findings, Rounds, Unit};
use crate::measures::{jobs, rate, store_all};
use crate::output::Progress;
use crate::running::Running;

/// As in the other measures of a drain, but with one agent: one link.
const SLOTS: u32 = 1024;
const PREFETCH: u32 = 1024;
const PAYLOAD_BYTES: usize = 64;

pub(super) async fn measure(
    settings: &LinkSettings,
    progress: &Progress,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut figure = Rounds::new(
        "drain a backlog over the link, one agent",
        Unit::JobsPerSecond,
        "the same over the transport inside the process",
    );
    let mut findings = Findings::default();
    for round in 1..=settings.rounds {
        progress.say(format!("jobs: round {round}, baseline"));
        let (listener, connector) = pair();
        let inside = drain(settings.jobs, listener, &connector, &mut findings).await?;
        progress.say(format!("jobs: round {round}"));
        let (listener, connector) = ours::link_ends(settings).await?;
        let over_link = drain(settings.jobs, listener, &connector, &mut findings).await?;
        figure.add(rate(settings.jobs, over_link), rate(settings.jobs, inside));
    }
    report.figures.push(figure.figure());
    report.lost += findings.lost;
    report.duplicated += findings.duplicated;
    Ok(())
}

async fn drain(
    count: u64,
    listener: impl Listener,
    connector: &dyn Connector,
    findings: &mut Findings,
) -> anyhow::Result<Duration> {
    let running = Running::start(Arc::new(MemoryStore::new()), |builder| {
        builder.listener(listener).prefetch(PREFETCH)
    })?;
    let mut crew = Crew::connect_to(&running.orchestrator, connector, 1, SLOTS, None).await?;
    let first = jobs(1, PAYLOAD_BYTES)?;
    let backlog = jobs(count, PAYLOAD_BYTES)?;
    let ids: Vec<JobId> = first.iter().chain(&backlog).map(|job| job.id).collect();
    // One job goes ahead: then the link is made, which is not counted.
    store_all(&running.orchestrator, first).await?;
    crew.reached(1).await?;
    let begun = Instant::now();
    store_all(&running.orchestrator, backlog).await?;
    let ended = crew.reached(count + 1).await?;
    audit::check(&running.orchestrator, &ids, Some(&crew.tally), findings).await?;
    crew.leave().await?;
    running.stop().await?;
    Ok(ended - begun)
}
