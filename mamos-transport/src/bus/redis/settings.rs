//! How to reach a Redis, and as whom.

use std::fmt;
use std::time::Duration;

/// How to reach a Redis, and as whom. Never prints a secret.
#[derive(Clone)]
pub struct RedisBusSettings {
    /// Where the server is: `redis://[user:password@]host:port[/database]`, or `rediss://…` for TLS.
    pub url: String,
    /// The certificates (PEM) of the authorities to trust; `None` for the system's. Used with `rediss://`.
    pub ca_pem: Option<String>,
    /// The first part of every key and channel: `A-Z a-z 0-9 _ -`. Programs with different prefixes do not
    /// meet. Default: `mamos`.
    pub prefix: String,
    /// How long `publish` waits for the server before it says `Unavailable`; the same for connecting and
    /// subscribing. Default: 5 s.
    pub publish_timeout: Duration,
    /// When the messages of a subscription are given to another because it gave no sign of life: its
    /// process died or is cut off. Default: 10 s.
    pub redeliver_after: Duration,
    /// The most messages of a durable topic that are not acknowledged by all groups; beyond that `publish`
    /// is refused with `LimitExceeded`. Default: 65 536.
    pub durable_messages: u32,
}

impl RedisBusSettings {
    /// The defaults, with a server.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ca_pem: None,
            prefix: "mamos".to_owned(),
            publish_timeout: Duration::from_secs(5),
            redeliver_after: Duration::from_secs(10),
            durable_messages: 65_536,
        }
    }
}

impl fmt::Debug for RedisBusSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBusSettings")
            .field("prefix", &self.prefix)
            .field("publish_timeout", &self.publish_timeout)
            .field("redeliver_after", &self.redeliver_after)
            .finish_non_exhaustive()
    }
}
