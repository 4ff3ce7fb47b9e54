//! Streams, figures, health and serving, from outside.

#![expect(clippy::unwrap_used, reason = "tests")]

mod events;
mod figures;
mod logs;
mod scene;
mod serving;
