//! Each order makes the request that the contract wants, and shows the answer.

use serde_json::{Value, json};

use super::stub::{Reply, Stub};

/// An order, the request that it makes, its body, and what it prints.
type Case<'a> = (&'a [&'a str], &'a str, Value, &'a str);

/// The words of a text: how wide a table is does not matter.
fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

async fn check(reply: Value, cases: &[Case<'_>]) {
    for (arguments, line, body, shown) in cases {
        let stub = Stub::start().await;
        stub.on(line, Reply::json(200, &reply));
        let ended = stub.ctl(arguments).await;
        assert_eq!(ended.code, 0, "{arguments:?}: {}", ended.err);
        assert_eq!(stub.lines(), [*line], "{arguments:?}");
        let asked = stub.asked().remove(0);
        assert_eq!(asked.body, *body, "{arguments:?}");
        assert_eq!(asked.header("authorization"), Some("Bearer mamos_key_1"));
        let is_post = line.starts_with("POST");
        assert_eq!(asked.header("idempotency-key").is_some(), is_post, "{arguments:?}");
        assert_eq!(words(&ended.out), words(shown), "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_tables() {
    let agent = json!({"id": "web-1", "name": "one", "state": "running", "liveness": "live", "held": 1, "slots": 4,
        "labels": {"zone": "eu"}, "heard_at": "2026-11-21T08:00:00.000000Z"});
    let shown = "ID NAME STATE LIVENESS HELD SLOTS LABELS HEARD AT REVOKED\nweb-1 one running live 1 4 zone=eu 2026-11-21 08:00:00 -";
    let line = "GET /agents?state=running&kind=web&connected=true&label=zone%3Deu&label=gpu&limit=200";
    let arguments = [
        "agents",
        "list",
        "--state",
        "running",
        "--label",
        "zone=eu",
        "--label",
        "gpu",
        "--kind",
        "web",
        "--connected",
        "true",
    ];
    check(json!({"items": [agent], "next_cursor": null}), &[(&arguments, line, Value::Null, shown)]).await;

    let job = json!({"id": "j1", "kind": "mail", "queue": "q", "state": "ready", "attempt": 0, "agent": null,
        "created_at": "2026-11-21T08:00:00.000000Z"});
    let shown = "ID KIND QUEUE STATE ATTEMPT AGENT CREATED AT\nj1 mail q ready 0 - 2026-11-21 08:00:00";
    let line = "GET /jobs?state=ready&queue=q&limit=7";
    let arguments = ["jobs", "list", "--state", "ready", "--queue", "q", "--limit", "7"];
    check(json!({"items": [job], "next_cursor": null}), &[(&arguments, line, Value::Null, shown)]).await;

    let none = json!({"items": [], "next_cursor": null});
    check(
        none,
        &[
            (&["queues", "list"], "GET /queues?limit=200", Value::Null, ""),
            (&["commands", "list"], "GET /commands", Value::Null, ""),
            (&["tokens", "list"], "GET /registration-tokens?limit=200", Value::Null, ""),
            (&["users", "list"], "GET /users?limit=200", Value::Null, ""),
            (&["roles", "list"], "GET /roles", Value::Null, ""),
            (&["keys", "list"], "GET /me/keys", Value::Null, ""),
            (&["keys", "list", "--all"], "GET /keys?limit=200", Value::Null, ""),
            (&["jobs", "attempts", "j1"], "GET /jobs/j1/attempts", Value::Null, ""),
            (
                &["audit", "--action", "command.run", "--limit", "5"],
                "GET /audit?action=command.run&limit=5",
                Value::Null,
                "",
            ),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_thing_is_shown_field_by_field() {
    let reply = json!({"id": "x", "paused": true, "sentence": "it waits for an agent", "status": "ok"});
    let shown = "id x paused yes sentence it waits for an agent status ok";
    check(
        reply,
        &[
            (&["agents", "get", "a/b"], "GET /agents/a%2Fb", Value::Null, shown),
            (&["agents", "health", "x"], "GET /agents/x/health", Value::Null, shown),
            (&["jobs", "get", "x"], "GET /jobs/x", Value::Null, shown),
            (&["queues", "get", "x"], "GET /queues/x", Value::Null, shown),
            (&["commands", "get", "x"], "GET /commands/x", Value::Null, shown),
            (&["users", "get", "x"], "GET /users/x", Value::Null, shown),
            (&["whoami"], "GET /me", Value::Null, shown),
            (&["why", "x"], "GET /jobs/x/why", Value::Null, "it waits for an agent"),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_is_said_on_standard_error_only() {
    let post = |noun: &'static str, verb: &str| format!("POST /{noun}/x/{verb}");
    let reply = json!({"id": "x", "state": "draining", "paused": true});
    for (noun, verb) in [
        ("agents", "drain"),
        ("agents", "resume"),
        ("agents", "reinstate"),
        ("agents", "decommission"),
        ("queues", "pause"),
        ("queues", "resume"),
        ("jobs", "cancel"),
        ("jobs", "redrive"),
        ("jobs", "approve"),
    ] {
        check(reply.clone(), &[(&[noun, verb, "x"], &post(noun, verb), Value::Null, "")]).await;
    }
    let revoke = ["agents", "revoke", "x", "--reason", "stolen"];
    let cancel = ["jobs", "cancel", "x", "--reason", "wrong", "--grace", "5s"];
    check(
        reply,
        &[
            (&revoke, "POST /agents/x/revoke", json!({"reason": "stolen"}), ""),
            (&cancel, "POST /jobs/x/cancel", json!({"reason": "wrong", "grace_ms": 5000}), ""),
            (&["tokens", "revoke", "x"], "DELETE /registration-tokens/x", Value::Null, ""),
            (&["keys", "revoke", "x"], "DELETE /me/keys/x", Value::Null, ""),
            (&["keys", "revoke", "x", "--all"], "DELETE /keys/x", Value::Null, ""),
            (&["roles", "delete", "x"], "DELETE /roles/x", Value::Null, ""),
            (
                &["roles", "set", "x", "--permission", "read"],
                "PUT /roles/x",
                json!({"permissions": ["read"]}),
                "",
            ),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_created_is_printed_so_that_a_script_can_use_it() {
    let enqueue = [
        "jobs",
        "enqueue",
        "mail",
        "--payload",
        "{\"to\":1}",
        "--queue",
        "q",
        "--delay",
        "1m",
        "--on",
        "zone=eu",
    ];
    let body =
        json!({"kind": "mail", "payload": {"to": 1}, "queue": "q", "delay_ms": 60_000, "on": "zone=eu"});
    let run = [
        "run",
        "df",
        "path=/",
        "flag=a=b",
        "--on",
        "gpu",
        "--priority",
        "-3",
        "--needs-approval",
        "--label",
        "why=test",
    ];
    let order = json!({"command": "df", "parameters": {"path": "/", "flag": "a=b"}, "on": "gpu", "priority": -3,
        "retry": {"max_attempts": 1}, "needs_approval": true, "labels": {"why": "test"}});
    let job = json!({"id": "j1", "state": "ready"});
    check(job, &[(&enqueue, "POST /jobs", body, "j1"), (&run, "POST /jobs", order, "j1")]).await;

    let token =
        ["tokens", "create", "--uses", "3", "--valid-for", "10m", "--kind", "web", "--label", "zone=eu"];
    let body = json!({"uses": 3, "valid_for_ms": 600_000, "agent_kind": "web", "labels": {"zone": "eu"}});
    let key = ["keys", "create", "ci", "--expires-in", "1h", "--permission", "read", "--cidr", "10.0.0.0/8"];
    let wish =
        json!({"name": "ci", "expires_in_ms": 3_600_000, "permissions": ["read"], "cidr": ["10.0.0.0/8"]});
    let reply = json!({"id": "t1", "token": "mamos_secret"});
    check(
        reply,
        &[
            (&token, "POST /registration-tokens", body, "mamos_secret"),
            (&key, "POST /me/keys", wish, "mamos_secret"),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_json_there_is_one_object_a_line_over_all_pages() {
    let stub = Stub::start().await;
    stub.on(
        "GET /jobs?limit=100",
        Reply::json(200, &json!({"items": [{"id": "j1"}, {"id": "j2"}], "next_cursor": "c+1"})),
    );
    stub.on(
        "GET /jobs?limit=98&cursor=c%2B1",
        Reply::json(200, &json!({"items": [{"id": "j3"}], "next_cursor": null})),
    );
    let ended = stub.ctl(&["jobs", "list", "--json"]).await;
    assert_eq!((ended.code, ended.out.as_str()), (0, "{\"id\":\"j1\"}\n{\"id\":\"j2\"}\n{\"id\":\"j3\"}\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_are_changed_only_if_nobody_else_did() {
    let stub = Stub::start().await;
    let before = json!({"id": "x", "labels": {"zone": "eu", "own": "1"}, "operator_labels": {"zone": "eu"}});
    stub.on("GET /agents/x", Reply::json(200, &before).header("etag", "\"7\""));
    stub.on("PATCH /agents/x", Reply::problem(412, "precondition_failed", "it is at revision 8"));
    let ended = stub.ctl(&["agents", "label", "x", "rack=2", "zone-"]).await;
    assert_eq!(ended.code, 4, "{}", ended.err);
    let patch = stub.asked().remove(1);
    assert_eq!(
        (patch.header("if-match"), patch.body.clone()),
        (Some("\"7\""), json!({"labels": {"rack": "2"}}))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_changed_only_if_nobody_else_did() {
    let cases: [(&[&str], &str, Value); 4] = [
        (&["users", "set-roles", "ann", "admin"], "PATCH /users/ann", json!({"roles": ["admin"]})),
        (&["users", "disable", "ann"], "PATCH /users/ann", json!({"disabled": true})),
        (&["users", "enable", "ann"], "PATCH /users/ann", json!({"disabled": false})),
        (&["users", "delete", "ann"], "DELETE /users/ann", Value::Null),
    ];
    for (arguments, line, body) in cases {
        let stub = Stub::start().await;
        stub.on("GET /users/ann", Reply::json(200, &json!({"name": "ann"})).header("etag", "W/\"3\""));
        stub.on(line, Reply::json(200, &json!({"name": "ann"})));
        assert_eq!(stub.ctl(arguments).await.code, 0, "{arguments:?}");
        let change = stub.asked().remove(1);
        assert_eq!(
            (change.header("if-match"), change.body.clone()),
            (Some("W/\"3\""), body),
            "{arguments:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_read_piece_by_piece_and_its_streams_stay_apart() {
    let stub = Stub::start().await;
    let first = json!({"epoch": "5", "offset": 0, "next_offset": 6, "is_ended": true, "pieces": [
        {"offset": 0, "stream": "stdout", "text": "one\n"}, {"offset": 4, "stream": "stderr", "base64": "IQo="}]});
    let second = json!({"epoch": "5", "offset": 6, "next_offset": 10, "is_ended": true, "pieces": [
        {"offset": 6, "stream": "stdout", "text": "two\n"}]});
    let last = json!({"epoch": "5", "offset": 10, "next_offset": 10, "is_ended": true, "pieces": []});
    stub.on("GET /jobs/j1/log?format=json&offset=0&limit_bytes=262144", Reply::json(200, &first));
    stub.on("GET /jobs/j1/log?format=json&epoch=5&offset=6&limit_bytes=262144", Reply::json(200, &second));
    stub.on("GET /jobs/j1/log?format=json&epoch=5&offset=10&limit_bytes=262144", Reply::json(200, &last));
    let ended = stub.ctl(&["logs", "j1"]).await;
    assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (0, "one\ntwo\n", "!\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_is_shown_once_off_a_terminal() {
    let stub = Stub::start().await;
    let agents =
        json!({"items": [{"id": "web-1", "connected": true, "held": 1, "slots": 4}], "next_cursor": null});
    let queues =
        json!({"items": [{"queue": "q", "paused": false, "counts": {"ready": 2}}], "next_cursor": null});
    stub.on("GET /agents?limit=200", Reply::json(200, &agents))
        .on("GET /queues?limit=200", Reply::json(200, &queues));
    let ended = stub.ctl(&["status"]).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(
        ended.out.starts_with("agents: 1 known, 1 connected, 1 of 4 slots held\njobs: 2 ready\n"),
        "{}",
        ended.out
    );
    let json: Value = serde_json::from_str(&stub.ctl(&["status", "--json"]).await.out).unwrap();
    assert_eq!(json["jobs"], json!({"ready": 2}));
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_and_help_need_no_orchestrator() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let ended = super::stub::ctl(home.path(), &["completions", shell], &[], "").await;
        assert_eq!(ended.code, 0);
        assert!(ended.out.contains("mamosctl") && ended.out.contains("decommission"), "{shell}");
    }
    let ended = super::stub::ctl(home.path(), &["--help"], &[], "").await;
    assert!(ended.code == 0 && ended.out.contains("Exit codes"), "{}", ended.out);
    let stub = Stub::start().await;
    stub.on("GET /openapi.json", Reply::json(200, &json!({"openapi": "3.1.0"})));
    assert_eq!(stub.ctl(&["open-api"]).await.out, "{\n  \"openapi\": \"3.1.0\"\n}\n");
}
