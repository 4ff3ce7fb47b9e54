//! The engine, seen from both sides: through its handle, and through the link of a scripted agent.

#![expect(clippy::unwrap_used, reason = "tests")]

mod identity;
mod jobs;
mod links;
mod neighbours;
mod operators;
mod scene;
