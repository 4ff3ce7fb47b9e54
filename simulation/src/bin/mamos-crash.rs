//! Starts an orchestrator and an agent as processes, kills them at random moments, and checks what is left.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use mamos_simulation::crash::{Files, Verdicts, judge, observe};
use mamos_simulation::history::Entry;
use mamos_store::{SqliteSettings, SqliteStore};

/// After the last kill, all that was accepted must have ended within this time. An agent waits up to 30 s
/// between two tries to connect.
const DRAIN_WITHIN: Duration = Duration::from_secs(90);

#[derive(Parser)]
#[command(
    about = "Kills an orchestrator and an agent with SIGKILL, again and again, and checks what is left."
)]
struct Arguments {
    /// How often somebody is killed.
    #[arg(long, default_value_t = 50)]
    rounds: u32,
    /// What the moments are drawn from. Real processes: a seed does not repeat a run exactly.
    #[arg(long)]
    seed: Option<u64>,
    /// Keeps the files here instead of in a temporary directory.
    #[arg(long)]
    keep: Option<PathBuf>,
}

/// A process that is killed and started again.
struct Victim {
    program: PathBuf,
    arguments: Vec<String>,
    life: u64,
    child: Option<Child>,
}

impl Victim {
    fn start(&mut self) -> anyhow::Result<()> {
        self.life += 1;
        let arguments = self.arguments.iter().map(|part| part.replace("{life}", &self.life.to_string()));
        let child = Command::new(&self.program).args(arguments).spawn();
        let advice = || {
            let program = self.program.display();
            format!("cannot start {program}; build it with `cargo build -p mamos-simulation --bins`")
        };
        self.child = Some(child.with_context(advice)?);
        Ok(())
    }

    /// Kills it. It must not have ended by itself.
    fn kill(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        if let Some(status) = child.try_wait()? {
            anyhow::bail!("{} ended by itself: {status}", self.program.display());
        }
        child.kill()?;
        child.wait()?;
        Ok(())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself.
            let _ = (child.kill(), child.wait());
        }
    }
}

#[expect(clippy::print_stdout, reason = "this is what the program is for")]
fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    let temporary = tempfile::Builder::new().prefix("mamos-crash-").tempdir()?;
    let directory = arguments.keep.clone().unwrap_or_else(|| temporary.path().to_path_buf());
    std::fs::create_dir_all(&directory)?;
    let begun = Instant::now();
    println!("seed {seed}, {} rounds", arguments.rounds);
    torment(&directory, seed, arguments.rounds)?;
    let verdicts = verdicts(&directory)?;
    for violation in &verdicts.violations {
        println!("violation: {violation:?}");
    }
    for other in &verdicts.others {
        println!("violation: {other}");
    }
    println!(
        "{} accepted, {} runs, {} of them crashed, {} command starts, ended: {:?}, {:.1} s",
        verdicts.accepted,
        verdicts.runs,
        verdicts.crashed,
        verdicts.marks,
        verdicts.ended,
        begun.elapsed().as_secs_f64()
    );
    anyhow::ensure!(verdicts.accepted > 0 && verdicts.marks > 0, "nothing happened, so nothing was checked");
    if verdicts.violations.is_empty() && verdicts.others.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let kept = temporary.keep();
    println!("the files are in {}", arguments.keep.unwrap_or(kept).display());
    Ok(ExitCode::FAILURE)
}

fn torment(directory: &Path, seed: u64, rounds: u32) -> anyhow::Result<()> {
    let files = Files::new(directory);
    let mut random = fastrand::Rng::with_seed(seed);
    let beside = std::env::current_exe()?;
    let program = |name: &str| beside.with_file_name(name);
    let place = directory.display().to_string();
    let agent_program = program("mamos-crash-agent");
    let mut orchestrator = Victim {
        program: program("mamos-crash-orchestrator"),
        arguments: vec![
            place.clone(),
            "{life}".to_owned(),
            seed.to_string(),
            agent_program.display().to_string(),
        ],
        life: 0,
        child: None,
    };
    let mut agent =
        Victim { program: agent_program, arguments: vec![place, "{life}".to_owned()], life: 0, child: None };
    orchestrator.start()?;
    agent.start()?;
    for _ in 0..rounds {
        std::thread::sleep(Duration::from_millis(random.u64(50..700)));
        let (kills_orchestrator, kills_agent) = match random.u8(..5) {
            0 | 1 => (true, false),
            2 | 3 => (false, true),
            _ => (true, true),
        };
        if kills_orchestrator {
            orchestrator.kill()?;
        }
        if kills_agent {
            agent.kill()?;
            observe(&files.observed(), &Entry::AgentDied { agent: format!("agent#{}", agent.life) })?;
        }
        std::thread::sleep(Duration::from_millis(random.u64(..150)));
        if kills_orchestrator {
            orchestrator.start()?;
        }
        if kills_agent {
            agent.start()?;
        }
    }
    std::fs::write(files.stop(), "")?;
    let by = Instant::now() + DRAIN_WITHIN;
    while !files.drained().exists() {
        // What is left unfinished then, the checker names.
        if Instant::now() > by {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    orchestrator.kill()?;
    agent.kill()
}

fn verdicts(directory: &Path) -> anyhow::Result<Verdicts> {
    let files = Files::new(directory);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = SqliteStore::open(SqliteSettings::new(files.database())).await?;
        let verdicts = judge(&files, &store).await?;
        store.close().await;
        Ok(verdicts)
    })
}
