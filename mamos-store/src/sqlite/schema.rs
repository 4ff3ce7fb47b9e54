//! The tables, and bringing older files up to date.
//!
//! A runner of our own, because the host may use sqlx's migrator on the same file: ours has a table
//! of its own and never looks at anything that does not begin with `mamos_`.

use sqlx::Row;
use sqlx::sqlite::SqliteConnection;

use super::errors::Fault;

const MIGRATIONS: [&str; 1] = [include_str!("migrations/0001_first.sql")];

/// The schema that this version writes.
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;

/// Brings the file up to date in one transaction, and gives the version that it had.
///
/// A file that is newer than this program is left as it is: compare the answer with [`VERSION`].
pub(super) async fn migrate(connection: &mut SqliteConnection) -> Result<i64, Fault> {
    // Most starts find an up-to-date file, and then nothing is locked.
    if let Some(version) = version(connection).await?.filter(|version| *version >= VERSION) {
        return Ok(version);
    }
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await?;
    match bring_up_to_date(connection).await {
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

async fn bring_up_to_date(connection: &mut SqliteConnection) -> Result<i64, Fault> {
    // Asked again: another process may have migrated while this one waited for the lock.
    let before = version(connection).await?.unwrap_or(0);
    if before == 0 {
        sqlx::query("CREATE TABLE IF NOT EXISTS _mamos_migrations (version INTEGER PRIMARY KEY)")
            .execute(&mut *connection)
            .await?;
    }
    for (migration, number) in MIGRATIONS.iter().zip(1i64..).filter(|(_, number)| *number > before) {
        sqlx::raw_sql(*migration).execute(&mut *connection).await?;
        sqlx::query("INSERT INTO _mamos_migrations VALUES (?)")
            .bind(number)
            .execute(&mut *connection)
            .await?;
    }
    Ok(before)
}

/// The version of the file; `None` if there are no tables of ours.
async fn version(connection: &mut SqliteConnection) -> Result<Option<i64>, Fault> {
    let table =
        sqlx::query("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = '_mamos_migrations'")
            .fetch_optional(&mut *connection)
            .await?;
    if table.is_none() {
        return Ok(None);
    }
    let row = sqlx::query("SELECT max(version) FROM _mamos_migrations").fetch_one(&mut *connection).await?;
    Ok(row.try_get(0)?)
}
