//! The model test: random operations give the same answers in two stores.
//!
//! The memory store is the oracle. What the contract leaves open is not compared: the texts of
//! failures, the order of sets, and how many pieces of late evidence a repeat leaves.

mod agents;
mod documents;

use std::collections::BTreeSet;
use std::fmt::Debug;

use bytes::Bytes;
use mamos_core::agent::LogStream;
use mamos_core::clock::Timestamp;
use mamos_core::job::labels::Labels;
use mamos_core::job::retry::RetryPolicy;
use mamos_core::job::{AttemptRecord, Failure, JobRecord, NewJob, Outcome, Priority, Progress, UniqueKey};
use mamos_core::lease::{RunRef, SessionRef};
use mamos_core::store::{
    Attach, Attached, ClaimGroup, Claimed, JobFilter, LogPiece, PageRequest, Report, RunWrite, Swept, Taker,
};
use mamos_core::{JobState, Result, Store};

use super::scene::{
    DAY, SECOND, agent_id, at, attach_request, cancel_request, epoch, job_id, job_in, lane, session_id,
};

const AGENTS: u64 = 3;
/// Few, so that operations meet the same jobs again and again.
const JOBS: u64 = 24;
/// How many of the newest runs operations choose from.
const RUNS: usize = 40;
/// Everything fits, because which part of the work a limit leaves is not promised.
const NO_LIMIT: u32 = 1000;

/// Does the same random operations in both stores, which must be empty, and compares every answer and,
/// every few steps, all that is stored.
///
/// # Errors
///
/// The first difference, with the seed and the step, so that it can be played again.
pub async fn same_answers(
    a: &dyn Store,
    b: &dyn Store,
    seed: u64,
    steps: u32,
) -> std::result::Result<(), String> {
    let mut play = Play::new(a, b, seed);
    play.admit().await?;
    for step in 0..steps {
        play.step = step;
        play.operate().await?;
        if step % 8 == 7 || step + 1 == steps {
            play.compare_all().await?;
        }
    }
    Ok(())
}

type Compared = std::result::Result<(), String>;

/// Two stores, and what the operations choose from.
struct Play<'a> {
    a: &'a dyn Store,
    b: &'a dyn Store,
    seed: u64,
    step: u32,
    random: fastrand::Rng,
    now: Timestamp,
    sessions: Vec<SessionRef>,
    runs: Vec<(SessionRef, RunRef)>,
}

/// Asks both stores the same, and compares what is left of the answers after the given view.
macro_rules! ask {
    ($play:ident, $method:ident($($argument:expr),*), $view:expr) => {{
        let asked = format!(concat!(stringify!($method), "{:?}"), ($(&$argument,)*));
        let a = $play.a.$method($($argument.clone()),*).await;
        let b = $play.b.$method($($argument.clone()),*).await;
        $play.compare(&asked, &a, &b, $view)?;
        // The errors are the same, and have said what they have to say.
        let answer = a.ok();
        answer
    }};
}
use ask;

impl<'a> Play<'a> {
    fn new(a: &'a dyn Store, b: &'a dyn Store, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self { a, b, seed, step: 0, random, now: at(0), sessions: Vec::new(), runs: Vec::new() }
    }

    fn compare<T, V: PartialEq + Debug>(
        &self,
        asked: &str,
        a: &Result<T>,
        b: &Result<T>,
        view: impl Fn(&T) -> V,
    ) -> Compared {
        let see = |answer: &Result<T>| answer.as_ref().map(&view).map_err(|error| error.kind());
        let (a, b) = (see(a), see(b));
        if a == b {
            return Ok(());
        }
        let Self { seed, step, now, .. } = self;
        Err(format!(
            "seed {seed}, step {step}, at {now}: {asked}\n  one answers   {a:?}\n  other answers {b:?}"
        ))
    }

    async fn operate(&mut self) -> Compared {
        // Clocks differ: mostly time goes on, now and then the next call is from a slow clock.
        self.now = match self.random.u32(0..20) {
            0 => self.now - self.random.u32(0..60) * SECOND,
            1 => self.now + self.random.u32(0..60) * SECOND,
            _ => self.now + self.random.u32(0..3) * SECOND,
        };
        match self.random.u32(0..112) {
            0..18 => self.enqueue().await,
            18..38 => self.claim().await,
            38..62 => self.report().await,
            62..69 => self.sweep().await,
            69..74 => self.attach().await,
            74..79 => self.renew().await,
            79..81 => self.detach().await,
            81..85 => {
                let jobs = self.some_jobs();
                ask!(self, cancel(jobs, cancel_request(), self.now), Clone::clone);
                Ok(())
            }
            85..89 => {
                let jobs = self.some_jobs();
                ask!(self, redrive(jobs, self.now), Clone::clone);
                Ok(())
            }
            89..92 => {
                let jobs = self.some_jobs();
                ask!(self, approve(jobs, self.now), Clone::clone);
                Ok(())
            }
            92..94 => self.pause().await,
            94..95 => {
                let before = self.now - self.random.u32(0..30) * SECOND;
                ask!(self, prune(before, NO_LIMIT), |pruned| *pruned);
                Ok(())
            }
            95..97 => self.tokens().await,
            97..98 => self.update().await,
            100..112 => self.documents().await,
            _ => self.list().await,
        }
    }

    fn some_jobs(&mut self) -> Vec<mamos_core::JobId> {
        (0..self.random.usize(1..4)).map(|_| job_id(self.random.u64(0..JOBS))).collect()
    }

    fn some_lane(&mut self) -> std::sync::Arc<mamos_core::job::lane::Lane> {
        let (queue, kind) = *self.random.choice(&[("a", "x"), ("a", "y"), ("b", "x")]).unwrap();
        lane(queue, kind)
    }

    fn some_session(&mut self) -> SessionRef {
        let known = self.random.choice(self.sessions.iter().rev().take(6)).copied();
        let mut session = known.unwrap_or(SessionRef { id: session_id(404), link: 1 });
        if self.random.u32(0..10) == 0 {
            session.link = session.link.saturating_sub(1).max(1);
        }
        session
    }

    fn some_run(&mut self) -> (SessionRef, RunRef) {
        let known = self.random.choice(&self.runs).copied();
        let nobody = (self.some_session(), RunRef { job: job_id(0), epoch: epoch(1) });
        let (mut session, mut run) = known.unwrap_or(nobody);
        match self.random.u32(0..12) {
            0 => run.epoch = epoch(self.random.u64(0..6)),
            1 => session = self.some_session(),
            2 => run.job = job_id(self.random.u64(0..JOBS + 2)),
            _ => {}
        }
        (session, run)
    }

    async fn enqueue(&mut self) -> Compared {
        let mut jobs = Vec::new();
        for _ in 0..self.random.usize(1..5) {
            let (n, lane) = (self.random.u64(0..JOBS), self.some_lane());
            let random = &mut self.random;
            let mut rarely = |of: u32| random.u32(0..of) == 0;
            let (is_late, has_deadline, has_key) = (rarely(4), rarely(5), rarely(4));
            let (needs_approval, has_label) = (rarely(10), rarely(3));
            let key = UniqueKey::new(["p", "q"][self.random.usize(0..2)]).unwrap();
            let run_at = self.now + self.random.u32(0..40) * SECOND - 10 * SECOND;
            jobs.push(NewJob {
                priority: Priority(self.random.i16(-1..2)),
                run_at: is_late.then_some(run_at),
                deadline: has_deadline.then(|| self.now + self.random.u32(0..60) * SECOND),
                retry: RetryPolicy { max_attempts: self.random.u32(1..4), ..RetryPolicy::default() },
                max_crashes: self.random.u32(1..3),
                unique_key: has_key.then_some(key),
                labels: if has_label { Labels::new([("zone", "eu")]).unwrap() } else { Labels::default() },
                needs_approval,
                ..job_in(n, lane)
            });
        }
        ask!(self, enqueue(jobs, self.now), Clone::clone);
        Ok(())
    }

    async fn claim(&mut self) -> Compared {
        let mut groups = Vec::new();
        for _ in 0..self.random.usize(1..3) {
            let lanes = (0..self.random.usize(1..4)).map(|_| self.some_lane().id()).collect();
            let takers = (0..self.random.usize(1..4))
                .map(|_| Taker { session: self.some_session(), limit: self.random.u32(0..3) })
                .collect();
            groups.push(ClaimGroup { lanes, takers });
        }
        let claimed = ask!(self, claim(groups, self.now), |claimed: &Claimed| {
            let mut claimed = claimed.clone();
            claimed.jobs.sort_by_key(|(session, _)| *session);
            claimed.stale.sort_unstable();
            claimed
        });
        for (session, jobs) in claimed.map(|claimed| claimed.jobs).unwrap_or_default() {
            let link = self.sessions.iter().rev().find(|known| known.id == session).copied();
            let Some(session) = link else { continue };
            self.runs.extend(jobs.into_iter().map(|job| (session, job.run)));
        }
        let excess = self.runs.len().saturating_sub(RUNS);
        self.runs.drain(..excess);
        Ok(())
    }

    async fn report(&mut self) -> Compared {
        let mut writes = Vec::new();
        for _ in 0..self.random.usize(1..5) {
            let (session, run) = self.some_run();
            let report = self.some_report();
            writes.push(RunWrite { session: session.id, run, report });
        }
        ask!(self, report(writes, self.now), Clone::clone);
        Ok(())
    }

    fn some_report(&mut self) -> Report {
        let failure = Failure::new("model", "as the model says");
        let delay = self.random.u32(0..20) * SECOND;
        let settle = match self.random.u32(0..12) {
            0..3 => return Report::Started,
            3 => return Report::Progress(Progress::new(Some(self.random.f32() * 100.0), "on")),
            4 => {
                let bytes = Bytes::from(vec![b'x'; self.random.usize(0..6)]);
                let offset = self.random.u64(0..8);
                return Report::Log(LogPiece { offset, stream: LogStream::Stderr, bytes });
            }
            5 => return Report::Release,
            6 => Outcome::Bury { failure },
            7 => Outcome::Snooze { delay },
            8 => Outcome::Cancelled,
            9 => Outcome::Retry { failure, after: Some(delay) },
            10 => Outcome::Retry { failure, after: None },
            _ => Outcome::Succeeded { output: Bytes::from_static(b"\x00output") },
        };
        Report::Settle(settle)
    }

    async fn sweep(&mut self) -> Compared {
        ask!(self, sweep(NO_LIMIT, self.now), |swept: &Swept| {
            let mut swept = swept.clone();
            swept.lanes.sort_by_key(|lane| lane.id());
            swept.rescued.sort_unstable();
            swept.overdue.sort_unstable();
            swept.lost.sort_unstable();
            swept
        });
        Ok(())
    }

    async fn attach(&mut self) -> Compared {
        let resume = self.random.bool().then(|| self.some_session().id);
        let known = (0..self.random.usize(0..6)).map(|_| self.some_run().1).collect();
        let fresh = 1000 + u64::from(self.step);
        let request = Attach { resume, known, ..attach_request(self.random.u64(0..AGENTS + 1), fresh) };
        let attached = ask!(self, attach(request, self.now), |attached: &Attached| {
            let mut attached = attached.clone();
            attached.superseded.sort_unstable();
            attached.returned.sort_unstable();
            attached.unknown.sort_unstable();
            attached
        });
        if let Some(attached) = attached {
            self.sessions.push(attached.session);
            self.runs.extend(attached.held.iter().map(|held| (attached.session, held.claimed.run)));
        }
        Ok(())
    }

    async fn renew(&mut self) -> Compared {
        let sessions: Vec<_> = (0..self.random.usize(1..4)).map(|_| self.some_session()).collect();
        let ttl = self.random.u32(10..60) * SECOND;
        if self.random.u32(0..4) == 0 {
            ask!(self, adopt(sessions, ttl, self.now), Clone::clone);
        } else {
            ask!(self, renew(sessions, ttl, self.now), Clone::clone);
        }
        Ok(())
    }

    async fn detach(&mut self) -> Compared {
        let session = self.some_session();
        ask!(self, detach(session, self.now), |verdict| *verdict);
        Ok(())
    }

    async fn pause(&mut self) -> Compared {
        let queue = self.some_lane().queue().clone();
        let is_paused = self.random.u32(0..3) == 0;
        let asked = format!("set_paused({queue}, {is_paused})");
        let a = self.a.set_paused(&queue, is_paused).await;
        let b = self.b.set_paused(&queue, is_paused).await;
        self.compare(&asked, &a, &b, |()| ())
    }

    async fn list(&mut self) -> Compared {
        let filter = JobFilter {
            states: (0..self.random.usize(0..3)).filter_map(|_| self.random.choice(JobState::ALL)).collect(),
            queue: self.random.bool().then(|| self.some_lane().queue().clone()),
            kind: self.random.bool().then(|| self.some_lane().kind().clone()),
            agent: (self.random.u32(0..3) == 0).then(|| agent_id(self.random.u64(0..AGENTS))),
            labels: Labels::default(),
        };
        let size = self.random.u32(1..9);
        let a = all_jobs(self.a, &filter, size).await;
        let b = all_jobs(self.b, &filter, size).await;
        self.compare(&format!("jobs({filter:?}) in pages of {size}"), &a, &b, Clone::clone)
    }

    async fn compare_all(&mut self) -> Compared {
        for n in 0..JOBS {
            ask!(self, job(job_id(n)), |job: &Option<JobRecord>| job.clone().map(without_texts));
            ask!(self, attempts(job_id(n)), |attempts: &Vec<AttemptRecord>| history(attempts));
        }
        for session in self.sessions.iter().rev().take(10).map(|session| session.id) {
            ask!(self, session(session), Clone::clone);
            ask!(self, held(session), Clone::clone);
        }
        for run in self.runs.iter().map(|(_, run)| *run) {
            ask!(self, log(run, 2_u64, 5_u32), |log: &Vec<LogPiece>| {
                // How a store cuts a log into pieces is its own affair.
                log.iter().flat_map(|piece| piece.bytes.to_vec()).collect::<Vec<u8>>()
            });
        }
        ask!(self, queues(), Clone::clone);
        ask!(self, agents(PageRequest::first(500)), |page| page.items.clone());
        ask!(self, paused_queues(), |queues| queues.iter().cloned().collect::<BTreeSet<_>>());
        ask!(self, ready_lanes(), |lanes| lanes.iter().map(|lane| lane.id()).collect::<BTreeSet<_>>());
        ask!(self, sessions(), |sessions| {
            sessions.iter().map(|session| session.session.id).collect::<BTreeSet<_>>()
        });
        ask!(self, tokens(), |tokens| {
            tokens.iter().map(|token| (token.id, token.uses_left)).collect::<BTreeSet<_>>()
        });
        self.compare_documents().await
    }
}

/// Every job that fits, through all pages, in the order of ids: two clocks that differ leave it open
/// which of two jobs is newer.
async fn all_jobs(store: &dyn Store, filter: &JobFilter, size: u32) -> Result<Vec<JobRecord>> {
    let (mut all, mut after) = (Vec::new(), None);
    for _ in 0..=JOBS * DAY {
        let page = store.jobs(filter.clone(), PageRequest { limit: size, after }).await?;
        all.extend(page.items.into_iter().map(without_texts));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    all.sort_by_key(|job| job.spec.id);
    Ok(all)
}

fn without_texts(mut job: JobRecord) -> JobRecord {
    job.failure = job.failure.map(|failure| Failure::new(failure.code, ""));
    job
}

/// The runs of a job, and whether there is late evidence.
fn history(attempts: &[AttemptRecord]) -> (Vec<AttemptRecord>, bool) {
    let runs = attempts.iter().filter(|attempt| !attempt.is_late).cloned().map(|mut attempt| {
        attempt.failure = attempt.failure.map(|failure| Failure::new(failure.code, ""));
        attempt
    });
    (runs.collect(), attempts.iter().any(|attempt| attempt.is_late))
}
