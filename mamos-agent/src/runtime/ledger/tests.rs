use std::collections::BTreeMap;

use bytes::Bytes;
use mamos_core::JobId;
use mamos_core::id::JobKind;
use mamos_core::job::Counters;
use mamos_core::lease::Epoch;
use proptest::prelude::*;

use super::*;

fn run(n: u64) -> RunRef {
    RunRef { job: JobId::from_key("job"), epoch: Epoch::from_number(n) }
}

fn dispatched(n: u64, kind: &str) -> Dispatched {
    Dispatched {
        run: run(n),
        kind: JobKind::new(kind).unwrap(),
        payload: Bytes::from_static(b"12345678"),
        counters: Counters::default(),
        timeout: None,
        deadline_in: None,
        traceparent: None,
    }
}

fn ledger(has_journal: bool, slots: u32) -> Ledger {
    let rules = Rules {
        has_journal,
        cancel_grace: Duration::from_secs(1),
        announce_after: Duration::from_millis(10),
        max_queued: 4,
        max_queued_bytes: 1000,
    };
    Ledger::new(rules, slots)
}

fn succeeded() -> Outcome {
    Outcome::Succeeded { output: Bytes::from_static(b"1") }
}

fn receive(ledger: &mut Ledger, message: ToAgent) -> Vec<Effect> {
    let mut effects = Vec::new();
    ledger.receive(message, Instant::now(), &mut effects).unwrap();
    effects
}

fn sent(ledger: &mut Ledger) -> Vec<RunEvent> {
    ledger
        .take_batch()
        .map(|(_, reports)| reports.into_iter().map(|report| report.event).collect())
        .unwrap_or_default()
}

#[tokio::test]
async fn a_command_starts_only_once_that_is_on_disk() {
    for (is_written, expected) in
        [(true, RunEvent::Started), (false, RunEvent::Ended(Outcome::Snooze { delay: PUT_OFF }))]
    {
        let mut ledger = ledger(true, 1);
        let effects = receive(&mut ledger, ToAgent::Dispatch(vec![dispatched(1, "command:x")]));
        let record = Record::Started { run: run(1), kind: JobKind::new("command:x").unwrap() };
        assert_eq!(effects, [Effect::Write { record, durably: true }]);
        let mut effects = Vec::new();
        ledger.written(run(1), is_written, Instant::now(), &mut effects);
        assert_eq!(effects.iter().any(|effect| matches!(effect, Effect::Start(_))), is_written);
        assert_eq!(sent(&mut ledger), [expected]);
        assert_eq!(ledger.counts().running, usize::from(is_written));
    }
}

#[tokio::test]
async fn a_command_that_is_cancelled_or_killed_while_it_goes_to_disk_never_starts() {
    let cancel = ToAgent::Cancel { run: run(1), grace: Duration::ZERO };
    let kill = ToAgent::Kill { runs: vec![run(1)] };
    for (message, expected) in [(cancel, vec![RunEvent::Ended(Outcome::Cancelled)]), (kill, vec![])] {
        let mut ledger = ledger(true, 1);
        receive(&mut ledger, ToAgent::Dispatch(vec![dispatched(1, "command:x")]));
        receive(&mut ledger, message);
        let mut effects = Vec::new();
        ledger.written(run(1), true, Instant::now(), &mut effects);
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Start(_))), "{effects:?}");
        assert_eq!(sent(&mut ledger), expected);
        assert_eq!(ledger.counts().running, 0);
    }
}

#[tokio::test]
async fn a_result_is_sent_only_once_it_is_in_the_journal() {
    let mut ledger = ledger(true, 1);
    receive(&mut ledger, ToAgent::Dispatch(vec![dispatched(1, "typed")]));
    let mut effects = Vec::new();
    ledger.finished(run(1), Some(succeeded()), Instant::now(), &mut effects);
    assert_eq!(sent(&mut ledger), []);
    ledger.written(run(1), true, Instant::now(), &mut effects);
    assert_eq!(sent(&mut ledger), [RunEvent::Ended(succeeded())]);
    let effects = receive(&mut ledger, ToAgent::Recorded { through: 1, exceptions: vec![] });
    assert_eq!(effects, [Effect::Write { record: Record::Forgotten { run: run(1) }, durably: false }]);
    assert!(ledger.is_idle());
}

#[tokio::test]
async fn more_than_the_queue_holds_is_given_back() {
    let mut ledger = ledger(false, 0);
    receive(&mut ledger, ToAgent::Dispatch((0..7).map(|n| dispatched(n, "typed")).collect()));
    assert_eq!(ledger.counts().queued, 4);
    assert_eq!(sent(&mut ledger), [RunEvent::Released, RunEvent::Released, RunEvent::Released]);
}

#[tokio::test]
async fn a_batch_that_fits_no_frame_gets_smaller_until_it_does() {
    let mut ledger = ledger(false, 9);
    receive(&mut ledger, ToAgent::Dispatch((0..3).map(|n| dispatched(n, "typed")).collect()));
    for n in 0..3 {
        ledger.finished(run(n), Some(succeeded()), Instant::now(), &mut Vec::new());
    }
    let mut tries = 0;
    while sent(&mut ledger).len() > 1 {
        ledger.batch_was_too_large(&mut Vec::new());
        ledger.linked();
        tries += 1;
        assert!(tries < 64);
    }
    ledger.batch_was_too_large(&mut Vec::new());
    ledger.linked();
    let [RunEvent::Ended(Outcome::Bury { failure })] = &sent(&mut ledger)[..] else { panic!("not replaced") };
    assert_eq!(failure.code, "output_too_large");
}

#[derive(Debug, Clone)]
enum Step {
    Dispatch(u64, bool),
    Finish(usize),
    Written(bool),
    Cancel(u64),
    Kill(u64),
    Retract(u64),
    Send,
    Record(u64),
    Relink,
    Tick,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..20u64, any::<bool>()).prop_map(|(n, command)| Step::Dispatch(n, command)),
        3 => (0..8usize).prop_map(Step::Finish),
        3 => prop::bool::weighted(0.8).prop_map(Step::Written),
        1 => (0..20u64).prop_map(Step::Cancel),
        1 => (0..20u64).prop_map(Step::Kill),
        1 => (0..20u64).prop_map(Step::Retract),
        3 => Just(Step::Send),
        2 => (0..9u64).prop_map(Step::Record),
        1 => Just(Step::Relink),
        1 => Just(Step::Tick),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_slots_hold_numbers_have_no_gaps_and_each_run_has_one_end(
        steps in prop::collection::vec(step(), 1..200),
        has_journal: bool,
    ) {
        let mut ledger = ledger(has_journal, 3);
        let mut now = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async { Instant::now() });
        let (mut active, mut waiting) = (Vec::<RunRef>::new(), Vec::<RunRef>::new());
        let (mut next, mut recorded) = (1u64, 0u64);
        let mut ends: BTreeMap<RunRef, RunEvent> = BTreeMap::new();
        let mut killed: BTreeSet<RunRef> = BTreeSet::new();
        let mut seen: BTreeSet<RunRef> = BTreeSet::new();
        for step in steps {
            let mut effects = Vec::new();
            match step {
                // A run is dispatched once; a second time only while the agent has it, which is a repeat.
                Step::Dispatch(n, command) => {
                    if seen.insert(run(n)) || ledger.runs.contains_key(&run(n)) {
                        let kind = if command { "command:x" } else { "typed" };
                        let message = ToAgent::Dispatch(vec![dispatched(n, kind)]);
                        ledger.receive(message, now, &mut effects).unwrap();
                    }
                }
                Step::Finish(index) if !active.is_empty() => {
                    let run = active.swap_remove(index % active.len());
                    ledger.finished(run, Some(succeeded()), now, &mut effects);
                }
                Step::Finish(_) => {}
                Step::Written(ok) => {
                    for run in std::mem::take(&mut waiting) {
                        ledger.written(run, ok, now, &mut effects);
                    }
                }
                Step::Cancel(n) => {
                    let message = ToAgent::Cancel { run: run(n), grace: Duration::ZERO };
                    ledger.receive(message, now, &mut effects).unwrap();
                }
                Step::Kill(n) => {
                    killed.insert(run(n));
                    seen.insert(run(n));
                    ledger.receive(ToAgent::Kill { runs: vec![run(n)] }, now, &mut effects).unwrap();
                }
                Step::Retract(n) => {
                    ledger.receive(ToAgent::Retract { runs: vec![run(n)] }, now, &mut effects).unwrap();
                }
                Step::Send => {
                    if let Some((first, reports)) = ledger.take_batch() {
                        prop_assert_eq!(first, next);
                        next += reports.len() as u64;
                        for report in reports {
                            prop_assert!(!killed.contains(&report.run), "a killed run is spoken of");
                            if matches!(report.event, RunEvent::Ended(_) | RunEvent::Released) {
                                let before = ends.insert(report.run, report.event.clone());
                                prop_assert!(before.is_none_or(|before| before == report.event), "two ends");
                            } else {
                                prop_assert!(!ends.contains_key(&report.run), "spoken of after its end");
                            }
                        }
                    }
                }
                Step::Record(count) => {
                    recorded = (recorded + count).min(next - 1);
                    let message = ToAgent::Recorded { through: recorded, exceptions: vec![] };
                    ledger.receive(message, now, &mut effects).unwrap();
                }
                Step::Relink => {
                    ledger.linked();
                    (next, recorded) = (1, 0);
                    // What is sent again was said before: its ends are compared, its start is not.
                    ends.retain(|run, _| !ledger.runs.contains_key(run));
                }
                Step::Tick => {
                    now += Duration::from_millis(6);
                    ledger.tick(now);
                }
            }
            for effect in effects {
                match effect {
                    Effect::Start(dispatched) => active.push(dispatched.run),
                    Effect::Abort(run) => {
                        active.retain(|active| *active != run);
                        let mut more = Vec::new();
                        ledger.finished(run, None, now, &mut more);
                        for effect in more {
                            match effect {
                                Effect::Start(dispatched) => active.push(dispatched.run),
                                Effect::Write { record: Record::Started { run, kind }, .. } if kind.command().is_some() => waiting.push(run),
                                _ => {}
                            }
                        }
                    }
                    Effect::Write { record: Record::Started { run, kind }, .. } if kind.command().is_some() => waiting.push(run),
                    Effect::Write { record: Record::Ended { run, .. }, .. } => waiting.push(run),
                    _ => {}
                }
            }
            prop_assert!(active.len() <= 3 && ledger.busy <= 3);
            prop_assert_eq!(ledger.outbox.len(), ledger.outbox.count_anew());
        }
    }
}
