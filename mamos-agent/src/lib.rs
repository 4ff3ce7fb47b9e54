//! The agent side of MAMOS.

pub mod command;
pub mod host;
pub mod lifecycle;
pub mod load;
pub mod programs;

mod group;
mod proc;

pub use crate::command::CommandRunner;
pub use crate::host::SystemLoad;
pub use crate::load::LoadSource;
pub use crate::programs::SystemPrograms;
pub use crate::programs::load_policy;
