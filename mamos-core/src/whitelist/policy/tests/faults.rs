//! A table of bad files: each with the line that is at fault, and a part of what is said about it.

use super::parse;
use crate::whitelist::policy::MAX_FAULTS;

/// Lines of a command, after `version = 1` and `[commands.c]`: the first of them is line 3.
const COMMANDS: &[(&str, usize, &str)] = &[
    ("arguments = []", 2, "has no `program`"),
    ("program = 5", 3, "expected a string, found integer"),
    ("program = 'df'", 3, "is not an absolute path"),
    ("program = './df'", 3, "is not an absolute path"),
    ("program = ''", 3, "is not an absolute path"),
    ("program = '/usr/../bin/df'", 3, "has `..` in it"),
    ("program = '/usr//bin/df'", 3, "plainest form"),
    ("program = '/usr/bin/df/'", 3, "plainest form"),
    ("program = '/usr/bin/{x}'", 3, "a slot cannot choose the program"),
    ("program = \"/usr/bin/d\\u0000f\"", 3, "never allowed"),
    ("program = \"/usr/bin/d\\nf\"", 3, "never allowed"),
    ("program = '/bin/sh'", 3, "is a shell"),
    ("program = '/usr/bin/env'\narguments = ['df']", 3, "starts another program"),
    ("program = '/usr/bin/sudo'", 3, "with other rights"),
    ("program = '/usr/bin/find'\narguments = [\n'/',\n'-delete']", 6, "`-delete` is refused for `find`"),
    ("program = '/usr/bin/python3'\narguments = ['-c', 'x']", 4, "`-c` in the place of its code"),
    ("program = '/bin/df'\nprogam = 'x'", 4, "did you mean `program`?"),
    ("program = '/bin/df'\nprogram = '/bin/ls'", 4, "duplicate key"),
    ("program = '/bin/df'\ncolour = 'x'", 4, "unknown key; known are description"),
    ("program = '/bin/df'\narguments = '-h'", 4, "expected a list, found string"),
    ("program = '/bin/df'\narguments = ['-h', 3]", 4, "expected a string, found integer"),
    (
        "program = '/bin/df'\narguments = ['{x}']",
        4,
        "the slot `{x}` has no parameter; add [commands.c.parameters.x]",
    ),
    ("program = '/bin/df'\narguments = ['{']", 4, "never closed"),
    ("program = '/bin/df'\narguments = ['}']", 4, "no `{` before it"),
    ("program = '/bin/df'\narguments = ['{a}{b}']", 4, "at most one slot"),
    ("program = '/bin/df'\narguments = ['{a b}']", 4, "is no slot"),
    ("program = '/bin/df'\narguments = [\"a\\tb\"]", 4, "never allowed"),
    ("program = '/bin/df'\nworking_directory = 'tmp'", 4, "is not an absolute path"),
    ("program = '/bin/df'\nworking_directory = '/tmp/../etc'", 4, "has `..`"),
    ("program = '/bin/df'\ntimeout = 10", 4, "expected a string, found integer"),
    ("program = '/bin/df'\ntimeout = '10'", 4, "is no duration"),
    ("program = '/bin/df'\ntimeout = '10 parsecs'", 4, "for example \"10s\""),
    ("program = '/bin/df'\ntimeout = '0s'", 4, "is not within 100ms and 24h"),
    ("program = '/bin/df'\ntimeout = '25h'", 4, "is not within 100ms and 24h"),
    ("program = '/bin/df'\noutput_cap = '1MB'", 4, "is no size"),
    ("program = '/bin/df'\noutput_cap = '1B'", 4, "is not within 1KiB and 1GiB"),
    ("program = '/bin/df'\noutput_cap = '2GiB'", 4, "is not within 1KiB and 1GiB"),
    ("program = '/bin/df'\nenvironment = ['A=1']", 4, "expected a table, found array"),
    ("program = '/bin/df'\nenvironment = { '1A' = 'x' }", 4, "no name of a variable"),
    ("program = '/bin/df'\nenvironment = { 'A=B' = 'x' }", 4, "no name of a variable"),
    ("program = '/bin/df'\nenvironment = { LD_PRELOAD = '/x' }", 4, "run other code"),
    ("program = '/bin/df'\nenvironment = { BASH_ENV = '/x' }", 4, "run other code"),
    ("program = '/bin/df'\nenvironment = { TRACEPARENT = 'x' }", 4, "sets this one itself"),
    ("program = '/bin/df'\nenvironment = { A = 1 }", 4, "expected a string"),
    ("program = '/bin/df'\nallow = ['operator']", 4, "expected a table"),
    ("program = '/bin/df'\nallow = { role = ['operator'] }", 4, "did you mean `roles`?"),
    ("program = '/bin/df'\nallow = { roles = 'operator' }", 4, "expected a list"),
    ("program = '/bin/df'\nallow = { roles = [''] }", 4, "an empty name"),
    ("program = '/bin/df'\ndescription = 1", 4, "expected a string"),
    ("program = '/bin/df'\nparameters = 3", 4, "expected a table"),
];

/// Lines of a parameter `p` that has its slot: the first of them is line 6.
const PARAMETERS: &[(&str, usize, &str)] = &[
    ("description = 'x'", 5, "has no `type`; write one of integer, enum, string, path, label"),
    ("type = 'text'", 6, "unknown type \"text\"; write one of"),
    ("type = 'strng'", 6, "did you mean \"string\"?"),
    ("type = 1", 6, "expected a string"),
    ("type = 'label'\nmin = 3", 7, "unknown key"),
    ("type = 'label'\ndefalt = 'x'", 7, "did you mean `default`?"),
    ("type = 'label'\ndefault = 'a b'", 7, "the default is not a label"),
    ("type = 'label'\nallow_dash = 'yes'", 7, "expected true or false"),
    ("type = 'integer'\nmin = 'a'", 7, "expected a whole number"),
    ("type = 'integer'\nmin = 1.5", 7, "expected a whole number"),
    ("type = 'integer'\nmin = 5\nmax = 4", 8, "`max` (4) is below `min` (5)"),
    ("type = 'integer'\nmin = -5", 7, "also write `allow_dash = true`"),
    ("type = 'integer'\nmax = 9223372036854775808", 7, "does not fit 64 bits"),
    ("type = 'integer'\nmax = 5\ndefault = 6", 8, "the default is not within 0 and 5"),
    ("type = 'integer'\ndefault = '07'", 7, "is not written plainly; write 7"),
    ("type = 'enum'", 5, "needs `values`"),
    ("type = 'enum'\nvalues = []", 7, "no value at all"),
    ("type = 'enum'\nvalues = ['-rf']", 7, "begins with `-`"),
    ("type = 'enum'\nvalues = ['a', '@f']", 7, "begins with `@`"),
    ("type = 'enum'\nvalues = ['']", 7, "the value is empty"),
    ("type = 'enum'\nvalues = ['a']\ndefault = 'b'", 8, "is none of a"),
    ("type = 'string'", 5, "needs `pattern`"),
    ("type = 'string'\npattern = '('", 7, "the pattern is not valid"),
    ("type = 'string'\npattern = 'a)|(b'", 7, "the pattern is not valid"),
    ("type = 'string'\npattern = '(a{1000}){1000}'", 7, "too big once compiled"),
    ("type = 'string'\npattern = 'a'\nmax_bytes = 0", 8, "is not within 1 and 4096"),
    ("type = 'string'\npattern = 'a'\nmax_bytes = 5000", 8, "is not within 1 and 4096"),
    ("type = 'string'\npattern = '[a-z]+'\ndefault = 'A'", 8, "does not match [a-z]+"),
    ("type = 'path'", 5, "needs `roots`"),
    ("type = 'path'\nroots = []", 7, "no root at all"),
    ("type = 'path'\nroots = ['var']", 7, "is not an absolute path"),
    ("type = 'path'\nroots = ['/var/']", 7, "plainest form"),
    ("type = 'path'\nroots = ['/var']\ndefault = '/etc'", 8, "the default is not under /var"),
    ("type = 'path'\nroots = ['/var']\ndefault = '/var/../etc'", 8, "has `..`"),
];

/// Whole files.
const FILES: &[(&str, usize, &str)] = &[
    ("", 1, "write `version = 1` at the top"),
    ("version = 2", 1, "reads version 1 only"),
    ("version = '1'", 1, "expected a whole number"),
    ("version = 1\ncomands = {}", 2, "did you mean `commands`?"),
    ("version = 1\n\ncommands = 5", 3, "expected a table"),
    ("version = 1\n[commands]\nc = 5", 3, "expected a table"),
    ("version = 1\n[commands.'-x']\nprogram = '/bin/df'", 2, "must begin with a letter or digit"),
    ("version = 1\n[commands.'a b']\nprogram = '/bin/df'", 2, "only letters, digits"),
    ("version = 1\n[commands.c\nprogram = '/bin/df'", 2, "not valid TOML"),
    ("version = 1\nx = 'unclosed", 2, "not valid TOML"),
    ("version = 1\n[commands.c]\nprogram = '/bin/df'\n[commands.c]\nprogram = '/bin/ls'", 4, "duplicate key"),
    (
        "version = 1\n[commands.c]\nprogram = '/bin/df'\n[commands.c.parameters.p]\ntype = 'label'",
        4,
        "no argument has the slot `{p}`",
    ),
    (
        "version = 1\n[commands.c]\nprogram = '/bin/df'\n[commands.c.parameters.1p]\ntype = 'label'",
        4,
        "begins with a letter",
    ),
    (
        "version = 1\n[commands.c]\nprogram = '/bin/df'\narguments = ['{pth}']\n\
         [commands.c.parameters.path]\ntype = 'label'",
        4,
        "did you mean `{path}`?",
    ),
    (
        "version = 1\n[commands.c]\nprogram = '/bin/df'\narguments = ['{p}/x']\n\
         [commands.c.parameters.p]\ntype = 'path'\nroots = ['/var']",
        4,
        "text follows a path",
    ),
    (
        "version = 1\n[commands.c]\nprogram = '/bin/find'\narguments = ['{p}']\n\
         [commands.c.parameters.p]\ntype = 'label'\nallow_dash = true",
        4,
        "may begin with a dash and be any option",
    ),
];

fn expect(text: &str, line: usize, part: &str) {
    let errors = parse(text).expect_err(text);
    let found = errors.iter().any(|error| error.line == line && error.message.contains(part));
    assert!(found, "expected line {line}: {part}\nfor\n{text}\ngot\n{errors}");
    for error in errors.iter() {
        assert!(error.to_string().starts_with("w.toml:"));
        assert!(error.to_string().len() < 1000, "{error}");
    }
}

#[test]
fn each_bad_file_is_refused_with_its_line_and_its_reason() {
    assert!(COMMANDS.len() + PARAMETERS.len() + FILES.len() >= 100);
    for (lines, line, part) in COMMANDS {
        expect(&format!("version = 1\n[commands.c]\n{lines}\n"), *line, part);
    }
    for (lines, line, part) in PARAMETERS {
        let head = "version = 1\n[commands.c]\nprogram = '/bin/df'\narguments = ['{p}']\n[commands.c.parameters.p]\n";
        expect(&format!("{head}{lines}\n"), *line, part);
    }
    for (text, line, part) in FILES {
        expect(text, *line, part);
    }
}

#[test]
fn all_faults_are_reported_at_once_in_the_order_of_the_file() {
    let text = "version = 3\n[commands.a]\nprogram = 'a'\nx = 1\nx = 2\n[commands.b]\nprogram = '/bin/sh'\n\
                timeout = 'x'\n";
    let errors = parse(text).unwrap_err();
    let lines: Vec<usize> = errors.iter().map(|error| error.line).collect();
    assert_eq!(lines, [1, 3, 4, 5, 7, 8], "{errors}");
    let first = errors.iter().next().unwrap().to_string();
    assert_eq!(first, "w.toml:1:11: version: this program reads version 1 only");
}

#[test]
fn a_column_counts_characters() {
    let errors =
        parse("version = 1\n[commands.c]\ndescription = 'ä'\nprogram = '/bin/df'\n'ä' = 1").unwrap_err();
    assert!(errors.to_string().starts_with("w.toml:5:1: commands.c.\"ä\": unknown key"), "{errors}");
    let errors = parse("version = 1\n[commands.c]\nenvironment = { A = 'ä', B = 1 }").unwrap_err();
    assert_eq!(errors.iter().map(|error| (error.line, error.column)).max(), Some((3, 30)), "{errors}");
}

#[test]
fn huge_and_hostile_files_are_refused_quickly_and_shortly() {
    let many = |n: usize| (0..n).map(|n| format!("[commands.c{n}]\nprogram = 'x'\n")).collect::<String>();
    let errors = parse(&format!("version = 1\n{}", many(500))).unwrap_err();
    assert_eq!(errors.iter().count(), MAX_FAULTS);
    assert_eq!(errors.count(), 500);
    assert!(errors.to_string().ends_with("and 400 more"));
    let list = |n: usize| format!("[{}]", "'x',".repeat(n));
    let command = |line: String| format!("version = 1\n[commands.c]\nprogram = '/bin/df'\n{line}");
    for text in [
        "x".repeat(300_000),
        format!("version = 1\n{}", many(1025)),
        format!("x = {}", "[".repeat(200_000)),
        format!("x{} = 1", ".x".repeat(100_000)),
        format!("x = {}", "{ a = ".repeat(40_000)),
        command(format!("arguments = {}", list(129))),
        command(format!("arguments = ['{}']", "x".repeat(4097))),
        command(format!("allow = {{ roles = {} }}", list(257))),
        command(format!("{} = 1", "k".repeat(100_000))),
        command((0..65).map(|n| format!("environment.E{n} = 'x'\n")).collect()),
        command((0..65).map(|n| format!("parameters.p{n}.type = 'label'\n")).collect()),
        "\u{feff}\0\u{1}\u{2}".to_owned(),
    ] {
        let message = parse(&text).expect_err("hostile").to_string();
        assert!(message.len() < 200 * MAX_FAULTS, "{}", message.len());
    }
}
