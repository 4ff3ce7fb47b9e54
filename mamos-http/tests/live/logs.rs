//! What a job prints, while it prints it.

use base64::Engine as _;
use bytes::Bytes;
use mamos_core::agent::LogStream;
use mamos_core::job::{Failure, Outcome};
use mamos_core::protocol::RunEvent;

use crate::scene::{Client, Heard, Scene, http};

fn printed(offset: u64, bytes: &[u8]) -> RunEvent {
    RunEvent::Log { offset, stream: LogStream::Stdout, bytes: Bytes::copy_from_slice(bytes) }
}

fn bytes(heard: &Heard) -> Vec<u8> {
    match (heard.data["text"].as_str(), heard.data["base64"].as_str()) {
        (Some(text), None) => text.as_bytes().to_vec(),
        (None, Some(text)) => base64::prelude::BASE64_STANDARD.decode(text).unwrap(),
        _ => panic!("{heard:?}"),
    }
}

#[tokio::test]
async fn a_log_is_followed_over_all_attempts_without_a_gap_to_the_end_of_the_job() {
    let scene = Scene::new().await;
    let served = scene.serve(|server| server).await;
    let job = scene.enqueue("a").await;
    let path = format!("/api/v1/jobs/{job}/log/follow");
    // Before the job has begun.
    let mut client = Client::open(served.address, &path, "ann", None).await;
    let mut agent = scene.agent().await;
    // The second character is cut in two.
    let pieces: [&[u8]; 3] = [b"one ", b"gr\xc3", b"\xb6\xc3\x9fer\n"];
    for attempt in 1..=2 {
        let run = agent.job().await.run;
        let mut offset = 0;
        for piece in pieces {
            agent.report(run, printed(offset, piece)).await;
            offset += piece.len() as u64;
            if attempt == 1 && piece == pieces[0] {
                // Live: it comes before the next piece is printed.
                let begun = client.next().await.unwrap();
                assert_eq!((begun.event.as_str(), begun.data["epoch"].as_str()), ("attempt", Some("1")));
                assert_eq!(bytes(&client.next().await.unwrap()), b"one ");
            }
        }
        let outcome = match attempt {
            1 => Outcome::Retry { failure: Failure::new("again", ""), after: None },
            _ => Outcome::Succeeded { output: Bytes::from_static(b"null") },
        };
        agent.report(run, RunEvent::Ended(outcome)).await;
    }
    let (mut text, mut next, mut epoch) = (b"one ".to_vec(), 4, "1".to_owned());
    let end = loop {
        let heard = client.next().await.expect("it says that it ends");
        match heard.event.as_str() {
            "attempt" => {
                epoch = heard.data["epoch"].as_str().unwrap().to_owned();
                next = heard.data["offset"].as_u64().unwrap();
            }
            "log" => {
                assert_eq!(heard.data["offset"].as_u64(), Some(next), "a byte is missing or came twice");
                next = heard.data["next_offset"].as_u64().unwrap();
                text.extend(bytes(&heard));
            }
            _ => break heard,
        }
    };
    assert_eq!((end.event.as_str(), end.data["state"].as_str()), ("end", Some("succeeded")));
    assert_eq!((epoch.as_str(), text), ("2", pieces.concat().repeat(2)));
    assert!(client.next().await.is_none());
    // Somebody who had read a part of the first attempt comes back.
    let mut later = Client::open(served.address, &path, "ann", Some("1-6")).await;
    let mut rest = Vec::new();
    loop {
        let heard = later.next().await.unwrap();
        match heard.event.as_str() {
            "attempt" => {}
            "log" => rest.extend(bytes(&heard)),
            _ => break,
        }
    }
    assert_eq!(rest, [&pieces.concat()[6..], &pieces.concat()].concat());
}

#[tokio::test]
async fn a_job_that_is_not_there_has_no_stream() {
    let scene = Scene::new().await;
    let served = scene.serve(|server| server).await;
    let client = http();
    let job = mamos_core::id::JobId::from_key("nobody's");
    for (path, status) in [
        (format!("jobs/{job}/log/follow"), 404),
        ("jobs/x/log/follow".to_owned(), 404),
        (format!("jobs/{}/log/follow?epoch=x", scene.enqueue("a").await), 400),
    ] {
        let url = format!("http://{}/api/v1/{path}", served.address);
        assert_eq!(client.get(url).bearer_auth("ann").send().await.unwrap().status(), status, "{path}");
    }
}
