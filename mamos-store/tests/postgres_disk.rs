//! A server whose disk is full: what was acknowledged is there, and work goes on once there is room.

#![cfg(feature = "postgres")]
#![expect(clippy::unwrap_used, reason = "what a test sets up must work")]

use std::collections::HashSet;
use std::sync::Arc;

use mamos_core::clock::Timestamp;
use mamos_core::id::JobId;
use mamos_core::job::NewJob;
use mamos_core::job::labels::Selector;
use mamos_core::job::lane::Lane;
use mamos_core::store::JobStore;
use mamos_core::{Error, ErrorKind};
use mamos_store::{PostgresSettings, PostgresStore};
use mamos_testbed::{PostgresServer, SmallDisk};

const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);
/// Per payload.
const BYTES: usize = 200_000;
/// More than fit on the disks of these tests.
const JOBS: u128 = 1000;

/// A job whose payload cannot be compressed.
fn job(n: u128) -> NewJob {
    let lane = Lane::new("mail".parse().unwrap(), "mail.send".parse().unwrap(), Selector::any());
    let mut state = n as u64 + 1;
    let payload: Vec<u8> = (0..BYTES)
        .map(|_| {
            // Xorshift, by Marsaglia.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect();
    NewJob::new(JobId::from_parts(NOW, n), Arc::new(lane), payload.into())
}

/// Stores jobs until one is refused. Gives its number, and why.
async fn fill(store: &PostgresStore) -> (u128, Error) {
    for n in 1..JOBS {
        if let Err(error) = store.enqueue(vec![job(n)], NOW).await {
            return (n, error);
        }
    }
    panic!("{JOBS} jobs found room on a small disk");
}

/// Stores that job and another one, then looks that those before it are there, too, with their payloads.
async fn goes_on_from(store: &PostgresStore, server: &PostgresServer, refused: u128) {
    store.enqueue(vec![job(refused)], NOW).await.unwrap();
    store.enqueue(vec![job(refused + 1)], NOW).await.unwrap();
    let stored = server.sql("SELECT id, md5(payload), length(payload) FROM mamos.mamos_spec");
    let stored: HashSet<&str> = stored.lines().collect();
    assert_eq!(stored.len() as u128, refused + 1);
    for n in 1..=refused + 1 {
        let (id, payload) = (job(n).id, job(n).payload);
        let found = store.job(id).await.unwrap().unwrap();
        assert!(found.spec.payload == payload, "job {n}");
    }
}

/// What happens where the tables have a volume, and the WAL another one.
#[tokio::test]
async fn a_full_disk_under_the_tables_loses_nothing_and_ends_with_room() {
    let disk = SmallDisk::new(24);
    let server = PostgresServer::start();
    server.put_tables_on(&disk);
    let store = PostgresStore::open(PostgresSettings::new(server.url())).await.unwrap();
    disk.take(10);
    let (refused, error) = fill(&store).await;
    assert!(refused > 10, "the disk was full from the start: {error}");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("the disk of the server is full; free some space"), "{error}");
    // Reading goes on, and so does what needs no room.
    assert!(store.job(job(1).id).await.unwrap().is_some());
    let again = store.enqueue(vec![job(refused)], NOW).await.unwrap_err();
    assert!(again.to_string().contains("is full"), "{again}");
    assert!(store.job(job(refused).id).await.unwrap().is_none(), "nothing of it was stored");
    disk.make_room();
    goes_on_from(&store, &server, refused).await;
    store.close().await;
}

/// What happens where the WAL finds no room: the server ends itself, and starts only when there is some.
#[tokio::test]
async fn a_full_disk_under_the_wal_stops_the_server_and_loses_nothing() {
    let disk = SmallDisk::new(24);
    let mut server = PostgresServer::with_wal_on(&disk);
    let store = PostgresStore::open(PostgresSettings::new(server.url())).await.unwrap();
    disk.take(8);
    let (refused, error) = fill(&store).await;
    assert!(refused > 10, "the disk was full from the start: {error}");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    disk.make_room();
    server.stop_immediately();
    server.resume();
    // The first call may find the connection gone.
    let _ = store.enqueue(vec![job(refused)], NOW).await;
    goes_on_from(&store, &server, refused).await;
    store.close().await;
}
