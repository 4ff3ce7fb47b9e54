//! Between bytes and nouns. Whatever stands in a record, decoding it gives a value or a fault.
//!
//! Scripts read and write these layouts too: what changes here changes there. Numbers are big-endian, and times
//! have their sign turned, so that their bytes sort as they do.

mod jobs;

use bytes::Bytes;
use mamos_core::clock::Timestamp;
use mamos_core::id::{AgentId, JobId, SessionId};
use mamos_core::job::Priority;
use mamos_core::job::lane::LaneId;
use mamos_core::lease::SessionRef;
use mamos_core::store::{SessionEnd, SessionRecord};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::errors::{Fault, corrupt};

pub(super) use self::jobs::{
    Details, Policy, Run, Spec, encode_spec, first_record, scoped_key, state_number,
};

/// The width of an item of the line of ready jobs.
pub(super) const READY_ITEM: usize = 34;
/// The width of an item of a line that is sorted by time.
pub(super) const TIMED_ITEM: usize = 32;
/// The width of an item of the line of all jobs, and of that of sessions.
pub(super) const PLAIN_ITEM: usize = 24;

pub(super) fn time(at: Timestamp) -> [u8; 8] {
    (at.as_micros() as u64 ^ 1 << 63).to_be_bytes()
}

/// The earliest of all times stands for none.
pub(super) fn optional_time(at: Option<Timestamp>) -> [u8; 8] {
    at.map(time).unwrap_or_default()
}

pub(super) fn read_time(bytes: [u8; 8]) -> Timestamp {
    Timestamp::from_micros((u64::from_be_bytes(bytes) ^ 1 << 63) as i64)
}

pub(super) fn read_optional_time(bytes: [u8; 8]) -> Option<Timestamp> {
    (bytes != [0; 8]).then(|| read_time(bytes))
}

/// A priority so that the highest comes first.
pub(super) fn priority(priority: Priority) -> [u8; 2] {
    (!(priority.0 as u16 ^ 0x8000)).to_be_bytes()
}

pub(super) fn read_priority(bytes: [u8; 2]) -> Priority {
    Priority((!u16::from_be_bytes(bytes) ^ 0x8000) as i16)
}

pub(super) fn lane(lane: LaneId) -> [u8; 8] {
    lane.number().to_be_bytes()
}

/// An item of a line that is sorted by time, or with a time and a sequence number.
pub(super) fn timed_item(at: Timestamp, seq: u64, id: JobId) -> [u8; TIMED_ITEM] {
    let mut item = [0; TIMED_ITEM];
    item[..8].copy_from_slice(&time(at));
    item[8..16].copy_from_slice(&seq.to_be_bytes());
    item[16..].copy_from_slice(id.as_bytes());
    item
}

/// An item of the line of all jobs.
pub(super) fn order_item(seq: u64, id: JobId) -> [u8; PLAIN_ITEM] {
    let mut item = [0; PLAIN_ITEM];
    item[..8].copy_from_slice(&seq.to_be_bytes());
    item[8..].copy_from_slice(id.as_bytes());
    item
}

/// An item of the line of open sessions.
pub(super) fn expiry_item(at: Timestamp, id: SessionId) -> [u8; PLAIN_ITEM] {
    let mut item = [0; PLAIN_ITEM];
    item[..8].copy_from_slice(&time(at));
    item[8..].copy_from_slice(id.as_bytes());
    item
}

/// Cuts a record into its parts.
pub(super) struct Reader<'a> {
    what: &'static str,
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, bytes }
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let Some((part, rest)) = self.bytes.split_at_checked(length) else {
            return Err(corrupt(self.what, "it is too short"));
        };
        self.bytes = rest;
        Ok(part)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Fault> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Fault> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn time(&mut self) -> Result<Timestamp, Fault> {
        self.array().map(read_time)
    }

    pub(super) fn optional_time(&mut self) -> Result<Option<Timestamp>, Fault> {
        self.array().map(read_optional_time)
    }

    pub(super) fn job(&mut self) -> Result<JobId, Fault> {
        Ok(JobId::from_uuid(Uuid::from_bytes(self.array()?)))
    }

    pub(super) fn session(&mut self) -> Result<SessionId, Fault> {
        Ok(SessionId::from_uuid(Uuid::from_bytes(self.array()?)))
    }

    /// A part with its length, in two bytes, before it.
    pub(super) fn short(&mut self) -> Result<&'a [u8], Fault> {
        let length = u16::from_be_bytes(self.array()?);
        self.take(length.into())
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn fault(&self, why: impl std::fmt::Display) -> Fault {
        corrupt(self.what, why)
    }
}

/// A part with its length before it; what is longer than lengths can say is cut.
pub(super) fn put_short(bytes: &mut Vec<u8>, part: &[u8]) {
    let length = u16::try_from(part.len()).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&part[..length.into()]);
}

pub(super) fn to_json(value: &impl Serialize, what: &'static str) -> Result<Vec<u8>, Fault> {
    serde_json::to_vec(value).map_err(|error| corrupt(what, error))
}

pub(super) fn from_json<T: DeserializeOwned>(bytes: &[u8], what: &'static str) -> Result<T, Fault> {
    serde_json::from_slice(bytes).map_err(|error| corrupt(what, error))
}

pub(super) fn text(bytes: &[u8], what: &'static str) -> Result<String, Fault> {
    String::from_utf8(bytes.to_vec()).map_err(|error| corrupt(what, error))
}

pub(super) fn agent_id(bytes: &[u8]) -> Result<AgentId, Fault> {
    text(bytes, "agent id")?.parse().map_err(|error| corrupt("agent id", error))
}

const SESSION_TAG: u8 = b'S';

/// How the record of a session begins while it is open and has this link.
pub(super) fn open_session(link: u32) -> [u8; 6] {
    let mut begin = [SESSION_TAG, 0, 0, 0, 0, 0];
    begin[2..].copy_from_slice(&link.to_be_bytes());
    begin
}

pub(super) fn encode_session(record: &SessionRecord) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(96);
    bytes.extend_from_slice(&open_session(record.session.link));
    bytes[1] = match record.end {
        None => 0,
        Some(SessionEnd::Closed) => 1,
        Some(SessionEnd::Superseded) => 2,
        Some(SessionEnd::Lost) => 3,
    };
    bytes.extend_from_slice(&time(record.expires_at));
    bytes.extend_from_slice(&time(record.opened_at));
    put_short(&mut bytes, record.agent.to_string().as_bytes());
    put_short(&mut bytes, record.orchestrator.as_bytes());
    bytes
}

pub(super) fn decode_session(id: SessionId, bytes: &[u8]) -> Result<SessionRecord, Fault> {
    let mut reader = Reader::new("session", bytes);
    if reader.byte()? != SESSION_TAG {
        return Err(reader.fault("it begins with another byte"));
    }
    let end = match reader.byte()? {
        0 => None,
        1 => Some(SessionEnd::Closed),
        2 => Some(SessionEnd::Superseded),
        3 => Some(SessionEnd::Lost),
        other => return Err(reader.fault(format!("its end is {other}"))),
    };
    let session = SessionRef { id, link: reader.u32()? };
    let (expires_at, opened_at) = (reader.time()?, reader.time()?);
    let agent = agent_id(reader.short()?)?;
    let orchestrator = text(reader.short()?, "orchestrator")?;
    Ok(SessionRecord { session, agent, orchestrator, opened_at, expires_at, end })
}

/// Bytes that are kept without another copy.
pub(super) fn kept(bytes: Vec<u8>) -> Bytes {
    Bytes::from(bytes)
}
