//! What runs print: pieces in a sorted set, by job, epoch and position, and where each log ends.

use mamos_core::agent::LogStream;
use mamos_core::id::JobId;
use mamos_core::lease::{Epoch, RunRef};
use mamos_core::store::LogPiece;

use super::Core;
use super::codec::{Reader, kept};
use super::errors::{Fault, corrupt, readable};
use super::keys::Key;
use super::link::{Way, strings};
use super::tx::Tx;

/// Job, epoch, position and stream.
const HEAD: usize = 16 + 8 + 8 + 1;

/// Where the logs of a job's runs end, and what is to be appended.
pub(super) struct Ends {
    stored: Vec<u8>,
    ends: Vec<(u64, u64)>,
    pieces: Vec<Vec<u8>>,
    id: JobId,
}

impl Ends {
    pub(super) async fn read(core: &Core, id: JobId) -> Result<Self, Fault> {
        let stored = core.link.field(Key::LogEnds, id.as_bytes()).await?;
        let mut reader = Reader::new("ends of logs", &stored);
        let mut ends = Vec::new();
        while !reader.is_empty() {
            let end = reader.u64().and_then(|epoch| Ok((epoch, reader.u64()?)));
            // What cannot be understood is left out: it must not stop what is reported.
            let Some(end) = readable(end, "end of a log")? else { break };
            ends.push(end);
        }
        Ok(Self { stored, ends, pieces: Vec::new(), id })
    }

    /// Appends a piece, without what is stored already. Gives false, and stores nothing, if a piece is missing
    /// before it.
    pub(super) fn append(&mut self, epoch: Epoch, mut piece: LogPiece) -> bool {
        let epoch = epoch.number();
        let known = self.ends.iter().position(|(other, _)| *other == epoch);
        let end = known.map_or(0, |index| self.ends[index].1);
        let Some(skipped) = end.checked_sub(piece.offset) else { return false };
        if skipped >= piece.bytes.len() as u64 {
            return true;
        }
        piece.bytes = piece.bytes.slice(skipped as usize..);
        let mut member = place(RunRef { job: self.id, epoch: Epoch::from_number(epoch) }, end);
        member.push(stream_number(piece.stream));
        member.extend_from_slice(&piece.bytes);
        self.pieces.push(member);
        let end = end + piece.bytes.len() as u64;
        match known {
            Some(index) => self.ends[index].1 = end,
            None => self.ends.push((epoch, end)),
        }
        true
    }

    pub(super) fn write(self, id: JobId, tx: &mut Tx) {
        let mut value = Vec::with_capacity(16 * self.ends.len());
        for (epoch, end) in self.ends {
            value.extend_from_slice(&epoch.to_be_bytes());
            value.extend_from_slice(&end.to_be_bytes());
        }
        if value == self.stored {
            // That a piece was missing or stored already must still hold, too.
            return tx.check(Key::LogEnds, id.as_bytes().as_slice(), self.stored);
        }
        tx.replace(Key::LogEnds, id.as_bytes().as_slice(), self.stored, value);
        for piece in self.pieces {
            tx.add_member(Key::Logs, piece);
        }
    }
}

/// Plans to remove all logs of a job.
pub(super) fn remove(id: JobId, tx: &mut Tx) {
    let bound = |mark: u8, end: &[u8]| [&[mark], id.as_bytes().as_slice(), end].concat();
    tx.remove_range(Key::Logs, bound(b'[', &[]), bound(b'[', &[0xff; 9]));
}

fn place(run: RunRef, offset: u64) -> Vec<u8> {
    let mut place = Vec::with_capacity(HEAD);
    place.extend_from_slice(run.job.as_bytes());
    place.extend_from_slice(&run.epoch.number().to_be_bytes());
    place.extend_from_slice(&offset.to_be_bytes());
    place
}

/// Pieces of a run's log.
pub(super) async fn read(
    core: &Core,
    run: RunRef,
    offset: u64,
    max_bytes: u32,
) -> Result<Vec<LogPiece>, Fault> {
    /// How many pieces are read at once, so that a small page of a log of large pieces stays small.
    const PIECES: &[u8] = b"16";
    let bound = |mark: &[u8], place: Vec<u8>, end: &[u8]| [mark, &place, end].concat();
    let ranged = async |command: &str, from: Vec<u8>, to: Vec<u8>, count: &[u8]| {
        let args: [&[u8]; 5] = [&from, &to, b"LIMIT", b"0", count];
        strings(core.link.command(Way::Read, command, Key::Logs, &args).await?)
    };
    let (mut room, mut from) = (max_bytes as usize, offset);
    let mut pieces = Vec::new();
    // The piece that holds the offset begins at or before it.
    let (low, high) = (bound(b"[", place(run, 0), &[]), bound(b"[", place(run, offset), &[0xff]));
    let first = ranged("ZREVRANGEBYLEX", high, low, b"1").await?;
    let Some(mut next) = first.first().map(|piece| bound(b"[", piece.clone(), &[])) else {
        return Ok(pieces);
    };
    let last = bound(b"[", place(run, u64::MAX), &[0xff]);
    while room > 0 {
        let found = ranged("ZRANGEBYLEX", next, last.clone(), PIECES).await?;
        let Some(end) = found.last() else { break };
        next = bound(b"(", end.clone(), &[]);
        for member in found {
            let mut reader = Reader::new("piece of a log", &member);
            reader.take(24)?;
            let (begin, stream) = (reader.u64()?, log_stream(reader.byte()?)?);
            let bytes = kept(reader.rest().to_vec());
            let skipped = usize::try_from(from.saturating_sub(begin)).unwrap_or(usize::MAX);
            let length = bytes.len().saturating_sub(skipped).min(room);
            if length > 0 {
                pieces.push(LogPiece { offset: from, stream, bytes: bytes.slice(skipped..skipped + length) });
                room -= length;
                from += length as u64;
            }
        }
    }
    Ok(pieces)
}

const fn stream_number(stream: LogStream) -> u8 {
    match stream {
        LogStream::Stdout => 0,
        LogStream::Stderr => 1,
        LogStream::Note => 2,
    }
}

fn log_stream(number: u8) -> Result<LogStream, Fault> {
    let streams = [LogStream::Stdout, LogStream::Stderr, LogStream::Note];
    let found = streams.into_iter().find(|stream| stream_number(*stream) == number);
    found.ok_or_else(|| corrupt("stream of a log", number))
}
