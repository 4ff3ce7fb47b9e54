//! The quickstart does what it says, measured by what it prints and by its exit codes.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Few enough for a debug build on a busy machine, many enough that the kill comes mid-way.
const JOBS: u64 = 3000;

fn quickstart(data: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quickstart"));
    command.arg("--data").arg(data).args(arguments).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

fn run(data: &Path, arguments: &[&str]) -> Output {
    quickstart(data, arguments).output().unwrap()
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The report of a tour that ended well, and what it said meanwhile.
fn tour(data: &Path) -> (Value, String) {
    let output = run(data, &["--json", "--jobs", &JOBS.to_string()]);
    let talk = text(&output.stderr);
    assert_eq!(code(&output), Some(0), "{talk}");
    (serde_json::from_slice(&output.stdout).unwrap(), talk)
}

#[test]
fn the_tour_keeps_its_promises_and_a_second_one_remembers_the_first() {
    let directory = tempfile::tempdir().unwrap();
    let (first, talk) = tour(directory.path());
    for (key, value) in [
        ("commands_succeeded", 5),
        ("commands_failed", 0),
        ("commands_refused", 2),
        ("jobs_accepted", JOBS),
        ("jobs_succeeded", JOBS),
        ("jobs_lost", 0),
        ("jobs_duplicated", 0),
    ] {
        assert_eq!(first[key], value, "{key} of {first}");
    }
    let rescued = first["rescued"].as_u64().unwrap();
    assert!(rescued > 0 && first["crashes"].as_u64().unwrap() <= rescued, "{first}");
    assert!(first["elapsed_ms"].as_u64().unwrap() > 0);
    assert_eq!(first["earlier"]["jobs"], 0);
    assert!(Path::new(first["database"].as_str().unwrap()).is_file());
    assert!(talk.contains("Linux") || talk.contains("Darwin"), "the output of uname is missing: {talk}");
    assert!(talk.contains("is not under /usr") && talk.contains("begins with `-`"), "{talk}");

    let (second, talk) = tour(directory.path());
    assert_eq!(second["jobs_succeeded"], JOBS);
    assert_eq!(second["earlier"]["jobs"], JOBS + 5);
    assert_eq!(second["earlier"]["by_state"]["succeeded"], JOBS + 5);
    assert!(talk.contains(&format!("remembers {} jobs", JOBS + 5)), "{talk}");
    assert!(talk.contains("back from an earlier run"), "{talk}");
}

#[test]
fn one_command_runs_fails_or_is_denied_and_its_exit_code_says_which() {
    let directory = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| run(directory.path(), arguments);

    let fine = run(&["run", "disk-usage", "path=/"]);
    assert_eq!(code(&fine), Some(0), "{}", text(&fine.stderr));
    assert!(text(&fine.stdout).contains("Mounted on"), "{}", text(&fine.stdout));

    let failed = run(&["run", "directory-size", "path=/usr/there-is-no-such-thing"]);
    assert_eq!(code(&failed), Some(7), "{}", text(&failed.stderr));
    assert!(text(&failed.stdout).contains("No such file"), "what it printed is shown, both streams");

    let said = text(&failed.stderr);
    let job = said.split_whitespace().last().unwrap();
    let why = text(&run(&["why", job]).stdout);
    assert!(why.contains("command:directory-size, is dead") && why.contains("exit_code"), "{why}");

    for (arguments, why) in [
        (&["run", "reboot"][..], "not on the whitelist"),
        (&["run", "directory-size", "path=/etc/shadow"], "is not under /usr"),
        (&["run", "disk-usage", "path=--help"], "begins with `-`"),
        (&["run", "directory-size"], "path"),
    ] {
        let denied = run(arguments);
        assert_eq!(code(&denied), Some(5), "{arguments:?}");
        assert!(text(&denied.stderr).contains(why), "{arguments:?}: {}", text(&denied.stderr));
        assert!(denied.stdout.is_empty());
    }
    for arguments in [&["run", "disk-usage", "path"][..], &["run", "no%name"], &["why", "me"], &["nothing"]] {
        assert_eq!(code(&run(arguments)), Some(2), "{arguments:?}");
    }

    let history = run(&["history", "--json"]);
    let history: Value = serde_json::from_slice(&history.stdout).unwrap();
    assert_eq!(history["jobs"], 2, "what was denied never became a job: {history}");
    assert_eq!(history["by_state"]["succeeded"], 1);
}

#[test]
fn an_interrupted_tour_stops_its_agents_and_keeps_what_was_accepted() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = quickstart(directory.path(), &["--json", "--jobs", "100000"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Its own words say when all jobs are accepted; then it has a while to go.
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    assert!(lines.any(|line| line.unwrap().contains("100000 accepted")));
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    // The pipe ends only when every process that could write to it has ended: the agents as well.
    assert!(lines.any(|line| line.unwrap().starts_with("interrupted")));
    assert!(lines.next().is_none());

    let history = run(directory.path(), &["history", "--json"]);
    let history: Value = serde_json::from_slice(&history.stdout).unwrap();
    assert_eq!(history["jobs"], 100_005, "all that was accepted is there: {history}");
    assert_eq!(history["by_state"]["running"], Value::Null, "nobody runs anything: {history}");
}

#[test]
fn two_quickstarts_do_not_share_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(directory.path()).unwrap();
    let lock = std::fs::File::create(directory.path().join("quickstart.lock")).unwrap();
    lock.lock().unwrap();
    let refused = run(directory.path(), &["run", "date"]);
    assert_eq!(code(&refused), Some(1));
    assert!(text(&refused.stderr).contains("another quickstart"), "{}", text(&refused.stderr));
}
