//! What it means when a connection does not come about, and what to do.

use std::io;

use mamos_core::{Error, ErrorKind};
use rustls::CertificateError;
use tokio_tungstenite::tungstenite::error::Error as WebSocketError;
use tokio_tungstenite::tungstenite::http::StatusCode;

/// The address did not answer.
pub(super) fn unreachable(address: &str, error: io::Error) -> Error {
    failed(ErrorKind::Unavailable, address, "is an orchestrator listening there?").with_source(error)
}

/// The two did not agree on TLS.
pub(super) fn no_tls(address: &str, error: io::Error) -> Error {
    let (kind, advice) = match error.get_ref().and_then(|source| source.downcast_ref::<rustls::Error>()) {
        Some(error) => tls_advice(error),
        None => (ErrorKind::Unavailable, "the connection broke while it was being encrypted"),
    };
    failed(kind, address, advice).with_source(error)
}

fn tls_advice(error: &rustls::Error) -> (ErrorKind, &'static str) {
    match error {
        rustls::Error::InvalidCertificate(error) => match error {
            // Somebody renews it, or sets the clock, and the same call succeeds.
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => {
                (ErrorKind::Unavailable, "its certificate is not valid now; renew it, or set the clock")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                (ErrorKind::Config, "its certificate is for another name; connect by that one")
            }
            _ => (ErrorKind::Config, "its certificate is not trusted; give its CA or pin its fingerprint"),
        },
        // What `PinVerifier` says.
        rustls::Error::General(_) => (
            ErrorKind::Config,
            "its certificate is not the pinned one; ask who runs it whether it was changed",
        ),
        rustls::Error::PeerIncompatible(_) | rustls::Error::AlertReceived(_) => {
            (ErrorKind::Config, "it does not accept this TLS; it must speak TLS 1.3")
        }
        rustls::Error::InvalidMessage(_) => {
            (ErrorKind::Config, "it does not speak TLS; is it a ws:// address?")
        }
        _ => (ErrorKind::Unavailable, "the connection could not be encrypted"),
    }
}

/// The other side did not become a WebSocket.
pub(super) fn no_websocket(address: &str, error: WebSocketError) -> Error {
    let (kind, advice) = match &error {
        WebSocketError::Http(answer) => http_advice(answer.status()),
        WebSocketError::Io(_) => (ErrorKind::Unavailable, "the connection broke before it was a WebSocket"),
        WebSocketError::Protocol(error) if is_cut(error) => {
            (ErrorKind::Unavailable, "the connection ended before it was a WebSocket")
        }
        _ => (ErrorKind::Config, "nobody there speaks this WebSocket; is it an orchestrator?"),
    };
    failed(kind, address, advice).with_source(error)
}

fn is_cut(error: &tokio_tungstenite::tungstenite::error::ProtocolError) -> bool {
    matches!(error, tokio_tungstenite::tungstenite::error::ProtocolError::HandshakeIncomplete)
}

fn http_advice(status: StatusCode) -> (ErrorKind, &'static str) {
    match status {
        // A proxy may answer so for a moment, while something behind it is changed: an agent must not give up
        // for good because of that.
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => (
            ErrorKind::Unavailable,
            "something before the orchestrator lets nobody in; it must pass on the path of the agents' link",
        ),
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
            (ErrorKind::Unavailable, "there is no agents' link at this path; check the path of the address")
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            (ErrorKind::Unavailable, "it has no room now; try again later")
        }
        status if status.is_server_error() => {
            (ErrorKind::Unavailable, "it takes no agents now; try again later")
        }
        status if status.is_redirection() => {
            (ErrorKind::Config, "it points to another address; connect to that one")
        }
        _ => (ErrorKind::Config, "it refuses the link; is it an orchestrator of a like version?"),
    }
}

fn failed(kind: ErrorKind, address: &str, advice: &str) -> Error {
    Error::new(kind, "websocket.connect", format!("cannot connect to {address}; {advice}"))
}
