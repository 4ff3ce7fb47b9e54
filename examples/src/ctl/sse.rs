//! Reads server-sent events, as the HTML standard defines them.
//!
//! # Source
//!
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream>

use std::time::Duration;

/// The longest line that is read; an orchestrator sends far shorter ones.
const MAX_LINE_BYTES: usize = 4 * 1024 * 1024;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SseEvent {
    /// Its name; `message` if it has none.
    pub(super) name: String,
    /// Its data, the lines joined.
    pub(super) data: String,
}

/// Turns bytes, cut anywhere, into events.
#[derive(Debug, Default)]
pub(super) struct SseReader {
    line: Vec<u8>,
    is_after_return: bool,
    is_begun: bool,
    name: String,
    data: Vec<String>,
    pending_id: Option<String>,
    last_id: Option<String>,
    retry: Option<Duration>,
}

/// A line that is too long for an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLong;

impl SseReader {
    /// A reader that goes on after the event with that id.
    pub(super) fn after(last_id: Option<String>) -> Self {
        Self { pending_id: last_id.clone(), last_id, ..Self::default() }
    }

    /// The id of the last event: where to go on.
    pub(super) fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// How long the sender wants to be left alone after a cut.
    pub(super) fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// Reads more bytes, and gives the events that are complete with them.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<Vec<SseEvent>, TooLong> {
        let mut events = Vec::new();
        for &byte in bytes {
            match byte {
                b'\n' if self.is_after_return => self.is_after_return = false,
                b'\n' | b'\r' => {
                    self.is_after_return = byte == b'\r';
                    let line = std::mem::take(&mut self.line);
                    events.extend(self.end_of(&line));
                }
                _ if self.line.len() >= MAX_LINE_BYTES => return Err(TooLong),
                _ => {
                    self.is_after_return = false;
                    self.line.push(byte);
                }
            }
        }
        Ok(events)
    }

    fn end_of(&mut self, line: &[u8]) -> Option<SseEvent> {
        let text = String::from_utf8_lossy(line);
        let text = if self.is_begun { &text } else { text.strip_prefix('\u{feff}').unwrap_or(&text) };
        self.is_begun = true;
        if text.is_empty() {
            return self.dispatch();
        }
        let (field, value) = text.split_once(':').unwrap_or((text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => self.data.push(value.to_owned()),
            "id" if !value.contains('\0') => self.pending_id = Some(value.to_owned()),
            "retry" => {
                if let Ok(millis) = value.parse() {
                    self.retry = Some(Duration::from_millis(millis));
                }
            }
            // A comment, or a field that came after this was written.
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<SseEvent> {
        self.last_id.clone_from(&self.pending_id);
        let name = std::mem::take(&mut self.name);
        let data = std::mem::take(&mut self.data);
        if data.is_empty() {
            return None;
        }
        let name = if name.is_empty() { "message".to_owned() } else { name };
        Some(SseEvent { name, data: data.join("\n") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, data: &str) -> SseEvent {
        SseEvent { name: name.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn events_have_names_data_and_ids() {
        let mut reader = SseReader::default();
        let text = ": hello\n\nid: 1-7\nevent: job_settled\ndata: {\"a\":1}\n\ndata:x\ndata: y\n\n";
        assert_eq!(
            reader.read(text.as_bytes()).unwrap(),
            [event("job_settled", "{\"a\":1}"), event("message", "x\ny")]
        );
        assert_eq!(reader.last_id(), Some("1-7"));
    }

    #[test]
    fn it_does_not_matter_where_the_bytes_are_cut_or_how_lines_end() {
        let text =
            "\u{feff}id: 1\r\nevent: ä\r\ndata: one\r\ndata: two\r\n\r\nid: 2\rdata: three\r\rdata: four\n\n";
        let expected = [event("ä", "one\ntwo"), event("message", "three"), event("message", "four")];
        for size in 1..=text.len() {
            let mut reader = SseReader::default();
            let read = text.as_bytes().chunks(size).flat_map(|piece| reader.read(piece).unwrap());
            assert_eq!(read.collect::<Vec<_>>(), expected, "{size} bytes at once");
        }
    }

    #[test]
    fn an_event_that_was_cut_off_does_not_count() {
        let mut reader = SseReader::after(Some("4".to_owned()));
        assert!(reader.read(b"id: 5\ndata: half").unwrap().is_empty());
        assert_eq!(reader.last_id(), Some("4"));
    }

    #[test]
    fn the_sender_says_how_long_to_wait() {
        let mut reader = SseReader::default();
        reader.read(b"retry: 250\nretry: soon\n\n").unwrap();
        assert_eq!(reader.retry(), Some(Duration::from_millis(250)));
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut reader = SseReader::default();
        assert_eq!(reader.read(&vec![b'x'; MAX_LINE_BYTES + 1]), Err(TooLong));
    }
}
