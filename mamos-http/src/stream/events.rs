//! What happens, as a stream says it.

use std::sync::Arc;

use mamos_core::Orchestrator;
use mamos_core::event::Event;
use mamos_core::orchestrator::{EventStream, Seen};
use serde_json::json;

use super::filter::{self, Fit};
use super::{EventFilter, Said, Source, dto, position};
use crate::problem::Problem;

/// After so many events that were not wanted others get their turn.
const UNWANTED: usize = 256;

/// Where a caller wants to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// With what happens from now on.
    Now,
    /// After that event.
    Event(u64),
    /// After an event of another life of the orchestrator: nobody knows what was missed.
    OtherSeries,
}

impl After {
    /// Reads what `Last-Event-ID` or `after` says: an id, or the number alone.
    pub(crate) fn parse(text: Option<&str>, series: &str) -> Result<Self, Problem> {
        let Some(text) = text else { return Ok(Self::Now) };
        let wrong = || {
            let detail = "this is not the id of an event; send one as an event or a heartbeat gave it";
            Problem::bad_request(detail).at("after", "expected <series>-<number>")
        };
        let (of, seq) = text.split_once('-').unwrap_or((series, text));
        let seq = seq.parse().map_err(|_| wrong())?;
        if of.is_empty() || of.len() > 64 || !of.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(wrong());
        }
        Ok(if of == series { Self::Event(seq) } else { Self::OtherSeries })
    }
}

/// See the module.
pub(crate) struct EventSource {
    orchestrator: Orchestrator,
    stream: EventStream,
    filter: EventFilter,
    /// The caller comes from another series, and was not told yet.
    is_lost: bool,
    /// Whether it is wanted depends on the queue or the kind of its job, which must be looked up.
    asked: Option<Arc<Event>>,
}

/// A page of events.
pub(crate) struct Kept {
    pub(crate) events: Vec<Arc<Event>>,
    /// The number of the last event that was looked at.
    pub(crate) last: u64,
    /// How many are gone; `None` if nobody knows.
    pub(crate) missed: Option<u64>,
}

impl EventSource {
    pub(crate) fn new(orchestrator: &Orchestrator, after: After, filter: EventFilter) -> Self {
        let stream = match after {
            After::Now => orchestrator.events(),
            After::Event(seq) => orchestrator.events_after(seq),
            After::OtherSeries => orchestrator.events_after(0),
        };
        let is_lost = after == After::OtherSeries;
        Self { orchestrator: orchestrator.clone(), stream, filter, is_lost, asked: None }
    }

    /// What is kept of what the caller wants, at most `limit` of them.
    pub(crate) async fn page(
        orchestrator: &Orchestrator,
        after: After,
        filter: EventFilter,
        limit: usize,
    ) -> Kept {
        let first = if let After::Event(seq) = after { seq } else { 0 };
        let mut source = Self::new(orchestrator, After::Event(first), filter);
        let mut missed = (after != After::OtherSeries).then_some(0);
        let mut events = Vec::new();
        while events.len() < limit
            && let Some(seen) = source.stream.try_next()
        {
            match seen {
                // Who asks for the oldest that is kept misses nothing.
                Seen::Missed(_) if after == After::Now => {}
                Seen::Missed(more) => missed = missed.map(|missed| missed + more),
                Seen::Event(event) => {
                    if source.wants(&event).await {
                        events.push(event);
                    }
                }
            }
        }
        Kept { events, last: source.stream.seq(), missed }
    }

    fn say(&self, event: &Event) -> Option<Said> {
        let event_dto = dto(self.orchestrator.event_series(), event)?;
        Some(Said::new(Some(event_dto.id.clone()), filter::about(&event.what).name, &event_dto))
    }

    fn gap(&self, seq: u64, missed: Option<u64>, reason: &str) -> Said {
        let id = position(self.orchestrator.event_series(), seq);
        let data = json!({ "event": "gap", "id": id, "missed": missed, "reason": reason });
        Said::new(Some(id), "gap", &data)
    }

    fn sort(&mut self, seen: Seen) -> Option<Said> {
        match seen {
            Seen::Missed(missed) => {
                // The position is that before the events that are still there.
                Some(self.gap(self.stream.seq(), Some(missed), "too_slow"))
            }
            Seen::Event(event) => match self.filter.fits(&event) {
                Fit::Yes => self.say(&event),
                Fit::No => None,
                Fit::AsksFor(_) => {
                    self.asked = Some(event);
                    None
                }
            },
        }
    }

    fn lost(&mut self) -> Option<Said> {
        std::mem::take(&mut self.is_lost).then(|| self.gap(0, None, "other_series"))
    }

    /// Looks up the job of the event that was put aside.
    async fn look_up(&mut self) -> Option<Said> {
        let event = Arc::clone(self.asked.as_ref()?);
        let is_wanted = self.wants(&event).await;
        self.asked = None;
        is_wanted.then(|| self.say(&event)).flatten()
    }

    async fn wants(&self, event: &Event) -> bool {
        match self.filter.fits(event) {
            Fit::AsksFor(job) => {
                let record = self.orchestrator.job(job).await;
                record.is_ok_and(|record| self.filter.fits_lane(&record.spec.lane))
            }
            fit => fit == Fit::Yes,
        }
    }
}

impl Source for EventSource {
    async fn next(&mut self) -> Option<Said> {
        if let Some(said) = self.lost() {
            return Some(said);
        }
        let mut unwanted = 0;
        loop {
            if self.asked.is_some() {
                match self.look_up().await {
                    Some(said) => return Some(said),
                    None => continue,
                }
            }
            let seen = self.stream.next().await?;
            if let Some(said) = self.sort(seen) {
                return Some(said);
            }
            unwanted += 1;
            if unwanted % UNWANTED == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    fn try_next(&mut self) -> Option<Said> {
        if let Some(said) = self.lost() {
            return Some(said);
        }
        for _ in 0..UNWANTED {
            if self.asked.is_some() {
                return None;
            }
            let seen = self.stream.try_next()?;
            if let Some(said) = self.sort(seen) {
                return Some(said);
            }
        }
        None
    }

    fn position(&self) -> Option<String> {
        if self.is_lost {
            return None;
        }
        let seen = self.asked.as_ref().map_or_else(|| self.stream.seq(), |event| event.seq - 1);
        Some(position(self.orchestrator.event_series(), seen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_of_this_series_is_resumed_and_one_of_another_is_known_as_such() {
        let parse = |text| After::parse(text, "abc");
        assert_eq!(parse(None).unwrap(), After::Now);
        assert_eq!(parse(Some("abc-7")).unwrap(), After::Event(7));
        assert_eq!(parse(Some("7")).unwrap(), After::Event(7));
        assert_eq!(parse(Some("abd-7")).unwrap(), After::OtherSeries);
        for wrong in ["", "abc-", "abc-x", "-7", "abc-7-7", "a b-7", "abc--7"] {
            assert_eq!(parse(Some(wrong)).unwrap_err().status, 400, "{wrong:?}");
        }
    }
}
