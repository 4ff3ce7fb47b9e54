//! The keys of a store. All have one hash tag, so that a cluster keeps them on one node.

use mamos_core::id::SessionId;

/// What is kept under a key of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Key {
    /// Hash: the format of the data, and the number of the job that was stored last.
    Meta,
    /// Hash by job: what was asked for.
    Jobs,
    /// Hash by job: where it is in its life, from its first change on.
    Runs,
    /// Hash by job: the records of earlier runs.
    History,
    /// Hash by job: evidence that came late.
    Late,
    /// Hash by job: what it produced, unless nothing.
    Outputs,
    /// Sorted set: pieces of logs.
    Logs,
    /// Hash by job: where the logs of its runs end.
    LogEnds,
    /// Hash by kind and unique key: the job that has it.
    Unique,
    /// Hash by number: what the lane is.
    Lanes,
    /// Line of all jobs, as they were stored.
    Order,
    /// Line of ready jobs for each lane.
    Ready,
    /// Line of scheduled jobs.
    Due,
    /// Line of deadlines of jobs that have not ended.
    Deadlines,
    /// Line of jobs that ended.
    Ended,
    /// Hash by queue: is it paused?
    Queues,
    /// Hash by session.
    Sessions,
    /// Line of open sessions by their expiry.
    Expiry,
    /// Hash by agent: its sessions that are open or may still hold something.
    Active,
    /// Sorted set: lost sessions that may still hold something.
    Unrescued,
    /// List: sessions that ended, the oldest first.
    Past,
    /// Hash by agent.
    Agents,
    /// Sorted set: agents in order.
    AgentIndex,
    /// Hash by token.
    Tokens,
    /// Hash by the hash of a token's secret: the token.
    TokenHashes,
    /// Sorted set: tokens that have uses left.
    Usable,
    /// Hash by collection and key.
    Documents,
    /// Sorted set: documents in order.
    DocumentIndex,
    /// Sorted set: when documents expire.
    DocumentExpiry,
    /// Set: what a session holds.
    Held(SessionId),
}

impl Key {
    /// All but what sessions hold.
    pub(super) const FIXED: [Self; 29] = [
        Self::Meta,
        Self::Jobs,
        Self::Runs,
        Self::History,
        Self::Late,
        Self::Outputs,
        Self::Logs,
        Self::LogEnds,
        Self::Unique,
        Self::Lanes,
        Self::Order,
        Self::Ready,
        Self::Due,
        Self::Deadlines,
        Self::Ended,
        Self::Queues,
        Self::Sessions,
        Self::Expiry,
        Self::Active,
        Self::Unrescued,
        Self::Past,
        Self::Agents,
        Self::AgentIndex,
        Self::Tokens,
        Self::TokenHashes,
        Self::Usable,
        Self::Documents,
        Self::DocumentIndex,
        Self::DocumentExpiry,
    ];

    fn suffix(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Jobs => "jobs",
            Self::Runs => "runs",
            Self::History => "history",
            Self::Late => "late",
            Self::Outputs => "outputs",
            Self::Logs => "logs",
            Self::LogEnds => "log-ends",
            Self::Unique => "unique",
            Self::Lanes => "lanes",
            Self::Order => "order",
            Self::Ready => "ready",
            Self::Due => "due",
            Self::Deadlines => "deadlines",
            Self::Ended => "ended",
            Self::Queues => "queues",
            Self::Sessions => "sessions",
            Self::Expiry => "expiry",
            Self::Active => "active",
            Self::Unrescued => "unrescued",
            Self::Past => "past",
            Self::Agents => "agents",
            Self::AgentIndex => "agent-index",
            Self::Tokens => "tokens",
            Self::TokenHashes => "token-hashes",
            Self::Usable => "usable",
            Self::Documents => "documents",
            Self::DocumentIndex => "document-index",
            Self::DocumentExpiry => "document-expiry",
            Self::Held(_) => "held:",
        }
    }

    /// What Redis must say of its type, if there is such a key.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Order | Self::Ready | Self::Due | Self::Deadlines | Self::Ended | Self::Expiry => "zset",
            Self::Logs | Self::Unrescued | Self::AgentIndex | Self::Usable => "zset",
            Self::DocumentIndex | Self::DocumentExpiry => "zset",
            Self::Past => "list",
            Self::Held(_) => "set",
            _ => "hash",
        }
    }

    /// The name of the key.
    pub(super) fn name(self, prefix: &str) -> Vec<u8> {
        let mut name = format!("{{{prefix}}}:{}", self.suffix()).into_bytes();
        if let Self::Held(session) = self {
            name.extend_from_slice(session.as_bytes());
        }
        name
    }
}
