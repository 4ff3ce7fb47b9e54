//! Registration tokens.

use std::collections::BTreeMap;
use std::time::Duration;

use garde::Validate;
use mamos_core::AgentKind;
use mamos_core::auth::{RegistrationToken, Secret};
use mamos_core::job::labels::Labels;
use mamos_core::orchestrator::TokenScope;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{labels, unique_labels};

/// The longest that a registration token may be good, in milliseconds: a year.
const MAX_VALID_MS: u64 = 365 * 24 * 3600 * 1000;

/// A registration token: what admits new agents.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RegistrationToken)]
pub(crate) struct Token {
    /// Names it, for listing and deleting. Not secret.
    #[schema(format = "uuid")]
    id: String,
    /// Good until then.
    #[schema(format = DateTime)]
    expires_at: String,
    /// How many agents it still admits.
    uses_left: u32,
    /// Admits agents of this kind only.
    agent_kind: Option<String>,
    /// Admits only agents that name themselves so.
    agent_name: Option<String>,
    /// The operator's labels of the agents that it admits.
    labels: BTreeMap<String, String>,
    /// When it was made.
    #[schema(format = DateTime)]
    created_at: String,
}

/// A registration token that was just made.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CreatedRegistrationToken)]
pub(crate) struct CreatedToken {
    #[serde(flatten)]
    token: Token,
    /// What the agent must show. Shown now and never again: null when the answer is replayed for its
    /// Idempotency-Key. Delete the token then, and make another.
    #[serde(rename = "token")]
    secret: Option<String>,
}

impl From<&RegistrationToken> for Token {
    fn from(token: &RegistrationToken) -> Self {
        Self {
            id: token.id.to_string(),
            expires_at: token.expires_at.to_string(),
            uses_left: token.uses_left,
            agent_kind: token.agent_kind.as_ref().map(ToString::to_string),
            agent_name: token.agent_name.clone(),
            labels: labels(&token.labels),
            created_at: token.created_at.to_string(),
        }
    }
}

impl CreatedToken {
    pub(crate) fn new(token: &RegistrationToken, secret: &Secret) -> Self {
        Self { token: token.into(), secret: Some(secret.expose().to_owned()) }
    }
}

/// A wish for a registration token.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
#[schema(as = RegistrationTokenWish, example = json!({"uses": 1, "valid_for_ms": 3_600_000, "agent_kind": "web", "labels": {"group": "blue"}}))]
pub(crate) struct TokenWish {
    /// How many agents it admits.
    #[serde(default = "one")]
    #[garde(range(min = 1, max = 10_000))]
    #[schema(minimum = 1, maximum = 10_000, default = 1)]
    uses: u32,
    /// For how long it is good. At most a year.
    #[garde(range(min = 1, max = MAX_VALID_MS))]
    #[schema(minimum = 1, maximum = 31_536_000_000_u64)]
    valid_for_ms: u64,
    /// Agents of this kind only.
    #[serde(default)]
    #[schema(value_type = Option<String>, max_length = 128)]
    agent_kind: Option<AgentKind>,
    /// Only agents that name themselves so.
    #[serde(default)]
    #[garde(length(bytes, min = 1, max = 128))]
    #[schema(min_length = 1, max_length = 128)]
    agent_name: Option<String>,
    /// The operator's labels of the agents that it admits. At most 64.
    #[serde(default, deserialize_with = "unique_labels")]
    #[schema(value_type = BTreeMap<String, String>)]
    labels: Labels,
}

fn one() -> u32 {
    1
}

impl From<TokenWish> for TokenScope {
    fn from(wish: TokenWish) -> Self {
        Self {
            uses: wish.uses,
            valid_for: Duration::from_millis(wish.valid_for_ms),
            agent_kind: wish.agent_kind,
            agent_name: wish.agent_name,
            labels: wish.labels,
        }
    }
}
