//! The network between two programs: a TCP proxy that can be cut in all the ways in which networks
//! are.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// How the network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// All goes through.
    Clear,
    /// Connections are reset on both sides, and refused.
    Reset,
    /// What agents send is held up; it arrives when the sky clears, as TCP has it.
    HoldToServer,
    /// What the server sends is held up.
    HoldToAgents,
    /// Both are.
    HoldBoth,
    /// Half open: the server's side is reset, and the agents are not told, now or later.
    AgentsUnaware,
    /// Half open: the agents' side is reset, and the server is not told.
    ServerUnaware,
}

impl Weather {
    /// All that can be wrong.
    pub const BAD: [Self; 6] = [
        Self::Reset,
        Self::HoldToServer,
        Self::HoldToAgents,
        Self::HoldBoth,
        Self::AgentsUnaware,
        Self::ServerUnaware,
    ];

    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clear => "clear",
            Self::Reset => "reset",
            Self::HoldToServer => "deaf server",
            Self::HoldToAgents => "deaf agents",
            Self::HoldBoth => "silence",
            Self::AgentsUnaware => "half open at agents",
            Self::ServerUnaware => "half open at server",
        }
    }

    fn ends_connections(self) -> bool {
        matches!(self, Self::Reset | Self::AgentsUnaware | Self::ServerUnaware)
    }

    fn lets_through(self, is_to_server: bool) -> bool {
        match self {
            Self::HoldToServer => !is_to_server,
            Self::HoldToAgents => is_to_server,
            Self::HoldBoth => false,
            _ => true,
        }
    }
}

/// A proxy on a port of its own. Dropping it resets everything.
pub(crate) struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    _accepting: AbortOnDropHandle<()>,
}

impl Proxy {
    pub(crate) async fn before(server: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (weather, watched) = watch::channel(Weather::Clear);
        let accepting = AbortOnDropHandle::new(tokio::spawn(accept(listener, server, watched)));
        Ok(Self { address, weather, _accepting: accepting })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, weather: watch::Receiver<Weather>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((agent, _)) => drop(connections.spawn(connect(agent, server, weather.clone()))),
                Err(error) => tracing::warn!(%error, "the proxy could not accept"),
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connect(agent: TcpStream, server: SocketAddr, weather: watch::Receiver<Weather>) {
    if weather.borrow().ends_connections() {
        return reset(agent);
    }
    match TcpStream::connect(server).await {
        Ok(server) => carry(agent, server, weather).await,
        Err(_) => reset(agent),
    }
}

/// Carries bytes both ways until one side ends, or the weather ends it.
async fn carry(mut agent: TcpStream, mut server: TcpStream, mut weather: watch::Receiver<Weather>) {
    let storm = {
        let (from_agent, to_agent) = agent.split();
        let (from_server, to_server) = server.split();
        let up = pump(from_agent, to_server, weather.clone(), true);
        let down = pump(from_server, to_agent, weather.clone(), false);
        tokio::select! {
            () = up => None,
            () = down => None,
            storm = weather.wait_for(|weather| weather.ends_connections()) => storm.ok().map(|storm| *storm),
        }
    };
    let unaware = match storm {
        None => return,
        Some(Weather::AgentsUnaware) => {
            reset(server);
            agent
        }
        Some(Weather::ServerUnaware) => {
            reset(agent);
            server
        }
        Some(_) => {
            reset(agent);
            return reset(server);
        }
    };
    // What it says goes nowhere, until it gives up.
    let (mut from, _to) = unaware.into_split();
    let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut weather: watch::Receiver<Weather>,
    is_to_server: bool,
) {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        if weather.wait_for(|weather| weather.lets_through(is_to_server)).await.is_err() {
            return;
        }
        let count = tokio::select! {
            biased;
            changed = weather.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            read = from.read(&mut bytes) => match read {
                Ok(count) if count > 0 => count,
                _ => return,
            },
        };
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

/// Closes it so that the other side is told at once that something is wrong.
fn reset(stream: TcpStream) {
    // Closed without it, it is just an orderly end.
    let _ = stream.set_zero_linger();
}
