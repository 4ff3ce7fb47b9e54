//! What Linux tells about processes in `/proc`. Elsewhere all answers are `None`.

use std::fs;

/// What `/proc/<pid>/stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    /// Clock ticks between the start of the machine and that of the process.
    pub(crate) started: u64,
    /// It runs or could run: no zombie.
    pub(crate) is_living: bool,
}

pub(crate) fn process(pid: i32) -> Option<Process> {
    parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// All processes of a group, zombies too. `None` if the system does not tell.
pub(crate) fn members(group: i32) -> Option<Vec<Process>> {
    let entries = fs::read_dir("/proc").ok()?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let members: Vec<_> = pids.filter_map(process).filter(|process| process.group == group).collect();
    // Where /proc is something else, we ourselves are not in it.
    process(i32::try_from(std::process::id()).ok()?)?;
    Some(members)
}

/// Names this run of the machine: process ids of another one mean nothing.
pub(crate) fn boot_id() -> Option<String> {
    Some(fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned())
}

/// The name in brackets may hold anything, brackets and blanks too, so the fields are counted behind the
/// last bracket: state, parent, group, session, …, and the start as the 22nd field of the line.
fn parse(pid: i32, stat: &str) -> Option<Process> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Process {
        pid,
        group: fields.get(2)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
        is_living: !matches!(*fields.first()?, "Z" | "X" | "x"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_process_name_does_not_confuse_the_fields() {
        // The fields of proc(5): pid (comm) state ppid pgrp session tty … starttime is the 22nd.
        let stat = "7 (a) Z 1 2 3) S 1 70 700 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 4711 99 1";
        let expected = Process { pid: 7, group: 70, session: 700, started: 4711, is_living: true };
        assert_eq!(parse(7, stat), Some(expected));
        assert_eq!(parse(7, "7 (a"), None);
        assert_eq!(parse(7, "7 (a) Z 1"), None);
    }

    #[test]
    fn we_are_a_process_ourselves() {
        let own = process(std::process::id() as i32).unwrap();
        assert!(own.is_living && own.started > 0);
        assert!(members(own.group).unwrap().contains(&process(own.pid).unwrap()));
    }
}
