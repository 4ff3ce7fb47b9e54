//! The settings, and what follows from them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lapin::uri::{AMQPScheme, AMQPUri};
use mamos_core::Result;
use mamos_core::bus::MAX_MESSAGE_BYTES;
use rustls::ClientConfig;

use super::failure::config;
use super::names;
use crate::bus::tls;

/// How queues of durable groups are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DurableQueues {
    /// Quorum queues: copied to several nodes of a cluster, and on disk before they are confirmed.
    Quorum,
    /// Classic durable queues: on one node. Faster on a single one, lost with it.
    Classic,
}

/// Where RabbitMQ is, and how it is used.
///
/// All programs on one exchange need the same `durable_queues`, `durable_bytes`, `transient_messages`,
/// `transient_bytes` and `forget_groups_after`: they are arguments of queues that they share.
#[derive(Clone)]
pub struct AmqpSettings {
    /// `amqp://USER:PASSWORD@HOST:PORT/VHOST`, or `amqps://` for TLS. A `/` within the name of the virtual host
    /// is written `%2f`; without a path it is the one called `/`. Without a user it is `guest`.
    pub url: String,
    /// The topic exchange, made if it is not there: 1 to 40 bytes of `A-Z a-z 0-9 . _ -`. Default: `mamos`.
    pub exchange: String,
    /// How queues of durable groups are kept. Default: [`DurableQueues::Quorum`].
    pub durable_queues: DurableQueues,
    /// The most bytes that wait in a durable group; beyond that `publish` to its topic is refused. Default:
    /// 1 GiB.
    pub durable_bytes: u64,
    /// Forgets a durable group, with its messages, when nobody was subscribed for so long. At least 1 s. Default:
    /// never.
    pub forget_groups_after: Option<Duration>,
    /// The most messages that wait at the broker for a transient subscription or group; the oldest are dropped
    /// beyond that. Default: 1024.
    pub transient_messages: u32,
    /// The same in bytes; at least 8 MiB. Default: 16 MiB.
    pub transient_bytes: u64,
    /// The most messages that the broker sends ahead to a transient subscription. Default: 128.
    pub prefetch: u16,
    /// The most messages that a durable subscription has and has not acknowledged; it gets no more until it
    /// acknowledges some. Default: 1024.
    pub unacknowledged: u16,
    /// How long to wait for the broker, in `publish`, `subscribe` and when connecting; `publish` waits a second
    /// more for each MiB. Default: 5 s.
    pub timeout: Duration,
    /// How often both ends show that they live; a silence of twice that ends a connection. From 1 s to 600 s.
    /// Default: 10 s.
    pub heartbeat: Duration,
    /// The authorities that may vouch for the broker with `amqps://`, as PEM. Default: the system's.
    pub ca: Option<Vec<u8>>,
}

impl AmqpSettings {
    /// The defaults for this URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            exchange: "mamos".to_owned(),
            durable_queues: DurableQueues::Quorum,
            durable_bytes: 1 << 30,
            forget_groups_after: None,
            transient_messages: 1024,
            transient_bytes: 16 * 1024 * 1024,
            prefetch: 128,
            unacknowledged: 1024,
            timeout: Duration::from_secs(5),
            heartbeat: Duration::from_secs(10),
            ca: None,
        }
    }
}

/// Prints no user and no password.
impl fmt::Debug for AmqpSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpSettings")
            .field("url", &parse(&self.url).map_or_else(|_| "not an AMQP URL".to_owned(), |uri| place(&uri)))
            .field("exchange", &self.exchange)
            .field("durable_queues", &self.durable_queues)
            .field("durable_bytes", &self.durable_bytes)
            .field("forget_groups_after", &self.forget_groups_after)
            .field("transient_messages", &self.transient_messages)
            .field("transient_bytes", &self.transient_bytes)
            .field("prefetch", &self.prefetch)
            .field("unacknowledged", &self.unacknowledged)
            .field("timeout", &self.timeout)
            .field("heartbeat", &self.heartbeat)
            .finish_non_exhaustive()
    }
}

/// Settings that were found to be possible.
pub(super) struct Checked {
    pub(super) settings: AmqpSettings,
    pub(super) uri: AMQPUri,
    /// With `amqps://`.
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// The URL without secrets.
    pub(super) place: String,
}

impl Checked {
    pub(super) fn new(settings: AmqpSettings) -> Result<Self> {
        let mut uri = parse(&settings.url)?;
        if !names::is_exchange(&settings.exchange) {
            let most = names::MAX_EXCHANGE_BYTES;
            return Err(config(format!(
                "the exchange cannot be called {:?}; give 1 to {most} bytes of A-Z a-z 0-9 . _ -, not \
                 beginning with amq.",
                settings.exchange
            )));
        }
        let least = MAX_MESSAGE_BYTES as u64;
        if settings.transient_bytes < least || settings.durable_bytes < least {
            let message =
                format!("transient_bytes and durable_bytes must have room for a message of {least} bytes");
            return Err(config(message));
        }
        if i64::try_from(settings.transient_bytes.max(settings.durable_bytes)).is_err() {
            return Err(config("transient_bytes and durable_bytes must fit in 63 bits"));
        }
        if settings.transient_messages == 0 || settings.prefetch == 0 || settings.unacknowledged == 0 {
            return Err(config("transient_messages, prefetch and unacknowledged must not be 0"));
        }
        if settings
            .forget_groups_after
            .is_some_and(|after| !(1..=u64::from(u32::MAX)).contains(&after.as_secs()))
        {
            return Err(config("forget_groups_after must be at least 1 s, and at most 49 days"));
        }
        if !(1..=600).contains(&settings.heartbeat.as_secs()) || settings.timeout.is_zero() {
            return Err(config("heartbeat must be from 1 s to 600 s, and timeout not 0"));
        }
        // Fits: checked just now.
        uri.query.heartbeat = Some(settings.heartbeat.as_secs() as u16);
        let tls = match uri.scheme {
            AMQPScheme::AMQP => None,
            AMQPScheme::AMQPS => Some(Arc::new(tls::client_config(settings.ca.as_deref())?)),
        };
        let place = place(&uri);
        Ok(Self { settings, uri, tls, place })
    }
}

/// Prints no password.
impl fmt::Debug for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

fn parse(url: &str) -> Result<AMQPUri> {
    // The parser's own message repeats the URL, with the password.
    let wrong = || config("the URL is not of the form amqp://USER:PASSWORD@HOST:PORT/VHOST or amqps://…");
    let mut uri: AMQPUri = url.parse().map_err(|_| wrong())?;
    // The parser takes an IPv6 address for no host at all, and goes to localhost instead.
    let authority = url.split_once("://").map_or("", |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    if let Some(inside) = host.strip_prefix('[') {
        uri.authority.host = inside.split_once(']').ok_or_else(wrong)?.0.to_owned();
    }
    // `amqp://host/` would name the virtual host with the empty name, which nobody has and many write.
    if uri.vhost.is_empty() {
        uri.vhost = "/".to_owned();
    }
    Ok(uri)
}

fn place(uri: &AMQPUri) -> String {
    let (host, port) = (&uri.authority.host, uri.authority.port);
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    format!("{}://{host}:{port}/{}", uri.scheme, uri.vhost.replace('/', "%2f"))
}

#[cfg(test)]
mod tests {
    use mamos_core::ErrorKind;

    use super::*;

    #[test]
    fn the_place_holds_no_secret() {
        for (url, expected) in [
            ("amqp://u:s3cret@broker", "amqp://broker:5672/%2f"),
            ("amqp://u:s3cret@broker/", "amqp://broker:5672/%2f"),
            ("amqp://u:s3cret@broker:1/a%2fb", "amqp://broker:1/a%2fb"),
            ("amqps://u:s3cret@[::1]/v?heartbeat=3", "amqps://[::1]:5671/v"),
        ] {
            let settings = AmqpSettings::new(url);
            assert!(!format!("{settings:?}").contains("s3cret"), "{settings:?}");
            assert_eq!(place(&parse(url).unwrap()), expected);
        }
    }

    #[test]
    fn impossible_settings_are_refused() {
        let change: [fn(&mut AmqpSettings); 9] = [
            |settings| settings.url = "redis://u:s3cret@broker".to_owned(),
            |settings| settings.url = "u:s3cret".to_owned(),
            |settings| settings.url = "amqp://u:s3cret@broker:99999".to_owned(),
            |settings| settings.exchange = "a~b".to_owned(),
            |settings| settings.transient_bytes = 1000,
            |settings| settings.prefetch = 0,
            |settings| settings.heartbeat = Duration::ZERO,
            |settings| settings.forget_groups_after = Some(Duration::ZERO),
            |settings| {
                settings.url = "amqps://u:s3cret@broker".to_owned();
                settings.ca = Some(b"no PEM".to_vec());
            },
        ];
        for (number, change) in change.into_iter().enumerate() {
            let mut settings = AmqpSettings::new("amqp://u:s3cret@broker");
            change(&mut settings);
            let printed = format!("{settings:?}");
            let refused = Checked::new(settings).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Config, "{number}: {refused:?}");
            assert!(!format!("{refused:?} {refused} {printed}").contains("s3cret"), "{number}");
        }
    }
}
