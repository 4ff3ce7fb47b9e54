//! From what Redis says to what the caller should do.

use mamos_core::{Error, ErrorKind};
use redis::{RedisError, ServerErrorKind};

/// Why an operation failed inside the store.
#[derive(Debug)]
pub(super) enum Fault {
    /// Redis, or the way to it, failed.
    Redis(RedisError),
    /// What is stored cannot be understood.
    Corrupt(String),
    /// The contract says no. Nothing was written.
    Refused(ErrorKind, &'static str),
    /// Others changed the same records again and again. Nothing was written.
    Busy,
    /// The store is gone.
    Closed,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Redis(error) => error.fmt(f),
            Self::Corrupt(message) => message.fmt(f),
            Self::Refused(_, message) => message.fmt(f),
            Self::Busy => f.write_str("others changed the same records again and again"),
            Self::Closed => f.write_str("the store was closed"),
        }
    }
}

impl From<RedisError> for Fault {
    fn from(error: RedisError) -> Self {
        Self::Redis(error)
    }
}

impl Fault {
    /// The same once more, for each caller of a batch that failed as a whole.
    pub(super) fn duplicate(&self) -> Self {
        match self {
            Self::Redis(error) => Self::Redis(error.clone()),
            Self::Corrupt(message) => Self::Corrupt(message.clone()),
            Self::Refused(kind, message) => Self::Refused(*kind, message),
            Self::Busy => Self::Busy,
            Self::Closed => Self::Closed,
        }
    }

    /// Is it one of the operations of a batch that is wrong, and not Redis or the way to it?
    pub(super) fn is_of_one(&self) -> bool {
        matches!(self, Self::Corrupt(_) | Self::Refused(..))
    }

    /// The error for the caller of `operation` on the store at `place`.
    pub(super) fn into_error(self, operation: &'static str, place: &str) -> Error {
        match self {
            Self::Refused(kind, message) => Error::new(kind, operation, message),
            Self::Closed => Error::new(
                ErrorKind::Closed,
                operation,
                format!("the store on {place} was closed; open it again"),
            ),
            Self::Busy => Error::new(
                ErrorKind::Unavailable,
                operation,
                format!(
                    "{place}: others changed the same records again and again; nothing was written, try again"
                ),
            ),
            Self::Corrupt(message) => Error::new(
                ErrorKind::Corrupt,
                operation,
                format!(
                    "a record in {place} cannot be understood: {message}; look at it or restore a backup"
                ),
            ),
            Self::Redis(error) => {
                let (kind, message) = explain(&error);
                Error::new(kind, operation, format!("{place}: {message}")).with_source(cause(&error))
            }
        }
    }
}

/// What was decoded. `None`, and a line in the host's log, if one record cannot be understood: that must not
/// stop what is done with the others.
pub(super) fn readable<T>(decoded: Result<T, Fault>, what: &'static str) -> Result<Option<T>, Fault> {
    match decoded {
        Ok(value) => Ok(Some(value)),
        Err(Fault::Corrupt(why)) => {
            tracing::error!(target: "mamos::store", what, %why, "a record cannot be understood and is left out");
            Ok(None)
        }
        Err(fault) => Err(fault),
    }
}

pub(super) fn corrupt(what: &str, why: impl std::fmt::Display) -> Fault {
    Fault::Corrupt(format!("{what}: {why}"))
}

/// What Redis said, without what the client adds: that may be the values of a command.
fn cause(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (Some(code), None) => code.to_owned(),
        (None, _) => error.to_string(),
    }
}

/// What an error of Redis means for a person.
fn explain(error: &RedisError) -> (ErrorKind, &'static str) {
    use redis::ErrorKind as Kind;
    let code = error.code().unwrap_or_default();
    let said = error.detail().unwrap_or_default();
    match (error.kind(), code) {
        (_, "NOAUTH") => {
            (ErrorKind::Denied, "redis asks for a password; put it into the URL: redis://user:password@host")
        }
        (_, "WRONGPASS") | (Kind::AuthenticationFailed, _) => {
            (ErrorKind::Denied, "redis refused the name or password; check both in the URL and `ACL GETUSER`")
        }
        (Kind::Server(ServerErrorKind::NoPerm), _) | (_, "NOPERM") => (
            ErrorKind::Denied,
            "the user may not use a command or key that the store needs; grant what docs/store-redis.md lists with \
             `ACL SETUSER`",
        ),
        (Kind::Server(ServerErrorKind::ReadOnly), _) => (
            ErrorKind::Unavailable,
            "the server is a read-only replica; name the primary, or wait until the failover is over",
        ),
        (Kind::Server(ServerErrorKind::BusyLoading), _) => {
            (ErrorKind::Unavailable, "redis still loads its data; wait until it is done")
        }
        (Kind::Server(ServerErrorKind::MasterDown), _) => (
            ErrorKind::Unavailable,
            "the server is a replica that lost its primary; name the primary, or wait until the failover is over",
        ),
        (Kind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask), _) => (
            ErrorKind::Config,
            "another node of the cluster keeps these keys; name the node that `CLUSTER KEYSLOT` and `CLUSTER NODES` give for \
             the prefix",
        ),
        (Kind::Server(ServerErrorKind::ClusterDown | ServerErrorKind::TryAgain), _) => {
            (ErrorKind::Unavailable, "the cluster is down or moves these keys; wait until it is done")
        }
        (_, "OOM") => (
            ErrorKind::Unavailable,
            "redis has no memory left; raise `maxmemory`, or prune jobs that ended sooner",
        ),
        (_, "MISCONF") => (
            ErrorKind::Unavailable,
            "redis cannot write its files and refuses writes; check its disk and its log",
        ),
        (_, "BUSY") => {
            (ErrorKind::Unavailable, "redis runs a slow script of somebody; wait, or `SCRIPT KILL` it")
        }
        (_, "NOREPLICAS") => (
            ErrorKind::Unavailable,
            "too few replicas are connected for `min-replicas-to-write`; wait for them",
        ),
        (_, "WRONGTYPE") => (
            ErrorKind::Corrupt,
            "a key has another type than this version made it; another program uses the prefix, or the data is damaged",
        ),
        _ if said.contains("WRONGTYPE") => (
            ErrorKind::Corrupt,
            "a key has another type than this version made it; another program uses the prefix, or the data is damaged",
        ),
        _ if said.contains("NOPERM") || said.contains("can't run this command") => (
            ErrorKind::Denied,
            "the user may not use a command or key that the store needs; grant what docs/store-redis.md lists with \
             `ACL SETUSER`",
        ),
        (Kind::InvalidClientConfig, _) => (
            ErrorKind::Config,
            "the URL is wrong; write redis://user:password@host:port/database, or rediss:// for TLS",
        ),
        _ if error.is_timeout() => (
            ErrorKind::Unavailable,
            "redis did not answer in time; check its load, or raise `response_timeout`",
        ),
        (Kind::Io, _) => {
            (ErrorKind::Unavailable, "the connection to redis failed; check that it runs and can be reached")
        }
        (Kind::Parse | Kind::UnexpectedReturnType, _) => {
            (ErrorKind::Corrupt, "redis answered what no redis answers; check what listens at this address")
        }
        (Kind::Server(ServerErrorKind::ResponseError), _) => {
            (ErrorKind::Corrupt, "a script failed on what is stored; look at the cause, or restore a backup")
        }
        _ => (ErrorKind::Unavailable, "redis refused; see the cause"),
    }
}
