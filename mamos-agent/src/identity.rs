//! Who the agent is, kept in a file so that a restart does not need a new registration.

mod file;

use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mamos_core::auth::{Binding, Credentials, KeyPair, Nonce, PublicKey, Secret};
use mamos_core::id::InstanceId;
use mamos_core::{AgentId, Result, Timestamp};
use serde::Deserialize;

pub(crate) use self::file::sync_directory_of;

/// How many hellos a program may say before the next start of the same life could say one of its numbers
/// again. At the pace of one that nobody answers, a try every 15 s or so, that is almost half a year.
const HELLOS_PER_START: u64 = 1_000_000;

/// Who an agent is: the key pair that it made, the token that it got for it, and the lives of its program.
///
/// It is on disk before the public key is first sent, so that a registration whose answer was lost, or
/// that a crash cut off, can be made again with the same token and gives the same agent.
///
/// Each start of the program is a *life* with an id of its own, and names the one before. An
/// orchestrator that meets two programs of which neither descends from the other knows that the identity
/// was copied, and admits neither.
///
/// It prints without its private half and without its token.
#[derive(Debug, Clone)]
pub struct Identity {
    key: Arc<KeyPair>,
    registered: Option<Registered>,
    life: Life,
}

#[derive(Debug, Clone)]
struct Registered {
    agent: AgentId,
    token: Secret,
}

#[derive(Debug, Clone, Copy)]
struct Life {
    instance: InstanceId,
    /// The newest life before that was welcomed.
    previous: Option<InstanceId>,
    is_welcomed: bool,
    /// Its hellos are numbered from the next one on. No earlier start of this life has used more.
    hellos: u64,
}

impl Identity {
    /// A new key pair and a first life, from the random numbers of the operating system.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`](mamos_core::ErrorKind::Unavailable) if the system has none to give.
    pub fn generate() -> Result<Self> {
        Ok(Self::new(KeyPair::generate()?, fresh_life()))
    }

    /// An agent that is not registered yet, with that key pair, in its first life.
    pub fn new(key: KeyPair, instance: InstanceId) -> Self {
        let life = Life { instance, previous: None, is_welcomed: false, hellos: 0 };
        Self { key: Arc::new(key), registered: None, life }
    }

    /// Reads an identity; `None` if there is no such file.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Config`](mamos_core::ErrorKind::Config): the file cannot be read. Correct its
    ///   owner or mode.
    /// - [`ErrorKind::Corrupt`](mamos_core::ErrorKind::Corrupt): it is not an identity. Restore it, or
    ///   remove it and register again.
    pub fn load(path: &Path) -> Result<Option<Self>> {
        file::load(path)
    }

    /// Writes the identity, readable for its owner only, replacing an older one as a whole.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`](mamos_core::ErrorKind::Unavailable): it could not be written; an older
    /// one is unchanged.
    pub fn save(&self, path: &Path) -> Result<()> {
        file::save(self, path)
    }

    /// Its id; `None` until it is registered.
    pub fn agent(&self) -> Option<&AgentId> {
        self.registered.as_ref().map(|registered| &registered.agent)
    }

    /// Was it admitted once? Then it needs no registration token any more.
    pub fn is_registered(&self) -> bool {
        self.registered.is_some()
    }

    /// The token that it shows, an EdDSA JWT; `None` until it is registered.
    pub fn token(&self) -> Option<&Secret> {
        self.registered.as_ref().map(|registered| &registered.token)
    }

    /// Until when the token is good, by what it says itself. An agent that comes later is still admitted
    /// for a while, with the proof of its key. `None` if there is no token or it does not say.
    pub fn token_expires_at(&self) -> Option<Timestamp> {
        #[derive(Deserialize)]
        struct Claims {
            exp: i64,
        }
        // Not checked: only the orchestrator can do that, and nothing here depends on it.
        let claims = self.token()?.expose().split('.').nth(1)?;
        let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        Some(Timestamp::from_micros(claims.exp.saturating_mul(1_000_000)))
    }

    /// The public half of its key pair. Its [thumbprint](PublicKey::thumbprint) is what the token names.
    pub fn public_key(&self) -> PublicKey {
        self.key.public_key()
    }

    /// The life of its program.
    pub fn instance(&self) -> InstanceId {
        self.life.instance
    }

    /// The life before, if that was ever welcomed.
    pub fn previous(&self) -> Option<InstanceId> {
        self.life.previous
    }

    /// Was the program welcomed in this life?
    pub fn is_welcomed(&self) -> bool {
        self.life.is_welcomed
    }

    /// The program starts: begins a new life, `fresh`, if the one before was welcomed.
    ///
    /// One that never was goes on: the orchestrator may or may not have heard of it, and knows in both
    /// cases either this life or the one before. Its hellos are then numbered above all that were said
    /// before. The runtime does this itself with an identity that is kept in a file; it must be on disk before
    /// the life is first spoken of.
    pub fn begin_life(&mut self, fresh: InstanceId) {
        if self.life.is_welcomed {
            let previous = Some(self.life.instance);
            self.life = Life { instance: fresh, previous, is_welcomed: false, hellos: 0 };
        } else {
            self.life.hellos = self.life.hellos.saturating_add(HELLOS_PER_START);
        }
    }

    /// The number after which this start of the program numbers its hellos.
    pub(crate) fn hellos(&self) -> u64 {
        self.life.hellos
    }

    /// What the agent shows on the connection with that nonce, and that binding if it has one: its token if
    /// it is registered, else the registration token.
    pub fn credentials(
        &self,
        registration: &Secret,
        nonce: &Nonce,
        binding: Option<&Binding>,
    ) -> Credentials {
        match self.token() {
            Some(token) => {
                let proof = self.key.prove_bound(nonce, binding, token.expose());
                Credentials::Agent { token: token.clone(), proof }
            }
            None => {
                let proof = self.key.prove_bound(nonce, binding, registration.expose());
                Credentials::Registration { token: registration.clone(), key: self.public_key(), proof }
            }
        }
    }

    /// The orchestrator welcomed the program in this life. Gives whether that is news.
    pub(crate) fn welcomed(&mut self, agent: &AgentId, issued: Option<Secret>) -> bool {
        let is_news = !self.life.is_welcomed || issued.is_some() || self.agent() != Some(agent);
        self.life.is_welcomed = true;
        if let Some(token) = issued.or_else(|| self.token().cloned()) {
            self.registered = Some(Registered { agent: agent.clone(), token });
        }
        is_news
    }

    /// The orchestrator renewed the token.
    pub(crate) fn renewed(&mut self, token: Secret) {
        if let Some(registered) = &mut self.registered {
            registered.token = token;
        }
    }
}

/// A life that nobody had before.
pub(crate) fn fresh_life() -> InstanceId {
    InstanceId::from_uuid(uuid::Uuid::new_v4())
}

#[cfg(test)]
mod tests;
