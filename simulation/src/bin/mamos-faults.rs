//! Runs orchestrators and agents on real databases and brokers, stops those under load, and checks what is
//! left.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use mamos_simulation::crash::mark;
use mamos_simulation::faults::{Outcome, Scenario, agent, orchestrator};

#[derive(Parser)]
#[command(
    about = "Stops PostgreSQL, Redis, NATS and RabbitMQ under a fleet of orchestrators and agents, and checks what is left."
)]
struct Arguments {
    /// Which faults; `all` in turn.
    #[arg(long, value_delimiter = ',', default_value = "all")]
    scenario: Vec<String>,
    /// What jobs are drawn from. Real processes: a seed does not repeat a run exactly.
    #[arg(long)]
    seed: Option<u64>,
    /// Keeps the files here instead of in a temporary directory.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Leaves a mark in the first file for the second argument, and does nothing else.
    #[arg(long, num_args = 2, hide = true)]
    mark: Option<Vec<String>>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What this program is to a fleet.
#[derive(Subcommand)]
enum Role {
    /// An orchestrator.
    #[command(hide = true)]
    Orchestrator(orchestrator::Arguments),
    /// An agent.
    #[command(hide = true)]
    Agent(agent::Arguments),
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some([file, job]) = arguments.mark.as_deref() {
        mark(Path::new(file), job)?;
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match arguments.role {
        Some(role) => {
            let filter = tracing_subscriber::EnvFilter::try_from_default_env();
            let filter = filter.unwrap_or_else(|_| "warn,mamos=info".into());
            tracing_subscriber::fmt()
                .with_env_filter(filter)
                .with_ansi(false)
                .with_writer(std::io::stderr)
                .init();
            runtime.block_on(async {
                match role {
                    Role::Orchestrator(arguments) => orchestrator::serve(arguments).await,
                    Role::Agent(arguments) => agent::serve(arguments).await,
                }
            })?;
            Ok(ExitCode::SUCCESS)
        }
        None => runtime.block_on(drive(arguments)),
    }
}

#[expect(clippy::print_stdout, reason = "this is what the program is for")]
async fn drive(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    let mut is_good = true;
    for scenario in scenarios(&arguments.scenario)? {
        let name = name(scenario);
        let temporary = tempfile::Builder::new().prefix("mamos-faults-").tempdir()?;
        let directory =
            arguments.keep.clone().map_or(temporary.path().to_path_buf(), |keep| keep.join(&name));
        std::fs::create_dir_all(&directory)?;
        let begun = std::time::Instant::now();
        let of = name.clone();
        let outcome = scenario.run(&directory, seed, move |what| println!("{of}: {what}")).await;
        let complaints = match outcome {
            Ok(outcome) => report(&name, outcome, begun.elapsed().as_secs_f64()),
            Err(error) => vec![format!("{error:#}")],
        };
        if !complaints.is_empty() {
            is_good = false;
            complaints.iter().for_each(|complaint| println!("{name}: WRONG: {complaint}"));
            let kept = temporary.keep();
            println!(
                "{name}: the files are in {}",
                arguments.keep.as_ref().map_or(kept, |_| directory).display()
            );
        }
    }
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints what came of a scenario, and gives what is wrong with it.
#[expect(clippy::print_stdout, reason = "this is what the program is for")]
fn report(name: &str, outcome: Outcome, seconds: f64) -> Vec<String> {
    let Outcome { verdicts, faults, mut complaints } = outcome;
    complaints.extend(verdicts.violations.iter().map(|violation| format!("{violation:?}")));
    complaints.extend(verdicts.others.iter().cloned());
    let slowest = faults.iter().map(|(_, took)| *took).max().unwrap_or_default();
    println!(
        "{name}: {} faults, work went on within {slowest:.1?}; {} accepted, {} runs, {} crashed, {} commands, ended: {:?}; {seconds:.0} s",
        faults.len(),
        verdicts.accepted,
        verdicts.runs,
        verdicts.crashed,
        verdicts.marks,
        verdicts.ended,
    );
    if verdicts.accepted == 0 || verdicts.marks == 0 {
        complaints.push("nothing happened, so nothing was checked".to_owned());
    }
    complaints
}

fn scenarios(names: &[String]) -> anyhow::Result<Vec<Scenario>> {
    if names.iter().any(|name| name == "all") {
        return Ok(Scenario::value_variants().to_vec());
    }
    names.iter().map(|name| Scenario::from_str(name, true).map_err(anyhow::Error::msg)).collect()
}

fn name(scenario: Scenario) -> String {
    scenario.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}
