//! What people look for: agents that fit a filter, one queue, the end of a log.

use std::collections::HashSet;

use bytes::Bytes;

use super::Orchestrator;
use crate::agent::AgentRecord;
use crate::agent::state::AgentState;
use crate::id::{AgentId, AgentKind, QueueName};
use crate::job::labels::Labels;
use crate::lease::RunRef;
use crate::store::{Page, PageRequest, QueueRecord};
use crate::{Error, ErrorKind, Result};

/// How many pages of the store one call looks at to find some agents that fit, so that a rare filter does
/// not cost it all of them at once.
const MAX_PAGES: usize = 20;

/// Which agents to list. Everything given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentFilter {
    /// In one of these states; empty means any.
    pub states: Vec<AgentState>,
    /// Of this kind.
    pub kind: Option<AgentKind>,
    /// With at least these [effective labels](AgentRecord::effective_labels).
    pub labels: Labels,
    /// Connected to this orchestrator now, or not.
    pub is_connected: Option<bool>,
}

impl AgentFilter {
    fn fits(&self, agent: &AgentRecord, is_connected: bool) -> bool {
        let has_labels = || {
            let labels = agent.effective_labels();
            self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        };
        (self.states.is_empty() || self.states.contains(&agent.state))
            && self.kind.as_ref().is_none_or(|kind| kind == agent.id.kind())
            && self.is_connected.is_none_or(|wanted| wanted == is_connected)
            && (self.labels.is_empty() || has_labels())
    }
}

/// The end of what a run printed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogTail {
    /// How many bytes it printed in all.
    pub size_bytes: u64,
    /// The last of them.
    pub bytes: Bytes,
}

impl Orchestrator {
    /// Agents that fit the filter in the order of their ids, a page at a time. A page may be shorter than
    /// asked for, even empty, although there are more: look at [`Page::next`].
    ///
    /// # Errors
    ///
    /// The error of the store; [`ErrorKind::Invalid`] for a cursor that it did not make.
    pub async fn find_agents(
        &self,
        filter: &AgentFilter,
        mut page: PageRequest,
    ) -> Result<Page<AgentRecord>> {
        let limit = page.bounded_limit() as usize;
        let connected: HashSet<AgentId> =
            self.engine.registry().links().map(|link| link.agent.clone()).collect();
        let mut items = Vec::new();
        let mut pages = 0;
        loop {
            // Never more than there is room for, so that the store's cursor is where this page ends.
            page.limit = u32::try_from(limit - items.len()).unwrap_or(1);
            let found = self.engine.store.agents(page).await?;
            pages += 1;
            let fits = |agent: &AgentRecord| filter.fits(agent, connected.contains(&agent.id));
            items.extend(found.items.into_iter().filter(fits));
            if found.next.is_none() || items.len() >= limit || pages >= MAX_PAGES {
                return Ok(Page { items, next: found.next });
            }
            page = PageRequest { limit: 1, after: found.next };
        }
    }

    /// One queue, counted. For people, as [`Orchestrator::queues`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if it holds no job and was never paused, or the error of the store.
    pub async fn queue(&self, name: &QueueName) -> Result<QueueRecord> {
        let found = self.queues().await?.into_iter().find(|record| record.queue == *name);
        found.ok_or_else(|| {
            let message = format!("there is no queue {name}: it holds no job and was never paused");
            Error::new(ErrorKind::NotFound, "queue.get", message)
        })
    }

    /// How much a run printed, in bytes.
    ///
    /// # Errors
    ///
    /// The error of the store.
    pub async fn log_size(&self, run: RunRef) -> Result<u64> {
        // A log has no gaps, so that a byte at `offset` says that all before it are there.
        let is_beyond = async |offset: u64| {
            let pieces = self.log(run, offset, 1).await?;
            Ok::<bool, Error>(pieces.iter().any(|piece| !piece.bytes.is_empty()))
        };
        if !is_beyond(0).await? {
            return Ok(0);
        }
        let (mut there, mut missing) = (0, 4096);
        while is_beyond(missing).await? {
            (there, missing) = (missing, missing.saturating_mul(2));
        }
        while missing - there > 1 {
            let middle = there + (missing - there) / 2;
            if is_beyond(middle).await? {
                there = middle;
            } else {
                missing = middle;
            }
        }
        Ok(missing)
    }

    /// The end of what a run printed, at most so many bytes.
    ///
    /// # Errors
    ///
    /// The error of the store.
    pub async fn log_tail(&self, run: RunRef, max_bytes: u32) -> Result<LogTail> {
        let size_bytes = self.log_size(run).await?;
        let offset = size_bytes.saturating_sub(u64::from(max_bytes));
        let pieces = self.log(run, offset, max_bytes).await?;
        let bytes = pieces.iter().flat_map(|piece| piece.bytes.iter().copied()).collect::<Vec<u8>>();
        Ok(LogTail { size_bytes, bytes: bytes.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::AgentProfile;
    use crate::auth::PublicKey;
    use crate::clock::Timestamp;

    fn agent() -> AgentRecord {
        let kind = AgentKind::new("web").unwrap();
        let mut profile = AgentProfile::new(kind.clone(), "n");
        profile.labels = Labels::new([("zone", "eu"), ("size", "l")]).unwrap();
        AgentRecord {
            id: AgentId::from_parts(kind, Timestamp::EPOCH, 1),
            state: AgentState::Running,
            profile,
            labels: Labels::new([("zone", "us")]).unwrap(),
            is_draining: false,
            public_key: PublicKey::from_bytes([0; 32]),
            instance: None,
            revocation: None,
            registered_at: Timestamp::EPOCH,
            changed_at: Timestamp::EPOCH,
            revision: 1,
        }
    }

    #[test]
    fn a_filter_of_agents_asks_for_all_that_it_names() {
        let labels = |text: &str| Labels::new(text.split(',').filter_map(|it| it.split_once('='))).unwrap();
        let any = AgentFilter::default;
        let cases = [
            (any(), true),
            (AgentFilter { states: vec![AgentState::Running, AgentState::Failed], ..any() }, true),
            (AgentFilter { states: vec![AgentState::Failed], ..any() }, false),
            (AgentFilter { kind: Some("web".parse().unwrap()), ..any() }, true),
            (AgentFilter { kind: Some("we".parse().unwrap()), ..any() }, false),
            // The operator's label wins.
            (AgentFilter { labels: labels("zone=us,size=l"), ..any() }, true),
            (AgentFilter { labels: labels("zone=eu"), ..any() }, false),
            (AgentFilter { is_connected: Some(true), ..any() }, true),
            (AgentFilter { is_connected: Some(false), ..any() }, false),
        ];
        for (filter, expected) in cases {
            assert_eq!(filter.fits(&agent(), true), expected, "{filter:?}");
        }
    }
}
