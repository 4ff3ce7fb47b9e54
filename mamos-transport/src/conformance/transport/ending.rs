//! Promises about the end of a connection.

use std::time::Duration;

use mamos_core::transport::{Connection, Frame};
use mamos_core::{Error, ErrorKind};

use super::super::promise::{Verdict, ensure, soon};
use super::{Pair, into_bytes, number_of, numbered, send_all};

fn is_end(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Closed | ErrorKind::Unavailable)
}

/// Receives until the end, which may be orderly or not, and checks that it stays.
async fn receives_to_the_end(who: &str, connection: &dyn Connection) -> Verdict {
    let end = async {
        loop {
            match connection.receive().await {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                Err(error) if is_end(&error) => return Ok(()),
                Err(error) => return Err(format!("{who}: the end was {error}")),
            }
        }
    };
    soon(&format!("{who}: the end of receiving"), end).await??;
    match soon(&format!("{who}: receiving after the end"), connection.receive()).await? {
        Ok(Some(frame)) => Err(format!("{who}: after the end came {frame:?}")),
        Ok(None) | Err(_) => Ok(()),
    }
}

/// Sends until it fails.
async fn sends_to_the_end(who: &str, connection: &dyn Connection) -> Verdict {
    let end = async {
        loop {
            match connection.send(Frame::binary(numbered(9, 8))).await {
                Ok(()) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(error) if is_end(&error) => return Ok(()),
                Err(error) => return Err(format!("{who}: sending ended with {error}")),
            }
        }
    };
    soon(&format!("{who}: the end of sending"), end).await?
}

pub(super) async fn an_orderly_close_comes_after_the_frames(pair: Pair) -> Verdict {
    let (ours, theirs) = pair.connected().await?;
    let closing = async {
        send_all(&*ours, 0..10, |_| 1000).await?;
        ours.close().await;
        Ok::<_, String>(())
    };
    let receiving = async {
        let mut expected = 0;
        loop {
            let received = soon("receive", theirs.receive()).await?;
            let Some(frame) = received.map_err(|e| format!("instead of an orderly end: {e}"))? else { break };
            let number = number_of(&into_bytes(frame)?.1);
            ensure!(
                !theirs.is_reliable() || number == Some(expected),
                "frame {expected} was expected, and {number:?} came"
            );
            expected += 1;
        }
        ensure!(!theirs.is_reliable() || expected == 10, "only {expected} of 10 frames came before the end");
        let again = soon("receiving after the end", theirs.receive()).await?;
        ensure!(matches!(again, Ok(None) | Err(_)), "after the end came {again:?}");
        Ok(())
    };
    tokio::try_join!(closing, receiving).map(|_| ())
}

pub(super) async fn closing_ends_both_sides_and_more_than_once(pair: Pair) -> Verdict {
    let (ours, theirs) = pair.connected().await?;
    let closing = async {
        // Lets the others wait first.
        tokio::time::sleep(Duration::from_millis(20)).await;
        soon("close", ours.close()).await?;
        soon("the second close", ours.close()).await
    };
    let (here, there) = (
        receives_to_the_end("the side that closed", &*ours),
        receives_to_the_end("the other side", &*theirs),
    );
    tokio::try_join!(closing, here, there)?;
    sends_to_the_end("the side that closed", &*ours).await?;
    sends_to_the_end("the other side", &*theirs).await?;
    soon("close of the other side", theirs.close()).await
}

pub(super) async fn a_blocked_send_ends_when_the_connection_does(pair: Pair) -> Verdict {
    for closed_by_sender in [true, false] {
        let (ours, theirs) = pair.connected().await?;
        let flood = async {
            loop {
                match ours.send(Frame::binary(numbered(1, 50_000))).await {
                    Ok(()) => tokio::task::yield_now().await,
                    Err(error) if is_end(&error) => return Ok(()),
                    Err(error) => return Err(format!("a blocked send ended with {error}")),
                }
            }
        };
        let close = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let closing = if closed_by_sender { ours.close() } else { theirs.close() };
            soon("close", closing).await
        };
        let who = if closed_by_sender { "its own side closed" } else { "the other side closed" };
        tokio::try_join!(async { soon(&format!("a blocked send, after {who},"), flood).await? }, close)?;
    }
    Ok(())
}

pub(super) async fn an_abrupt_end_is_noticed(pair: Pair) -> Verdict {
    let (ours, theirs) = pair.connected().await?;
    send_all(&*ours, 0..1, |_| 8).await?;
    drop(ours);
    receives_to_the_end("the side that is left", &*theirs).await?;
    sends_to_the_end("the side that is left", &*theirs).await
}
