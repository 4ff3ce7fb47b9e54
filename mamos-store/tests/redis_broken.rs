//! Records that cannot be understood end one job each, and what somebody else writes stops nothing.

#![cfg(feature = "redis")]
#![expect(clippy::unwrap_used, reason = "what a test sets up must work")]

#[path = "support/redis.rs"]
mod support;

use bytes::Bytes;
use mamos_core::job::NewJob;
use mamos_core::job::lane::LaneId;
use mamos_core::lease::{SessionRef, Verdict};
use mamos_core::store::{
    AgentStore, DocumentChange, DocumentFilter, DocumentStore, DocumentWrite, Expected, JobFilter, JobStore,
    PageRequest, QueueStore, SessionStore, TokenStore, Written,
};
use mamos_core::{ErrorKind, JobState};
use mamos_store::RedisStore;
use redis::Commands;

use crate::support::{NOW, Prefix, TTL, claim, job, runs, session, settle};

struct Bed {
    store: RedisStore,
    host: redis::Connection,
    session: SessionRef,
    prefix: Prefix,
}

impl Bed {
    async fn new() -> Self {
        let prefix = Prefix::shared();
        let store = RedisStore::open(prefix.settings()).await.unwrap();
        let session = session(&store, 1).await.unwrap();
        Self { store, host: prefix.connection(), session, prefix }
    }

    /// Writes over what is stored of a job.
    fn damage(&mut self, suffix: &str, n: u128, value: &[u8]) {
        let () = self.host.hset(self.prefix.key(suffix), job(n).id.as_bytes(), value).unwrap();
    }

    fn stored(&mut self, suffix: &str, n: u128) -> Vec<u8> {
        self.host.hget(self.prefix.key(suffix), job(n).id.as_bytes()).unwrap()
    }

    async fn code(&self, n: u128) -> String {
        let job = self.store.job(job(n).id).await.unwrap().unwrap();
        assert_eq!(job.state, JobState::Dead);
        job.failure.unwrap().code
    }
}

#[tokio::test]
async fn a_job_whose_spec_is_garbage_is_buried_by_a_claim_and_the_others_go_on() {
    let good = {
        let mut bed = Bed::new().await;
        bed.store.enqueue(vec![job(1)], NOW).await.unwrap();
        bed.stored("jobs", 1)
    };
    let mut with_details = good.clone();
    with_details[45..49].copy_from_slice(&4_u32.to_be_bytes());
    let mut with_unknown_lane = good.clone();
    with_unknown_lane[19..27].copy_from_slice(&[7; 8]);
    let damages: [&[u8]; 5] = [b"garbage", b"", &good[..40], &with_details, &with_unknown_lane];
    for damage in damages {
        let mut bed = Bed::new().await;
        bed.store.enqueue((1..=5).map(job).collect(), NOW).await.unwrap();
        bed.damage("jobs", 2, damage);
        let mut taken = runs(&claim(&bed.store, bed.session, 5).await.unwrap());
        taken.extend(runs(&claim(&bed.store, bed.session, 5).await.unwrap()));
        let ids: Vec<_> = taken.iter().map(|run| run.job).collect();
        assert_eq!(ids, [1, 3, 4, 5].map(|n| job(n).id), "{damage:?}");
        let error = bed.store.job(job(2).id).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{damage:?}");
        assert_eq!(bed.stored("runs", 2)[1], 6, "{damage:?}: it is dead");
        let writes = taken.iter().map(|run| settle(bed.session, *run)).collect();
        let reported = bed.store.report(writes, NOW).await.unwrap();
        assert!(reported.iter().all(|reported| reported.verdict == Verdict::Applied));
        let listed = bed.store.jobs(JobFilter::default(), PageRequest::first(2)).await.unwrap();
        assert_eq!(listed.items.len(), 2);
        assert!(bed.store.ready_lanes().await.unwrap().is_empty(), "nothing is left that cannot be claimed");
        assert_eq!(bed.store.prune(NOW + TTL, 100).await.unwrap(), 5, "{damage:?}: the broken one, too");
    }
}

#[tokio::test]
async fn a_run_that_is_garbage_is_buried_by_whatever_meets_it() {
    // By a claim: a run that nobody can read stands for a job that waits.
    let mut bed = Bed::new().await;
    bed.store.enqueue((1..=3).map(job).collect(), NOW).await.unwrap();
    bed.damage("runs", 1, b"garbage");
    assert_eq!(runs(&claim(&bed.store, bed.session, 1).await.unwrap()).len(), 1);
    assert_eq!(bed.code(1).await, "corrupt");

    // By a report: the other reports of the batch are applied.
    let held: Vec<_> = runs(&claim(&bed.store, bed.session, 5).await.unwrap());
    let run = held[0];
    let mut damaged = bed.stored("runs", 3);
    damaged[1] = 99;
    bed.damage("runs", 3, &damaged);
    let other = mamos_core::lease::RunRef { job: job(2).id, epoch: run.epoch };
    let writes = vec![settle(bed.session, run), settle(bed.session, other)];
    let reported = bed.store.report(writes, NOW).await.unwrap();
    assert_eq!(reported[0].verdict, Verdict::Missing, "nobody knows what it was");
    assert_eq!(reported[1].verdict, Verdict::Applied);
    assert_eq!(bed.code(3).await, "corrupt");
    assert_eq!(bed.store.held(bed.session.id).await.unwrap(), []);
}

#[tokio::test]
async fn a_sweep_buries_what_it_cannot_understand_and_goes_on() {
    let mut bed = Bed::new().await;
    let late = |n| NewJob { run_at: Some(NOW + TTL / 4), ..job(n) };
    bed.store.enqueue(vec![job(1), job(2)], NOW).await.unwrap();
    bed.store.enqueue(vec![late(3), late(4)], NOW).await.unwrap();
    assert_eq!(runs(&claim(&bed.store, bed.session, 2).await.unwrap()).len(), 2);
    bed.damage("runs", 1, b"R");
    bed.damage("runs", 3, b"Rx");
    let swept = bed.store.sweep(100, NOW + TTL).await.unwrap();
    assert_eq!((swept.promoted, swept.lost.len(), swept.rescued.len()), (1, 1, 1));
    assert_eq!((bed.code(1).await, bed.code(3).await), ("corrupt".to_owned(), "corrupt".to_owned()));
    let again = bed.store.sweep(100, NOW + TTL).await.unwrap();
    assert_eq!((again.promoted, again.has_more), (0, false));
}

#[tokio::test]
async fn what_somebody_adds_to_the_lines_is_thrown_away() {
    let mut bed = Bed::new().await;
    bed.store.enqueue(vec![job(1)], NOW).await.unwrap();
    let lane: LaneId = support::lane().id();
    let in_lane = [lane.number().to_be_bytes().as_slice(), b"nonsense"].concat();
    for line in ["ready", "due", "deadlines", "ended", "order", "expiry"] {
        let garbage: [&[u8]; 4] = [b"", b"\0", b"nonsense", &in_lane];
        for member in garbage {
            let () = bed.host.zadd(bed.prefix.key(line), member, 0).unwrap();
        }
    }
    // An item of a job that does not exist, before all others.
    let unknown = [lane.number().to_be_bytes().as_slice(), &[0; 34]].concat();
    let () = bed.host.zadd(bed.prefix.key("ready"), unknown, 0).unwrap();
    let mut taken = runs(&claim(&bed.store, bed.session, 1).await.unwrap());
    taken.extend(runs(&claim(&bed.store, bed.session, 1).await.unwrap()));
    assert_eq!(taken.len(), 1);
    bed.store.sweep(10, NOW).await.unwrap();
    let reported = bed.store.report(vec![settle(bed.session, taken[0])], NOW).await.unwrap();
    assert_eq!(reported[0].verdict, Verdict::Applied);
    assert_eq!(bed.store.ready_lanes().await.unwrap(), []);
    assert_eq!(bed.store.queues().await.unwrap().len(), 1);
    assert_eq!(bed.store.prune(NOW + TTL, 10).await.unwrap(), 1);
    assert_eq!(bed.store.sessions().await.unwrap().len(), 1);
}

#[tokio::test]
async fn broken_agents_tokens_and_documents_leave_the_others_alone() {
    let mut bed = Bed::new().await;
    session(&bed.store, 2).await.unwrap();
    let agents = bed.store.agents(PageRequest::first(10)).await.unwrap().items;
    let place = [b"kit\0".as_slice(), agents[0].id.uuid().as_bytes()].concat();
    let () = bed.host.hset(bed.prefix.key("agents"), place, "garbage").unwrap();
    for limit in [1, 10] {
        let page = bed.store.agents(PageRequest::first(limit)).await.unwrap();
        assert_eq!(page.items, agents[1..]);
    }
    assert_eq!(bed.store.agent(&agents[0].id).await.unwrap_err().kind(), ErrorKind::Corrupt);

    let () = bed.host.zadd(bed.prefix.key("usable"), [9_u8; 16].as_slice(), 0).unwrap();
    let () = bed.host.hset(bed.prefix.key("tokens"), [9_u8; 16].as_slice(), "garbage").unwrap();
    assert_eq!(bed.store.tokens().await.unwrap(), []);

    let put = |key: &str, expected| DocumentWrite {
        collection: "notes".to_owned(),
        key: key.to_owned(),
        expected,
        change: DocumentChange::Put { value: Bytes::from_static(b"x"), expires_at: None },
    };
    let writes = ["1", "2", "3"].map(|key| put(key, Expected::Absent));
    bed.store.write_documents(writes.to_vec(), NOW).await.unwrap();
    let () = bed.host.hset(bed.prefix.key("documents"), b"\0\x05notes2", "garbage").unwrap();
    for is_descending in [false, true] {
        let filter = DocumentFilter { collection: "notes".to_owned(), prefix: String::new(), is_descending };
        let page = bed.store.documents(filter, PageRequest::first(9), NOW).await.unwrap();
        assert_eq!(page.items.len(), 2);
    }
    let error = bed.store.write_documents(vec![put("2", Expected::Absent)], NOW).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "nobody knows what it was");
    let mended = bed.store.write_documents(vec![put("2", Expected::Any)], NOW).await.unwrap();
    assert_eq!(mended, [Written::Done(1)]);
}

#[tokio::test]
async fn a_key_of_another_type_is_a_clear_error() {
    let mut bed = Bed::new().await;
    let () = bed.host.del(bed.prefix.key("ready")).unwrap();
    let () = bed.host.set(bed.prefix.key("ready"), "text").unwrap();
    let error = bed.store.enqueue(vec![job(1)], NOW).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("another type"), "{error}");
}
