//! The servers that tests run against.
//!
//! Two sorts. **Shared** ones are named by the environment or stand on their usual ports
//! ([`postgres_url`] and its neighbours); a test keeps to a schema, prefix or topic of its own there, and
//! never stops them. **Private** ones ([`PostgresServer`] and its neighbours) are started by a test on a
//! free port, with their files in a temporary directory, so that the test can stop, kill and pause them;
//! they end when they are dropped.
//!
//! A server that is missing is a panic that says what to do, never a test that passes quietly.

mod agents;
mod disk;
mod nats;
mod postgres;
mod process;
mod rabbitmq;
mod redis;
mod shared;

pub use crate::agents::{nats_agent_config, redis_agent_acl};
pub use crate::disk::SmallDisk;
pub use crate::nats::NatsServer;
pub use crate::postgres::{PostgresSchema, PostgresServer};
pub use crate::process::free_port;
pub use crate::rabbitmq::RabbitServer;
pub use crate::redis::RedisServer;
pub use crate::shared::Shared;
pub use crate::shared::amqp_url;
pub use crate::shared::nats_url;
pub use crate::shared::postgres_url;
pub use crate::shared::redis_url;
pub use crate::shared::unique_name;
