//! Any store by its URL.

use std::sync::Arc;

use mamos_core::{Error, ErrorKind, Result, Store};

use crate::MemoryStore;

const OPEN: &str = "store.open";

/// Opens a store by its URL, with its default settings but for what the URL says:
///
/// | URL | store | feature |
/// |---|---|---|
/// | `memory:` | [`MemoryStore`] | |
/// | `sqlite:PATH`, with `?durability=full`, `normal` or `off` | `SqliteStore` | `sqlite` |
/// | `postgres://…`, with `?schema=NAME` | `PostgresStore` | `postgres` |
/// | `redis://…`, `rediss://…`, with `?prefix=NAME` | `RedisStore` | `redis` |
///
/// # Errors
///
/// - [`ErrorKind::Config`]: the URL is not one of these, or its store cannot be opened with it.
/// - [`ErrorKind::Unsupported`]: this program was built without the feature.
/// - Those of the store.
pub async fn open(url: &str) -> Result<Arc<dyn Store>> {
    let (scheme, rest) = url.split_once(':').unwrap_or((url, ""));
    match scheme {
        "memory" => Ok(Arc::new(MemoryStore::new())),
        "sqlite" => sqlite(rest).await,
        "postgres" | "postgresql" => postgres(url).await,
        "redis" | "rediss" => redis(url).await,
        // Not the URL itself: it may hold a password.
        _ => {
            let message = "the URL is that of no store; use memory:, sqlite:PATH, postgres://… or redis://…";
            Err(Error::new(ErrorKind::Config, OPEN, message))
        }
    }
}

#[cfg(feature = "sqlite")]
async fn sqlite(rest: &str) -> Result<Arc<dyn Store>> {
    use crate::{Durability, SqliteSettings, SqliteStore};
    let config = |message: String| Error::new(ErrorKind::Config, OPEN, message);
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    // `sqlite:jobs.db`, `sqlite:/var/jobs.db` and, as others write it, `sqlite:///var/jobs.db`.
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() {
        return Err(config("the URL names no file; write sqlite:PATH".to_owned()));
    }
    let mut settings = SqliteSettings::new(path);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        settings = settings.durability(match pair {
            "durability=full" => Durability::Full,
            "durability=normal" => Durability::Normal,
            "durability=off" => Durability::Off,
            _ => {
                let message = format!("`{pair}` is no setting; durability can be full, normal or off");
                return Err(config(message));
            }
        });
    }
    Ok(Arc::new(SqliteStore::open(settings).await?))
}

#[cfg(not(feature = "sqlite"))]
async fn sqlite(_: &str) -> Result<Arc<dyn Store>> {
    Err(built_without("sqlite"))
}

#[cfg(feature = "postgres")]
async fn postgres(url: &str) -> Result<Arc<dyn Store>> {
    use crate::{PostgresSettings, PostgresStore};
    let (url, schema) = without_parameter(url, "schema");
    let mut settings = PostgresSettings::new(url);
    if let Some(schema) = schema {
        settings = settings.schema(schema);
    }
    Ok(Arc::new(PostgresStore::open(settings).await?))
}

#[cfg(not(feature = "postgres"))]
async fn postgres(_: &str) -> Result<Arc<dyn Store>> {
    Err(built_without("postgres"))
}

#[cfg(feature = "redis")]
async fn redis(url: &str) -> Result<Arc<dyn Store>> {
    use crate::{RedisSettings, RedisStore};
    let (url, prefix) = without_parameter(url, "prefix");
    let mut settings = RedisSettings::new(url);
    if let Some(prefix) = prefix {
        settings = settings.prefix(prefix);
    }
    Ok(Arc::new(RedisStore::open(settings).await?))
}

#[cfg(not(feature = "redis"))]
async fn redis(_: &str) -> Result<Arc<dyn Store>> {
    Err(built_without("redis"))
}

/// The URL without one of its parameters, which is ours and means nothing to the server, and its value.
#[cfg(any(feature = "postgres", feature = "redis", test))]
fn without_parameter(url: &str, name: &str) -> (String, Option<String>) {
    let Some((place, query)) = url.split_once('?') else { return (url.to_owned(), None) };
    let value_of =
        |pair: &str| pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned());
    let value = query.split('&').find_map(value_of);
    let rest: Vec<&str> = query.split('&').filter(|pair| value_of(pair).is_none()).collect();
    let url = if rest.is_empty() { place.to_owned() } else { format!("{place}?{}", rest.join("&")) };
    (url, value)
}

#[cfg(not(all(feature = "sqlite", feature = "postgres", feature = "redis")))]
fn built_without(feature: &str) -> Error {
    let message = format!("this program was built without the feature `{feature}` of mamos-store");
    Error::new(ErrorKind::Unsupported, OPEN, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refused(url: &str) -> (ErrorKind, String) {
        let error = open(url).await.map(|store| store.describe()).unwrap_err();
        (error.kind(), error.to_string())
    }

    #[tokio::test]
    async fn a_store_is_opened_by_its_url() {
        assert!(open("memory:").await.unwrap().describe().starts_with("memory"));
    }

    #[cfg(feature = "sqlite")]
    #[tokio::test]
    async fn a_file_is_opened_with_the_durability_of_the_url() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("jobs.db");
        for (url, durability) in [
            (format!("sqlite:{}", path.display()), "full"),
            (format!("sqlite://{}?durability=normal", path.display()), "normal"),
            (format!("sqlite:{}?durability=off", path.display()), "off"),
        ] {
            let described = open(&url).await.unwrap().describe();
            assert!(described.contains(&format!("durability {durability}")), "{described}");
        }
        let (kind, message) = refused(&format!("sqlite:{}?durability=some", path.display())).await;
        assert_eq!(kind, ErrorKind::Config);
        assert!(message.contains("full, normal or off"), "{message}");
    }

    #[test]
    fn our_parameters_are_kept_from_the_server() {
        for (url, rest, value) in [
            ("redis://h/0", "redis://h/0", None),
            ("redis://h?prefix=a", "redis://h", Some("a")),
            ("redis://h?protocol=3&prefix=a", "redis://h?protocol=3", Some("a")),
            ("redis://h?prefix=a&protocol=3&xprefix=b", "redis://h?protocol=3&xprefix=b", Some("a")),
        ] {
            assert_eq!(
                without_parameter(url, "prefix"),
                (rest.to_owned(), value.map(str::to_owned)),
                "{url}"
            );
        }
    }

    #[tokio::test]
    async fn what_is_no_store_is_refused_with_what_would_be_one() {
        for url in ["", "mysql://host/db", "jobs.db", "sqlite:"] {
            let (kind, message) = refused(url).await;
            assert!(matches!(kind, ErrorKind::Config | ErrorKind::Unsupported), "{url}: {message}");
        }
        let (_, message) = refused("mysql://user:secret@host").await;
        assert!(message.contains("postgres://") && !message.contains("secret"), "{message}");
    }
}
