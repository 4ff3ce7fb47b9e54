//! What the table refuses, and what it does not.

use super::*;

fn objects(command: &str) -> bool {
    let mut words = command.split_whitespace();
    let name = words.next().unwrap();
    let arguments: Vec<_> = words.map(|word| Template::parse(word).unwrap()).collect();
    objection(name, &arguments, &|slot| slot == "dashed").is_some()
}

#[test]
fn each_way_to_run_something_else_is_refused() {
    for command in "
        bash
        bash5.2
        rbash
        busybox ls
        env
        env FOO=1 /bin/x
        dbus-run-session /bin/x
        ld-linux-aarch64.so.1 /bin/x
        ld-linux-x86-64.so.2 /bin/x
        vim.basic /etc/hosts
        nc.openbsd -l
        python3 -c {x}
        python3.11 -c print
        python3 -m http.server
        python3 -Ic x
        python3 {script}
        python3 -X /tmp/x {script}
        python3 script.py
        python3 -u
        perl -e1 /x
        perl -I /lib {x}
        ruby -rfoo /x
        node --eval x
        php8.2 -r x
        lua5.4 -e x
        java -jar {x}
        awk {program} /etc/hosts
        awk -F : {program}
        awk -f /x
        gawk -i{x} /x
        sed -n {x}
        sed -e p
        sed p -e {x}
        sed p {dashed}
        sed s/{x}/y/e
        find / -exec rm
        find / -execdir rm
        find / -ok rm
        find / -delete
        find {dashed}
        find / -fprintf x
        tar -xf x --checkpoint-action=exec=sh
        tar -xf x --checkpoint-act={x}
        tar --to-command=x
        tar -xIf x
        tar xIf x
        tar -I x
        tar -F x
        tar {x}
        tar -{x} f
        tar --{x} f
        git -c core.pager=x log
        git -ccore.pager=x log
        git {subcommand}
        git fetch --upload-pack={x}
        git fetch --upload-p x
        git rebase --exec x
        git clone ext::{x}
        rsync -ae x a b
        rsync --rsh=x a b
        docker run x
        docker {x}
        sort --compress-program=x
        split --filter=x
        tcpdump -z x
        sqlite3 /db {sql}
        psql -c {sql}
        SH
    "
    .lines()
    .map(str::trim)
    .filter(|line| !line.is_empty())
    {
        assert!(objects(command), "{command}");
    }
}

#[test]
fn ordinary_uses_are_not_refused() {
    for command in "
        df -h {path}
        ls -la {dashed}
        python3 /opt/report.py {x} -c {dashed}
        python3 -I -u /opt/report.py
        awk {{print$1}} {file}
        sed -n 1,5p {file}
        find {path} -name {x} -maxdepth 2
        tar -czf {archive} {path}
        tar tf {archive}
        tar --list --file={archive}
        git log --oneline -n {n} -- {path}
        rsync -a {from} {to}
        docker ps
        systemctl status {unit}
        sort -u {file}
        uptime
        psql -c vacuum
        make.sh {dashed}
        script.py {x}
        shred
        bashful
    "
    .lines()
    .map(str::trim)
    .filter(|line| !line.is_empty())
    {
        assert!(!objects(command), "{command}");
    }
}

#[test]
fn each_row_names_each_program_once_and_says_why() {
    let mut seen = std::collections::BTreeSet::new();
    for row in TABLE {
        assert!(row.why.len() > 20);
        for name in row.names.split_whitespace() {
            assert!(seen.insert(name), "{name} stands twice");
        }
    }
}
