//! Agents and tokens, and what can be wrong with them.

use async_trait::async_trait;
use mamos_core::Result;
use mamos_core::agent::AgentRecord;
use mamos_core::auth::RegistrationToken;
use mamos_core::clock::Timestamp;
use mamos_core::id::{AgentId, JobId, TokenId};
use mamos_core::job::labels::Labels;
use mamos_core::store::{AgentStore, Page, PageRequest, Store, TokenStore};

use super::{Broken, Flaw};

#[async_trait]
impl<S: Store> AgentStore for Broken<S> {
    async fn agent(&self, id: &AgentId) -> Result<Option<AgentRecord>> {
        self.inner.agent(id).await
    }

    async fn agents(&self, page: PageRequest) -> Result<Page<AgentRecord>> {
        self.inner.agents(page).await
    }

    async fn update_agent(
        &self,
        mut agent: AgentRecord,
        revision: u64,
        now: Timestamp,
    ) -> Result<AgentRecord> {
        if self.has(Flaw::ForgetsRevocations) {
            agent.revocation = None;
        }
        let stored = self.inner.agent(&agent.id).await?.map_or(revision, |stored| stored.revision);
        let revision = if self.has(Flaw::OverwritesAgents) { stored } else { revision };
        self.inner.update_agent(agent, revision, now).await
    }
}

#[async_trait]
impl<S: Store> TokenStore for Broken<S> {
    async fn create_token(&self, mut token: RegistrationToken) -> Result<()> {
        if self.has(Flaw::IgnoresTokenNames) {
            token.agent_name = None;
        }
        if self.has(Flaw::ForgetsTokenLabels) {
            token.labels = Labels::default();
        }
        self.memory().tokens.insert(token.hash, token.clone());
        self.inner.create_token(token).await
    }

    async fn redeem(&self, hash: [u8; 32], agent: AgentRecord, now: Timestamp) -> Result<AgentRecord> {
        let answer = self.inner.redeem(hash, agent.clone(), now).await;
        let used_up = self.memory().tokens.get(&hash).cloned();
        match (answer, used_up) {
            (Err(_), Some(token)) if self.has(Flaw::TokensAdmitTwice) => {
                let text = agent.id.to_string();
                let mut hash = token.hash;
                hash[16..].copy_from_slice(JobId::from_key(&text).as_bytes());
                let copy = RegistrationToken { id: TokenId::from_key(&text), hash, uses_left: 1, ..token };
                self.inner.create_token(copy).await?;
                self.inner.redeem(hash, agent, now).await
            }
            (answer, _) => answer,
        }
    }

    async fn tokens(&self) -> Result<Vec<RegistrationToken>> {
        self.inner.tokens().await
    }

    async fn revoke_token(&self, id: TokenId) -> Result<bool> {
        self.inner.revoke_token(id).await
    }
}
