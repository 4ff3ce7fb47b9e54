//! The routes, a file for each noun.

mod agents;
mod audit;
mod commands;
mod document;
mod events;
mod health;
mod jobs;
mod keys;
mod link_key;
mod login;
mod logs_follow;
mod me;
mod metrics;
mod queues;
mod roles;
mod signing_keys;
mod tokens;
mod users;
mod version;

use crate::guard::Routes;

/// All routes of the API.
pub(crate) fn all(routes: Routes) -> Routes {
    let parts = [
        me::add,
        agents::add,
        tokens::add,
        link_key::add,
        jobs::add,
        queues::add,
        commands::add,
        version::add,
        document::add,
        audit::add,
        signing_keys::add,
        events::add,
        logs_follow::add,
        health::add,
        metrics::add,
    ];
    let routes = parts.into_iter().fold(routes, |routes, add| add(routes));
    if !routes.keeps_users() {
        return routes;
    }
    let parts = [login::add, keys::add, users::add, roles::add];
    parts.into_iter().fold(routes, |routes, add| add(routes))
}
