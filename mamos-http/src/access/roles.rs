//! Roles: the built-in ones, and those that somebody made.

use std::collections::BTreeSet;

use mamos_core::auth::{Permission, Role};
use mamos_core::store::{Expected, PageRequest};
use mamos_core::{Error, ErrorKind, Result, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Access, conflict, users};

/// More roles than anybody can oversee; one page of documents.
const MAX_ROLES: usize = 500;

/// A role as a document; its key is the name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StoredRole {
    permissions: BTreeSet<Permission>,
}

/// Roles.
impl Access {
    /// All roles, the built-in ones first.
    ///
    /// # Errors
    ///
    /// The error of the store.
    pub async fn roles(&self) -> Result<Vec<Role>> {
        let page = self.roles.page(PageRequest::first(MAX_ROLES as u32), self.now()).await?;
        let own = page.items.into_iter();
        let own = own.map(|kept| Role { name: kept.key, permissions: kept.value.permissions });
        Ok(Role::built_in().into_iter().chain(own).collect())
    }

    /// One role.
    ///
    /// # Errors
    ///
    /// The error of the store.
    pub async fn role(&self, name: &str) -> Result<Option<Role>> {
        if let Some(role) = Role::built_in().into_iter().find(|role| role.name == name) {
            return Ok(Some(role));
        }
        if users::check_name("role", name).is_err() {
            return Ok(None);
        }
        let kept = self.roles.get(name, self.now()).await?;
        Ok(kept.map(|kept| Role { name: kept.key, permissions: kept.value.permissions }))
    }

    /// Makes a role, or changes what it permits. Gives whether it is new.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Invalid`]: it cannot have that name.
    /// - [`ErrorKind::Conflict`]: it is a built-in one, or there are too many.
    /// - The error of the store.
    pub async fn put_role(&self, role: &Role) -> Result<bool> {
        refuse_built_in(&role.name)?;
        users::check_name("role.put", &role.name)?;
        let now = self.now();
        let is_new = self.roles.get(&role.name, now).await?.is_none();
        if is_new && self.roles().await?.len() >= MAX_ROLES {
            return Err(conflict("role.put", "there are 500 roles; remove some"));
        }
        let stored = StoredRole { permissions: role.permissions.clone() };
        self.roles.put(&role.name, Expected::Any, &stored, None, now).await?;
        self.forget_known();
        Ok(is_new)
    }

    /// Removes a role that no user has.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`]: there is no such role.
    /// - [`ErrorKind::Conflict`]: it is a built-in one, or a user has it.
    /// - The error of the store.
    pub async fn remove_role(&self, name: &str) -> Result<()> {
        refuse_built_in(name)?;
        let _one = self.changing.lock().await;
        let now = self.now();
        if self.role(name).await?.is_none() {
            return Err(Error::new(ErrorKind::NotFound, "role", "there is no such role"));
        }
        if let Some(user) = self.users.find(|user| user.value.roles.contains(name), now).await? {
            let message = format!("{} has the role {name}; take it from them first", user.key);
            return Err(conflict("role.remove", message));
        }
        self.roles.remove(name, Expected::Any, now).await?;
        self.forget_known();
        Ok(())
    }

    /// What these roles permit together. One that is no more permits nothing.
    pub(super) async fn permissions_of(
        &self,
        roles: &BTreeSet<String>,
        now: Timestamp,
    ) -> Result<BTreeSet<Permission>> {
        let built_in = Role::built_in();
        let mut permissions = BTreeSet::new();
        for name in roles {
            match built_in.iter().find(|role| role.name == *name) {
                Some(role) => permissions.extend(&role.permissions),
                None => {
                    let own = self.roles.get(name, now).await?;
                    permissions.extend(own.into_iter().flat_map(|own| own.value.permissions));
                }
            }
        }
        Ok(permissions)
    }
}

fn refuse_built_in(name: &str) -> Result<()> {
    if Role::built_in().iter().any(|role| role.name == name) {
        return Err(conflict("role", format!("the role {name} is built in and cannot change")));
    }
    Ok(())
}
