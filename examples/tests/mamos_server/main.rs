//! `mamos-server` starts, serves, reloads, stops and comes back as `docs/operating.md` says.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod ctl;
mod keeping;
mod life;
mod place;
mod reload;
mod settings;
