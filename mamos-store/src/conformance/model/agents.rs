//! Operations on agents and tokens.

use mamos_core::agent::Revocation;
use mamos_core::auth::RegistrationToken;
use mamos_core::id::InstanceId;
use mamos_core::job::labels::Labels;

use super::{AGENTS, Compared, Play, SECOND, ask};
use crate::conformance::scene::{agent_record, hash, token};

impl Play<'_> {
    pub(super) async fn admit(&mut self) -> Compared {
        for n in 0..AGENTS {
            ask!(self, create_token(token(n, 1)), |()| ());
            ask!(self, redeem(hash(n), agent_record(n), self.now), Clone::clone);
        }
        Ok(())
    }

    pub(super) async fn tokens(&mut self) -> Compared {
        let n = self.random.u64(100..104);
        match self.random.u32(0..4) {
            0 => {
                let expires_at = self.now + self.random.u32(0..60) * SECOND;
                // By the number, because a token never changes.
                let labels = Labels::new((n.is_multiple_of(2)).then_some(("group", "model"))).unwrap();
                let agent_name = (n == 103).then(|| "nobody".to_owned());
                let uses = self.random.u32(1..3);
                let token = RegistrationToken { expires_at, labels, agent_name, ..token(n, uses) };
                ask!(self, create_token(token), |()| ());
            }
            1 => {
                ask!(self, revoke_token(token(n, 1).id), |was| *was);
            }
            _ => {
                let agent = agent_record(self.random.u64(100..120));
                ask!(self, redeem(hash(n), agent, self.now), Clone::clone);
            }
        }
        Ok(())
    }

    pub(super) async fn update(&mut self) -> Compared {
        // Never decommissioned here: three agents would soon be none.
        let mut agent = agent_record(self.random.u64(0..AGENTS));
        agent.is_draining = self.random.bool();
        agent.instance = self.random.bool().then(|| InstanceId::from_key("model"));
        agent.revocation = self.random.bool().then(|| Revocation::new(self.now, "model"));
        let stored = self.a.agent(&agent.id).await.ok().flatten();
        agent.state = stored.as_ref().map_or(agent.state, |stored| stored.state);
        let revision = stored.map_or(1, |stored| stored.revision) - u64::from(self.random.u32(0..4) == 0);
        ask!(self, update_agent(agent, revision, self.now), Clone::clone);
        Ok(())
    }
}
