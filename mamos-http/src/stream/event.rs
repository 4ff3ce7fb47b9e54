//! Events as callers see them.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use mamos_core::agent::LogStream;
use mamos_core::event::{Event, What};
use mamos_core::lease::RunRef;
use serde::Serialize;
use utoipa::ToSchema;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct EventDto {
    /// Where a caller who has read this event goes on: what `Last-Event-ID` or `after` takes.
    #[schema(example = "9f86d081884c7d65-42")]
    pub(crate) id: String,
    /// Grows by one with each event since the orchestrator was started.
    #[schema(example = 42)]
    pub(crate) seq: u64,
    /// When.
    #[schema(example = "2026-11-21T08:00:00.000000Z")]
    pub(crate) at: String,
    /// The queue of the job that it is about, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) queue: Option<String>,
    /// The kind of the job that it is about, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<String>,
    #[serde(flatten)]
    pub(crate) what: WhatDto,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum WhatDto {
    /// A job was stored.
    JobEnqueued { job: String, state: &'static str },
    /// A job was handed to an agent.
    JobDispatched { job: String, epoch: String, agent: String, attempt: u32, crashes: u32, deliveries: u32 },
    /// The agent said that it started.
    JobStarted { job: String, epoch: String, agent: String },
    /// The agent said how far it is.
    JobProgress { job: String, epoch: String, percent: Option<f32>, note: String },
    /// The run printed something. Only for who asks for it by name.
    JobLog {
        job: String,
        epoch: String,
        #[serde(flatten)]
        piece: PieceDto,
    },
    /// A run ended. The state is that of the job afterwards.
    JobSettled { job: String, epoch: String, agent: String, state: &'static str },
    /// A run was given back, or taken back from a lost agent.
    JobRescued { job: String, epoch: String, state: &'static str },
    /// A job was cancelled, redriven, approved, or buried because of its deadline.
    JobChanged { job: String, state: &'static str },
    /// Someone asked to cancel a job that an agent holds.
    CancelRequested { job: String, epoch: String },
    /// A write of a run that was no longer current was refused.
    StaleWrite { job: String, epoch: String, agent: String },
    /// An agent was admitted for the first time.
    AgentRegistered { agent: String },
    /// An agent has a link.
    AgentConnected { agent: String, session: String, is_resumed: bool },
    /// An agent's link is gone. Its session goes on until it expires.
    AgentDisconnected { agent: String, session: String, reason: String },
    /// An agent said goodbye.
    AgentStopped { agent: String },
    /// An agent's session expired.
    AgentLost { agent: String, session: String },
    /// An agent may not connect any more.
    AgentRevoked { agent: String, reason: String },
    /// Two programs proved themselves with one identity. The agent is revoked.
    IdentityCopied { agent: String },
    /// A revoked agent may connect again.
    AgentReinstated { agent: String },
    /// An agent was drained or goes on, was labelled, or was decommissioned.
    AgentChanged { agent: String },
    /// Someone who wanted to connect was refused.
    AgentRefused { peer: String, reason: String },
    /// A queue was paused or goes on.
    QueuePaused {
        #[serde(rename = "queue")]
        name: String,
        is_paused: bool,
    },
}

/// A piece of a log: `text` if its bytes are UTF-8, `base64` if not. No byte is lost or changed.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct PieceDto {
    /// The position of its first byte in the log of the run.
    pub(crate) offset: u64,
    /// The position after its last byte: where the next piece begins.
    pub(crate) next_offset: u64,
    /// `stdout`, `stderr`, or `note` for what the agent itself said.
    pub(crate) stream: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) base64: Option<String>,
}

impl PieceDto {
    pub(crate) fn new(offset: u64, stream: LogStream, bytes: &[u8]) -> Self {
        let text = std::str::from_utf8(bytes).ok().map(str::to_owned);
        let base64 = text.is_none().then(|| BASE64_STANDARD.encode(bytes));
        let stream = match stream {
            LogStream::Stdout => "stdout",
            LogStream::Stderr => "stderr",
            LogStream::Note => "note",
        };
        Self { offset, next_offset: offset + bytes.len() as u64, stream, text, base64 }
    }
}

/// Where a caller goes on who has read everything up to that event.
pub(crate) fn position(series: &str, seq: u64) -> String {
    format!("{series}-{seq}")
}

/// An event for callers; `None` for one that this version does not know.
pub(crate) fn dto(series: &str, event: &Event) -> Option<EventDto> {
    let what = what(&event.what)?;
    let lane = event.lane.as_ref();
    Some(EventDto {
        id: position(series, event.seq),
        seq: event.seq,
        at: event.at.to_string(),
        queue: lane.map(|lane| lane.queue().to_string()),
        kind: lane.map(|lane| lane.kind().to_string()),
        what,
    })
}

fn what(what: &What) -> Option<WhatDto> {
    let parts = |run: &RunRef| (run.job.to_string(), run.epoch.to_string());
    Some(match what {
        What::JobEnqueued { job, lane: _, state } => {
            WhatDto::JobEnqueued { job: job.to_string(), state: state.as_str() }
        }
        What::JobDispatched { run, agent, counters } => {
            let (job, epoch) = parts(run);
            WhatDto::JobDispatched {
                job,
                epoch,
                agent: agent.to_string(),
                attempt: counters.attempt,
                crashes: counters.crashes,
                deliveries: counters.deliveries,
            }
        }
        What::JobStarted { run, agent } => {
            let (job, epoch) = parts(run);
            WhatDto::JobStarted { job, epoch, agent: agent.to_string() }
        }
        What::JobProgress { run, progress } => {
            let (job, epoch) = parts(run);
            WhatDto::JobProgress { job, epoch, percent: progress.percent, note: progress.note.clone() }
        }
        What::JobLog { run, piece } => {
            let (job, epoch) = parts(run);
            let piece = PieceDto::new(piece.offset, piece.stream, &piece.bytes);
            WhatDto::JobLog { job, epoch, piece }
        }
        What::JobSettled { run, agent, state } => {
            let (job, epoch) = parts(run);
            WhatDto::JobSettled { job, epoch, agent: agent.to_string(), state: state.as_str() }
        }
        What::JobRescued { run, state } => {
            let (job, epoch) = parts(run);
            WhatDto::JobRescued { job, epoch, state: state.as_str() }
        }
        What::JobChanged { job, state } => {
            WhatDto::JobChanged { job: job.to_string(), state: state.as_str() }
        }
        What::CancelRequested { run } => {
            let (job, epoch) = parts(run);
            WhatDto::CancelRequested { job, epoch }
        }
        What::StaleWrite { run, agent } => {
            let (job, epoch) = parts(run);
            WhatDto::StaleWrite { job, epoch, agent: agent.to_string() }
        }
        What::AgentRegistered { agent } => WhatDto::AgentRegistered { agent: agent.to_string() },
        What::AgentConnected { agent, session, is_resumed } => WhatDto::AgentConnected {
            agent: agent.to_string(),
            session: session.to_string(),
            is_resumed: *is_resumed,
        },
        What::AgentDisconnected { agent, session, reason } => WhatDto::AgentDisconnected {
            agent: agent.to_string(),
            session: session.to_string(),
            reason: reason.clone(),
        },
        What::AgentStopped { agent } => WhatDto::AgentStopped { agent: agent.to_string() },
        What::AgentLost { agent, session } => {
            WhatDto::AgentLost { agent: agent.to_string(), session: session.to_string() }
        }
        What::AgentRevoked { agent, reason } => {
            WhatDto::AgentRevoked { agent: agent.to_string(), reason: reason.clone() }
        }
        What::IdentityCopied { agent } => WhatDto::IdentityCopied { agent: agent.to_string() },
        What::AgentReinstated { agent } => WhatDto::AgentReinstated { agent: agent.to_string() },
        What::AgentChanged { agent } => WhatDto::AgentChanged { agent: agent.to_string() },
        What::AgentRefused { peer, reason } => {
            WhatDto::AgentRefused { peer: peer.clone(), reason: reason.clone() }
        }
        What::QueuePaused { queue, is_paused } => {
            WhatDto::QueuePaused { name: queue.to_string(), is_paused: *is_paused }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_text_if_it_can_be_and_loses_no_byte_if_not() {
        let text = PieceDto::new(7, LogStream::Stdout, "größer".as_bytes());
        assert_eq!((text.text.as_deref(), text.base64, text.next_offset), (Some("größer"), None, 15));
        // The first byte of `ö` alone; `printf '\xc3' | base64`.
        let cut = PieceDto::new(0, LogStream::Stderr, b"\xc3");
        assert_eq!((cut.text, cut.base64.as_deref(), cut.next_offset), (None, Some("ww=="), 1));
    }
}
