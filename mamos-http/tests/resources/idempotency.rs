use std::sync::Arc;

use serde_json::json;

use crate::scene::Scene;

const KEY: (&str, &str) = ("idempotency-key", "order-4711");

#[tokio::test]
async fn the_same_key_stores_one_job_however_many_ask_at_once() {
    let scene = Arc::new(Scene::new());
    let asking = (0..20).map(|_| {
        let scene = Arc::clone(&scene);
        tokio::spawn(async move {
            scene.call("operator", "POST", "/jobs", &[KEY], Some(json!({"kind": "a", "payload": 1}))).await
        })
    });
    let asking: Vec<_> = asking.collect();
    let mut stored = 0;
    for answer in asking {
        let answer = answer.await.unwrap();
        assert!([200, 201].contains(&answer.status.as_u16()), "{answer:?}");
        stored += usize::from(answer.status == 201);
    }
    assert_eq!(stored, 1);
    assert_eq!(scene.get("/jobs").await.ids().len(), 1);
}

#[tokio::test]
async fn a_key_is_good_for_one_body_of_one_caller() {
    let scene = Scene::new();
    let post = async |who: &str, body| scene.call(who, "POST", "/jobs", &[KEY], Some(body)).await;
    let first = post("ann/operator", json!({"kind": "a", "priority": 1})).await;
    assert_eq!(first.status, 201);
    let again = post("ann/operator", json!({"kind": "a", "priority": 1})).await;
    assert_eq!((again.status.as_u16(), again.header("idempotency-replayed")), (200, "true"));
    assert_eq!(again.json["id"], first.json["id"]);
    // The store alone would take this for a repeat.
    let other = post("ann/operator", json!({"kind": "a", "priority": 2})).await;
    assert_eq!((other.status.as_u16(), other.code()), (422, "idempotency_key_reused"));
    let bob = post("bob/operator", json!({"kind": "a", "priority": 2})).await;
    assert_eq!(bob.status, 201);
    assert_ne!(bob.json["id"], first.json["id"]);
    for key in ["", "two words", &"x".repeat(129)] {
        let body = Some(json!({"kind": "a"}));
        let answer = scene.call("operator", "POST", "/jobs", &[("idempotency-key", key)], body).await;
        assert_eq!((answer.status.as_u16(), answer.pointers()), (400, vec!["Idempotency-Key"]), "{key:?}");
    }
}

#[tokio::test]
async fn a_key_whose_job_was_not_stored_can_be_tried_again() {
    let scene = Scene::new();
    let taken = json!({"kind": "b", "id": "0198f7a0-0000-7000-8000-000000000001"});
    assert_eq!(scene.post("/jobs", taken).await.status, 201);
    let clash = json!({"kind": "a", "id": "0198f7a0-0000-7000-8000-000000000001"});
    let post = async |body| scene.call("operator", "POST", "/jobs", &[KEY], Some(body)).await;
    assert_eq!(post(clash).await.status, 409);
    assert_eq!(post(json!({"kind": "a"})).await.status, 201);
}

#[tokio::test]
async fn a_job_that_was_removed_is_not_done_again() {
    let scene = Scene::new();
    let post =
        async || scene.call("operator", "POST", "/jobs", &[KEY], Some(json!({"kind": "mail.send"}))).await;
    assert_eq!(post().await.status, 201);
    let agent = scene.agent("a", 1).await;
    let (session, jobs) = scene.claim(&agent).await;
    scene.succeed(session, &jobs[0], b"null").await;
    assert_eq!(scene.store.prune(mamos_core::Timestamp::MAX, 10).await.unwrap(), 1);
    assert_eq!(post().await.status, 410);
    assert_eq!(scene.get("/jobs").await.ids().len(), 0);
}

#[tokio::test]
async fn many_jobs_are_stored_once() {
    let scene = Scene::new();
    let body = json!({"jobs": [{"kind": "a"}, {"kind": "a"}]});
    let post = async |body| scene.call("operator", "POST", "/jobs/bulk", &[KEY], Some(body)).await;
    let (first, again) = (post(body.clone()).await, post(body).await);
    assert_eq!(first.json["items"][0]["result"], "stored");
    assert_eq!(again.bytes, first.bytes);
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_ne!(first.ids()[0], first.ids()[1]);
    assert_eq!(scene.get("/jobs").await.ids().len(), 2);
    assert_eq!(post(json!({"jobs": [{"kind": "b"}]})).await.code(), "idempotency_key_reused");
}
