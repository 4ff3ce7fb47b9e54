use serde_json::json;

use crate::scene::Scene;

#[tokio::test]
async fn a_log_is_read_in_parts_as_json_as_text_and_by_range() {
    let scene = Scene::new();
    let job = scene.post("/jobs", json!({"kind": "mail.send"})).await.json["id"].as_str().unwrap().to_owned();
    let path = format!("/jobs/{job}/log");
    let nothing = scene.get(&path).await;
    assert_eq!((&nothing.json["epoch"], &nothing.json["pieces"]), (&json!("0"), &json!([])));
    let agent = scene.agent("a", 1).await;
    let (session, jobs) = scene.claim(&agent).await;
    scene.print(session, &jobs[0], 0, b"hello ").await;
    scene.print(session, &jobs[0], 6, b"world\xff").await;
    let going = scene.get(&path).await;
    assert_eq!((&going.json["next_offset"], &going.json["is_ended"]), (&json!(12), &json!(false)));
    let running = scene.call("read-only", "GET", &path, &[("range", "bytes=0-4")], None).await;
    assert_eq!((running.status.as_u16(), running.header("content-range")), (206, "bytes 0-4/*"));
    scene.succeed(session, &jobs[0], b"null").await;

    let part = scene.get(&format!("{path}?offset=2&limit_bytes=5")).await;
    let texts: String =
        part.json["pieces"].as_array().unwrap().iter().map(|piece| piece["text"].as_str().unwrap()).collect();
    assert_eq!((texts.as_str(), &part.json["is_ended"]), ("llo w", &json!(false)));
    let end = scene.get(&format!("{path}?offset=11")).await;
    assert_eq!((&end.json["is_ended"], &end.json["pieces"][0]["base64"]), (&json!(true), &json!("/w==")));
    let text = scene.get(&format!("{path}?format=text&limit_bytes=5")).await;
    assert_eq!((&text.bytes[..], text.header("x-mamos-next-offset")), (&b"hello"[..], "5"));
    assert_eq!(text.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(text.header("x-content-type-options"), "nosniff");

    for (range, bytes, said) in [
        ("bytes=0-4", &b"hello"[..], "bytes 0-4/12"),
        ("bytes=6-", b"world\xff", "bytes 6-11/12"),
        ("bytes=-3", b"ld\xff", "bytes 9-11/12"),
        ("bytes=11-9999", b"\xff", "bytes 11-11/12"),
    ] {
        let part = scene.call("read-only", "GET", &path, &[("range", range)], None).await;
        assert_eq!((part.status.as_u16(), &part.bytes[..], part.header("content-range")), (206, bytes, said));
    }
    let beyond = scene.call("read-only", "GET", &path, &[("range", "bytes=12-")], None).await;
    assert_eq!((beyond.status.as_u16(), beyond.header("content-range")), (416, "bytes */12"));
    assert_eq!(scene.get(&format!("{path}?epoch=2")).await.status, 404);
    assert_eq!(scene.get(&format!("{path}?offset={}", u64::MAX)).await.pointers(), ["offset"]);
    assert_eq!(scene.get(&format!("{path}?limit_bytes=0")).await.pointers(), ["limit_bytes"]);

    let logs = scene.get(&format!("/agents/{agent}/logs")).await;
    let log = &logs.json["items"][0];
    assert_eq!((&log["job"], &log["size_bytes"]), (&json!(job), &json!(12)));
    assert!(log["tail"].as_str().unwrap().starts_with("hello world"));
}

#[tokio::test]
async fn the_end_of_a_long_log_is_found() {
    let scene = Scene::new();
    scene.post("/jobs", json!({"kind": "mail.send"})).await;
    let agent = scene.agent("a", 1).await;
    let (session, jobs) = scene.claim(&agent).await;
    let mut offset = 0;
    for length in [60_000, 4096, 1, 33_333] {
        scene.print(session, &jobs[0], offset, &vec![b'a' + (offset % 26) as u8; length]).await;
        offset += length as u64;
        assert_eq!(scene.orchestrator.log_size(jobs[0].run).await.unwrap(), offset);
    }
    let tail = scene.orchestrator.log_tail(jobs[0].run, 4096).await.unwrap();
    assert_eq!((tail.size_bytes, tail.bytes.len()), (97_430, 4096));
}
