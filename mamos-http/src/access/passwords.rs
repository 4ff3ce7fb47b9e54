//! Passwords: argon2id, a bounded number at once.

use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use mamos_core::auth::Secret;
use mamos_core::{Error, ErrorKind, Result};
use tokio::sync::Semaphore;

/// The shortest password, in bytes: NIST SP 800-63B-4 asks for 8 beside a second factor, and 15 alone.
const MIN_PASSWORD_BYTES: usize = 12;
/// The longest, in bytes, so that hashing it costs no more than it should.
const MAX_PASSWORD_BYTES: usize = 512;

/// Each takes 19 MiB and a core for some 30 ms.
const AT_ONCE: usize = 2;
/// How many wait for that, before others are sent away.
const WAITING: usize = 32;

/// The parameters that OWASP recommends: 19 MiB, 2 passes, 1 lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// What the password of somebody who does not exist is compared with, so that it takes as long as a wrong
/// one. No password is known that fits.
const NOBODYS: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bWFtb3Mgbm9ib2R5cyBzYWx0$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Hashes passwords and compares them.
#[derive(Debug, Clone)]
pub(super) struct Passwords {
    running: Arc<Semaphore>,
    room: Arc<Semaphore>,
}

impl Passwords {
    pub(super) fn new() -> Self {
        let (running, room) = (Semaphore::new(AT_ONCE), Semaphore::new(AT_ONCE + WAITING));
        Self { running: Arc::new(running), room: Arc::new(room) }
    }

    /// Makes what is stored of a password: a PHC string.
    pub(super) async fn hash(&self, password: Secret) -> Result<String> {
        check(&password)?;
        self.run(move || {
            let failed = || Error::new(ErrorKind::Invalid, "password.hash", "the password cannot be hashed");
            let salt = uuid::Uuid::new_v4();
            let hasher = hasher().ok_or_else(failed)?;
            let hash: std::result::Result<PasswordHash, _> =
                hasher.hash_password_with_salt(password.expose().as_bytes(), salt.as_bytes());
            hash.map(|hash| hash.to_string()).map_err(|_| failed())
        })
        .await?
    }

    /// Is it the password? Takes as long if there is none.
    pub(super) async fn fits(&self, password: Secret, stored: Option<String>) -> Result<bool> {
        if password.expose().len() > MAX_PASSWORD_BYTES {
            return Ok(false);
        }
        self.run(move || {
            let hash = PasswordHash::new(stored.as_deref().unwrap_or(NOBODYS)).ok();
            let verified = hasher().zip(hash).is_some_and(|(hasher, hash)| {
                hasher.verify_password(password.expose().as_bytes(), &hash).is_ok()
            });
            verified && stored.is_some()
        })
        .await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let busy = || {
            let message = "too many passwords are being checked; try again";
            Error::new(ErrorKind::Unavailable, "password.check", message)
        };
        let room = Arc::clone(&self.room).try_acquire_owned().map_err(|_| busy())?;
        let running = Arc::clone(&self.running).acquire_owned().await.map_err(|_| busy())?;
        // The places are held until the work is done, even if nobody waits for it any more.
        let work = move || {
            let result = work();
            drop((room, running));
            result
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| busy().with_source(error))
    }
}

/// Is it long enough, and not too long?
pub(super) fn check(password: &Secret) -> Result<()> {
    let bytes = password.expose().len();
    if (MIN_PASSWORD_BYTES..=MAX_PASSWORD_BYTES).contains(&bytes) {
        return Ok(());
    }
    let message = format!(
        "a password has {MIN_PASSWORD_BYTES} to {MAX_PASSWORD_BYTES} bytes, and this one has {bytes}; \
         a few random words are good ones"
    );
    Err(Error::new(ErrorKind::Invalid, "password.check", message))
}

fn hasher() -> Option<Argon2<'static>> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).ok()?;
    Some(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text)
    }

    #[tokio::test]
    async fn a_password_fits_what_was_made_of_it_and_nothing_else_does() {
        let passwords = Passwords::new();
        let stored = passwords.hash(secret("correct horse battery")).await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        assert_ne!(stored, passwords.hash(secret("correct horse battery")).await.unwrap(), "salted");
        let fits = async |text: &str| passwords.fits(secret(text), Some(stored.clone())).await.unwrap();
        assert!(fits("correct horse battery").await);
        assert!(!fits("correct horse batterz").await);
        assert!(!fits("").await);
        assert!(!passwords.fits(secret("correct horse battery"), Some("broken".into())).await.unwrap());
    }

    #[tokio::test]
    async fn nobody_has_a_password_and_asking_costs_the_same_work() {
        let nobody = PasswordHash::new(NOBODYS).unwrap();
        let somebody = Passwords::new().hash(secret("correct horse battery")).await.unwrap();
        let somebody = PasswordHash::new(&somebody).unwrap();
        assert_eq!((nobody.algorithm, nobody.version), (somebody.algorithm, somebody.version));
        assert_eq!(nobody.params, somebody.params);
        assert_eq!(nobody.hash.unwrap().len(), somebody.hash.unwrap().len());
        assert!(!Passwords::new().fits(secret("correct horse battery"), None).await.unwrap());
    }

    #[tokio::test]
    async fn short_and_huge_passwords_are_refused() {
        for bytes in [0, 11, 513, 1_000_000] {
            let error = Passwords::new().hash(secret(&"x".repeat(bytes))).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
        }
        assert!(check(&secret(&"x".repeat(12))).is_ok() && check(&secret(&"x".repeat(512))).is_ok());
    }

    #[tokio::test]
    async fn a_crowd_is_sent_away_instead_of_filling_the_memory() {
        let passwords = Passwords::new();
        let crowd = (0..100).map(|_| passwords.fits(secret("not the password"), None));
        let answers = futures_util::future::join_all(crowd).await;
        let busy = answers.iter().filter(|answer| answer.is_err()).count();
        assert_eq!(busy, 100 - AT_ONCE - WAITING);
        assert!(answers.iter().flatten().all(|fits| !fits));
        assert!(passwords.fits(secret("not the password"), None).await.is_ok(), "there is room again");
    }
}
