//! An agent in another language, written from `docs/protocol.md`: what the document promises must be enough
//! for it. Needs `python3`, 3.11 or later, and fails without.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use mamos_core::auth::TokenPolicy;
use mamos_core::event::What;
use mamos_core::job::AttemptEnd;
use mamos_core::lease::{Epoch, RunRef};
use mamos_core::orchestrator::{Builder, EventStream, JobHandle, Seen, TokenScope};
use mamos_core::{JobId, JobKind, JobState, Orchestrator};
use mamos_http::serve::ServerBuilder;
use mamos_http::{AGENT_LINK_PATH, AgentEndpoint, Server, Tls};
use mamos_store::MemoryStore;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Far longer than anything here takes, for machines that do much else.
const PATIENCE: Duration = Duration::from_secs(60);

const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// An orchestrator that is served.
struct Serving {
    orchestrator: Orchestrator,
    address: SocketAddr,
    stopping: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Serving {
    async fn begin(
        store: &Arc<MemoryStore>,
        server: ServerBuilder,
        adjust: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let (listener, route) = AgentEndpoint::new().split();
        let builder = Orchestrator::builder(store.clone()).listener(listener);
        let orchestrator = adjust(builder).build().unwrap();
        let server = server.bind().await.unwrap();
        let address = server.address();
        let stopping = CancellationToken::new();
        let (running, stop) = (orchestrator.clone(), stopping.clone().cancelled_owned());
        let serve =
            server.run(Router::new().route(AGENT_LINK_PATH, route), stopping.clone().cancelled_owned());
        let tasks = vec![tokio::spawn(async move { running.run(stop).await.unwrap() }), tokio::spawn(serve)];
        Self { orchestrator, address, stopping, tasks }
    }

    async fn stop(self) -> SocketAddr {
        self.stopping.cancel();
        for task in self.tasks {
            timeout(PATIENCE, task).await.expect("it stops in time").unwrap();
        }
        self.address
    }

    /// A file with a registration token.
    async fn token_file(&self, folder: &Path) -> PathBuf {
        let (_, token) = self.orchestrator.create_token(TokenScope::once(10 * PATIENCE)).await.unwrap();
        let file = folder.join("token");
        std::fs::write(&file, token.expose()).unwrap();
        file
    }

    async fn enqueue(&self, kind: &str, arguments: &Value) -> JobHandle<Value> {
        let kind = JobKind::new(kind).unwrap();
        self.orchestrator.enqueue_untyped(kind, arguments.to_string().into()).await.unwrap()
    }

    /// The whole log of the first run of a job; its pieces follow each other without gap or overlap.
    async fn log(&self, job: JobId) -> Vec<u8> {
        let run = RunRef { job, epoch: Epoch::NEVER.next() };
        let mut whole = Vec::new();
        loop {
            let pieces = self.orchestrator.log(run, whole.len() as u64, 1 << 20).await.unwrap();
            if pieces.is_empty() {
                return whole;
            }
            for piece in pieces {
                assert_eq!(piece.offset, whole.len() as u64);
                whole.extend_from_slice(&piece.bytes);
            }
        }
    }
}

/// The program, and what it tells on stdout.
struct Python {
    child: Child,
    told: Lines<BufReader<ChildStdout>>,
}

impl Python {
    fn start(address: SocketAddr, identity: &Path, token_file: Option<&Path>) -> Self {
        Self::start_with(&format!("ws://{address}"), identity, token_file, None)
    }

    fn start_with(url: &str, identity: &Path, token_file: Option<&Path>, authority: Option<&Path>) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("python_agent/agent.py");
        let mut command = Command::new("python3");
        // Its byte code is not kept beside its sources.
        command.arg("-B").arg(program).args(["--url", url, "--identity"]).arg(identity);
        for (option, file) in [("--registration-token-file", token_file), ("--ca-file", authority)] {
            if let Some(file) = file {
                command.arg(option).arg(file);
            }
        }
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn();
        let mut child = spawned.expect("this test runs an agent in Python; install python3, 3.11 or later");
        let told = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, told }
    }

    /// Waits until it tells this, and gives the rest of the line.
    async fn tells(&mut self, what: &str) -> Value {
        let looking = async {
            loop {
                let line = self.told.next_line().await.unwrap();
                let line = line.unwrap_or_else(|| panic!("it ended and never told {what:?}"));
                let line: Value = serde_json::from_str(&line).unwrap();
                if line["what"] == what {
                    return line;
                }
            }
        };
        timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("it has not told {what:?}"))
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    async fn exit_code(mut self) -> Option<i32> {
        timeout(PATIENCE, self.child.wait()).await.expect("it ends in time").unwrap().code()
    }
}

/// A served orchestrator with one registered agent.
struct Scene {
    store: Arc<MemoryStore>,
    serving: Serving,
    folder: TempDir,
    agent: Python,
    welcome: Value,
}

impl Scene {
    async fn new(adjust: impl FnOnce(Builder) -> Builder) -> Self {
        let store = Arc::new(MemoryStore::new());
        let serving = Serving::begin(&store, Server::builder(ANY_PORT), adjust).await;
        let folder = tempfile::tempdir().unwrap();
        let token_file = serving.token_file(folder.path()).await;
        let identity = folder.path().join("identity.json");
        let mut agent = Python::start(serving.address, &identity, Some(&token_file));
        let welcome = agent.tells("welcomed").await;
        Self { store, serving, folder, agent, welcome }
    }

    fn identity(&self) -> PathBuf {
        self.folder.path().join("identity.json")
    }

    fn kept(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.identity()).unwrap()).unwrap()
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Waits for an event.
async fn until(events: &mut EventStream, is_it: impl Fn(&What) -> bool) {
    let looking = async {
        loop {
            match events.next().await {
                Some(Seen::Event(event)) if is_it(&event.what) => return,
                Some(Seen::Event(_)) => {}
                other => panic!("events are missing: {other:?}"),
            }
        }
    };
    timeout(PATIENCE, looking).await.expect("the event comes in time");
}

#[tokio::test]
async fn it_registers_and_runs_a_job_whose_log_arrives_whole() {
    use std::os::unix::fs::PermissionsExt;

    let mut scene = Scene::new(|builder| builder).await;
    let mode = std::fs::metadata(scene.identity()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "its key is nobody else's");
    let agent = scene.serving.orchestrator.live_agents().pop().unwrap();
    assert_eq!(agent.agent.to_string(), scene.welcome["agent"]);

    // More than a piece of a log may have, so that it comes in several.
    let lines = json!(["grüße", "x".repeat(150_000), "end"]);
    let job = scene.serving.enqueue("python.echo", &json!({ "lines": lines })).await;
    let output = timeout(PATIENCE, job.wait()).await.unwrap().unwrap();
    assert_eq!(output["lines"], lines);
    let log = String::from_utf8(scene.serving.log(job.id()).await).unwrap();
    assert!(log == format!("grüße\n{}\nend\n", "x".repeat(150_000)), "{} bytes", log.len());
    let record = job.record().await.unwrap();
    let progress = record.progress.unwrap();
    assert_eq!((progress.percent, &*progress.note), (Some(100.0), "line 3"));
    let recorded = scene.agent.tells("recorded").await;
    assert_eq!(recorded["run"]["job"], job.id().to_string());

    // A job that it cannot do, in its own words.
    let job = scene.serving.enqueue("python.echo", &json!({})).await;
    let record = timeout(PATIENCE, scene.serving.orchestrator.wait(job.id())).await.unwrap().unwrap();
    assert_eq!(record.state, JobState::Dead);
    assert_eq!(record.failure.unwrap().code, "bad_arguments");
}

#[tokio::test]
async fn its_heartbeats_keep_a_job_for_longer_than_a_lease() {
    let quick = |builder: Builder| builder.lease_ttl(seconds(3)).heartbeat_every(Duration::from_millis(400));
    let scene = Scene::new(quick).await;
    let mut events = scene.serving.orchestrator.events();
    let job = scene.serving.enqueue("python.slow", &json!({ "ms": 6000 })).await;
    until(&mut events, |what| matches!(what, What::JobStarted { .. })).await;

    // While it works it has nothing else to say.
    let mut heard = std::collections::BTreeSet::new();
    let ended = timeout(PATIENCE, scene.serving.orchestrator.wait(job.id()));
    tokio::pin!(ended);
    let mut looks = tokio::time::interval(Duration::from_millis(50));
    let record = loop {
        tokio::select! {
            ended = &mut ended => break ended.unwrap().unwrap(),
            _ = looks.tick() => {
                heard.extend(scene.serving.orchestrator.live_agents().pop().map(|agent| agent.heard_at));
            }
        }
    };
    assert!(heard.len() > 5, "heard {} times", heard.len());
    assert_eq!((record.state, record.epoch.number()), (JobState::Succeeded, 1), "nobody took it away");
    assert_eq!(record.output.unwrap(), r#"{"attempt": 1}"#);
}

#[tokio::test]
async fn its_late_result_is_stale_and_stays_as_evidence() {
    let mut scene = Scene::new(|builder| builder).await;
    let orchestrator = &scene.serving.orchestrator;
    let mut events = orchestrator.events();
    // It hears nothing while it is busy, so it does not learn that the job was given up.
    let job = orchestrator
        .enqueue_untyped(JobKind::new("python.slow").unwrap(), json!({ "busy_ms": 5000 }).to_string().into())
        .give_up_after(seconds(3))
        .await
        .unwrap();
    until(&mut events, |what| matches!(what, What::JobStarted { .. })).await;
    let record = timeout(PATIENCE, orchestrator.wait(job.id())).await.unwrap().unwrap();
    assert_eq!(record.state, JobState::Dead);

    until(&mut events, |what| matches!(what, What::StaleWrite { run, .. } if run.job == job.id())).await;
    let verdict = scene.agent.tells("verdict").await;
    assert_eq!(verdict["verdict"], "stale");
    assert_eq!(verdict["run"], json!({ "job": job.id().to_string(), "epoch": 1 }));
    let ends: Vec<_> =
        orchestrator.attempts(job.id()).await.unwrap().iter().map(|run| (run.end, run.is_late)).collect();
    assert_eq!(ends, [(Some(AttemptEnd::Overdue), false), (Some(AttemptEnd::Succeeded), true)]);
    assert_eq!(job.record().await.unwrap().state, JobState::Dead, "the late result changed nothing");

    // The link is as good as before.
    let job = scene.serving.enqueue("python.echo", &json!({ "lines": ["still here"] })).await;
    timeout(PATIENCE, job.wait()).await.unwrap().unwrap();
}

#[tokio::test]
async fn it_ends_what_it_lost_with_its_lease_and_works_on() {
    let quick = |builder: Builder| builder.lease_ttl(seconds(2)).heartbeat_every(Duration::from_millis(400));
    let mut scene = Scene::new(quick).await;
    let mut events = scene.serving.orchestrator.events();
    let job = scene.serving.enqueue("python.slow", &json!({ "ms": 3000 })).await;
    until(&mut events, |what| matches!(what, What::JobStarted { .. })).await;

    scene.agent.signal(Signal::STOP);
    until(&mut events, |what| matches!(what, What::AgentLost { .. })).await;
    scene.agent.signal(Signal::CONT);
    let welcome = scene.agent.tells("welcomed").await;
    assert_eq!((&welcome["is_resumed"], &welcome["runs"]), (&json!(false), &json!(1)));
    assert_ne!(welcome["session"], scene.welcome["session"]);
    let killed = scene.agent.tells("killed").await;
    assert_eq!(killed["run"], json!({ "job": job.id().to_string(), "epoch": 1 }));

    let record = timeout(PATIENCE, scene.serving.orchestrator.wait(job.id())).await.unwrap().unwrap();
    assert_eq!((record.state, record.counters.crashes), (JobState::Succeeded, 1));
    assert!(record.epoch.number() > 1);
}

#[tokio::test]
async fn it_comes_back_to_a_restarted_orchestrator_with_its_session_and_its_job() {
    let mut scene = Scene::new(|builder| builder).await;
    let mut events = scene.serving.orchestrator.events();
    let job = scene.serving.enqueue("python.slow", &json!({ "ms": 3000 })).await.id();
    until(&mut events, |what| matches!(what, What::JobStarted { .. })).await;

    let address = scene.serving.stop().await;
    scene.agent.tells("cut").await;
    scene.serving = Serving::begin(&scene.store, Server::builder(address), |builder| builder).await;
    let welcome = scene.agent.tells("welcomed").await;
    assert_eq!((&welcome["is_resumed"], &welcome["runs"]), (&json!(true), &json!(1)));
    assert_eq!(welcome["session"], scene.welcome["session"]);
    assert_eq!(welcome["agent"], scene.welcome["agent"]);

    let record = timeout(PATIENCE, scene.serving.orchestrator.wait(job)).await.unwrap().unwrap();
    assert_eq!((record.state, record.epoch.number()), (JobState::Succeeded, 1));
    assert_eq!(scene.serving.log(job).await, b"began\nended\n");
    assert_eq!(scene.serving.orchestrator.attempts(job).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_wrong_proof_is_refused_for_good() {
    let mut scene = Scene::new(|builder| builder).await;
    let mut events = scene.serving.orchestrator.events();
    // Its token, with the key of somebody else.
    let mut stolen = scene.kept();
    stolen["private_key"] = json!("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8");
    let identity = scene.folder.path().join("stolen.json");
    std::fs::write(&identity, stolen.to_string()).unwrap();

    let mut thief = Python::start(scene.serving.address, &identity, None);
    let refused = thief.tells("refused").await;
    assert!(refused["message"].as_str().unwrap().contains("proof"), "{refused}");
    assert_eq!(thief.exit_code().await, Some(5));
    until(&mut events, |what| matches!(what, What::AgentRefused { .. })).await;

    // Who owns the token has no harm from it.
    let job = scene.serving.enqueue("python.echo", &json!({ "lines": ["mine"] })).await;
    timeout(PATIENCE, job.wait()).await.unwrap().unwrap();
    scene.agent.tells("recorded").await;
}

#[tokio::test]
async fn it_keeps_the_token_that_it_is_sent_and_its_next_life_shows_it() {
    let short = |builder: Builder| {
        let policy = TokenPolicy { life: seconds(4), ..TokenPolicy::default() };
        builder.agent_tokens(policy).heartbeat_every(Duration::from_millis(400))
    };
    let mut scene = Scene::new(short).await;
    let first = scene.kept();
    scene.agent.tells("token renewed").await;
    let renewed = scene.kept();
    assert_ne!(renewed["token"], first["token"]);
    assert_eq!(renewed["instance"], first["instance"]);

    scene.agent.signal(Signal::TERM);
    scene.agent.tells("left").await;
    let (address, identity) = (scene.serving.address, scene.identity());
    assert_eq!(scene.agent.exit_code().await, Some(0));
    let before = renewed["instance"].clone();
    let mut next = Python::start(address, &identity, None);
    let welcome = next.tells("welcomed").await;
    assert_eq!(welcome["agent"], scene.welcome["agent"]);
    let kept: Value = serde_json::from_slice(&std::fs::read(&identity).unwrap()).unwrap();
    assert_eq!(kept["previous"], before);
    assert_ne!(kept["instance"], before);
}

#[tokio::test]
async fn it_stops_a_cancelled_job_and_leaves_when_it_is_drained() {
    let mut scene = Scene::new(|builder| builder).await;
    let orchestrator = &scene.serving.orchestrator;
    let mut events = orchestrator.events();
    let job = scene.serving.enqueue("python.slow", &json!({ "ms": 600_000 })).await;
    until(&mut events, |what| matches!(what, What::JobStarted { .. })).await;
    orchestrator.cancel(job.id(), "not needed", PATIENCE).await.unwrap();
    let record = timeout(PATIENCE, orchestrator.wait(job.id())).await.unwrap().unwrap();
    assert_eq!(record.state, JobState::Cancelled);
    assert_eq!(scene.serving.log(job.id()).await, b"began\nasked to stop\n");

    // What runs may end.
    let job = scene.serving.enqueue("python.slow", &json!({ "ms": 1000 })).await;
    until(&mut events, |what| matches!(what, What::JobStarted { .. })).await;
    let agent = orchestrator.live_agents().pop().unwrap().agent;
    orchestrator.drain_agent(&agent).await.unwrap();
    scene.agent.tells("left").await;
    until(&mut events, |what| matches!(what, What::AgentStopped { .. })).await;
    assert_eq!(scene.agent.exit_code().await, Some(0));
    assert_eq!(job.record().await.unwrap().state, JobState::Succeeded);
}

#[tokio::test]
async fn it_shows_nothing_to_an_orchestrator_that_it_has_no_reason_to_trust() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(file("cert.pem"), certified.cert.pem()).unwrap();
    std::fs::write(file("key.pem"), certified.signing_key.serialize_pem()).unwrap();
    let tls = Tls::from_files(file("cert.pem"), file("key.pem")).unwrap();
    let store = Arc::new(MemoryStore::new());
    let server = Server::builder(ANY_PORT).tls(tls);
    let serving = Serving::begin(&store, server, |builder| builder).await;
    let token = serving.token_file(folder.path()).await;
    let url = format!("wss://localhost:{}", serving.address.port());

    let mut wary = Python::start_with(&url, &file("wary.json"), Some(&token), None);
    let cut = wary.tells("cut").await;
    assert!(cut["why"].as_str().unwrap().contains("certificate verify failed"), "{cut}");
    drop(wary);
    let certificate = file("cert.pem");
    let mut agent = Python::start_with(&url, &file("agent.json"), Some(&token), Some(&certificate));
    agent.tells("welcomed").await;
    let job = serving.enqueue("python.echo", &json!({ "lines": ["in private"] })).await;
    timeout(PATIENCE, job.wait()).await.unwrap().unwrap();
    assert_eq!(serving.orchestrator.live_agents().len(), 1);
}
