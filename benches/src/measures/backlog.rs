//! Does a job cost more when many wait or have ended? The baseline is MAMOS with a tenth of them.

use std::time::Instant;

use super::{jobs, store_all};
use crate::agents::Crew;
use crate::audit;
use crate::bed::Bed;
use crate::figures::{Findings, Rounds, Unit, micros};
use crate::output::Progress;
use crate::settings::Settings;

/// How many times larger the large backlog is.
const TIMES: u64 = 10;
/// The most jobs of the small backlog: ten times as many have to fit into memory.
const MOST: u64 = 100_000;

/// The cost of a job in microseconds while a backlog is drained, and while the first and the last part of it is.
struct Cost {
    all: f64,
    first: f64,
    last: f64,
}

pub(crate) async fn measure(
    settings: &Settings,
    progress: &Progress,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let small = settings.jobs.min(MOST);
    let large = small * TIMES;
    let against = format!("MAMOS, a backlog of {small}");
    let name = |part: &str| format!("cost a job, {part} {small} of {large}");
    let mut alls = Rounds::new(format!("cost a job, all of {large}"), Unit::Micros, &against);
    let mut firsts = Rounds::new(name("first"), Unit::Micros, &against);
    let mut lasts = Rounds::new(name("last"), Unit::Micros, &against);
    for round in 1..=settings.rounds {
        progress.say(format!("backlog: round {round}, {small} jobs"));
        let few = drain(settings, small, small, findings).await?;
        progress.say(format!("backlog: round {round}, {large} jobs"));
        let many = drain(settings, large, small, findings).await?;
        alls.add(many.all, few.all);
        firsts.add(many.first, few.all);
        lasts.add(many.last, few.all);
    }
    findings.figures.extend([alls.figure(), firsts.figure(), lasts.figure()]);
    Ok(())
}

async fn drain(settings: &Settings, count: u64, part: u64, findings: &mut Findings) -> anyhow::Result<Cost> {
    let bed = Bed::make(settings).await?;
    store_all(&bed.orchestrator, jobs(count, settings.payload_bytes)?).await?;
    let begun = Instant::now();
    let mut crew = Crew::connect(&bed, settings.agents, settings.slots, None).await?;
    let first = crew.reached(part).await? - begun;
    let before_last = if count > part { crew.reached(count - part).await? } else { begun };
    let end = crew.reached(count).await?;
    audit::count(&bed.orchestrator, count, &crew.tally, findings).await?;
    crew.leave().await?;
    bed.clear().await?;
    let each = |took, jobs| micros(took) / jobs as f64;
    Ok(Cost { all: each(end - begun, count), first: each(first, part), last: each(end - before_last, part) })
}
