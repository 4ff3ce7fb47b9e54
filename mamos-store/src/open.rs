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
/// | `sqlite:PATH`, with `?durability=full`, `normal` or `off` | [`SqliteStore`](crate::SqliteStore) | `sqlite` |
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
        _ => {
            let message =
                format!("`{scheme}:` is no store; use memory:, sqlite:PATH, postgres://… or redis://…");
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
    Err(without("sqlite"))
}

#[allow(dead_code, reason = "not with every set of features")]
fn without(feature: &str) -> Error {
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

    #[tokio::test]
    async fn what_is_no_store_is_refused_with_what_would_be_one() {
        for url in ["", "mysql://host/db", "jobs.db", "sqlite:"] {
            let (kind, message) = refused(url).await;
            assert!(matches!(kind, ErrorKind::Config | ErrorKind::Unsupported), "{url}: {message}");
        }
        assert!(refused("mysql://host").await.1.contains("postgres://"));
    }
}
