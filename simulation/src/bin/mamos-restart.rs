//! Kills, pauses and cuts off a server and many agents under load, and checks that nobody who waits for a job
//! could notice.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use mamos_simulation::restart::agent::{self, AgentArguments};
use mamos_simulation::restart::judge::judge;
use mamos_simulation::restart::scenario::Scenario;
use mamos_simulation::restart::server::{self, ServerArguments};
use mamos_simulation::restart::{Figures, Place, Sabotage, World, table};

/// How many broken promises of a scenario are printed.
const SHOWN: usize = 20;

#[derive(Parser)]
#[command(
    about = "Kills, pauses and cuts off a server and many agents under load, and checks that no job notices.",
    after_help = "Exit codes: 0 all promises were kept; 1 one was broken, and is named; 2 wrong usage.",
    args_conflicts_with_subcommands = true
)]
struct Arguments {
    /// A scenario, or `all`.
    #[arg(long, default_value = "all", value_parser = scenarios)]
    scenario: Scenarios,
    /// How many agents, each a process.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(4..=1000))]
    agents: u16,
    /// What jobs and victims are drawn from. Real processes: a seed does not repeat a run exactly.
    #[arg(long)]
    seed: Option<u64>,
    /// Prints the figures as JSON.
    #[arg(long)]
    json: bool,
    /// Keeps the files here. After a broken promise they are kept anyway.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Puts in a fault, to see that it is noticed.
    #[arg(long)]
    sabotage: Option<Sabotage>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What this program is when the driver starts it.
#[derive(Subcommand)]
enum Role {
    #[command(hide = true)]
    Server(ServerArguments),
    #[command(hide = true)]
    Agent(AgentArguments),
}

#[derive(Clone)]
struct Scenarios(Vec<Scenario>);

fn scenarios(text: &str) -> Result<Scenarios, String> {
    if text == "all" {
        return Ok(Scenarios(Scenario::value_variants().to_vec()));
    }
    let one = Scenario::from_str(text, false).map(|scenario| Scenarios(vec![scenario]));
    let names: Vec<String> = Scenario::value_variants().iter().map(|scenario| scenario.name()).collect();
    one.map_err(|_| format!("there is no such scenario; choose all, {}", names.join(", ")))
}

#[expect(clippy::print_stdout, reason = "this is what the program is for")]
fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    match arguments.role {
        Some(Role::Server(server)) => return server::run(server).map(|()| ExitCode::SUCCESS),
        Some(Role::Agent(agent)) => return agent::run(agent).map(|()| ExitCode::SUCCESS),
        None => {}
    }
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let temporary = tempfile::Builder::new().prefix("mamos-restart-").tempdir()?;
    let directory = arguments.keep.clone().unwrap_or_else(|| temporary.path().to_path_buf());
    if !arguments.json {
        println!("seed {seed}, {} agents", arguments.agents);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let all = runtime.block_on(play_all(&arguments, seed, &directory));
    let is_good = all.as_ref().is_ok_and(|all| all.iter().all(|figures| figures.broken.is_empty()));
    if !is_good && arguments.keep.is_none() {
        eprint_place(&temporary.keep());
    }
    let all = all?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        println!("{}", table(&all));
        all.iter().for_each(show);
    }
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn play_all(
    arguments: &Arguments,
    seed: u64,
    directory: &std::path::Path,
) -> anyhow::Result<Vec<Figures>> {
    let mut all = Vec::new();
    let total = arguments.scenario.0.len();
    for (n, scenario) in arguments.scenario.0.iter().enumerate() {
        let progress =
            ProgressBar::new_spinner().with_prefix(format!("{}/{total} {}", n + 1, scenario.name()));
        progress.set_style(ProgressStyle::with_template("{spinner} {prefix} {elapsed}: {msg}")?);
        let begun = Instant::now();
        let mut settings = scenario.settings(usize::from(arguments.agents), seed);
        settings.sabotage = arguments.sabotage;
        let place = Place::new(directory.join(scenario.name()));
        let played = async {
            let mut world = World::start(place, settings, progress.clone()).await?;
            scenario.play(&mut world).await?;
            world.finish().await
        };
        let findings = played.await.with_context(|| scenario.name())?;
        progress.finish_and_clear();
        let verdict = judge(&findings);
        all.push(Figures::of(scenario.name(), &findings, verdict, begun.elapsed().as_secs_f64()));
    }
    Ok(all)
}

#[expect(clippy::print_stdout, reason = "this is what the program is for")]
fn show(figures: &Figures) {
    let Figures { scenario, jobs, runs, crashed, late, seconds, broken, .. } = figures;
    println!(
        "{scenario}: {jobs} jobs, {runs} runs, {crashed} of them crashed, {late} late reports, {} promises broken, {seconds:.1} s",
        broken.len()
    );
    for broken in broken.iter().take(SHOWN) {
        println!("  broken: {}: {}", broken.promise, broken.detail);
    }
    if broken.len() > SHOWN {
        println!("  and {} more", broken.len() - SHOWN);
    }
}

#[expect(clippy::print_stderr, reason = "standard output may be JSON")]
fn eprint_place(place: &std::path::Path) {
    eprintln!("the files are in {}", place.display());
}
