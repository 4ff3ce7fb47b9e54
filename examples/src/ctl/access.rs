//! `mamosctl users`, `keys` and `roles`.

use std::time::Duration;

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::account::new_password;
use super::client::Client;
use super::ending::Ending;
use super::jobs::millis;
use super::output::Output;
use super::table::Column;
use super::trouble::Trouble;
use super::view::text;

const USERS: [Column; 4] =
    [("name", "name"), ("roles", "roles"), ("disabled", "disabled"), ("created at", "created_at")];
const KEYS: [Column; 6] = [
    ("id", "id"),
    ("name", "name"),
    ("owner", "owner"),
    ("permissions", "permissions"),
    ("expires at", "expires_at"),
    ("used at", "last_used_at"),
];
const ROLES: [Column; 3] = [("name", "name"), ("built in", "built_in"), ("permissions", "permissions")];

#[derive(Debug, Subcommand)]
pub(super) enum UsersOrder {
    /// List users
    List,
    /// Show one
    Get { user: String },
    /// Make one; the password is asked for unless --no-password
    Create {
        user: String,
        /// May be given more than once
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
        /// Read the password from standard input
        #[arg(long)]
        password_stdin: bool,
        /// Make one who cannot log in with a password
        #[arg(long, conflicts_with = "password_stdin")]
        no_password: bool,
    },
    /// Give it these roles, and no others
    SetRoles { user: String, roles: Vec<String> },
    /// Set a new password
    SetPassword {
        user: String,
        /// Read it from standard input
        #[arg(long)]
        password_stdin: bool,
    },
    /// Let it not log in, and end its sessions
    Disable { user: String },
    /// Let it log in again
    Enable { user: String },
    /// Remove it
    Delete { user: String },
}

#[derive(Debug, Subcommand)]
pub(super) enum KeysOrder {
    /// List your keys
    List {
        /// Those of everyone
        #[arg(long)]
        all: bool,
    },
    /// Make one of your own; it is shown this once
    Create {
        /// What it is for
        name: String,
        /// How long it is good; for ever if not given
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        expires_in: Option<Duration>,
        /// A permission that it has, of those that you have; all if not given
        #[arg(long = "permission", value_name = "PERMISSION")]
        permissions: Vec<String>,
        /// A network that it may be used from; all if not given
        #[arg(long = "cidr", value_name = "NETWORK")]
        cidrs: Vec<String>,
    },
    /// Make one worthless
    Revoke {
        key: String,
        /// It is someone else's
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum RolesOrder {
    /// List roles
    List,
    /// Make one, or change it
    Set {
        role: String,
        /// May be given more than once
        #[arg(long = "permission", value_name = "PERMISSION", required = true)]
        permissions: Vec<String>,
    },
    /// Remove one
    Delete { role: String },
}

pub(super) async fn users(order: UsersOrder, client: &Client, output: &Output) -> Result<Ending, Trouble> {
    match order {
        UsersOrder::List => list(client, output, &["users"], &USERS, "list the users").await?,
        UsersOrder::Get { user } => {
            output.one(&client.get(&["users", &user], format!("show user {user}")).send().await?.value)?;
        }
        UsersOrder::Create { user, roles, password_stdin, no_password } => {
            let mut body = Map::new();
            body.insert("name".to_owned(), Value::from(user.as_str()));
            body.insert("roles".to_owned(), Value::from(roles));
            if !no_password {
                body.insert("password".to_owned(), Value::from(new_password(password_stdin)?));
            }
            let call = client.post(&["users"], format!("make user {user}")).creating();
            let answer = call.body(Value::Object(body)).send().await?;
            output.done(format_args!("user {user} is made"), &answer.value)?;
        }
        UsersOrder::SetRoles { user, roles } => {
            change(client, output, &user, json!({"roles": roles})).await?
        }
        UsersOrder::SetPassword { user, password_stdin } => {
            change(client, output, &user, json!({"password": new_password(password_stdin)?})).await?;
        }
        UsersOrder::Disable { user } => change(client, output, &user, json!({"disabled": true})).await?,
        UsersOrder::Enable { user } => change(client, output, &user, json!({"disabled": false})).await?,
        UsersOrder::Delete { user } => {
            let what = format!("remove user {user}");
            let before = client.get(&["users", &user], what.as_str()).send().await?;
            client.delete(&["users", &user], what).if_match(before.tag()).send().await?;
            output.say(format_args!("user {user} is removed"));
        }
    }
    Ok(Ending::Fine)
}

/// Changes a user, if nobody else does meanwhile.
async fn change(client: &Client, output: &Output, user: &str, body: Value) -> Result<(), Trouble> {
    let what = format!("change user {user}");
    let before = client.get(&["users", user], what.as_str()).send().await?;
    let answer = client.patch(&["users", user], what).if_match(before.tag()).body(body).send().await?;
    output.done(format_args!("user {user} is changed"), &answer.value)
}

pub(super) async fn keys(order: KeysOrder, client: &Client, output: &Output) -> Result<Ending, Trouble> {
    match order {
        KeysOrder::List { all: true } => list(client, output, &["keys"], &KEYS, "list all keys").await?,
        KeysOrder::List { all: false } => {
            output.list(&KEYS, &client.all(&["me", "keys"], "list your keys").await?)?
        }
        KeysOrder::Create { name, expires_in, permissions, cidrs } => {
            let mut body = Map::new();
            body.insert("name".to_owned(), Value::from(name));
            body.extend(expires_in.map(|time| ("expires_in_ms".to_owned(), millis(time))));
            for (field, values) in [("permissions", permissions), ("cidr", cidrs)] {
                if !values.is_empty() {
                    body.insert(field.to_owned(), Value::from(values));
                }
            }
            let call = client.post(&["me", "keys"], "make a key").creating();
            let key = call.body(Value::Object(body)).send().await?.value;
            if output.is_json() {
                output.line(&key)?;
            } else {
                output.say(format_args!("key {}: it is shown this once", text(&key, "id")));
                output.line(text(&key, "token"))?;
            }
        }
        KeysOrder::Revoke { key, all } => {
            let path: &[&str] = if all { &["keys", &key] } else { &["me", "keys", &key] };
            client.delete(path, format!("revoke key {key}")).send().await?;
            output.say(format_args!("key {key} is worthless now"));
        }
    }
    Ok(Ending::Fine)
}

pub(super) async fn roles(order: RolesOrder, client: &Client, output: &Output) -> Result<Ending, Trouble> {
    match order {
        RolesOrder::List => output.list(&ROLES, &client.all(&["roles"], "list the roles").await?)?,
        RolesOrder::Set { role, permissions } => {
            let call = client.put(&["roles", &role], format!("set role {role}"));
            let answer = call.body(json!({"permissions": permissions})).send().await?;
            output.done(format_args!("role {role} is set"), &answer.value)?;
        }
        RolesOrder::Delete { role } => {
            client.delete(&["roles", &role], format!("remove role {role}")).send().await?;
            output.say(format_args!("role {role} is removed"));
        }
    }
    Ok(Ending::Fine)
}

async fn list(
    client: &Client,
    output: &Output,
    path: &[&str],
    columns: &[Column],
    what: &str,
) -> Result<(), Trouble> {
    let items = client.list(path, &[], usize::MAX, what).await?;
    output.list(columns, &items)
}
