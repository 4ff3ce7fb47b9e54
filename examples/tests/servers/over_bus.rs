//! Agents come over a bus, run commands, and are back soon after the server was killed.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::place::{PATIENCE, Place, Program, Server, dev_with};

/// A job that was enqueued after a kill has run so soon.
const BACK_WITHIN: Duration = Duration::from_secs(5);

/// The URL with a prefix that nobody else has.
pub(crate) fn apart(url: &str) -> String {
    format!("{url}?prefix={}", mamos_testbed::unique_name())
}

/// What the server said that agents pin.
pub(crate) fn pin_of(server: &Server) -> String {
    let rest = server.program.said.split("pin=").nth(1).expect("it was said");
    rest.split_whitespace().next().unwrap().to_owned()
}

/// Runs a command on an agent that comes over this bus, and once more after the server was killed.
async fn jobs_run_over(bus: &str) {
    let place = Place::new();
    let store = format!("sqlite:{}", place.path("jobs.db"));
    let (mut server, key, token) = dev_with(&place, &["--store", &store, "--bus", bus]).await;
    assert!(server.program.said.contains("agents may come over the bus"), "{}", server.program.said);
    let pin = pin_of(&server);

    let checked = place.ended(&["--store", &store, "--bus", bus, "check"]).await;
    assert!(checked.code == 0 && checked.err.contains(&format!("pin        {pin}")), "{}", checked.err);

    for (arguments, expected) in [
        (&["link-key"][..], format!("{pin}\n")),
        (&["--json", "link-key"], format!("{{\"public_key\":\"{pin}\"}}\n")),
    ] {
        let shown = place.ctl(&server, &key, arguments, "").await;
        assert_eq!((shown.code, &shown.out), (0, &expected), "{}", shown.err);
    }

    let agent = ["--server", bus, "--pin", &pin, "--name", "over a bus"];
    let checked = [&agent[..], &["--registration-token", &token, "check"]].concat();
    let checked = place.agent_command(&checked).output().await.unwrap();
    let text = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success() && text.contains("link over-a-bus over"), "{checked:?}");

    let registered = [&agent[..], &["--registration-token", &token, "register"]].concat();
    let registered = place.agent_command(&registered).output().await.unwrap();
    assert!(registered.status.success(), "{}", String::from_utf8_lossy(&registered.stderr));
    let mut agent = Program::start(place.agent_command(&[&agent[..], &["run"]].concat()));
    agent.until(": connected agent=").await;
    assert!(!agent.said.contains("no key is pinned"), "{}", agent.said);

    let ran = place.ctl(&server, &key, &["run", "--follow", "hello", "whom=you"], "").await;
    assert!(ran.code == 0 && ran.out.contains("hello you"), "{} {}", ran.out, ran.err);

    let listen = server.address();
    server.program.send(Signal::KILL);
    server.program.end().await;
    let server = place.start(&["--dev", "--store", &store, "--bus", bus, "--listen", &listen]).await;
    let began = Instant::now();
    let ran = place.ctl(&server, &key, &["run", "--follow", "hello", "whom=me"], "").await;
    assert!(ran.code == 0 && ran.out.contains("hello me"), "{} {}", ran.out, ran.err);
    assert!(began.elapsed() < BACK_WITHIN, "it took {:?}", began.elapsed());
    assert!(server.program.said.contains(&pin), "the key is kept: {}", server.program.said);
    server.stop().await;
    // It was told, and did not have to wait for silence.
    agent.until("the orchestrator closed the link").await;
    agent.send(Signal::TERM);
    assert_eq!(agent.end().await, 0, "{}", agent.said);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_run_over_nats() {
    jobs_run_over(&apart(&mamos_testbed::nats_url())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_run_over_redis() {
    jobs_run_over(&apart(&mamos_testbed::redis_url())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_run_over_rabbitmq() {
    jobs_run_over(&apart(&mamos_testbed::amqp_url())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_may_start_before_the_broker() {
    let place = Place::new();
    // Nobody is there, then the broker is.
    let port = mamos_testbed::free_port();
    let bus = format!("nats://127.0.0.1:{port}");
    let arguments =
        ["--server", &bus, "--name", "early", "--registration-token", "mamos_reg_0", "--log", "debug"];
    let mut agent = Program::start(place.agent_command(&[&arguments[..], &["run"]].concat()));
    agent.until("does not answer").await;
    let _broker = mamos_testbed::NatsServer::at(port);
    agent.until("no orchestrator answered").await;
    agent.send(Signal::TERM);
    assert_eq!(tokio::time::timeout(PATIENCE, agent.end()).await.unwrap(), 0, "{}", agent.said);
}
