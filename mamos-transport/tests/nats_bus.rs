//! The bus over NATS, against a real server.

#![cfg(feature = "nats")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use mamos_core::bus::Bus;
use mamos_testbed::{nats_url, unique_name};
use mamos_transport::bus::{NatsBus, NatsSettings};

async fn fresh() -> Box<dyn Bus> {
    let settings = NatsSettings { prefix: unique_name(), ..NatsSettings::new(nats_url()) };
    Box::new(NatsBus::connect(settings).await.unwrap())
}

mod kit {
    mamos_transport::bus_conformance!(super::fresh);
}
