//! The tokens of agents: EdDSA JWTs (RFC 7519, RFC 8037), each bound to the agent's own key (RFC 7800).
//!
//! One fixed algorithm and typed claims: what a token says about how to check it is compared and never
//! followed. The keys that sign are kept as documents in the store, so that all orchestrators on one store
//! share them; they are rotated with an overlap, in which both the old and the new one are good.

mod jws;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::keys::{KeyPair, PublicKey};
use super::{Issued, Secret};
use crate::clock::Timestamp;
use crate::id::AgentId;
use crate::store::{DocumentChange, DocumentFilter, DocumentWrite, Expected, PageRequest, Store};
use crate::{Error, ErrorKind, Result};

/// The collection that the signing keys are kept in.
const COLLECTION: &str = "signing_keys";
/// Who makes the tokens, and who they are for.
const ISSUER: &str = "mamos";
const AUDIENCE: &str = "mamos-agent";
/// Tokens may be from this far in the future, because the clocks of two orchestrators differ.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);
/// A token that names a key that is not known here is looked for in the store no more often.
const RELOAD_EVERY: Duration = Duration::from_secs(1);
/// More keys than rotations within the life of one; a page of documents.
const MAX_KEYS: u32 = 1000;

/// How long tokens and their keys are good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenPolicy {
    /// How long a token is good. It is renewed in-band after half of it. Default: 1 hour.
    pub life: Duration,
    /// How long after the end of its token an agent that was away may still come back, with the proof
    /// of its key. Later it must register anew. Default: 30 days.
    pub rejoin_within: Duration,
    /// How often the key that signs is changed. Default: 30 days.
    pub rotate_every: Duration,
}

impl Default for TokenPolicy {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self { life: Duration::from_secs(3600), rejoin_within: 30 * day, rotate_every: 30 * day }
    }
}

impl TokenPolicy {
    /// After a rotation the old key is good for as long as a token that it signed may be shown.
    fn overlap(&self) -> Duration {
        self.life + self.rejoin_within + 2 * CLOCK_TOLERANCE
    }
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentClaims {
    iss: String,
    aud: String,
    /// The agent.
    pub sub: AgentId,
    iat: i64,
    exp: i64,
    jti: String,
    cnf: Confirmation,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Confirmation {
    jkt: String,
}

impl AgentClaims {
    /// Is the token bound to this key?
    pub fn is_bound_to(&self, key: &PublicKey) -> bool {
        self.cnf.jkt == key.thumbprint()
    }

    /// Until when it is good.
    pub fn expires_at(&self) -> Timestamp {
        Timestamp::from_micros(self.exp.saturating_mul(1_000_000))
    }

    /// When it should be renewed: after half of its life.
    pub fn renew_at(&self) -> Timestamp {
        let half = self.iat.saturating_add(self.exp.saturating_sub(self.iat) / 2);
        Timestamp::from_micros(half.saturating_mul(1_000_000))
    }
}

/// Why a token is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TokenFault {
    /// It is no token of an agent, or is signed in another way than EdDSA.
    #[error("not an agent's token, or not signed with EdDSA")]
    Malformed,
    /// No key with its id is known: never was, or was retired.
    #[error("the token names a key that is not known")]
    UnknownKey,
    /// Somebody changed it, or another key signed it.
    #[error("the signature of the token is wrong")]
    BadSignature,
    /// It was made for something else.
    #[error("the token is for somebody else than agents of this orchestrator")]
    WrongAudience,
    /// It says that it was made in the future.
    #[error("the token is from the future; check the clocks")]
    NotYetValid,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
}

impl From<TokenFault> for Error {
    fn from(fault: TokenFault) -> Self {
        Self::new(ErrorKind::Denied, "token.verify", fault.to_string())
    }
}

/// A public key of RFC 8037 that tokens can be checked with, for others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Jwk {
    /// The type of key: `OKP`.
    pub kty: &'static str,
    /// The curve: `Ed25519`.
    pub crv: &'static str,
    /// The algorithm: `EdDSA`.
    pub alg: &'static str,
    /// What it is for: `sig`.
    #[serde(rename = "use")]
    pub usage: &'static str,
    /// Its id, as tokens name it.
    pub kid: String,
    /// The key.
    pub x: String,
}

/// Signs the tokens of agents and checks them.
pub struct SigningKeys {
    store: Arc<dyn Store>,
    policy: TokenPolicy,
    known: Mutex<Known>,
    /// One task at a time reads or makes keys.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    /// Those that retire first, then by age: the last one signs.
    keys: Vec<Arc<SigningKey>>,
    /// When the last look at the store began.
    read_at: Option<Instant>,
}

struct SigningKey {
    id: String,
    pair: KeyPair,
    created_at: Timestamp,
    retires_at: Option<Timestamp>,
}

/// A signing key as a document. It holds the private half: whoever reads the store can sign.
#[derive(Serialize, Deserialize)]
struct StoredKey {
    seed: Secret,
    created_at: i64,
}

impl SigningKeys {
    /// The signing keys in a store, which makes its first one when it is needed.
    pub fn new(store: Arc<dyn Store>, policy: TokenPolicy) -> Self {
        Self { store, policy, known: Mutex::default(), reading: tokio::sync::Mutex::default() }
    }

    /// How long tokens are good.
    pub fn policy(&self) -> &TokenPolicy {
        &self.policy
    }

    /// Makes a token for an agent with that key.
    ///
    /// # Errors
    ///
    /// The error of the store if the keys cannot be read.
    pub async fn issue(&self, agent: &AgentId, key: &PublicKey, now: Timestamp) -> Result<Issued> {
        let signer = self.current(now).await?;
        let seconds = now.as_micros().div_euclid(1_000_000);
        let life = i64::try_from(self.policy.life.as_secs().max(1)).unwrap_or(i64::MAX);
        let claims = AgentClaims {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: agent.clone(),
            iat: seconds,
            exp: seconds.saturating_add(life),
            jti: uuid::Uuid::new_v4().to_string(),
            cnf: Confirmation { jkt: key.thumbprint() },
        };
        let token = jws::sign(&signer.id, &claims, &signer.pair)?;
        Ok(Issued { token, renew_at: claims.renew_at() })
    }

    /// Reads a token that somebody shows. It may be over since [`TokenPolicy::rejoin_within`] and less:
    /// look at [`AgentClaims::expires_at`], or call [`SigningKeys::verify`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] with the text of a [`TokenFault`], or the error of the store.
    pub async fn read(&self, token: &Secret, now: Timestamp) -> Result<AgentClaims> {
        let unchecked = jws::Unchecked::<AgentClaims>::parse(token)?;
        let signer = self.find(unchecked.key_id(), now).await?.ok_or(TokenFault::UnknownKey)?;
        let claims = unchecked.check(&signer.pair.public_key())?;
        if claims.iss != ISSUER || claims.aud != AUDIENCE {
            return Err(TokenFault::WrongAudience.into());
        }
        if Timestamp::from_micros(claims.iat.saturating_mul(1_000_000)) > now + CLOCK_TOLERANCE {
            return Err(TokenFault::NotYetValid.into());
        }
        if claims.expires_at() + self.policy.rejoin_within <= now {
            return Err(TokenFault::Expired.into());
        }
        Ok(claims)
    }

    /// Reads a token that must be good now.
    ///
    /// # Errors
    ///
    /// As [`SigningKeys::read`], and [`TokenFault::Expired`] once its life is over.
    pub async fn verify(&self, token: &Secret, now: Timestamp) -> Result<AgentClaims> {
        let claims = self.read(token, now).await?;
        if claims.expires_at() <= now {
            return Err(TokenFault::Expired.into());
        }
        Ok(claims)
    }

    /// The public keys that tokens can be checked with now.
    ///
    /// # Errors
    ///
    /// The error of the store.
    pub async fn public_keys(&self, now: Timestamp) -> Result<Vec<Jwk>> {
        self.current(now).await?;
        let known = self.known();
        let keys = known.keys.iter().filter(|key| !key.is_retired(now)).map(|key| Jwk {
            kty: "OKP",
            crv: "Ed25519",
            alg: "EdDSA",
            usage: "sig",
            kid: key.id.clone(),
            x: key.pair.public_key().to_string(),
        });
        Ok(keys.collect())
    }

    /// Makes a new key that signs from now on. The ones before it stay good for the tokens that they signed,
    /// and retire after that. Gives the id of the new one.
    ///
    /// # Errors
    ///
    /// The error of the store.
    pub async fn rotate(&self, now: Timestamp) -> Result<String> {
        let _one = self.reading.lock().await;
        self.load(now).await?;
        self.make(now).await
    }

    /// The key that signs now.
    async fn current(&self, now: Timestamp) -> Result<Arc<SigningKey>> {
        if let Some(key) = self.newest(now) {
            return Ok(key);
        }
        let _one = self.reading.lock().await;
        if let Some(key) = self.newest(now) {
            return Ok(key);
        }
        self.load(now).await?;
        if let Some(key) = self.newest(now) {
            return Ok(key);
        }
        self.make(now).await?;
        let none = || Error::new(ErrorKind::Unavailable, "token.issue", "there is no key to sign with");
        self.newest(now).ok_or_else(none)
    }

    /// The newest known key, unless it is time for another.
    fn newest(&self, now: Timestamp) -> Option<Arc<SigningKey>> {
        let known = self.known();
        let newest = known.keys.iter().rev().find(|key| key.retires_at.is_none())?;
        (now.since(newest.created_at) < self.policy.rotate_every).then(|| Arc::clone(newest))
    }

    async fn find(&self, id: &str, now: Timestamp) -> Result<Option<Arc<SigningKey>>> {
        let arrived = Instant::now();
        let found = |known: &Known| {
            known.keys.iter().find(|key| key.id == id && !key.is_retired(now)).map(Arc::clone)
        };
        if let Some(key) = found(&self.known()) {
            return Ok(Some(key));
        }
        // Another orchestrator may have made it since the keys were read. All who wait here are answered by
        // one look at the store that begins after they came.
        let _one = self.reading.lock().await;
        let read_at = self.known().read_at;
        if read_at.is_none_or(|at| at <= arrived) {
            if let Some(at) = read_at {
                tokio::time::sleep_until(at + RELOAD_EVERY).await;
            }
            self.load(now).await?;
        }
        Ok(found(&self.known()))
    }

    async fn load(&self, now: Timestamp) -> Result<()> {
        let read_at = Some(Instant::now());
        let filter =
            DocumentFilter { collection: COLLECTION.to_owned(), prefix: String::new(), is_descending: false };
        let page = self.store.documents(filter, PageRequest::first(MAX_KEYS), now).await?;
        let mut keys = Vec::with_capacity(page.items.len());
        for document in page.items {
            match SigningKey::read(&document.key, &document.value, document.expires_at) {
                Ok(key) => keys.push(Arc::new(key)),
                Err(error) => {
                    tracing::error!(target: "mamos::auth", %error, key = document.key, "a signing key is left out");
                }
            }
        }
        keys.sort_by_key(|key| (key.retires_at.is_none(), key.created_at));
        *self.known() = Known { keys, read_at };
        Ok(())
    }

    /// Makes a key and lets the others retire, in one write.
    async fn make(&self, now: Timestamp) -> Result<String> {
        let pair = KeyPair::generate()?;
        let id = pair.public_key().thumbprint();
        let stored = StoredKey {
            seed: Secret::new(URL_SAFE_NO_PAD.encode(pair.expose_seed())),
            created_at: now.as_micros(),
        };
        let put = |key: String, expected, value: Bytes, expires_at| DocumentWrite {
            collection: COLLECTION.to_owned(),
            key,
            expected,
            change: DocumentChange::Put { value, expires_at },
        };
        let mut writes = vec![put(id.clone(), Expected::Absent, stored.encode()?, None)];
        let retires_at = now + self.policy.overlap();
        for old in self.known().keys.iter().filter(|key| key.retires_at.is_none()) {
            let value = old.stored().encode()?;
            writes.push(put(old.id.clone(), Expected::Any, value, Some(retires_at)));
        }
        self.store.write_documents(writes, now).await?;
        self.load(now).await?;
        tracing::info!(target: "mamos::auth", key = id, "a new key signs the tokens of agents");
        Ok(id)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SigningKey {
    fn read(id: &str, value: &[u8], retires_at: Option<Timestamp>) -> Result<Self> {
        let corrupt = || Error::new(ErrorKind::Corrupt, "signing_key.read", "not a signing key");
        let stored: StoredKey =
            serde_json::from_slice(value).map_err(|error| corrupt().with_source(error))?;
        let seed = URL_SAFE_NO_PAD.decode(stored.seed.expose()).map_err(|_| corrupt())?;
        let pair = KeyPair::from_seed(seed.try_into().map_err(|_| corrupt())?)?;
        let created_at = Timestamp::from_micros(stored.created_at);
        Ok(Self { id: id.to_owned(), pair, created_at, retires_at })
    }

    fn stored(&self) -> StoredKey {
        let seed = Secret::new(URL_SAFE_NO_PAD.encode(self.pair.expose_seed()));
        StoredKey { seed, created_at: self.created_at.as_micros() }
    }

    fn is_retired(&self, now: Timestamp) -> bool {
        self.retires_at.is_some_and(|at| at <= now)
    }
}

impl StoredKey {
    fn encode(&self) -> Result<Bytes> {
        let failed = |error| {
            Error::new(ErrorKind::Invalid, "signing_key.write", "it cannot be written down")
                .with_source(error)
        };
        serde_json::to_vec(self).map(Bytes::from).map_err(|error: serde_json::Error| failed(error))
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKeys").field("policy", &self.policy).finish_non_exhaustive()
    }
}
