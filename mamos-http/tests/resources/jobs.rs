use mamos_core::job::{Failure, Outcome};
use mamos_core::store::Report;
use serde_json::{Value, json};

use crate::scene::{Answer, Scene};

fn id(answer: &Answer) -> String {
    answer.json["id"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

#[tokio::test]
async fn a_job_is_shown_as_it_was_wished() {
    let scene = Scene::new();
    let wish = json!({
        "kind": "mail.send", "payload": {"to": ["ann"], "n": 1}, "queue": "mail", "priority": -3,
        "run_at": "2999-01-01T01:00:00+01:00", "give_up_after_ms": 60_000, "timeout_ms": 5000, "max_crashes": 7,
        "retry": {"max_attempts": 2, "jitter": 0.0}, "on": "zone=eu,gpu", "unique_key": "u", "labels": {"a": "b"},
        "id": "0198f7a0-0000-7000-8000-000000000001", "traceparent": "00-ab-cd-01"
    });
    let job = scene.post("/jobs", wish.clone()).await;
    assert_eq!((job.status.as_u16(), job.header("x-mamos-result")), (201, "stored"));
    assert_eq!(job.header("location"), "/api/v1/jobs/0198f7a0-0000-7000-8000-000000000001");
    for same in [
        "id",
        "kind",
        "payload",
        "queue",
        "priority",
        "timeout_ms",
        "max_crashes",
        "unique_key",
        "labels",
        "traceparent",
    ] {
        assert_eq!(job.json[same], wish[same], "{same}");
    }
    assert_eq!(job.json["run_at"], "2999-01-01T00:00:00.000000Z");
    assert_eq!((&job.json["state"], &job.json["on"]), (&json!("scheduled"), &json!("gpu,zone=eu")));
    assert_eq!(job.json["retry"]["max_attempts"], 2);
    assert_eq!(job.json["retry"]["first_ms"], 1000);
    let repeat = scene.post("/jobs", wish.clone()).await;
    assert_eq!((repeat.status.as_u16(), repeat.header("x-mamos-result")), (200, "repeat"));
    let mut other = wish.clone();
    other["payload"] = json!(2);
    assert_eq!(scene.post("/jobs", other.clone()).await.pointers(), ["/id"]);
    other["id"] = Value::Null;
    let holder = scene.post("/jobs", other).await;
    assert_eq!((holder.status.as_u16(), holder.header("x-mamos-result")), (200, "unique_key_taken"));
    assert_eq!(holder.json["id"], job.json["id"]);
    assert_eq!(scene.get(&format!("/jobs/{}", id(&job))).await.json, job.json);
}

#[tokio::test]
async fn numbers_in_arguments_are_kept_as_they_were_written() {
    let scene = Scene::new();
    let body = r#"{"kind": "a", "payload": {"n": 123456789012345678901234567890.10}}"#;
    let request = axum::http::Request::post("/api/v1/jobs").header("authorization", "Bearer operator");
    let request = request.header("content-type", "application/json").body(body.into()).unwrap();
    let job = scene.send(request).await;
    assert_eq!(job.status, 201);
    let shown = scene.get(&format!("/jobs/{}", id(&job))).await;
    assert!(String::from_utf8_lossy(&shown.bytes).contains(r#"{"n": 123456789012345678901234567890.10}"#));
}

#[tokio::test]
async fn wishes_that_make_no_sense_are_pointed_at() {
    let scene = Scene::new();
    let cases = [
        (json!({}), ""),
        (json!({"kind": "a", "command": "disk-usage"}), ""),
        (json!({"kind": "command:disk-usage"}), "/kind"),
        (json!({"kind": "a b"}), "/kind"),
        (json!({"kind": "a", "parameters": {"x": "y"}}), "/parameters"),
        (json!({"command": "disk-usage", "payload": 1}), "/payload"),
        (json!({"kind": "a", "delay_ms": 1, "run_at": "2026-01-01T00:00:00Z"}), "/run_at"),
        (json!({"kind": "a", "run_at": "tomorrow"}), "/run_at"),
        (json!({"kind": "a", "delay_ms": -1}), "/delay_ms"),
        (json!({"kind": "a", "delay_ms": u64::MAX}), "/delay_ms"),
        (json!({"kind": "a", "timeout_ms": 0}), "/timeout_ms"),
        (json!({"kind": "a", "priority": 40000}), "/priority"),
        (json!({"kind": "a", "retry": {"max_attempts": 0}}), "/retry/max_attempts"),
        (json!({"kind": "a", "retry": {"jitter": 2.0}}), "/retry/jitter"),
        (json!({"kind": "a", "retry": {"tries": 1}}), "/retry/tries"),
        (json!({"kind": "a", "labels": {"a": "b c"}}), "/labels"),
        (json!({"kind": "a", "id": "x"}), "/id"),
        (json!({"kind": "a", "colour": "red"}), "/colour"),
        (json!({"kind": "a", "traceparent": "x".repeat(65)}), "/traceparent"),
    ];
    for (wish, pointer) in cases {
        let answer = scene.post("/jobs", wish.clone()).await;
        assert_eq!((answer.status.as_u16(), answer.pointers()), (422, vec![pointer]), "{wish}: {answer:?}");
        let bulk = scene.post("/jobs/bulk", json!({"jobs": [{"kind": "fine"}, wish.clone()]})).await;
        let pointer = format!("/jobs/1{pointer}");
        assert_eq!(
            (bulk.status.as_u16(), bulk.pointers()),
            (422, vec![pointer.as_str()]),
            "{wish}: {bulk:?}"
        );
    }
    assert_eq!(scene.get("/jobs").await.ids().len(), 0, "nothing was stored");
    assert_eq!(scene.post("/jobs/bulk", json!({"jobs": []})).await.pointers(), ["/jobs"]);
    let many: Vec<Value> = (0..1001).map(|_| json!({"kind": "a"})).collect();
    assert_eq!(scene.post("/jobs/bulk", json!({"jobs": many})).await.pointers(), ["/jobs"]);
}

#[tokio::test]
async fn many_jobs_get_a_verdict_each() {
    let scene = Scene::new();
    let own = "0198f7a0-0000-7000-8000-000000000001";
    let jobs = json!({"jobs": [
        {"kind": "a", "id": own}, {"kind": "a", "id": own}, {"kind": "b", "id": own},
        {"kind": "a", "unique_key": "k"}, {"kind": "a", "unique_key": "k"},
    ]});
    let answer = scene.post("/jobs/bulk", jobs).await;
    let items = answer.json["items"].as_array().unwrap();
    let results: Vec<&str> = items.iter().map(|item| item["result"].as_str().unwrap()).collect();
    assert_eq!(results, ["stored", "repeat", "id_taken", "stored", "unique_key_taken"]);
    assert_eq!(items[4]["taken_by"], items[3]["id"]);

    let ids = json!({"ids": [own, "0198f7a0-0000-7000-8000-00000000ffff"]});
    let result =
        |answer: &Answer, index: usize| answer.json["items"][index]["result"].as_str().unwrap().to_owned();
    let redriven = scene.post("/jobs/redrive", ids.clone()).await;
    assert_eq!((result(&redriven, 0), result(&redriven, 1)), ("refused".to_owned(), "missing".to_owned()));
    let cancelled = scene.post("/jobs/cancel", ids.clone()).await;
    assert_eq!(
        (result(&cancelled, 0), result(&cancelled, 1)),
        ("cancelled".to_owned(), "missing".to_owned())
    );
    assert_eq!(result(&scene.post("/jobs/cancel", ids).await, 0), "already_ended");
    assert_eq!(scene.audited().await[0], ("job.cancel".to_owned(), "2 jobs".to_owned()));
}

#[tokio::test]
async fn operators_cancel_redrive_and_approve_what_can_be() {
    let scene = Scene::new();
    let blocked = id(&scene.post("/jobs", json!({"kind": "mail.send", "needs_approval": true})).await);
    let operate = async |job: &str, verb: &str| {
        scene.call("operator", "POST", &format!("/jobs/{job}/{verb}"), &[], None).await
    };
    assert!(
        scene.get(&format!("/jobs/{blocked}/why")).await.json["sentence"]
            .as_str()
            .unwrap()
            .contains("approval")
    );
    assert_eq!(operate(&blocked, "approve").await.json["state"], "ready");
    let again = operate(&blocked, "approve").await;
    assert_eq!((again.status.as_u16(), &again.json["current_state"]), (409, &json!("ready")));
    assert_eq!(operate(&blocked, "redrive").await.status, 409);
    assert_eq!(operate("0198f7a0-0000-7000-8000-00000000ffff", "redrive").await.status, 404);

    let agent = scene.agent("a", 1).await;
    let (session, jobs) = scene.claim(&agent).await;
    let asked = scene.post(&format!("/jobs/{blocked}/cancel"), json!({"reason": "r", "grace_ms": 5})).await;
    assert_eq!((asked.status.as_u16(), &asked.json["cancel"]), (202, &json!({"reason": "r", "grace_ms": 5})));
    scene.report(session, &jobs[0], Report::Settle(Outcome::Bury { failure: Failure::new("x", "y") })).await;
    let ended = scene.get(&format!("/jobs/{blocked}")).await.json["state"].as_str().unwrap().to_owned();
    assert!(["dead", "cancelled"].contains(&ended.as_str()));
    let attempts = scene.get(&format!("/jobs/{blocked}/attempts")).await;
    assert_eq!(attempts.json["items"][0]["epoch"], "1");
    assert_eq!(attempts.json["items"][0]["agent"], agent.to_string());

    let dead = id(&scene.post("/jobs", json!({"kind": "mail.send"})).await);
    let (session, jobs) = scene.claim(&agent).await;
    scene.report(session, &jobs[0], Report::Settle(Outcome::Bury { failure: Failure::new("x", "y") })).await;
    let conflict = operate(&dead, "cancel").await;
    assert_eq!((conflict.status.as_u16(), &conflict.json["current_state"]), (409, &json!("dead")));
    assert_eq!(operate(&dead, "redrive").await.json["state"], "ready");
    assert_eq!(operate(&dead, "cancel").await.status, 200);
    assert_eq!(operate(&dead, "cancel").await.status, 200, "cancelling again changes nothing");
    let read_only = scene.call("read-only", "POST", &format!("/jobs/{dead}/redrive"), &[], None).await;
    assert_eq!((read_only.status.as_u16(), read_only.code()), (403, "forbidden"));
}

#[tokio::test]
async fn a_caller_may_wait_for_the_end() {
    let scene = std::sync::Arc::new(Scene::new());
    let job = id(&scene.post("/jobs", json!({"kind": "mail.send"})).await);
    let path = format!("/jobs/{job}");
    let early = scene.call("read-only", "GET", &path, &[("prefer", "wait=0")], None).await;
    assert_eq!((early.status.as_u16(), early.header("preference-applied")), (202, "wait=0"));
    let waiting = tokio::spawn({
        let (scene, path) = (std::sync::Arc::clone(&scene), path.clone());
        async move { scene.call("read-only", "GET", &path, &[("prefer", "wait=60")], None).await }
    });
    let agent = scene.agent("a", 1).await;
    let (session, jobs) = scene.claim(&agent).await;
    scene.succeed(session, &jobs[0], br#"{"sent": true}"#).await;
    let ended = waiting.await.unwrap();
    assert_eq!((ended.status.as_u16(), &ended.json["output"]["sent"]), (200, &json!(true)));
    let posted =
        scene.call("operator", "POST", "/jobs", &[("prefer", "wait=0")], Some(json!({"kind": "b"}))).await;
    assert_eq!((posted.status.as_u16(), &posted.json["state"]), (202, &json!("ready")));
    let missing = scene.call(
        "read-only",
        "GET",
        "/jobs/0198f7a0-0000-7000-8000-00000000ffff",
        &[("prefer", "wait=1")],
        None,
    );
    assert_eq!(missing.await.status, 404);
}
