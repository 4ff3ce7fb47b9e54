//! What can be set, and within which bounds.

use std::sync::Arc;
use std::time::Duration;

use mamos_core::auth::KeyPair;
use mamos_core::bus::MAX_MESSAGE_BYTES;
use mamos_core::id::{GroupName, TopicName};
use mamos_core::transport::MAX_FRAME_BYTES;
use mamos_core::{Error, ErrorKind, Result};

use super::parts::{MIN_PART_BYTES, PART_BYTES};
use super::secrets::OVERHEAD_BYTES;

/// The shortest and the longest silence that ends a link. What a peer asks for is brought into it, so that
/// none can ask for a flood of pings.
pub(super) const SILENCE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3600));
/// The smallest message that parts fit into.
const MIN_MESSAGE_BYTES: usize = OVERHEAD_BYTES + PART_BYTES + MIN_PART_BYTES;

/// Settings of links over a bus. Those of listeners and connectors that should meet must name the same
/// hello topic; the other settings of both may differ, but the limit of frames should not.
#[derive(Debug, Clone)]
pub struct LinkSettings {
    /// Where agents say hello: `link-hello`. All agents may publish there, only orchestrators listen.
    pub hello_topic: TopicName,
    /// The group as which orchestrators take hellos: `orchestrators`. Of listeners with the same, one
    /// takes each connection.
    pub group: GroupName,
    /// A link on which nothing was heard for so long ends with
    /// [`ErrorKind::Unavailable`](mamos_core::ErrorKind::Unavailable). Each side sends a sign of life three
    /// times as often as the more impatient of the two needs it. From 100 ms to an hour. Default: 10 s.
    pub silence: Duration,
    /// How long connecting may take, and how long a listener remembers an agent that said hello and then
    /// nothing. Default: 5 s.
    pub connect_timeout: Duration,
    /// The largest frame, in bytes. Default: [`MAX_FRAME_BYTES`], 8 MiB.
    pub max_frame_bytes: usize,
    /// The largest message, in bytes, that is published; larger frames travel in parts. Smaller only if
    /// a broker is set up to take less than every bus should. At least 1065. Default:
    /// [`MAX_MESSAGE_BYTES`], 8 MiB.
    pub max_message_bytes: usize,
    /// The most connections of a listener that are being made or wait to be accepted; further hellos are
    /// refused. Default: 1024.
    pub max_half_open: usize,
    /// The most connections of a listener in all; further hellos are refused. Default: 100 000.
    pub max_links: usize,
    /// What a listener signs its answers with, so that agents can pin it. Several orchestrators may have
    /// the same. Default: none.
    pub signing_key: Option<Arc<KeyPair>>,
}

impl Default for LinkSettings {
    fn default() -> Self {
        Self {
            hello_topic: TopicName::new("link-hello").expect("it is a name"),
            group: GroupName::new("orchestrators").expect("it is a name"),
            silence: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            max_frame_bytes: MAX_FRAME_BYTES,
            max_message_bytes: MAX_MESSAGE_BYTES,
            max_half_open: 1024,
            max_links: 100_000,
            signing_key: None,
        }
    }
}

impl LinkSettings {
    /// Signs the answers of a listener, so that agents can [pin](super::LinkOverBusConnector::with_pinned_key)
    /// its public half.
    #[must_use]
    pub fn with_signing_key(mut self, key: KeyPair) -> Self {
        self.signing_key = Some(Arc::new(key));
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        let is_wrong = if !(SILENCE.0..=SILENCE.1).contains(&self.silence) {
            "silence must be from 100 ms to an hour"
        } else if self.connect_timeout.is_zero() {
            "connect_timeout must not be zero"
        } else if !(MIN_MESSAGE_BYTES..=MAX_MESSAGE_BYTES).contains(&self.max_message_bytes) {
            "max_message_bytes must be from 1065 bytes to 8 MiB"
        } else if !(1..=MAX_FRAME_BYTES).contains(&self.max_frame_bytes) {
            "max_frame_bytes must be from 1 byte to 8 MiB"
        } else if self.max_half_open == 0 || self.max_links == 0 {
            "max_half_open and max_links must be at least 1"
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Config, "link.settings", is_wrong))
    }

    /// How often to send a sign of life to a peer that wants one at least every `theirs`.
    pub(super) fn ping_every(&self, theirs: Duration) -> Duration {
        self.silence.min(theirs.clamp(SILENCE.0, SILENCE.1)) / 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused() {
        LinkSettings::default().check().unwrap();
        assert_eq!(MIN_MESSAGE_BYTES, 1065, "as documented");
        let change = |change: fn(&mut LinkSettings)| {
            let mut settings = LinkSettings::default();
            change(&mut settings);
            settings.check().unwrap_err().kind()
        };
        assert_eq!(change(|s| s.silence = Duration::from_millis(99)), ErrorKind::Config);
        assert_eq!(change(|s| s.connect_timeout = Duration::ZERO), ErrorKind::Config);
        assert_eq!(change(|s| s.max_message_bytes = 1064), ErrorKind::Config);
        assert_eq!(change(|s| s.max_frame_bytes = MAX_FRAME_BYTES + 1), ErrorKind::Config);
        assert_eq!(change(|s| s.max_half_open = 0), ErrorKind::Config);
    }

    #[test]
    fn an_impatient_peer_gets_no_flood() {
        let settings = LinkSettings::default();
        assert_eq!(settings.ping_every(Duration::ZERO), SILENCE.0 / 3);
        assert_eq!(settings.ping_every(Duration::from_secs(99)), settings.silence / 3);
    }
}
