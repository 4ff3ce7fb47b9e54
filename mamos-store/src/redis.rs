//! Keeps everything in one Redis, for several orchestrators on several machines.
//!
//! Scripts are the transactions. The three hot operations are a script call a batch: `enqueue` and `claim` are
//! decided in Lua; what agents report is decided here, from runs as they were when this process saw them last, and
//! written by a script that first sees that they still are so. All else goes the same way: read, decide by the rules of
//! `mamos-core`, compare and write.
//!
//! What a crash of the server may lose is the choice of its `appendfsync`. `docs/store-redis.md` says more about
//! that, about keys, memory, rights and errors.

mod agents;
mod changes;
mod claim;
mod codec;
mod documents;
mod enqueue;
mod errors;
mod hints;
mod jobs;
mod keys;
mod known;
mod late;
mod link;
mod lists;
mod logs;
mod open;
mod report;
mod sessions;
mod store;
mod sweep;
mod tokens;
mod tx;
mod writer;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mamos_core::Result;
use mamos_core::id::JobId;

use self::changes::Job;
use self::codec::{Details, Policy};
use self::enqueue::Enqueue;
use self::hints::RedisHints;
use self::known::{Lanes, Remembered};
use self::link::Link;
use self::report::ReportRuns;
use self::writer::Writer;

/// Where the Redis is and how it is used.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisSettings {
    /// `redis://user:password@host:port/database`, or `rediss://` for TLS.
    pub url: String,
    /// What the names of all keys begin with, in braces, so that a cluster keeps them together. Stores with different
    /// prefixes do not see each other. 1 to 64 characters of `A-Z a-z 0-9 . _ : -`. Default: `mamos`.
    pub prefix: String,
    /// How long to wait for an answer, before an operation fails with
    /// [`ErrorKind::Unavailable`](mamos_core::ErrorKind::Unavailable). Default: 10 s.
    pub response_timeout: Duration,
    /// How long to wait for a connection. Default: 5 s.
    pub connect_timeout: Duration,
}

impl RedisSettings {
    /// The defaults, for the Redis at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            prefix: "mamos".to_owned(),
            response_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
        }
    }

    /// Sets [`RedisSettings::prefix`].
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets [`RedisSettings::response_timeout`].
    #[must_use]
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.response_timeout = timeout;
        self
    }

    /// Sets [`RedisSettings::connect_timeout`].
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }
}

impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        f.debug_struct("RedisSettings")
            .field("prefix", &self.prefix)
            .field("response_timeout", &self.response_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .finish_non_exhaustive()
    }
}

/// A store in Redis.
///
/// Cheap to share behind an [`Arc`]. When it is dropped, what was queued is still done.
pub struct RedisStore {
    core: Arc<Core>,
    enqueues: Writer<Enqueue>,
    reports: Writer<ReportRuns>,
    hints: Arc<RedisHints>,
}

impl RedisStore {
    /// Connects, and checks that the server and the data under the prefix can be used. Must be called within a Tokio
    /// runtime, which must run as long as the store is used.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Config`](mamos_core::ErrorKind::Config): the URL or the prefix is wrong; the server is a read-only
    ///   replica, or may evict keys; a newer version of MAMOS wrote the data, or another program did.
    /// - [`ErrorKind::Denied`](mamos_core::ErrorKind::Denied): the password is wrong, or the user may not do what the
    ///   store needs.
    /// - [`ErrorKind::Unavailable`](mamos_core::ErrorKind::Unavailable): nobody answers, or not yet.
    ///
    /// The message says which, and what to do.
    pub async fn open(settings: RedisSettings) -> Result<Self> {
        let (client, place) = open::client(&settings)?;
        let link = open::link(&client, &settings, &place).await?;
        let core = Arc::new(Core {
            link,
            place,
            lanes: Lanes::default(),
            remembered: Remembered::default(),
            usual: Arc::default(),
        });
        Ok(Self {
            enqueues: Writer::start(Arc::clone(&core)),
            reports: Writer::start(Arc::clone(&core)),
            hints: Arc::new(RedisHints {
                core: Arc::clone(&core),
                client,
                connect_timeout: settings.connect_timeout,
            }),
            core,
        })
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("place", &self.core.place)
            .field("prefix", &self.core.link.prefix)
            .finish_non_exhaustive()
    }
}

/// What all operations work with.
struct Core {
    link: Link,
    /// Where it is, for people, without a secret.
    place: String,
    lanes: Lanes,
    remembered: Remembered,
    /// The policy of jobs that ask for nothing special, shared by all that are remembered.
    usual: Arc<Policy>,
}

impl Core {
    fn remember(&self, jobs: Vec<Job>) {
        self.remembered.keep(jobs);
    }

    fn take_remembered(&self, ids: &HashSet<JobId>) -> (Vec<Job>, Vec<JobId>) {
        self.remembered.take(ids)
    }

    fn policy(&self, details: &Details) -> Arc<Policy> {
        if *details == Details::default() { Arc::clone(&self.usual) } else { Arc::new(details.policy()) }
    }
}
