//! How a Unix listener treats the file that it listens on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use mamos_core::ErrorKind;
use mamos_core::transport::{Connector, Listener};
use mamos_transport::socket::{UnixFrameConnector, UnixFrameListener};

#[tokio::test]
async fn only_the_owner_may_open_the_file_and_nothing_else_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = UnixFrameListener::bind(&path).await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    drop(listener);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_socket_that_nobody_answers_on_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let stale = UnixFrameConnector::new(&path).connect().await.unwrap_err();
    assert_eq!(stale.kind(), ErrorKind::Unavailable);
    let listener = UnixFrameListener::bind(&path).await.unwrap();
    let connector = UnixFrameConnector::new(&path);
    let (ours, theirs) = tokio::join!(connector.connect(), listener.accept());
    assert!(ours.is_ok() && theirs.is_ok());
}

#[tokio::test]
async fn a_socket_that_somebody_answers_on_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let first = UnixFrameListener::bind(&path).await.unwrap();
    let refused = UnixFrameListener::bind(&path).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Config);
    assert!(refused.to_string().contains("is in use"), "{refused}");
    assert!(UnixFrameConnector::new(&path).connect().await.is_ok());
    drop(first);
}

#[tokio::test]
async fn a_file_that_is_not_a_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    fs::write(&path, "precious").unwrap();
    assert_eq!(UnixFrameListener::bind(&path).await.unwrap_err().kind(), ErrorKind::Config);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn a_listener_does_not_remove_the_file_of_its_successor() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let first = UnixFrameListener::bind(&path).await.unwrap();
    fs::remove_file(&path).unwrap();
    let second = UnixFrameListener::bind(&path).await.unwrap();
    drop(first);
    assert!(path.exists());
    drop(second);
}

#[tokio::test]
async fn a_path_that_can_never_work_is_a_matter_of_configuration() {
    let long: Arc<str> = format!("/tmp/{}", "x".repeat(200)).into();
    assert_eq!(UnixFrameListener::bind(&*long).await.unwrap_err().kind(), ErrorKind::Config);
    assert_eq!(UnixFrameConnector::new(&*long).connect().await.unwrap_err().kind(), ErrorKind::Config);
    assert_eq!(UnixFrameListener::bind("/nowhere/at/all").await.unwrap_err().kind(), ErrorKind::Config);
}
