//! What a job prints, as a stream says it.

use std::time::Duration;

use mamos_core::Orchestrator;
use mamos_core::id::JobId;
use mamos_core::lease::{Epoch, RunRef};
use mamos_core::orchestrator::{Followed, LogFollower};
use serde_json::json;

use super::event::PieceDto;
use super::{Said, Source};
use crate::problem::Problem;

/// When the store does not answer, it is asked again this much later.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct LogSource {
    follower: LogFollower,
    /// The run, and the position of the next byte, of the piece said last.
    place: Option<(RunRef, u64)>,
}

/// Reads where a caller goes on: `<epoch>-<offset>`.
pub(crate) fn parse_place(text: &str) -> Result<(Epoch, u64), Problem> {
    let parts =
        text.split_once('-').and_then(|(epoch, offset)| Some((epoch.parse().ok()?, offset.parse().ok()?)));
    let (epoch, offset) = parts.ok_or_else(|| {
        Problem::bad_request("this is not a place in a log; send an id as an event gave it")
            .at("Last-Event-ID", "expected <epoch>-<offset>")
    })?;
    Ok((Epoch::from_number(epoch), offset))
}

impl LogSource {
    pub(crate) fn new(orchestrator: &Orchestrator, job: JobId, epoch: Option<Epoch>, offset: u64) -> Self {
        Self { follower: orchestrator.follow_log(job, epoch, offset), place: None }
    }

    fn say(&mut self, followed: Followed) -> Said {
        match followed {
            Followed::Attempt { run, offset } => {
                let data = json!({ "event": "attempt", "id": id(run, offset), "epoch": run.epoch.to_string(), "offset": offset });
                self.place = Some((run, offset));
                Said::new(Some(id(run, offset)), "attempt", &data)
            }
            Followed::Piece { run, piece } => {
                let dto = PieceDto::new(piece.offset, piece.stream, &piece.bytes);
                let id = id(run, dto.next_offset);
                self.place = Some((run, dto.next_offset));
                let said = Piece { event: "log", id: &id, epoch: run.epoch.to_string(), piece: &dto };
                Said::new(Some(id.clone()), "log", &said)
            }
            Followed::Ended(state) => {
                let reason = if state.is_some() { "job_ended" } else { "job_removed" };
                let data =
                    json!({ "event": "end", "reason": reason, "state": state.map(|state| state.as_str()) });
                Said { is_last: true, ..Said::new(self.position(), "end", &data) }
            }
        }
    }
}

#[derive(serde::Serialize)]
struct Piece<'a> {
    event: &'static str,
    id: &'a str,
    epoch: String,
    #[serde(flatten)]
    piece: &'a PieceDto,
}

fn id(run: RunRef, offset: u64) -> String {
    format!("{}-{offset}", run.epoch)
}

impl Source for LogSource {
    async fn next(&mut self) -> Option<Said> {
        loop {
            match self.follower.next().await {
                Ok(followed) => return followed.map(|followed| self.say(followed)),
                Err(error) if error.is_retryable() => tokio::time::sleep(AGAIN_AFTER).await,
                Err(error) => {
                    tracing::error!(target: "mamos::http", %error, "a log cannot be followed");
                    return Some(Said::end("unreadable"));
                }
            }
        }
    }

    fn try_next(&mut self) -> Option<Said> {
        let followed = self.follower.try_next()?;
        Some(self.say(followed))
    }

    fn position(&self) -> Option<String> {
        self.place.map(|(run, offset)| id(run, offset))
    }
}
