//! Many agents over real WebSockets: this process is the agents, another one the orchestrator.
//!
//! What an idle agent costs the orchestrator in memory and processor time, how long ten thousand take to come
//! back after it was killed, and how many jobs go from end to end.

mod agents;
mod process;
mod server;
mod settings;

use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;

pub(crate) use self::server::serve;
pub(crate) use self::settings::{FleetArguments, ServerArguments};

use self::agents::Fleet;
use self::process::Server;
use self::settings::FleetSettings;
use crate::output::{self, Progress};

/// What was measured.
#[derive(Debug, Default, Serialize)]
struct Report {
    store: String,
    agents: u32,
    /// Until all had been welcomed, registration included.
    connected_in_seconds: f64,
    idle_server_bytes: u64,
    connected_server_bytes: u64,
    bytes_per_agent: f64,
    /// Of one core, while agents do nothing but beat.
    heartbeat_cpu_percent: f64,
    heartbeats_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    back_after_restart_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jobs_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_p99_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paced_per_second: Option<f64>,
    lost: u64,
    duplicated: u64,
}

/// Takes all measures of a fleet, and gives what is wrong with them.
pub(crate) async fn measure(arguments: FleetArguments) -> anyhow::Result<Vec<String>> {
    let settings = FleetSettings::from_arguments(arguments)?;
    process::raise_file_limit(u64::from(settings.count) + 1000)?;
    let progress = Progress::new();
    let mut report = Report { agents: settings.count, ..Report::default() };
    let mut complaints = Vec::new();
    hold(&settings, &progress, &mut report, &mut complaints).await?;
    if settings.jobs > 0 {
        work(&settings, &progress, &mut report, &mut complaints).await?;
    }
    progress.done();
    output::print_rows(settings.wants_json, &report, &rows(&report));
    Ok(complaints)
}

/// Holds the fleet, idle, and lets it come back.
async fn hold(
    settings: &FleetSettings,
    progress: &Progress,
    report: &mut Report,
    complaints: &mut Vec<String>,
) -> anyhow::Result<()> {
    progress.say("starting the orchestrator");
    let mut server = Server::start(settings, None).await?;
    report.store = server.store.clone();
    tokio::time::sleep(Duration::from_secs(1)).await;
    report.idle_server_bytes = server.usage()?.memory_bytes;
    progress.say(format!("connecting {} agents", settings.count));
    let begun = Instant::now();
    let token = server.token.clone();
    let fleet = Fleet::start(settings.count, 1, &server.address, token)?;
    fleet.all_connected(settings.patience).await.context("not all agents could connect")?;
    report.connected_in_seconds = begun.elapsed().as_secs_f64();
    // Buffers of the handshakes are given back.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = server.usage()?;
    report.connected_server_bytes = before.memory_bytes;
    report.bytes_per_agent =
        before.memory_bytes.saturating_sub(report.idle_server_bytes) as f64 / f64::from(settings.count);
    progress.say(format!("{} agents beat for {:?}", settings.count, settings.hold));
    let beats = fleet.heartbeats();
    let begun = Instant::now();
    tokio::time::sleep(settings.hold).await;
    let spent = server.usage()?.cpu.saturating_sub(before.cpu);
    let elapsed = begun.elapsed().as_secs_f64();
    report.heartbeat_cpu_percent = 100.0 * spent.as_secs_f64() / elapsed;
    report.heartbeats_per_second = (fleet.heartbeats() - beats) as f64 / elapsed;
    if fleet.connected() != settings.count {
        complaints.push(format!(
            "{} agents lost their link while they did nothing",
            settings.count - fleet.connected()
        ));
    }
    if settings.restarts() {
        progress.say("killing the orchestrator and starting it again");
        let address = server.address.clone();
        server.kill().await?;
        fleet.all_gone(Duration::from_secs(10)).await?;
        let begun = Instant::now();
        server = Server::start(settings, Some(&address)).await?;
        fleet.all_connected(settings.patience).await.context("not all agents came back")?;
        report.back_after_restart_seconds = Some(begun.elapsed().as_secs_f64());
        report.lost += fleet.refusals();
    }
    fleet.end().await;
    server.stop().await
}

/// A few agents with many slots: how many jobs a second, and how soon each starts.
async fn work(
    settings: &FleetSettings,
    progress: &Progress,
    report: &mut Report,
    complaints: &mut Vec<String>,
) -> anyhow::Result<()> {
    let mut server = Server::start(settings, None).await?;
    let fleet = Fleet::start(settings.workers, settings.slots, &server.address, server.token.clone())?;
    fleet.all_connected(settings.patience).await?;
    let mut rates = Vec::new();
    for round in 1..=settings.rounds {
        progress.say(format!("{} jobs end to end, round {round}", settings.jobs));
        let done = fleet.recorded();
        let begun = Instant::now();
        server.enqueue(settings.jobs).await?;
        let ended = fleet.all_recorded(done + settings.jobs, settings.patience).await?;
        rates.push(settings.jobs as f64 / ended.duration_since(begun).as_secs_f64());
        server.enqueued().await?;
    }
    rates.sort_by(f64::total_cmp);
    report.jobs_per_second = rates.get(rates.len() / 2).copied();
    progress.say(format!("{} jobs a second for {:?}", settings.pace, settings.hold));
    fleet.forget_latencies();
    let paced = server.pace(settings.pace, settings.hold).await?;
    fleet.all_recorded(settings.jobs * u64::from(settings.rounds) + paced.jobs, settings.patience).await?;
    report.paced_per_second = Some(paced.jobs as f64 / paced.seconds);
    let latencies = fleet.latencies();
    report.start_p50_ms = Some(latencies.p50_ms);
    report.start_p99_ms = Some(latencies.p99_ms);
    let expected = settings.jobs * u64::from(settings.rounds) + paced.jobs;
    report.duplicated += fleet.dispatched().saturating_sub(expected);
    report.lost += expected.saturating_sub(fleet.recorded());
    if report.lost > 0 || report.duplicated > 0 {
        complaints.push(format!("{} jobs were lost and {} ran twice", report.lost, report.duplicated));
    }
    fleet.end().await;
    server.stop().await
}

fn rows(report: &Report) -> Vec<(String, String)> {
    let mut rows = vec![
        ("store".to_owned(), report.store.clone()),
        ("agents".to_owned(), report.agents.to_string()),
        ("connected in".to_owned(), format!("{:.1} s", report.connected_in_seconds)),
        ("server memory, idle".to_owned(), format!("{:.1} MB", report.idle_server_bytes as f64 / 1e6)),
        (
            "server memory, connected".to_owned(),
            format!("{:.1} MB", report.connected_server_bytes as f64 / 1e6),
        ),
        ("server memory for each agent".to_owned(), format!("{:.1} KB", report.bytes_per_agent / 1e3)),
        (
            "server time for heartbeats".to_owned(),
            format!(
                "{:.1} % of one core ({:.0} a second)",
                report.heartbeat_cpu_percent, report.heartbeats_per_second
            ),
        ),
    ];
    let mut add = |name: &str, value: Option<f64>, unit: &str, digits: usize| {
        if let Some(value) = value {
            rows.push((name.to_owned(), format!("{value:.digits$} {unit}")));
        }
    };
    add("all back after kill -9", report.back_after_restart_seconds, "s", 1);
    add("jobs end to end", report.jobs_per_second, "jobs/s", 0);
    add("paced at", report.paced_per_second, "jobs/s", 0);
    add("submit to start, p50", report.start_p50_ms, "ms", 2);
    add("submit to start, p99", report.start_p99_ms, "ms", 2);
    rows.push(("lost".to_owned(), report.lost.to_string()));
    rows.push(("duplicated".to_owned(), report.duplicated.to_string()));
    rows
}
