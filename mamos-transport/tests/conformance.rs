//! Every built-in transport and bus keeps every promise of its kit.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use mamos_core::bus::Bus;
use mamos_core::transport::MAX_FRAME_BYTES;
use mamos_transport::bus::MemoryBus;
use mamos_transport::conformance::Pair;
use mamos_transport::encoded::{Encoded, Writing};
use mamos_transport::faulty::{FaultPlan, Faults, Faulty};
use mamos_transport::socket::{TcpFrameConnector, TcpFrameListener, UnixFrameConnector, UnixFrameListener};
use mamos_transport::{bus_conformance, memory, transport_conformance};

async fn in_memory() -> Pair {
    let (listener, connector) = memory::pair();
    Pair::new(listener, connector)
}

async fn encoded() -> Pair {
    let (listener, connector) = memory::pair_with_capacity(2);
    let (listener, connector) =
        (Encoded::new(listener, Writing::Alternating), Encoded::new(connector, Writing::Text));
    Pair::new(listener, connector).with_max_frame_bytes(MAX_FRAME_BYTES)
}

async fn over_tcp() -> Pair {
    let listener = TcpFrameListener::bind("127.0.0.1:0").await.unwrap();
    let connector = TcpFrameConnector::new(listener.local_addr().to_string());
    Pair::new(listener, connector).with_max_frame_bytes(MAX_FRAME_BYTES)
}

async fn over_a_unix_socket() -> Pair {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mamos.sock");
    let listener = UnixFrameListener::bind(&path).await.unwrap().with_max_frame_bytes(3_000_000);
    let connector = UnixFrameConnector::new(&path).with_max_frame_bytes(3_000_000);
    Pair::new(listener, connector).with_max_frame_bytes(3_000_000).keeping(directory)
}

async fn over_a_bad_network() -> Pair {
    let plan = FaultPlan::new(7);
    plan.set(Faults::bad());
    let (listener, connector) = memory::pair();
    Pair::new(Faulty::new(listener, plan.clone()), Faulty::new(connector, plan))
}

async fn bus_in_memory() -> Box<dyn Bus> {
    Box::new(MemoryBus::new())
}

mod memory_transport {
    super::transport_conformance!(super::in_memory);
}
mod encoded_transport {
    super::transport_conformance!(super::encoded);
}
mod tcp {
    super::transport_conformance!(super::over_tcp);
}
mod unix {
    super::transport_conformance!(super::over_a_unix_socket);
}
mod bad_network {
    super::transport_conformance!(super::over_a_bad_network);
}
mod memory_bus {
    super::bus_conformance!(super::bus_in_memory);
}
