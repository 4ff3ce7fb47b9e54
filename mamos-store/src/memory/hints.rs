//! Hints within the process, for several orchestrators on one memory store.

use async_trait::async_trait;
use bytes::Bytes;
use mamos_core::Result;
use mamos_core::hint::{Heard, HintListener, Hints};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::hints::check;

/// How many hints wait for the slowest listener before it hears of a gap instead.
const KEPT: usize = 1024;

#[derive(Debug, Clone)]
pub(super) struct MemoryHints {
    told: broadcast::Sender<Bytes>,
}

impl Default for MemoryHints {
    fn default() -> Self {
        Self { told: broadcast::Sender::new(KEPT) }
    }
}

#[async_trait]
impl Hints for MemoryHints {
    async fn tell(&self, hints: Vec<Bytes>) -> Result<()> {
        check(&hints)?;
        for hint in hints {
            // Nobody may be listening.
            let _ = self.told.send(hint);
        }
        Ok(())
    }

    async fn listen(&self) -> Result<Box<dyn HintListener>> {
        Ok(Box::new(Listener { told: self.told.subscribe() }))
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}

#[derive(Debug)]
struct Listener {
    told: broadcast::Receiver<Bytes>,
}

#[async_trait]
impl HintListener for Listener {
    async fn next(&mut self) -> Heard {
        match self.told.recv().await {
            Ok(hint) => Heard::Hint(hint),
            Err(RecvError::Lagged(_)) => Heard::Gap,
            Err(RecvError::Closed) => Heard::Closed,
        }
    }
}
