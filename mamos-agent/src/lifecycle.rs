//! Starts and stops the process that an agent lives in: a child process, or a task of this one.

mod child;
mod task;

pub use self::child::ChildProcess;
pub use self::task::LocalTask;
