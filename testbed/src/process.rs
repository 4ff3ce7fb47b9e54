//! A server process: started, watched, stopped.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// The slowest of them, RabbitMQ, takes some ten seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A port on 127.0.0.1 that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("the loopback interface takes listeners");
    listener.local_addr().expect("a bound listener has an address").port()
}

/// A process group of its own, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts a program with its output in `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let output = File::options().create(true).append(true).open(log).expect("the log can be written");
        let errors = output.try_clone().expect("a file can be opened twice");
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.process_group(0).stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot start {name}: {error}; is it installed?"));
        Self { child }
    }

    /// Waits until `is_ready`.
    pub(crate) fn wait_until(&mut self, log: &Path, mut is_ready: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_ready() {
            let ended = self.child.try_wait().expect("a child can be waited for");
            let said = || std::fs::read_to_string(log).unwrap_or_default();
            assert!(
                ended.is_none(),
                "the server ended ({ended:?}) before it was ready; it said:\n{}",
                said()
            );
            assert!(Instant::now() < end, "the server is not ready after {PATIENCE:?}; it said:\n{}", said());
            sleep(LOOK_EVERY);
        }
    }

    /// Sends a signal to the leader of the group.
    pub(crate) fn signal(&self, signal: Signal) {
        // It may have ended by itself.
        let _ = kill_process(self.pid(), signal);
    }

    /// Sends a signal to the whole group.
    pub(crate) fn signal_all(&self, signal: Signal) {
        let _ = kill_process_group(self.pid(), signal);
    }

    /// Stops the whole group in its tracks, and waits until all of its threads stand: the signal alone returns before.
    pub(crate) fn freeze(&self) {
        self.signal_all(Signal::STOP);
        let end = Instant::now() + PATIENCE;
        while !all_stand(self.child.id()) {
            assert!(Instant::now() < end, "the server does not stop after {PATIENCE:?}");
            sleep(LOOK_EVERY);
        }
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal_all(Signal::CONT);
    }

    /// Waits until it has ended; after a while it is killed.
    pub(crate) fn wait(&mut self) {
        let end = Instant::now() + PATIENCE;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() > end {
                self.signal_all(Signal::KILL);
            }
            sleep(LOOK_EVERY);
        }
        // Whatever the leader left behind.
        self.signal_all(Signal::KILL);
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal_all(Signal::CONT);
        self.signal_all(Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Does every thread of this process group stand? Without Linux's `/proc` nobody can tell.
fn all_stand(group: u32) -> bool {
    let is_of_group = |stat: &(char, u32)| stat.1 == group;
    let entries =
        |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    entries(Path::new("/proc"))
        .filter(|process| stat(process).as_ref().is_some_and(is_of_group))
        .flat_map(|process| entries(&process.join("task")).collect::<Vec<_>>())
        .filter_map(|thread| stat(&thread))
        .all(|(state, _)| matches!(state, 'T' | 't' | 'Z' | 'X'))
}

/// The state of a process or thread, and its group. `None` if it has ended, or is none.
fn stat(path: &Path) -> Option<(char, u32)> {
    let stat = std::fs::read_to_string(path.join("stat")).ok()?;
    // The name before may hold anything, brackets too.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(1)?.parse().ok()?))
}

/// Runs a program to its end.
pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
}

/// Does something take connections there?
pub(crate) fn answers(port: u16) -> bool {
    TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), Duration::from_secs(1)).is_ok()
}

/// The first of these programs that is there.
pub(crate) fn program(candidates: &[&str]) -> Option<String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let in_path = |name: &str| path.split(':').any(|directory| Path::new(directory).join(name).exists());
    candidates
        .iter()
        .find(|name| if name.contains('/') { Path::new(name).exists() } else { in_path(name) })
        .map(|name| (*name).to_owned())
}
