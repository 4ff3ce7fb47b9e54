//! Any bus by its URL.

use std::sync::Arc;

use mamos_core::bus::Bus;
use mamos_core::{Error, ErrorKind, Result};

use super::MemoryBus;

const OPEN: &str = "bus.open";

/// Connects to a bus by its URL, with its default settings but for what the URL says:
///
/// | URL | bus | feature |
/// |---|---|---|
/// | `memory:` | a [`MemoryBus`] of its own | |
/// | `nats://…`, `tls://…` | `NatsBus` | `nats` |
/// | `redis://…`, `rediss://…` | `RedisBus` | `redis` |
/// | `amqp://…`, `amqps://…` | `AmqpBus` | `amqp` |
///
/// At the end of the URL, after `?` and with `&` between, may stand, as they are:
///
/// | parameter | default | |
/// |---|---|---|
/// | `prefix=NAME` | `mamos` | programs with different prefixes do not meet; the name of the exchange with RabbitMQ |
/// | `ca=FILE` | the system's | PEM of the authorities that may vouch for the broker |
/// | `inbox_prefix=NAME` | `_INBOX` | where the answers of NATS go, if its permissions say so |
/// | `creds=FILE` | | who this is for NATS: a `.creds` file, with a JWT and the seed of its key |
/// | `nkey=FILE` | | the same: a file with the seed of an nkey |
///
/// # Errors
///
/// - [`ErrorKind::Config`]: the URL is not one of these, or its server refuses what it says.
/// - [`ErrorKind::Unsupported`]: this program was built without the feature.
/// - Those of the bus.
pub async fn open(url: &str) -> Result<Arc<dyn Bus>> {
    match url.split_once(':').map_or(url, |(scheme, _)| scheme) {
        "memory" => Ok(Arc::new(MemoryBus::new())),
        "amqp" | "amqps" => amqp(Wish::read(url)?).await,
        "nats" | "tls" => nats(Wish::read(url)?).await,
        "redis" | "rediss" => redis(Wish::read(url)?).await,
        // Not the URL itself: it may hold a password.
        _ => {
            let message = "the URL is that of no bus; use nats://…, redis://…, amqp://… or memory:";
            Err(config(message))
        }
    }
}

/// What a URL says.
#[cfg_attr(
    not(all(feature = "nats", feature = "redis", feature = "amqp")),
    allow(dead_code, reason = "each bus takes what it knows")
)]
struct Wish {
    /// The URL without the parameters.
    url: String,
    prefix: Option<String>,
    ca: Option<String>,
    inbox_prefix: Option<String>,
    /// Secrets.
    creds: Option<String>,
    nkey: Option<String>,
}

impl Wish {
    fn read(url: &str) -> Result<Self> {
        let (url, parameters) = url.split_once('?').unwrap_or((url, ""));
        let is_nats = matches!(url.split_once(':'), Some(("nats" | "tls", _)));
        let mut wish =
            Self { url: url.to_owned(), prefix: None, ca: None, inbox_prefix: None, creds: None, nkey: None };
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            let value = |value: &str| Some(value.to_owned());
            match parameter.split_once('=') {
                Some(("prefix", name)) => wish.prefix = value(name),
                Some(("inbox_prefix", name)) if is_nats => wish.inbox_prefix = value(name),
                Some(("creds", path)) if is_nats => wish.creds = Some(content("creds", path)?),
                Some(("nkey", path)) if is_nats => wish.nkey = Some(content("nkey", path)?),
                Some(("ca", path)) => wish.ca = Some(content("ca", path)?),
                // Not the parameter itself: what comes after a `?` in a password would be shown.
                _ => {
                    return Err(config(
                        "after the `?` of the URL of a bus can stand prefix=NAME, ca=FILE and, for NATS, \
                         inbox_prefix=NAME, creds=FILE and nkey=FILE; a `?` in a password is written %3F",
                    ));
                }
            }
        }
        Ok(wish)
    }
}

fn content(parameter: &str, path: &str) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| {
        config(&format!("the file of `{parameter}`, {path}, cannot be read")).with_source(error)
    })
}

fn config(message: &str) -> Error {
    Error::new(ErrorKind::Config, OPEN, message)
}

#[cfg(feature = "nats")]
async fn nats(wish: Wish) -> Result<Arc<dyn Bus>> {
    use super::nats::NatsCredentials;

    let mut settings = super::NatsSettings::new(wish.url);
    settings.prefix = wish.prefix.unwrap_or(settings.prefix);
    settings.inbox_prefix = wish.inbox_prefix.unwrap_or(settings.inbox_prefix);
    settings.ca_pem = wish.ca;
    settings.credentials = match (wish.creds, wish.nkey) {
        (None, None) => NatsCredentials::Url,
        (Some(creds), None) => NatsCredentials::Creds(creds),
        (None, Some(seed)) => NatsCredentials::NkeySeed(seed.trim().to_owned()),
        (Some(_), Some(_)) => return Err(config("a bus over NATS takes one of creds=FILE and nkey=FILE")),
    };
    Ok(Arc::new(super::NatsBus::connect(settings).await?))
}

#[cfg(feature = "redis")]
async fn redis(wish: Wish) -> Result<Arc<dyn Bus>> {
    let mut settings = super::RedisBusSettings::new(wish.url);
    settings.prefix = wish.prefix.unwrap_or(settings.prefix);
    settings.ca_pem = wish.ca;
    Ok(Arc::new(super::RedisBus::connect(settings).await?))
}

#[cfg(feature = "amqp")]
async fn amqp(wish: Wish) -> Result<Arc<dyn Bus>> {
    let mut settings = super::AmqpSettings::new(wish.url);
    settings.exchange = wish.prefix.unwrap_or(settings.exchange);
    settings.ca = wish.ca.map(String::into_bytes);
    Ok(Arc::new(super::AmqpBus::connect(settings).await?))
}

macro_rules! without {
    ($name:ident, $feature:literal) => {
        #[cfg(not(feature = $feature))]
        async fn $name(_: Wish) -> Result<Arc<dyn Bus>> {
            let message =
                concat!("this program was built without the feature `", $feature, "` of mamos-transport");
            Err(Error::new(ErrorKind::Unsupported, OPEN, message))
        }
    };
}

without!(nats, "nats");
without!(redis, "redis");
without!(amqp, "amqp");

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bus_is_opened_by_its_url_and_what_is_none_is_refused_without_its_secrets() {
        assert_eq!(open("memory:").await.unwrap().describe(), "memory");
        for url in [
            "",
            "kafka://user:secret@host",
            "localhost:4222",
            "nats://user:x?secret@host",
            "redis://host?inbox_prefix=secret",
            "nats://host?prefx=secret",
            "amqp://user:secret@host?ca=/nowhere/ca.pem",
        ] {
            let error = open(url).await.map(|bus| bus.describe()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{url}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn the_url_says_what_else_is_wished() {
        let wish = Wish::read("nats://user:x@a,nats://b?prefix=one&inbox_prefix=_INBOX.a").unwrap();
        assert_eq!(wish.url, "nats://user:x@a,nats://b");
        assert_eq!((wish.prefix.as_deref(), wish.inbox_prefix.as_deref()), (Some("one"), Some("_INBOX.a")));
        assert!(wish.ca.is_none());
    }
}
