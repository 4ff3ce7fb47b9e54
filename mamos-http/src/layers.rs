//! What surrounds all routes: request ids, figures and logs, time limits, headers, and what becomes of a
//! panic.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, OriginalUri, Request, State};
use axum::http::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_MATCH,
    IF_NONE_MATCH, LINK, LOCATION, RANGE, REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use tower_http::cors::CorsLayer;
use tracing::Instrument;

use crate::problem::{Problem, Told};
use crate::shared::Shared;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_REQUEST_ID_BYTES: usize = 128;
/// The longest that a caller may ask to wait for with `Prefer: wait`, which comes on top of the time limit.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
const PREFER: HeaderName = HeaderName::from_static("prefer");

/// Where the guard leaves the name of the caller for the log.
#[derive(Debug, Clone, Default)]
struct Name(Arc<OnceLock<String>>);

/// Surrounds all routes.
pub(crate) fn surround(router: Router, shared: &Arc<Shared>) -> Router {
    let settings = &shared.live.settings;
    let mut router = router
        .layer(DefaultBodyLimit::max(settings.max_body_bytes))
        .layer(from_fn_with_state(Arc::clone(shared), limited))
        .layer(from_fn(hardened))
        .layer(from_fn(located));
    if !settings.allowed_origins.is_empty() {
        router = router.layer(cors(settings.allowed_origins.clone()));
    }
    router.layer(from_fn_with_state(Arc::clone(shared), observed))
}

/// Called by the guard once it knows who calls.
pub(crate) fn note_caller(request: &Request, name: &str) {
    if let Some(place) = request.extensions().get::<Name>() {
        // Fails only if it is known already.
        let _ = place.0.set(name.to_owned());
    }
}

/// Gives the request an id, and counts and logs it. Never logs a path or a query: they may name what only
/// the caller should know.
async fn observed(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let began = tokio::time::Instant::now();
    let id = request_id(request.headers());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let name = Name::default();
    request.extensions_mut().insert(name.clone());
    // For whoever is inside: they see the id that the caller is told.
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let span = tracing::debug_span!(
        target: "mamos::http",
        "request",
        request_id = id.to_str().unwrap_or_default(),
        method = method.as_str(),
        route = route.as_deref().unwrap_or("_other"),
    );
    let mut response = next.run(request).instrument(span.clone()).await;
    let took = began.elapsed();
    let status = response.status().as_u16();
    shared.live.metrics.request(method.as_str(), route.as_deref(), status, took);
    let principal = name.0.get().map(String::as_str).unwrap_or_default();
    let code = response.extensions().get::<Told>().map_or("", |told| told.0);
    let ms = took.as_millis();
    span.in_scope(|| tracing::debug!(target: "mamos::http", status, ms, principal, code, "answered"));
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// The id that the caller gave, if it can be one, or a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_id = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        let is_short = (1..=MAX_REQUEST_ID_BYTES).contains(&bytes.len());
        is_short && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
    };
    headers.get(REQUEST_ID).filter(is_id).cloned().unwrap_or_else(|| {
        let id = uuid::Uuid::new_v4().to_string();
        HeaderValue::from_str(&id).expect("a UUID is visible ASCII")
    })
}

/// Answers in time, whatever the handler does, and turns its panic into a problem.
///
/// What changes something runs to its end even when the caller goes away or has waited long enough: or what
/// was done might not get into the audit log.
async fn limited(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let mut limit = shared.live.settings.request_timeout;
    if request.headers().contains_key(PREFER) {
        limit += LONGEST_WAIT;
    }
    let is_safe = request.method().is_safe();
    let caught = AssertUnwindSafe(next.run(request)).catch_unwind();
    let answered = async {
        let answered = if is_safe {
            caught.await
        } else {
            tokio::spawn(caught.in_current_span()).await.unwrap_or_else(|error| Err(error.into_panic()))
        };
        answered.unwrap_or_else(|panic| panicked(&*panic))
    };
    tokio::time::timeout(limit, answered).await.unwrap_or_else(|_| {
        let detail = format!("no answer within {} s; what was asked for may still be done", limit.as_secs());
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", detail);
        Problem { retry_after: Some(1), ..problem }.into_response()
    })
}

fn panicked(panic: &(dyn Any + Send)) -> Response {
    let said = panic.downcast_ref::<&str>().copied();
    let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or_default();
    tracing::error!(target: "mamos::http", said, "a handler panicked; this is a bug");
    let detail = "it failed here; the log of the orchestrator says why";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail).into_response()
}

/// Says where things are from the root of the host, also where the API is mounted below it.
async fn located(request: Request, next: Next) -> Response {
    let original = request.extensions().get::<OriginalUri>().map(|uri| uri.0.path());
    let mount = original.and_then(|original| original.strip_suffix(request.uri().path()));
    let mount = mount.unwrap_or_default().to_owned();
    let mut response = next.run(request).await;
    if !mount.is_empty()
        && let Some(location) = response.headers_mut().get_mut(LOCATION)
        && let Ok(below) = location.to_str()
        && below.starts_with('/')
        && let Ok(whole) = HeaderValue::try_from(format!("{mount}{below}"))
    {
        *location = whole;
    }
    response
}

/// Tells browsers to guess nothing, keep nothing and run nothing. A route that knows better has said so.
async fn hardened(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let defaults = [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    ];
    for (name, value) in defaults {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

fn cors(origins: Vec<HeaderValue>) -> CorsLayer {
    let own = |name| HeaderName::from_static(name);
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([
            ACCEPT,
            AUTHORIZATION,
            CONTENT_TYPE,
            IF_MATCH,
            IF_NONE_MATCH,
            RANGE,
            PREFER,
            REQUEST_ID,
            own("idempotency-key"),
            own("last-event-id"),
        ])
        .expose_headers([
            ETAG,
            LINK,
            LOCATION,
            RETRY_AFTER,
            REQUEST_ID,
            own("idempotency-replayed"),
            own("preference-applied"),
            own("x-mamos-result"),
        ])
        .max_age(Duration::from_secs(600))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use axum::body::Body;
    use axum::routing::{get, post};
    use mamos_core::Orchestrator;
    use mamos_store::MemoryStore;
    use tower::ServiceExt;

    use super::*;
    use crate::live::LiveSettings;
    use crate::shared::Choices;

    fn surrounded(router: Router, settings: LiveSettings) -> Router {
        let orchestrator = Orchestrator::builder(Arc::new(MemoryStore::new())).build().unwrap();
        surround(router, &Arc::new(Shared::new(orchestrator, Choices::default(), settings)))
    }

    async fn ask(router: &Router, request: axum::http::request::Builder) -> Response {
        router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn a_panic_is_a_problem_and_tells_the_caller_nothing() {
        let router = Router::new()
            .route("/", get(async || -> () { panic!("hunter2") }).post(async || -> () { panic!("hunter2") }));
        let router = surrounded(router, LiveSettings::default());
        for method in [Method::GET, Method::POST] {
            let response = ask(&router, Request::builder().method(method).uri("/")).await;
            assert_eq!(response.status(), 500);
            assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
            let body = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
            assert!(!String::from_utf8_lossy(&body).contains("hunter2"));
        }
    }

    #[tokio::test]
    async fn every_answer_has_an_id_and_headers_that_browsers_keep_to() {
        let router = surrounded(Router::new().route("/", get(async || "fine")), LiveSettings::default());
        let id = |response: &Response| response.headers()[&REQUEST_ID].to_str().unwrap().to_owned();
        let own = ask(&router, Request::get("/").header(REQUEST_ID, "abc.D_1-2")).await;
        assert_eq!(id(&own), "abc.D_1-2");
        for (name, value) in [("cache-control", "no-store"), ("x-content-type-options", "nosniff")] {
            assert_eq!(own.headers()[name], value);
        }
        assert!(own.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().contains("default-src 'none'"));
        for odd in ["", "a b", "<x>", &"a".repeat(129)] {
            let response = ask(&router, Request::get("/").header(REQUEST_ID, odd)).await;
            assert!(uuid::Uuid::parse_str(&id(&response)).is_ok(), "{odd:?} was taken");
        }
        let unmatched = ask(&router, Request::get("/nowhere")).await;
        assert!(uuid::Uuid::parse_str(&id(&unmatched)).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_told_and_what_changes_something_goes_on() {
        let done = Arc::new(AtomicBool::new(false));
        let (ends, slow) = (Arc::clone(&done), Duration::from_secs(40));
        let router = Router::new().route(
            "/",
            post(async move || {
                tokio::time::sleep(slow).await;
                ends.store(true, Ordering::SeqCst);
            })
            .get(async move || tokio::time::sleep(slow).await),
        );
        let router = surrounded(router, LiveSettings::default());
        let response = ask(&router, Request::post("/")).await;
        assert_eq!(response.status(), 503);
        assert!(response.headers().contains_key(RETRY_AFTER));
        assert!(!done.load(Ordering::SeqCst));
        tokio::time::sleep(slow).await;
        assert!(done.load(Ordering::SeqCst));
        // Who asks to wait is let wait.
        assert_eq!(ask(&router, Request::get("/").header(PREFER, "wait=60")).await.status(), 200);
    }

    #[tokio::test]
    async fn pages_of_other_origins_may_call_only_if_they_are_allowed() {
        let route = || Router::new().route("/", get(async || "fine"));
        let preflight = || {
            Request::builder()
                .method(Method::OPTIONS)
                .uri("/")
                .header("origin", "https://a.example")
                .header("access-control-request-method", "GET")
        };
        let closed = surrounded(route(), LiveSettings::default());
        let allowed = "access-control-allow-origin";
        assert!(!ask(&closed, preflight()).await.headers().contains_key(allowed));
        let origins = vec![HeaderValue::from_static("https://a.example")];
        let open = surrounded(route(), LiveSettings { allowed_origins: origins, ..LiveSettings::default() });
        assert_eq!(ask(&open, preflight()).await.headers()[allowed], "https://a.example");
        let other = Request::get("/").header("origin", "https://b.example");
        assert!(!ask(&open, other).await.headers().contains_key(allowed));
    }
}
