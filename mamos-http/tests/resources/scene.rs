//! An API over a store, callers of each role, and a look at every answer.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use bytes::Bytes;
use mamos_core::agent::state::AgentState;
use mamos_core::agent::{AgentProfile, AgentRecord, LogStream};
use mamos_core::auth::{Gatekeeper, Identified, Permission, Principal, PublicKey, Role, Secret};
use mamos_core::job::labels::Labels;
use mamos_core::job::{ClaimedJob, Outcome};
use mamos_core::lease::SessionRef;
use mamos_core::orchestrator::TokenScope;
use mamos_core::store::{Attach, ClaimGroup, LogPiece, Report, RunWrite, Store, Taker};
use mamos_core::whitelist::Whitelist;
use mamos_core::whitelist::policy::{Policy, UncheckedPrograms};
use mamos_core::{AgentId, AgentKind, Error, ErrorKind, Orchestrator, Result, SessionId, Timestamp};
use mamos_http::Api;
use mamos_store::MemoryStore;
use serde_json::{Value, json};
use tower::ServiceExt;

pub(crate) const WHITELIST: &str = r#"
version = 1
[commands.disk-usage]
description = "How full a file system is"
program = "/usr/bin/df"
arguments = ["-h", "{path}"]
allow = { roles = ["operator"] }
environment = { SECRET = "not for callers" }
[commands.disk-usage.parameters.path]
type = "path"
roots = ["/var"]
description = "Where to look"
"#;

/// Knows a role by its name.
struct Roles;

#[async_trait]
impl Gatekeeper for Roles {
    async fn identify(&self, bearer: &Secret, _: Option<IpAddr>, _: Timestamp) -> Result<Identified> {
        let shown = bearer.expose();
        if let Some(id) = shown.strip_prefix("agent:") {
            let agent: AgentId = id.parse()?;
            let principal = Principal::new(shown, ["agent"]);
            return Ok(Identified { principal, permissions: BTreeSet::new(), agent: Some(agent) });
        }
        let (name, role) = shown.split_once('/').unwrap_or((shown, shown));
        if role == "enqueuer" {
            let permissions = BTreeSet::from([Permission::EnqueueJobs]);
            let principal = Principal::new("user:enqueuer", ["enqueuer"]);
            return Ok(Identified { principal, permissions, agent: None });
        }
        let role = Role::built_in().into_iter().find(|known| known.name == role);
        let role = role.ok_or_else(|| Error::new(ErrorKind::Denied, "test", "nobody is known by that"))?;
        let principal = Principal::new(format!("user:{name}"), [role.name]);
        Ok(Identified { principal, permissions: role.permissions, agent: None })
    }
}

pub(crate) struct Scene {
    pub(crate) orchestrator: Orchestrator,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) router: Router,
    document: Value,
}

/// What the API answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Bytes,
    /// Null if it is not JSON.
    pub(crate) json: Value,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub(crate) fn code(&self) -> &str {
        self.json["code"].as_str().unwrap_or_default()
    }

    /// The places of what is wrong with the request.
    pub(crate) fn pointers(&self) -> Vec<&str> {
        let faults = self.json["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        faults.iter().filter_map(|fault| fault["pointer"].as_str()).collect()
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        let items = self.json["items"].as_array().expect("a list");
        items.iter().map(|item| item["id"].as_str().expect("an id").to_owned()).collect()
    }
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::over(Arc::new(MemoryStore::new()))
    }

    pub(crate) fn over(store: Arc<dyn Store>) -> Self {
        let whitelist: Arc<dyn Whitelist> =
            Arc::new(Policy::parse(WHITELIST, "w.toml", &UncheckedPrograms).unwrap());
        let builder = Orchestrator::builder(Arc::clone(&store)).whitelist(whitelist);
        let orchestrator = builder.sweep_every(Duration::from_millis(20)).build().unwrap();
        let api = Api::builder(&orchestrator).gatekeeper(Arc::new(Roles)).build();
        let document = serde_json::to_value(api.document()).unwrap();
        Self { orchestrator, store, router: api.router(), document }
    }

    pub(crate) fn document(&self) -> &Value {
        &self.document
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call("read-only", "GET", path, &[], None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.call("operator", "POST", path, &[], Some(body)).await
    }

    pub(crate) async fn call(
        &self,
        who: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Value>,
    ) -> Answer {
        self.call_at(who, method, &format!("/api/v1{path}"), headers, body).await
    }

    /// The same with the whole path.
    pub(crate) async fn call_at(
        &self,
        who: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Value>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if !who.is_empty() {
            request = request.header("authorization", format!("Bearer {who}"));
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        self.send(request.body(body).unwrap()).await
    }

    /// Sends a request, and checks the answer against the document.
    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let (method, path) = (request.method().as_str().to_lowercase(), request.uri().path().to_owned());
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 64 << 20).await.unwrap();
        let json = serde_json::from_slice(&bytes).unwrap_or_default();
        let answer = Answer { status: parts.status, headers: parts.headers, bytes, json };
        self.check(&method, &path, &answer);
        answer
    }

    fn check(&self, method: &str, path: &str, answer: &Answer) {
        let kind = answer.header("content-type").split(';').next().unwrap_or_default().to_owned();
        // One that is not ready says so in the words of one that is.
        let is_unready = path == "/readyz" && answer.status == 503;
        if answer.status.as_u16() >= 400 && !is_unready {
            assert_eq!(kind, "application/problem+json", "{method} {path}: {answer:?}");
            assert_eq!(answer.json["status"], answer.status.as_u16(), "{answer:?}");
        }
        assert!(answer.status.as_u16() < 500 || is_unready, "{method} {path}: {answer:?}");
        let Some(operation) = self.operation(method, path) else { return };
        let responses = operation["responses"].as_object().unwrap();
        let status = answer.status.as_str();
        let response = responses
            .get(status)
            .unwrap_or_else(|| panic!("{method} {path} may not answer {status}: {answer:?}"));
        if answer.bytes.is_empty() {
            return;
        }
        let content = &response["content"][&kind];
        assert!(!content.is_null(), "{method} {path} {status} may not answer {kind}: {response}");
        if kind.ends_with("json") {
            self.validate(&content["schema"], &answer.json);
        }
    }

    /// Is the value as the schema of the document says?
    pub(crate) fn validate(&self, schema: &Value, value: &Value) {
        let whole = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "allOf": [schema],
            "components": self.document["components"],
        });
        let validator = jsonschema::validator_for(&whole).expect("a schema");
        let faults: Vec<String> = validator
            .iter_errors(value)
            .map(|fault| format!("{} at {}", fault, fault.instance_path()))
            .collect();
        assert!(faults.is_empty(), "{value} is not as {schema} says: {faults:?}");
    }

    fn operation(&self, method: &str, path: &str) -> Option<&Value> {
        let paths = self.document["paths"].as_object().unwrap();
        let parts: Vec<&str> = path.split('/').collect();
        let fits = |template: &str| {
            let wanted: Vec<&str> = template.split('/').collect();
            wanted.len() == parts.len()
                && wanted.iter().zip(&parts).all(|(wanted, part)| wanted.starts_with('{') || wanted == part)
        };
        // Fixed paths go before those with parameters.
        let mut fitting: Vec<(&String, &Value)> = paths.iter().filter(|(path, _)| fits(path)).collect();
        fitting.sort_by_key(|(path, _)| path.matches('{').count());
        fitting.first().map(|(_, item)| &item[method]).filter(|operation| !operation.is_null())
    }

    /// An agent on record that is not connected.
    pub(crate) async fn agent(&self, name: &str, number: u8) -> AgentId {
        let kind = AgentKind::new("web").unwrap();
        let mut profile = AgentProfile::new(kind.clone(), name);
        profile.kinds = vec!["mail.send".parse().unwrap()];
        profile.labels = Labels::new([("zone", if number.is_multiple_of(2) { "eu" } else { "us" })]).unwrap();
        let key = [number; 32];
        let now = self.orchestrator.now();
        let record = AgentRecord {
            id: AgentId::from_public_key(kind, &key),
            state: AgentState::Registered,
            profile,
            labels: Labels::default(),
            is_draining: false,
            public_key: PublicKey::from_bytes(key),
            instance: None,
            revocation: None,
            registered_at: now,
            changed_at: now,
            revision: 1,
        };
        let scope = TokenScope::once(Duration::from_secs(60));
        let (token, _) = self.orchestrator.create_token(scope).await.unwrap();
        self.store.redeem(token.hash, record, now).await.unwrap().id
    }

    /// Lets an agent claim every ready job of this kind, and start them.
    pub(crate) async fn claim(&self, agent: &AgentId) -> (SessionRef, Vec<ClaimedJob>) {
        let now = self.orchestrator.now();
        let record = self.orchestrator.agent(agent).await.unwrap();
        let attached = self
            .store
            .attach(
                Attach {
                    agent: agent.clone(),
                    profile: record.profile,
                    resume: None,
                    fresh: SessionId::from_parts(now, u128::from(now.as_micros() as u64)),
                    known: vec![],
                    ttl: Duration::from_secs(60),
                    orchestrator: "test".to_owned(),
                },
                now,
            )
            .await
            .unwrap();
        let lanes = self.store.ready_lanes().await.unwrap();
        let group = ClaimGroup {
            lanes: lanes.iter().map(|lane| lane.id()).collect(),
            takers: vec![Taker { session: attached.session, limit: 100 }],
        };
        let claimed = self.store.claim(vec![group], now).await.unwrap();
        let jobs: Vec<ClaimedJob> = claimed.jobs.into_iter().flat_map(|(_, jobs)| jobs).collect();
        for job in &jobs {
            self.report(attached.session, job, Report::Started).await;
        }
        (attached.session, jobs)
    }

    pub(crate) async fn report(&self, session: SessionRef, job: &ClaimedJob, report: Report) {
        let write = RunWrite { session: session.id, run: job.run, report };
        self.store.report(vec![write], self.orchestrator.now()).await.unwrap();
    }

    pub(crate) async fn print(&self, session: SessionRef, job: &ClaimedJob, offset: u64, bytes: &[u8]) {
        let piece = LogPiece { offset, stream: LogStream::Stdout, bytes: Bytes::copy_from_slice(bytes) };
        self.report(session, job, Report::Log(piece)).await;
    }

    pub(crate) async fn succeed(&self, session: SessionRef, job: &ClaimedJob, output: &'static [u8]) {
        let outcome = Outcome::Succeeded { output: Bytes::from_static(output) };
        self.report(session, job, Report::Settle(outcome)).await;
    }

    /// The actions on record, the newest first.
    pub(crate) async fn audited(&self) -> Vec<(String, String)> {
        let page = mamos_core::store::PageRequest::first(100);
        let found = self.orchestrator.audit().list(&Default::default(), page, self.orchestrator.now()).await;
        found.unwrap().items.into_iter().map(|record| (record.entry.action, record.entry.target)).collect()
    }
}
