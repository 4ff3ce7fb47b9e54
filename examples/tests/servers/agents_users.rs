//! Agents with a user of their own at the broker, which may use their topics only: as the pages of the buses say.

use mamos_testbed::{NatsServer, RabbitServer, RedisServer, nats_agent_config, redis_agent_acl};

use rustix::process::Signal;

use super::over_bus::pin_of;
use super::place::{Place, Program, dev_with};

/// The link of these agents.
const LINK: &str = "a1";

/// A server that comes as `orchestrator`, and an agent as a user that may little, run a job.
async fn a_job_runs(orchestrator: &str, agent: &str) {
    let place = Place::new();
    let (server, key, token) = dev_with(&place, &["--bus", orchestrator]).await;
    let pin = pin_of(&server);
    place.write("address", agent);
    let address = place.path("address");
    let arguments = ["--server-file", &address, "--pin", &pin, "--registration-token", &token];
    let start = |name| {
        let arguments = [&arguments[..], &["--bus-name", name, "run"]].concat();
        Program::start(place.agent_command(&arguments))
    };
    let mut other = start("a2");
    // Its user may not use the topics of that link: the broker says so.
    other.until("error=").await;
    assert!(!other.said.contains(": connected agent="), "{}", other.said);
    other.send(Signal::KILL);
    other.end().await;

    let mut agent = start(LINK);
    agent.until(": connected agent=").await;
    let ran = place.ctl(&server, &key, &["run", "--follow", "hello", "whom=you"], "").await;
    assert!(ran.code == 0 && ran.out.contains("hello you"), "{} {}", ran.out, ran.err);
    for said in [&agent.said, &server.program.said] {
        assert!(!said.contains(":a@") && !said.contains(":o@"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_nats() {
    let broker = NatsServer::with_config(&nats_agent_config("mamos", LINK));
    let place = format!("127.0.0.1:{}", broker.port());
    let agent = format!("nats://agent:a@{place}?inbox_prefix=_INBOX.{LINK}");
    a_job_runs(&format!("nats://orchestrator:o@{place}"), &agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_redis() {
    let broker = RedisServer::start();
    let acl = redis_agent_acl("mamos", LINK);
    let words: Vec<_> = std::iter::once("ACL").chain(acl.iter().map(String::as_str)).collect();
    assert_eq!(broker.command(&words), "OK");
    a_job_runs(&broker.url(), &format!("redis://agent:a@127.0.0.1:{}", broker.port())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_rabbitmq() {
    let broker = RabbitServer::start();
    let own = r"^mamos~(alone|transient|durable)~link\.a1\.[0-9a-f]+\.down~";
    let own_and_exchange = format!("^mamos$|{own}");
    let (up, down) = (r"^(link\.a1\.[0-9a-f]+\.up|link-hello)$", r"^link\.a1\.[0-9a-f]+\.down$");
    broker.control(&["add_user", "agent", "a"]);
    broker.control(&["set_permissions", "agent", own, &own_and_exchange, &own_and_exchange]);
    broker.control(&["set_topic_permissions", "agent", "mamos", up, down]);
    a_job_runs(&broker.url(), &format!("amqp://agent:a@127.0.0.1:{}/%2f", broker.port())).await;
}
