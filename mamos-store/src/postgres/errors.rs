//! From what PostgreSQL says to what the caller should do.

use std::time::Duration;

use mamos_core::{Error, ErrorKind};

pub(super) use crate::sql::fault::{Fault, readable};

/// How often an operation is tried again that another one got in the way of.
pub(super) const RETRIES: u32 = 8;

/// How long to wait before that, so that the other one gets through.
pub(super) fn pause(tries: u32) -> Duration {
    Duration::from_millis(u64::from(tries * tries))
}

impl Fault {
    /// The error for the caller of `operation` on the database at `place`.
    pub(super) fn at(self, operation: &'static str, place: &str) -> Error {
        self.explained(operation, place, explain)
    }

    /// The same once more, for each caller of a batch that failed as a whole.
    pub(super) fn again(&self) -> Self {
        self.copied(explain)
    }

    /// Did another transaction get in the way, and would the same work now?
    pub(super) fn is_passing(&self) -> bool {
        // Serialization failure, deadlock, and a row with the same id or key that was stored meanwhile.
        matches!(self.code().as_deref(), Some("40001" | "40P01" | "23505"))
    }

    /// Is the connection gone, or not to be trusted any more?
    pub(super) fn is_link_lost(&self) -> bool {
        match self {
            Self::Sql(sqlx::Error::Database(_)) => {
                // Shut down by an administrator, crashed, or starting; or this side stood still in a transaction.
                let is_lost =
                    |code: &str| code == "25P03" || code.starts_with("57P") || code.starts_with("08");
                self.code().is_some_and(|code| is_lost(&code))
            }
            Self::Sql(error) => !matches!(
                error,
                sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::Encode(_)
            ),
            _ => false,
        }
    }

    pub(super) fn code(&self) -> Option<String> {
        match self {
            Self::Sql(sqlx::Error::Database(error)) => error.code().map(|code| code.into_owned()),
            _ => None,
        }
    }
}

/// What took longer than the timeout of the settings.
pub(super) fn timed_out() -> Fault {
    Fault::Sql(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))
}

const NO_TLS: &str = "no TLS connection could be made; check `sslmode` and `sslrootcert` in the URL";

/// What an error means for a person. The codes: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
pub(super) fn explain(error: &sqlx::Error) -> (ErrorKind, &'static str) {
    use ErrorKind::{Closed, Config, Corrupt, Unavailable};
    let database = match error {
        sqlx::Error::Database(database) => database,
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
            return (Corrupt, "a row cannot be understood; look at it or restore a backup");
        }
        sqlx::Error::PoolClosed => return (Closed, "the store was closed; open it again"),
        sqlx::Error::PoolTimedOut => {
            return (
                Unavailable,
                "no connection came free in time; try again, or allow more with `connections`",
            );
        }
        sqlx::Error::Tls(_) => return (Unavailable, NO_TLS),
        // What rustls finds wrong comes like that.
        sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            return (Unavailable, NO_TLS);
        }
        sqlx::Error::Configuration(_) => {
            return (Config, "the URL asks for what cannot be had; correct it as the cause says");
        }
        sqlx::Error::Protocol(_) => {
            return (
                Unavailable,
                "what answers there is no PostgreSQL, or wants another way to log in than a password; check host and \
                 port, and pg_hba.conf",
            );
        }
        sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::TimedOut => {
            return (Unavailable, "the server did not answer in time; check its load and the network");
        }
        sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return (
                Unavailable,
                "there is no such socket, or no file that sslrootcert, sslcert or sslkey names; correct the URL, or \
                 start the server",
            );
        }
        _ => {
            return (
                Unavailable,
                "the server did not answer; check that it runs and that this machine reaches it",
            );
        }
    };
    let code = database.code().unwrap_or_default();
    match code.as_ref() {
        "28P01" => (
            Config,
            "the server refuses the password, or wants one and the URL has none; correct it in the URL",
        ),
        "28000" => (
            Config,
            "the server lets nobody in as this user from here; check the user in the URL, its right to log in, and \
             pg_hba.conf",
        ),
        "3D000" => (Config, "there is no such database; create it, or correct the URL"),
        "3F000" | "42P01" => {
            (Config, "the tables are not there; open the store with migrations, or check `schema`")
        }
        "42501" => (Config, "the user lacks a right; see the rights in docs/store-postgres.md"),
        "25P03" => {
            (Unavailable, "this program stood still within a transaction, and the server ended it; try again")
        }
        "25006" => (Unavailable, "the server is read-only, a standby perhaps; name the primary in the URL"),
        "53100" => (Unavailable, "the disk of the server is full; free some space there, and try again"),
        "53200" => (Unavailable, "the server is out of memory; try again"),
        "53300" => (
            Unavailable,
            "the server has no connection left; raise its max_connections or lower `connections`",
        ),
        "55P03" => (Unavailable, "another transaction holds a lock for too long; look at pg_locks"),
        "57014" => (Unavailable, "the server cancelled the statement; try again"),
        "57P01" | "57P02" | "57P03" => (Unavailable, "the server stops or starts; try again"),
        "40001" | "40P01" | "23505" => {
            (Unavailable, "other transactions got in the way again and again; try again")
        }
        // Missing columns, constraints and types that this version never made.
        code if code.starts_with("42") || code.starts_with("23") || code.starts_with("22") => {
            (Corrupt, "the tables are not as this version made them; restore a backup")
        }
        code if code.starts_with("XX") => (Corrupt, "the server found its data damaged; restore a backup"),
        _ => (Unavailable, "the server refused; see the cause"),
    }
}
