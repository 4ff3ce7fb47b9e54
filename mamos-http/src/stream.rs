//! Long answers: what happens, as it happens, over server-sent events and WebSocket.
//!
//! A stream holds next to nothing: its [source](Source) is asked for more when the caller has read what was
//! sent, so a slow caller fills no memory here. Each holds a [place](Place), is [supervised](Supervisor),
//! and ends in words: an event `end` with a reason.

mod event;
mod events;
mod filter;
mod log;
mod place;
mod sse;
mod supervisor;
mod ws;

use std::future::Future;

pub(crate) use self::event::EventDto;
pub(crate) use self::event::dto;
pub(crate) use self::event::position;
pub(crate) use self::events::After;
pub(crate) use self::events::EventSource;
pub(crate) use self::filter::EventFilter;
pub(crate) use self::filter::Wanted;
pub(crate) use self::log::LogSource;
pub(crate) use self::log::parse_place;
pub(crate) use self::place::Place;
pub(crate) use self::place::Places;
pub(crate) use self::sse::sse;
pub(crate) use self::supervisor::Supervisor;
pub(crate) use self::ws::ws;

/// One thing that a stream says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    /// Where a caller who has read this goes on.
    pub(crate) id: Option<String>,
    pub(crate) event: &'static str,
    /// JSON without line breaks.
    pub(crate) data: String,
    /// Nothing follows.
    pub(crate) is_last: bool,
}

impl Said {
    pub(crate) fn new(id: Option<String>, event: &'static str, data: &impl serde::Serialize) -> Self {
        // Fails for maps with odd keys only, and none of ours has them.
        let data = serde_json::to_string(data).unwrap_or_default();
        Self { id, event, data, is_last: false }
    }

    /// The last word: why the stream ends.
    pub(crate) fn end(reason: &str) -> Self {
        let data = serde_json::json!({ "event": "end", "reason": reason });
        Self { is_last: true, ..Self::new(None, "end", &data) }
    }
}

/// Where a stream takes what it says from.
pub(crate) trait Source: Send + 'static {
    /// Waits for the next thing to say; `None` if there will be none. Safe to drop and call again.
    fn next(&mut self) -> impl Future<Output = Option<Said>> + Send;

    /// The next thing to say, if it is there already.
    fn try_next(&mut self) -> Option<Said>;

    /// Where a caller who has read everything until now goes on, if that can be said between events too.
    fn position(&self) -> Option<String>;
}
