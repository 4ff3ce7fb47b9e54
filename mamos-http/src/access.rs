//! Users, roles, keys and logins: who may use the API, kept as documents in the orchestrator's store.

mod documents;
mod keys;
mod limits;
mod logins;
mod origin;
mod passwords;
mod recent;
mod roles;
mod setup;
mod users;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ipnet::IpNet;
use mamos_core::agent::state::AgentState;
use mamos_core::auth::{Gatekeeper, Identified, MAX_SECRET_BYTES, Permission, Principal, Secret, TokenFault};
use mamos_core::{Error, ErrorKind, Orchestrator, Result, Timestamp};
use tokio::time::Instant;
use uuid::Uuid;

use self::documents::Collection;
pub use self::keys::ApiKey;
pub use self::keys::NewKey;
use self::keys::StoredKey;
pub use self::limits::FailureLimiter;
use self::limits::Limiter;
pub use self::limits::Rate;
pub(crate) use self::limits::{Allowance, Limiter as RateLimiter, Place};
pub use self::logins::Login;
pub(crate) use self::logins::LoginError;
use self::logins::StoredLogin;
pub(crate) use self::origin::origin;
use self::passwords::Passwords;
use self::recent::Recent;
pub(crate) use self::roles::StoredRole;
use self::setup::StoredSetup;
use self::users::StoredUser;
pub use self::users::User;
pub use self::users::UserChange;
pub use self::users::UserName;

/// The role that may everything; one enabled user always has it.
pub(crate) const ADMIN: &str = "admin";
/// The role of agents, which no user can have.
const AGENT: &str = "agent";

const LOGIN_PREFIX: &str = "mamos_ses_";
const KEY_PREFIX: &str = "mamos_key_";

/// How long a caller is taken for the one that was found, without asking the store: what is revoked anywhere
/// is refused that much later at the latest.
const TRUSTED_FOR: Duration = Duration::from_millis(500);
/// How many callers are known without asking the store.
const CACHED: usize = 4096;

/// Wrong tokens from one address: a program with a wrong one tries again and again, and nobody guesses 256
/// bits, so that this only keeps the store from the work.
const WRONG_TOKENS: Rate = Rate::new(60, Duration::from_secs(1));
/// Wrong passwords from one address.
const WRONG_PASSWORDS: Rate = Rate::new(10, Duration::from_secs(6));
/// Wrong passwords for one user, from addresses that the user did not log in from lately.
const WRONG_FOR_USER: Rate = Rate::new(10, Duration::from_secs(30));
/// Logins of one user, so that nobody fills the store with them.
const LOGINS: Rate = Rate::new(30, Duration::from_secs(10));
/// From how many places users are known to log in.
const FAMILIAR: usize = 8192;

/// Users with roles, what they show, and the agents' own tokens: the [`Gatekeeper`] that an
/// [`Api`](crate::Api) has unless it is given another.
///
/// Everything is in the orchestrator's store, so that all orchestrators on it know the same users. Of
/// passwords it has argon2id hashes, of logins and keys SHA-256 hashes.
pub struct Access {
    orchestrator: Orchestrator,
    users: Collection<StoredUser>,
    roles: Collection<StoredRole>,
    logins: Collection<StoredLogin>,
    keys: Collection<StoredKey>,
    setup: Collection<StoredSetup>,
    passwords: Passwords,
    known: Mutex<Recent<[u8; 32], Known>>,
    wrong_tokens: FailureLimiter,
    wrong_passwords: Limiter<Place>,
    wrong_for_user: Limiter<String>,
    logins_of_user: Limiter<String>,
    familiar: Mutex<Recent<(String, Place), ()>>,
    /// One task at a time changes users, so that an admin is left.
    changing: tokio::sync::Mutex<()>,
}

/// A caller that was found by what they show.
#[derive(Debug, Clone)]
struct Known {
    who: Identified,
    /// From where it may be used; empty from everywhere.
    networks: Vec<IpNet>,
    /// Over then, if that is sooner.
    expires_at: Timestamp,
    found_at: Instant,
}

impl Access {
    /// The users in an orchestrator's store.
    pub fn new(orchestrator: &Orchestrator) -> Arc<Self> {
        let store = orchestrator.store();
        Arc::new(Self {
            orchestrator: orchestrator.clone(),
            users: Collection::new(store, "users"),
            roles: Collection::new(store, "roles"),
            logins: Collection::new(store, "logins"),
            keys: Collection::new(store, "api_keys"),
            setup: Collection::new(store, "setup"),
            passwords: Passwords::new(),
            known: Mutex::new(Recent::new(CACHED)),
            wrong_tokens: FailureLimiter::new(WRONG_TOKENS),
            wrong_passwords: Limiter::new(WRONG_PASSWORDS),
            wrong_for_user: Limiter::new(WRONG_FOR_USER),
            logins_of_user: Limiter::new(LOGINS),
            familiar: Mutex::new(Recent::new(FAMILIAR)),
            changing: tokio::sync::Mutex::default(),
        })
    }

    async fn find(&self, bearer: &Secret, now: Timestamp) -> Result<Known> {
        let text = bearer.expose();
        if text.len() > MAX_SECRET_BYTES {
            return Err(denied("the token is longer than 4096 bytes"));
        }
        if is_login(bearer) {
            self.find_login(bearer, now).await
        } else if text.starts_with(KEY_PREFIX) {
            self.find_key(bearer, now).await
        } else if text.contains('.') {
            self.find_agent(bearer, now).await
        } else {
            Err(denied("the token is no login, no key and no agent's token"))
        }
    }

    async fn find_agent(&self, bearer: &Secret, now: Timestamp) -> Result<Known> {
        let claims = self.orchestrator.signing_keys().verify(bearer, now).await?;
        // The same as for a token of a key that is not known, so that ids cannot be found out.
        let unknown = || Error::from(TokenFault::UnknownKey);
        let agent = self.orchestrator.store().agent(&claims.sub).await?.ok_or_else(unknown)?;
        if !claims.is_bound_to(&agent.public_key) {
            return Err(denied("the token is bound to another key"));
        }
        if agent.state == AgentState::Decommissioned {
            return Err(denied("this agent was decommissioned; register it as a new one"));
        }
        if agent.revocation.is_some() {
            return Err(denied("this agent was revoked; an operator can reinstate it"));
        }
        let who = Identified {
            principal: Principal::new(format!("agent:{}", agent.id), [AGENT]),
            permissions: BTreeSet::new(),
            agent: Some(agent.id),
        };
        Ok(Known::new(who, Vec::new(), claims.expires_at()))
    }

    /// A user as a caller, if they may.
    async fn user_as_caller(&self, name: &str, user: &StoredUser, now: Timestamp) -> Result<Identified> {
        let permissions = self.permissions_of(&user.roles, now).await?;
        let principal = Principal::new(format!("user:{name}"), user.roles.iter().cloned());
        Ok(Identified { principal, permissions, agent: None })
    }

    /// Asks the store about everybody again.
    fn forget_known(&self) {
        self.known().clear();
    }

    fn now(&self) -> Timestamp {
        self.orchestrator.now()
    }

    fn known(&self) -> MutexGuard<'_, Recent<[u8; 32], Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Gatekeeper for Access {
    async fn identify(&self, bearer: &Secret, from: Option<IpAddr>, now: Timestamp) -> Result<Identified> {
        let hash = bearer.hash();
        let earlier = self.known().get(&hash).cloned();
        let known = match earlier {
            Some(known) if known.is_sure(now) => known,
            earlier => {
                // Who was known a while ago is not kept out because somebody else at that address errs.
                if earlier.is_none() && self.wrong_tokens.wait(from).is_some() {
                    let message =
                        "too many wrong tokens came from this address; wait, and check which is sent";
                    return Err(Error::new(ErrorKind::LimitExceeded, "caller.identify", message));
                }
                let asked_at = Instant::now();
                match self.find(bearer, now).await {
                    Ok(known) => {
                        // As old as the question, so that what was changed meanwhile is seen in time.
                        let known = Known { found_at: asked_at, ..known };
                        self.known().put(hash, known.clone());
                        known
                    }
                    Err(error) => {
                        if error.kind() == ErrorKind::Denied {
                            self.known().remove(&hash);
                            self.wrong_tokens.count(from);
                        }
                        return Err(error);
                    }
                }
            }
        };
        if !known.may_come_from(from) {
            return Err(denied("the key may not be used from this address"));
        }
        Ok(known.who)
    }
}

impl Known {
    fn new(who: Identified, networks: Vec<IpNet>, expires_at: Timestamp) -> Self {
        Self { who, networks, expires_at, found_at: Instant::now() }
    }

    fn is_sure(&self, now: Timestamp) -> bool {
        self.found_at.elapsed() < TRUSTED_FOR && now < self.expires_at
    }

    fn may_come_from(&self, from: Option<IpAddr>) -> bool {
        let is_in = |address: IpAddr| self.networks.iter().any(|net| net.contains(&address.to_canonical()));
        self.networks.is_empty() || from.is_some_and(is_in)
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").finish_non_exhaustive()
    }
}

/// Is it the token of a login?
pub(crate) fn is_login(token: &Secret) -> bool {
    token.expose().starts_with(LOGIN_PREFIX)
}

/// The permission with this stable name.
pub(crate) fn permission_named(name: &str) -> Option<Permission> {
    Permission::ALL.into_iter().find(|permission| permission.as_str() == name)
}

fn new_secret(prefix: &str) -> Secret {
    let random = || Uuid::new_v4().as_u128();
    Secret::from_random(prefix.trim_end_matches('_'), [random(), random()])
}

/// What a document of a secret is called: as many bytes of its hash, in hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn denied(message: &str) -> Error {
    Error::new(ErrorKind::Denied, "caller.identify", message)
}

fn invalid(operation: &'static str, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, operation, message)
}

fn conflict(operation: &'static str, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Conflict, operation, message)
}
