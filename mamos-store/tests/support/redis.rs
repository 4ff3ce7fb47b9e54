//! Redis for tests: prefixes of their own, and a way to look at and damage what is stored.

#![allow(dead_code, reason = "no test needs all of it")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mamos_core::agent::state::AgentState;
use mamos_core::agent::{AgentProfile, AgentRecord};
use mamos_core::auth::{PublicKey, RegistrationToken};
use mamos_core::clock::Timestamp;
use mamos_core::id::{AgentId, AgentKind, JobId, SessionId, TokenId};
use mamos_core::job::labels::{Labels, Selector};
use mamos_core::job::lane::Lane;
use mamos_core::job::{NewJob, Outcome};
use mamos_core::lease::{RunRef, SessionRef};
use mamos_core::store::{Attach, ClaimGroup, Claimed, Report, RunWrite, Store, Taker};
use mamos_store::RedisSettings;
use redis::{Client, Connection};

/// A prefix that nobody else has. What is under it is removed in the end.
pub(crate) struct Prefix {
    pub(crate) url: String,
    pub(crate) name: String,
}

impl Prefix {
    /// On the Redis that all tests share.
    pub(crate) fn shared() -> Self {
        Self::at(mamos_testbed::redis_url())
    }

    pub(crate) fn at(url: String) -> Self {
        Self { url, name: mamos_testbed::unique_name() }
    }

    pub(crate) fn settings(&self) -> RedisSettings {
        RedisSettings::new(&self.url).prefix(&self.name)
    }

    /// Someone else's connection.
    pub(crate) fn connection(&self) -> Connection {
        let client = Client::open(self.url.as_str()).expect("the URL of a test is right");
        client.get_connection().expect("redis answers")
    }

    /// The name of a key.
    pub(crate) fn key(&self, suffix: &str) -> String {
        format!("{{{}}}:{suffix}", self.name)
    }

    /// All keys under the prefix.
    pub(crate) fn keys(&self) -> Vec<Vec<u8>> {
        let mut connection = self.connection();
        let (mut keys, mut cursor) = (Vec::new(), 0_u64);
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(self.key("*")).arg("COUNT").arg(1000);
            let (next, found): (u64, Vec<Vec<u8>>) = scan.query(&mut connection).expect("redis scans");
            keys.extend(found);
            cursor = next;
            if cursor == 0 {
                return keys;
            }
        }
    }
}

impl Drop for Prefix {
    fn drop(&mut self) {
        // A private server may be gone already, with all that it held.
        let Ok(client) = Client::open(self.url.as_str()) else { return };
        let Ok(mut connection) = client.get_connection() else { return };
        for keys in self.keys().chunks(1000) {
            let mut unlink = redis::cmd("UNLINK");
            for key in keys {
                unlink.arg(key);
            }
            let _ = unlink.query::<()>(&mut connection);
        }
    }
}

pub(crate) const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);
pub(crate) const TTL: Duration = Duration::from_secs(3600);

pub(crate) fn lane() -> Arc<Lane> {
    let parse = "the names of a test are right";
    Arc::new(Lane::new("mail".parse().expect(parse), "mail.send".parse().expect(parse), Selector::any()))
}

pub(crate) fn job(n: u128) -> NewJob {
    NewJob::new(JobId::from_parts(NOW, n), lane(), Bytes::from(format!("payload {n}")))
}

/// Admits an agent and opens a session for it.
pub(crate) async fn session(store: &dyn Store, n: u8) -> mamos_core::Result<SessionRef> {
    let kind = AgentKind::new("kit")?;
    let id = AgentId::from_parts(kind.clone(), NOW, u128::from(n));
    let profile = AgentProfile::new(kind, "an agent of a test");
    let token = RegistrationToken {
        id: TokenId::from_parts(NOW, u128::from(n)),
        hash: [n; 32],
        expires_at: NOW + TTL,
        uses_left: 1,
        agent_kind: None,
        agent_name: None,
        labels: Labels::default(),
        created_at: NOW,
    };
    store.create_token(token).await?;
    let agent = AgentRecord {
        id: id.clone(),
        state: AgentState::Registered,
        profile: profile.clone(),
        labels: Labels::default(),
        is_draining: false,
        public_key: PublicKey::from_bytes([n; 32]),
        instance: None,
        revocation: None,
        registered_at: NOW,
        changed_at: NOW,
        revision: 1,
    };
    store.redeem([n; 32], agent, NOW).await?;
    let request = Attach {
        agent: id,
        profile,
        resume: None,
        fresh: SessionId::from_parts(NOW, u128::from(n)),
        known: Vec::new(),
        ttl: TTL,
        orchestrator: "test".to_owned(),
    };
    Ok(store.attach(request, NOW).await?.session)
}

pub(crate) async fn claim(store: &dyn Store, session: SessionRef, limit: u32) -> mamos_core::Result<Claimed> {
    let group = ClaimGroup { lanes: vec![lane().id()], takers: vec![Taker { session, limit }] };
    store.claim(vec![group], NOW).await
}

/// The runs that a claim gave.
pub(crate) fn runs(claimed: &Claimed) -> Vec<RunRef> {
    claimed.jobs.iter().flat_map(|(_, jobs)| jobs).map(|job| job.run).collect()
}

pub(crate) fn settle(session: SessionRef, run: RunRef) -> RunWrite {
    let outcome = Outcome::Succeeded { output: Bytes::from_static(b"done") };
    RunWrite { session: session.id, run, report: Report::Settle(outcome) }
}
