//! Operations in a transaction of their own, tried again when another one gets in the way.

use std::time::Duration;

use mamos_core::Error;
use sqlx::PgPool;
use sqlx::postgres::PgConnection;

use super::errors::{Fault, RETRIES, pause, timed_out};
use super::known::Known;

/// What operations work with.
pub(super) struct Tx<'c> {
    pub(super) connection: &'c mut PgConnection,
    pub(super) known: &'c Known,
}

/// Something to do in a transaction. Run again from the start if another transaction got in the way.
pub(super) trait Operation: Send + Sync {
    type Answer: Send;
    /// Its name in errors, for example `store.cancel`.
    const NAME: &'static str;

    fn run(&self, tx: &mut Tx<'_>) -> impl Future<Output = Result<Self::Answer, Fault>> + Send;
}

/// Does an operation on a connection of the pool.
pub(super) async fn run<O: Operation>(
    operation: O,
    pool: &PgPool,
    known: &Known,
    timeout: Duration,
    place: &str,
) -> Result<O::Answer, Error> {
    let mut tries = 0;
    loop {
        // Whoever takes too long loses the connection with all that it began.
        let done = tokio::time::timeout(timeout, attempt(&operation, pool, known)).await;
        match done.unwrap_or_else(|_| Err(timed_out())) {
            Err(fault) if fault.is_passing() && tries < RETRIES => {
                tries += 1;
                tokio::time::sleep(pause(tries)).await;
            }
            done => return done.map_err(|fault| fault.at(O::NAME, place)),
        }
    }
}

async fn attempt<O: Operation>(operation: &O, pool: &PgPool, known: &Known) -> Result<O::Answer, Fault> {
    let mut transaction = pool.begin().await?;
    let mut tx = Tx { connection: &mut transaction, known };
    match operation.run(&mut tx).await {
        Ok(answer) => {
            transaction.commit().await?;
            Ok(answer)
        }
        Err(fault) => {
            // What made it fail is what the caller must hear of; a broken connection rolls back by itself.
            let _ = transaction.rollback().await;
            Err(fault)
        }
    }
}
