//! The HTTP side of MAMOS: the REST API, live streams, the agents' WebSocket endpoint, users and keys,
//! and metrics.
//!
//! [`router`] gives an [`axum::Router`] that can be served alone or mounted in a program's own with
//! [`nest_service`](axum::Router::nest_service). It is closed by default: every route has a rule,
//! and one place authorises all of them.

#![allow(clippy::result_large_err, reason = "a request makes at most one problem")]

mod access;
mod api;
mod bearer;
mod caller;
mod counters;
mod dto;
mod etag;
mod extract;
mod guard;
mod health;
mod idempotency;
mod layers;
mod link;
mod live;
mod metrics;
mod openapi;
mod page;
mod prefer;
mod problem;
mod routes;
pub mod serve;
mod shared;
mod stream;

pub use crate::access::Access;
pub use crate::access::ApiKey;
pub use crate::access::FailureLimiter;
pub use crate::access::Login;
pub use crate::access::NewKey;
pub use crate::access::Rate;
pub use crate::access::User;
pub use crate::access::UserChange;
pub use crate::access::UserName;
pub use crate::api::Api;
pub use crate::api::ApiBuilder;
pub use crate::api::router;
pub use crate::link::AGENT_LINK_PATH;
pub use crate::link::AgentEndpoint;
pub use crate::link::AgentListener;
pub use crate::link::BINARY_PROTOCOL;
pub use crate::link::TEXT_PROTOCOL;
pub use crate::problem::Problem;
pub use crate::serve::Server;
pub use crate::serve::ServerBuilder;
pub use crate::serve::Tls;
