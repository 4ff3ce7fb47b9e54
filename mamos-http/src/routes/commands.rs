//! Commands: the whitelist in force.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use mamos_core::CommandId;
use mamos_core::auth::Permission;
use mamos_core::whitelist::Whitelist;
use utoipa_axum::routes;

use crate::dto::command::{Command, Commands};
use crate::etag;
use crate::extract::Id;
use crate::guard::{Routes, Rule};
use crate::problem::Problem;
use crate::shared::Shared;

pub(crate) fn add(routes: Routes) -> Routes {
    let read = Rule::needs(Permission::Read);
    routes.add(routes!(list_commands), read).add(routes!(show_command), read)
}

/// Lists the commands that the whitelist permits. All of them: there are at most 1024.
#[utoipa::path(get, path = "/api/v1/commands", tag = "commands", responses(
    (status = 200, description = "The whitelist in force", body = Commands, headers(("ETag" = String))),
    (status = 304, description = "It is as the caller has it"),
))]
async fn list_commands(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let whitelist = shared.orchestrator.whitelist();
    let items = whitelist.commands().iter().map(|id| described(whitelist.as_ref(), id)).collect();
    etag::answer(&headers, &Commands { digest: whitelist.digest(), items })
}

/// Shows what a command takes.
#[utoipa::path(get, path = "/api/v1/commands/{command}", tag = "commands",
    params(("command" = String, Path, description = "Its id")), responses(
    (status = 200, description = "The command", body = Command, headers(("ETag" = String))),
    (status = 304, description = "It is as the caller has it"),
))]
async fn show_command(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<CommandId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let whitelist = shared.orchestrator.whitelist();
    if !whitelist.commands().contains(&id) {
        return Err(Problem::not_found(format!("command {id} is not on the whitelist")));
    }
    Ok(etag::answer(&headers, &described(whitelist.as_ref(), &id)))
}

fn described(whitelist: &dyn Whitelist, id: &CommandId) -> Command {
    whitelist.describe(id).map_or_else(|| Command::bare(id.to_string()), Command::from)
}
