//! Logins: a password for a token that is good for some hours.

use std::net::IpAddr;
use std::time::Duration;

use mamos_core::auth::Secret;
use mamos_core::store::Expected;
use mamos_core::{Error, Result, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::documents::Kept;
use super::limits::Allowance;
use super::users::StoredUser;
use super::{Access, Known, LOGIN_PREFIX, Place, UserChange, UserName, denied, hex, new_secret};

/// How long a login is good: a working day.
const LIFE: Duration = Duration::from_secs(12 * 3600);

/// Somebody logged in.
#[derive(Debug)]
pub struct Login {
    /// What they show from now on. Not stored, and cannot be seen again.
    pub token: Secret,
    /// Good until then.
    pub expires_at: Timestamp,
}

/// Why somebody could not log in.
#[derive(Debug)]
pub(crate) enum LoginError {
    /// The user or the password is wrong; which of them is not said.
    Wrong,
    /// Too many tries: wait so long.
    TooMany(Duration),
    /// It could not be decided.
    Failed(Error),
}

impl From<Error> for LoginError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// A login as a document; its key is the hash of the token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StoredLogin {
    user: String,
    user_id: Uuid,
    /// Must be the one of the user, which changes with the password.
    logins: Uuid,
    created_at: i64,
}

/// Logins.
impl Access {
    /// Checks a password and makes a login.
    pub(crate) async fn login(
        &self,
        name: &str,
        password: Secret,
        from: Option<IpAddr>,
    ) -> Result<Login, LoginError> {
        let user = self.check_password(name, password, from).await?;
        refuse(&self.logins_of_user.take(user.key.clone()))?;
        Ok(self.make_login(&user).await?)
    }

    /// Changes the password of a user who knows the one they have. Ends all their logins.
    pub(crate) async fn change_password(
        &self,
        name: &UserName,
        password: Secret,
        new: Secret,
        from: Option<IpAddr>,
    ) -> Result<Login, LoginError> {
        super::passwords::check(&new)?;
        let user = self.check_password(name.as_str(), password, from).await?;
        let change = UserChange { password: Some(new), ..UserChange::default() };
        self.change_user(name, change, Some(user.revision)).await?;
        Ok(self.make_login(&self.stored_user(name).await?).await?)
    }

    /// Makes a login for a user who was just proved to be one.
    pub(super) async fn make_login(&self, user: &Kept<StoredUser>) -> mamos_core::Result<Login> {
        let now = self.now();
        let (token, expires_at) = (new_secret(LOGIN_PREFIX), now + LIFE);
        let login = StoredLogin {
            user: user.key.clone(),
            user_id: user.value.id,
            logins: user.value.logins,
            created_at: now.as_micros(),
        };
        self.logins.put(&hex(&token.hash()), Expected::Absent, &login, Some(expires_at), now).await?;
        Ok(Login { token, expires_at })
    }

    /// Ends a login. Gives whether it was one.
    ///
    /// # Errors
    ///
    /// The error of the store.
    pub async fn logout(&self, token: &Secret) -> mamos_core::Result<bool> {
        let (now, key) = (self.now(), hex(&token.hash()));
        let was_one = self.logins.get(&key, now).await?.is_some();
        self.logins.remove(&key, Expected::Any, now).await?;
        self.known().remove(&token.hash());
        Ok(was_one)
    }

    pub(super) async fn find_login(&self, token: &Secret, now: Timestamp) -> mamos_core::Result<Known> {
        let ended = || denied("the login is over or never was; log in again");
        let login = self.logins.get(&hex(&token.hash()), now).await?.ok_or_else(ended)?;
        let user = self.enabled_user(&login.value.user, login.value.user_id, now).await?;
        if user.logins != login.value.logins {
            return Err(ended());
        }
        let who = self.user_as_caller(&login.value.user, &user, now).await?;
        Ok(Known::new(who, Vec::new(), login.expires_at.unwrap_or(Timestamp::MAX)))
    }

    /// Counts the try before the password is looked at, so that many at once are not let through, and gives
    /// it back if the password is right.
    async fn check_password(
        &self,
        name: &str,
        password: Secret,
        from: Option<IpAddr>,
    ) -> Result<Kept<StoredUser>, LoginError> {
        let place = Place::of(from);
        refuse(&self.wrong_passwords.take(place))?;
        // A name that nobody can have is not remembered.
        let user = UserName::new(name).ok().map(|name| name.as_str().to_owned());
        let strange = user.filter(|user| !self.is_familiar(user, place));
        if let Some(user) = &strange
            && let Err(error) = refuse(&self.wrong_for_user.take(user.clone()))
        {
            self.wrong_passwords.give_back(place);
            return Err(error);
        }
        let checked = self.fits_password(name, password).await;
        if !matches!(checked, Ok(None)) {
            self.wrong_passwords.give_back(place);
            if let Some(user) = strange {
                self.wrong_for_user.give_back(user);
            }
        }
        let user = checked?.ok_or(LoginError::Wrong)?;
        self.make_familiar(&user.key, place);
        Ok(user)
    }

    /// Did the user log in from there lately? Then those who guess elsewhere do not lock them out.
    fn is_familiar(&self, user: &str, place: Place) -> bool {
        self.familiar().get(&(user.to_owned(), place)).is_some()
    }

    fn make_familiar(&self, user: &str, place: Place) {
        self.familiar().put((user.to_owned(), place), ());
    }

    fn familiar(&self) -> std::sync::MutexGuard<'_, super::Recent<(String, Place), ()>> {
        self.familiar.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn refuse(allowance: &Allowance) -> Result<(), LoginError> {
    match allowance.wait {
        Some(wait) => Err(LoginError::TooMany(wait)),
        None => Ok(()),
    }
}
