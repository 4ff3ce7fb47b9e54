//! A page of a run's log, cut out of the pieces that are stored.

use mamos_core::store::LogPiece;

use super::fault::Fault;
use super::rows::{Cells, log_stream};

/// How many pieces are read at once, so that a small page of a log of large pieces stays small.
pub(crate) const PIECES: usize = 64;

/// What was read of a page so far.
pub(crate) struct LogPage {
    from: i64,
    room: usize,
    pieces: Vec<LogPiece>,
}

impl LogPage {
    pub(crate) fn new(from: i64, max_bytes: u32) -> Self {
        Self { from, room: max_bytes as usize, pieces: Vec::new() }
    }

    /// Takes what belongs to the page from rows of `start, stream, bytes`. Gives where to read on, if there is
    /// more to read.
    pub(crate) fn take(&mut self, rows: &[impl Cells]) -> Result<Option<i64>, Fault> {
        let mut next = None;
        for row in rows {
            let begin = row.int(0)?;
            let bytes = row.blob(2)?;
            next = Some(begin.saturating_add(1));
            let skipped = usize::try_from(self.from.saturating_sub(begin)).unwrap_or(0);
            let length = bytes.len().saturating_sub(skipped).min(self.room);
            if length == 0 {
                continue;
            }
            self.pieces.push(LogPiece {
                offset: self.from as u64,
                stream: log_stream(row.int(1)?)?,
                bytes: bytes.slice(skipped..skipped + length),
            });
            self.room -= length;
            self.from += length as i64;
        }
        Ok(next.filter(|_| rows.len() >= PIECES && self.room > 0))
    }

    pub(crate) fn pieces(self) -> Vec<LogPiece> {
        self.pieces
    }
}
