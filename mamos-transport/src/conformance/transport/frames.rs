//! Promises about frames.

use mamos_core::ErrorKind;
use mamos_core::transport::{Encoding, Frame, MAX_FRAME_BYTES};

use super::super::promise::{Verdict, ensure, soon, unless_silent};
use super::{Pair, into_bytes, numbered, receive_all, send_all};

pub(super) async fn frames_of_every_size_arrive_whole(pair: Pair) -> Verdict {
    let (ours, theirs) = pair.connected().await?;
    let mut sizes = vec![0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 127, 128, 255, 256, 257, 1000, 4096, 65_535, 65_536];
    sizes.extend([65_537, 100_000, 1_000_000, pair.max_frame_bytes.unwrap_or(MAX_FRAME_BYTES)]);
    sizes.retain(|size| pair.max_frame_bytes.is_none_or(|max| *size <= max));
    let frames: Vec<_> = sizes.iter().map(|size| numbered(*size as u64, *size).slice(..*size)).collect();
    let sending = async {
        for frame in &frames {
            let sent = soon("send", ours.send(Frame::binary(frame.clone()))).await?;
            sent.map_err(|e| format!("a frame of {} bytes: {e}", frame.len()))?;
        }
        Ok::<_, String>(())
    };
    let receiving = async {
        let mut expected = frames.iter();
        while !theirs.is_reliable() || expected.len() > 0 {
            let received = if theirs.is_reliable() {
                soon("receive", theirs.receive()).await?
            } else {
                let Some(received) = unless_silent(theirs.receive()).await else { break };
                received
            };
            let Some(frame) = received.map_err(|e| e.to_string())? else {
                return Err("the connection ended".to_owned());
            };
            let (_, bytes) = into_bytes(frame)?;
            if theirs.is_reliable() {
                let expected = expected.next();
                ensure!(
                    expected == Some(&bytes),
                    "{:?} bytes were sent; {} came, or they were changed",
                    expected.map(|frame| frame.len()),
                    bytes.len()
                );
            } else {
                ensure!(frames.contains(&bytes), "a frame of {} bytes came that was never sent", bytes.len());
            }
        }
        Ok(())
    };
    tokio::try_join!(sending, receiving).map(|_| ())
}

pub(super) async fn ten_thousand_frames_arrive_once_and_in_order_if_it_is_reliable(pair: Pair) -> Verdict {
    let (ours, theirs) = pair.connected().await?;
    let size = |number| 8 + (number as usize * 7) % 200;
    tokio::try_join!(send_all(&*ours, 0..10_000, size), receive_all(&*theirs, 0..10_000))?;
    if ours.is_reliable() {
        let extra = unless_silent(theirs.receive()).await;
        ensure!(extra.is_none(), "something more came: {extra:?}");
    }
    Ok(())
}

pub(super) async fn binary_and_text_keep_their_encoding(pair: Pair) -> Verdict {
    let (ours, theirs) = pair.connected().await?;
    let (text, binary) = ("{\"text\":\"ä\"}", b"\x00\xff\xfe binary");
    let sending = async {
        for number in 0..20 {
            let frame = if number % 2 == 0 { Frame::text(text) } else { Frame::binary(&binary[..]) };
            ours.send(frame).await.map_err(|e| e.to_string())?;
        }
        Ok::<_, String>(())
    };
    let receiving = async {
        for number in 0..20 {
            let received = if theirs.is_reliable() {
                soon("receive", theirs.receive()).await?
            } else {
                let Some(received) = unless_silent(theirs.receive()).await else { break };
                received
            };
            let Some(frame) = received.map_err(|e| e.to_string())? else {
                return Err("the connection ended".to_owned());
            };
            match into_bytes(frame)? {
                (Encoding::Text, bytes) => ensure!(bytes == text, "a text frame was changed"),
                (Encoding::Binary, bytes) => {
                    ensure!(
                        bytes == binary[..],
                        "frame {number}: a binary frame was changed, or came from text"
                    );
                }
            }
        }
        Ok(())
    };
    tokio::try_join!(sending, receiving).map(|_| ())
}

pub(super) async fn both_directions_flow_at_once(pair: Pair) -> Verdict {
    let (ours, theirs) = pair.connected().await?;
    let size = |number| 8 + (number as usize % 16) * 4096;
    tokio::try_join!(
        send_all(&*ours, 0..400, size),
        send_all(&*theirs, 1000..1400, size),
        receive_all(&*ours, 1000..1400),
        receive_all(&*theirs, 0..400),
    )
    .map(|_| ())
}

pub(super) async fn an_oversize_frame_is_refused_and_the_connection_goes_on(pair: Pair) -> Verdict {
    let Some(max) = pair.max_frame_bytes else { return Ok(()) };
    let (ours, theirs) = pair.connected().await?;
    let sent = soon("send", ours.send(Frame::binary(numbered(7, max + 1)))).await?;
    let kind = sent.as_ref().map_err(|e| e.kind());
    ensure!(kind == Err(ErrorKind::LimitExceeded), "the answer to one byte too many was {sent:?}");
    tokio::try_join!(send_all(&*ours, 0..10, |_| 8), receive_all(&*theirs, 0..10)).map(|_| ())
}
