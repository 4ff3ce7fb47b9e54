//! The tables, and bringing older ones up to date.
//!
//! A runner of our own, because the host may use sqlx's migrator on the same database: ours has a table
//! of its own in a schema of its own.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row};

use super::connect::quoted;
use super::errors::Fault;

const MIGRATIONS: [&str; 2] =
    [include_str!("migrations/0001_first.sql"), include_str!("migrations/0002_floors.sql")];

/// The schema that this version writes.
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;

/// The advisory lock of everyone who migrates: "mamos" and the number of this use.
const LOCK: i64 = 0x6d61_6d6f_7300_0001;

/// The version of the tables; `None` if there are none, or no such schema.
pub(super) async fn version(connection: &mut PgConnection, schema: &str) -> Result<Option<i64>, Fault> {
    let table = sqlx::query("SELECT to_regclass($1) IS NOT NULL")
        .bind(format!("{}._mamos_migrations", quoted(schema)))
        .fetch_one(&mut *connection)
        .await?;
    if !table.try_get::<bool, _>(0)? {
        return Ok(None);
    }
    let row =
        sqlx::query("SELECT max(version)::bigint FROM _mamos_migrations").fetch_one(&mut *connection).await?;
    Ok(row.try_get(0)?)
}

/// Brings the tables up to date in one transaction, and gives the version that they had. Others who want the same wait.
///
/// Tables that are newer than this program are left as they are: compare the answer with [`VERSION`].
pub(super) async fn migrate(connection: &mut PgConnection, schema: &str) -> Result<i64, Fault> {
    // Most starts find everything up to date, and then need no rights but those of daily work.
    if let Some(version) = version(connection, schema).await?.filter(|version| *version >= VERSION) {
        return Ok(version);
    }
    sqlx::query("BEGIN").execute(&mut *connection).await?;
    match bring_up_to_date(connection, schema).await {
        Ok(before) => {
            sqlx::query("COMMIT").execute(&mut *connection).await?;
            Ok(before)
        }
        Err(fault) => {
            // The connection is dropped by the caller, which also rolls back.
            let _ = sqlx::query("ROLLBACK").execute(&mut *connection).await;
            Err(fault)
        }
    }
}

async fn bring_up_to_date(connection: &mut PgConnection, schema: &str) -> Result<i64, Fault> {
    let patience = "SELECT current_setting('statement_timeout')";
    let patience: String = sqlx::query(patience).fetch_one(&mut *connection).await?.try_get(0)?;
    // An index of a large table takes longer than anything of daily work, and so does waiting for who makes it.
    sqlx::query("SET LOCAL statement_timeout = 0").execute(&mut *connection).await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *connection).await?;
    // But not for a transaction that somebody forgot: all who want the table wait behind this one.
    let set = "SELECT set_config('lock_timeout', $1, true)";
    sqlx::query(set).bind(patience).execute(&mut *connection).await?;
    // Asked first: IF NOT EXISTS wants the right to create schemas also when there is nothing to create.
    let is_there = sqlx::query("SELECT to_regnamespace($1) IS NOT NULL").bind(quoted(schema));
    if !is_there.fetch_one(&mut *connection).await?.try_get::<bool, _>(0)? {
        let create = format!("CREATE SCHEMA {}", quoted(schema));
        sqlx::query(AssertSqlSafe(create)).execute(&mut *connection).await?;
    }
    // Asked again: another process may have migrated while this one waited for the lock.
    let before = version(connection, schema).await?.unwrap_or(0);
    if before == 0 {
        sqlx::query("CREATE TABLE IF NOT EXISTS _mamos_migrations (version int PRIMARY KEY)")
            .execute(&mut *connection)
            .await?;
    }
    for (migration, number) in MIGRATIONS.iter().zip(1i64..).filter(|(_, number)| *number > before) {
        sqlx::raw_sql(*migration).execute(&mut *connection).await?;
        sqlx::query("INSERT INTO _mamos_migrations VALUES ($1)")
            .bind(number as i32)
            .execute(&mut *connection)
            .await?;
    }
    Ok(before)
}

/// Does the server remove dead rows by itself? Each job leaves some.
pub(super) async fn is_vacuumed(connection: &mut PgConnection) -> Result<bool, Fault> {
    let row = sqlx::query("SELECT current_setting('autovacuum')::boolean").fetch_one(connection).await?;
    Ok(row.try_get(0)?)
}

/// Fails unless the user may do what daily work needs, on a server that takes writes.
pub(super) async fn check_rights(connection: &mut PgConnection) -> Result<(), Fault> {
    // Locks one row of one table at most, and changes nothing.
    for text in [
        "SELECT 1 FROM mamos_job WHERE false FOR UPDATE",
        "DELETE FROM mamos_job WHERE false",
        "INSERT INTO mamos_spec (seq, id, created_at, payload) SELECT 0, '00000000-0000-0000-0000-000000000000', 0, '' WHERE false",
        "SELECT nextval('mamos_job_seq') WHERE false",
        "UPDATE mamos_session SET ended = ended WHERE false",
    ] {
        sqlx::query(text).execute(&mut *connection).await?;
    }
    Ok(())
}
