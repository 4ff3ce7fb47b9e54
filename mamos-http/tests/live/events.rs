//! What happens, as it happens.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use futures_util::StreamExt;
use mamos_core::id::QueueName;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tower::ServiceExt;

use crate::scene::{Client, LIMIT, Scene};

fn request(path: &str) -> Request<Body> {
    Request::get(path).header("authorization", "Bearer ann").body(Body::empty()).unwrap()
}

async fn json(scene: &Scene, path: &str) -> serde_json::Value {
    let response = scene.api.router().oneshot(request(path)).await.unwrap();
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_comes_and_goes_reads_every_event_exactly_once() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let scene = Scene::new().await;
    let served = scene.serve(|server| server).await;
    // Learnt before anything happens, from the first heartbeat of a page.
    let mut last_id =
        json(&scene, "/api/v1/events?format=json").await["next_cursor"].as_str().map(str::to_owned);
    let orchestrator = scene.orchestrator.clone();
    const QUEUES: usize = 3000;
    let writing = tokio::spawn(async move {
        for n in 0..QUEUES {
            orchestrator.pause(&QueueName::new(format!("q{n}")).unwrap()).await.unwrap();
            if n % 50 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    let mut seen = Vec::new();
    let mut connections = 0;
    while seen.len() < QUEUES {
        connections += 1;
        let path = "/api/v1/events?topic=queues";
        let mut client = Client::open(served.address, path, "ann", last_id.as_deref()).await;
        for _ in 0..random.usize(0..200) {
            if seen.len() == QUEUES {
                break;
            }
            let heard = client.next().await.expect("the stream goes on");
            assert_eq!(heard.event, "queue_paused", "{heard:?}");
            seen.push(heard.data["queue"].as_str().unwrap().to_owned());
        }
        last_id = client.last_id.clone();
    }
    writing.await.unwrap();
    let expected: Vec<String> = (0..QUEUES).map(|n| format!("q{n}")).collect();
    assert_eq!(seen, expected);
    assert!(connections > 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_is_too_slow_is_told_and_fills_no_memory() {
    let scene = Scene::new().await;
    let response = scene.api.router().oneshot(request("/api/v1/events")).await.unwrap();
    let mut body = response.into_body().into_data_stream();
    let queue = QueueName::new("q").unwrap();
    body.next().await.unwrap().unwrap();
    for _ in 0..10_000 {
        scene.orchestrator.pause(&queue).await.unwrap();
    }
    let chunk = body.next().await.unwrap().unwrap();
    // However much is there, one piece is given, and the next one is made when that is taken.
    assert!(chunk.len() < 32 * 1024, "{}", chunk.len());
    let text = std::str::from_utf8(&chunk).unwrap();
    assert!(text.contains("event: gap"), "{text}");
    let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let gap: serde_json::Value = serde_json::from_str(data).unwrap();
    assert_eq!((gap["event"].as_str(), gap["missed"].as_u64()), (Some("gap"), Some(10_000 - 8192)));
}

#[tokio::test]
async fn whoever_comes_from_an_earlier_life_is_told_first() {
    let scene = Scene::new().await;
    let served = scene.serve(|server| server).await;
    scene.enqueue("a").await;
    let mut client = Client::open(served.address, "/api/v1/events", "ann", Some("0123456789abcdef-7")).await;
    let first = client.next().await.unwrap();
    assert_eq!((first.event.as_str(), &first.data["missed"]), ("gap", &serde_json::Value::Null));
    assert_eq!(first.data["reason"], "other_series");
    let job = client.expect("job_enqueued").await;
    assert_eq!((job.data["queue"].as_str(), job.data["kind"].as_str()), (Some("q"), Some("k")));
}

#[tokio::test]
async fn only_what_was_asked_for_comes() {
    let scene = Scene::new().await;
    let first = scene.enqueue("a").await;
    scene.orchestrator.pause(&QueueName::new("q").unwrap()).await.unwrap();
    scene.orchestrator.cancel(first, "", Duration::ZERO).await.unwrap();
    let names = async |path: &str| -> Vec<String> {
        let page = json(&scene, path).await;
        let items = page["items"].as_array().unwrap();
        items.iter().map(|item| item["event"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("/api/v1/events?format=json").await, ["job_enqueued", "queue_paused", "job_changed"]);
    // That of the cancel does not say its queue: it is looked up.
    assert_eq!(names("/api/v1/events?format=json&queue=q&topic=jobs").await, ["job_enqueued", "job_changed"]);
    assert_eq!(names("/api/v1/events?format=json&queue=r").await, [""; 0]);
    assert_eq!(names("/api/v1/events?format=json&kind=k&event=job_changed").await, ["job_changed"]);
    let page = json(&scene, "/api/v1/events?format=json&limit=1").await;
    let next = page["next_cursor"].as_str().unwrap();
    assert_eq!(
        names(&format!("/api/v1/events?format=json&after={next}")).await,
        ["queue_paused", "job_changed"]
    );
    for wrong in ["topic=x", "event=x", "job=x", "after=x-y", "limit=0&format=json", "nonsense=1"] {
        let response = scene.api.router().oneshot(request(&format!("/api/v1/events?{wrong}"))).await.unwrap();
        assert_eq!(response.status(), 400, "{wrong}");
    }
}

#[tokio::test]
async fn a_stream_ends_when_its_caller_may_not_read_any_more() {
    let scene =
        Scene::with(|engine| engine, |api| api.recheck_streams_every(Duration::from_millis(50))).await;
    let served = scene.serve(|server| server).await;
    let mut client = Client::open(served.address, "/api/v1/events", "ann", None).await;
    scene.enqueue("a").await;
    client.expect("job_enqueued").await;
    scene.doorman.forget("ann");
    let end = client.expect("end").await;
    assert_eq!(end.data["reason"], "revoked");
    assert!(client.next().await.is_none());
}

#[tokio::test]
async fn strangers_and_those_who_may_not_read_get_no_stream() {
    let scene = Scene::new().await;
    for (token, status) in [("eve", 401), ("bob", 403)] {
        for path in
            ["/api/v1/events", "/api/v1/events/ws", "/api/v1/jobs/x/log/follow", "/api/v1/jobs/x/log/ws"]
        {
            let request =
                Request::get(path).header("authorization", format!("Bearer {token}")).body(Body::empty());
            let response = scene.api.router().oneshot(request.unwrap()).await.unwrap();
            assert_eq!(response.status(), status, "{token} {path}");
        }
    }
}

#[tokio::test]
async fn a_websocket_takes_its_token_from_the_subprotocol_and_never_repeats_it() {
    let scene = Scene::new().await;
    let served = scene.serve(|server| server).await;
    let mut request =
        format!("ws://{}/api/v1/events/ws?topic=jobs", served.address).into_client_request().unwrap();
    let protocols = "mamos.v1, mamos.bearer.ann".parse().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", protocols);
    let (mut socket, response) = tokio_tungstenite::connect_async(request).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "mamos.v1");
    let job = scene.enqueue("a").await;
    let text = loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Text(text) => break text,
            other => assert!(other.is_ping(), "{other:?}"),
        }
    };
    let event: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (event["event"].as_str(), event["job"].as_str()),
        (Some("job_enqueued"), Some(&*job.to_string()))
    );
    assert!(event["id"].as_str().unwrap().starts_with(scene.orchestrator.event_series()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_streams_hear_the_same_and_one_more_is_refused() {
    let scene = Scene::with(|engine| engine, |api| api.max_streams(1000, 1000).request_rate(None)).await;
    let router = scene.api.router();
    let mut streams = Vec::new();
    for _ in 0..1000 {
        let response = router.clone().oneshot(request("/api/v1/events?topic=queues")).await.unwrap();
        assert_eq!(response.status(), 200);
        streams.push(response.into_body().into_data_stream());
    }
    let refused = router.clone().oneshot(request("/api/v1/events")).await.unwrap();
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
    for n in 0..10 {
        scene.orchestrator.pause(&QueueName::new(format!("q{n}")).unwrap()).await.unwrap();
    }
    let heard = futures_util::future::join_all(streams.iter_mut().map(async |stream| {
        let mut text = String::new();
        while text.matches("event: queue_paused").count() < 10 {
            text.push_str(std::str::from_utf8(&stream.next().await.unwrap().unwrap()).unwrap());
        }
        text
    }));
    let heard = tokio::time::timeout(LIMIT, heard).await.unwrap();
    assert!(heard.iter().all(|text| *text == heard[0]), "all hear the same");
    drop(streams);
    let again = router.oneshot(request("/api/v1/events")).await.unwrap();
    assert_eq!(again.status(), 200, "the places came back");
}
