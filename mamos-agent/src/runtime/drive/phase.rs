//! The phase of a link: between links, connecting, or up; and what each side owes the other on a link that
//! is up.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use mamos_core::Result;
use mamos_core::protocol::FromAgent;
use mamos_core::protocol::link::OrchestratorLink;
use tokio::time::Instant;

use super::Event;
use crate::runtime::greeting::{Failed, Opened};

pub(super) enum LinkPhase {
    Waiting(Instant),
    Connecting(BoxFuture<'static, Result<Opened, Failed>>),
    Up(Box<Up>),
}

/// A link, and what is to be said on it.
pub(super) struct Up {
    pub(super) link: Arc<OrchestratorLink>,
    pub(super) sending: Option<BoxFuture<'static, Result<()>>>,
    /// Goes before the reports.
    pub(super) control: Vec<FromAgent>,
    pub(super) heartbeat_every: Duration,
    pub(super) beat_at: Instant,
    pub(super) load_at: Instant,
    pub(super) since: Instant,
    /// Since when the orchestrator owes an answer.
    pub(super) owed_since: Option<Instant>,
    /// A heartbeat is answered: silence after one is a dead link, which no transport need notice.
    pub(super) is_beat_unanswered: bool,
}

impl Up {
    /// When the orchestrator, which has owed an answer for so long then, is to be asked whether it is there.
    pub(super) fn doubt_at(&self, patience: Duration) -> Option<Instant> {
        self.owed_since.filter(|_| !self.is_beat_unanswered).map(|since| since + patience)
    }
}

impl LinkPhase {
    /// Waits for something to happen to the link. Safe to drop and call again.
    pub(super) async fn next(&mut self) -> Event {
        match self {
            Self::Waiting(until) => {
                tokio::time::sleep_until(*until).await;
                Event::Connect
            }
            Self::Connecting(opening) => Event::Opened(opening.await),
            Self::Up(up) => {
                let Up { link, sending, .. } = &mut **up;
                tokio::select! {
                    biased;
                    result = sent(sending) => Event::Sent(result),
                    received = link.receive() => Event::Received(received),
                }
            }
        }
    }
}

async fn sent(sending: &mut Option<BoxFuture<'static, Result<()>>>) -> Result<()> {
    let Some(future) = sending else { return std::future::pending().await };
    let result = future.await;
    *sending = None;
    result
}
