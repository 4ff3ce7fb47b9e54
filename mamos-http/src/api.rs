//! Builds the API: its routes, what surrounds them, and their document.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderValue;
use ipnet::IpNet;
use mamos_core::Orchestrator;
use mamos_core::auth::Gatekeeper;
use utoipa::openapi::OpenApi;

use crate::access::{Access, Rate};
use crate::guard::Routes;
use crate::layers;
use crate::live::LiveSettings;
use crate::openapi;
use crate::problem::Problem;
use crate::routes;
use crate::shared::{Choices, Shared};

/// The API of an orchestrator with all defaults: users and keys are kept in its store.
///
/// Serve it with connect info, so that limits and the audit log know where a call comes from. Use
/// [`Api::builder`] to choose.
pub fn router(orchestrator: &Orchestrator) -> Router {
    Api::builder(orchestrator).build().router()
}

/// The API of an orchestrator, ready to be mounted.
#[derive(Debug, Clone)]
pub struct Api {
    shared: Arc<Shared>,
}

/// Settings of an [`Api`].
#[must_use]
pub struct ApiBuilder {
    orchestrator: Orchestrator,
    choices: Choices,
    live: LiveSettings,
}

impl Api {
    /// Begins the settings of an API.
    pub fn builder(orchestrator: &Orchestrator) -> ApiBuilder {
        let choices = Choices {
            gatekeeper: None,
            access: None,
            trusted_proxies: Vec::new(),
            request_rate: Some(Rate::per_second(200, 400)),
        };
        ApiBuilder { orchestrator: orchestrator.clone(), choices, live: LiveSettings::default() }
    }

    /// The routes. May be called more than once: all of them share one state.
    pub fn router(&self) -> Router {
        let (router, _) = self.routes().split();
        let router = router
            .fallback(async || Problem::not_found("there is nothing at this path; see api/v1/openapi.json"))
            .method_not_allowed_fallback(async || Problem::method_not_allowed())
            .with_state(Arc::clone(&self.shared));
        layers::surround(router, &self.shared)
    }

    /// Ends all streams, each with a last event that says so, and lets `/readyz` answer 503 from now on: what
    /// a program does first when it shuts down. [`Server::run_api`](crate::Server::run_api) does it.
    pub fn close_streams(&self) {
        self.shared.live.closing.cancel();
    }

    /// The OpenAPI 3.1 document of the routes.
    pub fn document(&self) -> OpenApi {
        document(&self.shared)
    }

    fn routes(&self) -> Routes {
        routes::all(Routes::new(&self.shared))
    }
}

/// The document of all routes.
pub(crate) fn document(shared: &Arc<Shared>) -> OpenApi {
    let routes = routes::all(Routes::new(shared));
    let rules = routes.rules().to_vec();
    openapi::complete(routes.split().1, &rules)
}

impl ApiBuilder {
    /// Decides who calls by this gatekeeper, for programs that have users of their own. Default: users and
    /// keys in the orchestrator's store.
    pub fn gatekeeper(mut self, gatekeeper: Arc<dyn Gatekeeper>) -> Self {
        self.choices.gatekeeper = Some(gatekeeper);
        self
    }

    /// Keeps the users with this one, of which the program has a hold too, to show the
    /// [setup token](Access::setup_token) or to make users itself. Default: one of its own.
    pub fn access(mut self, access: Arc<Access>) -> Self {
        self.choices.access = Some(access);
        self
    }

    /// Believes these proxies where a call comes from, by `X-Forwarded-For`. Default: none.
    pub fn trusted_proxies(mut self, proxies: impl IntoIterator<Item = IpNet>) -> Self {
        self.choices.trusted_proxies = proxies.into_iter().collect();
        self
    }

    /// How often one principal, or one address of strangers, may ask; `None` for as often as they like.
    /// Default: 200 times a second, 400 at once.
    pub fn request_rate(mut self, rate: impl Into<Option<Rate>>) -> Self {
        self.choices.request_rate = rate.into();
        self
    }

    /// How many event and log streams there may be at once, in all and for each caller. Default: 4096 and
    /// 256.
    pub fn max_streams(mut self, max_streams: usize, each: usize) -> Self {
        (self.live.max_streams, self.live.max_streams_each) = (max_streams, each);
        self
    }

    /// How often the caller of a stream is identified again, so that one whose key was revoked reads no
    /// longer. Default: 5 s.
    pub fn recheck_streams_every(mut self, recheck_every: Duration) -> Self {
        self.live.recheck_every = recheck_every;
        self
    }

    /// How long an answer may take; for a request that asks to wait (`Prefer: wait`) a minute more. Streams
    /// last as long as they like once they have begun. Default: 30 s.
    pub fn request_timeout(mut self, request_timeout: Duration) -> Self {
        self.live.request_timeout = request_timeout;
        self
    }

    /// The largest body of a request, in bytes. Default: 4 MiB.
    pub fn max_body_bytes(mut self, max_body_bytes: usize) -> Self {
        self.live.max_body_bytes = max_body_bytes;
        self
    }

    /// Lets pages of these origins, for example `https://console.example`, call the API from a browser.
    /// Default: none.
    pub fn allow_origins(mut self, origins: impl IntoIterator<Item = HeaderValue>) -> Self {
        self.live.allowed_origins = origins.into_iter().collect();
        self
    }

    /// Shows `/metrics` to everybody. Default: to callers who may read, and to this machine.
    pub fn public_metrics(mut self) -> Self {
        self.live.has_public_metrics = true;
        self
    }

    /// Makes the API.
    pub fn build(self) -> Api {
        self.orchestrator.keep_events();
        Api { shared: Arc::new(Shared::new(self.orchestrator, self.choices, self.live)) }
    }
}

impl std::fmt::Debug for ApiBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiBuilder").finish_non_exhaustive()
    }
}
