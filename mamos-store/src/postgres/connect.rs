//! Connections: where to, and how they are set up.

use std::time::Duration;

use mamos_core::{Error, ErrorKind, Result};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

use super::errors::{Fault, timed_out};
use super::{OPEN, PostgresSettings, address};

/// Where the tables are.
#[derive(Debug)]
pub(super) struct Place {
    /// For people, without a password.
    pub(super) name: String,
    pub(super) schema: String,
    pub(super) timeout: Duration,
    options: PgConnectOptions,
}

/// How statements of the hot path are planned. Each has one right plan whatever the statistics say, so
/// plans are made once, and nothing else is tempting.
pub(super) struct Plans(&'static str);

impl Plans {
    /// Always by the index that was made for it.
    pub(super) const BY_INDEX: Self = Self(
        "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_bitmapscan = off; \
         SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_sort = off",
    );
    /// Lists are joined by hashing.
    pub(super) const WITHOUT_LOOPS: Self =
        Self("SET plan_cache_mode = force_generic_plan; SET enable_nestloop = off");
}

impl Place {
    pub(super) fn new(settings: &PostgresSettings) -> Result<Self> {
        let refused = |message: String| Error::new(ErrorKind::Config, OPEN, message);
        if settings.schema.is_empty() || settings.schema.len() > 63 || settings.schema.contains('\0') {
            return Err(refused(
                "the name of the schema has 1 to 63 bytes, none of them zero; correct `schema`".to_owned(),
            ));
        }
        if settings.schema.starts_with("pg_") {
            return Err(refused("names that begin with pg_ are the server's; correct `schema`".to_owned()));
        }
        let options = address::options(&settings.url).map_err(|why| refused(why.to_owned()))?;
        let options = options
            .statement_cache_capacity(STATEMENTS)
            // The host's log is the host's; errors reach it through our answers.
            .disable_statement_logging();
        let database = options.get_database().unwrap_or(options.get_username()).to_owned();
        let name = match options.get_socket() {
            Some(socket) => format!("{}/{database}", socket.display()),
            None => format!("{}:{}/{database}", options.get_host(), options.get_port()),
        };
        let name = format!("{name} (schema {})", settings.schema);
        Ok(Self { name, schema: settings.schema.clone(), timeout: settings.timeout, options })
    }

    /// A connection for the hot path.
    pub(super) async fn connect_hot(&self, plans: Plans) -> Result<PgConnection, Fault> {
        let mut connection = self.connect().await?;
        sqlx::raw_sql(plans.0).execute(&mut connection).await?;
        Ok(connection)
    }

    pub(super) async fn connect(&self) -> Result<PgConnection, Fault> {
        let connecting = async {
            let mut connection = PgConnection::connect_with(&self.options).await?;
            self.set_up(&mut connection).await?;
            Ok(connection)
        };
        tokio::time::timeout(self.timeout, connecting).await.unwrap_or_else(|_| Err(timed_out()))
    }

    /// A pool of up to that many connections, none of them made yet.
    pub(super) fn pool(&self, connections: u32) -> PgPool {
        let setup = self.setup();
        PgPoolOptions::new()
            .max_connections(connections.max(1))
            .acquire_timeout(self.timeout)
            .after_connect(move |connection, _| {
                let setup = setup.clone();
                Box::pin(
                    async move { sqlx::raw_sql(AssertSqlSafe(setup)).execute(connection).await.map(|_| ()) },
                )
            })
            .connect_lazy_with(self.options.clone())
    }

    /// A pool for one listener, which wants a connection for itself.
    pub(super) fn listening(&self) -> PgPool {
        PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .acquire_timeout(self.timeout)
            .connect_lazy_with(self.options.clone())
    }

    async fn set_up(&self, connection: &mut PgConnection) -> Result<(), Fault> {
        sqlx::raw_sql(AssertSqlSafe(self.setup())).execute(connection).await?;
        Ok(())
    }

    /// The server gives up a little before we do, so that nothing goes on there of which nobody waits for the end.
    fn setup(&self) -> String {
        let millis = self.timeout.as_millis().max(2) * 9 / 10;
        let idle_millis = millis.min(IDLE_WITHIN.as_millis());
        format!(
            "SET search_path = {}; SET jit = off; SET client_min_messages = warning; \
             SET statement_timeout = {millis}; SET idle_in_transaction_session_timeout = {idle_millis}; \
             SET default_transaction_isolation = 'read committed'; SET bytea_output = 'hex'",
            quoted(&self.schema)
        )
    }
}

/// Within a transaction one statement follows the other at once. An orchestrator that stands still between two keeps
/// rows locked, and its agents cannot be taken in elsewhere before the server ends the transaction: they must be back
/// within 5 s, and need up to 3 s of that to notice. A machine that is only overloaded should get its turn before.
const IDLE_WITHIN: Duration = Duration::from_secs(3);
/// All statements of the store, so that none is prepared twice.
const STATEMENTS: usize = 250;

/// A name as SQL.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
