//! Every route for everybody: what is expected is written down here by hand.

use std::collections::BTreeSet;

use mamos_core::auth::{Permission, Role};
use mamos_http::NewKey;
use serde_json::{Value, json};

use self::Who::{Anyone, Enqueues, Has, HasOrOwnAgent, Logins, Public, Users};
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
    HasOrOwnAgent(&'static str),
    /// Who may enqueue what the body wishes for: a typed job or a command.
    Enqueues,
}

/// A new route must be put here: somebody has to decide.
const TABLE: &[(&str, &str, Who)] = &[
    ("GET", "/.well-known/jwks.json", Public),
    ("GET", "/livez", Public),
    // Public to this machine only, and the callers here are elsewhere.
    ("GET", "/metrics", Has("read")),
    ("GET", "/readyz", Public),
    ("GET", "/api/v1/agents", Has("read")),
    ("GET", "/api/v1/agents/{agent}", HasOrOwnAgent("read")),
    ("PATCH", "/api/v1/agents/{agent}", Has("operate_agents")),
    ("DELETE", "/api/v1/agents/{agent}", Has("operate_agents")),
    ("POST", "/api/v1/agents/{agent}/decommission", Has("operate_agents")),
    ("POST", "/api/v1/agents/{agent}/drain", Has("operate_agents")),
    ("GET", "/api/v1/agents/{agent}/health", HasOrOwnAgent("read")),
    ("GET", "/api/v1/agents/{agent}/logs", HasOrOwnAgent("read")),
    ("GET", "/api/v1/agents/{agent}/metrics", HasOrOwnAgent("read")),
    ("POST", "/api/v1/agents/{agent}/reinstate", Has("operate_agents")),
    ("POST", "/api/v1/agents/{agent}/resume", Has("operate_agents")),
    ("POST", "/api/v1/agents/{agent}/revoke", Has("operate_agents")),
    ("GET", "/api/v1/audit", Has("read_audit")),
    ("GET", "/api/v1/commands", Has("read")),
    ("GET", "/api/v1/commands/{command}", Has("read")),
    ("GET", "/api/v1/events", Has("read")),
    ("GET", "/api/v1/events/ws", Has("read")),
    ("GET", "/api/v1/jobs", Has("read")),
    ("POST", "/api/v1/jobs", Enqueues),
    ("POST", "/api/v1/jobs/bulk", Enqueues),
    ("POST", "/api/v1/jobs/cancel", Has("operate_jobs")),
    ("POST", "/api/v1/jobs/redrive", Has("operate_jobs")),
    ("GET", "/api/v1/jobs/{job}", Has("read")),
    ("POST", "/api/v1/jobs/{job}/approve", Has("operate_jobs")),
    ("GET", "/api/v1/jobs/{job}/attempts", Has("read")),
    ("POST", "/api/v1/jobs/{job}/cancel", Has("operate_jobs")),
    ("GET", "/api/v1/jobs/{job}/log", Has("read")),
    ("GET", "/api/v1/jobs/{job}/log/follow", Has("read")),
    ("GET", "/api/v1/jobs/{job}/log/ws", Has("read")),
    ("POST", "/api/v1/jobs/{job}/redrive", Has("operate_jobs")),
    ("GET", "/api/v1/jobs/{job}/why", Has("read")),
    ("GET", "/api/v1/keys", Has("administer")),
    ("DELETE", "/api/v1/keys/{id}", Has("administer")),
    ("GET", "/api/v1/link-key", Has("read")),
    ("POST", "/api/v1/login", Public),
    ("POST", "/api/v1/logout", Logins),
    ("GET", "/api/v1/me", Anyone),
    ("GET", "/api/v1/me/keys", Users),
    ("POST", "/api/v1/me/keys", Logins),
    ("DELETE", "/api/v1/me/keys/{id}", Logins),
    ("PUT", "/api/v1/me/password", Logins),
    ("GET", "/api/v1/openapi.json", Public),
    ("GET", "/api/v1/queues", Has("read")),
    ("GET", "/api/v1/queues/{queue}", Has("read")),
    ("POST", "/api/v1/queues/{queue}/pause", Has("operate_jobs")),
    ("POST", "/api/v1/queues/{queue}/resume", Has("operate_jobs")),
    ("GET", "/api/v1/registration-tokens", Has("operate_agents")),
    ("POST", "/api/v1/registration-tokens", Has("operate_agents")),
    ("DELETE", "/api/v1/registration-tokens/{id}", Has("operate_agents")),
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
    ("GET", "/api/v1/version", Public),
];

/// What is sent to a route, with who may use it then.
fn bodies(method: &str, path: &str, who: Who) -> Vec<(Option<Value>, Who)> {
    match (method, path) {
        ("GET" | "DELETE", _) => vec![(None, who)],
        // The command is on no whitelist, so that whoever may run commands is told that.
        (_, "/api/v1/jobs") => vec![
            (Some(json!({ "kind": "mail.send" })), Has("enqueue_jobs")),
            (Some(json!({ "command": "disk-usage" })), Has("run_commands")),
        ],
        (_, "/api/v1/jobs/bulk") => vec![
            (Some(json!({ "jobs": [{ "kind": "mail.send" }] })), Has("enqueue_jobs")),
            (Some(json!({ "jobs": [{ "command": "disk-usage" }] })), Has("run_commands")),
        ],
        _ => vec![(Some(json!({})), who)],
    }
}

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
            HasOrOwnAgent(permission) => has(permission) || (is_own && matches!(self, Self::Agent(_))),
            Enqueues => unreachable!("each body says what it takes"),
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
    let (agent, other, third) = (host.agent().await, host.agent().await, host.agent().await);
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
                // What users do to an agent is done, so they have one of their own.
                let id = match caller {
                    Caller::Agent(_) if is_own => &agent.id,
                    Caller::Agent(_) => &other.id,
                    _ => &third.id,
                };
                let path = path.replace("{agent}", &id.to_string());
                // A page ends, the stream does not.
                let path =
                    path.replace("/v1/events", "/v1/events?format=json").replace("?format=json/ws", "/ws");
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
                let name = match caller {
                    Caller::Stranger => "a stranger",
                    Caller::Agent(_) => "an agent",
                    Caller::Login(role, _) | Caller::Key(role, _) => role,
                };
                for (body, who) in bodies(method, &path, *who) {
                    let answer = host.call(method, &path, token, body.clone()).await;
                    let refusal = Some(answer.status).filter(|status| [401, 403].contains(status));
                    let said = format!("{method} {path} with {body:?} by {name}: {}", answer.body);
                    // A login with an empty body is let in, and told what is missing.
                    assert_eq!(refusal, caller.refusal(who, is_own), "{said}");
                    // The orchestrator of these tests does not run, so it is not ready.
                    assert!(answer.status < 500 || path == "/readyz", "{said}");
                }
            }
        }
    }
}
