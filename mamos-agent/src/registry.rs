//! Handlers of typed jobs, joined into one agent: typed outside, erased once inside.

mod context;
mod error;
mod handler;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use mamos_core::agent::{Agent, AgentProfile, Attempt};
use mamos_core::clock::{Clock, SystemClock};
use mamos_core::id::{AgentKind, JobKind};
use mamos_core::job::labels::Labels;
use mamos_core::job::{Failure, Outcome};
use mamos_core::{Error, ErrorKind, Job, Result};

pub use self::context::JobContext;
pub use self::error::JobError;
pub use self::handler::Handler;
use self::handler::{ErasedHandler, Typed};

/// An [`Agent`] made of handlers, one for each kind of job, and of other agents.
///
/// Arguments and outputs travel as JSON. Arguments that do not fit the type bury the job with the code
/// `undecodable`; a kind without a handler buries it with `unknown_kind`.
///
/// # Examples
///
/// ```
/// use mamos_agent::{HandlerRegistry, JobContext, JobError};
/// use mamos_core::{AgentKind, Job};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Add(i32, i32);
///
/// impl Job for Add {
///     const KIND: &'static str = "math.add";
///     type Output = i32;
/// }
///
/// async fn add(job: Add, _context: JobContext) -> Result<i32, JobError> {
///     job.0.checked_add(job.1).ok_or_else(|| JobError::permanent("the sum does not fit 32 bits"))
/// }
///
/// # fn main() -> mamos_core::Result<()> {
/// let registry = HandlerRegistry::new(AgentKind::new("math")?, "calculator")
///     .slots(4)
///     .register::<Add, _>(add)?;
/// assert_eq!(registry.kinds().len(), 1);
/// # Ok(())
/// # }
/// ```
pub struct HandlerRegistry {
    profile: AgentProfile,
    handlers: BTreeMap<JobKind, Arc<dyn ErasedHandler>>,
    others: Vec<Arc<dyn Agent>>,
    routes: BTreeMap<JobKind, usize>,
    clock: Arc<dyn Clock>,
}

impl HandlerRegistry {
    /// A registry without handlers, for an agent of the given kind with a name for people. One slot, no
    /// labels.
    pub fn new(kind: AgentKind, name: impl Into<String>) -> Self {
        Self {
            profile: AgentProfile::new(kind, name),
            handlers: BTreeMap::new(),
            others: Vec::new(),
            routes: BTreeMap::new(),
            clock: Arc::new(SystemClock),
        }
    }

    /// What jobs can select the agent by. Default: none.
    #[must_use]
    pub fn labels(mut self, labels: Labels) -> Self {
        self.profile.labels = labels;
        self
    }

    /// How many attempts run at once, over all kinds. Default: 1; 1 to 65536.
    #[must_use]
    pub fn slots(mut self, slots: u32) -> Self {
        self.profile.slots = slots;
        self
    }

    /// The version of the program, for people. Default: empty.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.profile.version = version.into();
        self
    }

    /// Where [`JobContext::remaining`] takes the time from. Default: the machine's clock.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Adds the handler of a kind of job.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Invalid`]: the kind is not a valid name.
    /// - [`ErrorKind::Conflict`]: the kind has a handler already.
    pub fn register<J: Job, H: Handler<J>>(mut self, handler: H) -> Result<Self> {
        let kind = JobKind::new(J::KIND)?;
        self.check_free(&kind)?;
        self.handlers.insert(kind, Arc::new(Typed::<J, H>::new(handler)));
        Ok(self)
    }

    /// Adds another agent, for example a runner of commands: it gets the jobs of the kinds in its
    /// profile. Its labels, name and slots do not count, those of the registry do.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conflict`]: one of its kinds has a handler already.
    pub fn with_agent(mut self, other: Arc<dyn Agent>) -> Result<Self> {
        let kinds = other.profile().kinds;
        for kind in &kinds {
            self.check_free(kind)?;
        }
        let index = self.others.len();
        self.routes.extend(kinds.into_iter().map(|kind| (kind, index)));
        self.others.push(other);
        Ok(self)
    }

    /// Every kind of job that can be run, sorted.
    pub fn kinds(&self) -> Vec<JobKind> {
        let mut kinds: Vec<JobKind> = self.handlers.keys().cloned().collect();
        // Asked anew: a runner of commands may have got another whitelist.
        kinds.extend(self.others.iter().flat_map(|other| other.profile().kinds));
        kinds.sort();
        kinds.dedup();
        kinds
    }

    fn check_free(&self, kind: &JobKind) -> Result<()> {
        if self.handlers.contains_key(kind) || self.routes.contains_key(kind) {
            let message = format!("`{kind}` has a handler already; register each kind once");
            return Err(Error::new(ErrorKind::Conflict, "registry.register", message));
        }
        Ok(())
    }

    fn other_for(&self, kind: &JobKind) -> Option<&Arc<dyn Agent>> {
        let known = self.routes.get(kind).and_then(|index| self.others.get(*index));
        known.or_else(|| self.others.iter().find(|other| other.profile().kinds.contains(kind)))
    }
}

#[async_trait]
impl Agent for HandlerRegistry {
    fn profile(&self) -> AgentProfile {
        AgentProfile { kinds: self.kinds(), ..self.profile.clone() }
    }

    async fn run(&self, mut attempt: Attempt) -> Outcome {
        if let Some(handler) = self.handlers.get(&attempt.kind) {
            let payload = std::mem::take(&mut attempt.payload);
            let context = JobContext::of(attempt, self.clock.clone());
            return handler.run(payload, context).await;
        }
        if let Some(other) = self.other_for(&attempt.kind) {
            return other.run(attempt).await;
        }
        let message = format!("this agent has no handler for `{}`", attempt.kind);
        Outcome::Bury { failure: Failure::new("unknown_kind", message) }
    }
}

impl fmt::Debug for HandlerRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerRegistry")
            .field("profile", &self.profile)
            .field("kinds", &self.handlers.keys().collect::<Vec<_>>())
            .field("others", &self.others.len())
            .finish_non_exhaustive()
    }
}
