//! Transports and buses that each break one promise, to prove that the conformance kits notice.

mod bus;
mod transport;

pub use bus::BrokenBus;
pub use transport::BrokenTransport;
