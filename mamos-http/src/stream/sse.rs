//! Server-sent events.
//!
//! # Source
//!
//! The WHATWG HTML standard, 9.2 "Server-sent events".

use std::convert::Infallible;
use std::fmt::Write;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use futures_util::stream;
use tokio::time::{Duration, Instant};

use super::{Said, Source, Supervisor};

/// After so long without a word a comment is sent, so that both ends, and what is between them, see that
/// the stream lives.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);
/// What is there already is sent together, up to about so many bytes: the most that a stream holds.
const CHUNK_BYTES: usize = 16 * 1024;

struct Stream<S> {
    source: S,
    supervisor: Supervisor,
    heartbeat_at: Instant,
    has_begun: bool,
    has_ended: bool,
}

/// Answers with what the source says, for as long as the supervisor lets it.
pub(crate) fn sse(source: impl Source, supervisor: Supervisor) -> Response {
    let stream = Stream {
        source,
        supervisor,
        heartbeat_at: Instant::now() + HEARTBEAT_EVERY,
        has_begun: false,
        has_ended: false,
    };
    let chunks = stream::unfold(stream, async |mut stream| {
        let chunk = stream.chunk().await?;
        Some((Ok::<_, Infallible>(chunk), stream))
    });
    let mut response = Response::new(Body::from_stream(chunks));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that would collect the answer before they pass it on take this as a request not to.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

impl<S: Source> Stream<S> {
    async fn chunk(&mut self) -> Option<String> {
        if self.has_ended {
            return None;
        }
        let mut chunk = String::new();
        if !self.has_begun {
            // At once: the caller sees that it works, and knows from where to resume if nothing happens.
            self.has_begun = true;
            heartbeat(&mut chunk, self.source.position());
            return Some(chunk);
        }
        let first = tokio::select! {
            biased;
            reason = self.supervisor.must_end() => Some(Said::end(reason)),
            said = self.source.next() => Some(said.unwrap_or_else(|| Said::end("shutdown"))),
            () = tokio::time::sleep_until(self.heartbeat_at) => None,
        };
        match first {
            Some(said) => self.write(&mut chunk, said),
            None => heartbeat(&mut chunk, self.source.position()),
        }
        while !self.has_ended
            && chunk.len() < CHUNK_BYTES
            && let Some(said) = self.source.try_next()
        {
            self.write(&mut chunk, said);
        }
        self.heartbeat_at = Instant::now() + HEARTBEAT_EVERY;
        Some(chunk)
    }

    fn write(&mut self, chunk: &mut String, said: Said) {
        self.has_ended |= said.is_last;
        if let Some(id) = said.id {
            let _ = writeln!(chunk, "id: {id}");
        }
        let _ = write!(chunk, "event: {}\ndata: {}\n\n", said.event, said.data);
    }
}

/// A comment; with an id it moves the place from which the caller resumes, and is no event to it.
fn heartbeat(chunk: &mut String, position: Option<String>) {
    let _ = match position {
        Some(id) => write!(chunk, ":\nid: {id}\n\n"),
        None => write!(chunk, ":\n\n"),
    };
}
