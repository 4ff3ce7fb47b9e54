//! What the real processes that are killed have in common: their files, their jobs, and how the files are
//! read at the end.

mod agent;
mod client;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use mamos_core::agent::{Agent, AgentProfile, Attempt};
use mamos_core::auth::Principal;
use mamos_core::job::{AttemptEnd, AttemptRecord, JobRecord, Outcome};
use mamos_core::store::PageRequest;
use mamos_core::whitelist::{CommandRequest, Denial, DenialCode, Permit, Whitelist};
use mamos_core::{CommandId, Job, JobId, JobState, Store};
use serde::{Deserialize, Serialize};

pub use self::agent::{life_name, mark, serve};
pub use self::client::{enqueue, issue_token};
use crate::checker::{Violation, check};
use crate::history::Entry;

/// The name of the only command.
pub const COMMAND: &str = "mark";
/// The lease of a session in the processes: short, so that it is lost now and then.
pub const LEASE_TTL: Duration = Duration::from_secs(2);

/// The files of one experiment.
#[derive(Debug, Clone)]
pub struct Files {
    directory: PathBuf,
}

impl Files {
    /// Those in a directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.at("jobs.sqlite")
    }

    /// The socket between the two.
    pub fn socket(&self) -> PathBuf {
        self.at("link")
    }

    /// The registration token of the agent.
    pub fn token(&self) -> PathBuf {
        self.at("token")
    }

    /// The ids of the jobs that the client was told are stored, one a line.
    pub fn accepted(&self) -> PathBuf {
        self.at("accepted")
    }

    /// What handlers and the driver saw, one entry a line.
    pub fn observed(&self) -> PathBuf {
        self.at("observed")
    }

    /// A line for each start of a command's program: the id of the job.
    pub fn marks(&self) -> PathBuf {
        self.at("marks")
    }

    /// The state of an agent: identity and journal.
    pub fn agent(&self, number: usize) -> PathBuf {
        self.at(&format!("agent-{number}"))
    }

    /// Is there once no more jobs are to be enqueued.
    pub fn stop(&self) -> PathBuf {
        self.at("stop")
    }

    /// Is there once all jobs have ended.
    pub fn drained(&self) -> PathBuf {
        self.at("drained")
    }
}

/// Appends whole lines to a file, in one write each time, so that a killed process tears none of another.
///
/// # Errors
///
/// Those of the file system.
pub fn append(path: &Path, lines: &str, durably: bool) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path)?;
    file.write_all(lines.as_bytes())?;
    if durably { file.sync_data() } else { Ok(()) }
}

/// Appends an observation.
///
/// # Errors
///
/// Those of the file system.
pub fn observe(path: &Path, entry: &Entry) -> std::io::Result<()> {
    append(path, &format!("{}\n", serde_json::to_string(entry)?), false)
}

/// A typed job of the experiment.
#[derive(Debug, Serialize, Deserialize)]
pub struct Work {
    /// How long it takes.
    pub takes_ms: u64,
    /// How many attempts fail.
    pub failures: u32,
}

impl Job for Work {
    const KIND: &'static str = "crash.work";
    type Output = ();
}

/// Permits the program that leaves a mark, for any job.
#[derive(Debug)]
pub struct Marks {
    /// The program: the agent's own.
    pub program: PathBuf,
    /// Where it leaves marks.
    pub file: PathBuf,
}

impl Whitelist for Marks {
    fn permit(&self, request: &CommandRequest, _: &Principal) -> Result<Permit, Denial> {
        let job = request.parameters.get("job").filter(|_| request.command.as_str() == COMMAND);
        let job =
            job.ok_or_else(|| Denial::new(DenialCode::UnknownCommand, "only `mark` is known, with a job"))?;
        Ok(Permit {
            command: request.command.clone(),
            program: self.program.clone(),
            arguments: vec!["--mark".to_owned(), self.file.display().to_string(), job.clone()],
            paths: Vec::new(),
            environment: BTreeMap::default(),
            working_directory: "/".into(),
            timeout: Duration::from_secs(10),
            output_cap_bytes: 4096,
        })
    }

    fn commands(&self) -> Vec<CommandId> {
        CommandId::new(COMMAND).into_iter().collect()
    }

    fn digest(&self) -> String {
        "marks".to_owned()
    }
}

/// An agent that writes down when its attempts begin and end.
#[derive(Debug)]
pub struct Observed<A> {
    /// What runs the attempts.
    pub inner: A,
    /// Where it is written down.
    pub file: PathBuf,
    /// The name of this life.
    pub life: String,
}

impl<A> Observed<A> {
    fn note(&self, entry: &Entry) {
        if let Err(error) = observe(&self.file, entry) {
            tracing::error!(%error, "an observation is lost, and the check will be wrong");
        }
    }
}

#[async_trait]
impl<A: Agent> Agent for Observed<A> {
    fn profile(&self) -> AgentProfile {
        self.inner.profile()
    }

    async fn run(&self, attempt: Attempt) -> Outcome {
        let run = attempt.run;
        self.note(&Entry::HandlerStarted { agent: self.life.clone(), run });
        let outcome = self.inner.run(attempt).await;
        self.note(&Entry::HandlerEnded { agent: self.life.clone(), run });
        outcome
    }
}

/// What the check at the end found.
#[derive(Debug, Default)]
pub struct Verdicts {
    /// Broken promises.
    pub violations: Vec<Violation>,
    /// Broken promises about commands and about what is on file.
    pub others: Vec<String>,
    /// Jobs that were accepted.
    pub accepted: usize,
    /// Runs in the database.
    pub runs: usize,
    /// Runs that crashed.
    pub crashed: usize,
    /// Starts of a command's program.
    pub marks: usize,
    /// Jobs of each final state.
    pub ended: BTreeMap<&'static str, usize>,
}

/// Reads all files and the database, and checks what they say.
///
/// # Errors
///
/// If something cannot be read.
pub async fn judge(files: &Files, store: &dyn Store) -> anyhow::Result<Verdicts> {
    let mut verdicts = Verdicts::default();
    let mut entries = Vec::new();
    for line in lines(&files.observed())? {
        // The last line of a killed process may be torn.
        entries.extend(serde_json::from_str::<Entry>(&line).ok());
    }
    for line in lines(&files.accepted())? {
        if let Ok(job) = line.parse::<JobId>() {
            verdicts.accepted += 1;
            entries.push(Entry::Accepted { job });
        }
    }
    let mut marks: BTreeMap<String, u64> = BTreeMap::new();
    for job in lines(&files.marks())? {
        *marks.entry(job).or_default() += 1;
        verdicts.marks += 1;
    }
    let mut after = None;
    loop {
        let page = store.jobs(Default::default(), PageRequest { limit: 1000, after }).await?;
        for job in &page.items {
            let attempts = store.attempts(job.spec.id).await?;
            let starts = marks.get(&job.spec.id.to_string()).copied().unwrap_or_default();
            if starts > job.epoch.number() {
                verdicts.others.push(format!(
                    "the command of {} was started {starts} times in {} runs",
                    job.spec.id, job.epoch
                ));
            }
            verdicts.runs += attempts.len();
            verdicts.crashed +=
                attempts.iter().filter(|attempt| attempt.end == Some(AttemptEnd::Crashed)).count();
            *verdicts.ended.entry(name(job.state)).or_default() += 1;
            entries.extend(retold(job, &attempts));
            entries.push(Entry::Final { job: job.spec.id, state: job.state });
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    verdicts.violations = check(&entries);
    Ok(verdicts)
}

/// What the store did, as far as its own history of a job tells.
pub(crate) fn retold(job: &JobRecord, attempts: &[AttemptRecord]) -> Vec<Entry> {
    let current: Vec<&AttemptRecord> = attempts.iter().filter(|attempt| !attempt.is_late).collect();
    let last = current.len();
    let mut entries = Vec::new();
    for (n, attempt) in current.into_iter().enumerate() {
        let run = attempt.run;
        entries.push(Entry::Claimed { run });
        let is_last = n + 1 == last;
        let back = if is_last { job.state } else { JobState::Ready };
        match attempt.end {
            None => {}
            Some(AttemptEnd::Succeeded) => {
                entries.push(Entry::Applied { run, ends: true, state: JobState::Succeeded });
            }
            Some(AttemptEnd::Buried) => {
                entries.push(Entry::Applied { run, ends: true, state: JobState::Dead });
            }
            Some(AttemptEnd::Cancelled) => {
                entries.push(Entry::Applied { run, ends: true, state: JobState::Cancelled });
            }
            Some(AttemptEnd::Retried | AttemptEnd::Snoozed) => {
                entries.push(Entry::Applied { run, ends: true, state: JobState::Scheduled });
            }
            Some(AttemptEnd::Overdue) => {
                entries.push(Entry::TakenBack { run, state: JobState::Dead });
            }
            Some(AttemptEnd::Crashed | AttemptEnd::Returned) => {
                entries.push(Entry::TakenBack { run, state: back });
            }
        }
    }
    entries
}

fn name(state: JobState) -> &'static str {
    match state {
        JobState::Succeeded => "succeeded",
        JobState::Dead => "dead",
        JobState::Cancelled => "cancelled",
        _ => "unfinished",
    }
}

fn lines(path: &Path) -> std::io::Result<Vec<String>> {
    match std::fs::File::open(path) {
        Ok(file) => BufReader::new(file).lines().collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use mamos_core::Timestamp;
    use mamos_core::id::{JobKind, QueueName};
    use mamos_core::job::NewJob;
    use mamos_core::job::labels::Selector;
    use mamos_core::job::lane::Lane;
    use mamos_core::store::JobStore;
    use mamos_store::MemoryStore;

    use super::*;

    #[tokio::test]
    async fn lost_jobs_unfinished_jobs_and_commands_started_too_often_are_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::new(directory.path());
        let store = MemoryStore::new();
        let kind = JobKind::new("crash.work").unwrap();
        let lane = Arc::new(Lane::new(QueueName::default_queue(), kind, Selector::any()));
        let (kept, lost) = (JobId::from_key("kept"), JobId::from_key("lost"));
        let job = NewJob::new(kept, lane, Bytes::new());
        store.enqueue(vec![job], Timestamp::EPOCH).await.unwrap();
        append(&files.accepted(), &format!("{kept}\n{lost}\nhalf an i"), true).unwrap();
        append(&files.marks(), &format!("{kept}\n"), false).unwrap();
        let verdicts = judge(&files, &store).await.unwrap();
        assert_eq!(verdicts.accepted, 2);
        assert!(verdicts.violations.contains(&Violation::Lost(lost)), "{verdicts:?}");
        assert!(verdicts.violations.contains(&Violation::Unfinished(kept, JobState::Ready)), "{verdicts:?}");
        assert_eq!(verdicts.others.len(), 1, "{verdicts:?}");
    }
}
