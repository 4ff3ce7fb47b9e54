//! What one run printed.

use mamos_core::store::LogPiece;

/// The pieces of one run's log, in order and without gaps.
#[derive(Debug, Default)]
pub(super) struct RunLog {
    pieces: Vec<LogPiece>,
    end: u64,
}

impl RunLog {
    /// Appends a piece, without what is stored already. Gives false, and stores nothing, if a piece is
    /// missing before it.
    pub(super) fn append(&mut self, mut piece: LogPiece) -> bool {
        let Some(known) = self.end.checked_sub(piece.offset) else { return false };
        if known >= piece.bytes.len() as u64 {
            return true;
        }
        piece.bytes = piece.bytes.slice(known as usize..);
        piece.offset = self.end;
        self.end += piece.bytes.len() as u64;
        self.pieces.push(piece);
        true
    }

    /// The pieces from `offset` on, at most `max_bytes` in all.
    pub(super) fn read(&self, offset: u64, max_bytes: u32) -> Vec<LogPiece> {
        let first = self.pieces.partition_point(|piece| piece.offset + piece.bytes.len() as u64 <= offset);
        let mut room = max_bytes as usize;
        let mut read = Vec::new();
        for piece in &self.pieces[first..] {
            if room == 0 {
                break;
            }
            let skipped = offset.saturating_sub(piece.offset) as usize;
            let length = (piece.bytes.len() - skipped).min(room);
            room -= length;
            read.push(LogPiece {
                offset: piece.offset + skipped as u64,
                stream: piece.stream,
                bytes: piece.bytes.slice(skipped..skipped + length),
            });
        }
        read
    }
}
