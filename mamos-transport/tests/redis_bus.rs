//! The bus over Redis, against a real server.

#![cfg(feature = "redis")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use mamos_core::bus::Bus;
use mamos_testbed::{redis_url, unique_name};
use mamos_transport::bus::{RedisBus, RedisBusSettings};

async fn fresh() -> Box<dyn Bus> {
    let settings = RedisBusSettings { prefix: unique_name(), ..RedisBusSettings::new(redis_url()) };
    Box::new(RedisBus::connect(settings).await.unwrap())
}

mod kit {
    mamos_transport::bus_conformance!(super::fresh);
}
