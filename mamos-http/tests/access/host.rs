//! An orchestrator with an API, and somebody who calls it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Request};
use mamos_core::agent::AgentProfile;
use mamos_core::auth::{Admission, Authenticator, Challenge, Credentials, KeyPair, Nonce, Secret};
use mamos_core::clock::Clock;
use mamos_core::id::InstanceId;
use mamos_core::orchestrator::{StoreAuthenticator, TokenScope};
use mamos_core::protocol::{Hello, VERSION};
use mamos_core::store::{DocumentFilter, PageRequest};
use mamos_core::{AgentId, AgentKind, Orchestrator, Store, Timestamp};
use mamos_http::{Access, Api, ApiBuilder, NewKey, UserName};
use mamos_store::MemoryStore;
use mamos_store::faulty::{Faults, Faulty};
use serde_json::Value;
use tower::ServiceExt;

pub(crate) const PASSWORD: &str = "correct horse battery";

/// A clock that a test sets.
#[derive(Debug)]
pub(crate) struct SetClock(AtomicI64);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::Relaxed))
    }
}

/// A store whose answers take their time, so that two who do the same at once meet.
pub(crate) fn slow_store(seed: u64) -> Arc<dyn Store> {
    let max_delay = Duration::from_millis(3);
    let faults = Faults { error_before: 0.0, error_after: 0.0, delay: 1.0, max_delay };
    Arc::new(Faulty::new(MemoryStore::new(), faults, seed))
}

pub(crate) struct Host {
    pub(crate) orchestrator: Orchestrator,
    pub(crate) access: Arc<Access>,
    pub(crate) api: Api,
    pub(crate) clock: Arc<SetClock>,
    router: Router,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

pub(crate) struct Registered {
    pub(crate) id: AgentId,
    pub(crate) key: KeyPair,
    pub(crate) token: String,
}

impl Host {
    pub(crate) fn new() -> Self {
        Self::with(|api| api.request_rate(None))
    }

    pub(crate) fn with(settings: impl FnOnce(ApiBuilder) -> ApiBuilder) -> Self {
        Self::over(Arc::new(MemoryStore::new()), settings)
    }

    pub(crate) fn over(store: Arc<dyn Store>, settings: impl FnOnce(ApiBuilder) -> ApiBuilder) -> Self {
        let clock = Arc::new(SetClock(AtomicI64::new(1_790_000_000_000_000)));
        let orchestrator = Orchestrator::builder(store).clock(Arc::clone(&clock) as _).build().unwrap();
        let access = Access::new(&orchestrator);
        let api = settings(Api::builder(&orchestrator).access(Arc::clone(&access))).build();
        let router = api.router();
        Self { orchestrator, access, api, clock, router }
    }

    pub(crate) fn advance(&self, duration: Duration) {
        self.clock.0.fetch_add(duration.as_micros() as i64, Ordering::Relaxed);
    }

    /// Makes a user with the usual password.
    pub(crate) async fn user(&self, name: &str, roles: &[&str]) -> UserName {
        let name = UserName::new(name).unwrap();
        let roles = roles.iter().map(ToString::to_string).collect();
        self.access.create_user(&name, Some(Secret::new(PASSWORD)), roles).await.unwrap();
        name
    }

    /// Makes a key of a user.
    pub(crate) async fn key(&self, owner: &UserName, new: NewKey) -> String {
        let new = NewKey { name: "test".to_owned(), ..new };
        self.access.create_key(owner, new).await.unwrap().1.expose().to_owned()
    }

    pub(crate) async fn login(&self, user: &str, password: &str) -> Answer {
        let body = serde_json::json!({ "user": user, "password": password });
        self.call("POST", "/api/v1/login", None, Some(body)).await
    }

    /// Logs in with the usual password.
    pub(crate) async fn logged_in(&self, user: &str) -> String {
        let answer = self.login(user, PASSWORD).await;
        answer.body["token"].as_str().unwrap_or_else(|| panic!("{}", answer.body)).to_owned()
    }

    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
    ) -> Answer {
        self.call_with(method, path, token, body, &[]).await
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> Answer {
        self.call("GET", path, Some(token), None).await
    }

    /// Calls with further headers; `from` is the address of the connection.
    pub(crate) async fn call_with(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers.iter().filter(|(name, _)| *name != "from") {
            request = request.header(*name, *value);
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let mut request = request.body(body).unwrap();
        let from = headers.iter().find(|(name, _)| *name == "from").map_or("192.0.2.1", |(_, from)| from);
        let from = SocketAddr::new(from.parse().unwrap(), 4711);
        request.extensions_mut().insert(ConnectInfo(from));
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let is_json = headers.get("content-type").is_some_and(|kind| kind.to_str().unwrap().contains("json"));
        let body = match is_json {
            true => axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap(),
            // A stream has no end.
            false => bytes::Bytes::new(),
        };
        Answer { status, headers, body: serde_json::from_slice(&body).unwrap_or(Value::Null) }
    }

    /// Registers an agent, as it would itself.
    pub(crate) async fn agent(&self) -> Registered {
        let key = KeyPair::generate().unwrap();
        let scope = TokenScope::once(Duration::from_secs(60));
        let (_, token) = self.orchestrator.create_token(scope).await.unwrap();
        let nonce = Nonce::from_bytes([7; 32]);
        let proof = key.prove(&nonce, token.expose());
        let credentials = Credentials::Registration { token, key: key.public_key(), proof };
        let keys = Arc::clone(self.orchestrator.signing_keys());
        let authenticator = StoreAuthenticator::new(Arc::clone(self.orchestrator.store()), keys);
        let now = self.orchestrator.now();
        let hello = Hello {
            oldest_version: VERSION,
            version: VERSION,
            credentials,
            profile: AgentProfile::new(AgentKind::new("test").unwrap(), "test"),
            instance: InstanceId::from_key("life"),
            previous: None,
            number: 1,
            session: None,
            runs: Vec::new(),
            now,
        };
        let challenge = Challenge { nonce, binding: None, sent_at: now };
        let admission = authenticator.admit(&hello, &challenge, now).await.unwrap();
        let Admission::Admitted(admitted) = admission else { panic!("{admission:?}") };
        let token = admitted.issued.unwrap().expose().to_owned();
        Registered { id: admitted.agent, key, token }
    }

    /// The documents of a collection, as text.
    pub(crate) async fn documents(&self, collection: &str) -> Vec<String> {
        let filter =
            DocumentFilter { collection: collection.to_owned(), prefix: String::new(), is_descending: false };
        let now = self.orchestrator.now();
        let page = self.orchestrator.store().documents(filter, PageRequest::first(1000), now).await.unwrap();
        page.items
            .iter()
            .map(|document| format!("{} {}", document.key, String::from_utf8_lossy(&document.value)))
            .collect()
    }
}
