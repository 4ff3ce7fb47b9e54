//! Every route for everybody: what is expected is written down here by hand.

use std::collections::BTreeSet;

use mamos_core::auth::{Permission, Role};
use mamos_http::NewKey;
use serde_json::json;

use self::Who::{Anyone, Has, Logins, Public, Users};
use crate::host::{Host, Registered};

/// Who may use a route.
#[derive(Debug, Clone, Copy)]
enum Who {
    /// Strangers too.
    Public,
    /// Everybody who is known, agents too.
    Anyone,
    /// Every user, by login or key.
    Users,
    /// Every user, by login.
    Logins,
    /// Who has this permission.
    Has(&'static str),
    /// Who has this permission, and the agent that the path names.
    #[expect(dead_code, reason = "the routes of agents come with another branch")]
    HasOrOwnAgent(&'static str),
}

/// A new route must be put here: somebody has to decide.
const TABLE: &[(&str, &str, Who)] = &[
    ("GET", "/.well-known/jwks.json", Public),
    ("GET", "/api/v1/audit", Has("read_audit")),
    ("GET", "/api/v1/keys", Has("administer")),
    ("DELETE", "/api/v1/keys/{id}", Has("administer")),
    ("POST", "/api/v1/login", Public),
    ("POST", "/api/v1/logout", Logins),
    ("GET", "/api/v1/me", Anyone),
    ("GET", "/api/v1/me/keys", Users),
    ("POST", "/api/v1/me/keys", Logins),
    ("DELETE", "/api/v1/me/keys/{id}", Users),
    ("PUT", "/api/v1/me/password", Logins),
    ("GET", "/api/v1/roles", Has("administer")),
    ("PUT", "/api/v1/roles/{role}", Has("administer")),
    ("DELETE", "/api/v1/roles/{role}", Has("administer")),
    ("POST", "/api/v1/setup", Public),
    ("GET", "/api/v1/signing-keys", Has("administer")),
    ("POST", "/api/v1/signing-keys/rotate", Has("administer")),
    ("GET", "/api/v1/users", Has("administer")),
    ("POST", "/api/v1/users", Has("administer")),
    ("GET", "/api/v1/users/{user}", Has("administer")),
    ("PATCH", "/api/v1/users/{user}", Has("administer")),
    ("DELETE", "/api/v1/users/{user}", Has("administer")),
];

const PERMISSIONS: [&str; 7] =
    ["read", "enqueue_jobs", "run_commands", "operate_jobs", "operate_agents", "read_audit", "administer"];

/// What the roles permit, as the documents say.
fn permissions_of(role: &str) -> BTreeSet<&str> {
    match role {
        "admin" => PERMISSIONS.into(),
        "operator" => PERMISSIONS[..5].iter().copied().collect(),
        "read-only" => ["read"].into(),
        "only-nothing" => BTreeSet::new(),
        only => [only.strip_prefix("only-").unwrap()].into(),
    }
}

enum Caller<'a> {
    Stranger,
    Login(&'a str, String),
    Key(&'a str, String),
    Agent(&'a Registered),
}

impl Caller<'_> {
    fn token(&self) -> Option<&str> {
        match self {
            Self::Stranger => None,
            Self::Login(_, token) | Self::Key(_, token) => Some(token),
            Self::Agent(agent) => Some(&agent.token),
        }
    }

    /// What the answer should be: 401, 403, or something else.
    fn refusal(&self, who: Who, is_own: bool) -> Option<u16> {
        let has = |permission: &str| match self {
            Self::Login(role, _) | Self::Key(role, _) => permissions_of(role).contains(permission),
            _ => false,
        };
        let may = match who {
            Public | Anyone => true,
            Users => matches!(self, Self::Login(..) | Self::Key(..)),
            Logins => matches!(self, Self::Login(..)),
            Has(permission) => has(permission),
            Who::HasOrOwnAgent(permission) => has(permission) || (is_own && matches!(self, Self::Agent(_))),
        };
        match (self, who) {
            (_, Public) => None,
            (Self::Stranger, _) => Some(401),
            _ => (!may).then_some(403),
        }
    }
}

#[tokio::test]
async fn every_route_is_in_the_table_and_the_table_has_no_other() {
    let document = serde_json::to_value(Host::new().api.document()).unwrap();
    let mut routes = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            if ["get", "put", "post", "delete", "patch"].contains(&method.as_str()) {
                routes.insert((method.to_uppercase(), path.clone()));
            }
        }
    }
    let table = TABLE.iter().map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned()));
    assert_eq!(routes, table.collect(), "decide who may use the route, and put it into the table");
}

#[tokio::test]
async fn every_route_lets_in_whom_it_should_and_nobody_else() {
    let host = Host::new();
    let (agent, other) = (host.agent().await, host.agent().await);
    let mut roles = vec!["admin".to_owned(), "operator".to_owned(), "read-only".to_owned()];
    for name in PERMISSIONS.into_iter().chain(["nothing"]) {
        let permissions = Permission::ALL.into_iter().filter(|permission| permission.as_str() == name);
        let role =
            Role { name: format!("only-{name}").replace('_', "-"), permissions: permissions.collect() };
        host.access.put_role(&role).await.unwrap();
        roles.push(format!("only-{name}"));
    }
    let mut callers = vec![Caller::Stranger, Caller::Agent(&agent)];
    for role in &roles {
        let name = role.replace('_', "-");
        let user = host.user(&name, &[&name]).await;
        callers.push(Caller::Login(role, host.logged_in(&name).await));
        callers.push(Caller::Key(role, host.key(&user, NewKey::default()).await));
    }
    for (method, path, who) in TABLE {
        for caller in &callers {
            for is_own in [false, true] {
                let id = if is_own { &agent.id } else { &other.id };
                let path = path.replace("{agent}", &id.to_string());
                // Nothing has these names, so that what is let in does not go far.
                let path = ["{id}", "{user}", "{role}", "{job}", "{queue}", "{command}"]
                    .iter()
                    .fold(path, |path, name| path.replace(name, "00000000-0000-7000-8000-000000000000"));
                let fresh = match caller {
                    // This one does go far.
                    Caller::Login(role, _) if path.ends_with("/logout") => {
                        Some(host.logged_in(&role.replace('_', "-")).await)
                    }
                    _ => None,
                };
                let token = fresh.as_deref().or(caller.token());
                let body = (!["GET", "DELETE"].contains(method)).then(|| json!({}));
                let answer = host.call(method, &path, token, body).await;
                let refusal = Some(answer.status).filter(|status| [401, 403].contains(status));
                let name = match caller {
                    Caller::Stranger => "a stranger",
                    Caller::Agent(_) => "an agent",
                    Caller::Login(role, _) | Caller::Key(role, _) => role,
                };
                let expected = caller.refusal(*who, is_own);
                // A login with an empty body is let in, and told what is missing.
                assert_eq!(refusal, expected, "{method} {path} by {name}: {}", answer.body);
                assert!(answer.status < 500, "{method} {path} by {name}: {}", answer.body);
            }
        }
    }
}
