//! What the broker's refusals mean.

use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use mamos_core::{Error, ErrorKind};

/// The error of an attempt to connect.
pub(super) fn no_connection(place: &str, error: &lapin::Error) -> Error {
    let said = said(error);
    let (kind, advice) = match code(error) {
        Some(AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)) => {
            (ErrorKind::Denied, "check the user and the password in the URL")
        }
        Some(AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED)) if said.contains("refused for user") => {
            (ErrorKind::Denied, "give the user permissions in it with rabbitmqctl set_permissions")
        }
        Some(AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED)) if said.contains("not found") => {
            (ErrorKind::Config, "correct the path of the URL, or make it with rabbitmqctl add_vhost")
        }
        _ if is_about_tls(error) => {
            (ErrorKind::Config, "check that the certificate is for this host, and the CA in the settings")
        }
        _ => (ErrorKind::Unavailable, "check that RabbitMQ runs there and takes connections"),
    };
    Error::new(kind, "bus.connect", format!("no connection to {place}: {said}; {advice}"))
        .with_source(error.clone())
}

/// The error of something that was asked of a channel.
pub(super) fn refused(operation: &'static str, what: &str, error: &lapin::Error) -> Error {
    let (kind, advice) = match code(error) {
        Some(AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)) => (
            ErrorKind::Denied,
            "give the user what docs/bus-rabbitmq.md lists, with rabbitmqctl set_permissions and \
             set_topic_permissions",
        ),
        Some(AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED)) => (
            ErrorKind::Config,
            "it exists with other settings: give all programs the same ones, or delete it once nothing is left \
             in it",
        ),
        Some(AMQPErrorKind::Soft(AMQPSoftError::RESOURCELOCKED)) => {
            (ErrorKind::Conflict, "another connection has it for itself; give the group another name")
        }
        Some(AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND)) => {
            (ErrorKind::Unavailable, "somebody deleted it; try again, it is made anew")
        }
        _ => (ErrorKind::Unavailable, "try again"),
    };
    Error::new(kind, operation, format!("{what}: {}; {advice}", said(error))).with_source(error.clone())
}

pub(super) fn unavailable(operation: &'static str, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unavailable, operation, message)
}

pub(super) fn config(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, "bus.connect", message)
}

pub(super) fn closed(operation: &'static str) -> Error {
    Error::new(ErrorKind::Closed, operation, "the bus is closed")
}

pub(super) fn is_not_found(error: &lapin::Error) -> bool {
    code(error) == Some(AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND))
}

pub(super) fn is_denied(error: &lapin::Error) -> bool {
    code(error) == Some(AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED))
}

/// Passing again is not to be expected: somebody must do something.
pub(super) fn needs_a_person(error: &Error) -> bool {
    !matches!(error.kind(), ErrorKind::Unavailable)
}

/// The broker's own words where there are some: they name what it is about, and hold no secret.
pub(super) fn said(error: &lapin::Error) -> String {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(error) => error.get_message().to_string(),
        _ => error.to_string(),
    }
}

fn code(error: &lapin::Error) -> Option<AMQPErrorKind> {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(error) => Some(error.kind().clone()),
        _ => None,
    }
}

fn is_about_tls(error: &lapin::Error) -> bool {
    let lapin::ErrorKind::IOError(error) = error.kind() else { return false };
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}
