//! The client of an orchestrator that is killed: enqueues, and writes down what was acknowledged.

use std::time::Duration;

use mamos_core::auth::Principal;
use mamos_core::job::NewJob;
use mamos_core::job::retry::RetryPolicy;
use mamos_core::orchestrator::TokenScope;
use mamos_core::store::{EnqueueResult, JobFilter, PageRequest};
use mamos_core::whitelist::CommandRequest;
use mamos_core::{CommandId, JobId, JobState, Orchestrator};

use super::{COMMAND, Files, Work, append};

/// How long a client waits before it tries again.
const TRY_AGAIN: Duration = Duration::from_millis(50);
/// How often it is looked whether jobs are left.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Makes the registration token for so many agents, unless that was done, and puts it on file.
///
/// # Errors
///
/// Those of the store and of the file system.
pub async fn issue_token(orchestrator: &Orchestrator, files: &Files, agents: u32) -> anyhow::Result<()> {
    if files.token().exists() {
        return Ok(());
    }
    let scope = TokenScope { uses: agents, ..TokenScope::once(Duration::from_secs(3600)) };
    let (_, token) = orchestrator.create_token(scope).await?;
    // Several may make one at once; each is good.
    let temporary = files.token().with_extension(std::process::id().to_string());
    std::fs::write(&temporary, token.expose())?;
    std::fs::rename(temporary, files.token())?;
    Ok(())
}

/// Enqueues jobs until it is told to stop, each again and again under the same id until it is acknowledged;
/// then watches for the last of them to end. `who` is another for each life of each client.
///
/// # Errors
///
/// Those of the file system, and errors of the store that do not pass.
pub async fn enqueue(orchestrator: &Orchestrator, files: &Files, who: &str) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(seed(who));
    let mut number = 0;
    while !files.stop().exists() {
        let jobs = (0..random.usize(1..=4)).map(|_| {
            number += 1;
            job(orchestrator, JobId::from_key(&format!("{who}/{number}")), &mut random)
        });
        let jobs = jobs.collect::<anyhow::Result<Vec<NewJob>>>()?;
        let answers = loop {
            match orchestrator.enqueue_all(jobs.clone()).await {
                Ok(answers) => break answers,
                Err(error) if error.is_retryable() => tokio::time::sleep(TRY_AGAIN).await,
                Err(error) => return Err(error.into()),
            }
        };
        let is_stored = |result| matches!(result, EnqueueResult::Stored(_) | EnqueueResult::Repeat(_));
        let stored = answers.iter().filter(|answer| is_stored(answer.result));
        let lines: String = stored.map(|answer| format!("{}\n", answer.id)).collect();
        // On disk only now: what is in this file was acknowledged.
        append(&files.accepted(), &lines, true)?;
        tokio::time::sleep(Duration::from_millis(random.u64(5..60))).await;
    }
    let open = JobFilter {
        states: vec![JobState::Scheduled, JobState::Ready, JobState::Leased, JobState::Running],
        ..JobFilter::default()
    };
    loop {
        match orchestrator.jobs(open.clone(), PageRequest::first(1)).await {
            Ok(page) if page.items.is_empty() => {
                std::fs::write(files.drained(), "")?;
                return std::future::pending().await;
            }
            Err(error) if !error.is_retryable() => return Err(error.into()),
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

fn seed(who: &str) -> u64 {
    let bytes = JobId::from_key(who);
    bytes.as_bytes().iter().fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}

/// A typed job or a command, quick or slow, that fails now and then.
fn job(orchestrator: &Orchestrator, id: JobId, random: &mut fastrand::Rng) -> anyhow::Result<NewJob> {
    let takes_ms = if random.u8(..5) == 0 { random.u64(50..400) } else { random.u64(..15) };
    let retry = RetryPolicy::fixed(3, Duration::from_millis(50));
    if random.u8(..5) == 0 {
        let request = CommandRequest::new(CommandId::new(COMMAND)?).with("job", id.to_string());
        Ok(orchestrator.run_command(request, &Principal::host())?.id(id).retry(retry).build()?)
    } else {
        let failures = if random.u8(..8) == 0 { random.u32(1..4) } else { 0 };
        Ok(orchestrator.enqueue(Work { takes_ms, failures }).id(id).retry(retry).build()?)
    }
}
