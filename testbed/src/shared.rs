//! Servers that all tests share.

use std::net::{TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A PostgreSQL in which the user may create schemas: `MAMOS_TEST_POSTGRES`, or the one on the usual port.
///
/// # Panics
///
/// If nothing answers there. The same for the others.
pub fn postgres_url() -> String {
    url("PostgreSQL", "MAMOS_TEST_POSTGRES", "postgres://postgres@127.0.0.1:5432/test")
}

/// A Redis: `MAMOS_TEST_REDIS`, or the one on the usual port.
pub fn redis_url() -> String {
    url("Redis", "MAMOS_TEST_REDIS", "redis://127.0.0.1:6379")
}

/// A NATS with JetStream: `MAMOS_TEST_NATS`, or the one on the usual port.
pub fn nats_url() -> String {
    url("NATS", "MAMOS_TEST_NATS", "nats://127.0.0.1:4222")
}

/// A RabbitMQ: `MAMOS_TEST_AMQP`, or the one on the usual port.
pub fn amqp_url() -> String {
    url("RabbitMQ", "MAMOS_TEST_AMQP", "amqp://guest:guest@127.0.0.1:5672/%2f")
}

/// A name that no other test has, now or in an earlier run: `mamos_test_` and lower-case letters or digits.
pub fn unique_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("mamos_test_{nanos:x}_{:x}_{number:x}", std::process::id())
}

fn url(server: &str, variable: &str, usual: &str) -> String {
    let url = std::env::var(variable).unwrap_or_else(|_| usual.to_owned());
    let address = url.split("://").nth(1).unwrap_or(&url);
    let address = address.split(['/', '?']).next().unwrap_or(address);
    let address = address.rsplit('@').next().unwrap_or(address);
    let answers = address.to_socket_addrs().is_ok_and(|mut found| {
        found.any(|address| TcpStream::connect_timeout(&address, Duration::from_secs(5)).is_ok())
    });
    assert!(
        answers,
        "no {server} answers at {address}; start one there, name another with {variable}, or run \
         scripts/test.sh, which starts what is missing"
    );
    url
}
