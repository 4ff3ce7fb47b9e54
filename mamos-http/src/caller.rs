//! Who calls.

use std::collections::BTreeSet;
use std::net::IpAddr;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use mamos_core::AgentId;
use mamos_core::auth::{Permission, Principal};

use crate::problem::Problem;

/// Who calls, once the [guard](crate::guard) knows it. An extractor.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) principal: Principal,
    pub(crate) permissions: BTreeSet<Permission>,
    /// Set if it is an agent.
    pub(crate) agent: Option<AgentId>,
    /// Where the call comes from, if that is known.
    pub(crate) peer: Option<IpAddr>,
}

impl Caller {
    /// May they?
    pub(crate) fn may(&self, permission: Permission) -> bool {
        self.permissions.contains(&permission)
    }

    /// Refuses what they may not.
    pub(crate) fn must(&self, permission: Permission) -> Result<(), Problem> {
        if self.may(permission) {
            return Ok(());
        }
        Err(Problem::forbidden(format!(
            "{} lacks the permission {}; ask an administrator for a role that has it",
            self.principal.name,
            permission.as_str()
        )))
    }

    /// Refuses who has none of them.
    pub(crate) fn must_any(&self, permissions: &[Permission]) -> Result<(), Problem> {
        if permissions.iter().any(|permission| self.may(*permission)) {
            return Ok(());
        }
        let names: Vec<&str> = permissions.iter().map(|permission| permission.as_str()).collect();
        Err(Problem::forbidden(format!(
            "{} has none of the permissions {}; ask an administrator for a role that has one",
            self.principal.name,
            names.join(", ")
        )))
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| Problem::unauthenticated("show a bearer token in the Authorization header"))
    }
}
