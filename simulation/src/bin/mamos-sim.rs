//! Simulates MAMOS under many seeds, or under one of them with all that happened.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use clap::Parser;
use mamos_simulation::simulate::{Options, Report, simulate};

/// No seed takes longer than this in real time; one that does goes round in circles.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Parser)]
#[command(about = "Simulates MAMOS under many seeds with virtual time, and checks what happened.")]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 300)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// One seed only, with its history and log on standard output.
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds at once. Default: one for each processor.
    #[arg(long)]
    threads: Option<usize>,
    /// How many seconds of virtual time things go wrong.
    #[arg(long, default_value_t = 40)]
    chaos: u64,
    /// What to log under --seed, as in RUST_LOG.
    #[arg(long, default_value = "info")]
    log: String,
}

#[expect(clippy::print_stdout, reason = "this is what the program is for")]
fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let options = Options { chaos_for: Duration::from_secs(arguments.chaos), ..Options::default() };
    if let Some(seed) = arguments.seed {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::try_new(&arguments.log)?)
            .with_timer(VirtualTime)
            .with_ansi(false)
            .init();
        let report = simulate(seed, &options)?;
        show(&report);
        println!("seed {seed}: {} entries, {} jobs accepted", report.history.len(), report.accepted);
        return Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let begun = Instant::now();
    let (mut bad, mut entries, mut jobs, mut kinds) = (0, 0, 0, BTreeMap::new());
    let last = arguments.from.saturating_add(arguments.seeds);
    for (seed, result) in simulate_all(arguments.from..last, arguments.threads, options) {
        let report = match result {
            Ok(report) => report,
            Err(error) => {
                bad += 1;
                println!(
                    "seed {seed}: {error:#}\n  replay: cargo run --release -p mamos-simulation --bin mamos-sim -- --seed {seed}"
                );
                continue;
            }
        };
        entries += report.history.len();
        jobs += report.accepted;
        for entry in &report.history {
            let text = format!("{entry:?}");
            let kind = text.split([' ', '{']).next().unwrap_or_default().to_owned();
            *kinds.entry(kind).or_insert(0u64) += 1;
        }
        if !report.is_good() {
            bad += 1;
            show(&report);
        }
    }
    let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    println!("observed: {}", kinds.join(", "));
    println!(
        "{} seeds, {jobs} jobs accepted, {entries} observations, {bad} bad seeds, {:.1} s",
        arguments.seeds,
        begun.elapsed().as_secs_f64()
    );
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Simulates on several threads; gives the reports in the order in which they are ready.
fn simulate_all(
    seeds: std::ops::Range<u64>,
    threads: Option<usize>,
    options: Options,
) -> impl Iterator<Item = (u64, anyhow::Result<Report>)> {
    let threads =
        threads.or_else(|| std::thread::available_parallelism().ok().map(Into::into)).unwrap_or(1).max(1);
    let next = Arc::new(AtomicU64::new(seeds.start));
    let (sender, receiver) = mpsc::channel();
    for _ in 0..threads {
        let (next, sender, end) = (Arc::clone(&next), sender.clone(), seeds.end);
        std::thread::spawn(move || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                let caught = || std::panic::catch_unwind(|| simulate(seed, &options));
                if seed >= end {
                    return;
                }
                let result = caught().unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked")));
                if sender.send((seed, result)).is_err() {
                    return;
                }
            }
        });
    }
    drop(sender);
    let mut is_over = false;
    std::iter::from_fn(move || {
        if is_over {
            return None;
        }
        match receiver.recv_timeout(PATIENCE) {
            Ok(done) => Some(done),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                is_over = true;
                let about = next.load(Ordering::Relaxed).saturating_sub(1);
                Some((about, Err(anyhow::anyhow!("this seed or one just before it does not end"))))
            }
        }
    })
}

#[expect(clippy::print_stdout, reason = "this is what the program is for")]
fn show(report: &Report) {
    let seed = report.seed;
    for violation in &report.violations {
        println!("seed {seed}: violation: {violation:?}");
    }
    for stuck in &report.stuck {
        println!("seed {seed}: stuck: {stuck}");
    }
    if !report.is_good() {
        println!("  replay: cargo run --release -p mamos-simulation --bin mamos-sim -- --seed {seed}");
    }
}

/// Stamps log lines with the virtual time since the first of them.
struct VirtualTime;

impl tracing_subscriber::fmt::time::FormatTime for VirtualTime {
    fn format_time(&self, writer: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
        static START: std::sync::OnceLock<tokio::time::Instant> = std::sync::OnceLock::new();
        let now = tokio::time::Instant::now();
        write!(writer, "{:10.3}", now.duration_since(*START.get_or_init(|| now)).as_secs_f64())
    }
}
