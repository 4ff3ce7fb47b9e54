//! What must hold after a scenario. Knows nothing of the engine: only what agents wrote down, what the client
//! was told, what the store kept, and when the outages were.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use mamos_core::job::AttemptEnd;
use mamos_core::lease::RunRef;
use mamos_core::{JobId, JobState};
use serde::Serialize;

use super::evidence::{Evidence, Ran, What};
use super::place::{SLOTS, micros};
use super::world::BACK_WITHIN;
use crate::checker::check;
use crate::history::Entry;

/// What an agent saw so shortly before an outage may not have been said or written yet.
const SHORTLY: Duration = Duration::from_millis(500);
/// Nine tenths of the agents come back over at least this time, if they are at least [`MANY`].
const JITTER: Duration = Duration::from_millis(200);
/// So many that chance cannot bring them all at once.
const MANY: usize = 10;

/// Something that went away for a while.
#[derive(Debug, Clone)]
pub struct Outage {
    /// In words.
    pub name: String,
    /// The agents that it concerns.
    pub agents: BTreeSet<usize>,
    /// When it began.
    pub from: i64,
    /// When it was over.
    pub until: i64,
    /// When all were back.
    pub settled: i64,
    /// What it may do.
    pub effect: Effect,
    /// Must its agents have come back on new links?
    pub relinks: bool,
    /// Must they have come back one after the other?
    pub has_jitter: bool,
}

/// What an outage may do to the runs of its agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: all that ran goes on, and counts.
    Unnoticed,
    /// What ran is given to others, once.
    Lost,
    /// Agents died while there was no server, since then: what had ended counts, the rest is run again.
    Journaled {
        /// When the server went.
        since: i64,
    },
}

/// A job at the end.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Its id.
    pub job: JobId,
    /// Its state.
    pub state: JobState,
    /// How often it is said to have crashed.
    pub crashes: u32,
    /// Its runs, those that came late too.
    pub runs: Vec<Recorded>,
}

/// What the store says of a run.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The run.
    pub run: RunRef,
    /// How it ended.
    pub end: Option<AttemptEnd>,
    /// Was this reported after it had lost its lease?
    pub is_late: bool,
    /// What its log is.
    pub log: Log,
}

/// What the log of a run is, next to what such a run prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    /// All of it, from the first line to the last.
    Whole,
    /// Its beginning, without a gap.
    Beginning,
    /// Something else.
    Wrong,
}

/// All that is known after a scenario.
#[derive(Debug, Default)]
pub struct Findings {
    /// What agents saw.
    pub evidence: Evidence,
    /// What the client was told is stored.
    pub accepted: BTreeSet<JobId>,
    /// What the store has.
    pub kept: Vec<Kept>,
    /// What it says it did.
    pub told: Vec<Entry>,
    /// What was done to it.
    pub outages: Vec<Outage>,
}

/// What is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Promise {
    /// The general checker found something.
    Guarantees,
    /// No job is interrupted.
    NotInterrupted,
    /// No job runs twice without need.
    NotTwice,
    /// Every job that was acknowledged succeeded.
    NotLost,
    /// Logs are whole.
    WholeLogs,
    /// What a lost agent ran is run once more, elsewhere.
    RescuedOnce,
    /// A result in a journal is delivered.
    JournalDelivered,
    /// Agents come back to their sessions, in time.
    Back,
    /// They do not come back all at once.
    Jitter,
    /// Enough happened for the verdict to mean something.
    Tested,
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Guarantees => "the guarantees hold",
            Self::NotInterrupted => "no job is interrupted",
            Self::NotTwice => "no job runs twice without need",
            Self::NotLost => "every acknowledged job succeeds",
            Self::WholeLogs => "logs are whole",
            Self::RescuedOnce => "what a lost agent ran is run once more, elsewhere",
            Self::JournalDelivered => "a result in a journal is delivered",
            Self::Back => "agents come back to their sessions within 30 s",
            Self::Jitter => "agents do not come back all at once",
            Self::Tested => "enough happened to be judged",
        })
    }
}

/// A promise that was broken, and by what.
#[derive(Debug, Clone, Serialize)]
pub struct Broken {
    /// Which.
    pub promise: Promise,
    /// By what.
    pub detail: String,
}

/// What an outage did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Effects {
    /// Which outage.
    pub name: String,
    /// How long it was.
    pub took_ms: i64,
    /// Runs that its agents ran when it began.
    pub running: usize,
    /// Those of them that ended before it did.
    pub ended_meanwhile: usize,
    /// Those that ran through all of it.
    pub ran_through: usize,
    /// Those that others had to run again.
    pub rescued: usize,
    /// Results that had to wait in a journal for a new life of their agent.
    pub journaled: usize,
    /// When its agents were back on a new link, from its end on, in milliseconds, sorted.
    pub back_ms: Vec<i64>,
}

/// Judges. Gives the broken promises, and what each outage did.
pub fn judge(findings: &Findings) -> (Vec<Broken>, Vec<Effects>) {
    let mut judge = Judge::new(findings);
    judge.guarantees();
    judge.jobs();
    let effects = findings.outages.iter().map(|outage| judge.outage(outage)).collect();
    judge.broken.sort_by_key(|broken| broken.promise);
    (judge.broken, effects)
}

struct Judge<'a> {
    findings: &'a Findings,
    ran: Vec<Ran>,
    by_job: BTreeMap<JobId, Vec<Ran>>,
    recorded: BTreeMap<RunRef, &'a Recorded>,
    broken: Vec<Broken>,
}

impl<'a> Judge<'a> {
    fn new(findings: &'a Findings) -> Self {
        let mut ran = findings.evidence.ran();
        ran.sort_by_key(|ran| ran.started);
        let mut by_job: BTreeMap<JobId, Vec<Ran>> = BTreeMap::new();
        for ran in &ran {
            by_job.entry(ran.run.job).or_default().push(ran.clone());
        }
        let runs = findings.kept.iter().flat_map(|kept| &kept.runs).filter(|recorded| !recorded.is_late);
        let recorded = runs.map(|recorded| (recorded.run, recorded)).collect();
        Self { findings, ran, by_job, recorded, broken: Vec::new() }
    }

    fn breaks(&mut self, promise: Promise, detail: String) {
        self.broken.push(Broken { promise, detail });
    }

    /// What the checker of all simulations says of it.
    fn guarantees(&mut self) {
        let mut entries = Vec::new();
        for (number, seen) in self.findings.evidence.seen.iter().enumerate() {
            let mut lives = 0;
            let name = |life: u32| format!("agent {number}, life {life}");
            for seen in seen {
                let agent = name(lives);
                let entry = match &seen.what {
                    What::Began => {
                        lives += 1;
                        entries.push(Entry::AgentDied { agent });
                        Entry::Slots { agent: name(lives), slots: SLOTS }
                    }
                    What::Started { run } => Entry::HandlerStarted { agent, run: *run },
                    What::Ended { run } | What::Dropped { run } => Entry::HandlerEnded { agent, run: *run },
                    What::GaveUp { why } => Entry::AgentGaveUp { agent, why: why.clone() },
                    What::Linked { .. } | What::Unlinked => continue,
                };
                entries.push(entry);
            }
        }
        entries.extend(self.findings.accepted.iter().map(|job| Entry::Accepted { job: *job }));
        entries.extend(self.findings.told.iter().cloned());
        let states = self.findings.kept.iter().map(|kept| Entry::Final { job: kept.job, state: kept.state });
        entries.extend(states);
        for violation in check(&entries) {
            self.breaks(Promise::Guarantees, format!("{violation:?}"));
        }
    }

    fn jobs(&mut self) {
        let stored: BTreeSet<JobId> = self.findings.kept.iter().map(|kept| kept.job).collect();
        for job in self.findings.accepted.difference(&stored) {
            self.breaks(Promise::NotLost, format!("{job} is not in the store"));
        }
        for kept in &self.findings.kept {
            let job = kept.job;
            if kept.state != JobState::Succeeded {
                self.breaks(Promise::NotLost, format!("{job} is {:?} at the end", kept.state));
            }
            let runs = self.by_job.get(&job).cloned().unwrap_or_default();
            for ran in runs.iter().rev().skip(1) {
                if self.is_excused(ran) {
                    continue;
                }
                let last = runs.last().map(|last| (last.run, last.agent));
                let detail = format!("{} ran at agent {}, then {last:?}", ran.run, ran.agent);
                self.breaks(Promise::NotTwice, detail);
            }
            let crashed: Vec<&Recorded> =
                kept.runs.iter().filter(|run| run.end == Some(AttemptEnd::Crashed)).collect();
            if crashed.len() != kept.crashes as usize {
                let detail =
                    format!("{job} crashed {} times, and {} are counted", crashed.len(), kept.crashes);
                self.breaks(Promise::RescuedOnce, detail);
            }
            for crashed in crashed {
                let ran = runs.iter().find(|ran| ran.run == crashed.run);
                if !ran.is_some_and(|ran| self.is_excused(ran)) {
                    let detail = format!("{} was taken from {:?}", crashed.run, ran.map(|ran| ran.agent));
                    self.breaks(Promise::NotInterrupted, detail);
                }
            }
            for run in kept.runs.iter().filter(|run| !run.is_late && run.end == Some(AttemptEnd::Succeeded)) {
                let ran = runs.iter().find(|ran| ran.run == run.run);
                // What an agent had printed and not sent dies with it.
                let may_be_cut = ran.is_some_and(|ran| self.lost_its_agent(ran));
                if run.log == Log::Wrong || (run.log == Log::Beginning && !may_be_cut) {
                    let detail = format!("that of {} is {:?} next to what it printed", run.run, run.log);
                    self.breaks(Promise::WholeLogs, detail);
                }
                if !runs.iter().any(|ran| ran.run == run.run && ran.is_whole) {
                    let detail = format!("{} succeeded, and its handler did not come to its end", run.run);
                    self.breaks(Promise::NotInterrupted, detail);
                }
            }
        }
    }

    /// May it be run again, because its agent was lost while it ran or before it could say how it ended?
    fn is_excused(&self, ran: &Ran) -> bool {
        self.findings.outages.iter().any(|outage| {
            outage.effect != Effect::Unnoticed
                && outage.agents.contains(&ran.agent)
                && ran.started <= outage.until
                && ran.ended.is_none_or(|ended| ended > outage.from - 2 * micros(SHORTLY))
        })
    }

    /// Was its agent lost before all that it said can have arrived?
    fn lost_its_agent(&self, ran: &Ran) -> bool {
        self.findings.outages.iter().any(|outage| {
            let since = match outage.effect {
                Effect::Unnoticed => return false,
                Effect::Lost => outage.from,
                Effect::Journaled { since } => since,
            };
            outage.agents.contains(&ran.agent)
                && ran.started <= outage.until
                && ran.ended.is_none_or(|ended| ended > since - 2 * micros(SHORTLY))
        })
    }

    fn outage(&mut self, outage: &Outage) -> Effects {
        let concerned = self.ran.iter().filter(|ran| outage.agents.contains(&ran.agent));
        let concerned: Vec<Ran> = concerned.cloned().collect();
        let running: Vec<&Ran> = concerned.iter().filter(|ran| ran.is_at(outage.from)).collect();
        let mut effects = Effects {
            name: outage.name.clone(),
            took_ms: (outage.until - outage.from) / 1000,
            running: running.len(),
            ran_through: running.iter().filter(|ran| ran.ended.is_some_and(|at| at > outage.until)).count(),
            ended_meanwhile: running
                .iter()
                .filter(|ran| ran.ended.is_some_and(|at| at <= outage.until))
                .count(),
            ..Effects::default()
        };
        match outage.effect {
            Effect::Unnoticed => self.unnoticed(outage, &running, &effects),
            Effect::Lost => effects.rescued = self.rescued(outage, &running),
            Effect::Journaled { since } => effects.journaled = self.journaled(outage, since, &concerned),
        }
        effects.back_ms = self.back(outage);
        effects
    }

    fn unnoticed(&mut self, outage: &Outage, running: &[&Ran], effects: &Effects) {
        for ran in running {
            let recorded = self.recorded.get(&ran.run).and_then(|recorded| recorded.end);
            if (!ran.is_whole || recorded != Some(AttemptEnd::Succeeded)) && !self.is_excused(ran) {
                let end = if ran.is_whole { "came to its end" } else { "was stopped" };
                let detail = format!(
                    "{} at agent {} {end}, recorded: {recorded:?}; {}",
                    ran.run, ran.agent, outage.name
                );
                self.breaks(Promise::NotInterrupted, detail);
            }
        }
        if effects.running < outage.agents.len() / 4 || effects.ran_through == 0 {
            let (running, through) = (effects.running, effects.ran_through);
            self.breaks(
                Promise::Tested,
                format!("{}: {running} ran, {through} of them through it", outage.name),
            );
        }
    }

    /// What ran when its agent was lost, and did not end before the lease was over.
    fn rescued(&mut self, outage: &Outage, running: &[&Ran]) -> usize {
        let since = outage.from - micros(SHORTLY);
        let lost =
            running.iter().filter(|ran| ran.started < since && ran.ended.is_none_or(|at| at > outage.until));
        let mut rescued = 0;
        for ran in lost {
            rescued += 1;
            let recorded = self.recorded.get(&ran.run).and_then(|recorded| recorded.end);
            let starts = self.by_job.get(&ran.run.job).cloned().unwrap_or_default();
            let later: Vec<&Ran> = starts.iter().filter(|later| later.run.epoch > ran.run.epoch).collect();
            // Once they are back, one of the lost may get it as well.
            let is_elsewhere = later
                .first()
                .is_some_and(|next| next.started > outage.until || !outage.agents.contains(&next.agent));
            if recorded != Some(AttemptEnd::Crashed) || later.len() != 1 || !is_elsewhere {
                let later: Vec<usize> = later.iter().map(|later| later.agent).collect();
                let detail = format!(
                    "{} at agent {} ended as {recorded:?}, and then ran at {later:?}",
                    ran.run, ran.agent
                );
                self.breaks(Promise::RescuedOnce, detail);
            }
        }
        if rescued == 0 {
            self.breaks(Promise::Tested, format!("{}: nothing had to be rescued", outage.name));
        }
        rescued
    }

    /// What ended while there was no server, at agents that died before it was back.
    fn journaled(&mut self, outage: &Outage, since: i64, concerned: &[Ran]) -> usize {
        let kept = |at: i64| at > since && at < outage.from - micros(SHORTLY);
        let waiting = concerned.iter().filter(|ran| ran.is_whole && ran.ended.is_some_and(kept));
        let mut journaled = 0;
        for ran in waiting {
            journaled += 1;
            let recorded = self.recorded.get(&ran.run).and_then(|recorded| recorded.end);
            let starts = self.by_job.get(&ran.run.job).map_or(0, Vec::len);
            if recorded != Some(AttemptEnd::Succeeded) || starts != 1 {
                let detail =
                    format!("{} ended as {recorded:?}, and its job was started {starts} times", ran.run);
                self.breaks(Promise::JournalDelivered, detail);
            }
        }
        if journaled == 0 {
            self.breaks(Promise::Tested, format!("{}: no result was left in a journal", outage.name));
        }
        journaled
    }

    fn back(&mut self, outage: &Outage) -> Vec<i64> {
        let mut back = Vec::new();
        for agent in &outage.agents {
            let before = self.findings.evidence.session_at(*agent, outage.from);
            let linked = self.findings.evidence.linked_after(*agent, outage.from);
            let Some((at, session)) = linked.filter(|(at, _)| *at <= outage.settled) else {
                if outage.relinks {
                    self.breaks(Promise::Back, format!("agent {agent} did not come back; {}", outage.name));
                }
                continue;
            };
            back.push((at - outage.until).max(0));
            if at - outage.until > micros(BACK_WITHIN) {
                self.breaks(Promise::Back, format!("agent {agent} came back too late; {}", outage.name));
            }
            if outage.effect != Effect::Lost && Some(session) != before {
                let detail =
                    format!("agent {agent} came back to {session} instead of {before:?}; {}", outage.name);
                self.breaks(Promise::Back, detail);
            }
        }
        back.sort_unstable();
        if outage.has_jitter && back.len() >= MANY {
            let spread = back[back.len() - 1 - back.len() / 20] - back[back.len() / 20];
            if spread < micros(JITTER) {
                let detail = format!("nine tenths of them within {} ms; {}", spread / 1000, outage.name);
                self.breaks(Promise::Jitter, detail);
            }
        }
        back.into_iter().map(|back| back / 1000).collect()
    }
}

#[cfg(test)]
mod tests;
