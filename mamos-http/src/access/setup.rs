//! The first admin: made with a token that the program shows once, when nobody is there yet.

use std::net::IpAddr;
use std::time::Duration;

use mamos_core::auth::Secret;
use mamos_core::store::Expected;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::documents::Kept;
use super::{ADMIN, Access, Login, LoginError, UserName, hex, new_secret, passwords};

const KEY: &str = "token";
/// How long there is to set up a new orchestrator; the next start gives another day.
const LIFE: Duration = Duration::from_secs(24 * 3600);

/// What is kept of the setup token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StoredSetup {
    /// The hash of the token, in hexadecimal; `None` once it was used.
    hash: Option<String>,
    /// Drawn for each write, so that of two who use the token at once one sees that the other was first.
    written: Uuid,
}

/// Setup.
impl Access {
    /// If there is no user yet: makes the token with which the first one, who may everything, can be made
    /// once, within a day. It takes the place of an earlier one. Show it to whoever starts the program.
    ///
    /// # Errors
    ///
    /// The error of the store.
    pub async fn setup_token(&self) -> mamos_core::Result<Option<Secret>> {
        let now = self.now();
        if !self.users.is_empty(now).await? {
            return Ok(None);
        }
        let token = new_secret("mamos_setup_");
        let stored = StoredSetup { hash: Some(hex(&token.hash())), written: Uuid::new_v4() };
        self.setup.put(KEY, Expected::Any, &stored, Some(now + LIFE), now).await?;
        Ok(Some(token))
    }

    /// Is there a user already?
    ///
    /// # Errors
    ///
    /// The error of the store.
    pub async fn has_users(&self) -> mamos_core::Result<bool> {
        Ok(!self.users.is_empty(self.now()).await?)
    }

    /// Uses the setup token: makes the first admin, and logs them in.
    pub(crate) async fn set_up(
        &self,
        token: &Secret,
        name: &UserName,
        password: Secret,
        from: Option<IpAddr>,
    ) -> Result<Login, LoginError> {
        if let Some(wait) = self.wrong_tokens.wait(from) {
            return Err(LoginError::TooMany(wait));
        }
        // A bad password is refused before the token is used up.
        passwords::check(&password)?;
        let now = self.now();
        let kept = self.setup.get(KEY, now).await?;
        let is_right = |kept: &Kept<StoredSetup>| kept.value.hash.as_deref() == Some(&hex(&token.hash()));
        let Some(kept) = kept.filter(is_right) else {
            self.wrong_tokens.count(from);
            return Err(LoginError::Wrong);
        };
        if !self.users.is_empty(now).await? {
            return Err(LoginError::Wrong);
        }
        let used = StoredSetup { hash: None, written: Uuid::new_v4() };
        let expected = Expected::Revision(kept.revision);
        let written = self.setup.put(KEY, expected, &used, kept.expires_at, now).await?;
        let revision = written.ok_or(LoginError::Wrong)?;
        if let Err(error) = self.create_user(name, Some(password), [ADMIN.to_owned()].into()).await {
            // Nothing was made: the token may be used again.
            let unused = StoredSetup { written: Uuid::new_v4(), ..kept.value };
            self.setup.put(KEY, Expected::Revision(revision), &unused, kept.expires_at, now).await?;
            return Err(error.into());
        }
        Ok(self.make_login(&self.stored_user(name).await?).await?)
    }
}
