//! Rows of PostgreSQL that cannot be understood.

#![cfg(feature = "postgres")]
#![expect(clippy::unwrap_used, reason = "what a test sets up must work")]

#[path = "support/broken.rs"]
mod broken;

use std::sync::Arc;

use bytes::Bytes;
use mamos_core::Store;
use mamos_core::id::JobId;
use mamos_core::job::NewJob;
use mamos_core::job::labels::Selector;
use mamos_core::job::lane::Lane;
use mamos_core::lease::Verdict;
use mamos_core::store::{ClaimGroup, PageRequest, QueueStore, Taker};
use mamos_store::{PostgresSettings, PostgresStore};
use mamos_testbed::PostgresSchema;

use crate::broken::{Bed, Database, NOW, TTL, admit, attach, ids, job, jobs, lane};

struct Schema(PostgresSchema);

impl Database for Schema {
    const DAMAGE: &'static [(&'static str, &'static str)] = &[
        ("UPDATE mamos_spec SET details = '{\"timeout\": 5}' WHERE seq = 2", "details"),
        ("UPDATE mamos_spec SET details = '[1, 2]' WHERE seq = 2", "details"),
        ("UPDATE mamos_spec SET details = '{\"labels\": {\"\\u0000\": 1}}' WHERE seq = 2", "details"),
        ("DELETE FROM mamos_spec WHERE seq = 2", "payload"),
        ("UPDATE mamos_job SET attempt = -4 WHERE seq = 2", "attempt"),
        ("UPDATE mamos_job SET deliveries = -1 WHERE seq = 2", "deliveries"),
    ];
    const BROKEN_AGENT: &'static [&'static str] =
        &["profile = 'garbage'", "labels = '[1]'", "public_key = '\\x01'", "state = 77", "revoked_at = 5"];
    const BROKEN_DOCUMENT: &'static [&'static str] = &["revision = -1"];
    const KEY_2: &'static str = "'\\x32'";
    const NO_KEY: &'static str = "'\\x32ff'";

    async fn open() -> (Arc<dyn Store>, Self) {
        let schema = PostgresSchema::unique();
        let settings = PostgresSettings::new(schema.url()).schema(schema.name()).connections(2);
        (Arc::new(PostgresStore::open(settings).await.unwrap()), Self(schema))
    }

    async fn change(&mut self, statement: &str) -> u64 {
        let counted = format!("WITH changed AS ({statement} RETURNING 1) SELECT count(*) FROM changed");
        self.0.sql(&counted).parse().unwrap()
    }

    async fn text(&mut self, query: &str) -> String {
        self.0.sql(query)
    }
}

broken_rows!(Schema);

#[tokio::test]
async fn a_broken_session_or_lane_leaves_the_others_alone() {
    let mut bed = Bed::<Schema>::new().await;
    bed.enqueue(1).await;
    let other = Arc::new(Lane::new("other".parse().unwrap(), "other".parse().unwrap(), Selector::any()));
    let lost = NewJob::new(JobId::from_parts(NOW, 99), other, Bytes::new());
    bed.store.enqueue(vec![lost], NOW).await.unwrap();
    let agent = admit(&*bed.store, 2).await;
    let broken = attach(&*bed.store, &agent, 2, Vec::new()).await.session;
    bed.damage("UPDATE mamos_session SET agent = 'nobody' WHERE no = 2").await;
    bed.damage("UPDATE mamos_lane SET queue = '!' WHERE queue = 'other'").await;
    let verdicts = bed.store.renew(vec![broken, bed.session], TTL, NOW).await.unwrap();
    assert_eq!(verdicts, [Verdict::Missing, Verdict::Applied]);
    assert_eq!(bed.store.sessions().await.unwrap().len(), 1);
    // This store knows the lane from before. Another one does not.
    let settings = PostgresSettings::new(bed.database.0.url()).schema(bed.database.0.name()).connections(1);
    let another = PostgresStore::open(settings).await.unwrap();
    assert_eq!(another.ready_lanes().await.unwrap().len(), 1);
    another.close().await;
    let takers = [broken, bed.session].map(|session| Taker { session, limit: 5 });
    let group = ClaimGroup { lanes: vec![lane().id()], takers: takers.to_vec() };
    let claimed = bed.store.claim(vec![group], NOW).await.unwrap();
    // Nothing of what a claim asks of a session is broken.
    assert_eq!(ids(&jobs(claimed)), [job(1).id]);
    assert_eq!(bed.store.agents(PageRequest::default()).await.unwrap().items.len(), 2);
}
