//! The baselines: the least code that moves the same bytes with the broker's own client.

pub(super) mod amqp;
pub(super) mod nats;
pub(super) mod redis;
