//! Promises about slow sides and dropped calls.

use std::time::Duration;

use mamos_core::transport::Frame;

use super::super::promise::{SILENCE, Verdict, ensure, poll_once, soon, unless_silent};
use super::{Pair, into_bytes, number_of, numbered, receive_all, send_all};

/// More than any default buffer of sockets, much less than what an unbounded one would take.
const MOST_BUFFERED_BYTES: usize = 48 * 1024 * 1024;

pub(super) async fn a_dropped_receive_loses_nothing(pair: Pair) -> Verdict {
    let (ours, theirs) = pair.connected().await?;
    // Some are larger than any read at once, so that frames are cut off in the middle.
    let size = |number| if number % 10 == 0 { 200_000 } else { 8 + number as usize % 100 };
    let receiving = async {
        let (mut expected, mut drops, mut silences) = (0, 0u32, 0u32);
        while expected < 500 {
            let received = if drops % 4 == 3 {
                tokio::time::timeout(Duration::from_millis(1), theirs.receive()).await.ok()
            } else {
                poll_once(theirs.receive()).await
            };
            let Some(received) = received else {
                drops += 1;
                silences += 1;
                if silences > 4 * 5000 {
                    return match theirs.is_reliable() {
                        true => Err(format!("frame {expected} never came after {drops} dropped calls")),
                        false => Ok(()),
                    };
                }
                tokio::task::yield_now().await;
                continue;
            };
            silences = 0;
            let Some(frame) = received.map_err(|e| e.to_string())? else {
                return Err("the connection ended".to_owned());
            };
            let number = number_of(&into_bytes(frame)?.1);
            ensure!(number.is_some(), "a frame came that was never sent, after {drops} dropped calls");
            if theirs.is_reliable() {
                ensure!(
                    number == Some(expected),
                    "frame {expected} was expected and {number:?} came, after {drops} dropped calls"
                );
                expected += 1;
            }
        }
        Ok(())
    };
    let sending = async {
        for number in 0..500 {
            send_all(&*ours, number..number + 1, size).await?;
            // Now and then the receiver finds nothing, so that its calls are dropped.
            if number % 3 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        Ok(())
    };
    tokio::try_join!(sending, receiving).map(|_| ())
}

pub(super) async fn a_dropped_send_leaves_frames_whole(pair: Pair) -> Verdict {
    let (ours, theirs) = pair.connected().await?;
    let mut done = Vec::new();
    for number in 0..400 {
        let frame = Frame::binary(numbered(number, 100_000));
        match poll_once(ours.send(frame)).await {
            Some(sent) => {
                sent.map_err(|e| e.to_string())?;
                done.push(number);
            }
            // Full: lets some of it flow off, so that the next one finds half a frame before it.
            None if number % 20 == 0 => {
                if let Some(received) = unless_silent(theirs.receive()).await {
                    let frame = received.map_err(|e| e.to_string())?.ok_or("the connection ended")?;
                    let number =
                        number_of(&into_bytes(frame)?.1).ok_or("a frame came that was never sent")?;
                    done.retain(|other| *other != number);
                }
            }
            None => {}
        }
    }
    // A last frame, which is not dropped, carries along what was left.
    let sending = async {
        let sent = soon("send", ours.send(Frame::binary(numbered(1000, 8)))).await?;
        sent.map_err(|e| e.to_string())
    };
    let receiving = async {
        let mut last = None;
        while last != Some(1000) {
            let received = match unless_silent(theirs.receive()).await {
                Some(received) => received,
                None if theirs.is_reliable() => return Err("the last frame never came".to_owned()),
                None => return Ok(()),
            };
            let frame = received.map_err(|e| e.to_string())?.ok_or("the connection ended")?;
            let number = number_of(&into_bytes(frame)?.1).ok_or("a frame came that was never sent")?;
            if theirs.is_reliable() {
                ensure!(last.is_none_or(|last| last < number), "frame {number} came after {last:?}");
            }
            done.retain(|other| *other != number);
            last = Some(number);
        }
        ensure!(!theirs.is_reliable() || done.is_empty(), "frames {done:?} were sent and never came");
        Ok(())
    };
    tokio::try_join!(sending, receiving).map(|_| ())
}

pub(super) async fn a_slow_receiver_slows_the_sender(pair: Pair) -> Verdict {
    let (ours, theirs) = pair.connected().await?;
    let size = pair.max_frame_bytes.map_or(64 * 1024, |max| max.min(64 * 1024));
    let enough = (2 * MOST_BUFFERED_BYTES / size) as u64;
    let mut accepted = 0;
    while accepted < enough {
        let frame = Frame::binary(numbered(accepted, size));
        match tokio::time::timeout(SILENCE, ours.send(frame)).await {
            Ok(sent) => sent.map_err(|e| e.to_string())?,
            Err(_) => break,
        }
        accepted += 1;
    }
    let buffered = accepted as usize * size;
    if ours.is_reliable() {
        ensure!(buffered <= MOST_BUFFERED_BYTES, "{buffered} bytes were taken while nobody received");
        return receive_all(&*theirs, 0..accepted).await;
    }
    // What may be lost may also be dropped, but not kept.
    let mut kept = 0;
    while let Some(received) = unless_silent(theirs.receive()).await {
        let frame = received.map_err(|e| e.to_string())?.ok_or("the connection ended")?;
        kept += into_bytes(frame)?.1.len();
    }
    ensure!(kept <= MOST_BUFFERED_BYTES, "{kept} bytes were kept while nobody received");
    Ok(())
}
