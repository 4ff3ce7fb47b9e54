//! The API below a path of a program's own router.

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::scene::Scene;

/// Status, header, and body of an answer to an operator at the program's router.
async fn ask(host: &Router, method: &str, path: &str, body: Option<Value>) -> (StatusCode, Value, Headers) {
    let request = Request::builder().method(method).uri(path).header("authorization", "Bearer operator");
    let request = request.header("content-type", "application/json");
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    let response = host.clone().oneshot(request.body(body).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 22).await.unwrap();
    (parts.status, serde_json::from_slice(&bytes).unwrap_or_default(), Headers(parts.headers))
}

struct Headers(axum::http::HeaderMap);

impl Headers {
    fn get(&self, name: &str) -> &str {
        self.0.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// Where a reference leads that was found at a path.
fn resolved(path: &str, reference: &str) -> String {
    let base = reqwest::Url::parse(&format!("http://host{path}")).unwrap();
    let url = base.join(reference).unwrap();
    url.as_str().trim_start_matches("http://host").to_owned()
}

fn mounted(scene: &Scene) -> [(&'static str, Router); 3] {
    let at = |path| {
        Router::new()
            .route("/", axum::routing::get(async || "the program"))
            .nest_service(path, scene.router.clone())
    };
    [
        ("", scene.router.clone()),
        ("/mamos", at("/mamos")),
        // Of parameters of the program none is taken for one of the API.
        ("/acme/own/mamos", at("/{agent}/{job}/mamos")),
    ]
}

#[tokio::test]
async fn what_is_stored_is_where_its_location_says_wherever_the_api_is_mounted() {
    let scene = Scene::new();
    for (mount, host) in mounted(&scene) {
        let jobs = format!("{mount}/api/v1/jobs");
        let (status, job, headers) = ask(&host, "POST", &jobs, Some(json!({"kind": "a"}))).await;
        assert_eq!(status, 201, "{mount}: {job}");
        let location = headers.get("location");
        assert_eq!(location, format!("{jobs}/{}", job["id"].as_str().unwrap()));
        let (status, found, _) = ask(&host, "GET", location, None).await;
        assert_eq!((status.as_u16(), &found["id"]), (200, &job["id"]), "{mount}");
        let wish = json!({"uses": 1, "valid_for_ms": 1000});
        let tokens = format!("{mount}/api/v1/registration-tokens");
        let (_, token, headers) = ask(&host, "POST", &tokens, Some(wish)).await;
        assert_eq!(headers.get("location"), format!("{tokens}/{}", token["id"].as_str().unwrap()));
        let (status, ..) = ask(&host, "DELETE", headers.get("location"), None).await;
        assert_eq!(status, 204, "{mount}");
    }
}

#[tokio::test]
async fn the_link_of_a_list_leads_to_its_next_page_wherever_the_api_is_mounted() {
    let scene = Scene::new();
    for _ in 0..3 {
        scene.post("/jobs", json!({"kind": "a"})).await;
    }
    for (mount, host) in mounted(&scene) {
        let first = format!("{mount}/api/v1/jobs?limit=2");
        let (_, list, headers) = ask(&host, "GET", &first, None).await;
        assert_eq!(list["items"].as_array().unwrap().len(), 2, "{mount}: {list}");
        let link = headers.get("link").strip_prefix('<').and_then(|link| link.split_once('>')).unwrap();
        let next = resolved(&first, link.0);
        assert!(next.starts_with(&format!("{mount}/api/v1/jobs?")), "{next}");
        let (status, list, _) = ask(&host, "GET", &next, None).await;
        assert_eq!((status.as_u16(), list["items"].as_array().unwrap().len()), (200, 1), "{mount}: {list}");
    }
}

#[tokio::test]
async fn problems_are_named_alike_wherever_the_api_is_mounted() {
    let scene = Scene::new();
    for (mount, host) in mounted(&scene) {
        for (method, path, status, code) in [
            ("GET", "/api/v1/nothing", 404, "not_found"),
            ("GET", "/api/v1/jobs/0198f7a0-0000-7000-8000-000000000000", 404, "not_found"),
            ("GET", "/api/v1/users", 404, "not_found"),
            ("DELETE", "/api/v1/jobs", 405, "method_not_allowed"),
            ("GET", "/api/v1/audit", 403, "forbidden"),
            ("GET", "/api/v1/jobs?x=1", 400, "bad_request"),
        ] {
            let (found, problem, headers) = ask(&host, method, &format!("{mount}{path}"), None).await;
            assert_eq!(found, status, "{mount}{path}: {problem}");
            assert_eq!(headers.get("content-type"), "application/problem+json", "{mount}{path}");
            assert_eq!(
                (&problem["type"], &problem["code"]),
                (&json!(format!("/problems/{code}")), &json!(code))
            );
        }
    }
}

#[tokio::test]
async fn an_agent_sees_itself_only_also_below_a_parameter_that_is_called_like_it() {
    let scene = Scene::new();
    let (own, other) = (scene.agent("own", 1).await, scene.agent("other", 2).await);
    let host = Router::new().nest_service("/{agent}/mamos", scene.router.clone());
    for (first, second, status) in [(&own, &own, 200), (&own, &other, 403), (&other, &own, 200)] {
        let request = Request::get(format!("/{first}/mamos/api/v1/agents/{second}"));
        let request = request.header("authorization", format!("Bearer agent:{own}")).body(Body::empty());
        let response = host.clone().oneshot(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), status, "{first} {second}");
    }
}

#[tokio::test]
async fn the_document_says_where_the_routes_are_wherever_the_api_is_mounted() {
    let scene = Scene::new();
    for (mount, host) in mounted(&scene) {
        let path = format!("{mount}/api/v1/openapi.json");
        let (_, document, _) = ask(&host, "GET", &path, None).await;
        assert_eq!(&document, scene.document(), "{mount}");
        let server = resolved(&path, document["servers"][0]["url"].as_str().unwrap());
        // The paths of the document are put behind it.
        let version = format!("{}/api/v1/version", server.trim_end_matches('/'));
        assert!(document["paths"]["/api/v1/version"].is_object());
        let (status, version, _) = ask(&host, "GET", &version, None).await;
        assert_eq!((status.as_u16(), &version["api"]), (200, &json!(1)), "{mount}");
    }
}
