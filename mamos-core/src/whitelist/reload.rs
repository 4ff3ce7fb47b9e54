//! A whitelist that can be replaced while it is in use.

use std::sync::{Arc, PoisonError, RwLock};

use super::{CommandDescription, CommandRequest, Denial, Permit, Whitelist};
use crate::auth::Principal;
use crate::id::CommandId;

/// Holds the whitelist that is in force. Clones share it.
///
/// A permit is a value of its own: what was permitted before a replacement runs on as it was permitted.
/// Load the new whitelist first and replace only if that succeeded, so that a bad file leaves the old
/// whitelist in force.
#[derive(Clone)]
pub struct Reloadable {
    current: Arc<RwLock<Arc<dyn Whitelist>>>,
}

impl Reloadable {
    /// Begins with a whitelist.
    pub fn new(whitelist: impl Whitelist) -> Self {
        Self { current: Arc::new(RwLock::new(Arc::new(whitelist))) }
    }

    /// Puts another whitelist in force, and gives back the one before.
    pub fn replace(&self, whitelist: impl Whitelist) -> Arc<dyn Whitelist> {
        // The lock only guards the exchange of a pointer, which cannot panic half-way.
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *current, Arc::new(whitelist))
    }

    /// The whitelist in force.
    pub fn current(&self) -> Arc<dyn Whitelist> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl std::fmt::Debug for Reloadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reloadable").field("digest", &self.digest()).finish()
    }
}

impl Whitelist for Reloadable {
    fn permit(&self, request: &CommandRequest, principal: &Principal) -> Result<Permit, Denial> {
        self.current().permit(request, principal)
    }

    fn commands(&self) -> Vec<CommandId> {
        self.current().commands()
    }

    fn describe(&self, command: &CommandId) -> Option<CommandDescription> {
        self.current().describe(command)
    }

    fn digest(&self) -> String {
        self.current().digest()
    }
}
