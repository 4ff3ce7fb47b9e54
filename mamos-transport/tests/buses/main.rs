//! The buses over brokers, against real servers. More of RabbitMQ is in `amqp.rs` and `amqp_faults.rs`.

#![cfg(all(feature = "nats", feature = "redis", feature = "amqp"))]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod certificates;
mod common;
mod hanging;
mod nats;
mod nats_strangers;
mod nats_users;
mod redis;
mod tls;
