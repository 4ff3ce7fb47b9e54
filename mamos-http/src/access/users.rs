//! Users.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use mamos_core::auth::Secret;
use mamos_core::store::{Expected, Page, PageRequest};
use mamos_core::{Error, ErrorKind, Result, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::documents::Kept;
use super::{ADMIN, AGENT, Access, conflict, denied, invalid};

/// How often a change is tried again when somebody else changes the same user.
const TRIES: u32 = 5;
/// The longest name of a user or role, in bytes.
const MAX_NAME_BYTES: usize = 64;
/// The most roles of one user.
pub(super) const MAX_ROLES: usize = 32;

/// The name of a user: 1 to 64 bytes of `a-z 0-9 . _ @ -`, beginning with a letter or digit, so that no two
/// look alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserName(String);

impl UserName {
    /// Checks and takes a name.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`].
    pub fn new(text: &str) -> Result<Self> {
        check_name("user.name", text)?;
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for UserName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

/// A user, as others may see them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Their name, unique.
    pub name: UserName,
    /// The names of their roles.
    pub roles: BTreeSet<String>,
    /// Are they kept out for now?
    pub is_disabled: bool,
    /// Can they log in?
    pub has_password: bool,
    /// When they were made.
    pub created_at: Timestamp,
    /// When they were last changed.
    pub changed_at: Timestamp,
    /// Grows with each change.
    pub revision: u64,
}

/// What to change about a user; what is `None` stays.
#[derive(Debug, Default)]
pub struct UserChange {
    /// Other roles.
    pub roles: Option<BTreeSet<String>>,
    /// Keep them out, which ends their logins, or let them in again.
    pub is_disabled: Option<bool>,
    /// Another password, which ends their logins.
    pub password: Option<Secret>,
}

/// A user as a document; its key is the name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StoredUser {
    /// Tells them from another with the same name, before or after.
    pub(super) id: Uuid,
    /// A PHC string.
    pub(super) password: Option<Secret>,
    pub(super) roles: BTreeSet<String>,
    pub(super) is_disabled: bool,
    /// Drawn anew to end all logins.
    pub(super) logins: Uuid,
    created_at: i64,
    changed_at: i64,
}

impl StoredUser {
    fn is_admin(&self) -> bool {
        !self.is_disabled && self.roles.contains(ADMIN)
    }

    /// The hash of their password, if they can log in.
    pub(super) fn password(&self) -> Option<String> {
        self.password.as_ref().filter(|_| !self.is_disabled).map(|hash| hash.expose().to_owned())
    }
}

/// Users.
impl Access {
    /// Makes a user with roles. Without a password they cannot log in, but have
    /// [keys](Access::create_key).
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Invalid`]: the password is too short or too long, or there is no such role.
    /// - [`ErrorKind::Conflict`]: there is a user with that name.
    /// - [`ErrorKind::Unavailable`]: too many passwords are being hashed, or the error of the store.
    pub async fn create_user(
        &self,
        name: &UserName,
        password: Option<Secret>,
        roles: BTreeSet<String>,
    ) -> Result<User> {
        self.check_roles(&roles).await?;
        let password = match password {
            Some(password) => Some(Secret::new(self.passwords.hash(password).await?)),
            None => None,
        };
        let now = self.now();
        let user = StoredUser {
            id: Uuid::new_v4(),
            password,
            roles,
            is_disabled: false,
            logins: Uuid::new_v4(),
            created_at: now.as_micros(),
            changed_at: now.as_micros(),
        };
        match self.users.put(name.as_str(), Expected::Absent, &user, None, now).await? {
            Some(revision) => Ok(shown(name.clone(), &user, revision)),
            None => Err(conflict("user.create", format!("there is a user {name} already"))),
        }
    }

    /// One user.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], or the error of the store.
    pub async fn user(&self, name: &UserName) -> Result<User> {
        let kept = self.stored_user(name).await?;
        Ok(shown(name.clone(), &kept.value, kept.revision))
    }

    /// Users by name, a page at a time.
    ///
    /// # Errors
    ///
    /// The error of the store.
    pub async fn users(&self, page: PageRequest) -> Result<Page<User>> {
        let page = self.users.page(page, self.now()).await?;
        let shown = page
            .items
            .into_iter()
            .filter_map(|kept| Some(shown(UserName::new(&kept.key).ok()?, &kept.value, kept.revision)));
        Ok(Page { items: shown.collect(), next: page.next })
    }

    /// Changes a user, if they still have that revision.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`]: there is no such user.
    /// - [`ErrorKind::Stale`]: they have another revision. Read them again.
    /// - [`ErrorKind::Conflict`]: nobody would be left who may everything.
    /// - [`ErrorKind::Invalid`]: the password is too short or too long, or there is no such role.
    pub async fn change_user(
        &self,
        name: &UserName,
        change: UserChange,
        revision: Option<u64>,
    ) -> Result<User> {
        if let Some(roles) = &change.roles {
            self.check_roles(roles).await?;
        }
        let password = match change.password {
            Some(password) => Some(Secret::new(self.passwords.hash(password).await?)),
            None => None,
        };
        let stale = || Error::new(ErrorKind::Stale, "user.change", format!("{name} was changed meanwhile"));
        let _one = self.changing.lock().await;
        for _ in 0..TRIES {
            let before = self.stored_user(name).await?;
            if revision.is_some_and(|revision| revision != before.revision) {
                return Err(stale());
            }
            let now = self.now();
            let mut after = before.value.clone();
            after.changed_at = now.as_micros();
            after.roles = change.roles.clone().unwrap_or(after.roles);
            after.is_disabled = change.is_disabled.unwrap_or(after.is_disabled);
            if password.is_some() || after.is_disabled {
                after.logins = Uuid::new_v4();
            }
            after.password = password.clone().or(after.password);
            let is_loss = before.value.is_admin() && !after.is_admin();
            if is_loss {
                self.need_other_admin(name).await?;
            }
            let expected = Expected::Revision(before.revision);
            let Some(written) = self.users.put(name.as_str(), expected, &after, None, now).await? else {
                continue;
            };
            self.forget_known();
            if is_loss && let Err(error) = self.need_other_admin(name).await {
                // Another orchestrator took the other one away at the same time.
                let expected = Expected::Revision(written);
                self.users.put(name.as_str(), expected, &before.value, None, now).await?;
                return Err(error);
            }
            return Ok(shown(name.clone(), &after, written));
        }
        Err(stale())
    }

    /// Removes a user, and with them their logins and keys. Another user may have the name later, and none
    /// of those.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`]: there is no such user.
    /// - [`ErrorKind::Stale`]: they have another revision. Read them again.
    /// - [`ErrorKind::Conflict`]: nobody would be left who may everything.
    pub async fn remove_user(&self, name: &UserName, revision: Option<u64>) -> Result<()> {
        let stale = || Error::new(ErrorKind::Stale, "user.remove", format!("{name} was changed meanwhile"));
        let _one = self.changing.lock().await;
        for _ in 0..TRIES {
            let before = self.stored_user(name).await?;
            if revision.is_some_and(|revision| revision != before.revision) {
                return Err(stale());
            }
            let is_loss = before.value.is_admin();
            if is_loss {
                self.need_other_admin(name).await?;
            }
            let now = self.now();
            if !self.users.remove(name.as_str(), Expected::Revision(before.revision), now).await? {
                continue;
            }
            self.forget_known();
            if is_loss && let Err(error) = self.need_other_admin(name).await {
                self.users.put(name.as_str(), Expected::Absent, &before.value, None, now).await?;
                return Err(error);
            }
            return self.remove_keys_of(name, before.value.id).await;
        }
        Err(stale())
    }

    /// Is it the password of that user? Takes as long for a user that there is not.
    pub(super) async fn fits_password(
        &self,
        name: &str,
        password: Secret,
    ) -> Result<Option<Kept<StoredUser>>> {
        // A name that cannot be one is nobody's; it is not looked for.
        let user = match UserName::new(name) {
            Ok(name) => self.users.get(name.as_str(), self.now()).await?,
            Err(_) => None,
        };
        let stored = user.as_ref().and_then(|user| user.value.password());
        let fits = self.passwords.fits(password, stored).await?;
        Ok(user.filter(|_| fits))
    }

    pub(super) async fn stored_user(&self, name: &UserName) -> Result<Kept<StoredUser>> {
        let user = self.users.get(name.as_str(), self.now()).await?;
        user.ok_or_else(|| Error::new(ErrorKind::NotFound, "user", format!("there is no user {name}")))
    }

    /// The user that somebody shows a login or key of.
    pub(super) async fn enabled_user(&self, name: &str, id: Uuid, now: Timestamp) -> Result<StoredUser> {
        let user = self.users.get(name, now).await?.map(|kept| kept.value);
        let user = user.filter(|user| user.id == id);
        let user = user.ok_or_else(|| denied("the user whose token this was is no more"))?;
        if user.is_disabled {
            return Err(denied("the user is disabled; an administrator can enable them"));
        }
        Ok(user)
    }

    async fn need_other_admin(&self, name: &UserName) -> Result<()> {
        let is_other = |kept: &Kept<StoredUser>| kept.key != name.as_str() && kept.value.is_admin();
        if self.users.find(is_other, self.now()).await?.is_some() {
            return Ok(());
        }
        let message =
            format!("{name} is the last enabled user with the role admin; give it to another first");
        Err(conflict("user.change", message))
    }

    async fn check_roles(&self, roles: &BTreeSet<String>) -> Result<()> {
        if roles.len() > MAX_ROLES {
            return Err(invalid("user.roles", format!("a user has at most {MAX_ROLES} roles")));
        }
        for role in roles {
            if role == AGENT {
                return Err(invalid("user.roles", "the role agent is for agents, which prove who they are"));
            }
            if self.role(role).await?.is_none() {
                let role: String = role.chars().take(MAX_NAME_BYTES).collect();
                return Err(invalid("user.roles", format!("there is no role {role:?}; make it first")));
            }
        }
        Ok(())
    }
}

fn shown(name: UserName, user: &StoredUser, revision: u64) -> User {
    User {
        name,
        roles: user.roles.clone(),
        is_disabled: user.is_disabled,
        has_password: user.password.is_some(),
        created_at: Timestamp::from_micros(user.created_at),
        changed_at: Timestamp::from_micros(user.changed_at),
        revision,
    }
}

pub(super) fn check_name(operation: &'static str, text: &str) -> Result<()> {
    let first = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_valid = text.len() <= MAX_NAME_BYTES
        && text.bytes().next().is_some_and(first)
        && text.bytes().all(|byte| first(byte) || matches!(byte, b'.' | b'_' | b'@' | b'-'));
    if is_valid {
        return Ok(());
    }
    let message = "a name has 1 to 64 of a-z 0-9 . _ @ - and begins with a letter or digit";
    Err(invalid(operation, message))
}
