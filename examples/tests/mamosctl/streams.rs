//! Streams are taken up where they were cut, and nothing comes twice.

use serde_json::json;

use super::stub::{Reply, Stub};

#[tokio::test(flavor = "multi_thread")]
async fn events_go_on_after_a_cut_with_the_last_id() {
    let stub = Stub::start().await;
    let line = "GET /events?topic=jobs%2Cagents&event=a%2Cb&job=j1";
    let first = "retry: 1\n\nid: s-1\nevent: job_enqueued\ndata: {\"at\":\"2026-11-21T08:00:00.000000Z\",\"event\":\"job_enqueued\",\"seq\":1,\"job\":\"j1\"}\n\nid: s-2\nevent: job_started\ndata: {\"cut";
    let second = ": hello\n\nid: s-2\nevent: job_started\ndata: {\"at\":\"2026-11-21T08:00:01.000000Z\",\"event\":\"job_started\",\"seq\":2,\"job\":\"j1\"}\n\n";
    let third = "event: gap\ndata: {\"missed\":4,\"reason\":\"too slow\"}\n\nid: s-7\nevent: job_settled\ndata: {\"at\":\"2026-11-21T08:00:02.000000Z\",\"event\":\"job_settled\",\"seq\":7,\"job\":\"j1\"}\n\n";
    stub.on(line, Reply::events(first).cut());
    stub.on(line, Reply::problem(503, "unavailable", "restarting").header("retry-after", "0"));
    stub.on(line, Reply::events(second));
    stub.on(line, Reply::events(third));
    let ended = stub
        .ctl(&[
            "tail", "--topic", "jobs", "--topic", "agents", "--event", "a", "--event", "b", "--job", "j1",
            "--limit", "3",
        ])
        .await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(
        ended.out,
        "08:00:00 job_enqueued job=j1\n08:00:01 job_started job=j1\n08:00:02 job_settled job=j1\n"
    );
    assert_eq!(ended.err, "-- 4 (too slow) was missed\n");
    let asked = stub.asked();
    let ids: Vec<_> = asked.iter().map(|asked| asked.header("last-event-id")).collect();
    assert_eq!(ids, [None, Some("s-1"), Some("s-1"), Some("s-2")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_refused_ends_the_program() {
    let stub = Stub::start().await;
    stub.on("GET /events", Reply::events("event: end\ndata: {\"reason\":\"the key was revoked\"}\n\n"));
    stub.on("GET /events", Reply::problem(401, "unauthenticated", "the key is not known"));
    let ended = stub.ctl(&["tail"]).await;
    assert_eq!(ended.code, 5, "{}", ended.err);
    assert!(ended.err.contains("the key was revoked"), "{}", ended.err);
}

fn piece(epoch: u32, offset: u32, stream: &str, text: &str) -> String {
    let data = json!({"epoch": epoch.to_string(), "offset": offset, "stream": stream, "text": text});
    format!("id: {epoch}-{}\nevent: log\ndata: {data}\n\n", offset as usize + text.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_followed_to_its_end_over_cuts_and_attempts() {
    let stub = Stub::start().await;
    stub.on("POST /jobs", Reply::json(201, &json!({"id": "j1", "state": "ready"})));
    let line = "GET /jobs/j1/log/follow";
    let first = format!("retry: 1\n\n{}{}", piece(1, 0, "stdout", "one\n"), piece(1, 4, "stderr", "oh\n"));
    // The second connection begins a little too early; what was printed is not printed again.
    let second = format!(
        "event: attempt\nid: 1-7\ndata: {{\"epoch\":\"1\"}}\n\n{}event: attempt\nid: 2-0\ndata: {{\"epoch\":\"2\"}}\n\n{}event: end\ndata: {{\"state\":\"dead\"}}\n\n",
        piece(1, 4, "stderr", "oh\nno\n"),
        piece(2, 0, "stdout", "two\n"),
    );
    stub.on(line, Reply::events(&first).cut());
    stub.on(line, Reply::events(&second));
    let job = json!({"id": "j1", "state": "dead", "failure": {"code": "exit_code", "message": "it failed"}, "output": {"exit_code": 3}});
    stub.on("GET /jobs/j1", Reply::json(200, &job));
    let ended = stub.ctl(&["run", "df", "path=/", "--follow"]).await;
    assert_eq!(ended.code, 7, "{}", ended.err);
    assert_eq!(ended.out, "one\ntwo\n");
    assert!(ended.err.contains("\noh\nno\n-- the job is tried again (run 2)\n"), "{}", ended.err);
    assert!(ended.err.contains("its exit code was 3"), "{}", ended.err);
    assert_eq!(stub.asked()[2].header("last-event-id"), Some("1-7"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_succeeds_ends_with_0() {
    let stub = Stub::start().await;
    stub.on("POST /jobs", Reply::json(201, &json!({"id": "j1"})));
    let text =
        format!("{}event: end\ndata: {{\"state\":\"succeeded\"}}\n\n", piece(1, 0, "stdout", "fine\n"));
    stub.on("GET /jobs/j1/log/follow", Reply::events(&text));
    stub.on("GET /jobs/j1", Reply::json(200, &json!({"id": "j1", "state": "succeeded"})));
    let ended = stub.ctl(&["run", "df", "--follow"]).await;
    assert_eq!((ended.code, ended.out.as_str()), (0, "fine\n"), "{}", ended.err);
}
