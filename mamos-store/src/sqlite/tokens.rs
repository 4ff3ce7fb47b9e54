//! Registration tokens.

use mamos_core::ErrorKind;
use mamos_core::agent::AgentRecord;
use mamos_core::auth::RegistrationToken;
use mamos_core::clock::Timestamp;
use mamos_core::id::TokenId;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;

use super::agents;
use super::errors::{Fault, readable};
use super::rows::{self, TOKEN_COLUMNS, get};
use super::writer::{Operation, Tx};
use crate::sql::agents::json;

/// Every token that has uses left. Those that cannot be understood are left out.
pub(super) async fn usable(connection: &mut SqliteConnection) -> Result<Vec<RegistrationToken>, Fault> {
    let query = format!("SELECT {TOKEN_COLUMNS} FROM mamos_token WHERE uses_left > 0 ORDER BY id");
    let found = sqlx::query(AssertSqlSafe(query)).fetch_all(connection).await?;
    let mut tokens = Vec::with_capacity(found.len());
    for row in &found {
        tokens.extend(readable(rows::token(row), "token")?);
    }
    Ok(tokens)
}

/// See [`mamos_core::store::TokenStore::create_token`].
pub(super) struct CreateToken(pub(super) RegistrationToken);

impl Operation for CreateToken {
    type Answer = ();
    const NAME: &'static str = "store.create_token";

    async fn run(&self, tx: &mut Tx) -> Result<(), Fault> {
        let token = &self.0;
        let query = format!(
            "INSERT INTO mamos_token ({TOKEN_COLUMNS}) VALUES (?,?,?,?,?,?,?,?) ON CONFLICT (id) DO NOTHING"
        );
        let stored = sqlx::query(AssertSqlSafe(query))
            .bind(token.id.as_bytes().to_vec())
            .bind(token.hash.to_vec())
            .bind(token.expires_at.as_micros())
            .bind(i64::from(token.uses_left))
            .bind(token.agent_kind.as_ref().map(|kind| kind.as_str().to_owned()))
            .bind(token.agent_name.clone())
            .bind(json(&token.labels)?)
            .bind(token.created_at.as_micros())
            .execute(&mut tx.connection)
            .await;
        match stored.map_err(Fault::from) {
            Err(fault) if fault.is_unique_violation() => {
                Err(Fault::Refused(ErrorKind::Conflict, "another token has this hash; make a new one"))
            }
            stored => stored.map(|_| ()),
        }
    }
}

/// See [`mamos_core::store::TokenStore::redeem`].
pub(super) struct Redeem {
    pub(super) hash: [u8; 32],
    pub(super) agent: AgentRecord,
    pub(super) now: Timestamp,
}

impl Operation for Redeem {
    type Answer = AgentRecord;
    const NAME: &'static str = "store.redeem";

    async fn run(&self, tx: &mut Tx) -> Result<AgentRecord, Fault> {
        let denied = Fault::Refused(ErrorKind::Denied, "the token admits no agent; ask for a new one");
        if let Some(known) = agents::read(&mut tx.connection, &self.agent.id).await? {
            // It may be used up: whom it admitted may ask again.
            let good = sqlx::query("SELECT 1 FROM mamos_token WHERE hash = ? AND expires_at > ?")
                .bind(self.hash.to_vec())
                .bind(self.now.as_micros())
                .fetch_optional(&mut tx.connection)
                .await?;
            let is_repeat = good.is_some() && known.public_key == self.agent.public_key;
            return if is_repeat { Ok(known) } else { Err(denied) };
        }
        let taken = sqlx::query(
            "UPDATE mamos_token SET uses_left = uses_left - 1 WHERE hash = ? AND uses_left > 0 \
             AND expires_at > ? AND (agent_kind IS NULL OR agent_kind = ?) \
             AND (agent_name IS NULL OR agent_name = ?) RETURNING labels",
        )
        .bind(self.hash.to_vec())
        .bind(self.now.as_micros())
        .bind(self.agent.id.kind().as_str().to_owned())
        .bind(self.agent.profile.name.clone())
        .fetch_optional(&mut tx.connection)
        .await?;
        let Some(token) = taken else { return Err(denied) };
        let labels = rows::json(get(&token, 0)?, "labels")?;
        let agent = AgentRecord { labels, ..self.agent.clone() };
        agents::write(tx, &agent).await?;
        Ok(agent)
    }
}

/// See [`mamos_core::store::TokenStore::revoke_token`].
pub(super) struct RevokeToken(pub(super) TokenId);

impl Operation for RevokeToken {
    type Answer = bool;
    const NAME: &'static str = "store.revoke_token";

    async fn run(&self, tx: &mut Tx) -> Result<bool, Fault> {
        let revoked = sqlx::query("UPDATE mamos_token SET uses_left = 0 WHERE id = ? AND uses_left > 0")
            .bind(self.0.as_bytes().to_vec())
            .execute(&mut tx.connection)
            .await?;
        Ok(revoked.rows_affected() > 0)
    }
}
