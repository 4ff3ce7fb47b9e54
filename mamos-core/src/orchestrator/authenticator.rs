//! The default authenticator: everything is in the store.

use std::sync::Arc;

use async_trait::async_trait;

use crate::agent::state::AgentState;
use crate::agent::{AgentProfile, AgentRecord};
use crate::auth::{Admitted, Authenticator, Credentials, MAX_SECRET_BYTES, Secret};
use crate::clock::Timestamp;
use crate::id::AgentId;
use crate::job::labels::Labels;
use crate::store::Store;
use crate::{Error, ErrorKind, Result};

/// Admits agents by one-time registration token, and from then on by the secret that each made itself.
///
/// The store keeps hashes only. What an agent shows is compared as hashes, so that the time it takes
/// tells nothing about the secret.
#[derive(Clone)]
pub struct StoreAuthenticator {
    store: Arc<dyn Store>,
}

impl StoreAuthenticator {
    /// An authenticator over a store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }
}

impl std::fmt::Debug for StoreAuthenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("StoreAuthenticator").field(&self.store.describe()).finish()
    }
}

#[async_trait]
impl Authenticator for StoreAuthenticator {
    async fn admit(
        &self,
        credentials: &Credentials,
        profile: &AgentProfile,
        now: Timestamp,
    ) -> Result<Admitted> {
        match credentials {
            Credentials::Registration { token, secret } => {
                check(token)?;
                check(secret)?;
                if secret.expose().len() < 32 {
                    return Err(denied("the secret of a new agent must have at least 32 characters"));
                }
                let secret_hash = secret.hash();
                let agent = AgentRecord {
                    id: AgentId::from_secret_hash(profile.kind.clone(), &secret_hash),
                    state: AgentState::Registered,
                    profile: profile.clone(),
                    labels: Labels::default(),
                    is_draining: false,
                    secret_hash,
                    registered_at: now,
                    changed_at: now,
                    revision: 1,
                };
                let agent = self.store.redeem(token.hash(), agent, now).await?;
                Ok(Admitted { agent: agent.id, issued: None })
            }
            Credentials::Agent { id, secret } => {
                check(secret)?;
                let known = self.store.agent(id).await?;
                // One answer for all, so that ids cannot be found out.
                let known = known.filter(|agent| agent.secret_hash == secret.hash());
                let agent =
                    known.ok_or_else(|| denied("unknown agent or wrong secret; register it again"))?;
                if agent.state == AgentState::Decommissioned {
                    return Err(denied("this agent was decommissioned; register it as a new one"));
                }
                if agent.id.kind() != &profile.kind {
                    return Err(denied("the profile is of another kind than the agent registered as"));
                }
                Ok(Admitted { agent: agent.id, issued: None })
            }
        }
    }
}

fn check(secret: &Secret) -> Result<()> {
    if secret.expose().len() > MAX_SECRET_BYTES {
        return Err(denied("the credentials are longer than 4096 bytes"));
    }
    Ok(())
}

fn denied(message: &str) -> Error {
    Error::new(ErrorKind::Denied, "agent.admit", message)
}
