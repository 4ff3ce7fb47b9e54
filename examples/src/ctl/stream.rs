//! A stream of events that is taken up again where it was cut.

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use serde_json::Value;
use tokio::time::Instant;

use super::client::{Client, retry_after};
use super::ending::Ending;
use super::sse::{SseEvent, SseReader};
use super::trouble::Trouble;

/// A stream that says nothing for so long is dead: heartbeats come every 15 s.
const SILENCE: Duration = Duration::from_secs(45);
/// The waits before another try: they double from the first to the last.
const WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Events from one address, over as many connections as it takes.
pub(super) struct Stream<'a> {
    client: &'a Client,
    path: Vec<String>,
    query: Vec<(&'static str, String)>,
    what: String,
    reader: SseReader,
    response: Option<reqwest::Response>,
    read: VecDeque<SseEvent>,
    tries: u32,
    /// Since when nothing came.
    cut_at: Instant,
}

/// An event and its data.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) name: String,
    pub(super) data: Value,
}

impl<'a> Stream<'a> {
    pub(super) fn new(
        client: &'a Client,
        path: &[&str],
        query: Vec<(&'static str, String)>,
        what: &str,
    ) -> Self {
        Self {
            client,
            path: path.iter().map(|part| (*part).to_owned()).collect(),
            query,
            what: what.to_owned(),
            reader: SseReader::default(),
            response: None,
            read: VecDeque::new(),
            tries: 0,
            cut_at: Instant::now(),
        }
    }

    /// Waits for the next event. A cut is mended; the orchestrator sends what was missed.
    ///
    /// Fails when the orchestrator refuses, or does not answer for the timeout.
    pub(super) async fn next(&mut self) -> Result<Told, Trouble> {
        loop {
            if let Some(event) = self.read.pop_front() {
                let data = serde_json::from_str(&event.data).unwrap_or(Value::String(event.data));
                return Ok(Told { name: event.name, data });
            }
            match self.response.take() {
                None => self.connect().await?,
                Some(response) => self.receive(response).await?,
            }
        }
    }

    /// Reads on. A response that ended, broke or fell silent is not kept.
    async fn receive(&mut self, mut response: reqwest::Response) -> Result<(), Trouble> {
        let piece = tokio::time::timeout(SILENCE, response.chunk()).await;
        if let Ok(Ok(Some(bytes))) = piece {
            let events = self.reader.read(&bytes).map_err(|_| {
                Trouble::new(Ending::Failed, format!("cannot {}: an event is too long", self.what))
            })?;
            if !events.is_empty() {
                self.tries = 0;
            }
            self.read.extend(events);
            self.response = Some(response);
        } else {
            self.cut_at = Instant::now();
        }
        Ok(())
    }

    async fn connect(&mut self) -> Result<(), Trouble> {
        let last_id = self.reader.last_id().map(str::to_owned);
        if self.tries > 0 || last_id.is_some() {
            let wait = WAITS.0 * 2u32.saturating_pow(self.tries.saturating_sub(1));
            tokio::time::sleep(self.reader.retry().unwrap_or(wait).min(WAITS.1)).await;
        }
        self.tries += 1;
        let path: Vec<_> = self.path.iter().map(String::as_str).collect();
        let mut call = self.client.get(&path, self.what.as_str()).queries(&self.query);
        call = call.header("Accept", "text/event-stream");
        if let Some(id) = &last_id {
            call = call.header("Last-Event-ID", id);
        }
        let is_late = self.cut_at.elapsed() >= self.client.timeout();
        let opened = tokio::time::timeout(self.client.timeout(), call.open()).await;
        match opened.unwrap_or_else(|_| Err("it took too long".to_owned())) {
            Ok(Ok(response)) => {
                let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
                if !kind.is_some_and(|kind| kind.starts_with("text/event-stream")) {
                    let message = format!("cannot {}: the answer is no stream of events", self.what);
                    return Err(Trouble::new(Ending::Failed, message));
                }
                // What was read of an event that was cut off comes again.
                self.reader = SseReader::after(last_id);
                self.response = Some(response);
                Ok(())
            }
            Ok(Err((status, headers, problem))) => {
                if !matches!(status.as_u16(), 429 | 502 | 503 | 504) || is_late {
                    return Err(Trouble::refused(&problem, &self.what));
                }
                let left = self.client.timeout().saturating_sub(self.cut_at.elapsed());
                let wait = retry_after(&headers).unwrap_or_default();
                if wait > left {
                    return Err(Trouble::refused(&problem, &self.what));
                }
                tokio::time::sleep(wait).await;
                Ok(())
            }
            // Nobody was ever there: waiting longer is no use.
            Err(why) if is_late || (last_id.is_none() && self.tries >= 3) => {
                Err(Trouble::unreachable(&self.client.server(), &self.what, why))
            }
            Err(_) => Ok(()),
        }
    }
}
