//! The protocol's link over a connection: everything once and in order, whatever the connection does.

use std::sync::Arc;

use mamos_core::protocol::link::{AgentLink, Link, OrchestratorLink, Wire};
use mamos_core::protocol::{FromAgent, ToAgent};
use mamos_core::transport::Connection;

use super::promise::{SOON, Verdict, soon};

/// Sends `count` messages each way at once.
pub(super) async fn link_delivers(
    ours: Arc<dyn Connection>,
    theirs: Arc<dyn Connection>,
    count: u32,
) -> Verdict {
    let (agent, orchestrator) = (OrchestratorLink::new(ours), AgentLink::new(theirs));
    let up = |number| FromAgent::Slots { total: number };
    let down = |number| ToAgent::Recorded { through: u64::from(number), exceptions: Vec::new() };
    let both_done = tokio::sync::Barrier::new(2);
    tokio::try_join!(
        send(&agent, count, up),
        send(&orchestrator, count, down),
        receive(&agent, count, down, &both_done),
        receive(&orchestrator, count, up, &both_done),
    )
    .map(|_| ())
}

async fn send<Out: Wire, In: Wire>(
    link: &Link<Out, In>,
    count: u32,
    message: impl Fn(u32) -> Out,
) -> Verdict {
    for number in 0..count {
        soon("send of a link", link.send(vec![message(number)])).await?.map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Receives all, and goes on until the other side has all as well: it may still need acknowledgements.
async fn receive<Out: Wire, In: Wire + PartialEq + std::fmt::Debug>(
    link: &Link<Out, In>,
    count: u32,
    message: impl Fn(u32) -> In,
    both_done: &tokio::sync::Barrier,
) -> Verdict {
    let mut expected = 0;
    while expected < count {
        let received = soon("receive of a link", link.receive()).await?.map_err(|e| e.to_string())?;
        for received in received.ok_or("the link ended")? {
            if received != message(expected) {
                return Err(format!("message {expected} was expected, and {received:?} came"));
            }
            expected += 1;
        }
    }
    let more = tokio::select! {
        _ = both_done.wait() => return Ok(()),
        more = link.receive() => more,
        () = tokio::time::sleep(SOON) => return Err("the other side never had everything".to_owned()),
    };
    Err(format!("after the last message came {more:?}"))
}
