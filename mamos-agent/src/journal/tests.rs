use bytes::Bytes;
use mamos_core::JobId;
use mamos_core::id::JobKind;
use mamos_core::lease::Epoch;
use proptest::prelude::*;

use super::*;

fn run(n: u64) -> RunRef {
    RunRef { job: JobId::from_key("job"), epoch: Epoch::from_number(n) }
}

fn started(n: u64) -> Record {
    Record::Started { run: run(n), kind: JobKind::new("command:ls").unwrap() }
}

fn succeeded(n: u64) -> Outcome {
    Outcome::Succeeded { output: Bytes::from(vec![n as u8; 100]) }
}

fn ended(n: u64) -> Record {
    Record::Ended { run: run(n), outcome: succeeded(n) }
}

fn path_in(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("agent.journal")
}

#[test]
fn what_was_not_recorded_is_remembered_and_what_had_only_begun_is_interrupted() {
    let directory = tempfile::tempdir().unwrap();
    let session = SessionId::from_key("s");
    {
        let mut journal = Journal::open(path_in(&directory)).unwrap();
        journal.append(vec![Record::Session(session), started(1), started(2), started(3)], true).unwrap();
        journal.append(vec![ended(2), ended(1)], false).unwrap();
        journal.append(vec![Record::Forgotten { run: run(1) }], false).unwrap();
    }
    let remembered = Journal::open(path_in(&directory)).unwrap().recall();
    let expected =
        Remembered { session: Some(session), ended: vec![(run(2), succeeded(2))], interrupted: vec![run(3)] };
    assert_eq!(remembered, expected);
}

#[test]
fn two_agents_cannot_share_a_journal() {
    let directory = tempfile::tempdir().unwrap();
    let _first = Journal::open(path_in(&directory)).unwrap();
    assert_eq!(Journal::open(path_in(&directory)).unwrap_err().kind(), ErrorKind::Conflict);
}

#[test]
fn a_file_that_is_no_journal_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(path_in(&directory), "dear diary").unwrap();
    assert_eq!(Journal::open(path_in(&directory)).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(std::fs::read(path_in(&directory)).unwrap(), b"dear diary");
}

#[test]
fn a_directory_that_is_not_there_is_a_clear_error() {
    let error = Journal::open("/nonexistent/agent.journal").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("/nonexistent/agent.journal"), "{error}");
}

#[test]
fn garbage_is_compacted_and_the_rest_kept() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(path_in(&directory)).unwrap().compact_above(4096);
    journal.append(vec![ended(0)], false).unwrap();
    for n in 1..1000 {
        journal.append(vec![started(n), ended(n), Record::Forgotten { run: run(n) }], false).unwrap();
    }
    drop(journal);
    assert!(std::fs::metadata(path_in(&directory)).unwrap().len() < 8192);
    let remembered = Journal::open(path_in(&directory)).unwrap().recall();
    assert_eq!(remembered.ended, [(run(0), succeeded(0))]);
}

#[test]
fn after_a_full_disk_the_journal_is_whole_again_once_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(path_in(&directory)).unwrap();
    journal.append(vec![ended(1)], false).unwrap();
    // A device that is always full stands in for the disk.
    let real =
        std::mem::replace(&mut journal.file, OpenOptions::new().write(true).open("/dev/full").unwrap());
    let error = journal.append(vec![ended(2)], false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    journal.file = real;
    journal.file.write_all(b"half a record").unwrap();
    journal.append(vec![ended(3)], true).unwrap();
    drop(journal);
    let remembered = Journal::open(path_in(&directory)).unwrap().recall();
    assert_eq!(remembered.ended, [(run(1), succeeded(1)), (run(3), succeeded(3))]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_cut_journal_keeps_every_record_before_the_cut(cut in 0u64..2000, garbage: Vec<u8>) {
        let directory = tempfile::tempdir().unwrap();
        let mut ends = vec![MAGIC.len() as u64];
        {
            let mut journal = Journal::open(path_in(&directory)).unwrap();
            for n in 0..10 {
                journal.append(vec![ended(n)], false).unwrap();
                ends.push(journal.length);
            }
        }
        let cut = cut.min(*ends.last().unwrap());
        {
            let mut file = OpenOptions::new().write(true).open(path_in(&directory)).unwrap();
            file.set_len(cut).unwrap();
            if cut >= MAGIC.len() as u64 {
                file.seek(SeekFrom::End(0)).unwrap();
                file.write_all(&garbage).unwrap();
            }
        }
        let whole = ends.iter().filter(|end| **end <= cut).count().saturating_sub(1);
        let mut journal = Journal::open(path_in(&directory)).unwrap();
        prop_assert_eq!(journal.recall().ended.len(), whole);
        // It goes on from there.
        journal.append(vec![ended(100)], true).unwrap();
        drop(journal);
        prop_assert_eq!(Journal::open(path_in(&directory)).unwrap().recall().ended.len(), whole + 1);
    }

    #[test]
    fn a_flipped_bit_ends_the_journal_there(at in 8usize..1000, bit in 0u8..8) {
        let directory = tempfile::tempdir().unwrap();
        let mut ends = Vec::new();
        {
            let mut journal = Journal::open(path_in(&directory)).unwrap();
            for n in 0..6 {
                journal.append(vec![ended(n)], false).unwrap();
                ends.push(journal.length);
            }
        }
        let mut bytes = std::fs::read(path_in(&directory)).unwrap();
        let at = at % (bytes.len() - 8) + 8;
        bytes[at] ^= 1 << bit;
        std::fs::write(path_in(&directory), bytes).unwrap();
        let before = ends.iter().filter(|end| **end <= at as u64).count();
        prop_assert_eq!(Journal::open(path_in(&directory)).unwrap().recall().ended.len(), before);
    }
}
