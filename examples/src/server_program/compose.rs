//! The settings become an orchestrator, an API and a server.

use std::path::PathBuf;
use std::sync::Arc;

use mamos_agent::load_policy;
use mamos_core::whitelist::{DenyAll, Reloadable};
use mamos_core::{Orchestrator, Store};
use mamos_http::{AGENT_LINK_PATH, Access, AgentEndpoint, Api, FailureLimiter, Rate, Server, Tls};
use mamos_store::{MemoryStore, SqliteSettings, SqliteStore};
use mamos_transport::link_over_bus::LinkOverBusListener;
use mamos_transport::socket::{TcpFrameListener, UnixFrameListener};

use super::links::Links;
use super::settings::{Durability, Settings, StoreChoice};
use crate::program::{Trouble, make_directory};

/// Refused joins from one address: a wrong token is tried again by nobody who means well.
const REFUSED_JOINS: (u32, u32) = (1, 30);

/// Everything that runs.
pub(super) struct Composed {
    pub(super) orchestrator: Orchestrator,
    pub(super) access: Arc<Access>,
    pub(super) api: Api,
    pub(super) router: axum::Router,
    pub(super) server: Server,
    pub(super) whitelist: Reloadable,
    /// Who listens on the bus. Closed when the orchestrator has stopped.
    pub(super) on_bus: Option<Arc<LinkOverBusListener>>,
    /// Closed last of all.
    pub(super) sqlite: Option<Arc<SqliteStore>>,
}

/// Opens the store and listens.
pub(super) async fn compose(settings: &Settings) -> Result<Composed, Trouble> {
    let whitelist = whitelist(settings)?;
    let tls = tls(settings)?;
    let (store, sqlite) = store(settings).await?;
    let links = match &settings.bus {
        Some(url) => Some(Links::open(settings, url, &*store).await?),
        None => None,
    };
    let has_hints = store.hints().is_some();
    let joins = Arc::new(FailureLimiter::new(Rate::per_second(REFUSED_JOINS.0, REFUSED_JOINS.1)));
    let (listener, link) =
        AgentEndpoint::new().limited_by(joins).trusted_proxies(settings.trusted_proxies.clone()).split();
    let mut builder = Orchestrator::builder(store)
        .listener(listener)
        .whitelist(Arc::new(whitelist.clone()))
        .name(&settings.name)
        .lease_ttl(settings.lease_ttl)
        .heartbeat_every(settings.heartbeat_every)
        .keep_ended(Some(settings.keep_jobs))
        .keep_audit(Some(settings.keep_audit))
        .max_connections(settings.max_agents);
    if let Some(path) = &settings.unix {
        builder = builder.listener(UnixFrameListener::bind(path).await?);
    }
    if let Some(address) = settings.tcp {
        builder = builder.listener(TcpFrameListener::bind(address).await?);
    }
    let on_bus = links.as_ref().map(|links| Arc::clone(&links.listener));
    if let Some(links) = links {
        if !has_hints {
            builder = builder.hints(links.hints());
        }
        builder = builder.listener(links.listener);
    }
    let orchestrator = builder.build()?;
    let access = Access::new(&orchestrator);
    let mut api = Api::builder(&orchestrator)
        .access(Arc::clone(&access))
        .trusted_proxies(settings.trusted_proxies.clone())
        .request_rate(match settings.requests_per_second {
            0 => None,
            rate => Some(Rate::per_second(rate, rate.saturating_mul(2))),
        });
    if settings.public_metrics {
        api = api.public_metrics();
    }
    let api = api.build();
    let router = api.router().route(AGENT_LINK_PATH, link);
    let mut server = Server::builder(settings.listen).max_connections(settings.max_agents + 4096);
    if let Some(tls) = tls {
        server = server.tls(tls);
    }
    if settings.allow_plain_text {
        server = server.allow_plain_text();
    }
    let server = server.bind().await?;
    Ok(Composed { orchestrator, access, api, router, server, whitelist, on_bus, sqlite })
}

async fn store(settings: &Settings) -> Result<(Arc<dyn Store>, Option<Arc<SqliteStore>>), Trouble> {
    match settings.store()? {
        StoreChoice::Memory => Ok((Arc::new(MemoryStore::new()), None)),
        StoreChoice::Sqlite(path) => {
            if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                make_directory(directory)?;
            }
            let store = Arc::new(open(settings, path).await?);
            Ok((Arc::clone(&store) as Arc<dyn Store>, Some(store)))
        }
        StoreChoice::Server(url) => Ok((mamos_store::open(url.expose()).await?, None)),
    }
}

/// Opens the database, and makes it if it is not there.
pub(super) async fn open(settings: &Settings, path: PathBuf) -> Result<SqliteStore, Trouble> {
    let durability = match settings.durability {
        Durability::Full => mamos_store::Durability::Full,
        Durability::Normal => mamos_store::Durability::Normal,
        Durability::Off => mamos_store::Durability::Off,
    };
    Ok(SqliteStore::open(SqliteSettings::new(path).durability(durability)).await?)
}

/// The whitelist that is in force from the start. Without a file nothing is permitted.
pub(super) fn whitelist(settings: &Settings) -> Result<Reloadable, Trouble> {
    match &settings.whitelist {
        None => Ok(Reloadable::new(DenyAll)),
        Some(path) => load_policy(path).map(Reloadable::new).map_err(|errors| {
            Trouble::usage(format!("`whitelist`: {errors}")).next("docs/whitelist.md explains every key")
        }),
    }
}

pub(super) fn tls(settings: &Settings) -> Result<Option<Tls>, Trouble> {
    match (&settings.tls_certificate, &settings.tls_key) {
        (Some(certificate), Some(key)) => Ok(Some(Tls::from_files(certificate, key)?)),
        _ => Ok(None),
    }
}
