//! Port: who is at the other end, and what they may do.

use std::collections::BTreeSet;
use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use crate::Result;
use crate::agent::AgentProfile;
use crate::clock::Timestamp;
use crate::id::{AgentId, AgentKind, TokenId};

/// The longest secret, in bytes.
pub const MAX_SECRET_BYTES: usize = 4096;

/// A text that must not be seen: it prints as `***` and is wiped from memory when dropped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Makes a secret of 256 random bits from two random numbers, with a prefix that secret scanners
    /// can find.
    pub fn from_random(prefix: &str, random: [u128; 2]) -> Self {
        Self(format!("{prefix}_{:032x}{:032x}", random[0], random[1]))
    }

    /// The text itself. The name is long so that uses stand out in a review.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// SHA-256 of the secret: what stores keep. Enough for secrets of 256 random bits.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// What someone shows to prove who they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Credentials {
    /// A one-time registration token: the agent is new.
    Registration {
        /// The token.
        token: Secret,
        /// What the agent will prove itself with from now on. The agent makes it, at random, and keeps
        /// it before it sends it, so that trying again after a lost answer is harmless.
        secret: Secret,
    },
    /// The agent is known, and shows the secret that it registered with.
    Agent {
        /// Its id.
        id: AgentId,
        /// Its secret.
        secret: Secret,
    },
}

/// What a principal may do, beyond being itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Permission {
    /// See jobs, agents and queues.
    Read,
    /// Enqueue typed jobs.
    EnqueueJobs,
    /// Ask for commands; which ones, the whitelist says.
    RunCommands,
    /// Cancel, redrive and approve jobs; pause queues.
    OperateJobs,
    /// Drain, revoke and decommission agents; make registration tokens.
    OperateAgents,
    /// Change whitelists, roles and settings.
    Administer,
}

/// A named set of permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Its name, as whitelists use it.
    pub name: String,
    /// What it permits.
    pub permissions: BTreeSet<Permission>,
}

/// Who was authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Its name, unique and stable, for example `agent:security-0198…` or `user:ann`.
    pub name: String,
    /// The names of its roles.
    pub roles: BTreeSet<String>,
}

impl Principal {
    /// A principal with roles.
    pub fn new<R: Into<String>>(name: impl Into<String>, roles: impl IntoIterator<Item = R>) -> Self {
        Self { name: name.into(), roles: roles.into_iter().map(Into::into).collect() }
    }

    /// The program that embeds the orchestrator: `host`, with the role `admin`.
    pub fn host() -> Self {
        Self::new("host", ["admin"])
    }
}

/// An agent that was admitted.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// Who it is.
    pub agent: AgentId,
    /// What it must show from now on, if that has changed. Sent to the agent once, never stored.
    pub issued: Option<Secret>,
}

/// Decides who an agent is from what it shows.
///
/// The engine's default keeps everything in the store; see
/// [`StoreAuthenticator`](crate::orchestrator::StoreAuthenticator).
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// Admits an agent, or refuses it.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Denied`](crate::ErrorKind::Denied): the credentials are wrong, used up or
    ///   expired. The message does not say which.
    /// - [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable): could not be decided; try again.
    async fn admit(
        &self,
        credentials: &Credentials,
        profile: &AgentProfile,
        now: Timestamp,
    ) -> Result<Admitted>;
}

/// A registration token, as a store keeps it: the token itself is never stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrationToken {
    /// Names it, for listing and revoking.
    pub id: TokenId,
    /// SHA-256 of the token.
    pub hash: [u8; 32],
    /// Good until then.
    pub expires_at: Timestamp,
    /// How many agents it still admits.
    pub uses_left: u32,
    /// Admits agents of this kind only.
    pub agent_kind: Option<AgentKind>,
    /// When it was made.
    pub created_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print() {
        let credentials =
            Credentials::Registration { token: Secret::new("hunter2"), secret: Secret::new("hunter3") };
        assert!(!format!("{credentials:?}").contains("hunter"));
    }

    #[test]
    fn a_random_secret_has_all_its_bits() {
        let secret = Secret::from_random("mamos_reg", [1, u128::MAX]);
        assert_eq!(secret.expose().len(), "mamos_reg_".len() + 64);
        // `printf abc | sha256sum`, the example of FIPS 180-2.
        let hash = Secret::new("abc").hash();
        assert_eq!(hash[..4], [0xba, 0x78, 0x16, 0xbf]);
    }
}
