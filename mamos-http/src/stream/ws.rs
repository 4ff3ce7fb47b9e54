//! WebSocket: each thing that is said is a text frame with the same JSON as over server-sent events.

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use tokio::time::{Duration, Instant};

use super::{Said, Source, Supervisor};

/// The subprotocol that the server chooses. The other one that a caller may offer carries a token.
const SUBPROTOCOL: &str = "mamos.v1";
/// A peer is pinged this often.
const PING_EVERY: Duration = Duration::from_secs(15);
/// A peer that said nothing for so long, not even a pong, is gone.
const DEAD_AFTER: Duration = Duration::from_secs(45);
/// A peer that does not take a frame for so long is gone.
const SEND_WITHIN: Duration = Duration::from_secs(30);
/// The largest frame from a peer. Nothing that it says matters.
const MAX_INBOUND_BYTES: usize = 4096;
/// How much may wait to be sent, beyond one frame.
const MAX_OUTBOUND_BYTES: usize = 256 * 1024;
/// A peer may say so much between two pings; one that says more is cut off.
const MAX_INBOUND_FRAMES: u32 = 100;

/// RFC 6455, 7.4.1.
const NORMAL: u16 = 1000;
const GOING_AWAY: u16 = 1001;
const POLICY: u16 = 1008;

/// Answers with what the source says, for as long as the supervisor lets it.
pub(crate) fn ws(upgrade: WebSocketUpgrade, source: impl Source, supervisor: Supervisor) -> Response {
    upgrade
        .max_frame_size(MAX_INBOUND_BYTES)
        .max_message_size(MAX_INBOUND_BYTES)
        .max_write_buffer_size(MAX_OUTBOUND_BYTES)
        .write_buffer_size(16 * 1024)
        .read_buffer_size(MAX_INBOUND_BYTES)
        .protocols([SUBPROTOCOL])
        .on_upgrade(|socket| serve(socket, source, supervisor))
}

async fn serve(mut socket: WebSocket, mut source: impl Source, mut supervisor: Supervisor) {
    let mut heard_at = Instant::now();
    let mut ping_at = heard_at + PING_EVERY;
    let mut inbound = 0;
    loop {
        let message = tokio::select! {
            biased;
            reason = supervisor.must_end() => Some(Said::end(reason)),
            said = async {
                tokio::select! {
                    // Fairly: neither a busy source nor a talkative peer keeps the other from its turn.
                    said = source.next() => Ok(said.unwrap_or_else(|| Said::end("shutdown"))),
                    heard = socket.recv() => Err(heard),
                }
            } => match said {
                Ok(said) => Some(said),
                Err(Some(Ok(Message::Close(_)) | Err(_)) | None) => return,
                Err(Some(Ok(_))) => {
                    inbound += 1;
                    if inbound > MAX_INBOUND_FRAMES {
                        return close(&mut socket, POLICY, "too talkative").await;
                    }
                    heard_at = Instant::now();
                    continue;
                }
            },
            () = tokio::time::sleep_until(ping_at) => None,
        };
        let Some(said) = message else {
            if heard_at.elapsed() > DEAD_AFTER {
                return;
            }
            inbound = 0;
            ping_at = Instant::now() + PING_EVERY;
            if !send(&mut socket, Message::Ping(Default::default())).await {
                return;
            }
            continue;
        };
        if !send(&mut socket, Message::Text(said.data.into())).await {
            return;
        }
        if said.is_last {
            let code = if said.id.is_some() { NORMAL } else { GOING_AWAY };
            return close(&mut socket, code, "").await;
        }
    }
}

/// False if the peer is gone.
async fn send(socket: &mut WebSocket, message: Message) -> bool {
    matches!(tokio::time::timeout(SEND_WITHIN, socket.send(message)).await, Ok(Ok(())))
}

async fn close(socket: &mut WebSocket, code: u16, reason: &'static str) {
    let farewell = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
    if send(socket, farewell).await {
        // Waits a moment for the peer's own farewell, so that it reads all that was sent.
        let _ = tokio::time::timeout(Duration::from_secs(1), async {
            while let Some(Ok(_)) = socket.recv().await {}
        })
        .await;
    }
}
