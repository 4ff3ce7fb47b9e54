//! Port: who is at the other end, and what they may do.
//!
//! An agent proves itself with a [key pair](keys) that it made: the orchestrator sends a nonce, the agent
//! signs it together with what it shows, a one-time registration token at first and the
//! [token](tokens) that it got for it from then on.

pub mod keys;
pub mod link_key;
pub mod tokens;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use crate::Result;
use crate::clock::Timestamp;
use crate::id::{AgentId, AgentKind, TokenId};
use crate::job::labels::Labels;
use crate::protocol::Hello;

pub use self::keys::Binding;
pub use self::keys::KeyPair;
pub use self::keys::Nonce;
pub use self::keys::PublicKey;
pub use self::keys::Signature;
pub use self::tokens::SigningKeys;
pub use self::tokens::TokenFault;
pub use self::tokens::TokenPolicy;

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

/// What an agent shows to prove who it is.
///
/// The proof is its signature over [`keys::proof_message`], so that what was shown on one connection is
/// worth nothing on another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Credentials {
    /// A one-time registration token: the agent is new. Trying again with the same key after a lost answer
    /// is harmless.
    Registration {
        /// The registration token.
        token: Secret,
        /// What its proofs are checked with from now on. The agent keeps the other half on disk before it
        /// sends this one.
        key: PublicKey,
        /// It has the other half of the key.
        proof: Signature,
    },
    /// The agent is known.
    Agent {
        /// The token that it got last, an EdDSA JWT that names it.
        token: Secret,
        /// It has the key that the token is bound to.
        proof: Signature,
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
    /// Label, drain, revoke and decommission agents; make registration tokens.
    OperateAgents,
    /// Read the audit log.
    ReadAudit,
    /// Change users, keys, roles and settings.
    Administer,
}

impl Permission {
    /// All permissions.
    pub const ALL: [Self; 7] = [
        Self::Read,
        Self::EnqueueJobs,
        Self::RunCommands,
        Self::OperateJobs,
        Self::OperateAgents,
        Self::ReadAudit,
        Self::Administer,
    ];

    /// The stable name: in documents and over HTTP.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::EnqueueJobs => "enqueue_jobs",
            Self::RunCommands => "run_commands",
            Self::OperateJobs => "operate_jobs",
            Self::OperateAgents => "operate_agents",
            Self::ReadAudit => "read_audit",
            Self::Administer => "administer",
        }
    }
}

/// A named set of permissions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Its name, as whitelists use it.
    pub name: String,
    /// What it permits.
    pub permissions: BTreeSet<Permission>,
}

impl Role {
    /// The roles that are always there: `admin` may everything, `operator` everything but administer
    /// and read the audit log, `read-only` may see, and `agent` may nothing but be itself.
    pub fn built_in() -> [Self; 4] {
        let role = |name: &str, permissions: &[Permission]| Self {
            name: name.to_owned(),
            permissions: permissions.iter().copied().collect(),
        };
        let operator = [
            Permission::Read,
            Permission::EnqueueJobs,
            Permission::RunCommands,
            Permission::OperateJobs,
            Permission::OperateAgents,
        ];
        [
            role("admin", &Permission::ALL),
            role("operator", &operator),
            role("read-only", &[Permission::Read]),
            role("agent", &[]),
        ]
    }
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

/// What an orchestrator sent on a new connection.
#[derive(Debug, Clone, Copy)]
pub struct Challenge {
    /// What the agent must sign.
    pub nonce: Nonce,
    /// What the agent must sign as well, if the connection has one.
    pub binding: Option<Binding>,
    /// When it was sent.
    pub sent_at: Timestamp,
}

/// Whether an agent may connect.
#[derive(Debug, Clone)]
pub enum Admission {
    /// It may.
    Admitted(Admitted),
    /// It proved who it is, and so did another program before that it does not descend from: its
    /// identity was copied, and it cannot be told which one is the copy. The engine revokes the agent.
    Copied(AgentId),
}

/// An agent that was admitted.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// Who it is.
    pub agent: AgentId,
    /// Was it registered just now?
    pub is_new: bool,
    /// The token that it must show from now on, if that has changed. Sent to the agent once, never
    /// stored.
    pub issued: Option<Secret>,
    /// When its token should be renewed; `None` if it needs no renewal.
    pub renew_at: Option<Timestamp>,
}

/// A token that was made for an agent.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The token.
    pub token: Secret,
    /// When it should be renewed.
    pub renew_at: Timestamp,
}

/// Decides who an agent is from what it shows.
///
/// The engine's default keeps everything in the store; see
/// [`StoreAuthenticator`](crate::orchestrator::StoreAuthenticator).
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// Admits an agent, or refuses it. What it shows must prove that it has its key by signing the challenge. A [revoked](crate::agent::Revocation) or decommissioned one is
    /// refused.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Denied`](crate::ErrorKind::Denied): the credentials are wrong, used up or
    ///   expired. The message does not say more than the agent may know.
    /// - [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable): could not be decided; try again.
    async fn admit(&self, hello: &Hello, challenge: &Challenge, now: Timestamp) -> Result<Admission>;

    /// Makes a new token for an agent whose link lives. `None` if it needs none, which is the default.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable): not now. It is asked again later.
    async fn renew(&self, _agent: &AgentId, _now: Timestamp) -> Result<Option<Issued>> {
        Ok(None)
    }
}

/// Who somebody that calls the API turned out to be, and what they may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identified {
    /// Who.
    pub principal: Principal,
    /// What they may do: the permissions of their roles, less what their key leaves out.
    pub permissions: BTreeSet<Permission>,
    /// Set if it is an agent.
    pub agent: Option<AgentId>,
}

/// Decides who calls the API, from what they show. Agents on a link are the business of an
/// [`Authenticator`].
///
/// `mamos-http` brings one with users, keys and agents' tokens; a program that embeds the API and has users
/// of its own brings its own.
#[async_trait]
pub trait Gatekeeper: Send + Sync + 'static {
    /// Says who shows this bearer token, from this address.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Denied`](crate::ErrorKind::Denied): it is wrong, expired, revoked, or may not be used
    ///   from there. The message may be shown to the caller.
    /// - [`ErrorKind::LimitExceeded`](crate::ErrorKind::LimitExceeded): too many wrong ones from there; wait.
    /// - [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable): it cannot be decided now.
    async fn identify(&self, bearer: &Secret, from: Option<IpAddr>, now: Timestamp) -> Result<Identified>;
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
    /// Admits agents only whose [profile](crate::agent::AgentProfile::name) has this name. At most 128 bytes.
    pub agent_name: Option<String>,
    /// The operator's labels of the agents that it admits, for example `group=web`.
    pub labels: Labels,
    /// When it was made.
    pub created_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print() {
        let credentials =
            Credentials::Agent { token: Secret::new("hunter2"), proof: Signature::from_bytes([7; 64]) };
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
