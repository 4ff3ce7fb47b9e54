//! What happens when the server is restarted, killed, misconfigured, or part of a cluster.

#![cfg(feature = "redis")]
#![expect(clippy::unwrap_used, reason = "what a test sets up must work")]

#[path = "support/redis.rs"]
mod support;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mamos_core::hint::Heard;
use mamos_core::id::JobId;
use mamos_core::lease::Verdict;
use mamos_core::store::{EnqueueResult, JobStore, Store};
use mamos_core::{ErrorKind, JobState, Result};
use mamos_store::conformance::{Fresh, PROMISES};
use mamos_store::{RedisSettings, RedisStore};
use mamos_testbed::RedisServer;

use crate::support::{NOW, Prefix, claim, job, runs, session, settle};

async fn refusal(settings: RedisSettings) -> (ErrorKind, String) {
    let error = RedisStore::open(settings).await.unwrap_err();
    (error.kind(), format!("{error} {error:?}"))
}

#[tokio::test]
async fn flushed_scripts_are_loaded_again() {
    let server = RedisServer::with_settings(&[]);
    let prefix = Prefix::at(server.url());
    let store = RedisStore::open(prefix.settings()).await.unwrap();
    let session = session(&store, 1).await.unwrap();
    for n in 0..5 {
        server.command(&["SCRIPT", "FLUSH"]);
        store.enqueue(vec![job(n)], NOW).await.unwrap();
        server.command(&["SCRIPT", "FLUSH"]);
        let run = runs(&claim(&store, session, 1).await.unwrap())[0];
        server.command(&["SCRIPT", "FLUSH"]);
        let reported = store.report(vec![settle(session, run)], NOW).await.unwrap();
        assert_eq!(reported[0].verdict, Verdict::Applied);
    }
}

/// Enqueues, claims and settles until told to stop, and gives what was acknowledged.
struct Load {
    stored: HashSet<JobId>,
    settled: HashSet<JobId>,
}

async fn work(store: Arc<RedisStore>, n: u8, mut stop: tokio::sync::watch::Receiver<bool>) -> Load {
    let mut load = Load { stored: HashSet::new(), settled: HashSet::new() };
    let session = loop {
        if let Ok(session) = session(&*store, n).await {
            break session;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    for round in 0_u128.. {
        if *stop.borrow_and_update() {
            break;
        }
        let first = (u128::from(n) << 64) | (round * 20);
        let jobs = (first..first + 20).map(job).collect();
        let enqueued = store.enqueue(jobs, NOW).await;
        load.stored.extend(enqueued.iter().flatten().map(|enqueued| enqueued.id));
        let claimed = claim(&*store, session, 20).await;
        let has_failed = claimed.is_err();
        let writes: Vec<_> = claimed.iter().flat_map(runs).map(|run| settle(session, run)).collect();
        let ids: Vec<JobId> = writes.iter().map(|write| write.run.job).collect();
        let reported = store.report(writes, NOW).await;
        let applied =
            reported.iter().flatten().zip(ids).filter(|(reported, _)| reported.verdict.is_applied());
        load.settled.extend(applied.map(|(_, id)| id));
        if enqueued.is_err() || has_failed {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    load
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_loses_nothing_that_was_acknowledged_and_work_goes_on_soon() {
    let mut server = RedisServer::start();
    let prefix = Prefix::at(server.url());
    let store = Arc::new(RedisStore::open(prefix.settings()).await.unwrap());
    let mut listener = store.hints().unwrap().listen().await.unwrap();
    let (stopping, stop) = tokio::sync::watch::channel(false);
    let workers: Vec<_> = (1..=4).map(|n| tokio::spawn(work(Arc::clone(&store), n, stop.clone()))).collect();
    for round in 0..3 {
        // Some work must be under way when it is killed.
        let before = backlog_of(&store).await;
        wait_for(async || backlog_of(&store).await > before + 100, Duration::from_secs(30)).await;
        server.kill();
        let error = store.queues_or_error().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "round {round}: {error}");
        server.resume();
        let back = Instant::now();
        let stored = async || store.enqueue(vec![job(u128::from(u64::MAX) - round)], NOW).await.is_ok();
        wait_for(stored, Duration::from_secs(5)).await;
        assert!(back.elapsed() < Duration::from_secs(5));
        assert_eq!(heard(&mut *listener).await, Heard::Gap);
        let hints = store.hints().unwrap();
        // The first call over each connection notices that it is gone.
        let told = async || hints.tell(vec![Bytes::from_static(b"again")]).await.is_ok();
        wait_for(told, Duration::from_secs(5)).await;
        assert_eq!(heard(&mut *listener).await, Heard::Hint(Bytes::from_static(b"again")));
    }
    stopping.send(true).unwrap();
    for worker in workers {
        let load = worker.await.unwrap();
        assert!(!load.settled.is_empty());
        for id in &load.stored {
            assert!(store.job(*id).await.unwrap().is_some(), "{id} was acknowledged and is lost");
        }
        for id in &load.settled {
            assert_eq!(store.job(*id).await.unwrap().unwrap().state, JobState::Succeeded, "{id}");
        }
    }
}

trait Ask {
    async fn queues_or_error(&self) -> Result<()>;
}

impl Ask for RedisStore {
    async fn queues_or_error(&self) -> Result<()> {
        mamos_core::store::QueueStore::queues(self).await.map(|_| ())
    }
}

async fn backlog_of(store: &RedisStore) -> u64 {
    let queues = mamos_core::store::QueueStore::queues(store).await.unwrap_or_default();
    queues.iter().map(|queue| queue.count(JobState::Succeeded)).sum()
}

async fn wait_for(mut is_so: impl AsyncFnMut() -> bool, patience: Duration) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(patience, waiting).await.unwrap();
}

async fn heard(listener: &mut dyn mamos_core::hint::HintListener) -> Heard {
    tokio::time::timeout(Duration::from_secs(10), listener.next()).await.unwrap()
}

#[tokio::test]
async fn a_wrong_address_says_what_is_wrong() {
    let closed = format!("redis://127.0.0.1:{}", mamos_testbed::free_port());
    let (kind, said) = refusal(RedisSettings::new(closed)).await;
    assert_eq!(kind, ErrorKind::Unavailable, "{said}");
    for url in ["", "nonsense", "http://127.0.0.1", "redis://:hunter2@[", "redis://a:hunter2@host:port"] {
        let (kind, said) = refusal(RedisSettings::new(url)).await;
        assert_eq!(kind, ErrorKind::Config, "{url}: {said}");
        assert!(said.contains("redis://user:password@host") && !said.contains("hunter2"), "{said}");
    }
    for prefix in ["", "a{b", "a b", &"x".repeat(65)] {
        let (kind, said) = refusal(RedisSettings::new("redis://127.0.0.1").prefix(prefix)).await;
        assert_eq!(kind, ErrorKind::Config, "{said}");
    }
}

#[tokio::test]
async fn a_password_is_asked_for_checked_and_never_shown() {
    let server = RedisServer::with_settings(&[]);
    server.command(&["ACL", "SETUSER", "mamos", "on", ">hunter2", "~*", "&*", "+@all"]);
    server.command(&["ACL", "SETUSER", "default", "on", "resetpass", ">other", "~*", "&*", "+@all"]);
    let at = |secret: &str| format!("redis://{secret}127.0.0.1:{}", server.port());
    let (kind, said) = refusal(RedisSettings::new(at(""))).await;
    assert_eq!(kind, ErrorKind::Denied, "{said}");
    let (kind, said) = refusal(RedisSettings::new(at("mamos:hunter3@"))).await;
    assert_eq!(kind, ErrorKind::Denied, "{said}");
    assert!(!said.contains("hunter3"), "{said}");
    let settings = RedisSettings::new(at("mamos:hunter2@"));
    let store = RedisStore::open(settings.clone()).await.unwrap();
    let shown = format!("{settings:?} {store:?} {} {:?}", store.describe(), store.hints());
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[tokio::test]
async fn the_rights_in_the_docs_are_enough_and_fewer_are_refused() {
    let docs = include_str!("../../docs/store-redis.md");
    let line = docs.lines().find(|line| line.contains("ACL SETUSER mamos")).unwrap();
    let rights: Vec<&str> = line.split_whitespace().skip_while(|word| *word != "ACL").collect();
    let server = RedisServer::with_settings(&[]);
    assert_eq!(server.command(&rights), "OK", "{line}");
    let url = format!("redis://mamos:secret@127.0.0.1:{}", server.port());
    let store = RedisStore::open(RedisSettings::new(&url)).await.unwrap();
    let session = session(&store, 1).await.unwrap();
    store.enqueue(vec![job(1)], NOW).await.unwrap();
    let run = runs(&claim(&store, session, 1).await.unwrap())[0];
    store.report(vec![settle(session, run)], NOW).await.unwrap();
    store.sweep(10, NOW).await.unwrap();
    store.time().await.unwrap().unwrap();
    store.queues_or_error().await.unwrap();
    let mut listener = store.hints().unwrap().listen().await.unwrap();
    store.hints().unwrap().tell(vec![Bytes::from_static(b"x")]).await.unwrap();
    assert_eq!(heard(&mut *listener).await, Heard::Hint(Bytes::from_static(b"x")));

    server.command(&["ACL", "SETUSER", "mamos", "-zadd"]);
    let error = store.enqueue(vec![job(2)], NOW).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    server.command(&["ACL", "SETUSER", "mamos", "+zadd", "resetkeys", "~other:*"]);
    let (kind, said) = refusal(RedisSettings::new(&url)).await;
    assert_eq!(kind, ErrorKind::Denied, "{said}");
    assert!(said.contains("ACL SETUSER"), "{said}");
}

#[tokio::test]
async fn a_replica_and_a_server_that_evicts_are_refused() {
    let primary = RedisServer::with_settings(&[]);
    let port = primary.port().to_string();
    let replica = RedisServer::with_settings(&["--replicaof", "127.0.0.1", &port]);
    let (kind, said) = refusal(RedisSettings::new(replica.url())).await;
    assert_eq!(kind, ErrorKind::Config, "{said}");
    assert!(said.contains("replica") && said.contains(&port), "{said}");

    primary.command(&["CONFIG", "SET", "maxmemory", "100mb"]);
    primary.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let (kind, said) = refusal(RedisSettings::new(primary.url())).await;
    assert_eq!(kind, ErrorKind::Config, "{said}");
    assert!(said.contains("noeviction"), "{said}");
    primary.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    let store = RedisStore::open(RedisSettings::new(primary.url())).await.unwrap();
    primary.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let error = store.enqueue(vec![job(1)], NOW).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("maxmemory"), "{error}");
    primary.command(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(
        store.enqueue(vec![job(1)], NOW).await.unwrap()[0].result,
        EnqueueResult::Stored(JobState::Ready)
    );

    primary.command(&["REPLICAOF", "127.0.0.1", &replica.port().to_string()]);
    let error = store.enqueue(vec![job(2)], NOW).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("failover"), "{error}");
}

#[tokio::test]
async fn data_of_others_is_refused() {
    let server = RedisServer::with_settings(&[]);
    let open = || RedisSettings::new(server.url());
    server.command(&["SET", "{mamos}:jobs", "theirs"]);
    let (kind, said) = refusal(open()).await;
    assert_eq!(kind, ErrorKind::Config, "{said}");
    assert!(said.contains("{mamos}:jobs is a string"), "{said}");
    server.command(&["DEL", "{mamos}:jobs"]);
    server.command(&["HSET", "{mamos}:jobs", "a", "theirs"]);
    let (kind, said) = refusal(open()).await;
    assert_eq!(kind, ErrorKind::Config, "{said}");
    server.command(&["DEL", "{mamos}:jobs"]);
    RedisStore::open(open()).await.unwrap();
    for (format, expected) in [("2", "has format 2"), ("new", "no number")] {
        server.command(&["HSET", "{mamos}:meta", "format", format]);
        let (kind, said) = refusal(open()).await;
        assert_eq!(kind, ErrorKind::Config, "{said}");
        assert!(said.contains(expected), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_a_cluster_keeps_every_promise() {
    let server = Arc::new(RedisServer::with_settings(&["--cluster-enabled", "yes"]));
    assert_eq!(server.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]), "OK");
    wait_for(
        async || server.command(&["CLUSTER", "INFO"]).contains("cluster_state:ok"),
        Duration::from_secs(10),
    )
    .await;
    let failures = mamos_store::conformance::failures(async || {
        let prefix = Prefix::at(server.url());
        let store = RedisStore::open(prefix.settings()).await.unwrap();
        Fresh::with_guard(store, prefix)
    })
    .await;
    assert!(!PROMISES.is_empty());
    assert_eq!(failures, []);
}
