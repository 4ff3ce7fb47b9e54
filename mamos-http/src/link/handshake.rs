//! What an agent must ask for, and how it is answered.

use axum::body::Body;
use axum::http::header::SEC_WEBSOCKET_PROTOCOL;
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use mamos_core::transport::Encoding;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;

use super::{BINARY_PROTOCOL, TEXT_PROTOCOL};
use crate::problem::Problem;

/// What both sides agreed on.
#[derive(Debug)]
pub(super) struct Agreed {
    pub(super) answer: Response<Body>,
    /// `None` if the agent's first frame decides.
    pub(super) encoding: Option<Encoding>,
}

/// Reads a request for an upgrade.
///
/// # Errors
///
/// A request that is none, or that asks for subprotocols of which none is ours.
pub(super) fn agree<B>(request: &Request<B>) -> Result<Agreed, Problem> {
    let mut answer = create_response_with_body(request, Body::empty).map_err(|error| {
        let detail = format!("agents connect here with WebSocket, version 13, over HTTP/1.1: {error}");
        Problem::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", detail)
    })?;
    let encoding = choose(request.headers())?;
    let chosen = match encoding {
        Some(Encoding::Binary) => Some(BINARY_PROTOCOL),
        Some(Encoding::Text) => Some(TEXT_PROTOCOL),
        None => None,
    };
    if let Some(chosen) = chosen {
        answer.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(chosen));
    }
    Ok(Agreed { answer, encoding })
}

/// The first subprotocol of ours, for they are offered in the order of preference. `None` if none is
/// offered at all.
fn choose(headers: &HeaderMap) -> Result<Option<Encoding>, Problem> {
    let mut is_any_offered = false;
    for offered in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
        for offered in offered.as_bytes().split(|byte| *byte == b',') {
            is_any_offered = true;
            match offered.trim_ascii() {
                name if name == BINARY_PROTOCOL.as_bytes() => return Ok(Some(Encoding::Binary)),
                name if name == TEXT_PROTOCOL.as_bytes() => return Ok(Some(Encoding::Text)),
                _ => {}
            }
        }
    }
    if !is_any_offered {
        return Ok(None);
    }
    let detail = format!("offer the subprotocol {BINARY_PROTOCOL} or {TEXT_PROTOCOL}, or none");
    Err(Problem::new(StatusCode::BAD_REQUEST, "unknown_subprotocol", detail))
}
