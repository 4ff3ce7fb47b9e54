//! Promises about what runs print.

use std::sync::Arc;

use bytes::Bytes;
use mamos_core::Store;
use mamos_core::agent::LogStream;
use mamos_core::lease::{RunRef, SessionRef, Verdict};
use mamos_core::store::{LogPiece, Report};

use super::scene::{at, claim, epoch, job, job_id, piece, report, running, session, settle, succeeded};

async fn print(store: &Arc<dyn Store>, session: SessionRef, run: RunRef, piece: LogPiece) -> Verdict {
    report(store, session, run, Report::Log(piece), at(1)).await.verdict
}

async fn read(store: &Arc<dyn Store>, run: RunRef, offset: u64, max_bytes: u32) -> String {
    let pieces = store.log(run, offset, max_bytes).await.unwrap();
    let mut end = offset;
    let mut text = Vec::new();
    for piece in pieces {
        assert_eq!(piece.offset, end, "without gaps");
        assert!(!piece.bytes.is_empty(), "pieces hold something");
        end += piece.bytes.len() as u64;
        text.extend_from_slice(&piece.bytes);
    }
    assert!(text.len() <= max_bytes as usize);
    String::from_utf8(text).unwrap()
}

pub async fn a_log_reads_back_from_any_place(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = running(store, session, job(1), at(0)).await;
    for (offset, text) in [(0, "hello "), (6, "wide "), (11, "world")] {
        assert_eq!(print(store, session, run, piece(offset, text)).await, Verdict::Applied);
    }
    let all = "hello wide world";
    for offset in 0..=all.len() {
        for max in [0, 1, 3, 6, 7, 16, 1000] {
            let end = all.len().min(offset + max);
            assert_eq!(read(store, run, offset as u64, max as u32).await, all[offset..end], "{offset}+{max}");
        }
    }
    assert_eq!(read(store, run, 17, 10).await, "");
    assert_eq!(read(store, run, u64::MAX, u32::MAX).await, "");
}

pub async fn a_log_keeps_streams_and_any_bytes(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = running(store, session, job(1), at(0)).await;
    let streams = [LogStream::Stdout, LogStream::Stderr, LogStream::Note];
    for (offset, stream) in (0..).zip(streams) {
        let bytes = Bytes::from(vec![0xff - offset as u8]);
        print(store, session, run, LogPiece { offset, stream, bytes }).await;
    }
    let pieces = store.log(run, 0, 100).await.unwrap();
    assert_eq!(pieces.iter().map(|piece| piece.stream).collect::<Vec<_>>(), streams);
    assert_eq!(pieces.iter().flat_map(|piece| piece.bytes.to_vec()).collect::<Vec<_>>(), [0xff, 0xfe, 0xfd]);
}

pub async fn a_gap_in_a_log_is_noticed(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = running(store, session, job(1), at(0)).await;
    assert_eq!(print(store, session, run, piece(1, "b")).await, Verdict::Gap);
    assert_eq!(print(store, session, run, piece(0, "ab")).await, Verdict::Applied);
    assert_eq!(print(store, session, run, piece(3, "d")).await, Verdict::Gap);
    assert_eq!(print(store, session, run, piece(u64::MAX, "z")).await, Verdict::Gap);
    assert_eq!(read(store, run, 0, 100).await, "ab");
    assert_eq!(print(store, session, run, piece(2, "cd")).await, Verdict::Applied);
    assert_eq!(read(store, run, 0, 100).await, "abcd");
}

pub async fn an_overlap_in_a_log_is_skipped(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let run = running(store, session, job(1), at(0)).await;
    for (offset, text) in
        [(0, "abcd"), (0, "abcd"), (2, "cd"), (2, "cdef"), (1, "bc"), (6, ""), (0, "abcdefg")]
    {
        assert_eq!(
            print(store, session, run, piece(offset, text)).await,
            Verdict::Applied,
            "{offset} {text}"
        );
    }
    assert_eq!(read(store, run, 0, 100).await, "abcdefg");
}

pub async fn each_run_has_a_log_of_its_own(store: &Arc<dyn Store>) {
    let session = session(store, 1).await;
    let first = running(store, session, job(1), at(0)).await;
    print(store, session, first, piece(0, "first")).await;
    report(store, session, first, Report::Release, at(2)).await;
    let second = claim(store, session, 1, at(3)).await[0].run;
    print(store, session, second, piece(0, "second")).await;
    assert_eq!(print(store, session, first, piece(5, " and more")).await, Verdict::Stale);
    settle(store, session, second, succeeded(), at(4)).await;
    assert_eq!(print(store, session, second, piece(6, " and more")).await, Verdict::Stale);
    assert_eq!(read(store, first, 0, 100).await, "first");
    assert_eq!(read(store, second, 0, 100).await, "second");
    assert_eq!(read(store, RunRef { epoch: epoch(9), ..first }, 0, 100).await, "");
    assert_eq!(read(store, RunRef { job: job_id(404), ..first }, 0, 100).await, "");
}
