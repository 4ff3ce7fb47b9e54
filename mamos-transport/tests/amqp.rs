//! The bus over RabbitMQ keeps every promise of the kit.
#![cfg(feature = "amqp")]

use std::time::Duration;

use mamos_core::bus::Bus;
use mamos_transport::bus::DurableQueues;
use mamos_transport::{AmqpBus, AmqpSettings, bus_conformance};

/// One exchange for all tests: their topics are their own, and what they leave behind is forgotten.
fn settings() -> AmqpSettings {
    let mut settings = AmqpSettings::new(mamos_testbed::amqp_url());
    settings.exchange = "mamos_test".to_owned();
    settings.forget_groups_after = Some(Duration::from_secs(60));
    settings
}

async fn quorum() -> Box<dyn Bus> {
    Box::new(AmqpBus::connect(settings()).await.unwrap())
}

async fn classic() -> Box<dyn Bus> {
    let mut settings = settings();
    settings.durable_queues = DurableQueues::Classic;
    Box::new(AmqpBus::connect(settings).await.unwrap())
}

mod quorum_queues {
    super::bus_conformance!(super::quorum);
}
mod classic_queues {
    super::bus_conformance!(super::classic);
}
