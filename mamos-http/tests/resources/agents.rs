use serde_json::json;

use crate::scene::Scene;

#[tokio::test]
async fn an_edit_needs_the_tag_of_what_was_seen() {
    let scene = Scene::new();
    let path = format!("/agents/{}", scene.agent("a", 1).await);
    let seen = scene.get(&path).await;
    assert_eq!((seen.status.as_u16(), &seen.json["labels"]["zone"]), (200, &json!("us")));
    let tag = seen.header("etag").to_owned();
    let body = json!({"labels": {"zone": "eu"}});
    let edit = |tag: Option<String>| {
        let (scene, path, body) = (&scene, &path, body.clone());
        async move {
            let headers: Vec<(&str, &str)> = tag.iter().map(|tag| ("if-match", tag.as_str())).collect();
            scene.call("operator", "PATCH", path, &headers, Some(body)).await
        }
    };
    assert_eq!(edit(None).await.status, 428);
    let edited = edit(Some(tag.clone())).await;
    assert_eq!((edited.status.as_u16(), &edited.json["labels"]["zone"]), (200, &json!("eu")));
    assert_eq!(edited.json["profile_labels"]["zone"], "us");
    assert_eq!(edit(Some(tag.clone())).await.status, 412);
    assert_eq!(edit(Some(edited.header("etag").to_owned())).await.status, 200);

    let again = scene.call("read-only", "GET", &path, &[("if-none-match", &tag)], None).await;
    assert_eq!(again.status, 200, "it has changed");
    let tag = again.header("etag").to_owned();
    let same = scene.call("read-only", "GET", &path, &[("if-none-match", &tag)], None).await;
    assert_eq!((same.status.as_u16(), same.bytes.len()), (304, 0));
}

#[tokio::test]
async fn what_operators_do_shows_and_is_on_record() {
    let scene = Scene::new();
    let id = scene.agent("a", 1).await;
    let path = format!("/agents/{id}");
    let operate =
        async |verb: &str, body| scene.call("operator", "POST", &format!("{path}/{verb}"), &[], body).await;
    assert_eq!(operate("drain", None).await.json["draining"], true);
    assert_eq!(operate("resume", None).await.json["draining"], false);
    assert_eq!(operate("revoke", Some(json!({"reason": ""}))).await.pointers(), ["/reason"]);
    let revoked = operate("revoke", Some(json!({"reason": "stolen"}))).await;
    assert_eq!(revoked.json["revoked"]["reason"], "stolen");
    let health = scene.get(&format!("{path}/health")).await;
    assert_eq!(
        (&health.json["status"], health.json["reasons"].as_array().unwrap().len()),
        (&json!("down"), 1)
    );
    assert_eq!(operate("reinstate", None).await.json["revoked"], json!(null));
    assert_eq!(operate("decommission", None).await.json["state"], "decommissioned");
    let again = scene.call("operator", "DELETE", &path, &[], None).await;
    assert_eq!((again.status.as_u16(), &again.json["current_state"]), (409, &json!("decommissioned")));
    let actions: Vec<String> = scene
        .audited()
        .await
        .into_iter()
        .map(|(action, target)| {
            assert_eq!(target, id.to_string());
            action
        })
        .collect();
    let expected = [
        "agent.decommission",
        "agent.decommission",
        "agent.reinstate",
        "agent.revoke",
        "agent.revoke",
        "agent.resume",
        "agent.drain",
    ];
    assert_eq!(actions, expected);
}

#[tokio::test]
async fn an_agent_sees_itself_and_no_other() {
    let scene = Scene::new();
    let (own, other) = (scene.agent("a", 1).await, scene.agent("b", 2).await);
    let who = format!("agent:{own}");
    for part in ["", "/health", "/metrics", "/logs"] {
        let get = async |id| scene.call(&who, "GET", &format!("/agents/{id}{part}"), &[], None).await.status;
        assert_eq!(get(&own).await, 200, "{part}");
        assert_eq!(get(&other).await, 403, "{part}");
    }
    assert_eq!(scene.call(&who, "GET", "/agents", &[], None).await.status, 403);
    assert_eq!(scene.call(&who, "POST", &format!("/agents/{own}/drain"), &[], None).await.status, 403);
    assert_eq!(scene.call(&who, "POST", "/jobs", &[], Some(json!({"kind": "a"}))).await.status, 403);
}

#[tokio::test]
async fn agents_are_filtered() {
    let scene = Scene::new();
    let mut ids = Vec::new();
    for number in 1..=4 {
        ids.push(scene.agent("a", number).await.to_string());
    }
    ids.sort();
    scene.call("operator", "POST", &format!("/agents/{}/decommission", ids[0]), &[], None).await;
    let list = async |query: &str| scene.get(&format!("/agents{query}")).await.ids();
    assert_eq!(list("").await, ids);
    assert_eq!(list("?state=decommissioned").await, ids[..1]);
    assert_eq!(list("?state=decommissioned&state=registered").await, ids);
    assert_eq!(list("?label=zone%3Deu").await.len(), 2);
    assert_eq!(list("?label=zone=eu&label=rack=1").await.len(), 0);
    assert_eq!(list("?connected=true").await.len(), 0);
    assert_eq!(list("?connected=false&kind=web").await.len(), 4);
    assert_eq!(list("?kind=db").await.len(), 0);
}

#[tokio::test]
async fn the_secret_of_a_registration_token_is_shown_once() {
    let scene = Scene::new();
    let body = json!({"uses": 2, "valid_for_ms": 60_000, "agent_kind": "web", "labels": {"group": "blue"}});
    let headers = [("idempotency-key", "token-1")];
    let post =
        async || scene.call("operator", "POST", "/registration-tokens", &headers, Some(body.clone())).await;
    let (made, again) = (post().await, post().await);
    assert_eq!(made.status, 201);
    let secret = made.json["token"].as_str().unwrap();
    assert!(secret.starts_with("mamos_reg_"));
    assert_eq!((again.status.as_u16(), again.header("idempotency-replayed")), (201, "true"));
    assert_eq!((&again.json["token"], &again.json["id"]), (&json!(null), &made.json["id"]));
    assert_eq!(again.header("location"), made.header("location"));
    let listed = scene.call("operator", "GET", "/registration-tokens", &[], None).await;
    assert_eq!(listed.ids(), [made.json["id"].as_str().unwrap()]);
    assert!(!String::from_utf8_lossy(&listed.bytes).contains(secret));
    let kept = scene
        .store
        .documents(
            mamos_core::store::DocumentFilter {
                collection: "idempotency".to_owned(),
                prefix: String::new(),
                is_descending: false,
            },
            mamos_core::store::PageRequest::default(),
            scene.orchestrator.now(),
        )
        .await
        .unwrap();
    assert_eq!(kept.items.len(), 1);
    assert!(!String::from_utf8_lossy(&kept.items[0].value).contains(secret), "it is not kept");
    assert_eq!(scene.audited().await.len(), 1, "the replay did nothing");

    let path = format!("/registration-tokens/{}", made.json["id"].as_str().unwrap());
    assert_eq!(scene.call("operator", "DELETE", &path, &[], None).await.status, 204);
    assert_eq!(scene.call("operator", "DELETE", &path, &[], None).await.status, 404);
    assert_eq!(scene.call("read-only", "GET", "/registration-tokens", &[], None).await.status, 403);
    let bad = scene.post("/registration-tokens", json!({"uses": 0, "valid_for_ms": 0})).await;
    assert_eq!((bad.status.as_u16(), bad.pointers()), (422, vec!["/uses", "/valid_for_ms"]));
}
