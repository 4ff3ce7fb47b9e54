//! How busy the machine is, as heartbeats carry it.

use mamos_core::agent::HostLoad;

/// Measures the machine that an agent runs on.
///
/// Called on a blocking thread, never by two threads at once, so it may read files and take its time; a
/// slow source delays only its own next sample, never a heartbeat.
pub trait LoadSource: Send + Sync + 'static {
    /// Takes a sample.
    fn sample(&self) -> HostLoad;
}
