//! How the loop ends: takes no new work, and leaves when nothing is left or the time is up.

use std::time::Duration;

use mamos_core::Error;
use mamos_core::protocol::FromAgent;
use tokio::time::Instant;

use super::Driver;
use super::phase::LinkPhase;
use crate::runtime::{StopReason, Stopped};

/// How long saying goodbye may take.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Stop {
    pub(super) reason: StopReason,
    /// When what still runs is given back; `None` for never.
    pub(super) give_back_at: Option<Instant>,
    pub(super) leave_at: Option<Instant>,
}

impl Driver {
    pub(super) fn begin_drain(&mut self, reason: StopReason, limits: Option<(Instant, Instant)>) {
        let stop = self.stop.get_or_insert(Stop { reason, give_back_at: None, leave_at: None });
        if let Some((give_back_at, leave_at)) = limits {
            stop.give_back_at = Some(give_back_at);
            stop.leave_at = Some(leave_at);
        }
        if !self.ledger.is_draining() {
            self.ledger.drain();
            if let LinkPhase::Up(up) = &mut self.phase {
                up.control.push(FromAgent::Slots { total: 0 });
            }
        }
    }

    /// Leaves if it was asked to and nothing is left, or the time is up.
    pub(super) async fn leave(&mut self) -> Option<Stopped> {
        let stop = self.stop.as_ref()?;
        let is_done = self.ledger.is_idle() && self.writer.is_idle() && self.keeper.is_idle();
        let is_time_up = stop.leave_at.is_some_and(|at| at <= Instant::now());
        if !is_done && !is_time_up {
            return None;
        }
        let stopped = Stopped { reason: stop.reason, unsent: self.ledger.counts().unsent };
        if let LinkPhase::Up(up) = &mut self.phase {
            let (link, sending) = (up.link.clone(), up.sending.take());
            let goodbye = async move {
                if let Some(sending) = sending {
                    sending.await?;
                }
                // With runs still here it would not be true that all were given back.
                if is_done {
                    link.send(vec![FromAgent::Bye]).await?;
                }
                link.close().await;
                Ok::<(), Error>(())
            };
            // Not said in time, it is not said: the session expires.
            let _ = tokio::time::timeout(GOODBYE_TIMEOUT, goodbye).await;
        }
        Some(stopped)
    }
}
