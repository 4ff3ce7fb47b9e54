//! What a link over a bus costs, next to publishing and consuming with the broker's own client.
//!
//! The same frames go three ways in each round: by the least code that the broker's client allows, through
//! the [`Bus`](mamos_core::bus::Bus) port, and through a sealed link over that bus. So one sees what the bus
//! and what the link add.

mod jobs;
mod lane;
mod ours;
mod raw;
mod settings;

use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

pub(crate) use self::settings::LinkArguments;

use self::lane::{Frames, carry};
use self::settings::{BusKind, LinkSettings};
use crate::figures::{Figure, Rounds, Unit};
use crate::measures::rate;
use crate::output::{self, Progress};

/// A ratio so low that something is broken, not slow; far below anything that was ever measured.
const FLOOR: f64 = 0.005;

/// What was found out.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// The bus, as it describes itself.
    bus: String,
    figures: Vec<Figure>,
    /// Frames or jobs that did not reach their end.
    lost: u64,
    /// Jobs that were handed out or ended more than once.
    duplicated: u64,
}

/// Takes all measures of one bus, and gives what is wrong with them.
pub(crate) async fn measure(arguments: LinkArguments) -> anyhow::Result<Vec<String>> {
    let settings = LinkSettings::from_arguments(arguments)?;
    let progress = Progress::new();
    let bus = mamos_transport::bus::open(&settings.url).await?;
    let mut report = Report { bus: bus.describe(), ..Report::default() };
    drop(bus);
    for bytes in &settings.frame_bytes {
        frames(&settings, *bytes, &progress, &mut report).await?;
    }
    if settings.jobs > 0 {
        jobs::measure(&settings, &progress, &mut report).await?;
    }
    progress.done();
    let headline = format!(
        "{}: {} frames of each size, at most {} on their way, {} rounds: median (min – max)",
        report.bus,
        settings.frames,
        lane::MAX_WINDOW,
        settings.rounds
    );
    output::print_figures(settings.wants_json, &headline, &report.figures, &report);
    Ok(complaints(&settings, &report))
}

async fn frames(
    settings: &LinkSettings,
    bytes: usize,
    progress: &Progress,
    report: &mut Report,
) -> anyhow::Result<()> {
    let frames = Frames::new(settings.frames, bytes);
    let figure = |what: &str, against: &str| {
        Rounds::new(format!("{what}, frames of {bytes} bytes"), Unit::FramesPerSecond, against)
    };
    let against = settings.bus.raw();
    let (mut link, mut bus) = (figure("link", against), figure("bus", against));
    let mut link_on_bus = figure("link", "the bus alone");
    for round in 1..=settings.rounds {
        let say = |what: &str| progress.say(format!("{bytes} bytes: round {round}, {what}"));
        say("baseline");
        let raw = raw(settings, &frames).await.context("by the broker's own client")?;
        say("bus");
        let (sender, receiver) = ours::bus(settings).await?;
        let over_bus = carry(sender, receiver, &frames).await.context("over the bus alone")?;
        say("link");
        let ends = ours::link(settings).await?;
        let over_link = carry(ends.sender, ends.receiver, &frames).await.context("over the link")?;
        report.lost += ours::dropped(&ends.listener.counts()) + ours::dropped(&ends.connector.counts());
        let [raw, over_bus, over_link] =
            [raw.unwrap_or(over_bus), over_bus, over_link].map(|took: Duration| rate(settings.frames, took));
        bus.add(over_bus, raw);
        link.add(over_link, raw);
        link_on_bus.add(over_link, over_bus);
    }
    report.figures.push(link.figure());
    // Inside a process the bus is its own baseline.
    if settings.bus != BusKind::Memory {
        report.figures.extend([bus.figure(), link_on_bus.figure()]);
    }
    Ok(())
}

/// By the broker's own client; there is none inside a process.
async fn raw(settings: &LinkSettings, frames: &Frames) -> anyhow::Result<Option<Duration>> {
    Ok(Some(match settings.bus {
        BusKind::Memory => return Ok(None),
        BusKind::Nats => {
            let (sender, receiver) = raw::nats::open(&settings.url).await?;
            carry(sender, receiver, frames).await?
        }
        BusKind::Redis => {
            let (sender, receiver) = raw::redis::open(&settings.url).await?;
            carry(sender, receiver, frames).await?
        }
        BusKind::Amqp => {
            let (sender, receiver) = raw::amqp::open(&settings.url).await?;
            carry(sender, receiver, frames).await?
        }
    }))
}

fn complaints(settings: &LinkSettings, report: &Report) -> Vec<String> {
    let mut complaints = Vec::new();
    if report.lost > 0 {
        complaints.push(format!(
            "{} frames or jobs were lost, though no more were on their way than every bus keeps; run again with \
             RUST_LOG unset and nothing else on the broker, and report it if it happens again",
            report.lost
        ));
    }
    if report.duplicated > 0 {
        complaints.push(format!(
            "{} jobs ran more than once; look at jobs with an epoch over 1",
            report.duplicated
        ));
    }
    if settings.is_quick {
        for figure in report.figures.iter().filter(|figure| figure.ratio.median < FLOOR) {
            complaints.push(format!(
                "{} reaches {:.5} of its baseline, below the floor of {FLOOR}; profile it without --quick",
                figure.name, figure.ratio.median
            ));
        }
    }
    complaints
}

/// A name that nobody else uses at the broker.
fn unique_name() -> String {
    format!("bench-{:016x}", fastrand::u64(..))
}
