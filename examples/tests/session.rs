//! The sessions in the README are run as they stand there, and what they show is what comes out.
//!
//! What one machine without systemd and without a person lacks is played here: the terminals, the pasting,
//! copying between machines, the password that is typed, and the start of a service, by the line of its unit.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

const README: &str = include_str!("../../README.md");
/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is said when a block has ended well.
const DONE: &str = "@@ done";
/// A password is typed, one user is enough, and there is no systemd: a unit is shown instead.
const PLAYED: &str = r#"
mamosctl() {
    case " $* " in
        *" setup "*) command mamosctl "$@" --password-stdin <<< "correct horse battery" ;;
        *) command mamosctl "$@" ;;
    esac
}
mamos-server() { case " $* " in *" --enable "*) set -- "$@" --print ;; esac; command mamos-server "$@"; }
mamos-agent() { case " $* " in *" --enable "*) set -- "$@" --print ;; esac; command mamos-agent "$@"; }
chown() { true; }
"#;

/// A block of the README: who types it, what is typed, and what it shows.
#[derive(Debug, Default)]
struct Block {
    who: String,
    typed: String,
    shown: String,
}

/// The marked blocks of a section.
fn blocks(section: &str) -> Vec<Block> {
    let rest = README.split(&format!("\n## {section}\n")).nth(1).expect("the section is there");
    let mut lines = rest.split("\n## ").next().unwrap().lines();
    let mut blocks: Vec<Block> = Vec::new();
    while let Some(line) = lines.next() {
        let who = line.strip_prefix("<!-- session: ").and_then(|rest| rest.strip_suffix(" -->"));
        if let Some(who) = who {
            assert_eq!(lines.next(), Some("```sh"), "the block of {who}");
            let typed = fenced(&mut lines);
            blocks.push(Block { who: who.to_owned(), typed, shown: String::new() });
        } else if line == "```text" {
            blocks.last_mut().expect("something was typed before").shown = fenced(&mut lines);
        }
    }
    blocks
}

fn fenced<'a>(lines: &mut impl Iterator<Item = &'a str>) -> String {
    lines.take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect()
}

/// Each line that is shown is there, in this order. `…` is whatever it is; spaces align and mean nothing.
fn assert_shown(block: &Block, output: &str) {
    let mut lines = output.lines().map(words);
    for shown in block.shown.lines() {
        let is_there = lines.any(|line| fits(&words(shown), &line));
        assert!(is_there, "the README shows {shown:?} after\n{}\nbut it printed\n{output}", block.typed);
    }
}

fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn fits(shown: &str, line: &str) -> bool {
    let Some((first, others)) = shown.split_once('…') else { return shown == line };
    let Some(mut rest) = line.strip_prefix(first.trim_end()) else { return false };
    let mut parts: Vec<_> = others.split('…').map(str::trim).collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// A shell that stops at the first thing that goes wrong.
struct Terminal {
    shell: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    said: String,
}

impl Terminal {
    fn open(here: &Path, home: &Path, variables: &[(&str, &str)]) -> Self {
        let programs = Path::new(env!("CARGO_BIN_EXE_mamosctl")).parent().unwrap();
        let mut command = Command::new("bash");
        command.arg("-e").current_dir(here).env_clear().process_group(0);
        command
            .env("PATH", format!("{}:/usr/bin:/bin", programs.display()))
            .env("HOME", home)
            .env("TMPDIR", home)
            .envs(variables.iter().copied());
        let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let output = BufReader::new(shell.stdout.take().unwrap());
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let mut input = shell.stdin.take().unwrap();
        input.write_all(format!("exec 2>&1\n{PLAYED}").as_bytes()).unwrap();
        Self { shell, input, lines, said: String::new() }
    }

    /// Types something that does not end.
    fn start(&mut self, typed: &str) {
        self.input.write_all(format!("{typed}\n").as_bytes()).unwrap();
    }

    /// Types something, waits for its end, and gives what was printed meanwhile.
    fn run(&mut self, typed: &str) -> String {
        let from = self.said.len();
        // What is typed must not be read by the programs that it starts.
        self.start(&format!("{{\n{typed}\n}} < /dev/null\necho '{DONE}'"));
        self.until(DONE);
        self.said[from..].to_owned()
    }

    /// Waits until a line holds this, and gives the line.
    fn until(&mut self, text: &str) -> String {
        loop {
            let Ok(line) = self.lines.recv_timeout(PATIENCE) else {
                panic!("{text:?} did not come, but:\n{}", self.said);
            };
            self.said.push_str(&line);
            self.said.push('\n');
            if line.contains(text) {
                return line;
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let group = Pid::from_child(&self.shell);
        // Everything that it started may have ended already.
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.shell.wait();
    }
}

/// The line that starts the service, of a unit.
fn starts(unit: &str) -> String {
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart="));
    line.expect("the unit says how it is started").to_owned()
}

#[test]
fn the_two_terminals_of_the_readme_work_as_shown() {
    let home = tempfile::tempdir().unwrap();
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let blocks = blocks("Two terminals");
    let [first, second] = &blocks[..] else { panic!("{blocks:?}") };
    let mut server = Terminal::open(repository, home.path(), &[("MAMOS_SERVER_LISTEN", "127.0.0.1:0")]);
    server.start(&first.typed);
    let key = server.until("export MAMOS_SERVER=");
    let agent = server.until("mamos-agent run");

    let mut operator = Terminal::open(repository, home.path(), &[]);
    operator.start(&key);
    operator.start(&agent);
    let printed = operator.run(&second.typed);
    assert_shown(second, &printed);
}

#[test]
fn the_two_machines_of_the_readme_work_as_shown() {
    let (home, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let state = |name: &str| home.path().join(name).display().to_string();
    // Nobody else takes it as long as nobody asks for this very one.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let machine = [("NAME", "localhost"), ("PORT", port.as_str())];
    let blocks = blocks("On two machines");
    let [install, trust, prepare, join, look] = &blocks[..] else { panic!("{blocks:?}") };
    let people: Vec<_> = blocks.iter().map(|block| block.who.as_str()).collect();
    assert_eq!(people, ["server", "operator", "operator", "agent", "operator"]);
    let open = |directory: &str, state: &str| {
        let here = here.path().join(directory);
        std::fs::create_dir_all(&here).unwrap();
        let variables = [("MAMOS_SERVER_STATE_DIRECTORY", state), ("MAMOS_AGENT_STATE_DIRECTORY", state)];
        Terminal::open(&here, home.path(), &[&machine[..], &variables].concat())
    };
    let copy = |name: &str, from: &str, to: &str| {
        std::fs::create_dir_all(here.path().join(to)).unwrap();
        std::fs::copy(here.path().join(from).join(name), here.path().join(to).join(name)).unwrap();
    };

    let mut server = open("server", &state("server"));
    let printed = server.run(&install.typed);
    assert_shown(install, &printed);
    server.start(&starts(&printed));
    let setup = server.until("mamosctl --server");

    copy("server.pem", "server", "operator");
    let mut operator = open("operator", "");
    operator.run(&trust.typed);
    assert!(operator.run(&setup).contains("admin is the first administrator"));
    assert_shown(prepare, &operator.run(&prepare.typed));

    for (name, from) in [("server.pem", "server"), ("whitelist.toml", "server"), ("token", "operator")] {
        copy(name, from, "agent");
    }
    let mut agent = open("agent", &state("agent"));
    let printed = agent.run(&join.typed);
    assert_shown(join, &printed);
    agent.start(&starts(&printed));
    assert_shown(look, &operator.run(&look.typed));
}

#[test]
fn a_shown_line_fits_only_what_it_shows() {
    assert!(fits("a … c", "a b c") && fits("a …", "a b") && fits("a b", "a b"));
    assert!(!fits("a … c", "a b d") && !fits("a", "a b") && !fits("b", "a b") && !fits("a … c", "a b c d"));
}
