//! Keeps everything in a PostgreSQL database. For several orchestrators on several machines.
//!
//! Operations of a sort that wait at the same time are done together, in one statement where that is
//! possible, and answered after the commit. Every write about a run names its job, epoch and session in
//! its condition, so that the database decides races, whichever orchestrators are in them.
//!
//! `docs/store-postgres.md` says more about settings, rights, pruning, limits and backups.

mod address;
mod agents;
mod changes;
mod claim;
mod connect;
mod corrupt;
mod documents;
mod drain;
mod enqueue;
mod errors;
mod hints;
mod jobs;
mod known;
mod lists;
mod report;
mod rows;
mod schema;
mod sessions;
mod store;
mod sweep;
mod tokens;
mod tx;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mamos_core::clock::Timestamp;
use mamos_core::hint::lanes_ready;
use mamos_core::job::NewJob;
use mamos_core::job::lane::LaneId;
use mamos_core::store::{EnqueueResult, Enqueued};
use mamos_core::{Error, ErrorKind, JobState, Result};
use sqlx::postgres::{PgConnection, PgPool};
use tokio::task::JoinHandle;

use self::claim::{Claim, Floors};
use self::connect::Place;
use self::drain::{Batch, Drain};
use self::enqueue::Enqueue;
use self::errors::Fault;
use self::hints::PostgresHints;
use self::known::Known;
use self::report::ReportRuns;

const OPEN: &str = "store.open";
/// Of a job that can start at once.
const READY: EnqueueResult = EnqueueResult::Stored(JobState::Ready);

/// Where the database is and how it is used.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PostgresSettings {
    /// Where it is: `postgres://user:password@host:5432/database`, with `?sslmode=verify-full` and the like
    /// behind it. Nothing else says so, neither the environment nor `~/.pgpass`: what is left out has the defaults
    /// that `docs/store-postgres.md` lists. What survives what is the choice of the server's `synchronous_commit`,
    /// which can be set here, too: `?options=-c%20synchronous_commit=off`.
    pub url: String,
    /// The schema with the tables. Created if it does not exist and the user may. Default: `mamos`.
    pub schema: String,
    /// Whether [`PostgresStore::open`] creates the tables and brings them up to date. Without it, it only
    /// looks whether they are as they must be. Default: true.
    pub migrate: bool,
    /// How many connections serve reads and rare writes; more of them wait. At least 1. Default: 8. Storing,
    /// claiming and reporting have one each besides, and so has every listener of hints.
    pub connections: u32,
    /// How long one operation may take before it fails with [`ErrorKind::Unavailable`]. Default: 30 s.
    pub timeout: Duration,
    /// Whether [`PostgresStore::enqueue_in`] tells orchestrators of the jobs with the host's commit, so that they
    /// start at once. Such commits wait for each other on the whole server, and such a transaction cannot be prepared
    /// (`PREPARE TRANSACTION`). Without it, the jobs start at the next look. Default: true.
    pub hints_with_commit: bool,
}

impl PostgresSettings {
    /// The defaults, for the database at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            schema: "mamos".to_owned(),
            migrate: true,
            connections: 8,
            timeout: Duration::from_secs(30),
            hints_with_commit: true,
        }
    }

    /// Sets [`PostgresSettings::schema`].
    #[must_use]
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// Sets [`PostgresSettings::migrate`].
    #[must_use]
    pub fn migrate(mut self, migrate: bool) -> Self {
        self.migrate = migrate;
        self
    }

    /// Sets [`PostgresSettings::connections`].
    #[must_use]
    pub fn connections(mut self, connections: u32) -> Self {
        self.connections = connections;
        self
    }

    /// Sets [`PostgresSettings::timeout`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets [`PostgresSettings::hints_with_commit`].
    #[must_use]
    pub fn hints_with_commit(mut self, hints_with_commit: bool) -> Self {
        self.hints_with_commit = hints_with_commit;
        self
    }
}

/// Without the URL, which may hold a password.
impl fmt::Debug for PostgresSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url: _, schema, migrate, connections, timeout, hints_with_commit } = self;
        f.debug_struct("PostgresSettings")
            .field("schema", schema)
            .field("migrate", migrate)
            .field("connections", connections)
            .field("timeout", timeout)
            .field("hints_with_commit", hints_with_commit)
            .finish_non_exhaustive()
    }
}

/// A store in a PostgreSQL database.
///
/// Cheap to share behind an [`Arc`]. When it is dropped, what was queued is still done.
pub struct PostgresStore {
    place: Arc<Place>,
    known: Arc<Known>,
    floors: Arc<Floors>,
    pool: PgPool,
    hot: Mutex<Option<Hot>>,
    tasks: tokio::sync::Mutex<Vec<JoinHandle<()>>>,
    hints: Arc<PostgresHints>,
    hints_with_commit: bool,
}

/// The ways to the tasks of the hot path.
#[derive(Clone)]
struct Hot {
    enqueue: Drain<Enqueue>,
    claim: Drain<Claim>,
    report: Drain<ReportRuns>,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("place", &self.place.name).finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Connects, and creates the tables or brings them up to date, while others who want the same wait. Must be
    /// called within a Tokio runtime, which must run as long as the store is used.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Config`]: the URL is wrong, the user is refused or lacks rights, there is no such database, the
    ///   tables are missing and `migrate` is off, or a newer version of MAMOS made them. The message says which, and what to do.
    /// - [`ErrorKind::Unavailable`]: the server does not answer, takes no connection, or is read-only.
    pub async fn open(settings: PostgresSettings) -> Result<Self> {
        let place = Arc::new(Place::new(&settings)?);
        let failed = |fault: Fault| fault.at(OPEN, &place.name);
        let mut connection = place.connect().await.map_err(failed)?;
        let found = match settings.migrate {
            true => schema::migrate(&mut connection, &place.schema).await,
            false => schema::version(&mut connection, &place.schema).await.map(Option::unwrap_or_default),
        };
        let found = found.map_err(failed)?;
        place.check_version(found, settings.migrate)?;
        // The right to read is no right to write, and a standby has it too.
        schema::check_rights(&mut connection).await.map_err(failed)?;
        if !schema::is_vacuumed(&mut connection).await.map_err(failed)? {
            tracing::warn!(
                target: "mamos::store",
                database = place.name,
                "autovacuum is off: dead rows are never removed, and claims get slower; switch it on, or run VACUUM often"
            );
        }
        let known = Arc::new(Known::default());
        let (enqueue, enqueuing) = Drain::start(Arc::clone(&place), Arc::clone(&known));
        let (claim, claiming) = Drain::start(Arc::clone(&place), Arc::clone(&known));
        let (report, reporting) = Drain::start(Arc::clone(&place), Arc::clone(&known));
        let pool = place.pool(settings.connections);
        Ok(Self {
            hints: Arc::new(PostgresHints::new(Arc::clone(&place), pool.clone())),
            pool,
            hot: Mutex::new(Some(Hot { enqueue, claim, report })),
            tasks: tokio::sync::Mutex::new(vec![enqueuing, claiming, reporting]),
            place,
            known,
            floors: Arc::default(),
            hints_with_commit: settings.hints_with_commit,
        })
    }

    /// Does what is queued, and closes all connections. Later calls fail with [`ErrorKind::Closed`]. Calling it
    /// again changes nothing.
    pub async fn close(&self) {
        drop(self.hot().take());
        for task in self.tasks.lock().await.drain(..) {
            // It ends once the calls that go on have been answered. A panic in it was reported by then.
            let _ = task.await;
        }
        self.pool.close().await;
    }

    /// Stores jobs on a connection of the host: in its transaction, if one is open, so that they are stored
    /// exactly if what the host writes is. Otherwise the same as
    /// [`JobStore::enqueue`](mamos_core::store::JobStore::enqueue).
    ///
    /// Orchestrators hear of the jobs when the host commits, unless [`PostgresSettings::hints_with_commit`] is off. A job
    /// whose id or key another open transaction takes waits for the end of that one.
    ///
    /// # Errors
    ///
    /// As `enqueue`. What the host wrote before is not undone by an error.
    pub async fn enqueue_in(
        &self,
        connection: &mut PgConnection,
        jobs: Vec<NewJob>,
        now: Timestamp,
    ) -> Result<Vec<Enqueued>> {
        let failed = |fault: Fault| fault.at(Enqueue::NAME, &self.place.name);
        let mut own = self.pool.acquire().await.map_err(|error| failed(error.into()))?;
        // Lanes are stored at once, whatever becomes of the host's transaction: they harm nobody.
        let lanes =
            self.known.lane_numbers(&mut own, jobs.iter().map(|job| &job.lane)).await.map_err(failed)?;
        drop(own);
        let stored =
            enqueue::store_in(connection, &self.place.schema, &jobs, &lanes, now).await.map_err(failed)?;
        if self.hints_with_commit {
            let ready = jobs.iter().zip(&stored).filter(|(_, stored)| stored.result == READY);
            let ready: BTreeSet<LaneId> = ready.map(|(job, _)| job.lane.id()).collect();
            self.hints.tell_in(connection, lanes_ready(ready.into_iter().collect())).await.map_err(failed)?;
        }
        Ok(stored)
    }

    fn hot(&self) -> MutexGuard<'_, Option<Hot>> {
        self.hot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn drain<O: Batch>(&self, way: fn(&Hot) -> &Drain<O>, operation: O) -> Result<O::Answer> {
        let drain = self.hot().as_ref().map(|hot| way(hot).clone());
        let drain = drain.ok_or_else(|| Fault::Closed.at(O::NAME, &self.place.name))?;
        drain.run(operation).await
    }
}

impl Place {
    fn check_version(&self, found: i64, may_migrate: bool) -> Result<()> {
        let message = if found > schema::VERSION {
            format!(
                "{} has schema version {found}, and this version of mamos knows {} at most; use the newer version, \
                 or restore a backup from before it",
                self.name,
                schema::VERSION
            )
        } else if !may_migrate && found < schema::VERSION {
            format!(
                "{} has schema version {found}, and this version of mamos needs {}; open it once with `migrate`, \
                 by a user who may create tables",
                self.name,
                schema::VERSION
            )
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Config, OPEN, message))
    }
}
