//! Any bus by its URL.

use std::sync::Arc;

use mamos_core::bus::Bus;
use mamos_core::{Error, ErrorKind, Result};

use super::MemoryBus;

const OPEN: &str = "bus.open";

/// Connects to a bus by its URL, with its default settings:
///
/// | URL | bus | feature |
/// |---|---|---|
/// | `memory:` | a [`MemoryBus`] of its own | |
/// | `nats://…`, `tls://…` | `NatsBus` | `nats` |
/// | `redis://…`, `rediss://…` | `RedisBus` | `redis` |
/// | `amqp://…`, `amqps://…` | `AmqpBus` | `amqp` |
///
/// # Errors
///
/// - [`ErrorKind::Config`]: the URL is not one of these, or its server refuses what it says.
/// - [`ErrorKind::Unsupported`]: this program was built without the feature.
/// - Those of the bus.
pub async fn open(url: &str) -> Result<Arc<dyn Bus>> {
    match url.split_once(':').map_or(url, |(scheme, _)| scheme) {
        "memory" => Ok(Arc::new(MemoryBus::new())),
        "amqp" | "amqps" => amqp(url).await,
        "nats" | "tls" => nats(url).await,
        "redis" | "rediss" => redis(url).await,
        // Not the URL itself: it may hold a password.
        _ => {
            let message = "the URL is that of no bus; use nats://…, redis://…, amqp://… or memory:";
            Err(Error::new(ErrorKind::Config, OPEN, message))
        }
    }
}

macro_rules! opener {
    ($name:ident, $feature:literal, $bus:ident, $settings:ident) => {
        #[cfg(feature = $feature)]
        async fn $name(url: &str) -> Result<Arc<dyn Bus>> {
            Ok(Arc::new(super::$bus::connect(super::$settings::new(url)).await?))
        }

        #[cfg(not(feature = $feature))]
        async fn $name(_: &str) -> Result<Arc<dyn Bus>> {
            let message =
                concat!("this program was built without the feature `", $feature, "` of mamos-transport");
            Err(Error::new(ErrorKind::Unsupported, OPEN, message))
        }
    };
}

opener!(nats, "nats", NatsBus, NatsSettings);
opener!(redis, "redis", RedisBus, RedisBusSettings);
opener!(amqp, "amqp", AmqpBus, AmqpSettings);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bus_is_opened_by_its_url_and_what_is_none_is_refused_without_its_secrets() {
        assert_eq!(open("memory:").await.unwrap().describe(), "memory");
        for url in ["", "kafka://user:secret@host", "localhost:4222"] {
            let error = open(url).await.map(|bus| bus.describe()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{url}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
