//! Writing what agents report, in batches, and acting on the verdicts.
//!
//! Group commit by draining: takes what waits, writes it, acknowledges, and looks again. An agent's
//! slot is free only after the end of its run is on record.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::engine::Engine;
use super::outbox::Outbox;
use super::registry::{Held, Registry};
use super::stats::LaneCounts;
use crate::clock::Timestamp;
use crate::event::What;
use crate::id::AgentId;
use crate::job::Outcome;
use crate::job::lane::LaneId;
use crate::job::state::JobState;
use crate::lease::{RunRef, SessionRef, Verdict};
use crate::store::{Report, Reported, RunWrite};

/// The most reports that go to the store at once.
pub(crate) const MAX_BATCH: usize = 4096;

/// How much the reports of all agents may hold in memory until they are on record, in KiB.
pub(crate) const ROOM_KIB: u32 = 64 * 1024;

/// Reports of one agent that wait for the store.
pub(crate) struct Request {
    /// The memory that they take, given back when they are on record.
    #[expect(unused, reason = "held, not read")]
    pub(crate) room: OwnedSemaphorePermit,
    pub(crate) session: SessionRef,
    pub(crate) agent: AgentId,
    pub(crate) outbox: Arc<Outbox>,
    /// The number of the last report.
    pub(crate) through: u64,
    pub(crate) writes: Vec<RunWrite>,
}

/// Runs until nobody can send any more.
pub(crate) async fn run(engine: Arc<Engine>, mut requests: mpsc::Receiver<Request>) {
    while let Some(first) = requests.recv().await {
        let mut count = first.writes.len();
        let mut batch = vec![first];
        while count < MAX_BATCH
            && let Ok(next) = requests.try_recv()
        {
            count += next.writes.len();
            batch.push(next);
        }
        write(&engine, batch).await;
    }
}

async fn write(engine: &Engine, mut batch: Vec<Request>) {
    let counts: Vec<usize> = batch.iter().map(|request| request.writes.len()).collect();
    let writes: Vec<RunWrite> = match &mut batch[..] {
        [only] => std::mem::take(&mut only.writes),
        batch => batch.iter_mut().flat_map(|request| request.writes.drain(..)).collect(),
    };
    let Some(answers) = insist(engine, &writes).await else { return };
    let now = engine.now();
    let watched = engine.events.is_watched();
    let mut answers = writes.iter().zip(answers);
    let mut has_room = false;
    let mut counts_of = None;
    let (mut ended, mut changed) = (Vec::new(), Vec::new());
    for (request, count) in batch.into_iter().zip(counts) {
        let mut exceptions = Vec::new();
        let mut events = Vec::new();
        {
            let mut registry = engine.registry();
            for (write, reported) in answers.by_ref().take(count) {
                if reported.verdict != Verdict::Applied {
                    exceptions.push((write.run, reported.verdict));
                }
                if reported.verdict.is_lost() {
                    engine.tally.stale_write(&write.report);
                }
                let mut of_lane = None;
                if is_over(&write.report) || reported.verdict.is_lost() {
                    let held = registry.ended(request.session.id, write.run);
                    has_room |= held.is_some();
                    of_lane = held.map(|held| held.lane);
                    if let Some(held) = held {
                        count_end(engine, &registry, &mut counts_of, held, write, &reported, now);
                    }
                    if let (Some(lane), Some(JobState::Ready)) = (of_lane, reported.state) {
                        registry.lane_ready_by_id(lane);
                    }
                } else if write.report == Report::Started {
                    registry.started(request.session.id, write.run, now);
                }
                if watched && let Some(what) = event(&request.agent, write, &reported) {
                    let of_lane = of_lane.or_else(|| registry.lane_of(request.session.id, write.run));
                    events.push((of_lane.and_then(|lane| registry.lane(lane).cloned()), what));
                }
                if let (true, Some(run_at)) = (reported.state == Some(JobState::Scheduled), reported.run_at) {
                    engine.due.no_later_than(run_at);
                }
                if reported.state.is_some_and(JobState::is_final) {
                    ended.push(write.run.job);
                } else if is_news(&write.report) {
                    changed.push(write.run.job);
                }
            }
        }
        for (lane, what) in events {
            engine.events.tell_of(now, lane, what);
        }
        request.outbox.recorded(request.through, exceptions);
    }
    if !ended.is_empty() {
        engine.waiters.ended(ended.into_iter());
    }
    if !changed.is_empty() {
        engine.waiters.changed(changed.into_iter());
    }
    if has_room {
        engine.given_up.notify_waiters();
        engine.dispatch.notify_one();
    }
}

/// Writes until the store answers: nothing that an agent reported is given up, and writing it again is
/// harmless. `None` if the orchestrator stops first; the agents then report again to the next one.
async fn insist(engine: &Engine, writes: &[RunWrite]) -> Option<Vec<Reported>> {
    let mut failures = 0;
    loop {
        match engine.store.report(writes.to_vec(), engine.now()).await {
            Ok(answers) if answers.len() == writes.len() => return Some(answers),
            Ok(answers) => {
                let (given, asked) = (answers.len(), writes.len());
                tracing::error!(target: "mamos::settle", given, asked, "the store answers too few or too many");
            }
            Err(error) if error.is_retryable() => {
                tracing::warn!(target: "mamos::settle", %error, failures, "the store failed; trying again");
            }
            Err(error) => {
                tracing::error!(target: "mamos::settle", %error, failures, "the store refuses reports; trying again");
            }
        }
        if engine.stopping.is_cancelled() && failures > 0 {
            return None;
        }
        failures += 1;
        engine.back_off(failures).await;
    }
}

/// Does the run no longer belong to the agent after this report?
fn is_over(report: &Report) -> bool {
    matches!(report, Report::Settle(_) | Report::Release)
}

/// Does it matter to whoever follows the log of the job?
fn is_news(report: &Report) -> bool {
    matches!(report, Report::Log(_)) || is_over(report)
}

/// The lane of the last attempt that was counted, and its counts: attempts of one lane follow each other.
type CountsOf = Option<(LaneId, Arc<LaneCounts>)>;

/// Counts an attempt that ended, and how long it took.
fn count_end(
    engine: &Engine,
    registry: &Registry,
    counts_of: &mut CountsOf,
    held: Held,
    write: &RunWrite,
    reported: &Reported,
    now: Timestamp,
) {
    let Report::Settle(outcome) = &write.report else { return };
    if !reported.verdict.is_applied() {
        return;
    }
    let counts = match counts_of {
        Some((lane, counts)) if *lane == held.lane => counts,
        counts_of => {
            let lane = registry.lane(held.lane);
            let counts = lane.map_or_else(|| engine.tally.other(), |lane| engine.tally.lane(lane));
            &mut counts_of.insert((held.lane, counts)).1
        }
    };
    counts.settled(outcome);
    if let Some(started_at) = held.started_at {
        engine.tally.run.observe(now.since(started_at));
    }
}

fn event(agent: &AgentId, write: &RunWrite, reported: &Reported) -> Option<What> {
    let (run, agent) = (write.run, agent.clone());
    if reported.verdict.is_lost() {
        return Some(What::StaleWrite { run, agent });
    }
    Some(match &write.report {
        Report::Started => What::JobStarted { run, agent },
        Report::Progress(progress) => What::JobProgress { run, progress: progress.clone() },
        Report::Log(_) if reported.verdict == Verdict::Gap => return None,
        Report::Log(piece) => What::JobLog { run, piece: piece.clone() },
        Report::Settle(_) => What::JobSettled { run, agent, state: reported.state? },
        Report::Release => What::JobRescued { run, state: reported.state? },
    })
}

/// Brings what an agent sent within the bounds that the rest relies on.
pub(crate) fn bounded(outcome: Outcome, max_output_bytes: usize) -> Outcome {
    use crate::job::Failure;
    let cut = |failure: Failure| Failure::new(failure.code, failure.message);
    match outcome {
        Outcome::Succeeded { output } if output.len() > max_output_bytes => {
            let message = format!(
                "the output has {} bytes, over the limit of {max_output_bytes}; store large data elsewhere",
                output.len()
            );
            Outcome::Bury { failure: Failure::new("output_too_large", message) }
        }
        Outcome::Retry { failure, after } => Outcome::Retry { failure: cut(failure), after },
        Outcome::Bury { failure } => Outcome::Bury { failure: cut(failure) },
        other => other,
    }
}

/// A run that was taken from an agent by someone else than the agent: end it there.
pub(crate) fn taken_away(engine: &Engine, run: RunRef, state: JobState, now: Timestamp) {
    let mut lane = None;
    let mut registry = engine.registry();
    if let Some((session, outbox)) =
        registry.holder(run).map(|link| (link.session.id, Arc::clone(&link.outbox)))
    {
        outbox.order(crate::protocol::ToAgent::Kill { runs: vec![run] });
        lane = registry.ended(session, run).and_then(|held| registry.lane(held.lane).cloned());
        engine.given_up.notify_waiters();
        engine.dispatch.notify_one();
    }
    drop(registry);
    if state.is_final() {
        engine.waiters.ended([run.job].into_iter());
    } else {
        engine.waiters.changed([run.job].into_iter());
    }
    if engine.events.is_watched() {
        engine.events.tell_of(now, lane, What::JobRescued { run, state });
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::job::{Failure, MAX_FAILURE_BYTES};

    #[test]
    fn what_an_agent_sends_is_brought_within_bounds() {
        let large = Outcome::Succeeded { output: Bytes::from(vec![0; 11]) };
        let Outcome::Bury { failure } = bounded(large, 10) else { panic!("the output is too large") };
        assert_eq!(failure.code, "output_too_large");
        let fits = Outcome::Succeeded { output: Bytes::from(vec![0; 10]) };
        assert_eq!(bounded(fits.clone(), 10), fits);
        let long = Failure { code: "c".into(), message: "m".repeat(1 << 20) };
        let Outcome::Retry { failure, .. } = bounded(Outcome::Retry { failure: long, after: None }, 10)
        else {
            panic!("still a retry")
        };
        assert_eq!(failure.message.len(), MAX_FAILURE_BYTES);
    }
}
