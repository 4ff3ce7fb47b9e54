//! How to reach a NATS, and as whom.

use std::fmt;
use std::time::Duration;

use async_nats::{ConnectOptions, ServerAddr};
use mamos_core::{Error, ErrorKind, Result};

use super::super::tls;

/// How to reach a NATS, and as whom. Never prints a secret.
#[derive(Clone)]
pub struct NatsSettings {
    /// Where the servers are, for example `nats://127.0.0.1:4222`, or `tls://…` to insist on TLS. Servers of one
    /// cluster are separated by commas. May hold `user:password@`, or `token@`.
    pub url: String,
    /// As whom. Default: what the URL says, or nobody.
    pub credentials: NatsCredentials,
    /// The certificates (PEM) of the authorities to trust; `None` for the system's. Used with `tls://`.
    pub ca_pem: Option<String>,
    /// The first token of every subject, and of the names of streams: `A-Z a-z 0-9 _ -`. Programs with
    /// different prefixes do not meet. Default: `mamos`.
    pub prefix: String,
    /// Where the server's answers go: a user with permissions needs to publish and subscribe below it.
    /// Default: `_INBOX`.
    pub inbox_prefix: String,
    /// How long `publish` waits for the server before it says `Unavailable`; the same for connecting and
    /// subscribing. Default: 5 s.
    pub publish_timeout: Duration,
    /// When a durable message is delivered again although its subscription said nothing: its process died
    /// or is cut off. Subscriptions that live keep their messages for longer by themselves. Applies when a
    /// group is made. Default: 10 s.
    pub redeliver_after: Duration,
    /// The most messages of a durable topic that are not acknowledged by all groups; beyond that `publish`
    /// is refused with `LimitExceeded`. Applies when a topic is made. Default: 65 536.
    pub durable_messages: u32,
    /// On how many servers of a cluster a durable topic is kept. Applies when it is made. Default: 1.
    pub replicas: usize,
}

/// As whom to connect.
#[derive(Clone, Default)]
pub enum NatsCredentials {
    /// As the URL says.
    #[default]
    Url,
    /// With a user and a password.
    User {
        /// The user.
        user: String,
        /// Its password.
        password: String,
    },
    /// With a token.
    Token(String),
    /// With the seed of an nkey (`SU…`).
    NkeySeed(String),
    /// With the text of a `.creds` file: a JWT and the seed of its key.
    Creds(String),
}

impl NatsSettings {
    /// The defaults, with a server.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            credentials: NatsCredentials::Url,
            ca_pem: None,
            prefix: "mamos".to_owned(),
            inbox_prefix: "_INBOX".to_owned(),
            publish_timeout: Duration::from_secs(5),
            redeliver_after: Duration::from_secs(10),
            durable_messages: 65_536,
            replicas: 1,
        }
    }

    pub(super) fn servers(&self) -> Result<Vec<ServerAddr>> {
        let parse = |url: &str| {
            // The error of the parser would repeat the URL, which may hold a password.
            url.trim().parse().map_err(|_| {
                wrong("the URL of NATS cannot be understood; expected nats://host:port or tls://host:port")
            })
        };
        let servers: Vec<ServerAddr> = self.url.split(',').map(parse).collect::<Result<_>>()?;
        match servers.iter().find(|server| !matches!(server.scheme(), "nats" | "tls")) {
            None if servers.iter().any(|server| server.host().is_empty()) => {
                Err(wrong("the URL of NATS names no host"))
            }
            None => Ok(servers),
            Some(other) => {
                let scheme = other.scheme();
                Err(wrong(&format!("NATS is reached with nats:// or tls://, not with {scheme}://")))
            }
        }
    }

    pub(super) fn options(&self, servers: &[ServerAddr]) -> Result<ConnectOptions> {
        let is_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if self.prefix.is_empty() || self.prefix.len() > 64 || !self.prefix.chars().all(is_token) {
            return Err(wrong("the prefix must be 1 to 64 of A-Z a-z 0-9 _ -"));
        }
        if self.inbox_prefix.is_empty()
            || !self.inbox_prefix.split('.').all(|token| !token.is_empty() && token.chars().all(is_token))
        {
            return Err(wrong("the prefix of inboxes must be tokens of A-Z a-z 0-9 _ - with dots between"));
        }
        let options = match &self.credentials {
            NatsCredentials::Url => of_url(servers)?,
            NatsCredentials::User { user, password } => {
                ConnectOptions::with_user_and_password(user.clone(), password.clone())
            }
            NatsCredentials::Token(token) => ConnectOptions::with_token(token.clone()),
            NatsCredentials::NkeySeed(seed) => ConnectOptions::with_nkey(seed.clone()),
            NatsCredentials::Creds(text) => ConnectOptions::with_credentials(text)
                .map_err(|_| wrong("the credentials are not the text of a .creds file of NATS"))?,
        };
        let options = options
            .name("mamos")
            .custom_inbox_prefix(&self.inbox_prefix)
            .connection_timeout(self.publish_timeout)
            .request_timeout(Some(self.publish_timeout))
            .ping_interval(PING_EVERY)
            .reconnect_delay_callback(pause);
        // Always given, so that the client never asks for, or installs, a provider of the process.
        let options =
            options.tls_client_config(tls::client_config(self.ca_pem.as_deref().map(str::as_bytes))?);
        Ok(options.require_tls(servers.iter().any(ServerAddr::tls_required)))
    }
}

impl fmt::Debug for NatsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsSettings")
            .field("prefix", &self.prefix)
            .field("inbox_prefix", &self.inbox_prefix)
            .field("credentials", &self.credentials)
            .field("publish_timeout", &self.publish_timeout)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for NatsCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Url => "Url",
            Self::User { .. } => "User",
            Self::Token(_) => "Token",
            Self::NkeySeed(_) => "NkeySeed",
            Self::Creds(_) => "Creds",
        })
    }
}

/// As whom the URL says: the first of its servers that says it. The client itself does not look there.
fn of_url(servers: &[ServerAddr]) -> Result<ConnectOptions> {
    let Some(server) = servers.iter().find(|server| server.username().is_some()) else {
        return Ok(ConnectOptions::new());
    };
    let decoded = |text: &str| {
        percent_decoded(text).ok_or_else(|| {
            wrong("the user or password in the URL of NATS is not UTF-8, or a % in it is not %25")
        })
    };
    let user = decoded(server.username().unwrap_or_default())?;
    Ok(match server.password() {
        Some(password) => ConnectOptions::with_user_and_password(user, decoded(password)?),
        // As other clients of NATS read it.
        None => ConnectOptions::with_token(user),
    })
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, others)) = rest.split_first() {
        rest = others;
        bytes.push(match first {
            b'%' => {
                let (digits, others) = rest.split_at_checked(2)?;
                rest = others;
                let digit = |byte: u8| char::from(byte).to_digit(16);
                u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// The third ping without an answer ends a connection whose other end is gone without a word.
const PING_EVERY: Duration = Duration::from_secs(5);
/// Work goes on within 5 s of the server's return, so the pauses stay well below that.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

fn pause(attempts: usize) -> Duration {
    let doublings = u32::try_from(attempts).unwrap_or(u32::MAX).min(6);
    (Duration::from_millis(20) * 2_u32.pow(doublings)).min(LONGEST_PAUSE)
}

fn wrong(message: &str) -> Error {
    Error::new(ErrorKind::Config, "bus.connect", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_url_writes_with_percent_signs_is_read() {
        assert_eq!(percent_decoded("a%40b%3F%C3%A9").as_deref(), Some("a@b?é"));
        for broken in ["%", "%4", "%zz", "%ff", "a%+1"] {
            assert_eq!(percent_decoded(broken), None, "{broken}");
        }
    }
}
