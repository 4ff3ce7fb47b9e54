//! Where heartbeats take the load of the machine from.

use mamos_core::agent::HostLoad;

/// Measures the machine, or says what a test wants it to say.
pub trait LoadSource: Send + Sync + 'static {
    /// What the machine does now. Called once for each heartbeat.
    fn sample(&self) -> HostLoad;
}
