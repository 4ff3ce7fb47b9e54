//! Orchestrators and agents as processes on real databases and brokers, which are stopped, killed and cut
//! off under load. Nothing acknowledged may be lost, nothing settled twice, and work must go on soon after
//! the servers are back.
//!
//! - [`scenario`]: what is done. [`Fleet`]: the processes and servers it is done to.
//! - [`orchestrator`] and [`agent`]: the programs.
//! - The files and the checker are those of [`crash`](crate::crash).

pub mod agent;
pub mod orchestrator;
pub mod scenario;

mod doubled;
mod fleet;
mod links;
mod places;
mod progress;

pub use self::fleet::Fleet;
pub use self::links::Link;
pub use self::scenario::Outcome;
pub use self::scenario::Scenario;
