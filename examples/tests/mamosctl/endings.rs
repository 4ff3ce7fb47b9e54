//! Errors say what, why and what to do, and each has its exit code.

use std::time::{Duration, Instant};

use serde_json::json;

use super::stub::{Reply, Stub, ctl};

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_has_its_exit_code() {
    for (status, code) in [
        (400, 2),
        (401, 5),
        (403, 5),
        (404, 3),
        (409, 4),
        (412, 4),
        (413, 2),
        (422, 2),
        (428, 4),
        (500, 1),
        (502, 6),
        (504, 6),
    ] {
        let stub = Stub::start().await;
        stub.on("POST /agents/x/drain", Reply::problem(status, "some_code", "the reason"));
        let ended = stub.ctl(&["agents", "drain", "x"]).await;
        assert_eq!(ended.code, code, "status {status}: {}", ended.err);
        assert!(ended.out.is_empty(), "{}", ended.out);
        let said = "mamosctl: cannot drain agent x: the reason (some_code)\n  next: ";
        assert!(ended.err.starts_with(said), "{}", ended.err);
        assert_eq!(stub.lines().len(), 1, "{status} is not tried again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_that_are_wrong_and_the_current_state_are_shown() {
    let stub = Stub::start().await;
    let problem = json!({"code": "conflict", "status": 409, "detail": "no", "current_state": "succeeded",
        "errors": [{"pointer": "/labels/zone", "detail": "too long"}]});
    stub.on("POST /jobs/j1/redrive", Reply::json(409, &problem));
    let ended = stub.ctl(&["jobs", "redrive", "j1"]).await;
    let said =
        "cannot redrive job j1: no (conflict); it is succeeded now\n  /labels/zone: too long\n  next: ";
    assert!(ended.code == 4 && ended.err.contains(said), "{}", ended.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_jobs_one_that_is_refused_does_not_keep_the_others() {
    let stub = Stub::start().await;
    stub.on("POST /jobs/j1/redrive", Reply::problem(404, "not_found", "no such job"));
    stub.on("POST /jobs/j2/redrive", Reply::json(200, &json!({"id": "j2", "state": "ready"})));
    let ended = stub.ctl(&["jobs", "redrive", "j1", "j2"]).await;
    assert_eq!(ended.code, 3);
    assert!(ended.err.contains("job j2 is ready now"), "{}", ended.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_busy_is_asked_again_with_the_same_key_when_it_says_so() {
    let stub = Stub::start().await;
    stub.on("POST /jobs", Reply::problem(503, "unavailable", "later").header("retry-after", "1"));
    stub.on("POST /jobs", Reply::problem(409, "still_running", "wait").header("retry-after", "0"));
    stub.on("POST /jobs", Reply::json(201, &json!({"id": "j1"})));
    let begun = Instant::now();
    let ended = stub.ctl(&["jobs", "enqueue", "mail"]).await;
    assert_eq!((ended.code, ended.out.trim()), (0, "j1"));
    assert!(begun.elapsed() >= Duration::from_secs(1), "it did not wait");
    let keys: Vec<_> =
        stub.asked().iter().map(|asked| asked.header("idempotency-key").unwrap().to_owned()).collect();
    assert!(keys.len() == 3 && keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stays_busy_for_longer_than_the_timeout_is_unavailable() {
    let stub = Stub::start().await;
    stub.on("GET /me", Reply::problem(429, "too_many_requests", "slower").header("retry-after", "60"));
    let begun = Instant::now();
    let ended = stub.ctl(&["whoami", "--timeout", "2s"]).await;
    assert_eq!(ended.code, 6, "{}", ended.err);
    assert!(begun.elapsed() < Duration::from_secs(20), "it waited although the time was up");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_unavailable_and_says_who() {
    let home = tempfile::tempdir().unwrap();
    // Port 1 of loopback: nobody listens there.
    let ended = ctl(home.path(), &["--server", "http://127.0.0.1:1", "whoami"], &[], "").await;
    assert_eq!(ended.code, 6);
    assert!(
        ended.err.contains("cannot ask who you are: http://127.0.0.1:1 does not answer"),
        "{}",
        ended.err
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_is_2_and_says_what_would_be_right() {
    let home = tempfile::tempdir().unwrap();
    let ca = home.path().join("ca.pem").display().to_string();
    std::fs::write(&ca, "nothing").unwrap();
    let cases: [(&[&str], &str); 8] = [
        (&["agents", "lst"], "list"),
        (&["whoami"], "MAMOS_SERVER"),
        (&["--server", "http://far.example", "whoami"], "--allow-plain-text"),
        (&["--server", "far.example", "whoami"], "https://HOST:PORT"),
        (&["--server", "https://a", "--pin", "sha256:12", "whoami"], "64 hexadecimal digits"),
        (&["--server", "https://a", "--ca", &ca, "whoami"], "PEM"),
        (&["--server", "http://127.0.0.1:1", "jobs", "enqueue", "mail", "--payload", "text"], "needs quotes"),
        (&["--server", "http://127.0.0.1:1", "run", "df", "path"], "NAME=VALUE"),
    ];
    for (arguments, hint) in cases {
        let ended = ctl(home.path(), arguments, &[], "").await;
        assert_eq!(ended.code, 2, "{arguments:?}: {}", ended.err);
        assert!(ended.err.contains(hint), "{arguments:?}: {}", ended.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_awaited_and_fails_is_7() {
    let stub = Stub::start().await;
    stub.on("POST /jobs", Reply::json(201, &json!({"id": "j1", "state": "ready"})));
    stub.on("GET /jobs/j1", Reply::json(202, &json!({"id": "j1", "state": "running"})));
    let dead =
        json!({"id": "j1", "state": "dead", "failure": {"code": "retries", "message": "no more tries"}});
    stub.on("GET /jobs/j1", Reply::json(200, &dead));
    let ended = stub.ctl(&["jobs", "enqueue", "mail", "--wait", "20s"]).await;
    assert_eq!(ended.code, 7, "{}", ended.err);
    assert!(ended.err.contains("job j1 is dead: no more tries (retries)"), "{}", ended.err);
    assert_eq!(stub.asked()[1].header("prefer"), Some("wait=20"));
    assert_eq!(stub.lines().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_not_well_is_1() {
    let stub = Stub::start().await;
    stub.on("GET /agents/x/health", Reply::json(200, &json!({"status": "degraded", "reasons": ["suspect"]})));
    let ended = stub.ctl(&["agents", "health", "x"]).await;
    assert!(ended.code == 1 && ended.out.contains("suspect"), "{}", ended.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn colours_come_only_when_they_are_wanted() {
    let stub = Stub::start().await;
    stub.on(
        "GET /agents?limit=200",
        Reply::json(200, &json!({"items": [{"id": "x", "state": "failed"}], "next_cursor": null})),
    );
    assert!(!stub.ctl(&["agents", "list"]).await.out.contains('\u{1b}'));
    assert!(stub.ctl(&["agents", "list", "--color", "always"]).await.out.contains('\u{1b}'));
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_is_130() {
    let stub = Stub::start().await;
    stub.on("GET /events", Reply::events(": nothing\n\n"));
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mamosctl"));
    command
        .args(["--server", &stub.url, "tail"])
        .env_clear()
        .env("HOME", stub.home.path())
        .kill_on_drop(true);
    let mut process = command.spawn().unwrap();
    while stub.lines().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let pid = rustix::process::Pid::from_raw(process.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(process.wait().await.unwrap().code(), Some(130));
}
