//! Figures and health.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use mamos_core::job::Outcome;
use mamos_core::protocol::RunEvent;

use crate::scene::{Scene, Served, fetch, http};

/// From `shared/design/conventions.md`, under Telemetry.
const PROMISED: [&str; 13] = [
    "jobs_enqueued_total{queue,kind}",
    "jobs_settled_total{queue,kind,outcome}",
    "job_wait_seconds",
    "job_run_seconds",
    "jobs{queue,state}",
    "queue_oldest_seconds{queue}",
    "agents{state}",
    "sessions",
    "dispatch_lag_seconds",
    "store_operation_seconds{operation}",
    "store_errors_total{operation}",
    "stale_writes_total{verb}",
    "http_request_duration_seconds{method,route,status}",
];

async fn metrics(served: &Served) -> String {
    // From this machine, without a token.
    fetch(format!("http://{}/metrics", served.address)).await.unwrap().text().await.unwrap()
}

fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
}

/// Every series without its values: its name and the names of its labels.
fn shapes(text: &str) -> BTreeSet<String> {
    let series = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    let shape = |series: &str| {
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let name =
            ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        let labels = labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0));
        let labels: Vec<&str> = labels.filter(|label| *label != "le").collect();
        match labels.is_empty() {
            true => name.to_owned(),
            false => format!("{name}{{{}}}", labels.join(",")),
        }
    };
    series.map(|(series, _)| shape(series)).collect()
}

#[tokio::test]
async fn the_figures_are_those_that_were_promised_and_are_right() {
    let scene = Scene::new().await;
    let served = scene.serve(|server| server).await;
    scene.enqueue("a").await;
    scene.enqueue("b").await;
    let mut agent = scene.agent().await;
    let run = agent.job().await.run;
    agent.report(run, RunEvent::Started).await;
    agent.report(run, RunEvent::Ended(Outcome::Succeeded { output: Bytes::new() })).await;
    // Again, and of nobody's run.
    let stale = mamos_core::lease::RunRef { epoch: run.epoch.next(), ..run };
    agent.report(stale, RunEvent::Started).await;
    scene.orchestrator.wait(run.job).await.unwrap();
    while scene.orchestrator.stats().stale_writes.iter().all(|(_, count)| *count == 0) {
        tokio::task::yield_now().await;
    }
    fetch(format!("http://{}/api/v1/jobs/secret", served.address)).await.unwrap();
    let text = metrics(&served).await;
    assert_eq!(value(&text, r#"mamos_jobs_enqueued_total{queue="q",kind="k"}"#), 2.0);
    assert_eq!(value(&text, r#"mamos_jobs_settled_total{queue="q",kind="k",outcome="succeeded"}"#), 1.0);
    assert_eq!(value(&text, r#"mamos_jobs{queue="q",state="succeeded"}"#), 1.0);
    assert_eq!(value(&text, r#"mamos_agents{state="running"}"#), 1.0);
    assert_eq!(value(&text, "mamos_sessions"), 1.0);
    assert_eq!(value(&text, "mamos_job_run_seconds_count"), 1.0);
    assert!(value(&text, "mamos_job_wait_seconds_count") >= 1.0);
    assert!(value(&text, "mamos_dispatch_lag_seconds_count") >= 1.0);
    assert_eq!(value(&text, r#"mamos_stale_writes_total{verb="started"}"#), 1.0);
    assert!(value(&text, r#"mamos_store_operation_seconds_count{operation="enqueue"}"#) >= 1.0);
    assert!(text.ends_with("# EOF\n"));
    assert!(!text.contains("secret"), "a path that fits no route is no label");
    let shapes = shapes(&metrics(&served).await);
    for promised in PROMISED {
        assert!(shapes.contains(&format!("mamos_{promised}")), "{promised} is not in {shapes:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_can_be_read_under_load() {
    let scene = Scene::new().await;
    let served = scene.serve(|server| server).await;
    let orchestrator = scene.orchestrator.clone();
    let load = tokio::spawn(async move {
        loop {
            orchestrator.pause(&"q".parse().unwrap()).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    let reads = (0..20).map(async |_| metrics(&served).await);
    let texts = futures_util::future::join_all(reads).await;
    assert!(texts.iter().all(|text| text.ends_with("# EOF\n")));
    load.abort();
}

#[tokio::test]
async fn only_this_machine_and_those_who_may_read_see_the_figures() {
    let scene = Scene::new().await;
    let served = scene.serve(|server| server).await;
    let url = format!("http://{}/metrics", served.address);
    let client = http();
    let proxied = || client.get(&url).header("x-forwarded-for", "192.0.2.1");
    assert_eq!(proxied().send().await.unwrap().status(), 401);
    assert_eq!(proxied().bearer_auth("bob").send().await.unwrap().status(), 403);
    assert_eq!(proxied().bearer_auth("ann").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn it_is_ready_while_it_can_work_and_says_why_not() {
    let scene = Scene::new().await;
    let served = scene.serve(|server| server).await;
    let get = async |path: &str| {
        let response = fetch(format!("http://{}{path}", served.address)).await.unwrap();
        (response.status().as_u16(), response.json::<serde_json::Value>().await.unwrap())
    };
    assert_eq!(get("/livez").await.0, 200);
    let (status, ready) = get("/readyz").await;
    assert_eq!((status, ready["status"].as_str()), (200, Some("ready")), "{ready}");
    scene.orchestrator.drain(Duration::ZERO).await;
    let (status, ready) = get("/readyz").await;
    assert_eq!((status, ready["status"].as_str()), (503, Some("not_ready")));
    let failed = ready["checks"].as_array().unwrap().iter().filter(|check| check["is_ok"] == false);
    assert_eq!(failed.map(|check| &check["name"]).collect::<Vec<_>>(), ["not_draining"]);
    scene.orchestrator.undrain();
    assert_eq!(get("/readyz").await.0, 200);
    scene.stop().await;
    let (status, ready) = get("/readyz").await;
    assert_eq!(status, 503, "{ready}");
    assert_eq!(get("/livez").await.0, 200);
}
