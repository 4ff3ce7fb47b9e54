use axum::body::Body;
use axum::http::Request;
use serde_json::json;

use crate::scene::Scene;

#[tokio::test]
async fn ids_that_cannot_be_are_not_found() {
    let scene = Scene::new();
    let long = "a".repeat(10_000);
    let ids = [
        "..%2f..%2fetc%2fpasswd",
        "%00",
        "%ff%fe",
        "..",
        "%2e%2e",
        "a%20b",
        "%F0%9F%98%80",
        "-",
        "'%20OR%201=1--",
        "%0d%0aX-Injected:%201",
        "web-0198f7a0-0000-7000-8000-00000000000",
        &long,
        "null",
        "0",
        "-1",
        "1e999",
    ];
    for id in ids {
        for path in
            ["/agents/{}", "/agents/{}/health", "/jobs/{}", "/jobs/{}/log", "/queues/{}", "/commands/{}"]
        {
            let answer = scene.get(&path.replace("{}", id)).await;
            assert_eq!(answer.status, 404, "{path} {id}");
            assert!(answer.bytes.len() < 2000, "{path} {id}");
        }
        let answer = scene.post(&format!("/jobs/{id}/cancel"), json!({})).await;
        assert_eq!(answer.status, 404, "{id}");
        let answer = scene.call("operator", "DELETE", &format!("/registration-tokens/{id}"), &[], None).await;
        assert_eq!(answer.status, 404, "{id}");
    }
}

#[tokio::test]
async fn queries_that_make_no_sense_are_refused() {
    let scene = Scene::new();
    let cases = [
        ("/jobs?limit=0", "limit"),
        ("/jobs?limit=501", "limit"),
        ("/jobs?limit=-1", "limit"),
        ("/jobs?limit=99999999999999999999", "limit"),
        ("/jobs?limit=1e2", "limit"),
        ("/jobs?limit=%00", "limit"),
        ("/jobs?limit=1&limit=2", "limit"),
        ("/jobs?state=tired", "state"),
        ("/jobs?label=novalue", "label"),
        ("/jobs?label=a=1&label=a=2", "label"),
        ("/jobs?label=%C3%A4=1", "label"),
        ("/jobs?queue=a%20b", "queue"),
        ("/jobs?agent=nobody", "agent"),
        ("/jobs?colour=red", "colour"),
        ("/jobs?lim%69t=1", "lim%69t"),
        ("/agents?connected=maybe", "connected"),
        ("/commands?limit=1", "limit"),
        ("/queues/a?x", "x"),
    ];
    for (path, pointer) in cases {
        let answer = scene.get(path).await;
        assert_eq!((answer.status.as_u16(), answer.pointers()), (400, vec![pointer]), "{path}: {answer:?}");
    }
}

fn post(path: &str, kind: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::post(format!("/api/v1{path}")).header("authorization", "Bearer operator");
    request.header("content-type", kind).body(body.into()).unwrap()
}

#[tokio::test]
async fn bodies_that_make_no_sense_are_refused() {
    let scene = Scene::new();
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let json = "application/json";
    let cases = [
        (json, String::new(), 400),
        (json, "{".to_owned(), 400),
        (json, "nonsense".to_owned(), 400),
        (json, "{\"kind\": \"a\"} trailing".to_owned(), 400),
        (json, "[]".to_owned(), 422),
        (json, "null".to_owned(), 422),
        (json, "{\"kind\": \"a\", \"kind\": \"b\"}".to_owned(), 422),
        (
            json,
            "{\"command\": \"disk-usage\", \"parameters\": {\"path\": \"/var\", \"path\": \"/etc\"}}"
                .to_owned(),
            422,
        ),
        (json, "{\"kind\": \"a\", \"labels\": {\"a\": \"1\", \"a\": \"2\"}}".to_owned(), 422),
        (json, "{\"kind\": \"\\ud800\"}".to_owned(), 400),
        (json, "{\"kind\": \"a\\u0000\"}".to_owned(), 422),
        (json, "{\"kind\": \"a\", \"priority\": 1e400}".to_owned(), 400),
        (json, "{\"kind\": \"a\", \"delay_ms\": 99999999999999999999}".to_owned(), 422),
        (json, deep(100_000), 422),
        (json, format!("{{\"kind\": \"a\", \"payload\": {}}}", deep(65)), 422),
        (json, format!("{{\"kind\": \"a\", \"payload\": {}}}", deep(100_000)), 422),
        (json, format!("{{\"kind\": \"a\", \"retry\": {}}}", deep(100_000)), 422),
        (json, format!("{{\"kind\": \"{}\"}}", "a".repeat(100_000)), 422),
        (json, format!("{{\"kind\": \"a\", \"payload\": \"{}\"}}", "a".repeat(2_000_000)), 413),
        (json, "x".repeat(4 * 1024 * 1024 + 1), 413),
        ("text/plain", "{\"kind\": \"a\"}".to_owned(), 415),
        ("application/x-www-form-urlencoded", "kind=a".to_owned(), 415),
        ("application/jsonp", "{\"kind\": \"a\"}".to_owned(), 415),
    ];
    for (kind, body, status) in cases {
        let shown: String = body.chars().take(80).collect();
        let answer = scene.send(post("/jobs", kind, body)).await;
        assert_eq!(answer.status.as_u16(), status, "{kind} {shown}: {answer:?}");
        assert!(answer.bytes.len() < 2000, "{shown}");
    }
    let answer = scene.send(post("/jobs", json, &b"{\"kind\": \"\xff\"}"[..])).await;
    assert_eq!(answer.status, 400);
    let shallow = format!("{{\"kind\": \"a\", \"payload\": {}}}", deep(64));
    assert_eq!(scene.send(post("/jobs", json, shallow)).await.status, 201);
    let suffixed = post("/jobs", "application/merge-patch+json; charset=utf-8", "{\"kind\": \"a\"}");
    assert_eq!(scene.send(suffixed).await.status, 201);
    let large = "x".repeat(64 * 1024 + 1);
    for path in ["/registration-tokens", "/jobs/cancel", "/jobs/0198f7a0-0000-7000-8000-000000000000/cancel"]
    {
        assert_eq!(scene.send(post(path, json, large.clone())).await.status, 413, "{path}");
        let keyed = Request::post(format!("/api/v1{path}")).header("authorization", "Bearer operator");
        let keyed = keyed.header("content-type", json).header("idempotency-key", "k");
        assert_eq!(scene.send(keyed.body(large.clone().into()).unwrap()).await.status, 413, "{path}");
    }
}

#[tokio::test]
async fn headers_that_make_no_sense_do_no_harm() {
    let scene = Scene::new();
    let long = "x".repeat(50_000);
    let id = scene.agent("a", 1).await;
    for (name, value) in [
        ("if-none-match", long.as_str()),
        ("if-none-match", "\"unclosed"),
        ("prefer", "wait=999999999999999999999999"),
        ("prefer", "wait="),
        ("range", "bytes=99999999999999999999-"),
        ("accept", "application/xml"),
    ] {
        let answer = scene.call("read-only", "GET", &format!("/agents/{id}"), &[(name, value)], None).await;
        assert_eq!(answer.status, 200, "{name}");
    }
    for bearer in ["", "Bearer", "Bearer ", "Basic dXNlcg==", "Bearer \t", &long] {
        let request =
            Request::get("/api/v1/jobs").header("authorization", bearer).body(Body::empty()).unwrap();
        assert_eq!(scene.send(request).await.status, 401);
    }
    let many = vec!["\"9.a\""; 10_000].join(",");
    let body = Some(json!({"labels": {}}));
    let answer =
        scene.call("operator", "PATCH", &format!("/agents/{id}"), &[("if-match", &many)], body).await;
    assert_eq!(answer.status, 412);
}
