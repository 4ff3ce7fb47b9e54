//! Promises about connections as a whole.

use mamos_core::ErrorKind;
use mamos_core::transport::Frame;

use super::super::promise::{Verdict, ensure, poll_once, soon, unless_silent};
use super::{Pair, into_bytes, number_of, numbered, receive_all, send_all};

const CONNECTIONS: u64 = 100;

pub(super) async fn one_connection_ends_without_the_others(pair: Pair) -> Verdict {
    let (first, first_there) = pair.connected().await?;
    let (second, second_there) = pair.connected().await?;
    let (third, third_there) = pair.connected().await?;
    first.close().await;
    drop(third_there);
    tokio::try_join!(
        send_all(&*second, 0..10, |_| 100),
        send_all(&*second_there, 20..30, |_| 100),
        receive_all(&*second_there, 0..10),
        receive_all(&*second, 20..30),
    )?;
    drop((first_there, third));
    Ok(())
}

pub(super) async fn many_connections_live_at_once(pair: Pair) -> Verdict {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(pair.connected().await?);
    }
    for (number, (ours, _)) in connections.iter().enumerate() {
        send_all(&**ours, number as u64..number as u64 + 1, |_| 20).await?;
    }
    let mut seen = Vec::new();
    for (_, theirs) in &connections {
        let received = if theirs.is_reliable() {
            soon("receive", theirs.receive()).await?
        } else {
            let Some(received) = unless_silent(theirs.receive()).await else { continue };
            received
        };
        let frame = received.map_err(|e| e.to_string())?.ok_or("a connection ended")?;
        seen.push(number_of(&into_bytes(frame)?.1).ok_or("a frame came that was never sent")?);
    }
    let is_reliable = connections.iter().all(|(ours, _)| ours.is_reliable());
    let count = seen.len();
    seen.sort_unstable();
    seen.dedup();
    ensure!(seen.len() == count, "a frame came out of two connections");
    ensure!(!is_reliable || count as u64 == CONNECTIONS, "only {count} of {CONNECTIONS} connections spoke");
    Ok(())
}

pub(super) async fn a_dropped_accept_loses_no_connection(pair: Pair) -> Verdict {
    const COUNT: usize = 20;
    let connecting = async {
        let mut connected = Vec::new();
        for _ in 0..COUNT {
            let connection = soon("connect", pair.connector.connect()).await?.map_err(|e| e.to_string())?;
            // Says something, for transports whose connections are noticed only then.
            let sent = connection.send(Frame::binary(numbered(0, 8))).await;
            sent.map_err(|e| e.to_string())?;
            connected.push(connection);
        }
        Ok::<_, String>(connected)
    };
    let accepting = async {
        let mut accepted = Vec::new();
        while accepted.len() < COUNT {
            for _ in 0..3 {
                if let Some(connection) = poll_once(pair.listener.accept()).await {
                    accepted.push(connection.map_err(|e| e.to_string())?);
                }
                tokio::task::yield_now().await;
            }
            let patience = std::time::Duration::from_millis(if accepted.is_empty() { 1000 } else { 500 });
            if accepted.len() < COUNT {
                match tokio::time::timeout(patience, pair.listener.accept()).await {
                    Ok(connection) => accepted.push(connection.map_err(|e| e.to_string())?),
                    Err(_) => return Err(format!("{} of {COUNT} connections were accepted", accepted.len())),
                }
            }
        }
        Ok(accepted)
    };
    let (connected, accepted) = tokio::try_join!(connecting, accepting)?;
    ensure!(accepted.len() == connected.len(), "{} of {COUNT} connections were accepted", accepted.len());
    Ok(())
}

pub(super) async fn connecting_to_nobody_is_unavailable(pair: Pair) -> Verdict {
    let Pair { listener, connector, guard, .. } = pair;
    drop(listener);
    let connected = soon("connect", connector.connect()).await?;
    let kind = connected.as_ref().map_err(|e| e.kind());
    ensure!(matches!(kind, Err(ErrorKind::Unavailable)), "the answer was {connected:?}");
    drop(guard);
    Ok(())
}

pub(super) async fn everything_has_a_name(pair: Pair) -> Verdict {
    let (ours, theirs) = pair.connected().await?;
    ensure!(!pair.listener.describe().is_empty(), "the listener has no description");
    ensure!(!pair.connector.describe().is_empty(), "the connector has no description");
    ensure!(!ours.peer().is_empty() && !theirs.peer().is_empty(), "a connection has no peer");
    Ok(())
}
