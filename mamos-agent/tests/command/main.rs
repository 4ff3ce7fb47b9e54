//! Commands that really run.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mamos_agent::CommandRunner;
use mamos_core::job::Outcome;
use mamos_core::whitelist::policy::{Policy, UncheckedPrograms};
use mamos_core::whitelist::{DenyAll, PathArgument, Permit};
use mamos_core::{Agent, AgentKind};

use self::support::{Run, failure, lives, output, permit, script, until};

#[tokio::test]
async fn each_argument_arrives_as_it_is() {
    let hostile = ["a b", "$(id)", "`id`", ";id", "*", "'", "\"", "", "ä", "\\n", "-n"];
    let mut permit = permit("/usr/bin/printf", &["[%s]"]);
    permit.arguments.extend(hostile.map(str::to_owned));
    let (outcome, log) = Run::of(permit).end().await;
    assert_eq!(log.stdout(), hostile.map(|text| format!("[{text}]")).concat().as_bytes());
    let output = output(&outcome);
    assert_eq!((output.exit_code, output.signal, output.dropped_bytes), (Some(0), None, 0));
    assert_eq!(output.output_bytes, log.stdout().len() as u64);
}

#[tokio::test]
async fn both_streams_are_passed_on_and_told_apart() {
    let (_, log) = Run::of(script("printf out; printf err >&2")).end().await;
    assert_eq!((log.stdout(), log.stderr()), (b"out".to_vec(), b"err".to_vec()));
}

#[tokio::test]
async fn binary_output_arrives_byte_for_byte() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bytes");
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(&path, &bytes).unwrap();
    let mut permit = permit("/bin/cat", &[path.to_str().unwrap()]);
    permit.output_cap_bytes = 1_000_000;
    let (outcome, log) = Run::of(permit).end().await;
    assert!(log.stdout() == bytes);
    assert!(log.largest_piece() <= mamos_core::protocol::MAX_LOG_PIECE_BYTES);
    assert_eq!(log.notes(), "", "exactly at the cap nothing is cut");
    assert_eq!(output(&outcome).output_bytes, 1_000_000);
}

#[tokio::test]
async fn output_comes_while_the_command_runs() {
    let run = Run::of(script("printf first; exec sleep 1000")).start();
    run.log.until(|log| log.stdout() == b"first").await;
    let (outcome, _) = run.cancel(Duration::ZERO).await;
    assert_eq!(outcome, Outcome::Cancelled);
}

#[tokio::test]
async fn output_beyond_the_cap_is_dropped_and_the_cut_is_marked() {
    let mut permit = script("/usr/bin/yes | /usr/bin/head -c 300000; printf late >&2");
    permit.output_cap_bytes = 5000;
    let (outcome, log) = Run::of(permit).end().await;
    assert_eq!(log.stdout(), b"y\n".repeat(2500));
    assert_eq!(log.stderr(), b"");
    assert_eq!(log.notes(), "[output cut after 5000 bytes; 295004 bytes dropped]");
    let output = output(&outcome);
    assert_eq!((output.output_bytes, output.dropped_bytes), (5000, 295_004));
}

#[tokio::test]
async fn a_command_that_prints_for_ever_ends_at_its_timeout() {
    let mut permit = permit("/usr/bin/yes", &[]);
    permit.timeout = Duration::from_millis(300);
    permit.output_cap_bytes = 1024;
    let (outcome, log) = Run::of(permit).end().await;
    assert_eq!(failure(&outcome).code, "timeout");
    assert_eq!(log.stdout().len(), 1024);
    assert!(log.notes().starts_with("[output cut after 1024 bytes; "));
}

#[tokio::test]
async fn an_exit_code_is_a_failure_with_the_end_of_standard_error() {
    let (outcome, _) = Run::of(script("echo noise; echo why it failed >&2; exit 3")).end().await;
    assert!(matches!(outcome, Outcome::Retry { after: None, .. }));
    let failure = failure(&outcome);
    assert_eq!(
        (failure.code.as_str(), failure.message.as_str()),
        ("exit_code", "exit code 3; it last said: why it failed")
    );
    let (outcome, _) =
        Run::of(script("/usr/bin/yes long | /usr/bin/head -c 9999 >&2; printf end >&2; exit 1")).end().await;
    let message = &support::failure(&outcome).message;
    assert!(message.ends_with("end") && (1000..1100).contains(&message.len()), "{message}");
}

#[tokio::test]
async fn a_signal_is_a_failure_of_its_own() {
    let (outcome, _) = Run::of(script("kill -SEGV $$")).end().await;
    let failure = failure(&outcome);
    assert_eq!((failure.code.as_str(), failure.message.as_str()), ("signal", "killed by signal 11"));
}

#[tokio::test]
async fn the_environment_is_the_permits_own_and_the_trace_context() {
    let mut with_variable = permit("/usr/bin/env", &[]);
    with_variable.environment.insert("LANG".to_owned(), "C".to_owned());
    let mut run = Run::of(with_variable);
    run.attempt.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
    let (_, log) = run.end().await;
    assert_eq!(
        log.stdout(),
        b"LANG=C\nTRACEPARENT=00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n"
    );
    assert_eq!(Run::of(permit("/usr/bin/env", &[])).end().await.1.stdout(), b"");
}

#[tokio::test]
async fn input_is_empty_and_the_directory_is_the_permits() {
    let directory = tempfile::tempdir().unwrap();
    let mut permit = script("/bin/cat; pwd -P");
    permit.working_directory = directory.path().canonicalize().unwrap();
    let (_, log) = Run::of(permit.clone()).end().await;
    assert_eq!(log.stdout(), format!("{}\n", permit.working_directory.display()).as_bytes());
}

#[tokio::test]
async fn no_file_of_the_agent_is_open_in_the_command() {
    let directory = tempfile::tempdir().unwrap();
    let _secret = fs::File::create(directory.path().join("secret")).unwrap();
    let (_, log) = Run::of(script("exec /bin/ls -l /proc/self/fd")).end().await;
    let listing = String::from_utf8(log.stdout()).unwrap();
    assert!(!listing.contains("secret") && listing.contains("pipe:"), "{listing}");
}

#[tokio::test]
async fn a_timeout_ends_the_command_and_the_shorter_of_two_counts() {
    let mut run = Run::of(permit("/bin/sleep", &["1000"]));
    run.attempt.timeout = Some(Duration::from_millis(50));
    let (outcome, _) = run.end().await;
    assert!(matches!(outcome, Outcome::Retry { .. }));
    assert_eq!(failure(&outcome).message, "took longer than 50ms and was stopped");
}

#[tokio::test]
async fn a_cancelled_command_may_clean_up_within_its_grace() {
    let run =
        Run::of(script("trap 'printf clean; exit 0' TERM; printf ready; while :; do /bin/sleep 0.01; done"))
            .start();
    run.log.until(|log| log.stdout() == b"ready").await;
    let log = run.log.clone();
    let (outcome, _) = run.cancel(Duration::from_secs(60)).await;
    assert_eq!(outcome, Outcome::Cancelled);
    assert_eq!(log.stdout(), b"readyclean");
}

#[tokio::test]
async fn descendants_that_ignore_sigterm_are_killed_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deaf.sh");
    let text = "trap '' TERM\n[ $1 -gt 1 ] && /bin/sh $0 $(($1 - 1)) &\necho $$\n\
                while :; do /bin/sleep 1000; done";
    fs::write(&path, text).unwrap();
    let run = Run::of(permit("/bin/sh", &[path.to_str().unwrap(), "3"])).start();
    run.log.until(|log| log.numbers().len() == 3).await;
    let pids = run.log.numbers();
    assert!(pids.len() == 3 && pids.iter().all(|pid| lives(*pid)), "{pids:?}");
    let (outcome, _) = run.cancel(Duration::from_millis(20)).await;
    assert_eq!(outcome, Outcome::Cancelled);
    assert!(pids.iter().all(|pid| !lives(*pid)), "{pids:?}");
}

#[tokio::test]
async fn a_descendant_that_keeps_the_output_open_does_not_keep_the_run_open() {
    let (outcome, log) = Run::of(script("/bin/sleep 1000 & echo $!; exit 0")).end().await;
    assert_eq!(output(&outcome).exit_code, Some(0));
    assert!(!lives(log.numbers()[0]));
}

#[tokio::test]
async fn a_descendant_that_prints_for_ever_does_not_keep_the_run_open() {
    let mut permit = script("/usr/bin/yes & exit 0");
    permit.timeout = Duration::from_secs(1);
    permit.output_cap_bytes = 1024;
    let (outcome, _) = Run::of(permit).end().await;
    assert_eq!(output(&outcome).exit_code, Some(0), "it ended in time itself");
}

#[tokio::test]
async fn dropping_the_run_kills_the_group_and_leaves_no_zombie() {
    let run = Run::of(script("/bin/sleep 1000 & echo $!; echo $$; wait")).start();
    run.log.until(|log| log.numbers().len() == 2).await;
    let pids = run.log.numbers();
    run.abort().await;
    until(|| pids.iter().all(|pid| !lives(*pid))).await;
    // The command itself is our child, so nobody else would collect it.
    until(|| !Path::new(&format!("/proc/{}", pids[1])).exists()).await;
}

#[tokio::test]
async fn a_finished_command_leaves_no_zombie() {
    let (_, log) = Run::of(script("echo $$")).end().await;
    assert!(!Path::new(&format!("/proc/{}", log.numbers()[0])).exists());
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_buried_with_its_name() {
    for program in ["/no/such/program", "/etc/passwd", "/bin/x\0y"] {
        let (outcome, _) = Run::of(permit(program, &[])).end().await;
        assert!(matches!(outcome, Outcome::Bury { .. }), "{outcome:?}");
        assert_eq!(failure(&outcome).code, "spawn");
    }
    let mut nowhere = permit("/bin/echo", &[]);
    nowhere.working_directory = "/no/such/directory".into();
    assert!(failure(&Run::of(nowhere).end().await.0).message.contains("/no/such/directory"));
}

#[tokio::test]
async fn a_link_out_of_the_root_is_refused_before_anything_runs() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(directory.path().join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink("../secret", root.join("link")).unwrap();
    fs::write(root.join("file"), "public").unwrap();
    let cat = |name: &str| {
        let mut permit = permit("/bin/cat", &[root.join(name).to_str().unwrap()]);
        permit.paths = vec![PathArgument { index: 0, offset: 0, roots: vec![root.clone()] }];
        permit
    };
    assert_eq!(Run::of(cat("file")).end().await.1.stdout(), b"public");
    let (outcome, log) = Run::of(cat("link")).end().await;
    assert!(matches!(outcome, Outcome::Bury { .. }));
    assert_eq!(failure(&outcome).code, "bad_value");
    assert_eq!(log.stdout(), b"");
}

#[tokio::test]
async fn the_agents_own_whitelist_has_the_last_word() {
    let policy = |head: &str, arguments: &str| {
        let text = format!(
            "version = 1\n[commands.c]\nprogram = '/bin/echo'\narguments = {arguments}\n{head}\nallow.roles = ['operator']"
        );
        Policy::parse(&text, "w", &UncheckedPrograms).unwrap()
    };
    let asked = permit("/bin/echo", &["hi"]);
    let code = async |outcome: (Outcome, support::Log)| failure(&outcome.0).code.clone();
    let run = |policy: Policy| Run::with(Arc::new(policy), asked.clone());
    let (outcome, log) = run(policy("", "['hi']")).end().await;
    assert!(matches!(outcome, Outcome::Succeeded { .. }));
    assert_eq!(log.stdout(), b"hi\n");
    // Ours is narrower than what the orchestrator permitted.
    let wide = "['0123456789012345678901234567890123456789']".replace('0', &"0".repeat(300));
    let mut long = asked.clone();
    long.arguments = vec!["0123456789012345678901234567890123456789".replace('0', &"0".repeat(300))];
    let (_, log) = Run::with(Arc::new(policy("output_cap = '1KiB'", &wide)), long).end().await;
    assert_eq!(log.stdout().len(), 1024);
    assert_eq!(code(run(policy("", "['hello']")).end().await).await, "differs");
    assert_eq!(code(Run::with(Arc::new(DenyAll), asked.clone()).end().await).await, "unknown_command");
    let mut stranger = run(policy("", "['hi']"));
    stranger.order.roles.clear();
    assert_eq!(code(stranger.end().await).await, "not_for_principal");
    let mut other_kind = run(policy("", "['hi']"));
    other_kind.attempt.kind = mamos_core::JobKind::new("command:other").unwrap();
    assert_eq!(code(other_kind.end().await).await, "bad_order");
    let mut garbage = run(policy("", "['hi']"));
    garbage.payload = Some("not an order".into());
    assert_eq!(code(garbage.end().await).await, "bad_order");
}

#[tokio::test]
async fn an_attempt_that_was_cancelled_before_it_began_runs_nothing() {
    let run = Run::of(permit("/bin/echo", &["hi"]));
    run.attempt.cancellation.cancel(Duration::ZERO);
    let (outcome, log) = run.end().await;
    assert_eq!((outcome, log.stdout()), (Outcome::Cancelled, Vec::new()));
}

#[test]
fn the_profile_offers_a_kind_for_each_command() {
    let text = "version = 1\n[commands.b]\nprogram = '/bin/echo'\n[commands.a]\nprogram = '/bin/echo'";
    let policy = Policy::parse(text, "w", &UncheckedPrograms).unwrap();
    let kind = AgentKind::new("ops").unwrap();
    let runner = CommandRunner::builder(Arc::new(policy), kind.clone()).name("n").slots(7).build().unwrap();
    let profile = runner.profile();
    let kinds: Vec<_> = profile.kinds.iter().map(|kind| kind.as_str()).collect();
    assert_eq!((kinds, profile.slots, profile.name.as_str()), (vec!["command:a", "command:b"], 7, "n"));
    assert!(CommandRunner::builder(Arc::new(DenyAll), kind).slots(0).build().is_err());
}

fn runner_at(pids: &Path, permit: Permit) -> mamos_core::Result<Run> {
    let fixed: Arc<dyn mamos_core::Whitelist> = Arc::new(support::Fixed(permit.clone()));
    let builder = CommandRunner::builder(fixed, AgentKind::new("ops").unwrap());
    Ok(Run::on(builder.pids(pids).build()?, permit))
}

fn remembered(pids: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(pids).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap() != "lock").collect()
}

#[tokio::test]
async fn what_a_killed_agent_left_running_is_killed_by_the_next_one() {
    let directory = tempfile::tempdir().unwrap();
    let pids = directory.path().join("pids");
    for leader_dies_first in [false, true] {
        let run = runner_at(&pids, script("/bin/sleep 1000 & echo $!; echo $$; wait")).unwrap().start();
        run.log.until(|log| log.numbers().len() == 2).await;
        let processes = run.log.numbers();
        assert_eq!(remembered(&pids), [pids.join(processes[1].to_string())]);
        // A second agent would kill what the first still works on.
        let conflict = runner_at(&pids, script("")).err().unwrap();
        assert_eq!(conflict.kind(), mamos_core::ErrorKind::Conflict);
        // What kill -9 leaves: the processes and the file. Here the file is put back, since a test cannot
        // kill itself, and the command is started again in a group of its own, as the agent would.
        let entry = remembered(&pids).pop().unwrap();
        let content = fs::read(&entry).unwrap();
        run.abort().await;
        until(|| processes.iter().all(|pid| !lives(*pid))).await;
        assert_eq!(remembered(&pids), Vec::<std::path::PathBuf>::new());
        let orphan = support::orphan(leader_dies_first);
        let content: serde_json::Value = serde_json::from_slice(&content).unwrap();
        let adapted = serde_json::json!({
            "boot_id": content["boot_id"], "session": content["session"], "started": orphan.started,
        });
        fs::write(pids.join(orphan.group.to_string()), adapted.to_string()).unwrap();
        assert!(lives(orphan.member));
        drop(runner_at(&pids, script("")).unwrap());
        until(|| !lives(orphan.member)).await;
        assert_eq!(remembered(&pids), Vec::<std::path::PathBuf>::new());
    }
}

#[tokio::test]
async fn a_process_that_only_has_the_same_number_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let mut orphan = support::orphan(false);
    for (boot_id, started) in [(boot_id.trim(), orphan.started + 1), ("another", orphan.started)] {
        let entry = serde_json::json!({ "boot_id": boot_id, "session": 0, "started": started });
        fs::write(directory.path().join(orphan.group.to_string()), entry.to_string()).unwrap();
        drop(runner_at(directory.path(), script("")).unwrap());
        assert!(orphan.answers());
        assert!(remembered(directory.path()).is_empty());
    }
    for (name, content) in [("1", "{}"), ("0", "{}"), ("-1", "{}"), ("x", ""), ("99999999999", "{}")] {
        fs::write(directory.path().join(name), content).unwrap();
    }
    drop(runner_at(directory.path(), script("")).unwrap());
    assert!(remembered(directory.path()).is_empty() && orphan.answers());
}

/// Not a test: the agent that `an_agent_killed_with_sigkill_leaves_nothing_that_stays` kills.
#[tokio::test]
#[ignore = "runs for ever; started by another test in a process of its own"]
async fn an_agent_to_kill() {
    let directory = std::path::PathBuf::from(std::env::var_os("MAMOS_TEST_DIRECTORY").unwrap());
    let text = format!(
        "/bin/cat; /bin/sleep 1000 & echo $! $$ > {0}/new; /bin/mv {0}/new {0}/running; wait",
        directory.display()
    );
    runner_at(&directory.join("pids"), script(&text)).unwrap().start().end().await;
}

#[tokio::test]
async fn an_agent_killed_with_sigkill_leaves_nothing_that_stays() {
    let directory = tempfile::tempdir().unwrap();
    let mut agent = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "an_agent_to_kill", "--ignored"])
        .env("MAMOS_TEST_DIRECTORY", directory.path())
        // Held open: a command that had it for its input would wait for ever.
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let running = directory.path().join("running");
    until(|| running.exists()).await;
    // The file is written once the runner has looked at the command that it started.
    until(|| remembered(&directory.path().join("pids")).iter().any(|path| path.extension().is_none())).await;
    let text = fs::read_to_string(&running).unwrap();
    let pids: Vec<i32> = text.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert!(pids.len() == 2 && pids.iter().all(|pid| lives(*pid)), "nobody else kills them: {pids:?}");
    drop(runner_at(&directory.path().join("pids"), script("")).unwrap());
    until(|| pids.iter().all(|pid| !lives(*pid))).await;
}
