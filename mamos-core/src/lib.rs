//! The core of MAMOS, an embeddable orchestration library.
//!
//! A program that embeds it becomes an **orchestrator**: it keeps jobs and agents in a store and hands
//! jobs to **agents**, in the same process or on other machines, over a transport. This crate holds the
//! nouns, the rules, the ports and the engine. It opens no socket, file or database: `mamos-store`,
//! `mamos-transport` and `mamos-agent` do, behind the ports.
//!
//! - The nouns: [`job`], [`agent`], [`lease`], [`id`], [`clock`].
//! - The rules, pure functions: [`job::state`], [`job::retry`], [`job::rules`], [`agent::state`].
//! - The ports: [`store`], [`hint`], [`transport`], [`bus`], [`auth`], [`whitelist`], [`lifecycle`], [`agent::Agent`].
//! - The [`protocol`] between the two sides.
//! - The engine: [`orchestrator`].

pub mod agent;
pub mod audit;
pub mod auth;
pub mod bus;
pub mod clock;
pub mod error;
pub mod event;
pub mod hint;
pub mod id;
pub mod job;
pub mod lease;
pub mod lifecycle;
pub mod orchestrator;
pub mod protocol;
pub mod store;
pub mod transport;
pub mod whitelist;

mod table;
mod wire;

pub use crate::agent::Agent;
pub use crate::clock::Timestamp;
pub use crate::error::Error;
pub use crate::error::ErrorKind;
pub use crate::error::Result;
pub use crate::id::AgentId;
pub use crate::id::AgentKind;
pub use crate::id::CommandId;
pub use crate::id::JobId;
pub use crate::id::JobKind;
pub use crate::id::QueueName;
pub use crate::id::SessionId;
pub use crate::job::Job;
pub use crate::job::state::JobState;
pub use crate::lifecycle::Lifecycle;
pub use crate::orchestrator::Orchestrator;
pub use crate::store::Store;
pub use crate::whitelist::Whitelist;
