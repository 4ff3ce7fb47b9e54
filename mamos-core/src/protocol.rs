//! What orchestrators and agents say to each other, and how it is written down.
//!
//! A frame is an [`Envelope`] with a batch of messages. Binary frames are MessagePack with named fields,
//! text frames are the same in JSON; `docs/protocol.md` describes both for other languages.
//!
//! What an agent says about a run carries the run's fencing token; who the agent is comes from the
//! channel and never from a message.

pub mod link;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::agent::{AgentProfile, HostLoad, LogStream};
use crate::auth::{Credentials, Nonce, Secret};
use crate::clock::Timestamp;
use crate::id::{AgentId, InstanceId, JobKind, SessionId};
use crate::job::{Counters, Outcome, Progress};
use crate::lease::{RunRef, Verdict};
use crate::transport::Encoding;
use crate::{Error, ErrorKind, Result};

/// The version of the protocol that this crate speaks.
pub const VERSION: u16 = 1;
/// The oldest version that it still understands.
pub const OLDEST_VERSION: u16 = 1;
/// The most messages in one frame.
pub const MAX_MESSAGES: usize = 65_536;
/// The largest piece of a log in one message, in bytes.
pub const MAX_LOG_PIECE_BYTES: usize = 64 * 1024;

/// How much of what a parser says about a bad frame is kept, in bytes.
const MAX_COMPLAINT_BYTES: usize = 256;

/// What a frame carries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope<M> {
    /// The number of this frame, from 1; 0 if it needs no acknowledgement.
    #[serde(default)]
    pub seq: u64,
    /// Every frame up to this number has arrived; 0 if none has, or none is numbered.
    #[serde(default)]
    pub ack: u64,
    /// The messages, in order.
    #[serde(default = "Vec::new")]
    pub messages: Vec<M>,
}

impl<M> Envelope<M> {
    /// A frame that needs no acknowledgement.
    pub fn unnumbered(messages: Vec<M>) -> Self {
        Self { seq: 0, ack: 0, messages }
    }
}

impl<M: Serialize> Envelope<M> {
    /// Writes it down.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if a message holds what the encoding cannot express.
    pub fn encode(&self, encoding: Encoding) -> Result<Bytes> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(ErrorKind::Invalid, "frame.encode", "a message cannot be written down")
                .with_source(source)
        };
        match encoding {
            Encoding::Binary => rmp_serde::to_vec_named(self).map_err(|error| failed(error.into())),
            Encoding::Text => serde_json::to_vec(self).map_err(|error| failed(error.into())),
        }
        .map(Bytes::from)
    }
}

impl<M: DeserializeOwned> Envelope<M> {
    /// Reads what was written down.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] if it is not a frame of the protocol, or has more than [`MAX_MESSAGES`].
    pub fn decode(encoding: Encoding, bytes: &[u8]) -> Result<Self> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| {
            let message = "not a frame of the protocol; is the other side a MAMOS of a like version?";
            // The parser repeats what it did not know, which may be megabytes.
            let mut said = source.to_string();
            said.truncate(said.floor_char_boundary(MAX_COMPLAINT_BYTES));
            Error::new(ErrorKind::Corrupt, "frame.decode", message).with_source(said)
        };
        let envelope: Self = match encoding {
            Encoding::Binary => rmp_serde::from_slice(bytes).map_err(|error| failed(error.into()))?,
            Encoding::Text => serde_json::from_slice(bytes).map_err(|error| failed(error.into()))?,
        };
        if envelope.messages.len() > MAX_MESSAGES {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "frame.decode",
                "more than 65536 messages in a frame",
            ));
        }
        Ok(envelope)
    }
}

/// What an agent says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FromAgent {
    /// The first message, and the only one that an orchestrator takes from a stranger.
    Hello(Box<Hello>),
    /// What happened to its runs, in order.
    Reports {
        /// The number of the first report; the first of a link is 1, and numbers have no gaps.
        first: u64,
        /// The reports.
        reports: Vec<RunReport>,
    },
    /// How many attempts it runs at once from now on.
    Slots {
        /// 0 if it takes no new work.
        total: u32,
    },
    /// It lives. Sent when nothing else was for as long as the orchestrator asked for.
    Heartbeat {
        /// How busy its machine is, now and then.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        load: Option<Box<HostLoad>>,
    },
    /// It leaves, and has given back or ended all its runs. The last message.
    Bye,
}

/// How an agent introduces itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// The oldest version of the protocol that it speaks.
    pub oldest_version: u16,
    /// The newest version of the protocol that it speaks.
    pub version: u16,
    /// Who it is.
    pub credentials: Credentials,
    /// What it is and can do.
    pub profile: AgentProfile,
    /// The life of its program: a new random UUID with each start, kept on disk before it is first sent.
    /// A program that was never welcomed keeps the one it has when it starts again.
    pub instance: InstanceId,
    /// The life before, if it was ever welcomed: who comes back with another life is a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<InstanceId>,
    /// Counts the connections of this life from 1, so that a hello that arrives late is known as such.
    pub number: u64,
    /// The session that it had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// Every run that it still has: waiting, running, or ended but not yet acknowledged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<RunRef>,
    /// Its clock, so that the orchestrator can warn of one that is off.
    pub now: Timestamp,
}

/// What happened to one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunReport {
    /// The run.
    pub run: RunRef,
    /// What happened.
    pub event: RunEvent,
}

/// What can happen to a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RunEvent {
    /// It started.
    Started,
    /// How far it is.
    Progress(Progress),
    /// What it printed.
    Log {
        /// The position of the first byte in the log of the run.
        offset: u64,
        /// Where it came from.
        stream: LogStream,
        /// What was printed.
        #[serde(with = "crate::wire::payload")]
        bytes: Bytes,
    },
    /// It ended.
    Ended(Outcome),
    /// It is given back: not started, or stopped without having ended.
    Released,
}

/// What an orchestrator says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ToAgent {
    /// The first message: what the agent must sign to prove itself on this connection.
    Challenge {
        /// Random, and used once.
        nonce: Nonce,
    },
    /// The answer to `Hello`: it may work.
    Welcome(Box<Welcome>),
    /// The answer to `Hello`, and the last message: it may not work.
    Refused {
        /// Should it try again later, with the same credentials?
        is_final: bool,
        /// Why, and what to do.
        message: String,
    },
    /// Attempts to run. One that it has already is a repeat.
    Dispatch(Vec<Dispatched>),
    /// Reports up to this number are on record: it may forget them.
    Recorded {
        /// The number of the last one.
        through: u64,
        /// The runs whose reports were not simply applied.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        exceptions: Vec<(RunRef, Verdict)>,
    },
    /// It should stop a run and report how that ended.
    Cancel {
        /// The run.
        run: RunRef,
        /// How long the attempt may take to stop by itself.
        #[serde(with = "crate::wire::millis", rename = "grace_ms")]
        grace: Duration,
    },
    /// It lost these runs: it should end them at once and report nothing about them.
    Kill {
        /// The runs.
        runs: Vec<RunRef>,
    },
    /// It should give these runs back if it has not started them.
    Retract {
        /// The runs.
        runs: Vec<RunRef>,
    },
    /// It must show this token from now on.
    Token {
        /// The token.
        token: Secret,
    },
    /// It should take no new work and leave when it has ended what it runs.
    Drain,
    /// The last message: a newer link of the same agent took over.
    Superseded,
}

/// How an orchestrator greets an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Welcome {
    /// The version of the protocol that both speak from now on.
    pub version: u16,
    /// Who the agent is.
    pub agent: AgentId,
    /// The token that it must show from now on, if that has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued: Option<Secret>,
    /// Its session.
    pub session: SessionId,
    /// Is it the one that it wanted to resume?
    pub is_resumed: bool,
    /// It must send something at least this often.
    #[serde(with = "crate::wire::millis", rename = "heartbeat_every_ms")]
    pub heartbeat_every: Duration,
    /// Its runs are given to others when nothing was heard of it for this long.
    #[serde(with = "crate::wire::millis", rename = "lease_ttl_ms")]
    pub lease_ttl: Duration,
}

/// An attempt to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dispatched {
    /// The run.
    pub run: RunRef,
    /// What to run.
    pub kind: JobKind,
    /// The arguments.
    #[serde(with = "crate::wire::payload")]
    pub payload: Bytes,
    /// How often it was tried, and the number of this attempt.
    pub counters: Counters,
    /// How long this attempt may take.
    #[serde(
        with = "crate::wire::optional_millis",
        rename = "timeout_ms",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub timeout: Option<Duration>,
    /// After how long the job is given up. Not a time of day: clocks differ.
    #[serde(
        with = "crate::wire::optional_millis",
        rename = "deadline_in_ms",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub deadline_in: Option<Duration>,
    /// W3C trace context of the enqueuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<Arc<str>>,
}

/// The newest version that both speak, or an error that says what to do.
///
/// # Errors
///
/// [`ErrorKind::Unsupported`] if there is none.
pub fn negotiate(oldest: u16, newest: u16) -> Result<u16> {
    if oldest > newest {
        return Err(Error::new(ErrorKind::Invalid, "protocol.negotiate", "oldest_version is above version"));
    }
    let common = newest.min(VERSION);
    if common >= oldest.max(OLDEST_VERSION) {
        return Ok(common);
    }
    let older = if newest < OLDEST_VERSION { "agent" } else { "orchestrator" };
    let message = format!(
        "the agent speaks protocol versions {oldest} to {newest}, this orchestrator {OLDEST_VERSION} to {VERSION}; \
         update the {older}"
    );
    Err(Error::new(ErrorKind::Unsupported, "protocol.negotiate", message))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::JobId;
    use crate::job::Failure;
    use crate::lease::Epoch;

    fn run() -> RunRef {
        RunRef { job: JobId::from_key("a"), epoch: Epoch::from_number(7) }
    }

    fn samples() -> Vec<FromAgent> {
        let event = |event| RunReport { run: run(), event };
        let failure = Failure::new("smtp", "no route");
        vec![
            FromAgent::Reports {
                first: 1,
                reports: vec![
                    event(RunEvent::Started),
                    event(RunEvent::Progress(Progress::new(Some(50.0), "half"))),
                    event(RunEvent::Log {
                        offset: 0,
                        stream: LogStream::Stderr,
                        bytes: Bytes::from_static(b"\xff\0"),
                    }),
                    event(RunEvent::Ended(Outcome::Succeeded { output: Bytes::from_static(b"{}") })),
                    event(RunEvent::Ended(Outcome::Retry { failure, after: Some(Duration::from_secs(3)) })),
                    event(RunEvent::Ended(Outcome::Snooze { delay: Duration::from_millis(1500) })),
                    event(RunEvent::Ended(Outcome::Cancelled)),
                    event(RunEvent::Released),
                ],
            },
            FromAgent::Slots { total: 3 },
            FromAgent::Heartbeat { load: None },
            FromAgent::Bye,
        ]
    }

    #[test]
    fn both_encodings_give_back_what_was_written() {
        let envelope = Envelope { seq: 3, ack: 9, messages: samples() };
        for encoding in [Encoding::Binary, Encoding::Text] {
            let bytes = envelope.encode(encoding).unwrap();
            assert_eq!(Envelope::<FromAgent>::decode(encoding, &bytes).unwrap(), envelope);
        }
    }

    #[test]
    fn an_agent_in_another_language_can_write_frames_by_hand() {
        let text = r#"{"messages":[{"reports":{"first":1,"reports":[
            {"run":{"job":"017f22e2-79b0-7cc3-98c4-dc0c0c07398f","epoch":2},
             "event":{"ended":{"retry":{"failure":{"code":"x","message":"y"},"after_ms":250}}}},
            {"run":{"job":"017f22e2-79b0-7cc3-98c4-dc0c0c07398f","epoch":2},
             "event":{"log":{"offset":0,"stream":"stdout","bytes":"aGk="}}}]}},"bye"]}"#;
        let envelope = Envelope::<FromAgent>::decode(Encoding::Text, text.as_bytes()).unwrap();
        let FromAgent::Reports { reports, .. } = &envelope.messages[0] else { panic!("{envelope:?}") };
        let RunEvent::Ended(Outcome::Retry { after, .. }) = &reports[0].event else { panic!("{reports:?}") };
        assert_eq!(*after, Some(Duration::from_millis(250)));
        let RunEvent::Log { bytes, .. } = &reports[1].event else { panic!("{reports:?}") };
        assert_eq!(&bytes[..], b"hi");
        assert_eq!(envelope.messages[1], FromAgent::Bye);
    }

    #[test]
    fn a_steady_heartbeat_is_small() {
        let beat = Envelope::unnumbered(vec![FromAgent::Heartbeat { load: None }]);
        assert!(beat.encode(Encoding::Binary).unwrap().len() < 64);
    }

    #[test]
    fn versions_meet_at_the_newest_common_one() {
        assert_eq!(negotiate(1, 1).unwrap(), 1);
        assert_eq!(negotiate(1, 9).unwrap(), 1);
        assert!(negotiate(2, 9).unwrap_err().to_string().contains("update the orchestrator"));
        assert!(negotiate(0, 0).unwrap_err().to_string().contains("update the agent"));
        assert!(negotiate(5, 1).is_err());
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_an_error_and_never_a_panic(bytes: Vec<u8>) {
            for encoding in [Encoding::Binary, Encoding::Text] {
                let _ = Envelope::<FromAgent>::decode(encoding, &bytes);
                let _ = Envelope::<ToAgent>::decode(encoding, &bytes);
            }
        }

        #[test]
        fn a_cut_or_flipped_frame_is_an_error_or_another_frame(cut in 0usize..200, at in 0usize..200, bit in 0u8..8) {
            let whole = Envelope { seq: 3, ack: 9, messages: samples() }.encode(Encoding::Binary).unwrap();
            prop_assert!(Envelope::<FromAgent>::decode(Encoding::Binary, &whole[..cut.min(whole.len() - 1)]).is_err());
            let mut flipped = whole.to_vec();
            let index = at % flipped.len();
            flipped[index] ^= 1 << bit;
            let _ = Envelope::<FromAgent>::decode(Encoding::Binary, &flipped);
        }
    }
}
