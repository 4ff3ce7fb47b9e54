//! Registration tokens.

use mamos_core::ErrorKind;
use mamos_core::agent::AgentRecord;
use mamos_core::auth::RegistrationToken;
use mamos_core::clock::Timestamp;
use mamos_core::id::{AgentKind, TokenId};
use mamos_core::job::labels::Labels;
use serde::{Deserialize, Serialize};

use super::codec::{from_json, to_json};
use super::errors::{Fault, corrupt, readable};
use super::keys::Key;
use super::link::{Way, strings};
use super::tx::{Operation, Tx};
use super::{Core, agents, lists};

/// A token, as JSON. Times in microseconds.
#[derive(Serialize, Deserialize)]
struct Row {
    hash: [u8; 32],
    expires_at: i64,
    uses_left: u32,
    agent_kind: Option<String>,
    agent_name: Option<String>,
    labels: Labels,
    created_at: i64,
}

fn encode(token: &RegistrationToken) -> Result<Vec<u8>, Fault> {
    let row = Row {
        hash: token.hash,
        expires_at: token.expires_at.as_micros(),
        uses_left: token.uses_left,
        agent_kind: token.agent_kind.as_ref().map(|kind| kind.as_str().to_owned()),
        agent_name: token.agent_name.clone(),
        labels: token.labels.clone(),
        created_at: token.created_at.as_micros(),
    };
    to_json(&row, "token")
}

fn decode(id: TokenId, bytes: &[u8]) -> Result<RegistrationToken, Fault> {
    let row: Row = from_json(bytes, "token")?;
    let kind = row.agent_kind.map(AgentKind::new).transpose();
    Ok(RegistrationToken {
        id,
        hash: row.hash,
        expires_at: Timestamp::from_micros(row.expires_at),
        uses_left: row.uses_left,
        agent_kind: kind.map_err(|error| corrupt("agent kind", error))?,
        agent_name: row.agent_name,
        labels: row.labels,
        created_at: Timestamp::from_micros(row.created_at),
    })
}

/// A token and what is stored of it.
struct Stored {
    bytes: Vec<u8>,
    token: RegistrationToken,
}

impl Stored {
    async fn read(core: &Core, id: TokenId) -> Result<Option<Self>, Fault> {
        let bytes = core.link.field(Key::Tokens, id.as_bytes()).await?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let token = decode(id, &bytes)?;
        Ok(Some(Self { bytes, token }))
    }

    async fn by_hash(core: &Core, hash: &[u8; 32]) -> Result<Option<Self>, Fault> {
        let id = core.link.field(Key::TokenHashes, hash).await?;
        if id.is_empty() {
            return Ok(None);
        }
        Self::read(core, TokenId::from_uuid(lists::uuid(&id)?)).await
    }

    fn write(self, tx: &mut Tx) -> Result<(), Fault> {
        let (id, value) = (self.token.id, encode(&self.token)?);
        if self.token.uses_left == 0 {
            tx.remove_member(Key::Usable, id.as_bytes().as_slice());
        }
        tx.replace(Key::Tokens, id.as_bytes().as_slice(), self.bytes, value);
        Ok(())
    }
}

/// Every token that has uses left. Those that cannot be understood are left out.
pub(super) async fn usable(core: &Core) -> Result<Vec<RegistrationToken>, Fault> {
    let ids = strings(core.link.command(Way::Read, "ZRANGE", Key::Usable, &[b"0", b"-1"]).await?)?;
    let fields: Vec<&[u8]> = ids.iter().map(Vec::as_slice).collect();
    let stored = core.link.fields(Way::Read, Key::Tokens, &fields).await?;
    let mut tokens = Vec::with_capacity(ids.len());
    for (id, bytes) in ids.iter().zip(stored) {
        let token = lists::uuid(id).and_then(|id| decode(TokenId::from_uuid(id), &bytes));
        tokens.extend(readable(token, "token")?.filter(|token| token.uses_left > 0));
    }
    Ok(tokens)
}

/// See [`mamos_core::store::TokenStore::create_token`].
pub(super) struct CreateToken(pub(super) RegistrationToken);

impl Operation for CreateToken {
    type Answer = ();
    const NAME: &'static str = "store.create_token";

    async fn plan(&self, core: &Core) -> Result<(Tx, ()), Fault> {
        let token = &self.0;
        let mut tx = Tx::default();
        if !core.link.field(Key::Tokens, token.id.as_bytes()).await?.is_empty() {
            return Ok((tx, ()));
        }
        if !core.link.field(Key::TokenHashes, &token.hash).await?.is_empty() {
            return Err(Fault::Refused(ErrorKind::Conflict, "another token has this hash; make a new one"));
        }
        tx.replace(Key::Tokens, token.id.as_bytes().as_slice(), Vec::new(), encode(token)?);
        tx.replace(Key::TokenHashes, token.hash, Vec::new(), token.id.as_bytes().to_vec());
        if token.uses_left > 0 {
            tx.add_member(Key::Usable, token.id.as_bytes().as_slice());
        }
        Ok((tx, ()))
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

    async fn plan(&self, core: &Core) -> Result<(Tx, AgentRecord), Fault> {
        let denied = || Fault::Refused(ErrorKind::Denied, "the token admits no agent; ask for a new one");
        let mut tx = Tx::default();
        let known = agents::stored(core, &self.agent.id).await?;
        let Some(mut stored) = Stored::by_hash(core, &self.hash).await? else { return Err(denied()) };
        let token = &mut stored.token;
        if token.hash != self.hash || token.expires_at <= self.now {
            return Err(denied());
        }
        if let Some(known) = known {
            // It may be used up: whom it admitted may ask again.
            let is_repeat = known.record.public_key == self.agent.public_key;
            return if is_repeat { Ok((tx, known.record)) } else { Err(denied()) };
        }
        let admits = token.uses_left > 0
            && token.agent_kind.as_ref().is_none_or(|wanted| wanted == self.agent.id.kind())
            && token.agent_name.as_ref().is_none_or(|wanted| *wanted == self.agent.profile.name);
        if !admits {
            return Err(denied());
        }
        token.uses_left -= 1;
        let agent = AgentRecord { labels: token.labels.clone(), ..self.agent.clone() };
        stored.write(&mut tx)?;
        agents::insert(&mut tx, &agent)?;
        Ok((tx, agent))
    }
}

/// See [`mamos_core::store::TokenStore::revoke_token`].
pub(super) struct RevokeToken(pub(super) TokenId);

impl Operation for RevokeToken {
    type Answer = bool;
    const NAME: &'static str = "store.revoke_token";

    async fn plan(&self, core: &Core) -> Result<(Tx, bool), Fault> {
        let mut tx = Tx::default();
        let Some(mut stored) = Stored::read(core, self.0).await?.filter(|stored| stored.token.uses_left > 0)
        else {
            return Ok((tx, false));
        };
        stored.token.uses_left = 0;
        stored.write(&mut tx)?;
        Ok((tx, true))
    }
}
