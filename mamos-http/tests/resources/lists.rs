use serde_json::json;

use crate::scene::Scene;

async fn with_jobs(count: usize) -> Scene {
    let scene = Scene::new();
    for number in 0..count {
        let wish = json!({
            "kind": "a", "queue": format!("q{}", number % 3),
            "labels": {"parity": if number % 2 == 0 { "even" } else { "odd" }}
        });
        assert_eq!(scene.post("/jobs", wish).await.status, 201);
    }
    scene
}

#[tokio::test]
async fn pages_follow_each_other_without_gaps_or_repeats() {
    let scene = with_jobs(25).await;
    let all = scene.get("/jobs?limit=500").await;
    assert_eq!(all.ids().len(), 25);
    assert_eq!((all.header("link"), &all.json["next_cursor"]), ("", &json!(null)));
    let mut seen = Vec::new();
    let mut path = "/jobs?limit=7".to_owned();
    loop {
        let page = scene.get(&path).await;
        assert!(page.ids().len() <= 7);
        seen.extend(page.ids());
        let Some(link) = page.header("link").strip_prefix("<") else { break };
        let link = link.strip_suffix(">; rel=\"next\"").unwrap();
        assert!(link.starts_with("?limit=7&cursor="), "{link}");
        assert!(link.ends_with(page.json["next_cursor"].as_str().unwrap()));
        path = format!("/jobs{link}");
    }
    assert_eq!(seen, all.ids());
}

#[tokio::test]
async fn a_cursor_of_another_list_is_refused() {
    let scene = with_jobs(9).await;
    let cursor = scene.get("/jobs?limit=2").await.json["next_cursor"].as_str().unwrap().to_owned();
    let status = async |path: String| {
        let answer = scene.get(&path).await;
        (answer.status.as_u16(), answer.code().to_owned())
    };
    assert_eq!(status(format!("/jobs?cursor={cursor}")).await.0, 200, "the limit may change");
    let bad = (400, "bad_cursor".to_owned());
    assert_eq!(status(format!("/jobs?queue=q1&cursor={cursor}")).await, bad);
    assert_eq!(status(format!("/agents?cursor={cursor}")).await, bad);
    assert_eq!(status(format!("/jobs?cursor={cursor}A")).await, bad);
    assert_eq!(status(format!("/jobs?cursor=A{cursor}")).await, bad);
    assert_eq!(status("/jobs?cursor=".to_owned() + &"x".repeat(9000)).await, bad);
    // Another orchestrator on the same store reads it.
    let other = Scene::over(std::sync::Arc::clone(&scene.store));
    assert_eq!(other.get(&format!("/jobs?cursor={cursor}")).await.status, 200);
    // One on another store does not.
    assert_eq!(Scene::new().get(&format!("/jobs?cursor={cursor}")).await.status, 400);
}

#[tokio::test]
async fn jobs_are_filtered() {
    let scene = with_jobs(12).await;
    let count = async |query: &str| scene.get(&format!("/jobs{query}")).await.ids().len();
    assert_eq!(count("?queue=q1").await, 4);
    assert_eq!(count("?label=parity=even&queue=q0").await, 2);
    assert_eq!(count("?state=ready&state=dead").await, 12);
    assert_eq!(count("?state=dead").await, 0);
    assert_eq!(count("?kind=b").await, 0);
    let agent = scene.agent("a", 1).await;
    assert_eq!(count(&format!("?agent={agent}")).await, 0);
}

#[tokio::test]
async fn large_jobs_make_short_pages() {
    let scene = Scene::new();
    for _ in 0..30 {
        let wish = json!({"kind": "a", "payload": "x".repeat(900_000)});
        assert_eq!(scene.post("/jobs", wish).await.status, 201);
    }
    let mut seen = std::collections::BTreeSet::new();
    let mut path = "/jobs?limit=30".to_owned();
    let mut pages = 0;
    loop {
        let page = scene.get(&path).await;
        assert!(page.ids().len() <= 12, "{} jobs of 0.9 MB", page.ids().len());
        seen.extend(page.ids());
        pages += 1;
        let Some(cursor) = page.json["next_cursor"].as_str() else { break };
        path = format!("/jobs?limit=30&cursor={cursor}");
    }
    assert_eq!(seen.len(), 30);
    assert!(pages >= 3);
}

#[tokio::test]
async fn queues_are_counted_paused_and_listed() {
    let scene = with_jobs(7).await;
    let first = scene.get("/queues?limit=2").await;
    assert_eq!(first.json["items"][0]["queue"], "q0");
    assert_eq!(first.json["items"][0]["depth"], 3);
    let cursor = first.json["next_cursor"].as_str().unwrap();
    let second = scene.get(&format!("/queues?limit=2&cursor={cursor}")).await;
    assert_eq!(
        (&second.json["items"][0]["queue"], &second.json["next_cursor"]),
        (&json!("q2"), &json!(null))
    );
    assert_eq!(scene.post("/queues/q1/pause", json!(null)).await.json["paused"], true);
    assert_eq!(scene.get("/queues/q1").await.json["paused"], true);
    assert_eq!(scene.post("/queues/q1/resume", json!(null)).await.json["paused"], false);
    assert_eq!(scene.get("/queues/never").await.status, 404);
    assert_eq!(scene.post("/queues/never/resume", json!(null)).await.status, 404);
    let slash = scene.post("/jobs", json!({"kind": "a", "queue": "a/b"})).await;
    assert_eq!(slash.status, 201);
    assert_eq!(scene.get("/queues/a%2Fb").await.json["queue"], "a/b");
}
