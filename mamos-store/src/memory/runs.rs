//! What happens to runs: claimed, reported about, given back, swept.

use mamos_core::JobState;
use mamos_core::clock::Timestamp;
use mamos_core::id::SessionId;
use mamos_core::job::rules::{self, Next, RunFacts};
use mamos_core::job::state::JobEvent;
use mamos_core::job::{AttemptEnd, ClaimedJob, Failure};
use mamos_core::lease::{RunRef, Verdict};
use mamos_core::store::{ClaimGroup, Claimed, Report, Reported, RunWrite, SessionEnd, Swept, deal};

use super::State;
use super::jobs::sorted;
use super::slab::Slot;

impl State {
    pub(super) fn claim(&mut self, groups: &[ClaimGroup], now: Timestamp) -> Claimed {
        let mut claimed = Claimed::default();
        for group in groups {
            self.claim_group(group, now, &mut claimed);
        }
        claimed.jobs.retain(|(_, jobs)| !jobs.is_empty());
        claimed.next_due = self.jobs.next_scheduled().map(|(at, _)| at);
        claimed
    }

    fn claim_group(&mut self, group: &ClaimGroup, now: Timestamp, claimed: &mut Claimed) {
        // For each taker that may take: where its list is in the answer.
        let mut lists = Vec::with_capacity(group.takers.len());
        let mut limits = Vec::with_capacity(group.takers.len());
        for taker in &group.takers {
            let id = taker.session.id;
            if !self.sessions.is_current(taker.session, now) {
                if !claimed.stale.contains(&id) {
                    claimed.stale.push(id);
                }
                continue;
            }
            let known = claimed.jobs.iter().position(|(session, _)| *session == id);
            lists.push(known.unwrap_or_else(|| {
                claimed.jobs.push((id, Vec::new()));
                claimed.jobs.len() - 1
            }));
            limits.push(taker.limit);
        }
        let wanted = limits.iter().fold(0_usize, |sum, limit| sum.saturating_add(*limit as usize));
        if wanted == 0 {
            return;
        }
        let slots = self.jobs.take_ready(&group.lanes, wanted);
        for (slot, taker) in slots.iter().zip(deal(slots.len(), &limits)) {
            let (session, jobs) = &mut claimed.jobs[lists[taker]];
            jobs.extend(self.lease(*slot, *session, now));
        }
    }

    fn lease(&mut self, slot: Slot, id: SessionId, now: Timestamp) -> Option<ClaimedJob> {
        let agent = self.sessions.get(id)?.record.agent.clone();
        let held = self.sessions.held_mut(id)?;
        let job = self.jobs.get_mut(slot);
        let state = job.state.after(JobEvent::Claim).ok()?;
        job.lease(state, id, agent, now);
        job.held_at = held.len() as u32;
        held.push(slot);
        Some(job.claimed())
    }

    /// Writes a report about the job in that slot, which is the one that the report names.
    pub(super) fn report(&mut self, slot: Option<Slot>, write: RunWrite, now: Timestamp) -> Reported {
        let Some(slot) = slot else {
            return Reported { verdict: Verdict::Missing, state: None, run_at: None };
        };
        let job = self.jobs.get_mut(slot);
        if !job.is_held_by(write.session, write.run) {
            return self.report_late(slot, write, now);
        }
        let applied = if job.cancel().is_some() { Verdict::CancelRequested } else { Verdict::Applied };
        let mut verdict = applied;
        match write.report {
            Report::Started => {
                if let Ok(state) = job.state.after(JobEvent::Start) {
                    job.start(state, now);
                }
            }
            Report::Progress(progress) => job.set_progress(progress),
            Report::Log(piece) => {
                if !job.log_mut().append(piece) {
                    verdict = Verdict::Gap;
                }
            }
            Report::Settle(outcome) => {
                let next = rules::after_settle(&job.facts(), outcome, now, write.run.jitter());
                let run_at = next.run_at;
                job.note_settled();
                let state = self.end_run(slot, next, now);
                return Reported { verdict: Verdict::Applied, state: Some(state), run_at };
            }
            Report::Release => {
                let next = rules::after_release(&job.facts(), now);
                let run_at = next.run_at;
                let state = self.end_run(slot, next, now);
                return Reported { verdict: Verdict::Applied, state: Some(state), run_at };
            }
        }
        Reported { verdict, state: Some(self.jobs.get(slot).state), run_at: None }
    }

    /// A report about a run that is not current.
    fn report_late(&mut self, slot: Slot, write: RunWrite, now: Timestamp) -> Reported {
        let agent = self.sessions.get(write.session).map(|session| session.record.agent.clone());
        let job = self.jobs.get_mut(slot);
        let mut verdict = Verdict::Stale;
        if let Report::Settle(outcome) = write.report {
            if job.was_settled_by(write.run) {
                verdict = Verdict::Applied;
            } else {
                job.keep_evidence(write.run, write.session, agent, outcome, now);
            }
        }
        Reported { verdict, state: Some(job.state), run_at: None }
    }

    /// Ends the current run of a held job: it leaves its session, and goes where the rules say.
    fn end_run(&mut self, slot: Slot, mut next: Next, now: Timestamp) -> JobState {
        self.let_go(slot);
        self.jobs.get_mut(slot).end_run(&mut next, now);
        self.jobs.enter(slot, next.state, now);
        next.state
    }

    /// Takes a job out of what its session holds.
    fn let_go(&mut self, slot: Slot) {
        let job = self.jobs.get(slot);
        let (index, Some(id)) = (job.held_at as usize, job.session) else { return };
        let Some(held) = self.sessions.held_mut(id) else { return };
        held.swap_remove(index);
        if let Some(moved) = held.get(index) {
            self.jobs.get_mut(*moved).held_at = index as u32;
        } else if held.is_empty() {
            self.sessions.forget_empty(id);
        }
    }

    /// Gives a held job back, as a rule says.
    pub(super) fn give_back(
        &mut self,
        slot: Slot,
        rule: fn(&RunFacts, Timestamp) -> Next,
        now: Timestamp,
    ) -> (RunRef, JobState) {
        let job = self.jobs.get(slot);
        let (run, next) = (job.run(), rule(&job.facts(), now));
        (run, self.end_run(slot, next, now))
    }

    /// Moves a held job to another session.
    pub(super) fn hand_over(&mut self, slot: Slot, to: SessionId) {
        self.let_go(slot);
        if let Some(held) = self.sessions.held_mut(to) {
            let job = self.jobs.get_mut(slot);
            job.session = Some(to);
            job.held_at = held.len() as u32;
            held.push(slot);
        }
    }

    pub(super) fn sweep(&mut self, limit: u32, now: Timestamp) -> Swept {
        // A limit of nothing would never come to an end.
        let limit = limit.max(1);
        let mut swept = Swept::default();
        self.promote(limit, now, &mut swept);
        self.rescue(limit, now, &mut swept);
        self.bury_overdue(limit, now, &mut swept);
        swept.lanes = sorted(swept.lanes);
        let due = [
            self.jobs.next_scheduled().map(|(at, _)| at),
            self.jobs.next_deadline().map(|(at, _)| at),
            self.sessions.next_expiry().map(|(at, _)| at),
            (!self.unrescued.is_empty()).then_some(now),
        ];
        swept.next_due = due.into_iter().flatten().min();
        swept.has_more = swept.next_due.is_some_and(|at| at <= now);
        swept
    }

    fn promote(&mut self, limit: u32, now: Timestamp, swept: &mut Swept) {
        while swept.promoted < limit
            && let Some((at, slot)) = self.jobs.next_scheduled()
            && at <= now
        {
            if self.jobs.change(slot, JobEvent::Promote, now).is_err() {
                break;
            }
            swept.promoted += 1;
            swept.lanes.push(self.jobs.get(slot).spec.lane.clone());
        }
    }

    fn rescue(&mut self, limit: u32, now: Timestamp, swept: &mut Swept) {
        while swept.lost.len() < limit as usize
            && let Some((at, id)) = self.sessions.next_expiry()
            && at <= now
            && let Some(session) = self.sessions.get(id)
        {
            let agent = session.record.agent.clone();
            self.agents.lost(&agent, now);
            swept.lost.push((id, agent));
            self.sessions.end(id, SessionEnd::Lost);
            self.unrescued.push_back(id);
        }
        while let Some(id) = self.unrescued.front().copied() {
            let Some(slot) = self.sessions.get(id).and_then(|session| session.held.last().copied()) else {
                self.unrescued.pop_front();
                continue;
            };
            if swept.rescued.len() >= limit as usize {
                break;
            }
            let (run, state) = self.give_back(slot, rules::after_rescue, now);
            if state == JobState::Ready {
                swept.lanes.push(self.jobs.get(slot).spec.lane.clone());
            }
            swept.rescued.push((run, state));
        }
    }

    fn bury_overdue(&mut self, limit: u32, now: Timestamp, swept: &mut Swept) {
        while swept.overdue.len() < limit as usize
            && let Some((at, slot)) = self.jobs.next_deadline()
            && at <= now
        {
            let failure = Failure::new("deadline", "its deadline passed before it ended");
            let job = self.jobs.get_mut(slot);
            let run = job.run();
            if job.state.is_held() {
                let Ok(state) = job.state.after(JobEvent::Bury) else { break };
                let (counters, end) = (job.counters, AttemptEnd::Overdue);
                let next = Next { state, run_at: None, counters, end, failure: Some(failure), output: None };
                self.end_run(slot, next, now);
            } else {
                job.give_up(failure);
                if self.jobs.change(slot, JobEvent::Bury, now).is_err() {
                    break;
                }
            }
            swept.overdue.push(run);
        }
    }
}
