//! Servers that all tests share.

use std::net::{TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{nats, postgres, rabbitmq, redis};

/// A server that all tests share: named by a variable of the environment, or on its usual port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shared {
    /// A PostgreSQL in which the user may create schemas.
    Postgres,
    /// A Redis.
    Redis,
    /// A NATS with JetStream.
    Nats,
    /// A RabbitMQ.
    Rabbit,
}

impl Shared {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Postgres, Self::Redis, Self::Nats, Self::Rabbit];

    /// Its name, for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Postgres => "PostgreSQL",
            Self::Redis => "Redis",
            Self::Nats => "NATS",
            Self::Rabbit => "RabbitMQ",
        }
    }

    /// The variable of the environment that may name it.
    pub const fn variable(self) -> &'static str {
        match self {
            Self::Postgres => "MAMOS_TEST_POSTGRES",
            Self::Redis => "MAMOS_TEST_REDIS",
            Self::Nats => "MAMOS_TEST_NATS",
            Self::Rabbit => "MAMOS_TEST_AMQP",
        }
    }

    const fn usual(self) -> &'static str {
        match self {
            Self::Postgres => "postgres://postgres@127.0.0.1:5432/test",
            Self::Redis => "redis://127.0.0.1:6379",
            Self::Nats => "nats://127.0.0.1:4222",
            Self::Rabbit => "amqp://guest:guest@127.0.0.1:5672/%2f",
        }
    }

    fn unchecked_url(self) -> String {
        std::env::var(self.variable()).unwrap_or_else(|_| self.usual().to_owned())
    }

    /// Host and port.
    pub fn address(self) -> String {
        let url = self.unchecked_url();
        let address = url.split("://").nth(1).unwrap_or(&url);
        let address = address.split(['/', '?']).next().unwrap_or(address);
        address.rsplit('@').next().unwrap_or(address).to_owned()
    }

    /// Does something take connections there?
    pub fn answers(self) -> bool {
        self.address().to_socket_addrs().is_ok_and(|mut found| {
            found.any(|address| TcpStream::connect_timeout(&address, Duration::from_secs(5)).is_ok())
        })
    }

    /// Could a private one be started?
    pub fn is_installed(self) -> bool {
        match self {
            Self::Postgres => postgres::is_installed(),
            Self::Redis => redis::is_installed(),
            Self::Nats => nats::is_installed(),
            Self::Rabbit => rabbitmq::is_installed(),
        }
    }

    /// Where it is.
    ///
    /// # Panics
    ///
    /// If nothing answers there.
    pub fn url(self) -> String {
        assert!(
            self.answers(),
            "no {} answers at {}; start one there, name another with {}, or run scripts/test.sh, which starts \
             what is missing",
            self.name(),
            self.address(),
            self.variable()
        );
        self.unchecked_url()
    }
}

/// The URL of a PostgreSQL in which the user may create schemas.
///
/// # Panics
///
/// If none answers. The same for the others.
pub fn postgres_url() -> String {
    Shared::Postgres.url()
}

/// The URL of a Redis.
pub fn redis_url() -> String {
    Shared::Redis.url()
}

/// The URL of a NATS with JetStream.
pub fn nats_url() -> String {
    Shared::Nats.url()
}

/// The URL of a RabbitMQ.
pub fn amqp_url() -> String {
    Shared::Rabbit.url()
}

/// A name that no other test has, now or in an earlier run: `mamos_test_` and lower-case letters or digits.
pub fn unique_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    #[expect(clippy::disallowed_methods, reason = "nothing depends on the time, it only makes names differ")]
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("mamos_test_{nanos:x}_{:x}_{number:x}", std::process::id())
}
