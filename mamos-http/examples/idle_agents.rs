//! How much memory a connected agent costs the orchestrator's side of its WebSocket.
//!
//! ```text
//! cargo run --release -p mamos-http --example idle_agents -- 2000
//! ```
//!
//! A child process listens, and this one connects. Each connection says a word both ways, then waits. What
//! is printed is resident memory, measured by the system, over that before the first connection.

#![expect(clippy::print_stdout, reason = "a program that prints a measurement")]

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use axum::Router;
use mamos_core::transport::{Connector, Frame, Listener};
use mamos_http::{AGENT_LINK_PATH, AgentEndpoint};
use mamos_transport::WebSocketConnector;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Outcome {
    match std::env::args().nth(1) {
        Some(argument) if argument == "listen" => listen().await,
        Some(count) => measure(count.parse()?).await,
        None => measure(2000).await,
    }
}

/// The child: prints its address, then serves until it is ended.
async fn listen() -> Outcome {
    let (listener, route) = AgentEndpoint::new().split();
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", socket.local_addr()?);
    let router = Router::new().route(AGENT_LINK_PATH, route);
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(socket, service).await });
    loop {
        let connection = listener.accept().await?;
        tokio::spawn(async move {
            while let Ok(Some(frame)) = connection.receive().await {
                if connection.send(frame).await.is_err() {
                    break;
                }
            }
        });
    }
}

async fn measure(count: usize) -> Outcome {
    let mut child = Command::new(std::env::current_exe()?).arg("listen").stdout(Stdio::piped()).spawn()?;
    let measured = connect_all(&mut child, count).await;
    child.kill()?;
    child.wait()?;
    measured
}

async fn connect_all(child: &mut Child, count: usize) -> Outcome {
    let output = child.stdout.take().ok_or("the child has no output")?;
    let mut address = String::new();
    BufReader::new(output).read_line(&mut address)?;
    let connector = WebSocketConnector::builder(format!("ws://{}", address.trim())).build()?;
    let mut connections = Vec::with_capacity(count);
    let mut before = (0, 0);
    for number in 0..count + 10 {
        // The first few pay for what is set aside once.
        if number == 10 {
            before = (resident_bytes(child.id())?, resident_bytes(std::process::id())?);
        }
        let connection = connector.connect().await?;
        connection.send(Frame::binary(vec![0; 500])).await?;
        connection.receive().await?.ok_or("the connection ended")?;
        connections.push(connection);
    }
    let after = (resident_bytes(child.id())?, resident_bytes(std::process::id())?);
    println!("{count} connections");
    println!("orchestrator's side: {} bytes each", (after.0 - before.0) / count);
    println!("agent's side:        {} bytes each", (after.1 - before.1) / count);
    Ok(())
}

/// From `smaps_rollup`, which is exact where `statm` lags.
fn resident_bytes(pid: u32) -> Outcome<usize> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let resident = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).ok_or("no Rss")?;
    Ok(resident.trim().trim_end_matches(" kB").parse::<usize>()? * 1024)
}
