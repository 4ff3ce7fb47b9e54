//! What runs print.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mamos_core::agent::LogStream;
use mamos_core::job::JobRecord;
use mamos_core::orchestrator::LogTail;
use mamos_core::store::LogPiece;
use serde::Serialize;
use utoipa::ToSchema;

use super::job::State;

/// A part of what a run printed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Log {
    /// The run, as a text: it may pass 2^53.
    pub(crate) epoch: String,
    /// The byte that this part begins at.
    pub(crate) offset: u64,
    /// The byte that the next part begins at.
    pub(crate) next_offset: u64,
    /// Is this the end of it? If not, there is more, or there may be more later.
    pub(crate) is_ended: bool,
    pub(crate) pieces: Vec<Piece>,
}

/// A piece of what a run printed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LogPiece)]
pub(crate) struct Piece {
    /// The byte that it begins at.
    offset: u64,
    /// `stdout`, `stderr`, or `note` for what the runtime says.
    stream: &'static str,
    /// What was printed, if it is UTF-8. A character that is cut at the end of the part is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// What was printed in base64, if it is something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

impl From<&LogPiece> for Piece {
    fn from(piece: &LogPiece) -> Self {
        let stream = match piece.stream {
            LogStream::Stdout => "stdout",
            LogStream::Stderr => "stderr",
            LogStream::Note => "note",
        };
        let (text, base64) = match std::str::from_utf8(&piece.bytes) {
            Ok(text) => (Some(text.to_owned()), None),
            Err(_) => (None, Some(STANDARD.encode(&piece.bytes))),
        };
        Self { offset: piece.offset, stream, text, base64 }
    }
}

/// What an agent's newest runs printed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AgentLogs {
    /// The newest first.
    pub(crate) items: Vec<AgentLog>,
}

/// What a run of an agent printed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AgentLog {
    #[schema(format = "uuid")]
    job: String,
    kind: String,
    /// As a text: it may pass 2^53.
    epoch: String,
    /// When it started, or was claimed.
    #[schema(format = DateTime)]
    at: String,
    state: State,
    /// How much it printed.
    size_bytes: u64,
    /// The end of it, at most 4 KiB. What is not UTF-8 is replaced.
    tail: String,
}

impl AgentLog {
    pub(crate) fn new(job: &JobRecord, log: &LogTail) -> Self {
        let at = job.started_at.or(job.leased_at).unwrap_or(job.created_at);
        Self {
            job: job.spec.id.to_string(),
            kind: job.spec.lane.kind().to_string(),
            epoch: job.epoch.to_string(),
            at: at.to_string(),
            state: job.state.into(),
            size_bytes: log.size_bytes,
            tail: String::from_utf8_lossy(&log.bytes).into_owned(),
        }
    }
}
