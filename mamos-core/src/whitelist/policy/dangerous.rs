//! Programs that would make a whitelist worthless, because they run whatever their arguments say.
//!
//! The table is the rule book: names, what is refused, and why. A program is judged by the name that the
//! policy gives it and by the name of the file that its links lead to.
//!
//! # Source
//!
//! Which programs can be talked into running others, and by which options, is collected by the GTFOBins
//! project; the rows here are written from the programs' own manuals.

use super::template::Template;

/// What of a program is refused.
enum Rule {
    /// Everything.
    Always,
    /// The given options, in any spelling that the program may accept.
    Options(&'static [Flag]),
    /// Anything but fixed code: the first argument that is not one of `before` must be a text without a
    /// slot, and must be an absolute path if `file`. What follows belongs to the code.
    FixedCode { before: &'static [&'static str], file: bool },
    /// Any slot: every argument must be fixed.
    Slots,
}

/// An option that is refused.
enum Flag {
    /// `--name`, `--name=value`, and every abbreviation, since GNU programs accept those.
    Long(&'static str),
    /// A letter, alone or among others behind one dash: `-c`, `-xc`, `-cvalue`.
    Letter(char),
    /// An argument that begins like this.
    Word(&'static str),
    /// A letter in the first argument, with or without a dash, as in `tar xIf`.
    FirstLetter(char),
    /// A slot where the program expects one of its own words.
    FirstSlot,
}

struct Row {
    /// Separated by spaces, without versions.
    names: &'static str,
    rule: Rule,
    why: &'static str,
}

use Flag::{FirstLetter, FirstSlot, Letter, Long, Word};
use Rule::{Always, FixedCode, Options, Slots};

/// Names have no version: `python3.11` is found as `python`.
const TABLE: &[Row] = &[
    Row {
        names: "sh bash rbash dash ash zsh ksh mksh lksh pdksh oksh fish csh tcsh rc es elvish nu xonsh \
                yash osh pwsh powershell scsh posh",
        rule: Always,
        why: "it is a shell, and a shell runs whatever text it is given",
    },
    Row {
        names: "busybox toybox coreutils hush",
        rule: Always,
        why: "it is many programs in one, a shell or a starter of programs among them",
    },
    Row {
        names: "env xargs parallel nohup setsid timeout nice ionice chrt taskset stdbuf time watch flock \
                unbuffer expect script scriptreplay entr run-parts start-stop-daemon systemd-run \
                dbus-run-session rlwrap setarch linux32 linux64 i386 x86_64 choom numactl prlimit \
                catchsegv cpulimit eatmydata faketime",
        rule: Always,
        why: "it starts another program, which the whitelist then does not see",
    },
    Row {
        names: "sudo sudoedit su doas pkexec runuser setpriv chroot unshare nsenter capsh newgrp sg \
                login machinectl bwrap firejail fakeroot",
        rule: Always,
        why: "it starts another program with other rights or another root",
    },
    Row {
        names: "ssh scp sftp rsh telnet mosh sshpass nc ncat netcat socat slogin",
        rule: Always,
        why: "it runs programs on other machines or joins a program to the network",
    },
    Row {
        names: "gdb lldb strace ltrace perf valgrind bpftrace ld.so ld-linux.so ld-linux-x86-64.so \
                ld-linux-aarch64.so ld-musl-x86_64.so ld-musl-aarch64.so ld-linux-armhf.so",
        rule: Always,
        why: "it loads and runs any program that it is pointed to",
    },
    Row {
        names: "vi vim nvim view rvim ex ed red nano pico emacs emacsclient less more most pg man screen \
                tmux byobu dialog mail mailx mutt",
        rule: Always,
        why: "it is made for a person at a terminal, and lets that person start a shell",
    },
    Row {
        names: "at batch crontab make gmake ninja cmake rake ant mvn gradle just",
        rule: Always,
        why: "it runs commands that it finds in a file or on its input",
    },
    Row {
        names: "docker podman nerdctl kubectl lxc lxc-attach lxc-execute ctr crictl runc",
        rule: Options(&[Word("run"), Word("exec"), Word("create"), Word("attach"), Word("debug"), FirstSlot]),
        why: "it starts programs in containers, and may hand over the whole machine; name the subcommand as the \
              first argument",
    },
    Row {
        names: "python pypy ipython micropython",
        rule: FixedCode {
            before: &["-I", "-s", "-S", "-E", "-P", "-u", "-B", "-O", "-OO", "-q"],
            file: true,
        },
        why: "it is an interpreter: its script must be a fixed, absolute path, never code, a module or a slot",
    },
    Row {
        names: "perl ruby irb jruby node nodejs deno bun php php-cgi lua luajit tclsh wish guile racket \
                julia Rscript R octave groovy scala kotlin elixir iex erl escript ghci runghc ocaml \
                swipl gjs jjs jshell java mono dotnet sbcl clisp gforth jrunscript",
        rule: FixedCode { before: &[], file: true },
        why: "it is an interpreter: its first argument must be a fixed, absolute path of a script, never an option, \
              code or a slot",
    },
    Row {
        names: "sqlite psql mysql mariadb redis-cli mongo mongosh gnuplot bc dc m4 cpp",
        rule: Slots,
        why: "its arguments can be statements of a language that starts programs, so all of them must be fixed text",
    },
    Row {
        names: "awk gawk mawk nawk original-awk bioawk sed gsed ssed",
        rule: FixedCode { before: &["-n", "-E", "-r", "-s", "-u", "-z"], file: false },
        why: "its program can run commands and write files, so the program must be fixed text, never a slot or a file",
    },
    Row {
        names: "find gfind",
        rule: Options(&[
            Word("-exec"),
            Word("-ok"),
            Word("-delete"),
            Word("-fprint"),
            Word("-fls"),
            Word("-files0-from"),
        ]),
        why: "this would run a program or change files for each file found",
    },
    Row {
        names: "fd fdfind",
        rule: Options(&[Long("--exec"), Long("--exec-batch"), Letter('x'), Letter('X')]),
        why: "this would run a program for each file found",
    },
    Row {
        names: "tar gtar bsdtar star",
        rule: Options(&[
            Long("--checkpoint-action"),
            Long("--to-command"),
            Long("--use-compress-program"),
            Long("--info-script"),
            Long("--new-volume-script"),
            Long("--rsh-command"),
            Long("--rmt-command"),
            Letter('I'),
            Letter('F'),
            FirstLetter('I'),
            FirstLetter('F'),
            FirstSlot,
        ]),
        why: "this makes it run a program",
    },
    Row {
        names: "git",
        rule: Options(&[
            Letter('c'),
            Letter('u'),
            Letter('O'),
            Letter('x'),
            Letter('p'),
            Long("--config-env"),
            Long("--exec-path"),
            Long("--exec"),
            Long("--upload-pack"),
            Long("--receive-pack"),
            Long("--upload-archive"),
            Long("--ext-diff"),
            Long("--textconv"),
            Long("--open-files-in-pager"),
            Long("--paginate"),
            Long("--config"),
            Long("--template"),
            Word("bisect"),
            Word("filter-branch"),
            Word("submodule"),
            Word("difftool"),
            Word("mergetool"),
            Word("help"),
            Word("config"),
            Word("ext::"),
            FirstSlot,
        ]),
        why: "this makes it run a program; name the subcommand as the first argument",
    },
    Row {
        names: "rsync",
        rule: Options(&[Letter('e'), Long("--rsh"), Long("--rsync-path"), Long("--early-input")]),
        why: "this makes it run a program",
    },
    Row {
        names: "zip unzip 7z 7za cpio pax ar sort split csplit dd tee xz",
        rule: Options(&[
            Letter('T'),
            Long("--unzip-command"),
            Long("--rsh-command"),
            Long("--compress-program"),
            Long("--filter"),
            Long("--output"),
            Word("of={"),
        ]),
        why: "this makes it run a program or write to any file",
    },
    Row {
        names: "curl wget wget2 aria2c",
        rule: Options(&[
            Letter('K'),
            Letter('e'),
            Long("--config"),
            Long("--execute"),
            Long("--use-askpass"),
            Long("--engine"),
            Long("--on-download-complete"),
            Long("--on-download-start"),
            Long("--conf-path"),
        ]),
        why: "this makes it run a program or take its options from elsewhere",
    },
    Row {
        names: "tcpdump journalctl systemctl apt apt-get dpkg rpm yum dnf pip npm openssl ip mount",
        rule: Options(&[
            Letter('z'),
            Long("--postrotate-command"),
            Long("--engine"),
            Long("--eval"),
            Long("--pipe"),
            Long("--option"),
            Letter('o'),
            Word("exec"),
            Word("edit"),
            Word("engine"),
            Word("netns"),
            Word("-force"),
            FirstSlot,
        ]),
        why: "this lets it run a program or load code; name the subcommand as the first argument",
    },
];

/// What Debian and others append where several packages have a program of the same name.
const VARIANTS: &[&str] =
    &[".basic", ".tiny", ".nox", ".gtk3", ".athena", ".openbsd", ".traditional", ".distrib", ".gnu", ".real"];

/// Why the arguments must not be given to the program of this name, if so.
///
/// `allows_dash` says whether a parameter's value may begin with a dash, and so be any option.
pub(super) fn objection(
    name: &str,
    arguments: &[Template],
    allows_dash: &dyn Fn(&str) -> bool,
) -> Option<Objection> {
    let row = row_of(name)?;
    let (index, what) = match &row.rule {
        Always => (None, format!("`{name}` is refused")),
        Options(flags) => {
            let (index, found) = find_option(flags, arguments, allows_dash)?;
            (Some(index), format!("{found} is refused for `{name}`"))
        }
        FixedCode { before, file } => {
            let (index, found) = find_loose_code(before, *file, arguments, allows_dash)?;
            (index, format!("{found} is refused for `{name}`"))
        }
        Slots => {
            let index = arguments.iter().position(|argument| argument.slot.is_some())?;
            (Some(index), format!("a slot is refused for `{name}`"))
        }
    };
    Some(Objection { argument: index, message: format!("{what}: {}", row.why) })
}

/// What stands against a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Objection {
    /// Which argument is at fault; `None` for the program itself.
    pub(super) argument: Option<usize>,
    pub(super) message: String,
}

fn row_of(name: &str) -> Option<&'static Row> {
    let find = |name: &str| TABLE.iter().find(|row| row.names.split_whitespace().any(|known| known == name));
    let bare = name.strip_suffix(".exe").unwrap_or(name);
    // `python3.11`, `ld-linux-x86-64.so.2`, `perl5.36.0`, `mawk-1.3`.
    let unversioned = bare.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-'));
    // Not any suffix: a script of the operator's own may be called `make.sh`.
    let variant = VARIANTS.iter().find_map(|variant| bare.strip_suffix(variant)).unwrap_or(bare);
    find(bare)
        .or_else(|| find(unversioned))
        .or_else(|| find(variant))
        .or_else(|| find(&bare.to_ascii_lowercase()))
}

fn find_option(
    flags: &[Flag],
    arguments: &[Template],
    allows_dash: &dyn Fn(&str) -> bool,
) -> Option<(usize, String)> {
    for (index, argument) in arguments.iter().enumerate() {
        if argument.begins_with_slot() {
            let slot = argument.slot.as_deref().unwrap_or_default();
            if allows_dash(slot) {
                return Some((
                    index,
                    format!("`{{{slot}}}`, which may begin with a dash and be any option,"),
                ));
            }
            if index == 0 && flags.iter().any(|flag| matches!(flag, FirstSlot)) {
                return Some((index, format!("`{{{slot}}}` as the first argument")));
            }
            continue;
        }
        // The fixed part is enough: a slot behind it only gives the option its value.
        let text = argument.before.as_str();
        if flags.iter().any(|flag| flag.matches(index, argument)) {
            return Some((index, format!("`{text}`")));
        }
    }
    None
}

impl Flag {
    fn matches(&self, index: usize, argument: &Template) -> bool {
        let text = argument.before.as_str();
        match self {
            Long(name) => {
                let option = text.split_once('=').map_or(text, |(option, _)| option);
                // `--` alone is no option, unless a slot completes it.
                let is_option = option.starts_with("--") && (option.len() > 2 || argument.slot.is_some());
                is_option && name.starts_with(option)
            }
            Letter(letter) => text
                .strip_prefix('-')
                .filter(|rest| !rest.starts_with('-'))
                // A slot among the letters could be that letter.
                .is_some_and(|rest| rest.contains(*letter) || (argument.slot.is_some() && rest.is_empty())),
            Word(word) => text.starts_with(word),
            FirstLetter(letter) => {
                let is_cluster =
                    !text.starts_with("--") && text.bytes().all(|c| c == b'-' || c.is_ascii_alphabetic());
                index == 0 && is_cluster && (text.contains(*letter) || argument.slot.is_some())
            }
            FirstSlot => false,
        }
    }
}

fn find_loose_code(
    before: &[&str],
    file: bool,
    arguments: &[Template],
    allows_dash: &dyn Fn(&str) -> bool,
) -> Option<(Option<usize>, String)> {
    let is_harmless = |argument: &Template| argument.fixed().is_some_and(|text| before.contains(&text));
    let Some(at) = arguments.iter().position(|argument| !is_harmless(argument)) else {
        return Some((None, "running without code of its own".to_owned()));
    };
    let code = &arguments[at];
    let shown = || match &code.slot {
        Some(slot) => format!("`{}{{{slot}}}{}`", code.before, code.after),
        None => format!("`{}`", code.before.chars().take(64).collect::<String>()),
    };
    match code.fixed() {
        Some(text) if !text.starts_with('-') && (!file || text.starts_with('/')) => {}
        _ => return Some((Some(at), format!("{} in the place of its code", shown()))),
    }
    if file {
        return None;
    }
    // Programs such as sed take options behind their code as well, so that more code could follow.
    arguments.iter().enumerate().skip(at + 1).find_map(|(index, argument)| {
        let is_loose = argument.before.starts_with('-')
            || (argument.begins_with_slot() && argument.slot.as_deref().is_some_and(allows_dash));
        is_loose.then(|| (Some(index), "an option behind its code".to_owned()))
    })
}

#[cfg(test)]
mod tests;
