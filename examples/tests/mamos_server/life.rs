//! Starting for the first time, and stopping.

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::place::{PASSWORD, Place, Program, dev, set_up, until_told};

#[tokio::test(flavor = "multi_thread")]
async fn each_start_shows_another_setup_token_until_one_is_used() {
    let place = Place::new();
    let mut server = place.start(&[]).await;
    server.program.until("setup --user admin").await;
    let first = server.program.word("mamos_setup_");
    server.stop().await;

    let mut server = place.start(&[]).await;
    server.program.until("setup --user admin").await;
    assert_ne!(server.program.word("mamos_setup_"), first);
    let setup = ["setup", "--user", "admin", "--password-stdin"];
    let refused = place.ctl(&server, &first, &setup, PASSWORD).await;
    assert_eq!(refused.code, 5, "a newer one takes its place: {}", refused.err);
    set_up(&place, &mut server).await;
    server.stop().await;

    let mut server = place.start(&[]).await;
    server.program.send(Signal::TERM);
    assert_eq!(server.program.end().await, 0);
    assert!(!server.program.said.contains("mamos_setup_"), "{}", server.program.said);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_in_order_while_streams_are_open_and_a_command_runs() {
    let place = Place::new();
    let (mut server, key, token) = dev(&place).await;
    let mut agent = place.agent(&server, &["--registration-token", &token]).await;
    let mut tail = Program::start(place.operator(&server, &key, &["tail", "--timeout", "1s"]));
    until_told(&place, &server, &key, &mut tail).await;
    let mut follow = Program::start(place.operator(&server, &key, &["run", "sleep", "--follow"]));
    follow.until("-- job ").await;
    tail.until("job_started").await;

    server.program.send(Signal::TERM);
    assert_eq!(server.program.end().await, 0, "{}", server.program.said);
    assert!(server.program.said.contains("stopped"), "{}", server.program.said);
    assert!(!server.program.said.contains("are cut"), "nothing is cut off: {}", server.program.said);
    tail.until("-- the stream ended: shutdown").await;
    // The agent keeps what it runs, and waits for the next start.
    agent.until("no link to the orchestrator").await;
    agent.send(Signal::TERM);
    agent.until("no new work").await;
    agent.send(Signal::INT);
    assert_eq!(agent.end().await, 130);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let place = Place::new();
    let mut server = place.start(&["--dev"]).await;
    // A request whose body does not come holds up the stop.
    let mut caller = TcpStream::connect(server.address()).await.unwrap();
    let request = "POST /api/v1/login HTTP/1.1\r\nhost: here\r\ncontent-type: application/json\r\n\
                   content-length: 100\r\nexpect: 100-continue\r\n\r\n";
    caller.write_all(request.as_bytes()).await.unwrap();
    let mut word = [0; 12];
    caller.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"HTTP/1.1 100", "the request is under way");

    server.program.send(Signal::TERM);
    server.program.until("no more connections").await;
    server.program.send(Signal::INT);
    assert_eq!(server.program.end().await, 130, "{}", server.program.said);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_is_told_from_settings_that_are_wrong() {
    let place = Place::new();
    let (server, ..) = dev(&place).await;
    let second = place.ended(&["--dev", "--listen", &server.address()]).await;
    assert!(second.code == 6 && second.err.contains("cannot listen"), "{}: {}", second.code, second.err);
}
