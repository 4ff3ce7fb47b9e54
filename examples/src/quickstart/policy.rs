//! The whitelist of the quickstart: `examples/quickstart/whitelist.toml`, built into the program so
//! that it runs from anywhere. A program of your own loads a file with `mamos_agent::load_policy`.

use std::sync::Arc;

use anyhow::{Context, Result};
use mamos_agent::SystemPrograms;
use mamos_core::auth::Principal;
use mamos_core::whitelist::policy::Policy;

const TEXT: &str = include_str!("../../quickstart/whitelist.toml");

/// Reads the whitelist, and looks at each program that it names.
pub(super) fn load() -> Result<Arc<Policy>> {
    let policy = Policy::parse(TEXT, "whitelist.toml", &SystemPrograms);
    policy.map(Arc::new).context("the whitelist does not fit this machine")
}

/// Who asks for commands here: a person with the role that the whitelist allows.
pub(super) fn operator() -> Principal {
    Principal::new("user:you", ["operator"])
}
