//! Agents.

use std::collections::BTreeMap;

use garde::Validate;
use mamos_core::Timestamp;
use mamos_core::agent::state::{AgentState, Liveness};
use mamos_core::agent::{AgentRecord, HostLoad};
use mamos_core::job::labels::Labels;
use mamos_core::orchestrator::LiveAgent;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{labels, unique_labels};

/// Where an agent is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = AgentState)]
pub(crate) enum State {
    /// Found, not yet admitted.
    Discovered,
    /// Admitted, and never had a session.
    Registered,
    /// Has a session, or had one that may still come back.
    Running,
    /// Said goodbye.
    Stopped,
    /// Its session was lost without a goodbye.
    Failed,
    /// Taken out of service for good.
    Decommissioned,
}

impl From<AgentState> for State {
    fn from(state: AgentState) -> Self {
        match state {
            AgentState::Discovered => Self::Discovered,
            AgentState::Registered => Self::Registered,
            AgentState::Running => Self::Running,
            AgentState::Stopped => Self::Stopped,
            AgentState::Failed => Self::Failed,
            AgentState::Decommissioned => Self::Decommissioned,
        }
    }
}

impl From<State> for AgentState {
    fn from(state: State) -> Self {
        match state {
            State::Discovered => Self::Discovered,
            State::Registered => Self::Registered,
            State::Running => Self::Running,
            State::Stopped => Self::Stopped,
            State::Failed => Self::Failed,
            State::Decommissioned => Self::Decommissioned,
        }
    }
}

/// Whether an agent can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Liveness)]
pub(crate) enum Reach {
    /// Heard of lately.
    Live,
    /// Not heard of for a while: it gets no new work.
    Suspect,
    /// Its session expired.
    Lost,
}

impl From<Liveness> for Reach {
    fn from(liveness: Liveness) -> Self {
        match liveness {
            Liveness::Live => Self::Live,
            Liveness::Suspect => Self::Suspect,
            Liveness::Lost => Self::Lost,
        }
    }
}

/// An agent.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Agent {
    /// Its id: `{kind}-{uuid}`.
    #[schema(example = "web-0198f7a0-0000-7000-8000-000000000000")]
    id: String,
    /// Its type.
    #[schema(example = "web")]
    kind: String,
    /// A name for people.
    name: String,
    /// The version of its program.
    version: String,
    state: State,
    /// Whether it can be reached; null if that is not known here.
    liveness: Option<Reach>,
    /// Is it connected to this orchestrator?
    connected: bool,
    /// What jobs select it by: its own labels, and the operator's over them.
    labels: BTreeMap<String, String>,
    /// Its own labels.
    profile_labels: BTreeMap<String, String>,
    /// The operator's labels.
    operator_labels: BTreeMap<String, String>,
    /// The kinds of job that it can run.
    kinds: Vec<String>,
    /// How many attempts it runs at once.
    slots: u32,
    /// How many jobs it holds; null unless it is connected here.
    held: Option<usize>,
    /// Does it take no new work?
    draining: bool,
    /// Set while it may not connect.
    revoked: Option<Revoked>,
    /// When it was admitted.
    #[schema(format = DateTime)]
    registered_at: String,
    /// When it last opened, resumed, closed or lost a session.
    #[schema(format = DateTime)]
    changed_at: String,
    /// When it was last heard of; null unless it is connected here.
    #[schema(format = DateTime)]
    heard_at: Option<String>,
    /// Its session; null unless it is connected here.
    #[schema(format = "uuid")]
    session: Option<String>,
    /// Grows with every edit. The ETag has it.
    revision: u64,
    /// How busy its machine is, as it last said.
    load: Option<Load>,
}

/// Why an agent may not connect.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Revoked {
    /// Since when.
    #[schema(format = DateTime)]
    at: String,
    /// Why.
    reason: String,
}

/// What an agent measured on its machine.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Load {
    /// Processor use over the last interval, over all cores.
    #[schema(minimum = 0, maximum = 100)]
    cpu_percent: f32,
    memory_used_bytes: u64,
    memory_total_bytes: u64,
    disk_used_bytes: u64,
    disk_total_bytes: u64,
    /// Since the agent started.
    network_received_bytes: u64,
    /// Since the agent started.
    network_sent_bytes: u64,
    /// Since the machine started.
    uptime_seconds: u64,
    /// Operating system and its version.
    os: String,
}

impl From<&HostLoad> for Load {
    fn from(load: &HostLoad) -> Self {
        // JSON has no number for what is not one.
        let cpu_percent = if load.cpu_percent.is_finite() { load.cpu_percent.clamp(0.0, 100.0) } else { 0.0 };
        Self {
            cpu_percent,
            memory_used_bytes: load.memory_used_bytes,
            memory_total_bytes: load.memory_total_bytes,
            disk_used_bytes: load.disk_used_bytes,
            disk_total_bytes: load.disk_total_bytes,
            network_received_bytes: load.network_received_bytes,
            network_sent_bytes: load.network_sent_bytes,
            uptime_seconds: load.uptime_seconds,
            os: load.os.clone(),
        }
    }
}

impl Agent {
    /// An agent, as it is on record and as it is connected.
    pub(crate) fn new(agent: &AgentRecord, live: Option<&LiveAgent>) -> Self {
        Self {
            id: agent.id.to_string(),
            kind: agent.id.kind().to_string(),
            name: agent.profile.name.clone(),
            version: agent.profile.version.clone(),
            state: agent.state.into(),
            liveness: reach(agent, live),
            connected: live.is_some(),
            labels: labels(&agent.effective_labels()),
            profile_labels: labels(&agent.profile.labels),
            operator_labels: labels(&agent.labels),
            kinds: agent.profile.kinds.iter().map(ToString::to_string).collect(),
            slots: agent.profile.slots,
            held: live.map(|live| live.held),
            draining: is_draining(agent, live),
            revoked: agent.revocation.as_ref().map(|revocation| Revoked {
                at: revocation.at.to_string(),
                reason: revocation.reason.clone(),
            }),
            registered_at: agent.registered_at.to_string(),
            changed_at: agent.changed_at.to_string(),
            heard_at: live.map(|live| live.heard_at.to_string()),
            session: live.map(|live| live.session.to_string()),
            revision: agent.revision,
            load: live.and_then(|live| live.load.as_ref()).map(Load::from),
        }
    }
}

fn reach(agent: &AgentRecord, live: Option<&LiveAgent>) -> Option<Reach> {
    match (live, agent.state) {
        (Some(live), _) => Some(live.liveness.into()),
        (None, AgentState::Failed) => Some(Reach::Lost),
        // It may be connected to another orchestrator.
        (None, _) => None,
    }
}

fn is_draining(agent: &AgentRecord, live: Option<&LiveAgent>) -> bool {
    agent.is_draining || live.is_some_and(|live| live.is_draining)
}

/// How an agent is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    status: HealthStatus,
    /// Why it is not `ok`.
    reasons: Vec<String>,
    /// When it was last heard of; null unless it is connected here.
    #[schema(format = DateTime)]
    heard_at: Option<String>,
    liveness: Option<Reach>,
    slots: u32,
    /// How many jobs it holds; null unless it is connected here.
    held: Option<usize>,
    draining: bool,
    load: Option<Load>,
}

/// In one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HealthStatus {
    /// It takes work.
    Ok,
    /// It takes no new work, or less than it could.
    Degraded,
    /// It cannot be reached from here.
    Down,
}

/// When a disk or a memory counts as nearly full.
const NEARLY_FULL: f64 = 0.95;

impl Health {
    pub(crate) fn new(agent: &AgentRecord, live: Option<&LiveAgent>) -> Self {
        let (status, reasons) = judge(agent, live);
        Self {
            status,
            reasons,
            heard_at: live.map(|live| live.heard_at.to_string()),
            liveness: reach(agent, live),
            slots: agent.profile.slots,
            held: live.map(|live| live.held),
            draining: is_draining(agent, live),
            load: live.and_then(|live| live.load.as_ref()).map(Load::from),
        }
    }
}

fn judge(agent: &AgentRecord, live: Option<&LiveAgent>) -> (HealthStatus, Vec<String>) {
    let mut reasons = Vec::new();
    if agent.state == AgentState::Decommissioned {
        reasons.push("it was decommissioned".to_owned());
    }
    if let Some(revocation) = &agent.revocation {
        reasons.push(format!("it was revoked: {}", revocation.reason));
    }
    let Some(live) = live else {
        if reasons.is_empty() {
            reasons.push(format!("it is not connected to this orchestrator; it is {}", agent.state));
        }
        return (HealthStatus::Down, reasons);
    };
    if !reasons.is_empty() {
        return (HealthStatus::Down, reasons);
    }
    match live.liveness {
        Liveness::Live => {}
        Liveness::Suspect => reasons.push(format!("it has not been heard of since {}", live.heard_at)),
        Liveness::Lost => {
            reasons.push(format!("it has not been heard of since {}, longer than its lease", live.heard_at));
            return (HealthStatus::Down, reasons);
        }
    }
    if is_draining(agent, Some(live)) {
        reasons.push("it is draining: it takes no new work".to_owned());
    }
    if let Some(load) = &live.load {
        let is_full = |used: u64, total: u64| total > 0 && used as f64 / total as f64 >= NEARLY_FULL;
        if is_full(load.memory_used_bytes, load.memory_total_bytes) {
            reasons.push("its memory is nearly full".to_owned());
        }
        if is_full(load.disk_used_bytes, load.disk_total_bytes) {
            reasons.push("its disks are nearly full".to_owned());
        }
    }
    let status = if reasons.is_empty() { HealthStatus::Ok } else { HealthStatus::Degraded };
    (status, reasons)
}

/// How busy the machine of an agent was.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Metrics {
    /// As its last heartbeats said, the oldest first. Empty unless it is connected here and sends that.
    samples: Vec<Sample>,
}

/// How busy the machine of an agent was at one time.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Sample {
    /// When.
    #[schema(format = DateTime)]
    at: String,
    #[serde(flatten)]
    load: Load,
}

impl Metrics {
    pub(crate) fn new(loads: &[(Timestamp, HostLoad)]) -> Self {
        let samples = loads.iter().map(|(at, load)| Sample { at: at.to_string(), load: load.into() });
        Self { samples: samples.collect() }
    }
}

/// What of an agent can be edited.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"labels": {"group": "web"}}))]
pub(crate) struct AgentEdit {
    /// The operator's labels, in place of those that it has. At most 64.
    #[serde(deserialize_with = "unique_labels")]
    #[schema(value_type = BTreeMap<String, String>)]
    pub(crate) labels: Labels,
}

/// Why an agent is revoked.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"reason": "the machine was stolen"}))]
pub(crate) struct Revoke {
    /// Why, for people.
    #[garde(length(bytes, min = 1, max = 512))]
    #[schema(min_length = 1, max_length = 512)]
    pub(crate) reason: String,
}

#[cfg(test)]
mod tests {
    use mamos_core::agent::{AgentProfile, Revocation};
    use mamos_core::auth::PublicKey;
    use mamos_core::id::{AgentId, AgentKind, SessionId};

    use super::*;

    fn record(change: impl FnOnce(&mut AgentRecord)) -> AgentRecord {
        let kind = AgentKind::new("web").unwrap();
        let mut record = AgentRecord {
            id: AgentId::from_parts(kind.clone(), Timestamp::EPOCH, 1),
            state: AgentState::Running,
            profile: AgentProfile::new(kind, "n"),
            labels: Labels::default(),
            is_draining: false,
            public_key: PublicKey::from_bytes([0; 32]),
            instance: None,
            revocation: None,
            registered_at: Timestamp::EPOCH,
            changed_at: Timestamp::EPOCH,
            revision: 1,
        };
        change(&mut record);
        record
    }

    fn live(change: impl FnOnce(&mut LiveAgent)) -> LiveAgent {
        let record = record(|_| {});
        let mut live = LiveAgent {
            agent: record.id,
            name: String::new(),
            session: SessionId::from_key("s"),
            heard_at: Timestamp::EPOCH,
            liveness: Liveness::Live,
            slots: 1,
            held: 0,
            is_draining: false,
            load: None,
        };
        change(&mut live);
        live
    }

    #[test]
    fn health_says_the_worst_and_why() {
        let fine = live(|_| {});
        let full = HostLoad { disk_used_bytes: 96, disk_total_bytes: 100, ..HostLoad::default() };
        let cases = [
            (record(|_| {}), Some(fine.clone()), HealthStatus::Ok, 0),
            (record(|_| {}), None, HealthStatus::Down, 1),
            (record(|it| it.is_draining = true), Some(fine.clone()), HealthStatus::Degraded, 1),
            (record(|_| {}), Some(live(|it| it.liveness = Liveness::Suspect)), HealthStatus::Degraded, 1),
            (record(|_| {}), Some(live(|it| it.liveness = Liveness::Lost)), HealthStatus::Down, 1),
            (record(|_| {}), Some(live(|it| it.load = Some(full))), HealthStatus::Degraded, 1),
            (
                record(|it| it.revocation = Some(Revocation::new(Timestamp::EPOCH, "stolen"))),
                Some(fine),
                HealthStatus::Down,
                1,
            ),
        ];
        for (record, live, status, reasons) in cases {
            let health = Health::new(&record, live.as_ref());
            assert_eq!((health.status, health.reasons.len()), (status, reasons), "{health:?}");
        }
    }
}
