//! Registering, running, stopping.

use std::fs;
use std::os::unix::net::UnixDatagram;

use mamos_core::event::What;
use mamos_core::orchestrator::Seen;
use mamos_core::whitelist::CommandRequest;
use mamos_core::{CommandId, JobState};
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::place::{PATIENCE, Place, ended, operator, send};

#[tokio::test(flavor = "multi_thread")]
async fn registering_fills_the_state_directory_once() {
    let place = Place::new();
    let running = place.orchestrator().await;
    let token = running.token().await;
    let (code, text) = place.run(&["register"], Some(&token)).await;
    assert_eq!(code, 0, "{text}");
    let before = fs::read_to_string(place.path("state/identity.json")).unwrap();
    let agents = running.orchestrator.agents(mamos_core::store::PageRequest::first(9)).await.unwrap().items;
    assert_eq!(agents.len(), 1);
    assert!(text.contains(&format!("registered as {}", agents[0].id)), "{text}");

    let (code, text) = place.run(&["register"], Some(&running.token().await)).await;
    assert!(code == 4 && text.contains("--force"), "{code}: {text}");
    assert_eq!(fs::read_to_string(place.path("state/identity.json")).unwrap(), before);

    // A token that is not good leaves the old identity in its place.
    let (code, text) = place.run(&["register", "--force"], Some("mamos_reg_wrong")).await;
    assert_eq!(code, 5, "{text}");
    assert_eq!(fs::read_to_string(place.path("state/identity.json")).unwrap(), before);

    let (code, text) = place.run(&["register", "--force"], Some(&running.token().await)).await;
    assert_eq!(code, 0, "{text}");
    assert_ne!(fs::read_to_string(place.path("state/identity.json")).unwrap(), before);
    assert_eq!(fs::read_to_string(place.path("state/identity.json.before")).unwrap(), before);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registering_without_an_orchestrator_or_a_token_says_so() {
    let place = Place::new();
    let (code, text) = place.run(&["register", "--timeout", "300ms"], Some("mamos_reg_1")).await;
    assert!(code == 6 && text.contains("orchestrator.sock did not welcome"), "{code}: {text}");
    let (code, text) = place.run(&["register"], None).await;
    assert!(code == 2 && text.contains("mamosctl tokens create"), "{code}: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_runs_commands_comes_back_after_a_restart_and_tells_systemd() {
    let place = Place::new();
    let systemd = UnixDatagram::bind(place.path("notify.sock")).unwrap();
    let running = place.orchestrator().await;
    let token = running.token().await;
    let mut command = place.agent(&["run"], Some(&token));
    let agent = command.env("NOTIFY_SOCKET", place.path("notify.sock")).spawn().unwrap();
    running.connected(1).await;
    running.stop().await;

    let running = place.orchestrator().await;
    let request = CommandRequest::new(CommandId::new("hello").unwrap());
    let handle = running.orchestrator.run_command(request, &operator()).unwrap().await.unwrap();
    tokio::time::timeout(PATIENCE, handle.wait()).await.unwrap().unwrap();
    let record = handle.record().await.unwrap();
    assert_eq!(record.state, JobState::Succeeded);

    send(&agent, Signal::TERM);
    let (code, text) = ended(agent.wait_with_output().await.unwrap());
    assert_eq!(code, 0, "{text}");
    assert!(!text.contains(&token), "the token was printed");
    running.stop().await;

    systemd.set_nonblocking(true).unwrap();
    let mut told = String::new();
    let mut buffer = [0; 4096];
    while let Ok(length) = systemd.recv(&mut buffer) {
        told.push_str(str::from_utf8(&buffer[..length]).unwrap());
    }
    assert!(
        told.starts_with("READY=1\n")
            && told.contains("STATUS=connected as agent-")
            && told.contains("STOPPING=1\n"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let place = Place::new();
    let running = place.orchestrator().await;
    let mut agent = place.agent(&["run"], Some(&running.token().await)).spawn().unwrap();
    running.connected(1).await;
    let mut events = running.orchestrator.events();
    let request = CommandRequest::new(CommandId::new("sleep").unwrap());
    running.orchestrator.run_command(request, &operator()).unwrap().await.unwrap();
    let started = async {
        loop {
            if let Some(Seen::Event(event)) = events.next().await
                && matches!(event.what, What::JobStarted { .. })
            {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, started).await.unwrap();
    send(&agent, Signal::TERM);
    // It says so before it takes the second one.
    let mut said = BufReader::new(agent.stderr.take().unwrap()).lines();
    while !said.next_line().await.unwrap().unwrap().contains("no new work") {}
    send(&agent, Signal::INT);
    let status = tokio::time::timeout(PATIENCE, agent.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(130));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_agent_does_not_try_for_ever() {
    let place = Place::new();
    let running = place.orchestrator().await;
    let (code, text) = place.run(&["run"], Some("mamos_reg_wrong")).await;
    assert_eq!(code, 5, "{text}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_says_what_would_happen() {
    let place = Place::new();
    let (code, text) = place.run(&["check"], None).await;
    assert_eq!(code, 2, "the first trouble counts: {text}");
    assert!(text.contains("is not registered and has no registration token"), "{text}");
    let (code, text) = place.run(&["check"], Some("mamos_reg_1")).await;
    assert_eq!(code, 6, "nobody answers: {text}");

    let running = place.orchestrator().await;
    let (code, text) = place.run(&["check"], Some("mamos_reg_1")).await;
    assert_eq!(code, 0, "{text}");
    for part in
        ["one of kind agent, 2 slots, zone=eu", "2 commands", "it would register with the token", "answers"]
    {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    place.run(&["register"], Some(&running.token().await)).await;
    let (code, text) = place.run(&["check"], None).await;
    assert!(code == 0 && text.contains("it would connect as agent-"), "{text}");
    running.stop().await;

    fs::write(place.path("whitelist.toml"), "version = 9\n").unwrap();
    let (code, text) = place.run(&["check", "--offline"], None).await;
    assert!(code == 2 && text.contains("wrong  whitelist"), "{code}: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whitelist_is_read_anew_at_sighup_and_a_bad_one_changes_nothing() {
    let place = Place::new();
    let running = place.orchestrator().await;
    let mut agent = place.agent(&["run"], Some(&running.token().await)).spawn().unwrap();
    running.connected(1).await;
    let mut said = BufReader::new(agent.stderr.take().unwrap()).lines();
    let good = fs::read_to_string(place.path("whitelist.toml")).unwrap();
    for (text, outcome) in
        [("version = 9\n", "the whitelist was not replaced"), (&good, "the whitelist was read anew")]
    {
        fs::write(place.path("whitelist.toml"), text).unwrap();
        send(&agent, Signal::HUP);
        let told = async { while !said.next_line().await.unwrap().unwrap().contains(outcome) {} };
        tokio::time::timeout(PATIENCE, told).await.unwrap();
    }
    let request = CommandRequest::new(CommandId::new("hello").unwrap());
    let handle = running.orchestrator.run_command(request, &operator()).unwrap().await.unwrap();
    tokio::time::timeout(PATIENCE, handle.wait()).await.unwrap().unwrap();
    send(&agent, Signal::TERM);
    assert_eq!(agent.wait().await.unwrap().code(), Some(0));
    running.stop().await;
}
