//! Registration tokens.

use std::collections::{BTreeMap, HashMap};

use mamos_core::agent::AgentRecord;
use mamos_core::auth::RegistrationToken;
use mamos_core::clock::Timestamp;
use mamos_core::id::TokenId;
use mamos_core::job::labels::Labels;
use mamos_core::{Error, ErrorKind, Result};

/// All tokens; those that are used up too, so that a repeated create does not revive one.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    table: BTreeMap<TokenId, RegistrationToken>,
    by_hash: HashMap<[u8; 32], TokenId>,
}

impl Tokens {
    pub(super) fn create(&mut self, token: RegistrationToken) -> Result<()> {
        if self.table.contains_key(&token.id) {
            return Ok(());
        }
        if self.by_hash.contains_key(&token.hash) {
            let message = "another token has this hash; make a new one";
            return Err(Error::new(ErrorKind::Conflict, "store.create_token", message));
        }
        self.by_hash.insert(token.hash, token.id);
        self.table.insert(token.id, token);
        Ok(())
    }

    /// Takes one use. Gives the labels for the agent, or `None` if the token does not admit it.
    pub(super) fn take_use(
        &mut self,
        hash: &[u8; 32],
        agent: &AgentRecord,
        now: Timestamp,
    ) -> Option<Labels> {
        let token = self.by_hash.get(hash).and_then(|id| self.table.get_mut(id))?;
        let admits = token.uses_left > 0
            && token.expires_at > now
            && token.agent_kind.as_ref().is_none_or(|wanted| wanted == agent.id.kind())
            && token.agent_name.as_ref().is_none_or(|wanted| *wanted == agent.profile.name);
        if !admits {
            return None;
        }
        token.uses_left -= 1;
        Some(token.labels.clone())
    }

    /// Is it one of ours, and not over? It may be used up: whom it admitted may ask again.
    pub(super) fn is_good(&self, hash: &[u8; 32], now: Timestamp) -> bool {
        let token = self.by_hash.get(hash).and_then(|id| self.table.get(id));
        token.is_some_and(|token| token.expires_at > now)
    }

    pub(super) fn revoke(&mut self, id: TokenId) -> bool {
        self.table.get_mut(&id).is_some_and(|token| std::mem::take(&mut token.uses_left) > 0)
    }

    pub(super) fn usable(&self) -> Vec<RegistrationToken> {
        self.table.values().filter(|token| token.uses_left > 0).cloned().collect()
    }
}
