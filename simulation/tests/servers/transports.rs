//! The kit of transports over each of them that needs no HTTP server.

use std::future::Future;
use std::sync::Arc;

use mamos_core::id::TopicName;
use mamos_core::transport::{Connector, MAX_FRAME_BYTES};
use mamos_transport::bus;
use mamos_transport::conformance::Pair;
use mamos_transport::conformance::transport::{PROMISES, check};
use mamos_transport::link_over_bus::{LinkOverBusConnector, LinkOverBusListener, LinkSettings};
use mamos_transport::memory;
use mamos_transport::socket::{TcpFrameConnector, TcpFrameListener, UnixFrameConnector, UnixFrameListener};

use super::{Line, beside, broken, kept};

pub(crate) fn lines() -> Vec<Line> {
    vec![
        beside(|| line("memory", "needs none", in_memory)),
        beside(|| line("Unix socket", "needs none", over_unix)),
        beside(|| line("TCP", "no", over_tcp)),
        beside(|| line("link over NATS", "yes, between the two ends", || over(mamos_testbed::nats_url()))),
        beside(|| line("link over Redis", "yes, between the two ends", || over(mamos_testbed::redis_url()))),
        beside(|| {
            line("link over RabbitMQ", "yes, between the two ends", || over(mamos_testbed::amqp_url()))
        }),
    ]
}

async fn line<F: Future<Output = Pair>>(name: &str, is_sealed: &str, fresh: impl Fn() -> F) -> String {
    let broken = broken(PROMISES.iter().map(|promise| {
        let fresh = fresh();
        async move { check(promise, fresh.await).await.err().map(|broken| broken.promise) }
    }));
    let broken = broken.await;
    let largest = MAX_FRAME_BYTES / 1024 / 1024;
    format!("| {name} | {} | {largest} MiB | {is_sealed} |", kept(PROMISES.len(), &broken))
}

async fn in_memory() -> Pair {
    let (listener, connector) = memory::pair();
    Pair::new(listener, connector)
}

async fn over_unix() -> Pair {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mamos.sock");
    let listener = UnixFrameListener::bind(&path).await.unwrap();
    let connector = UnixFrameConnector::new(&path);
    Pair::new(listener, connector).with_max_frame_bytes(MAX_FRAME_BYTES).keeping(directory)
}

async fn over_tcp() -> Pair {
    let listener = TcpFrameListener::bind("127.0.0.1:0").await.unwrap();
    let connector = TcpFrameConnector::new(listener.local_addr().to_string());
    Pair::new(listener, connector).with_max_frame_bytes(MAX_FRAME_BYTES)
}

async fn over(url: String) -> Pair {
    let settings = LinkSettings {
        hello_topic: TopicName::new(mamos_testbed::unique_name()).unwrap(),
        ..LinkSettings::default()
    };
    let ends = (bus::open(&url).await.unwrap(), bus::open(&url).await.unwrap());
    let listener = LinkOverBusListener::bind(ends.0, settings.clone()).await.unwrap();
    let connector: Arc<dyn Connector> = Arc::new(LinkOverBusConnector::new(ends.1, settings).unwrap());
    Pair::new(listener, connector).with_max_frame_bytes(MAX_FRAME_BYTES)
}
