//! The program of the server: composed as `mamos-server` is, over SQLite.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use mamos_core::orchestrator::TokenScope;
use mamos_core::{Orchestrator, Store};
use mamos_http::{AGENT_LINK_PATH, Access, AgentEndpoint, Api, NewKey, Server, UserName};
use mamos_store::broken::Broken;
use mamos_store::{SqliteSettings, SqliteStore};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::place::{Place, Sabotage, end_with_the_driver};

/// What the server must be told.
#[derive(Debug, Args)]
pub struct ServerArguments {
    /// Where all files are.
    pub directory: PathBuf,
    /// Where to listen, on this machine.
    #[arg(long)]
    pub port: u16,
    /// How long a lease is.
    #[arg(long)]
    pub lease_ms: u64,
    /// A fault to put in.
    #[arg(long)]
    pub sabotage: Option<Sabotage>,
}

/// Serves until SIGTERM.
///
/// # Errors
///
/// If it cannot begin, or the orchestrator fails.
pub fn run(arguments: ServerArguments) -> anyhow::Result<()> {
    end_with_the_driver();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve(arguments))
}

async fn serve(arguments: ServerArguments) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let place = Place::new(&arguments.directory);
    let sqlite = SqliteStore::open(SqliteSettings::new(place.database())).await?;
    let store: Arc<dyn Store> = match arguments.sabotage.and_then(Sabotage::flaw) {
        None => Arc::new(sqlite),
        Some(flaw) => Arc::new(Broken::new(sqlite, flaw)),
    };
    let lease = Duration::from_millis(arguments.lease_ms);
    let (listener, link) = AgentEndpoint::new().split();
    let orchestrator = Orchestrator::builder(store)
        .listener(listener)
        .lease_ttl(lease)
        .heartbeat_every(lease / 4)
        .keep_ended(None)
        .build()?;
    let access = Access::new(&orchestrator);
    let api = Api::builder(&orchestrator).access(Arc::clone(&access)).request_rate(None).build();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, arguments.port));
    let server = Server::builder(address).bind().await?;
    if !place.secrets().exists() {
        make_secrets(&place, &orchestrator, &access).await?;
    }
    let stop = CancellationToken::new();
    let serving = server.run(api.router().route(AGENT_LINK_PATH, link), {
        let (stop, api) = (stop.clone(), api.clone());
        async move {
            stop.cancelled().await;
            api.close_streams();
        }
    });
    let running = async { tokio::join!(orchestrator.run(stop.cancelled()), serving).0 };
    let stopping = async {
        terminate.recv().await;
        stop.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = running => Ok(ended?),
        () = stopping => Ok(()),
    }
}

/// Makes what the agents register with and the key of the client. They stay good over restarts.
async fn make_secrets(place: &Place, orchestrator: &Orchestrator, access: &Access) -> anyhow::Result<()> {
    let scope = TokenScope { uses: 1_000_000, ..TokenScope::once(Duration::from_secs(3600)) };
    let (_, token) = orchestrator.create_token(scope).await?;
    let client = UserName::new("client")?;
    access.create_user(&client, None, ["operator".to_owned()].into()).await?;
    let (_, key) = access.create_key(&client, NewKey::named("the client of the scenarios")).await?;
    let temporary = place.secrets().with_extension("new");
    std::fs::write(&temporary, format!("{}\n{}\n", token.expose(), key.expose()))?;
    Ok(std::fs::rename(temporary, place.secrets())?)
}
