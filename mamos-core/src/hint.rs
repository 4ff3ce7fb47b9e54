//! Port: hints between the orchestrators that share a store.
//!
//! A hint says that the store may hold something new: ready jobs, an end that somebody waits for, a run
//! to cancel. It carries no truth. A lost hint costs the time until the next look at the store, and a
//! repeated one costs a look. So hints need neither acknowledgement nor order, and are told outside of
//! the transactions they speak of.

mod over_bus;

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

pub use self::over_bus::BusHints;
use crate::Result;
use crate::job::lane::LaneId;
use crate::orchestrator::hint_of_lanes;

/// The largest hint, in bytes: with Base64 it still fits into the 8000 bytes of a PostgreSQL `NOTIFY`.
pub const MAX_HINT_BYTES: usize = 4096;

/// Carries hints to everyone who listens, the teller included.
#[async_trait]
pub trait Hints: Send + Sync + fmt::Debug + 'static {
    /// Tells hints.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable): some may have been told. Nobody needs
    ///   to try again.
    /// - [`ErrorKind::LimitExceeded`](crate::ErrorKind::LimitExceeded): one is over [`MAX_HINT_BYTES`]; none
    ///   was told.
    async fn tell(&self, hints: Vec<Bytes>) -> Result<()>;

    /// Listens from now on: what is told after this returned is heard, or a [`Heard::Gap`] is.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable): it does not answer; try again later.
    async fn listen(&self) -> Result<Box<dyn HintListener>>;

    /// Where they go, for people. Never contains a secret.
    fn describe(&self) -> String;
}

/// Hears hints. Heals itself: after a lost connection it connects again, with growing pauses, and says
/// [`Heard::Gap`] when it hears again.
#[async_trait]
pub trait HintListener: Send + fmt::Debug + 'static {
    /// Waits for what comes next. Safe to drop and call again.
    async fn next(&mut self) -> Heard;
}

/// What a listener heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A hint.
    Hint(Bytes),
    /// Hints may have been missed: look at everything.
    Gap,
    /// No hint will come any more.
    Closed,
}

/// Hints that these lanes have ready jobs, from somebody who is no orchestrator: a store that stores jobs in the
/// transaction of its host tells them with it. Every orchestrator that hears them and has agents for the lanes claims.
///
/// As many as needed, none over [`MAX_HINT_BYTES`].
pub fn lanes_ready(lanes: Vec<LaneId>) -> Vec<Bytes> {
    hint_of_lanes(lanes)
}

fn _dyn_compatible(_: &dyn Hints, _: &dyn HintListener) {}
