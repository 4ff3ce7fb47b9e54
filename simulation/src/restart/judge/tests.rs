use mamos_core::SessionId;
use mamos_core::lease::Epoch;

use super::*;
use crate::restart::evidence::Seen;

const AWAY: (i64, i64) = (10_000_000, 20_000_000);

fn run(key: &str, epoch: u64) -> RunRef {
    RunRef { job: JobId::from_key(key), epoch: Epoch::from_number(epoch) }
}

fn session(agent: usize) -> SessionId {
    SessionId::from_key(&agent.to_string())
}

fn linked(at: i64, agent: usize) -> Seen {
    Seen { at, what: What::Linked { session: session(agent) } }
}

fn ran(run: RunRef, from: i64, until: i64) -> [Seen; 2] {
    [Seen { at: from, what: What::Started { run } }, Seen { at: until, what: What::Ended { run } }]
}

fn kept(key: &str, ends: &[AttemptEnd]) -> Kept {
    let runs = ends.iter().zip(1..).map(|(end, epoch)| Recorded {
        run: run(key, epoch),
        end: Some(*end),
        is_late: false,
        log: Log::Whole,
    });
    let crashes = ends.iter().filter(|end| **end == AttemptEnd::Crashed).count();
    Kept {
        job: JobId::from_key(key),
        state: JobState::Succeeded,
        crashes: u32::try_from(crashes).unwrap(),
        runs: runs.collect(),
    }
}

fn outage(agents: &[usize], effect: Effect) -> Outage {
    Outage {
        name: "away".to_owned(),
        agents: agents.iter().copied().collect(),
        from: AWAY.0,
        until: AWAY.1,
        settled: 30_000_000,
        effect,
        relinks: true,
        has_jitter: false,
    }
}

/// Agent 0 runs a job through an outage and ends another in it.
fn unnoticed() -> Findings {
    let mut evidence = Evidence::of(1);
    evidence.seen[0].push(linked(1, 0));
    evidence.seen[0].extend(ran(run("through", 1), 5_000_000, 22_000_000));
    evidence.seen[0].extend(ran(run("ended", 1), 6_000_000, 15_000_000));
    evidence.seen[0].push(linked(21_000_000, 0));
    findings(
        evidence,
        &[("through", &[AttemptEnd::Succeeded]), ("ended", &[AttemptEnd::Succeeded])],
        outage(&[0], Effect::Unnoticed),
    )
}

/// Agent 0 is lost with a job, which agent 1 runs again.
fn lost() -> Findings {
    let mut evidence = Evidence::of(2);
    evidence.seen[0].push(linked(1, 0));
    evidence.seen[0].push(Seen { at: 5_000_000, what: What::Started { run: run("a", 1) } });
    evidence.seen[0].push(linked(21_000_000, 0));
    evidence.seen[1].push(linked(1, 1));
    evidence.seen[1].extend(ran(run("a", 2), 16_000_000, 17_000_000));
    findings(evidence, &[("a", &[AttemptEnd::Crashed, AttemptEnd::Succeeded])], outage(&[0], Effect::Lost))
}

/// Agent 0 ends a job while the server is away, and is killed after that.
fn journaled() -> Findings {
    let mut evidence = Evidence::of(1);
    evidence.seen[0].push(linked(1, 0));
    evidence.seen[0].extend(ran(run("a", 1), 5_000_000, 9_000_000));
    evidence.seen[0].push(linked(21_000_000, 0));
    findings(
        evidence,
        &[("a", &[AttemptEnd::Succeeded])],
        outage(&[0], Effect::Journaled { since: 8_000_000 }),
    )
}

fn findings(evidence: Evidence, jobs: &[(&str, &[AttemptEnd])], outage: Outage) -> Findings {
    Findings {
        evidence,
        accepted: jobs.iter().map(|(key, _)| JobId::from_key(key)).collect(),
        kept: jobs.iter().map(|(key, ends)| kept(key, ends)).collect(),
        told: Vec::new(),
        outages: vec![outage],
    }
}

fn promises(findings: &Findings) -> BTreeSet<Promise> {
    judge(findings).0.into_iter().map(|broken| broken.promise).collect()
}

#[test]
fn what_went_well_breaks_no_promise() {
    for (n, good) in [unnoticed(), lost(), journaled()].iter().enumerate() {
        let (broken, effects) = judge(good);
        assert!(broken.is_empty(), "{n}: {broken:?}");
        let effects = &effects[0];
        let counts = (effects.running, effects.ran_through, effects.rescued, effects.journaled);
        assert_eq!(counts, [(2, 1, 0, 0), (1, 0, 1, 0), (0, 0, 0, 1)][n]);
        assert_eq!(effects.back_ms, [1000]);
    }
}

/// Each row changes what went well in one way that must be noticed.
#[test]
fn every_broken_promise_is_noticed() {
    type Row = (fn() -> Findings, fn(&mut Findings), Promise);
    let rows: [Row; 15] = [
        (unnoticed, |f| drop(f.kept.pop()), Promise::NotLost),
        (unnoticed, |f| f.kept[0].state = JobState::Dead, Promise::NotLost),
        (unnoticed, |f| f.kept[0].runs[0].log = Log::Beginning, Promise::WholeLogs),
        (journaled, |f| f.kept[0].runs[0].log = Log::Wrong, Promise::WholeLogs),
        (unnoticed, |f| f.kept[0] = kept("through", &[AttemptEnd::Crashed]), Promise::NotInterrupted),
        (
            unnoticed,
            |f| f.evidence.seen[0][2].what = What::Dropped { run: run("through", 1) },
            Promise::NotInterrupted,
        ),
        (
            unnoticed,
            |f| f.evidence.seen[0].extend(ran(run("ended", 2), 21_000_000, 22_000_000)),
            Promise::NotTwice,
        ),
        (
            unnoticed,
            |f| f.evidence.seen[0].extend(ran(run("ended", 1), 21_000_000, 22_000_000)),
            Promise::Guarantees,
        ),
        (unnoticed, |f| drop(f.evidence.seen[0].pop()), Promise::Back),
        (unnoticed, |f| f.evidence.seen[0][5].what = What::Linked { session: session(9) }, Promise::Back),
        (unnoticed, |f| f.outages[0].from = 3_000_000, Promise::Tested),
        (lost, |f| f.kept[0].crashes = 2, Promise::RescuedOnce),
        (
            lost,
            |f| {
                let again = f.evidence.seen[1].split_off(1);
                f.evidence.seen[0].extend(again);
            },
            Promise::RescuedOnce,
        ),
        (
            journaled,
            |f| f.kept[0] = kept("a", &[AttemptEnd::Returned, AttemptEnd::Succeeded]),
            Promise::JournalDelivered,
        ),
        (journaled, |f| f.outages[0].effect = Effect::Journaled { since: 9_500_000 }, Promise::Tested),
    ];
    for (n, (good, change, expected)) in rows.into_iter().enumerate() {
        let mut findings = good();
        change(&mut findings);
        let broken = promises(&findings);
        assert!(broken.contains(&expected), "row {n}: {broken:?}");
    }
}

#[test]
fn agents_that_all_come_back_at_once_are_noticed() {
    let away = |apart: i64| {
        let mut findings = unnoticed();
        findings.outages[0].has_jitter = true;
        for agent in 0..20 {
            let came = linked(21_000_000 + i64::try_from(agent).unwrap() * apart, agent);
            findings.evidence.seen.resize(20, Vec::new());
            findings.evidence.seen[agent].extend([linked(2, agent), came]);
            findings.outages[0].agents.insert(agent);
        }
        promises(&findings)
    };
    assert!(away(1_000).contains(&Promise::Jitter));
    assert!(!away(50_000).contains(&Promise::Jitter));
}
