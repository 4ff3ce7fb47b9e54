//! Storing, running and removing jobs for minutes, while the size of the tables is watched.

use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, ValueEnum};
use mamos_core::agent::state::AgentState;
use mamos_core::agent::{AgentProfile, AgentRecord};
use mamos_core::auth::{PublicKey, RegistrationToken};
use mamos_core::clock::{Clock, SystemClock};
use mamos_core::id::{AgentId, AgentKind, SessionId, TokenId};
use mamos_core::job::Outcome;
use mamos_core::job::labels::Labels;
use mamos_core::lease::SessionRef;
use mamos_core::store::{Attach, ClaimGroup, JobStore, Report, RunWrite, SessionStore, Taker, TokenStore};
use mamos_store::{PostgresSettings, PostgresStore};
use sqlx::Row;

use crate::measures::jobs;
use crate::raw::postgres::Schema;

/// How long what ended is kept.
const KEPT: Duration = Duration::from_secs(10);
/// How many jobs go through at once.
const BATCH: u64 = 1000;
const TTL: Duration = Duration::from_secs(3600);

/// The arguments of `soak`.
#[derive(Debug, Args)]
pub(crate) struct SoakArguments {
    /// The store.
    #[arg(long, value_enum, default_value_t = SoakStore::Postgres)]
    store: SoakStore,
    /// How long.
    #[arg(long, default_value_t = 3)]
    minutes: u64,
    /// How many jobs a second at most.
    #[arg(long, default_value_t = 5000)]
    rate: u64,
    /// The server.
    #[arg(long)]
    url: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SoakStore {
    Postgres,
}

/// Runs the loop, and prints a line every ten seconds.
pub(crate) async fn measure(arguments: SoakArguments) -> anyhow::Result<()> {
    let SoakStore::Postgres = arguments.store;
    let schema = Schema::unique(arguments.url.as_deref());
    let soaked = soak(&arguments, &schema).await;
    schema.remove().await?;
    soaked
}

#[expect(clippy::print_stdout, reason = "the figures are what this program is for")]
async fn soak(arguments: &SoakArguments, schema: &Schema) -> anyhow::Result<()> {
    let store = PostgresStore::open(PostgresSettings::new(&schema.url).schema(&schema.name)).await?;
    let session = attach(&store).await?;
    let lane = jobs(1, 2)?.first().map(|job| job.lane.id()).context("there is one job")?;
    let mut watch = schema.connect().await?;
    let begun = Instant::now();
    let end = begun + Duration::from_secs(60 * arguments.minutes);
    let pace = Duration::from_secs_f64(BATCH as f64 / arguments.rate.max(1) as f64);
    let mut next = begun;
    let mut told = begun;
    let (mut done, mut pruned) = (0_u64, 0_u64);
    println!("seconds | jobs/s | pruned | live rows | dead rows | table MiB | index MiB | us a job");
    let mut busy = Duration::ZERO;
    let mut since = 0_u64;
    while Instant::now() < end {
        tokio::time::sleep_until(next.into()).await;
        next = (next + pace).max(Instant::now() - pace);
        let started = Instant::now();
        let now = SystemClock.now();
        store.enqueue(jobs(BATCH, 64)?, now).await?;
        let taker = Taker { session, limit: BATCH as u32 };
        let claimed = store.claim(vec![ClaimGroup { lanes: vec![lane], takers: vec![taker] }], now).await?;
        let runs = claimed.jobs.into_iter().flat_map(|(_, jobs)| jobs);
        let settle = |run| RunWrite {
            session: session.id,
            run,
            report: Report::Settle(Outcome::Succeeded { output: bytes::Bytes::new() }),
        };
        let writes: Vec<RunWrite> = runs.map(|job| settle(job.run)).collect();
        done += writes.len() as u64;
        since += writes.len() as u64;
        store.report(writes, now).await?;
        pruned += u64::from(store.prune(now - KEPT, 2 * BATCH as u32).await?);
        busy += started.elapsed();
        if told.elapsed() >= Duration::from_secs(10) {
            let query = "SELECT n_live_tup, n_dead_tup, pg_table_size(relid), pg_indexes_size(relid) \
                         FROM pg_stat_user_tables WHERE schemaname = $1 AND relname = 'mamos_job'";
            let row = sqlx::query(query).bind(&schema.name).fetch_one(&mut watch).await?;
            let mib = |index| row.try_get::<i64, _>(index).map(|bytes| bytes as f64 / 1_048_576.0);
            println!(
                "{:7} | {:6.0} | {:6} | {:9} | {:9} | {:9.1} | {:9.1} | {:.1}",
                begun.elapsed().as_secs(),
                since as f64 / told.elapsed().as_secs_f64(),
                pruned,
                row.try_get::<i64, _>(0)?,
                row.try_get::<i64, _>(1)?,
                mib(2)?,
                mib(3)?,
                busy.as_secs_f64() * 1e6 / since as f64,
            );
            (told, since, busy) = (Instant::now(), 0, Duration::ZERO);
        }
    }
    println!("{done} jobs were stored, claimed and settled, and {pruned} of them removed");
    store.close().await;
    Ok(())
}

async fn attach(store: &PostgresStore) -> anyhow::Result<SessionRef> {
    let now = SystemClock.now();
    let kind = AgentKind::new("soak")?;
    let token = RegistrationToken {
        id: TokenId::from_parts(now, 1),
        hash: [1; 32],
        expires_at: now + TTL,
        uses_left: 1,
        agent_kind: None,
        agent_name: None,
        labels: Labels::default(),
        created_at: now,
    };
    store.create_token(token).await?;
    let profile = AgentProfile::new(kind.clone(), "soak");
    let agent = AgentRecord {
        id: AgentId::from_parts(kind, now, 1),
        state: AgentState::Registered,
        profile: profile.clone(),
        labels: Labels::default(),
        is_draining: false,
        public_key: PublicKey::from_bytes([1; 32]),
        instance: None,
        revocation: None,
        registered_at: now,
        changed_at: now,
        revision: 1,
    };
    let agent = store.redeem([1; 32], agent, now).await?;
    let request = Attach {
        agent: agent.id,
        profile,
        resume: None,
        fresh: SessionId::from_parts(now, 1),
        known: Vec::new(),
        ttl: TTL,
        orchestrator: "soak".to_owned(),
    };
    Ok(store.attach(request, now).await?.session)
}
