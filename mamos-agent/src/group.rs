//! A process and all its descendants that stay in its process group.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::time::Instant;

/// How long a killed group may take to go. Only a process in an uninterruptible system call takes longer.
pub(crate) const GONE_WITHIN: Duration = Duration::from_secs(5);

/// The process group of a child. Killed when dropped, unless it was seen to be gone.
#[derive(Debug)]
pub(crate) struct ProcessGroup {
    leader: Pid,
    is_gone: bool,
}

impl ProcessGroup {
    /// The group of a child that was spawned with `process_group(0)` and not yet waited for.
    pub(crate) fn of(child: &tokio::process::Child) -> Option<Self> {
        let leader = i32::try_from(child.id()?).ok().and_then(Pid::from_raw)?;
        Some(Self { leader, is_gone: false })
    }

    /// The number of the group, which is that of the process that it began with.
    pub(crate) fn id(&self) -> u32 {
        self.leader.as_raw_nonzero().get().unsigned_abs()
    }

    pub(crate) fn terminate(&mut self) {
        self.signal(Signal::TERM);
    }

    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
    }

    fn signal(&mut self, signal: Signal) {
        // Once the group is gone its number may be someone else's.
        if !self.is_gone && kill_process_group(self.leader, signal) == Err(Errno::SRCH) {
            self.is_gone = true;
        }
    }

    /// Waits until no process of the group lives, at most `within`. Was it so?
    pub(crate) async fn gone(&mut self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        // Nothing announces the end of a grandchild, so we look; seldom, once it takes long.
        let mut pause = Duration::from_millis(1);
        while !self.check_gone() {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
        true
    }

    /// Is no process of the group alive any more?
    pub(crate) fn check_gone(&mut self) -> bool {
        self.is_gone = self.is_gone || !has_living_member(self.leader);
        self.is_gone
    }

    /// Kills what is left, and waits until it is gone.
    pub(crate) async fn finish(&mut self) {
        self.kill();
        if !self.gone(GONE_WITHIN).await {
            tracing::warn!(group = self.id(), "killed processes are still there; they hang in the kernel");
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Is there a process in the group that is more than a zombie? Zombies of grandchildren are for init to
/// collect, and some containers have an init that does not.
fn has_living_member(group: Pid) -> bool {
    if test_kill_process_group(group) == Err(Errno::SRCH) {
        return false;
    }
    match crate::proc::members(group.as_raw_nonzero().get()) {
        Some(members) => members.iter().any(|member| member.is_living),
        None => true,
    }
}

/// What ended a process, for people.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended for no known reason".to_owned(),
    }
}
