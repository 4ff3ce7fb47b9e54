//! What orchestrators tell each other, and how it looks in a hint.
//!
//! Hints may come from anyone who can write to what carries them, so none is believed: each only names
//! something to look at in the store.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::hint::MAX_HINT_BYTES;
use crate::id::{AgentId, JobId, JobKind, QueueName, SessionId};
use crate::job::lane::LaneId;

/// The version of the format. One who hears another looks at everything instead.
const VERSION: u8 = 1;
/// How many ids of 16 bytes fit into one hint, with what surrounds them.
const IDS: usize = 200;
/// How many names of at most 165 bytes fit.
const NAMES: usize = 20;

/// Which life of which orchestrator tells something: a random number.
pub(crate) type Life = u64;

/// Nobody's life: who tells so is no orchestrator, and no orchestrator takes it for its own.
const NOBODY: Life = 0;

/// See [`lanes_ready`](crate::hint::lanes_ready).
pub(crate) fn hint_of_lanes(lanes: Vec<LaneId>) -> Vec<Bytes> {
    if lanes.is_empty() { Vec::new() } else { Hint::Lanes(lanes).encode(NOBODY) }
}

/// Something to look at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Hint {
    /// This orchestrator runs, and has agents with free slots for jobs of these kinds: so many.
    Present { name: String, idle: Vec<(JobKind, u32)> },
    /// It stops.
    Leaving,
    /// Lanes that have more ready jobs than the teller has free slots.
    Lanes(Vec<LaneId>),
    /// Queues that go on.
    Queues(Vec<QueueName>),
    /// Jobs of which somebody wants to hear.
    Watched(Vec<JobId>),
    /// Jobs to which something happened of which somebody wants to hear.
    Jobs(Vec<JobId>),
    /// Sessions that ended or moved, or hold a job that is to be cancelled.
    Sessions(Vec<SessionId>),
    /// Agents that were changed by an operator.
    Agents(Vec<AgentId>),
    /// More than can be named.
    Everything,
}

/// A hint as it is told.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    version: u8,
    from: Life,
    hint: Hint,
}

impl Hint {
    /// The hint in pieces that are small enough.
    pub(crate) fn encode(self, from: Life) -> Vec<Bytes> {
        let pieces = match self {
            Self::Lanes(ids) => pieces(&ids, IDS, Self::Lanes),
            Self::Queues(names) => pieces(&names, NAMES, Self::Queues),
            Self::Watched(ids) => pieces(&ids, IDS, Self::Watched),
            Self::Jobs(ids) => pieces(&ids, IDS, Self::Jobs),
            Self::Sessions(ids) => pieces(&ids, IDS, Self::Sessions),
            Self::Agents(names) => pieces(&names, NAMES, Self::Agents),
            Self::Present { name, mut idle } => {
                idle.truncate(NAMES);
                vec![Self::Present { name, idle }]
            }
            other => vec![other],
        };
        let encode = |hint| rmp_serde::to_vec(&Told { version: VERSION, from, hint }).ok();
        let encoded = pieces.into_iter().filter_map(encode);
        encoded.filter(|bytes| bytes.len() <= MAX_HINT_BYTES).map(Bytes::from).collect()
    }

    /// What was told and by whom. What cannot be understood, from a newer version or from a stranger, is
    /// a reason to look at everything.
    pub(crate) fn decode(bytes: &[u8]) -> (Option<Life>, Self) {
        match rmp_serde::from_slice::<Told>(bytes) {
            Ok(told) if told.version == VERSION => (Some(told.from), told.hint),
            _ => (None, Self::Everything),
        }
    }
}

fn pieces<T: Clone>(items: &[T], most: usize, hint: impl Fn(Vec<T>) -> Hint) -> Vec<Hint> {
    items.chunks(most).map(|chunk| hint(chunk.to_vec())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::id::AgentKind;

    #[test]
    fn every_hint_survives_being_told_in_pieces_that_fit() {
        let jobs: Vec<JobId> = (0..1000).map(|n| JobId::from_key(&n.to_string())).collect();
        let lanes: Vec<LaneId> = (0..1000).map(|n| LaneId::from_number(i64::MIN + n)).collect();
        let kind = AgentKind::new("k".repeat(128)).unwrap();
        let agents: Vec<AgentId> =
            (0..100).map(|n| AgentId::from_parts(kind.clone(), Timestamp::EPOCH, n)).collect();
        let queues: Vec<QueueName> =
            (0..100).map(|n| QueueName::new(format!("{:q<128}", format!("q{n}"))).unwrap()).collect();
        let kinds = (0..100).map(|n| (JobKind::new(format!("{:k<128}", format!("k{n}"))).unwrap(), 9));
        let sessions = (0..1000).map(|n| SessionId::from_key(&n.to_string())).collect();
        for hint in [
            Hint::Watched(jobs.clone()),
            Hint::Jobs(jobs),
            Hint::Lanes(lanes),
            Hint::Agents(agents),
            Hint::Queues(queues),
            Hint::Sessions(sessions),
            Hint::Everything,
            Hint::Leaving,
        ] {
            let mut heard = Vec::new();
            for bytes in hint.clone().encode(7) {
                assert!(bytes.len() <= MAX_HINT_BYTES, "{} bytes", bytes.len());
                let (from, hint) = Hint::decode(&bytes);
                assert_eq!(from, Some(7));
                heard.push(hint);
            }
            assert_eq!(joined(heard), hint);
        }
        let present = Hint::Present { name: "n".repeat(128), idle: kinds.collect() };
        let [bytes] = &present.encode(7)[..] else { panic!("one hint says who is there") };
        assert!(matches!(Hint::decode(bytes), (Some(7), Hint::Present { idle, .. }) if idle.len() == NAMES));
    }

    #[test]
    fn ready_lanes_can_be_told_by_nobody() {
        assert!(hint_of_lanes(Vec::new()).is_empty());
        let lanes: Vec<LaneId> = (0..300).map(LaneId::from_number).collect();
        let told = hint_of_lanes(lanes.clone());
        let heard = told.iter().map(|bytes| {
            let (from, hint) = Hint::decode(bytes);
            assert_eq!(from, Some(NOBODY));
            hint
        });
        assert_eq!(joined(heard.collect()), Hint::Lanes(lanes));
    }

    #[test]
    fn what_cannot_be_understood_is_a_reason_to_look_at_everything() {
        let newer = rmp_serde::to_vec(&Told { version: 2, from: 7, hint: Hint::Leaving }).unwrap();
        for bytes in [&b""[..], b"\xff\xff", b"hello", &newer] {
            assert_eq!(Hint::decode(bytes), (None, Hint::Everything));
        }
    }

    fn joined(hints: Vec<Hint>) -> Hint {
        let mut hints = hints.into_iter();
        let first = hints.next().unwrap();
        hints.fold(first, |all, next| match (all, next) {
            (Hint::Lanes(a), Hint::Lanes(b)) => Hint::Lanes([a, b].concat()),
            (Hint::Queues(a), Hint::Queues(b)) => Hint::Queues([a, b].concat()),
            (Hint::Watched(a), Hint::Watched(b)) => Hint::Watched([a, b].concat()),
            (Hint::Jobs(a), Hint::Jobs(b)) => Hint::Jobs([a, b].concat()),
            (Hint::Sessions(a), Hint::Sessions(b)) => Hint::Sessions([a, b].concat()),
            (Hint::Agents(a), Hint::Agents(b)) => Hint::Agents([a, b].concat()),
            (all, next) => panic!("{all:?} and {next:?} are no pieces of one hint"),
        })
    }
}
