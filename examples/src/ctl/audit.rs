//! `mamosctl audit`: who did what.

use clap::Args;

use super::client::Client;
use super::ending::Ending;
use super::output::Output;
use super::table::Column;
use super::trouble::Trouble;

const COLUMNS: [Column; 6] = [
    ("at", "at"),
    ("principal", "principal"),
    ("action", "action"),
    ("target", "target"),
    ("outcome", "outcome"),
    ("detail", "detail"),
];

#[derive(Debug, Args)]
pub(super) struct AuditOrder {
    /// Only what this one did, for example user:ann
    #[arg(long)]
    principal: Option<String>,
    /// Only this, for example command.run
    #[arg(long)]
    action: Option<String>,
    /// Only what was done to this
    #[arg(long)]
    target: Option<String>,
    /// Only what ended so
    #[arg(long)]
    outcome: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

pub(super) async fn run(order: AuditOrder, client: &Client, output: &Output) -> Result<Ending, Trouble> {
    let AuditOrder { principal, action, target, outcome, limit } = order;
    let named = [("principal", principal), ("action", action), ("target", target), ("outcome", outcome)];
    let filters: Vec<_> = named.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let items = client.list(&["audit"], &filters, limit, "read the audit log").await?;
    output.list(&COLUMNS, &items)?;
    Ok(Ending::Fine)
}
