//! The one place that authorises: every route is added with a rule, and nothing is served without one.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{ConnectInfo, DefaultBodyLimit, FromRequestParts, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use mamos_core::ErrorKind;
use mamos_core::audit::{AuditEntry, AuditOutcome};
use mamos_core::auth::Permission;
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::{OpenApi, RefOr};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use crate::access::{Allowance, Place, is_login, origin};
use crate::bearer::bearer;
use crate::caller::Caller;
use crate::counters::Refusal;
use crate::idempotency;
use crate::layers;
use crate::problem::{Problem, Told};
use crate::shared::{Requester, Shared};

/// The largest body that a route takes if its rule does not say.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// Who may use a route, and what the audit log calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) access: Access,
    /// Written to the audit log by this name, when it was done and when somebody who is known was kept
    /// from it.
    pub(crate) action: Option<&'static str>,
    /// Its requests are not counted against the caller's rate, for example because a supervisor asks if the
    /// process lives.
    pub(crate) is_unlimited: bool,
    /// The largest body that it takes.
    pub(crate) max_body_bytes: usize,
    /// It creates: it takes an `Idempotency-Key` and keeps its answers for that.
    pub(crate) is_idempotent: bool,
    /// Members of its body that two requests with one `Idempotency-Key` are not compared by.
    pub(crate) uncompared: &'static [&'static str],
}

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everybody, strangers too.
    Public,
    /// Everybody who is known.
    Anyone,
    /// Every user.
    User,
    /// Every user, and not by a key: a key that may little cannot make one that may more.
    Login,
    /// Who has the permission.
    Needs(Permission),
    /// Who has one of the permissions; which one it takes, the handler sees.
    NeedsAny(&'static [Permission]),
    /// Who has the permission, and the agent that the path names in `{agent}`.
    NeedsOrOwnAgent(Permission),
}

impl Rule {
    pub(crate) const PUBLIC: Self = Self::new(Access::Public);
    pub(crate) const ANYONE: Self = Self::new(Access::Anyone);
    pub(crate) const USER: Self = Self::new(Access::User);
    pub(crate) const LOGIN: Self = Self::new(Access::Login);

    const fn new(access: Access) -> Self {
        Self {
            access,
            action: None,
            is_unlimited: false,
            max_body_bytes: MAX_BODY_BYTES,
            is_idempotent: false,
            uncompared: &[],
        }
    }

    /// Reading, with this permission.
    pub(crate) const fn needs(permission: Permission) -> Self {
        Self::new(Access::Needs(permission))
    }

    /// With one of these permissions.
    pub(crate) const fn needs_any(permissions: &'static [Permission]) -> Self {
        Self::new(Access::NeedsAny(permissions))
    }

    /// Reading, with this permission or about oneself.
    pub(crate) const fn needs_or_own_agent(permission: Permission) -> Self {
        Self::new(Access::NeedsOrOwnAgent(permission))
    }

    /// Whoever does it is on record.
    pub(crate) const fn audited(self, action: &'static str) -> Self {
        Self { action: Some(action), ..self }
    }

    /// Its requests are not counted.
    pub(crate) const fn unlimited(self) -> Self {
        Self { is_unlimited: true, ..self }
    }

    /// Takes larger bodies.
    pub(crate) const fn with_bodies(self, max_body_bytes: usize) -> Self {
        Self { max_body_bytes, ..self }
    }

    /// Creates, and may be [asked again](idempotency) for the same.
    pub(crate) const fn idempotent(self) -> Self {
        Self { is_idempotent: true, ..self }
    }

    /// The same for bodies with these passwords, of which nothing is kept to compare them by.
    pub(crate) const fn idempotent_but_for(self, uncompared: &'static [&'static str]) -> Self {
        Self { is_idempotent: true, uncompared, ..self }
    }
}

/// Put by a handler into the extensions of its response: what the audit log should say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Audited {
    /// Who did it, where the route is public: for example who logged in.
    pub(crate) principal: Option<String>,
    /// To what it was done; without it the last parameter of the path.
    pub(crate) target: Option<String>,
    pub(crate) detail: String,
    /// It was harmless after all: nothing to write.
    pub(crate) is_skipped: bool,
}

/// The routes of the API, each with its rule.
pub(crate) struct Routes {
    shared: Arc<Shared>,
    router: OpenApiRouter<Arc<Shared>>,
    rules: Vec<(String, String, Rule)>,
}

impl Routes {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), router: OpenApiRouter::new(), rules: Vec::new() }
    }

    /// Adds a handler, or several with one path, behind one rule.
    pub(crate) fn add(mut self, routes: UtoipaMethodRouter<Arc<Shared>>, rule: Rule) -> Self {
        let (schemas, paths, handlers) = routes;
        let mut known = Vec::new();
        for (path, item) in &paths.paths {
            let methods = [
                ("GET", &item.get),
                ("PUT", &item.put),
                ("POST", &item.post),
                ("DELETE", &item.delete),
                ("PATCH", &item.patch),
            ];
            for (method, operation) in methods {
                let Some(operation) = operation else { continue };
                self.rules.push((method.to_owned(), path.clone(), rule));
                known.push((method, query_parameters(operation)));
            }
        }
        let shared = || Arc::clone(&self.shared);
        let handlers = if rule.is_idempotent {
            let state = (shared(), rule);
            handlers.route_layer(from_fn_with_state(state, idempotency::layer))
        } else {
            handlers
        };
        let guarded = handlers
            .route_layer(DefaultBodyLimit::max(rule.max_body_bytes))
            .route_layer(from_fn_with_state(KnownParameters::from(known), only_known_parameters))
            .route_layer(from_fn_with_state((shared(), rule), authorise));
        self.router = self.router.routes((schemas, paths, guarded));
        self
    }

    /// Does this API keep its users itself?
    pub(crate) fn keeps_users(&self) -> bool {
        self.shared.access().is_ok()
    }

    /// Method, path and rule of every route.
    pub(crate) fn rules(&self) -> &[(String, String, Rule)] {
        &self.rules
    }

    pub(crate) fn split(self) -> (Router<Arc<Shared>>, OpenApi) {
        self.router.split_for_parts()
    }
}

/// The names of the parameters that the query of each method may have.
type KnownParameters = Arc<[(&'static str, Vec<String>)]>;

/// The names of the parameters that an operation takes in its query.
fn query_parameters(operation: &Operation) -> Vec<String> {
    let parameters = operation.parameters.iter().flatten().filter_map(|parameter| match parameter {
        RefOr::T(parameter) => Some(parameter),
        RefOr::Ref(_) => None,
    });
    let in_query = parameters.filter(|parameter| parameter.parameter_in == ParameterIn::Query);
    in_query.map(|parameter| parameter.name.clone()).collect()
}

/// Refuses parameters that the document does not have: a filter that is misspelt must not list everything.
async fn only_known_parameters(
    State(known): State<KnownParameters>,
    request: Request,
    next: Next,
) -> Response {
    let query = request.uri().query().unwrap_or_default();
    // GET answers HEAD as well.
    let method = if request.method() == Method::HEAD { "GET" } else { request.method().as_str() };
    let names = known.iter().find(|(other, _)| *other == method).map(|(_, names)| names.as_slice());
    let names = names.unwrap_or_default();
    let unknown = query
        .split('&')
        .map(|part| part.split_once('=').map_or(part, |(name, _)| name))
        .find(|name| !name.is_empty() && !names.iter().any(|known| known == name));
    let Some(unknown) = unknown else { return next.run(request).await };
    let unknown: String = unknown.chars().take(100).collect();
    let takes = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let problem = Problem::bad_request("the query has a parameter that this route does not take");
    problem.at(unknown, format!("not known; the route takes {takes}")).into_response()
}

async fn authorise(
    State((shared, rule)): State<(Arc<Shared>, Rule)>,
    parameters: Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Response {
    let Ok(parameters) = parameters else {
        return Problem::not_found("nothing has this id: it is not UTF-8").into_response();
    };
    let peer = peer(&shared, &request);
    let is_login = matches!(bearer(request.headers()), Ok(Some(token)) if is_login(&token));
    let caller = match identify(&shared, request.headers(), peer).await {
        Ok(caller) => caller,
        Err(problem) if rule.access != Access::Public => {
            let reason = match problem.status {
                401 => Some(Refusal::WrongToken),
                429 => Some(Refusal::TooManyFailures),
                _ => None,
            };
            reason.into_iter().for_each(|reason| shared.counters.refuse(reason));
            return problem.into_response();
        }
        // Whoever shows something wrong where nothing is needed is a stranger.
        Err(_) => None,
    };
    let allowance = count(&shared, rule, caller.as_ref(), peer);
    if let Some(wait) = allowance.and_then(|allowance| allowance.wait) {
        shared.counters.refuse(Refusal::TooManyRequests);
        let problem = Problem::too_many("too many requests; slow down", whole_seconds(wait));
        return with_allowance(problem.into_response(), allowance);
    }
    // The last, because a program may mount the API below a parameter of its own.
    let own_agent = parameters.iter().filter(|(name, _)| *name == "agent").last();
    let own_agent = own_agent.map(|(_, value)| value.to_owned());
    let target = parameters.iter().last().map(|(_, value)| value.to_owned()).unwrap_or_default();
    let response = match permit(rule.access, caller.as_ref(), is_login, own_agent.as_deref()) {
        Err(problem) => {
            let reason = if caller.is_some() { Refusal::Forbidden } else { Refusal::Stranger };
            shared.counters.refuse(reason);
            problem.into_response()
        }
        Ok(()) => {
            request.extensions_mut().insert(CameFrom(peer));
            if let Some(caller) = &caller {
                layers::note_caller(&request, &caller.principal.name);
                request.extensions_mut().insert(caller.clone());
            }
            next.run(request).await
        }
    };
    with_allowance(audit(&shared, rule, caller, peer, target, response).await, allowance)
}

/// Counts a request against the rate of who makes it.
fn count(shared: &Shared, rule: Rule, caller: Option<&Caller>, peer: Option<IpAddr>) -> Option<Allowance> {
    let limiter = shared.requests.as_ref().filter(|_| !rule.is_unlimited)?;
    let requester = match caller {
        Some(caller) => Requester::Known(caller.principal.name.clone()),
        None => Requester::Stranger(Place::of(peer)),
    };
    Some(limiter.take(requester))
}

/// Says how much of the rate is left, by the names of draft-ietf-httpapi-ratelimit-headers.
fn with_allowance(mut response: Response, allowance: Option<Allowance>) -> Response {
    if let Some(allowance) = allowance {
        let headers = response.headers_mut();
        headers.insert("ratelimit-limit", HeaderValue::from(allowance.limit));
        headers.insert("ratelimit-remaining", HeaderValue::from(allowance.remaining));
        headers.insert("ratelimit-reset", HeaderValue::from(whole_seconds(allowance.full_after)));
    }
    response
}

/// Rounded up, as `Retry-After` wants it.
pub(crate) fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// The rule, as a plain function.
fn permit(
    access: Access,
    caller: Option<&Caller>,
    is_login: bool,
    own_agent: Option<&str>,
) -> Result<(), Problem> {
    let known =
        || caller.ok_or_else(|| Problem::unauthenticated("show a bearer token in the Authorization header"));
    match access {
        Access::Public => Ok(()),
        Access::Anyone => known().map(|_| ()),
        Access::User if known()?.agent.is_none() => Ok(()),
        Access::User => Err(Problem::forbidden("this is for users; agents have their own token")),
        Access::Login if known().is_ok() && is_login => Ok(()),
        Access::Login => {
            known()?;
            Err(Problem::forbidden("this takes a login, not a key or an agent's token; log in"))
        }
        Access::Needs(permission) => known()?.must(permission),
        Access::NeedsAny(permissions) => known()?.must_any(permissions),
        Access::NeedsOrOwnAgent(permission) => {
            let caller = known()?;
            let own = caller.agent.as_ref().map(ToString::to_string);
            if own.is_some() && own.as_deref() == own_agent { Ok(()) } else { caller.must(permission) }
        }
    }
}

async fn identify(
    shared: &Shared,
    headers: &HeaderMap,
    peer: Option<IpAddr>,
) -> Result<Option<Caller>, Problem> {
    let Some(bearer) = bearer(headers)? else { return Ok(None) };
    match shared.gatekeeper.identify(&bearer, peer, shared.now()).await {
        Ok(known) => Ok(Some(Caller {
            principal: known.principal,
            permissions: known.permissions,
            agent: known.agent,
            peer,
        })),
        Err(error) if error.kind() == ErrorKind::Denied => Err(Problem::unauthenticated(error.message())),
        Err(error) if error.kind() == ErrorKind::LimitExceeded => Err(Problem::too_many(error.message(), 5)),
        Err(error) => Err(error.into()),
    }
}

/// Writes what was done, or tried, to the audit log. Strangers are counted, not recorded, and of one caller
/// only so many denials: they could fill it.
async fn audit(
    shared: &Shared,
    rule: Rule,
    caller: Option<Caller>,
    peer: Option<IpAddr>,
    target: String,
    response: Response,
) -> Response {
    let Some(action) = rule.action else { return response };
    let said = response.extensions().get::<Audited>().cloned().unwrap_or_default();
    let principal = said.principal.or(caller.map(|caller| caller.principal.name));
    let Some(principal) = principal.filter(|_| !said.is_skipped) else { return response };
    let status = response.status();
    let outcome = match status.as_u16() {
        401 | 403 => AuditOutcome::Denied,
        400.. => AuditOutcome::Failed,
        _ => AuditOutcome::Done,
    };
    if outcome != AuditOutcome::Done && shared.denials.take(principal.clone()).wait.is_some() {
        return response;
    }
    let told = response.extensions().get::<Told>().map(|told| told.1.clone());
    let entry = AuditEntry {
        outcome,
        detail: told.unwrap_or(said.detail),
        peer: peer.map(|peer| peer.to_string()).unwrap_or_default(),
        ..AuditEntry::done(principal, action, said.target.unwrap_or(target))
    };
    if let Err(error) = shared.orchestrator.audit().append(vec![entry], shared.now()).await {
        tracing::error!(target: "mamos::audit", %error, action, "what was done is not on record");
    }
    response
}

/// Where a call comes from, in the extensions of its request. An extractor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CameFrom(pub(crate) Option<IpAddr>);

impl<S: Sync> FromRequestParts<S> for CameFrom {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().copied().unwrap_or(Self(None)))
    }
}

fn peer(shared: &Shared, request: &Request) -> Option<IpAddr> {
    let connection = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    origin(connection, request.headers(), &shared.trusted_proxies)
}
