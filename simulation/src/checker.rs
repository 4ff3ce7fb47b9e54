//! Reads a history and says which promises it breaks. Knows nothing of the engine or the stores: only
//! what is promised.

use std::collections::{BTreeMap, BTreeSet};

use mamos_core::JobId;
use mamos_core::JobState;
use mamos_core::lease::{Epoch, RunRef};

use crate::history::Entry;

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// A job that was accepted is not in the store at the end.
    Lost(JobId),
    /// A job that was accepted has not ended.
    Unfinished(JobId, JobState),
    /// A final state changed.
    FinalStateChanged(JobId, JobState, JobState),
    /// A job was leased while another run of it held the lease.
    TwoLeases(RunRef, RunRef),
    /// An epoch did not grow.
    EpochDidNotGrow(RunRef, Epoch),
    /// A write of a run that was not current was applied.
    StaleEffect(RunRef),
    /// A run was settled more than once.
    SettledTwice(RunRef),
    /// An agent ran more attempts at once than it has slots.
    SlotsExceeded(String, usize),
    /// A handler was started twice for one run.
    StartedTwice(RunRef),
    /// A handler ran without a claim.
    RanUnclaimed(RunRef),
    /// A job succeeded by a run in which no handler came to its end.
    SucceededUnrun(RunRef),
    /// The program of an agent ended although nobody asked it to.
    AgentGaveUp(String, String),
    /// What is kept of what a run printed is not what it printed.
    WrongLog(RunRef),
    /// The store and its own history disagree about how a job ended.
    WrongFinalState(JobId, JobState, JobState),
}

/// Checks a whole history. Histories without observations at the store (real processes) are checked for
/// what the others saw.
pub fn check(entries: &[Entry]) -> Vec<Violation> {
    let mut checker = Checker::default();
    for entry in entries {
        checker.step(entry);
    }
    checker.finish()
}

#[derive(Debug, Default)]
struct Checker {
    jobs: BTreeMap<JobId, JobHistory>,
    agents: BTreeMap<String, AgentHistory>,
    handlers: BTreeSet<RunRef>,
    finished: BTreeSet<RunRef>,
    claimed: BTreeSet<RunRef>,
    violations: Vec<Violation>,
    saw_final: bool,
}

#[derive(Debug, Default)]
struct JobHistory {
    is_accepted: bool,
    last_epoch: Epoch,
    holder: Option<RunRef>,
    settled: BTreeSet<RunRef>,
    ended_in: Option<JobState>,
    found: Option<JobState>,
}

#[derive(Debug, Default)]
struct AgentHistory {
    slots: Option<u32>,
    running: BTreeSet<RunRef>,
}

impl Checker {
    fn step(&mut self, entry: &Entry) {
        match entry {
            Entry::Accepted { job } => self.job(*job).is_accepted = true,
            Entry::Claimed { run } => self.claimed(*run),
            Entry::Applied { run, ends, state } => self.applied(*run, *ends, *state),
            Entry::TakenBack { run, state } => {
                let job = self.job(run.job);
                if job.holder == Some(*run) {
                    job.holder = None;
                }
                self.reached(run.job, *state);
            }
            Entry::Cancelled { job } => self.reached(*job, JobState::Cancelled),
            Entry::Redriven { job } => self.job(*job).ended_in = None,
            Entry::AgentGaveUp { agent, why } => {
                self.violations.push(Violation::AgentGaveUp(agent.clone(), why.clone()));
            }
            Entry::Printed { run, is_true } => {
                if !is_true {
                    self.violations.push(Violation::WrongLog(*run));
                }
            }
            Entry::Slots { agent, slots } => {
                self.agents.entry(agent.clone()).or_default().slots = Some(*slots)
            }
            Entry::HandlerStarted { agent, run } => {
                if !self.handlers.insert(*run) {
                    self.violations.push(Violation::StartedTwice(*run));
                }
                let history = self.agents.entry(agent.clone()).or_default();
                history.running.insert(*run);
                if history.slots.is_some_and(|slots| history.running.len() > slots as usize) {
                    self.violations.push(Violation::SlotsExceeded(agent.clone(), history.running.len()));
                }
            }
            Entry::HandlerEnded { agent, run } => {
                self.finished.insert(*run);
                self.agents.entry(agent.clone()).or_default().running.remove(run);
            }
            Entry::AgentDied { agent } => self.agents.entry(agent.clone()).or_default().running.clear(),
            Entry::Final { job, state } => {
                self.saw_final = true;
                self.job(*job).found = Some(*state);
            }
        }
    }

    fn claimed(&mut self, run: RunRef) {
        let job = self.jobs.entry(run.job).or_default();
        if let Some(holder) = job.holder {
            self.violations.push(Violation::TwoLeases(holder, run));
        }
        if run.epoch <= job.last_epoch {
            self.violations.push(Violation::EpochDidNotGrow(run, job.last_epoch));
        }
        if let Some(state) = job.ended_in {
            self.violations.push(Violation::FinalStateChanged(run.job, state, JobState::Leased));
        }
        job.last_epoch = run.epoch;
        job.holder = Some(run);
        self.claimed.insert(run);
    }

    fn applied(&mut self, run: RunRef, ends: bool, state: JobState) {
        let job = self.jobs.entry(run.job).or_default();
        if job.holder != Some(run) {
            // The answer to a repeated settle is the same as to the first, and changes nothing.
            let is_repeat = ends && job.settled.contains(&run);
            if !is_repeat {
                self.violations.push(Violation::StaleEffect(run));
            }
            return;
        }
        if ends {
            job.holder = None;
            if !job.settled.insert(run) {
                self.violations.push(Violation::SettledTwice(run));
            }
            if state == JobState::Succeeded && !self.finished.contains(&run) {
                self.violations.push(Violation::SucceededUnrun(run));
            }
            self.reached(run.job, state);
        }
    }

    fn reached(&mut self, id: JobId, state: JobState) {
        let job = self.jobs.entry(id).or_default();
        match job.ended_in {
            Some(earlier) if earlier != state => {
                self.violations.push(Violation::FinalStateChanged(id, earlier, state));
            }
            _ if state.is_final() => job.ended_in = Some(state),
            _ => {}
        }
    }

    fn finish(mut self) -> Vec<Violation> {
        // Without observations at the store there are no claims to compare with.
        if !self.claimed.is_empty() {
            let unclaimed = self.handlers.difference(&self.claimed);
            self.violations.extend(unclaimed.map(|run| Violation::RanUnclaimed(*run)));
        }
        for (id, job) in &self.jobs {
            if !job.is_accepted || !self.saw_final {
                continue;
            }
            match (job.found, job.ended_in) {
                (None, _) => self.violations.push(Violation::Lost(*id)),
                (Some(found), _) if !found.is_final() => {
                    self.violations.push(Violation::Unfinished(*id, found));
                }
                (Some(found), Some(ended)) if found != ended => {
                    self.violations.push(Violation::WrongFinalState(*id, ended, found));
                }
                _ => {}
            }
        }
        self.violations
    }

    fn job(&mut self, id: JobId) -> &mut JobHistory {
        self.jobs.entry(id).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(key: &str, epoch: u64) -> RunRef {
        RunRef { job: JobId::from_key(key), epoch: Epoch::from_number(epoch) }
    }

    fn good() -> Vec<Entry> {
        let job = JobId::from_key("a");
        let agent = "one".to_owned();
        vec![
            Entry::Slots { agent: agent.clone(), slots: 1 },
            Entry::Accepted { job },
            Entry::Claimed { run: run("a", 1) },
            Entry::HandlerStarted { agent: agent.clone(), run: run("a", 1) },
            Entry::AgentDied { agent: agent.clone() },
            Entry::TakenBack { run: run("a", 1), state: JobState::Ready },
            Entry::Claimed { run: run("a", 2) },
            Entry::HandlerStarted { agent: agent.clone(), run: run("a", 2) },
            Entry::HandlerEnded { agent, run: run("a", 2) },
            Entry::Applied { run: run("a", 2), ends: false, state: JobState::Running },
            Entry::Applied { run: run("a", 2), ends: true, state: JobState::Succeeded },
            Entry::Applied { run: run("a", 2), ends: true, state: JobState::Succeeded },
            Entry::Final { job, state: JobState::Succeeded },
        ]
    }

    #[test]
    fn a_good_history_has_no_violations() {
        assert_eq!(check(&good()), []);
    }

    /// Each row changes the good history in one way that must be noticed.
    #[test]
    fn every_broken_promise_is_noticed() {
        let job = JobId::from_key("a");
        type Change = Box<dyn Fn(&mut Vec<Entry>)>;
        type Expected = fn(&Violation) -> bool;
        let rows: Vec<(Change, Expected)> = vec![
            (Box::new(|h| drop(h.pop())), |v| matches!(v, Violation::Lost(_) | Violation::Unfinished(..))),
            (Box::new(move |h| *h.last_mut().unwrap() = Entry::Final { job, state: JobState::Ready }), |v| {
                matches!(v, Violation::Unfinished(..))
            }),
            (Box::new(move |h| *h.last_mut().unwrap() = Entry::Final { job, state: JobState::Dead }), |v| {
                matches!(v, Violation::WrongFinalState(..))
            }),
            (Box::new(|h| drop(h.remove(5))), |v| matches!(v, Violation::TwoLeases(..))),
            (Box::new(|h| h.push(Entry::Claimed { run: run("a", 3) })), |v| {
                matches!(v, Violation::FinalStateChanged(..))
            }),
            (Box::new(|h| h[6] = Entry::Claimed { run: run("a", 1) }), |v| {
                matches!(v, Violation::EpochDidNotGrow(..))
            }),
            (
                Box::new(|h| {
                    h.insert(7, Entry::Applied { run: run("a", 1), ends: true, state: JobState::Succeeded })
                }),
                |v| matches!(v, Violation::StaleEffect(_)),
            ),
            (
                Box::new(|h| h.insert(11, Entry::TakenBack { run: run("a", 2), state: JobState::Ready })),
                |v| matches!(v, Violation::FinalStateChanged(..)),
            ),
            (
                Box::new(|h| h.insert(4, Entry::HandlerStarted { agent: "one".into(), run: run("b", 1) })),
                |v| matches!(v, Violation::SlotsExceeded(..)),
            ),
            (
                Box::new(|h| h.insert(5, Entry::HandlerStarted { agent: "two".into(), run: run("a", 1) })),
                |v| matches!(v, Violation::StartedTwice(_)),
            ),
            (
                Box::new(|h| h.insert(5, Entry::HandlerStarted { agent: "two".into(), run: run("c", 1) })),
                |v| matches!(v, Violation::RanUnclaimed(_)),
            ),
            (Box::new(|h| drop(h.remove(8))), |v| matches!(v, Violation::SucceededUnrun(_))),
            (Box::new(|h| h.push(Entry::AgentGaveUp { agent: "one".into(), why: "bored".into() })), |v| {
                matches!(v, Violation::AgentGaveUp(..))
            }),
            (Box::new(|h| h.push(Entry::Printed { run: run("a", 2), is_true: false })), |v| {
                matches!(v, Violation::WrongLog(_))
            }),
        ];
        for (n, (change, expected)) in rows.into_iter().enumerate() {
            let mut history = good();
            change(&mut history);
            // Without any final look at the store, the first row is judged by another job's.
            history.push(Entry::Final { job: JobId::from_key("other"), state: JobState::Succeeded });
            let violations = check(&history);
            assert!(violations.iter().any(expected), "row {n}: {violations:?}");
        }
    }
}
