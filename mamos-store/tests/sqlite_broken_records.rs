//! Agents, tokens and documents whose rows cannot be understood leave the others alone.

#![cfg(feature = "sqlite")]
#![expect(clippy::unwrap_used, reason = "what a test sets up must work")]

use std::time::Duration;

use bytes::Bytes;
use mamos_core::ErrorKind;
use mamos_core::agent::state::AgentState;
use mamos_core::agent::{AgentProfile, AgentRecord};
use mamos_core::auth::{PublicKey, RegistrationToken};
use mamos_core::clock::Timestamp;
use mamos_core::id::{AgentId, AgentKind, TokenId};
use mamos_core::job::labels::Labels;
use mamos_core::store::{
    AgentStore, DocumentChange, DocumentFilter, DocumentStore, DocumentWrite, Expected, PageRequest,
    TokenStore, Written,
};
use mamos_store::{Durability, SqliteSettings, SqliteStore};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection};

const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

/// A store on a file of its own, and someone else's connection to that file.
struct Bed {
    store: SqliteStore,
    host: SqliteConnection,
    _directory: tempfile::TempDir,
}

impl Bed {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mamos.db");
        let settings = SqliteSettings::new(&path).durability(Durability::Off);
        let store = SqliteStore::open(settings).await.unwrap();
        let options = SqliteConnectOptions::new().filename(&path);
        let host = SqliteConnection::connect_with(&options).await.unwrap();
        Self { store, host, _directory: directory }
    }

    async fn damage(&mut self, statement: &str) {
        let done = sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&mut self.host).await.unwrap();
        assert_ne!(done.rows_affected(), 0, "{statement}");
    }

    /// The ids of all agents, through pages of that size.
    async fn agents(&self, limit: u32) -> Vec<AgentId> {
        let (mut ids, mut after) = (Vec::new(), None);
        loop {
            let page = self.store.agents(PageRequest { limit, after }).await.unwrap();
            ids.extend(page.items.into_iter().map(|agent| agent.id));
            after = page.next;
            if after.is_none() {
                return ids;
            }
        }
    }

    /// The keys of all notes, in pages of one.
    async fn notes(&self, is_descending: bool) -> Vec<String> {
        let (mut keys, mut after) = (Vec::new(), None);
        loop {
            let collection = "notes".to_owned();
            let filter = DocumentFilter { collection, prefix: String::new(), is_descending };
            let page = self.store.documents(filter, PageRequest { limit: 1, after }, NOW).await.unwrap();
            keys.extend(page.items.into_iter().map(|document| document.key));
            after = page.next;
            if after.is_none() {
                return keys;
            }
        }
    }
}

fn token(n: u8) -> RegistrationToken {
    RegistrationToken {
        id: TokenId::from_parts(NOW, u128::from(n)),
        hash: [n; 32],
        expires_at: NOW + Duration::from_secs(30),
        uses_left: 5,
        agent_kind: None,
        agent_name: None,
        labels: Labels::default(),
        created_at: NOW,
    }
}

fn agent(n: u8) -> AgentRecord {
    let kind = AgentKind::new("kit").unwrap();
    AgentRecord {
        id: AgentId::from_parts(kind.clone(), NOW, u128::from(n)),
        state: AgentState::Registered,
        profile: AgentProfile::new(kind, "an agent of a test"),
        labels: Labels::default(),
        is_draining: false,
        public_key: PublicKey::from_bytes([n; 32]),
        instance: None,
        revocation: None,
        registered_at: NOW,
        changed_at: NOW,
        revision: 1,
    }
}

fn put(key: &str, expected: Expected) -> DocumentWrite {
    DocumentWrite {
        collection: "notes".to_owned(),
        key: key.to_owned(),
        expected,
        change: DocumentChange::Put { value: Bytes::from_static(b"x"), expires_at: None },
    }
}

#[tokio::test]
async fn a_broken_agent_leaves_the_others_alone() {
    for damage in ["profile = 'garbage'", "public_key = x'01'", "instance = x'01'", "revoked_at = 'long ago'"]
    {
        let mut bed = Bed::new().await;
        bed.store.create_token(token(1)).await.unwrap();
        for n in 1..=4 {
            bed.store.redeem([1; 32], agent(n), NOW).await.unwrap();
        }
        let second = "uuid = (SELECT uuid FROM mamos_agent ORDER BY uuid LIMIT 1 OFFSET 1)";
        bed.damage(&format!("UPDATE mamos_agent SET {damage} WHERE {second}")).await;
        for limit in [1, 2, 100] {
            let listed = bed.agents(limit).await;
            assert_eq!(listed, [1, 3, 4].map(|n| agent(n).id), "{damage}, pages of {limit}");
        }
        let error = bed.store.agent(&agent(2).id).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{damage}");
    }
}

#[tokio::test]
async fn a_broken_token_admits_nobody_and_leaves_the_others_alone() {
    let mut bed = Bed::new().await;
    bed.store.create_token(token(1)).await.unwrap();
    bed.store.create_token(token(2)).await.unwrap();
    bed.damage("UPDATE mamos_token SET labels = 'garbage' WHERE hash = (SELECT max(hash) FROM mamos_token)")
        .await;
    assert_eq!(bed.store.tokens().await.unwrap(), [token(1)]);
    let (bad, good) =
        tokio::join!(bed.store.redeem([2; 32], agent(2), NOW), bed.store.redeem([1; 32], agent(1), NOW));
    assert_eq!(bad.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(good.is_ok());
    assert_eq!(bed.agents(9).await, [agent(1).id]);
}

#[tokio::test]
async fn a_broken_document_leaves_the_others_alone_and_can_be_written_over() {
    let damage = ["value = 5", "revision = -1", "revision = 'first'", "expires_at = 'never'"];
    for damage in damage {
        let mut bed = Bed::new().await;
        let writes = ["1", "2", "3", "4"].map(|key| put(key, Expected::Absent));
        bed.store.write_documents(writes.to_vec(), NOW).await.unwrap();
        bed.damage(&format!("UPDATE mamos_document SET {damage} WHERE no = 2")).await;
        assert_eq!(bed.notes(false).await, ["1", "3", "4"], "{damage}");
        assert_eq!(bed.notes(true).await, ["4", "3", "1"], "{damage}");
        let error = bed.store.document("notes", "2", NOW).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{damage}");
        let with_another = vec![put("5", Expected::Any), put("2", Expected::Absent)];
        let error = bed.store.write_documents(with_another, NOW).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{damage}: nobody knows what it was");
        assert_eq!(bed.notes(false).await, ["1", "3", "4"], "{damage}");
        let mended = bed.store.write_documents(vec![put("2", Expected::Any)], NOW).await.unwrap();
        assert_eq!(mended, [Written::Done(1)], "{damage}");
        assert_eq!(bed.notes(false).await, ["1", "2", "3", "4"], "{damage}");
    }
}

#[tokio::test]
async fn a_key_that_is_no_text_is_left_out() {
    let mut bed = Bed::new().await;
    let writes = ["1", "2", "3"].map(|key| put(key, Expected::Absent));
    bed.store.write_documents(writes.to_vec(), NOW).await.unwrap();
    bed.damage("UPDATE mamos_document SET key = x'32ff' WHERE no = 2").await;
    assert_eq!(bed.notes(false).await, ["1", "3"]);
    assert_eq!(bed.notes(true).await, ["3", "1"]);
}
