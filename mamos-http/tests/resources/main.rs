//! The resources of the API, called through its router over the memory store. Every answer is checked
//! against the OpenAPI document.

#![expect(clippy::unwrap_used, reason = "tests")]

mod agents;
mod commands;
mod document;
mod durable;
mod hostile;
mod idempotency;
mod jobs;
mod lists;
mod logs;
mod mounted;
mod scene;
