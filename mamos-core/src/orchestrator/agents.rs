//! What operators do with agents: admit, label, drain, revoke, dismiss.

use std::time::Duration;

use super::engine::Engine;
use super::registry::{LaneNews, Link};
use super::{Orchestrator, session};
use crate::agent::state::{AgentEvent, AgentState, Liveness};
use crate::agent::{AgentRecord, HostLoad, Revocation};
use crate::auth::{RegistrationToken, Secret};
use crate::clock::Timestamp;
use crate::event::What;
use crate::id::{AgentId, AgentKind, SessionId, TokenId};
use crate::job::labels::Labels;
use crate::lease::SessionRef;
use crate::protocol::ToAgent;
use crate::store::{Page, PageRequest};
use crate::{Error, ErrorKind, Result};

/// How often an edit is tried again when somebody else edits the same agent.
const EDIT_TRIES: u32 = 5;
/// The longest name that a registration token may ask for, in bytes: that of a profile.
const MAX_AGENT_NAME_BYTES: usize = 128;

/// An agent that is connected to this orchestrator, as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveAgent {
    /// The agent.
    pub agent: AgentId,
    /// The name that it gave itself.
    pub name: String,
    /// Its session.
    pub session: SessionId,
    /// When it was last heard of.
    pub heard_at: Timestamp,
    /// Whether it can be reached.
    pub liveness: Liveness,
    /// How many attempts it runs at once.
    pub slots: u32,
    /// How many jobs it holds.
    pub held: usize,
    /// Does it take no new work?
    pub is_draining: bool,
    /// How busy its machine is, as it last said.
    pub load: Option<HostLoad>,
}

/// What a registration token admits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenScope {
    /// How many agents. At least 1.
    pub uses: u32,
    /// For how long it is good.
    pub valid_for: Duration,
    /// Agents of this kind only.
    pub agent_kind: Option<AgentKind>,
    /// Only agents that name themselves so. At most 128 bytes.
    pub agent_name: Option<String>,
    /// The operator's labels of the agents that it admits, for example `group=web`. They win over what an
    /// agent says of itself.
    pub labels: Labels,
}

impl TokenScope {
    /// One agent of any kind and name, without labels.
    pub fn once(valid_for: Duration) -> Self {
        Self { uses: 1, valid_for, agent_kind: None, agent_name: None, labels: Labels::default() }
    }
}

/// Registration tokens.
impl Orchestrator {
    /// Makes a registration token. Show it to the new agent; it is not stored and cannot be seen again.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Invalid`]: it would admit nobody, or asks for a name that no agent can have.
    /// - The error of the store.
    pub async fn create_token(&self, scope: TokenScope) -> Result<(RegistrationToken, Secret)> {
        let invalid = |message: &str| Err(Error::new(ErrorKind::Invalid, "token.create", message));
        if scope.uses == 0 || scope.valid_for.is_zero() {
            return invalid("a registration token must admit at least one agent and be good for a while");
        }
        if scope.agent_name.as_ref().is_some_and(|name| name.len() > MAX_AGENT_NAME_BYTES) {
            return invalid("the name of an agent has at most 128 bytes");
        }
        let engine = &self.engine;
        let now = engine.now();
        let secret = Secret::from_random("mamos_reg", engine.secret_bits());
        let token = RegistrationToken {
            id: TokenId::from_parts(now, engine.entropy().id()),
            hash: secret.hash(),
            expires_at: now + scope.valid_for,
            uses_left: scope.uses,
            agent_kind: scope.agent_kind,
            agent_name: scope.agent_name,
            labels: scope.labels,
            created_at: now,
        };
        engine.store.create_token(token.clone()).await?;
        Ok((token, secret))
    }

    /// Every registration token that still admits somebody.
    ///
    /// # Errors
    ///
    /// The error of the store.
    pub async fn tokens(&self) -> Result<Vec<RegistrationToken>> {
        self.engine.store.tokens().await
    }

    /// Makes a registration token worthless. Gives whether it had been worth something.
    ///
    /// # Errors
    ///
    /// The error of the store.
    pub async fn revoke_token(&self, id: TokenId) -> Result<bool> {
        self.engine.store.revoke_token(id).await
    }
}

/// Agents.
impl Orchestrator {
    /// One agent.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], or the error of the store.
    pub async fn agent(&self, id: &AgentId) -> Result<AgentRecord> {
        self.engine.store.agent(id).await?.ok_or_else(|| not_found(id))
    }

    /// All agents, connected or not, a page at a time.
    ///
    /// # Errors
    ///
    /// The error of the store.
    pub async fn agents(&self, page: PageRequest) -> Result<Page<AgentRecord>> {
        self.engine.store.agents(page).await
    }

    /// The agents that are connected to this orchestrator now.
    pub fn live_agents(&self) -> Vec<LiveAgent> {
        let (now, ttl) = (self.engine.now(), self.engine.settings.lease_ttl);
        let registry = self.engine.registry();
        registry.links().map(|link| live(link, ttl, now)).collect()
    }

    /// One agent, if it is connected to this orchestrator now.
    pub fn live_agent(&self, id: &AgentId) -> Option<LiveAgent> {
        let (now, ttl) = (self.engine.now(), self.engine.settings.lease_ttl);
        self.engine.registry().link_of(id).map(|link| live(link, ttl, now))
    }

    /// How busy the machine of an agent was, as its last heartbeats said, the oldest first. Empty unless
    /// it is connected here and sends that.
    pub fn agent_loads(&self, id: &AgentId) -> Vec<(Timestamp, HostLoad)> {
        let registry = self.engine.registry();
        registry.link_of(id).map(|link| link.loads.iter().cloned().collect()).unwrap_or_default()
    }

    /// Gives an agent other operator's labels, if it still has that revision. Jobs select by them from now
    /// on.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`]: there is no such agent.
    /// - [`ErrorKind::Conflict`]: it has another revision. Read it again.
    /// - [`ErrorKind::LimitExceeded`]: with those that it says of itself they are too many.
    pub async fn label_agent(&self, id: &AgentId, labels: Labels, revision: u64) -> Result<AgentRecord> {
        let engine = &self.engine;
        let mut agent = self.agent(id).await?;
        Labels::new(agent.profile.labels.iter().chain(labels.iter())).map_err(Error::from)?;
        agent.labels = labels;
        let agent = engine.store.update_agent(agent, revision, engine.now()).await?;
        engine.registry().relabel(id, agent.effective_labels());
        engine.dispatch.notify_one();
        engine.neighbours.agent(id.clone());
        engine.tell(What::AgentChanged { agent: id.clone() });
        Ok(agent)
    }

    /// Lets an agent take no new work: it ends what it runs and leaves. It stays so until
    /// [`Orchestrator::undrain_agent`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], or the error of the store.
    pub async fn drain_agent(&self, id: &AgentId) -> Result<AgentRecord> {
        let agent = edit(&self.engine, id, |agent| {
            agent.is_draining = true;
            Ok(())
        })
        .await?;
        {
            let mut registry = self.engine.registry();
            if let Some(session) = registry.link_of(id).map(|link| link.session) {
                registry.change(session, |link| {
                    link.is_draining = true;
                    link.outbox.order(ToAgent::Drain);
                });
            }
        }
        self.engine.neighbours.agent(id.clone());
        self.engine.tell(What::AgentChanged { agent: id.clone() });
        Ok(agent)
    }

    /// Lets a drained agent take work again when it next connects.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], or the error of the store.
    pub async fn undrain_agent(&self, id: &AgentId) -> Result<AgentRecord> {
        let agent = edit(&self.engine, id, |agent| {
            agent.is_draining = false;
            Ok(())
        })
        .await?;
        self.engine.neighbours.agent(id.clone());
        self.engine.tell(What::AgentChanged { agent: id.clone() });
        Ok(agent)
    }

    /// Lets an agent connect no more, until it is [reinstated](Orchestrator::reinstate_agent): its link ends
    /// at once, and what it runs is given to others. Revoking it again changes nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], [`ErrorKind::Conflict`] if it was decommissioned, or the error of the store.
    pub async fn revoke_agent(&self, id: &AgentId, reason: &str) -> Result<AgentRecord> {
        revoke(&self.engine, id, reason).await
    }

    /// Lets a revoked agent connect again, with whichever of its lives comes first.
    ///
    /// After [`What::IdentityCopied`] do so only if you know that the copy is gone.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], or the error of the store.
    pub async fn reinstate_agent(&self, id: &AgentId) -> Result<AgentRecord> {
        let agent = edit(&self.engine, id, |agent| {
            agent.revocation = None;
            agent.instance = None;
            Ok(())
        })
        .await?;
        self.engine.tell(What::AgentReinstated { agent: id.clone() });
        Ok(agent)
    }

    /// Takes an agent out of service for good: its link ends, what it runs is given to others, and it
    /// is never admitted again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], [`ErrorKind::Conflict`] if it was already, or the error of the store.
    pub async fn decommission_agent(&self, id: &AgentId) -> Result<AgentRecord> {
        let agent = edit(&self.engine, id, |agent| {
            agent.state = agent
                .state
                .after(AgentEvent::Decommission)
                .map_err(|error| Error::new(ErrorKind::Conflict, "agent.decommission", error.to_string()))?;
            Ok(())
        })
        .await?;
        self.engine.tell(What::AgentChanged { agent: id.clone() });
        dismiss(&self.engine, id, decommissioned_message()).await;
        Ok(agent)
    }
}

/// Lets an agent connect no more. The first reason stays.
pub(crate) async fn revoke(engine: &Engine, id: &AgentId, reason: &str) -> Result<AgentRecord> {
    let now = engine.now();
    let agent = edit(engine, id, |agent| {
        if agent.state == AgentState::Decommissioned {
            let message = "the agent was decommissioned, which is more";
            return Err(Error::new(ErrorKind::Conflict, "agent.revoke", message));
        }
        agent.revocation.get_or_insert_with(|| Revocation::new(now, reason));
        Ok(())
    })
    .await?;
    tracing::warn!(target: "mamos::agents", agent_id = %id, reason, "an agent was revoked");
    if let Some(revocation) = &agent.revocation {
        engine.tell(What::AgentRevoked { agent: id.clone(), reason: revocation.reason.clone() });
        dismiss(engine, id, revoked_message(revocation)).await;
    }
    Ok(agent)
}

/// What a decommissioned agent is told.
pub(crate) fn decommissioned_message() -> String {
    "this agent was decommissioned; register it as a new one".to_owned()
}

/// What a revoked agent is told.
pub(crate) fn revoked_message(revocation: &Revocation) -> String {
    format!(
        "this agent was revoked ({}); an operator can reinstate it, or register it as a new one",
        revocation.reason
    )
}

/// Ends the link and the session of an agent for good, and gives back what it held. The deed is done
/// already: what fails here is left to the lease to run out.
async fn dismiss(engine: &Engine, id: &AgentId, message: String) {
    let linked = session::dismiss(engine, id, ToAgent::Refused { is_final: true, message });
    if linked.is_none() {
        // The orchestrator that has its link ends it with the same message.
        engine.neighbours.agent(id.clone());
        engine.neighbours.flushed().await;
    }
    let done = async {
        // Between two links here, or at another orchestrator, which then ends its link.
        let open = match linked {
            Some(session) => Some(session),
            None => open_session(engine, id).await?,
        };
        if let Some(session) = open {
            engine.store.detach(session, engine.now()).await?;
            super::upkeep::learn_lanes(engine, LaneNews::Own).await?;
        }
        Ok::<_, Error>(())
    };
    if let Err(error) = done.await {
        tracing::warn!(target: "mamos::agents", agent_id = %id, %error, "what it held is given back when its lease is over");
    }
}

async fn open_session(engine: &Engine, id: &AgentId) -> Result<Option<SessionRef>> {
    let open = engine.store.sessions().await?;
    Ok(open.into_iter().find(|session| session.agent == *id).map(|session| session.session))
}

async fn edit(
    engine: &Engine,
    id: &AgentId,
    edit: impl Fn(&mut AgentRecord) -> Result<()>,
) -> Result<AgentRecord> {
    let mut tries = 0;
    loop {
        let mut agent = engine.store.agent(id).await?.ok_or_else(|| not_found(id))?;
        let revision = agent.revision;
        edit(&mut agent)?;
        tries += 1;
        match engine.store.update_agent(agent, revision, engine.now()).await {
            Err(error) if error.kind() == ErrorKind::Conflict && tries < EDIT_TRIES => {}
            result => return result,
        }
    }
}

fn live(link: &Link, ttl: Duration, now: Timestamp) -> LiveAgent {
    LiveAgent {
        agent: link.agent.clone(),
        name: link.profile.name.clone(),
        session: link.session.id,
        heard_at: link.heard_at,
        liveness: Liveness::of(link.heard_at, ttl, now),
        slots: link.slots,
        held: link.held_count(),
        is_draining: link.is_draining,
        load: link.loads.last().cloned(),
    }
}

fn not_found(id: &AgentId) -> Error {
    Error::new(ErrorKind::NotFound, "agent", format!("there is no agent {id}"))
}
