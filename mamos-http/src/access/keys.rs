//! API keys: for programs, good for longer, and for less than their owner may if so wished.

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::IpNet;
use mamos_core::auth::{Permission, Secret};
use mamos_core::store::{Expected, Page, PageRequest};
use mamos_core::{Error, ErrorKind, Result, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::documents::Kept;
use super::{Access, KEY_PREFIX, Known, UserName, conflict, denied, hex, invalid, new_secret};

/// The most keys of one user.
pub(crate) const MAX_KEYS: usize = 100;
/// The most networks of one key.
pub(crate) const MAX_NETWORKS: usize = 32;
/// The longest name of a key, in bytes.
pub(crate) const MAX_KEY_NAME_BYTES: usize = 128;
/// How many bytes of the hash of a key are its id.
const ID_BYTES: usize = 16;
/// The last use is written down this often, so that each use does not cost a write.
const NOTE_EVERY: Duration = Duration::from_secs(60);

/// A key to be made.
#[derive(Debug, Clone, Default)]
pub struct NewKey {
    /// What it is for, for people. 1 to 128 bytes.
    pub name: String,
    /// How long it is good; `None` until it is removed.
    pub valid_for: Option<Duration>,
    /// It may these things only, as far as its owner may them; `None` for all that its owner may.
    pub permissions: Option<BTreeSet<Permission>>,
    /// It may be used from these networks only, at most 32; empty for everywhere.
    pub networks: Vec<IpNet>,
}

impl NewKey {
    /// A key for this, with all that its owner may, from everywhere, until it is removed.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), valid_for: None, permissions: None, networks: Vec::new() }
    }
}

/// A key, as people see it. The key itself is not stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Names it, for listing and removing. Not secret.
    pub id: String,
    /// Whose it is.
    pub owner: String,
    /// What it is for.
    pub name: String,
    /// What it may at most; `None` for all that its owner may.
    pub permissions: Option<BTreeSet<Permission>>,
    /// From where it may be used; empty for everywhere.
    pub networks: Vec<IpNet>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Until when it is good.
    pub expires_at: Option<Timestamp>,
    /// When it was last used, a minute more or less.
    pub last_used_at: Option<Timestamp>,
}

/// A key as a document, whose key is the id.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StoredKey {
    /// The whole hash, in hexadecimal; the id is the beginning of it.
    hash: String,
    owner: String,
    owner_id: Uuid,
    name: String,
    permissions: Option<BTreeSet<Permission>>,
    networks: Vec<String>,
    created_at: i64,
    last_used_at: Option<i64>,
}

/// Keys.
impl Access {
    /// Makes a key of a user. Show it to them; it is not stored and cannot be seen again.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`]: there is no such user.
    /// - [`ErrorKind::Invalid`]: a bound is not kept.
    /// - [`ErrorKind::Conflict`]: the user has too many keys.
    /// - The error of the store.
    pub async fn create_key(&self, owner: &UserName, new: NewKey) -> Result<(ApiKey, Secret)> {
        if new.name.is_empty() || new.name.len() > MAX_KEY_NAME_BYTES {
            return Err(invalid("key.create", "the name of a key has 1 to 128 bytes"));
        }
        if new.networks.len() > MAX_NETWORKS || new.valid_for.is_some_and(|valid_for| valid_for.is_zero()) {
            return Err(invalid("key.create", "a key is good for a while, from at most 32 networks"));
        }
        let user = self.stored_user(owner).await?;
        if self.keys_of(owner).await?.len() >= MAX_KEYS {
            let message = format!("{owner} has {MAX_KEYS} keys; remove those that are not used");
            return Err(conflict("key.create", message));
        }
        let now = self.now();
        let token = new_secret(KEY_PREFIX);
        let expires_at = new.valid_for.map(|valid_for| now + valid_for);
        let stored = StoredKey {
            hash: hex(&token.hash()),
            owner: owner.as_str().to_owned(),
            owner_id: user.value.id,
            name: new.name,
            permissions: new.permissions,
            networks: new.networks.iter().map(ToString::to_string).collect(),
            created_at: now.as_micros(),
            last_used_at: None,
        };
        let id = id_of(&token);
        let written = self.keys.put(&id, Expected::Absent, &stored, expires_at, now).await?;
        let revision = written.ok_or_else(|| conflict("key.create", "it could not be made; try again"))?;
        Ok((shown(Kept { key: id, revision, expires_at, value: stored }), token))
    }

    /// The keys of a user.
    ///
    /// # Errors
    ///
    /// The error of the store.
    pub async fn keys_of(&self, owner: &UserName) -> Result<Vec<ApiKey>> {
        let mut keys = Vec::new();
        let mut request = PageRequest::first(1000);
        loop {
            let page = self.keys(request).await?;
            keys.extend(page.items.into_iter().filter(|key| key.owner == owner.as_str()));
            let Some(next) = page.next else { return Ok(keys) };
            request = PageRequest { limit: 1000, after: Some(next) };
        }
    }

    /// All keys, a page at a time.
    ///
    /// # Errors
    ///
    /// The error of the store.
    pub async fn keys(&self, page: PageRequest) -> Result<Page<ApiKey>> {
        let page = self.keys.page(page, self.now()).await?;
        Ok(Page { items: page.items.into_iter().map(shown).collect(), next: page.next })
    }

    /// Removes a key, of that user if one is given.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], or the error of the store.
    pub async fn remove_key(&self, id: &str, owner: Option<&UserName>) -> Result<()> {
        let not_found = || Error::new(ErrorKind::NotFound, "key", "there is no such key");
        if id.len() != 2 * ID_BYTES || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(not_found());
        }
        let now = self.now();
        let key = self.keys.get(id, now).await?.ok_or_else(not_found)?;
        if owner.is_some_and(|owner| owner.as_str() != key.value.owner) {
            return Err(not_found());
        }
        self.keys.remove(id, Expected::Any, now).await?;
        self.forget_known();
        Ok(())
    }

    /// Whoever has the name later has none of their keys; this only tidies up.
    pub(super) async fn remove_keys_of(&self, owner: &UserName, owner_id: Uuid) -> Result<()> {
        while let Some(key) = self.keys.find(|key| key.value.owner_id == owner_id, self.now()).await? {
            self.keys.remove(&key.key, Expected::Any, self.now()).await?;
        }
        tracing::info!(target: "mamos::auth", user = %owner, "a user and their keys were removed");
        Ok(())
    }

    pub(super) async fn find_key(&self, token: &Secret, now: Timestamp) -> Result<Known> {
        let unknown = || denied("the key is not known: it was removed, or has expired");
        let key = self.keys.get(&id_of(token), now).await?.ok_or_else(unknown)?;
        if key.value.hash != hex(&token.hash()) {
            return Err(unknown());
        }
        let user = self.enabled_user(&key.value.owner, key.value.owner_id, now).await?;
        let mut who = self.user_as_caller(&key.value.owner, &user, now).await?;
        if let Some(only) = &key.value.permissions {
            who.permissions.retain(|permission| only.contains(permission));
        }
        let networks = networks(&key.value).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "key.read", "the networks of a key cannot be read")
        })?;
        let expires_at = key.expires_at.unwrap_or(Timestamp::MAX);
        self.note_use(key, now).await;
        Ok(Known::new(who, networks, expires_at))
    }

    /// Best effort: a key that was changed or removed meanwhile stays as it is.
    async fn note_use(&self, mut key: Kept<StoredKey>, now: Timestamp) {
        let last = key.value.last_used_at.map(Timestamp::from_micros);
        if last.is_some_and(|last| now.since(last) < NOTE_EVERY && last <= now) {
            return;
        }
        key.value.last_used_at = Some(now.as_micros());
        let expected = Expected::Revision(key.revision);
        if let Err(error) = self.keys.put(&key.key, expected, &key.value, key.expires_at, now).await {
            tracing::debug!(target: "mamos::auth", %error, key = key.key, "the use of a key was not noted");
        }
    }
}

fn id_of(token: &Secret) -> String {
    hex(&token.hash()[..ID_BYTES])
}

/// `None` if one of them cannot be read: then the key may not be used from everywhere instead.
fn networks(key: &StoredKey) -> Option<Vec<IpNet>> {
    key.networks.iter().map(|net| net.parse().ok()).collect()
}

fn shown(kept: Kept<StoredKey>) -> ApiKey {
    ApiKey {
        networks: networks(&kept.value).unwrap_or_default(),
        id: kept.key,
        owner: kept.value.owner,
        name: kept.value.name,
        permissions: kept.value.permissions,
        created_at: Timestamp::from_micros(kept.value.created_at),
        expires_at: kept.expires_at,
        last_used_at: kept.value.last_used_at.map(Timestamp::from_micros),
    }
}
