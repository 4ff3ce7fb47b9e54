use serde_json::json;

use crate::scene::Scene;

#[tokio::test]
async fn the_whitelist_says_what_to_fill_in() {
    let scene = Scene::new();
    let list = scene.get("/commands").await;
    assert_eq!(list.ids(), ["disk-usage"]);
    assert!(list.json["digest"].as_str().unwrap().len() == 64);
    let one = scene.get("/commands/disk-usage").await;
    let parameter = &one.json["parameters"][0];
    assert_eq!(
        (&parameter["name"], &parameter["type"], &parameter["required"]),
        (&json!("path"), &json!("path"), &json!(true))
    );
    assert_eq!(parameter["description"], "Where to look");
    assert!(!String::from_utf8_lossy(&one.bytes).contains("/usr/bin/df"), "what runs is not told");
    assert_eq!(scene.get("/commands/other").await.status, 404);
}

#[tokio::test]
async fn a_command_is_checked_and_on_record_and_its_environment_is_not_told() {
    let scene = Scene::new();
    let run = |parameters| json!({"command": "disk-usage", "parameters": parameters});
    let job = scene.post("/jobs", run(json!({"path": "/var/log"}))).await;
    assert_eq!((job.status.as_u16(), &job.json["command"]), (201, &json!("disk-usage")));
    assert_eq!(job.json["payload"]["parameters"]["path"], "/var/log");
    assert_eq!(job.json["payload"]["principal"], "user:operator");
    let shown = scene.get(&format!("/jobs/{}", job.json["id"].as_str().unwrap())).await;
    assert!(!String::from_utf8_lossy(&shown.bytes).contains("not for callers"));

    let outside = scene.post("/jobs", run(json!({"path": "/etc"}))).await;
    assert_eq!((outside.status.as_u16(), outside.pointers()), (422, vec!["/parameters"]));
    let unknown = scene.post("/jobs", json!({"command": "reboot"})).await;
    assert_eq!((unknown.status.as_u16(), unknown.pointers()), (422, vec!["/command"]));
    // The role admin is not in the whitelist, and the permission is not enough.
    let body = Some(run(json!({"path": "/var"})));
    assert_eq!(scene.call("admin", "POST", "/jobs", &[], body.clone()).await.status, 403);
    assert_eq!(scene.call("enqueuer", "POST", "/jobs", &[], body).await.status, 403);
    let audited = scene.audited().await;
    assert_eq!(audited.iter().filter(|(action, _)| action == "command.run").count(), 5);
    assert_eq!(audited.last().unwrap().1, job.json["id"].as_str().unwrap());
    // A typed job is not.
    assert_eq!(scene.post("/jobs", json!({"kind": "mail.send"})).await.status, 201);
    assert_eq!(scene.audited().await.len(), 5);
}
