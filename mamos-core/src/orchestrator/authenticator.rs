//! The default authenticator: everything is in the store.

use std::sync::Arc;

use async_trait::async_trait;

use super::agents::revoked_message;
use crate::agent::AgentRecord;
use crate::agent::state::AgentState;
use crate::auth::{
    Admission, Admitted, Authenticator, Challenge, Credentials, Issued, MAX_SECRET_BYTES, PublicKey, Secret,
    Signature, SigningKeys, TokenFault, keys,
};
use crate::clock::Timestamp;
use crate::id::AgentId;
use crate::job::labels::Labels;
use crate::protocol::Hello;
use crate::store::Store;
use crate::{Error, ErrorKind, Result};

/// How often a note is tried again when somebody else edits the same agent.
const NOTE_TRIES: u32 = 5;

/// Admits agents by one-time registration token, and from then on by a short-lived token that is bound
/// to the key pair that each made itself.
///
/// The store keeps public keys and hashes only. An agent proves in every hello that it has its key, by
/// signing the orchestrator's nonce, so that a token alone admits nobody. The agent's program names its
/// life and the one before; two lives that do not follow each other show that the identity was copied.
#[derive(Clone)]
pub struct StoreAuthenticator {
    store: Arc<dyn Store>,
    keys: Arc<SigningKeys>,
}

impl StoreAuthenticator {
    /// An authenticator over a store, whose tokens these keys sign.
    pub fn new(store: Arc<dyn Store>, keys: Arc<SigningKeys>) -> Self {
        Self { store, keys }
    }

    async fn register(
        &self,
        token: &Secret,
        key: PublicKey,
        hello: &Hello,
        now: Timestamp,
    ) -> Result<AgentRecord> {
        if token.expose().len() > MAX_SECRET_BYTES {
            return Err(denied("the registration token is longer than 4096 bytes"));
        }
        let agent = AgentRecord {
            id: AgentId::from_public_key(hello.profile.kind.clone(), key.as_bytes()),
            state: AgentState::Registered,
            profile: hello.profile.clone(),
            labels: Labels::default(),
            is_draining: false,
            public_key: key,
            instance: None,
            revocation: None,
            registered_at: now,
            changed_at: now,
            revision: 1,
        };
        self.store.redeem(token.hash(), agent, now).await
    }

    /// Notes the life of the agent's program. `None` if it does not follow the one that is on record.
    async fn note_life(
        &self,
        mut agent: AgentRecord,
        hello: &Hello,
        challenge: &Challenge,
        now: Timestamp,
    ) -> Result<Option<AgentRecord>> {
        let mut tries = 0;
        loop {
            may_connect(&agent)?;
            if agent.instance == Some(hello.instance) {
                return Ok(Some(agent));
            }
            if agent.instance.is_some() && agent.instance != hello.previous {
                // A program that was killed may have left a hello on its way, which arrives after that of
                // its next life. It is no copy, and nobody waits for the answer. A copy comes again.
                if agent.changed_at >= challenge.sent_at {
                    let message = "the agent changed while it introduced itself; try again";
                    return Err(Error::new(ErrorKind::Unavailable, "agent.admit", message));
                }
                return Ok(None);
            }
            let revision = agent.revision;
            let id = agent.id.clone();
            agent.instance = Some(hello.instance);
            tries += 1;
            match self.store.update_agent(agent, revision, now).await {
                Err(error) if error.kind() == ErrorKind::Conflict && tries < NOTE_TRIES => {
                    agent = self.store.agent(&id).await?.ok_or_else(unknown)?;
                }
                result => return result.map(Some),
            }
        }
    }
}

impl std::fmt::Debug for StoreAuthenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("StoreAuthenticator").field(&self.store.describe()).finish()
    }
}

#[async_trait]
impl Authenticator for StoreAuthenticator {
    async fn admit(&self, hello: &Hello, challenge: &Challenge, now: Timestamp) -> Result<Admission> {
        let mut renew_at = None;
        let agent = match &hello.credentials {
            Credentials::Registration { token, key, proof } => {
                prove(challenge, key, token, proof)?;
                self.register(token, *key, hello, now).await?
            }
            Credentials::Agent { token, proof } => {
                let claims = self.keys.read(token, now).await?;
                let agent = self.store.agent(&claims.sub).await?.ok_or_else(unknown)?;
                if !claims.is_bound_to(&agent.public_key) {
                    return Err(denied("the token is bound to another key"));
                }
                prove(challenge, &agent.public_key, token, proof)?;
                // One that is due is renewed in the welcome.
                renew_at = Some(claims.renew_at()).filter(|at| *at > now);
                agent
            }
        };
        if agent.id.kind() != &hello.profile.kind {
            return Err(denied("the profile is of another kind than the agent registered as"));
        }
        let id = agent.id.clone();
        let is_new = agent.instance.is_none() && agent.state == AgentState::Registered;
        let Some(agent) = self.note_life(agent, hello, challenge, now).await? else {
            return Ok(Admission::Copied(id));
        };
        let issued = match renew_at {
            Some(_) => None,
            None => Some(self.keys.issue(&agent.id, &agent.public_key, now).await?),
        };
        let renew_at = renew_at.or(issued.as_ref().map(|issued| issued.renew_at));
        let issued = issued.map(|issued| issued.token);
        Ok(Admission::Admitted(Admitted { agent: agent.id, is_new, issued, renew_at }))
    }

    async fn renew(&self, agent: &AgentId, now: Timestamp) -> Result<Option<Issued>> {
        let agent = self.store.agent(agent).await?.ok_or_else(unknown)?;
        may_connect(&agent)?;
        self.keys.issue(&agent.id, &agent.public_key, now).await.map(Some)
    }
}

/// Does the agent have the other half of the key, on this connection?
fn prove(challenge: &Challenge, key: &PublicKey, shown: &Secret, proof: &Signature) -> Result<()> {
    let message = keys::proof_message(&challenge.nonce, challenge.binding.as_ref(), shown.expose());
    if key.verifies(&message, proof) {
        return Ok(());
    }
    Err(denied(
        "the proof is wrong: it must sign this connection's nonce, and its binding if it has one, with the \
                agent's own key",
    ))
}

fn may_connect(agent: &AgentRecord) -> Result<()> {
    if agent.state == AgentState::Decommissioned {
        return Err(denied("this agent was decommissioned; register it as a new one"));
    }
    match &agent.revocation {
        Some(revocation) => Err(denied(&revoked_message(revocation))),
        None => Ok(()),
    }
}

/// The same as for a token of a key that is not known, so that ids cannot be found out.
fn unknown() -> Error {
    TokenFault::UnknownKey.into()
}

fn denied(message: &str) -> Error {
    Error::new(ErrorKind::Denied, "agent.admit", message)
}
