//! Two servers on one store, and an agent that names both.

use std::time::{Duration, Instant};

use mamos_testbed::PostgresSchema;
use rustix::process::Signal;

use super::place::{Place, Program, Server, dev_with};

/// After the kill of its server an agent is back at another, and its jobs run, so soon.
const BACK_WITHIN: Duration = Duration::from_secs(5);

/// The agent's server is killed; what is enqueued at the other runs on it.
async fn an_agent_goes_to_the_other_server(store: &str) {
    let place = Place::new();
    let (one, key, token) = dev_with(&place, &["--store", store, "--name", "one"]).await;
    let (two, ..) = dev_with(&place, &["--store", store, "--name", "two"]).await;
    let both = [&one, &two].map(|server| server.url.replacen("http", "ws", 1));
    let arguments =
        ["--server", &both[0], "--server", &both[1], "--registration-token", &token, "--name", "both", "run"];
    let mut agent = Program::start(place.agent_command(&arguments));
    agent.until(": connected agent=").await;
    // Wherever it is, any server takes jobs for it, with the key of the other.
    for server in [&one, &two] {
        let ran = place.ctl(server, &key, &["run", "--follow", "hello", "whom=you"], "").await;
        assert!(ran.code == 0 && ran.out.contains("hello you"), "{} {}", ran.out, ran.err);
    }
    // Only the server that it is connected to sees it as connected.
    let sees = async |server: &Server| {
        let live = place.ctl(server, &key, &["--json", "status"], "").await;
        assert_eq!(live.code, 0, "{}", live.err);
        live.out.contains("\"connected\":true")
    };
    let is_at_one = sees(&one).await;
    assert_ne!(is_at_one, sees(&two).await, "it is connected to one of them");
    let (mut dies, lives) = if is_at_one { (one, two) } else { (two, one) };
    dies.program.send(Signal::KILL);
    let began = Instant::now();
    dies.program.end().await;
    let ran = place.ctl(&lives, &key, &["run", "--follow", "hello", "whom=again"], "").await;
    assert!(ran.code == 0 && ran.out.contains("hello again"), "{} {}", ran.out, ran.err);
    assert!(began.elapsed() < BACK_WITHIN, "it took {:?}", began.elapsed());
    lives.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres() {
    let schema = PostgresSchema::unique();
    an_agent_goes_to_the_other_server(&format!("{}?schema={}", schema.url(), schema.name())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_redis() {
    let server = mamos_testbed::RedisServer::start();
    an_agent_goes_to_the_other_server(&server.url()).await;
}
