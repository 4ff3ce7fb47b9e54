//! Doing what is due: promote, rescue, bury.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use mamos_core::agent::AgentRecord;
use mamos_core::agent::state::AgentEvent;
use mamos_core::clock::Timestamp;
use mamos_core::id::{AgentId, JobId, SessionId};
use mamos_core::job::lane::{Lane, LaneId};
use mamos_core::job::rules::{self, Next};
use mamos_core::job::state::{JobEvent, JobState};
use mamos_core::job::{AttemptEnd, Failure};
use mamos_core::store::{SessionEnd, Swept};
use uuid::Uuid;

use super::agents::{self, Stored};
use super::changes::Changes;
use super::codec::{PLAIN_ITEM, TIMED_ITEM, expiry_item, time};
use super::errors::{Fault, readable};
use super::keys::Key;
use super::link::{Way, strings};
use super::sessions::{self, Active};
use super::tx::{Heads, Operation, Tx};
use super::{Core, lists};

/// See [`mamos_core::store::JobStore::sweep`].
pub(super) struct Sweep {
    pub(super) limit: u32,
    pub(super) now: Timestamp,
}

/// What one plan gathers.
struct Plan {
    tx: Tx,
    changes: Changes,
    swept: Swept,
    lanes: BTreeMap<LaneId, Arc<Lane>>,
    /// Lost sessions that may still hold something after the plan.
    is_unrescued: bool,
}

impl Operation for Sweep {
    type Answer = Swept;
    const NAME: &'static str = "store.sweep";

    async fn plan(&self, core: &Core) -> Result<(Tx, Swept), Fault> {
        let is_due = |at: [u8; 8]| at <= time(self.now);
        let due = lists::due(core, Key::Due, TIMED_ITEM, self.limit(), is_due).await?;
        let overdue = lists::due(core, Key::Deadlines, TIMED_ITEM, self.limit(), is_due).await?;
        let expired = lists::due(core, Key::Expiry, PLAIN_ITEM, self.limit(), is_due).await?;
        let unrescued = core.link.command(Way::Other, "ZRANGE", Key::Unrescued, &[b"0", b"-1"]).await?;
        let mut unrescued: Vec<SessionId> = strings(unrescued)?
            .iter()
            .filter_map(|id| Uuid::from_slice(id).ok())
            .map(SessionId::from_uuid)
            .collect();

        let mut plan = Plan {
            tx: Tx::default(),
            changes: Changes::default(),
            swept: Swept::default(),
            lanes: BTreeMap::new(),
            is_unrescued: false,
        };
        let mut agents = HashMap::new();
        self.lose_sessions(core, &mut plan, &expired, &mut unrescued, &mut agents).await?;
        // A session holds jobs of which some are overdue, too: all are read once.
        let rescued = self.rescuable(core, &mut plan, &unrescued).await?;
        let ids: HashSet<JobId> =
            rescued.iter().copied().chain(due.iter().chain(&overdue).map(|item| job_id(item))).collect();
        let ids: Vec<JobId> = ids.into_iter().collect();
        plan.changes = Changes::read_or_bury(core, &ids, self.now).await?;
        self.promote(core, &mut plan, &due).await?;
        self.rescue(core, &mut plan, &rescued).await?;
        self.bury_overdue(&mut plan, &overdue);

        let Plan { mut tx, changes, mut swept, lanes, is_unrescued } = plan;
        for (_, agent) in agents {
            agent.write(&mut tx)?;
        }
        swept.lanes = lanes.into_values().collect();
        swept.next_due = is_unrescued.then_some(self.now);
        changes.write(&mut tx)?;
        tx.ask_heads();
        Ok((tx, swept))
    }

    fn conclude(&self, swept: &mut Swept, heads: &Heads) {
        let due = [swept.next_due, heads.scheduled, heads.deadline, heads.expiry];
        swept.next_due = due.into_iter().flatten().min();
        swept.has_more = swept.next_due.is_some_and(|at| at <= self.now);
    }
}

impl Sweep {
    /// A limit of nothing would never come to an end.
    fn limit(&self) -> usize {
        self.limit.max(1) as usize
    }

    async fn lose_sessions(
        &self,
        core: &Core,
        plan: &mut Plan,
        expired: &[Vec<u8>],
        unrescued: &mut Vec<SessionId>,
        agents: &mut HashMap<AgentId, Stored>,
    ) -> Result<(), Fault> {
        let ids: Vec<SessionId> = expired.iter().map(|item| session_id(item)).collect();
        let stored = sessions::read_all(core, &ids).await?;
        for ((item, id), (bytes, record)) in expired.iter().zip(ids).zip(stored) {
            let Some(mut record) = record else {
                // Nobody can say what it was.
                plan.tx.check(Key::Sessions, id.as_bytes().as_slice(), bytes);
                plan.tx.leave(Key::Expiry, &[], item);
                continue;
            };
            if record.end.is_some() || expiry_item(record.expires_at, id) != item[..] {
                plan.tx.check(Key::Sessions, id.as_bytes().as_slice(), bytes);
                plan.tx.leave(Key::Expiry, &[], item);
                continue;
            }
            record.end = Some(SessionEnd::Lost);
            sessions::replace(&mut plan.tx, &record, bytes);
            plan.tx.leave(Key::Expiry, &[], item);
            plan.tx.add_member(Key::Unrescued, id.as_bytes().as_slice());
            plan.swept.lost.push((id, record.agent.clone()));
            unrescued.push(id);
            if !agents.contains_key(&record.agent)
                && let Some(agent) = readable(agents::stored(core, &record.agent).await, "agent")?.flatten()
            {
                agents.insert(record.agent.clone(), agent);
            }
            if let Some(agent) = agents.get_mut(&record.agent) {
                end_agent(&mut agent.record, AgentEvent::Fail, self.now);
            }
        }
        Ok(())
    }

    /// What lost sessions hold, as much as there is room for.
    async fn rescuable(
        &self,
        core: &Core,
        plan: &mut Plan,
        unrescued: &[SessionId],
    ) -> Result<Vec<JobId>, Fault> {
        let mut rescued = Vec::new();
        let mut actives: HashMap<AgentId, Active> = HashMap::new();
        for (n, id) in unrescued.iter().enumerate() {
            let room = self.limit() - rescued.len();
            // One look at what is left when there is no room says whether there is more to do.
            if n > 0 && room == 0 {
                plan.is_unrescued = true;
                break;
            }
            let held = sessions::held_ids(core, *id).await?;
            // A claim just before the session was lost would change this.
            plan.tx.check_size(Key::Held(*id), held.len());
            if held.len() > room {
                rescued.extend(&held[..room]);
                plan.is_unrescued = true;
                break;
            }
            rescued.extend(held);
            plan.tx.remove_member(Key::Unrescued, id.as_bytes().as_slice());
            plan.tx.add_member(Key::Past, id.as_bytes().as_slice());
            let (_, record) = sessions::read(core, *id).await?;
            if let Some(record) = record {
                if !actives.contains_key(&record.agent) {
                    actives.insert(record.agent.clone(), Active::read(core, &record.agent).await?);
                }
                if let Some(active) = actives.get_mut(&record.agent) {
                    active.remove(*id);
                }
            }
        }
        for (_, active) in actives {
            active.write(&mut plan.tx);
        }
        Ok(rescued)
    }

    async fn promote(&self, core: &Core, plan: &mut Plan, due: &[Vec<u8>]) -> Result<(), Fault> {
        for item in due {
            let id = job_id(item);
            let Some(index) = plan.changes.find(id) else {
                plan.tx.leave(Key::Due, &[], item);
                continue;
            };
            let run = plan.changes.run(index);
            let is_here = run.state == JobState::Scheduled
                && super::codec::timed_item(run.run_at, run.seq, id) == item[..];
            let Some(state) = run.state.after(JobEvent::Promote).ok().filter(|_| is_here) else {
                plan.tx.leave(Key::Due, &[], item);
                continue;
            };
            let lane = run.lane;
            plan.changes.change(index).state = state;
            plan.swept.promoted += 1;
            note_lane(core, plan, lane).await?;
        }
        Ok(())
    }

    async fn rescue(&self, core: &Core, plan: &mut Plan, rescued: &[JobId]) -> Result<(), Fault> {
        for id in rescued {
            let Some(index) = plan.changes.find(*id).filter(|index| plan.changes.run(*index).state.is_held())
            else {
                continue;
            };
            let next = rules::after_rescue(&plan.changes.facts(index), self.now);
            let (run, state) = (plan.changes.run(index).of(*id), next.state);
            if state == JobState::Ready {
                let lane = plan.changes.run(index).lane;
                note_lane(core, plan, lane).await?;
            }
            plan.changes.end_run(index, next, self.now);
            plan.swept.rescued.push((run, state));
        }
        Ok(())
    }

    fn bury_overdue(&self, plan: &mut Plan, overdue: &[Vec<u8>]) {
        for item in overdue {
            let id = job_id(item);
            let found = plan.changes.find(id);
            let bury = found.and_then(|index| {
                let run = plan.changes.run(index);
                let is_here =
                    run.deadline.is_some_and(|at| super::codec::timed_item(at, run.seq, id) == item[..]);
                let state = run.state.after(JobEvent::Bury).ok().filter(|_| is_here)?;
                Some((index, state))
            });
            let Some((index, state)) = bury else {
                plan.tx.leave(Key::Deadlines, &[], item);
                continue;
            };
            let run = plan.changes.run(index);
            plan.swept.overdue.push(run.of(id));
            let failure = Failure::new("deadline", "its deadline passed before it ended");
            if run.state.is_held() {
                let (counters, end) = (run.counters, AttemptEnd::Overdue);
                let next = Next { state, run_at: None, counters, end, failure: Some(failure), output: None };
                plan.changes.end_run(index, next, self.now);
            } else {
                let run = plan.changes.change(index);
                run.rest().given_up = Some(failure);
                run.state = state;
                run.finished_at = Some(self.now);
            }
        }
    }
}

async fn note_lane(core: &Core, plan: &mut Plan, lane: LaneId) -> Result<(), Fault> {
    if !plan.lanes.contains_key(&lane)
        && let Some(lane) = readable(core.lanes.get(&core.link, lane).await, "lane")?
    {
        plan.lanes.insert(lane.id(), lane);
    }
    Ok(())
}

/// The session of the agent ended. One that was taken out of service meanwhile stays so.
pub(super) fn end_agent(agent: &mut AgentRecord, event: AgentEvent, now: Timestamp) {
    agent.state = agent.state.after(event).unwrap_or(agent.state);
    agent.changed_at = now;
    agent.revision = agent.revision.saturating_add(1);
}

/// The id at the end of an item.
fn job_id(item: &[u8]) -> JobId {
    JobId::from_uuid(last_uuid(item))
}

fn session_id(item: &[u8]) -> SessionId {
    SessionId::from_uuid(last_uuid(item))
}

fn last_uuid(item: &[u8]) -> Uuid {
    item.last_chunk().map_or_else(Uuid::nil, |bytes| Uuid::from_bytes(*bytes))
}
