//! What every lifecycle promises, asked of both.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::sync::Arc;
use std::time::Duration;

use mamos_agent::lifecycle::{ChildProcess, LocalTask};
use mamos_core::Lifecycle;
use mamos_core::lifecycle::LifecycleStatus;

const LONG: Duration = Duration::from_secs(60);

fn sleeper() -> ChildProcess {
    ChildProcess::new("/bin/sleep").argument("1000")
}

fn waiter() -> LocalTask {
    LocalTask::new(|token| async move {
        token.cancelled().await;
        Ok(())
    })
}

fn deaf() -> LocalTask {
    LocalTask::new(|_| std::future::pending())
}

async fn both() -> Vec<(&'static str, Arc<dyn Lifecycle>)> {
    vec![
        ("child process", Arc::new(sleeper())),
        ("task that listens", Arc::new(waiter())),
        ("task that does not", Arc::new(deaf())),
    ]
}

async fn is_running(lifecycle: &dyn Lifecycle) -> bool {
    matches!(lifecycle.status().await.unwrap(), LifecycleStatus::Running { .. })
}

#[tokio::test]
async fn stopping_before_starting_changes_nothing() {
    for (name, lifecycle) in both().await {
        lifecycle.stop(LONG).await.unwrap();
        assert_eq!(lifecycle.status().await.unwrap(), LifecycleStatus::Stopped, "{name}");
        lifecycle.start().await.unwrap();
        assert!(is_running(&*lifecycle).await, "{name}");
    }
}

#[tokio::test]
async fn starting_twice_starts_one() {
    for (name, lifecycle) in both().await {
        lifecycle.start().await.unwrap();
        let before = lifecycle.status().await.unwrap();
        lifecycle.start().await.unwrap();
        assert_eq!(lifecycle.status().await.unwrap(), before, "{name}");
    }
}

#[tokio::test]
async fn stopping_twice_and_starting_again_works() {
    for (name, lifecycle) in both().await {
        for _ in 0..3 {
            lifecycle.start().await.unwrap();
            assert!(is_running(&*lifecycle).await, "{name}");
            lifecycle.stop(Duration::ZERO).await.unwrap();
            lifecycle.stop(Duration::ZERO).await.unwrap();
            assert_eq!(lifecycle.status().await.unwrap(), LifecycleStatus::Stopped, "{name}");
        }
    }
}

#[tokio::test]
async fn stopping_while_starting_leaves_it_stopped_and_starting_while_stopping_running() {
    for (name, lifecycle) in both().await {
        let (started, stopped) = tokio::join!(lifecycle.start(), lifecycle.stop(Duration::ZERO));
        started.unwrap();
        stopped.unwrap();
        assert_eq!(lifecycle.status().await.unwrap(), LifecycleStatus::Stopped, "{name}");
        lifecycle.start().await.unwrap();
        let (stopped, started) = tokio::join!(lifecycle.stop(Duration::ZERO), lifecycle.start());
        stopped.unwrap();
        started.unwrap();
        assert!(is_running(&*lifecycle).await, "{name}");
    }
}

#[tokio::test]
async fn many_callers_at_once_agree_in_the_end() {
    for (name, lifecycle) in both().await {
        let calls = (0..20).map(|n| {
            let lifecycle = lifecycle.clone();
            tokio::spawn(async move {
                if n % 2 == 0 { lifecycle.start().await } else { lifecycle.stop(Duration::ZERO).await }
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap().unwrap();
        }
        lifecycle.stop(Duration::ZERO).await.unwrap();
        assert_eq!(lifecycle.status().await.unwrap(), LifecycleStatus::Stopped, "{name}");
    }
}

#[tokio::test]
async fn what_ends_by_itself_has_failed_until_it_is_started_again() {
    let child = ChildProcess::new("/bin/sh").argument("-c").argument("exit 7");
    child.start().await.unwrap();
    assert_eq!(child.ended().await.unwrap(), "exit code 7");
    assert_eq!(child.status().await.unwrap(), LifecycleStatus::Failed { reason: "exit code 7".into() });
    child.stop(LONG).await.unwrap();
    assert_eq!(child.status().await.unwrap(), LifecycleStatus::Stopped);

    let task = LocalTask::new(|_| async { panic!("as planned") });
    task.start().await.unwrap();
    assert_eq!(task.ended().await.unwrap(), "panicked");
    assert_eq!(task.status().await.unwrap(), LifecycleStatus::Failed { reason: "panicked".into() });
    task.stop(LONG).await.unwrap();
    assert_eq!(task.status().await.unwrap(), LifecycleStatus::Stopped);
}

#[tokio::test]
async fn a_killed_child_has_failed_and_can_be_started_again() {
    let child = sleeper();
    child.kill();
    child.start().await.unwrap();
    let before = child.status().await.unwrap();
    child.kill();
    assert_eq!(child.ended().await.unwrap(), "killed by signal 9");
    assert!(matches!(child.status().await.unwrap(), LifecycleStatus::Failed { .. }));
    child.start().await.unwrap();
    assert!(is_running(&child).await);
    assert_ne!(child.status().await.unwrap(), before);
}

#[tokio::test]
async fn a_stop_uses_sigterm_first_and_a_deaf_child_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let ready = directory.path().join("ready");
    let script = |trap: &str| {
        format!("trap '{trap}' TERM; : > {}; while :; do /bin/sleep 0.01; done", ready.display())
    };
    let polite = ChildProcess::new("/bin/sh").argument("-c").argument(script("exit 0"));
    polite.start().await.unwrap();
    wait_for_file(&ready).await;
    polite.stop(LONG).await.unwrap();
    std::fs::remove_file(&ready).unwrap();
    let deaf = ChildProcess::new("/bin/sh").argument("-c").argument(script(""));
    deaf.start().await.unwrap();
    wait_for_file(&ready).await;
    deaf.stop(Duration::from_millis(50)).await.unwrap();
    assert_eq!(deaf.status().await.unwrap(), LifecycleStatus::Stopped);
}

#[tokio::test]
async fn a_missing_program_is_an_error_that_names_it() {
    let error = ChildProcess::new("/no/such/program").start().await.unwrap_err();
    assert!(error.to_string().contains("/no/such/program could not be started"), "{error}");
}

#[tokio::test]
async fn a_dropped_child_is_killed() {
    let child = sleeper();
    child.start().await.unwrap();
    let LifecycleStatus::Running { pid: Some(pid), .. } = child.status().await.unwrap() else { panic!() };
    drop(child);
    // Tokio collects it, so that not even a zombie stays.
    while std::path::Path::new(&format!("/proc/{pid}")).exists() {
        tokio::task::yield_now().await;
    }
}

async fn wait_for_file(path: &std::path::Path) {
    while !path.exists() {
        tokio::task::yield_now().await;
    }
}
