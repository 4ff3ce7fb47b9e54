//! The agent side of MAMOS: what runs jobs.
//!
//! An **agent** is anything that implements [`Agent`](mamos_core::Agent): a [`HandlerRegistry`] of typed
//! handlers, a runner of commands, or something of your own. The [`AgentRuntime`] gives any of them a
//! link to an orchestrator, heartbeats, and a [`Journal`].
//!
//! 1. Write a handler: an `async fn(J, JobContext) -> Result<J::Output, JobError>`, and
//!    [register](HandlerRegistry::register) it. [`JobError`] has the four honest ways to end other than
//!    by success; `?` means retry.
//! 2. Test it with [`testing::run_once`], without an orchestrator.
//! 3. Build an [`AgentRuntime`] with a connector, a registration token and, if who it is and its results must
//!    survive the process, a [state directory](AgentRuntimeBuilder::state_directory).
//! 4. [Run](AgentRuntime::run) it until you decide to stop. An [`AgentHandle`] shows what it is doing.
//!
//! What the agent promises: at most `slots` attempts at once; a result is reported until the orchestrator
//! has it on record; a run that the orchestrator took away is stopped and not reported; a command is on
//! disk before it is spawned. What it cannot promise: that an attempt happens once. Pass
//! [`JobContext::run_ref`] on as a fencing token where that matters.

pub mod command;
pub mod host;
pub mod lifecycle;
pub mod testing;

mod attempt;
mod group;
mod identity;
mod journal;
mod load;
mod lock;
mod proc;
mod programs;
mod registry;
mod runtime;

pub use crate::command::CommandRunner;
pub use crate::host::SystemLoad;
pub use crate::identity::Identity;
pub use crate::journal::Journal;
pub use crate::load::LoadSource;
pub use crate::programs::SystemPrograms;
pub use crate::programs::load_policy;
pub use crate::registry::Handler;
pub use crate::registry::HandlerRegistry;
pub use crate::registry::JobContext;
pub use crate::registry::JobError;
pub use crate::runtime::AgentHandle;
pub use crate::runtime::AgentRuntime;
pub use crate::runtime::AgentRuntimeBuilder;
pub use crate::runtime::AgentStatus;
pub use crate::runtime::StopReason;
pub use crate::runtime::Stopped;
pub use crate::runtime::WhenCutOff;
