//! Values: whatever they are, they are one argument or none.

use std::sync::LazyLock;

use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};

use super::parse;
use crate::auth::Principal;
use crate::id::CommandId;
use crate::whitelist::policy::Policy;
use crate::whitelist::{CommandRequest, DenialCode, Permit, Whitelist};

const ALL_TYPES: &str = r#"
version = 1
[commands.c]
program = "/opt/x"
arguments = ["first", "{integer}", "--enum={enum}", "{string}", "x", "--to={path}", "{label}", "{free}", "last"]
allow.roles = ["*"]
[commands.c.parameters]
integer = { type = "integer", min = -5, max = 1000, allow_dash = true, default = 7 }
enum = { type = "enum", values = ["fast", "full scan", "$(x)"], default = "fast" }
string = { type = "string", pattern = "[a-z]+|[0-9]+", max_bytes = 8, default = "abc" }
path = { type = "path", roots = ["/var", "/srv/data"], default = "/var" }
label = { type = "label", default = "zone" }
free = { type = "string", pattern = "(?s).*", max_bytes = 4096, default = "x" }
"#;

const DEFAULTS: [&str; 9] = ["first", "7", "--enum=fast", "abc", "x", "--to=/var", "zone", "x", "last"];

/// Parameter, index of its argument, what stands before its value.
const SLOTS: [(&str, usize, &str); 6] = [
    ("integer", 1, ""),
    ("enum", 2, "--enum="),
    ("string", 3, ""),
    ("path", 5, "--to="),
    ("label", 6, ""),
    ("free", 7, ""),
];

static POLICY: LazyLock<Policy> = LazyLock::new(|| parse(ALL_TYPES).unwrap());

fn policy() -> &'static Policy {
    &POLICY
}

fn ask(policy: &Policy, name: &str, value: &str) -> Result<Permit, DenialCode> {
    let request = CommandRequest::new(CommandId::new("c").unwrap()).with(name, value);
    let result = policy.permit(&request, &Principal::host());
    result.map_err(|denial| {
        assert!(denial.message.chars().count() < 1200, "{}", denial.message);
        assert!(!denial.message.contains(['\n', '\0']), "{:?}", denial.message);
        denial.code
    })
}

#[test]
fn each_type_takes_what_it_says_and_nothing_else() {
    let policy = policy();
    // parameter, values that fit, values that do not
    let cases: [(&str, &[&str], &[&str]); 6] = [
        (
            "integer",
            &["-5", "0", "1000"],
            &["-6", "1001", "+7", "007", "-0", "1e3", "0x10", "1 ", "٣", "99999999999999999999", ""],
        ),
        ("enum", &["fast", "full scan", "$(x)"], &["Fast", "fast ", "fastfull", ""]),
        ("string", &["a", "12345678"], &["a1", "aB", "abcdefghi", "a\n", "\na", "", "-a", "@a"]),
        (
            "path",
            &["/var", "/var/log", "/srv/data/x y", "/var/..x", "/var/-rf"],
            &[
                "/",
                "/etc",
                "/variable",
                "/srv",
                "/srv/database",
                "var",
                "/var/",
                "/var//log",
                "/var/./log",
                "/var/..",
                "/var/../etc/passwd",
                "/var/log/../../etc",
                "/var/x\0/etc",
                "~/x",
                "",
                "-/var",
                "@/var",
                "//var",
                "/var/\u{202e}x",
            ],
        ),
        ("label", &["zone", "a/b:c@d+e"], &["a b", "ä", "a,b", "a=b", "-a", "@a", ""]),
        (
            "free",
            &["ä", "a b", "$(reboot)", "`reboot`", "; reboot", "| x", "'", "\"", "{path}", "*", "~"],
            &["-x", "--x", "@x", ""],
        ),
    ];
    for (name, good, bad) in cases {
        for value in good {
            assert!(ask(policy, name, value).is_ok(), "{name} {value:?}");
        }
        for value in bad {
            assert_eq!(ask(policy, name, value).unwrap_err(), DenialCode::BadValue, "{name} {value:?}");
        }
        for c in [
            '\0', '\n', '\r', '\t', '\u{1b}', '\u{7f}', '\u{85}', '\u{200b}', '\u{2028}', '\u{202e}',
            '\u{feff}',
        ] {
            let value = format!("a{c}b");
            assert_eq!(ask(policy, name, &value).unwrap_err(), DenialCode::BadValue, "{name} {value:?}");
        }
        assert_eq!(ask(policy, name, &"a".repeat(1 << 20)).unwrap_err(), DenialCode::BadValue);
    }
}

#[test]
fn a_pattern_must_match_the_whole_value_whatever_its_flags() {
    for pattern in ["a|b", "(?m)^a$|b", "a", "(?i)A|b", "a$|^b", "a|b|(?m:^c$)"] {
        let text = ALL_TYPES.replace("[a-z]+|[0-9]+", pattern).replace(", default = \"abc\"", "");
        let policy = parse(&text).unwrap();
        assert!(ask(&policy, "string", "a").is_ok(), "{pattern}");
        for value in ["xa", "ax", "ab", "xb", "b; x", "x a"] {
            assert!(ask(&policy, "string", value).is_err(), "{pattern} {value}");
        }
    }
}

#[test]
fn a_dash_and_an_at_are_let_through_only_where_allowed() {
    let text = ALL_TYPES.replace("max_bytes = 4096", "max_bytes = 4096, allow_dash = true");
    assert!(ask(&parse(&text).unwrap(), "free", "-x").is_ok());
    assert!(ask(&parse(&text).unwrap(), "free", "@x").is_err());
    let text = ALL_TYPES.replace("max_bytes = 4096", "max_bytes = 4096, allow_at = true");
    assert!(ask(&parse(&text).unwrap(), "free", "@x").is_ok());
    assert!(ask(&parse(&text).unwrap(), "free", "-x").is_err());
}

fn hostile() -> impl Strategy<Value = String> {
    let parts = [
        "-",
        "--",
        "@",
        "=",
        " ",
        "\t",
        "\n",
        "\r",
        "\0",
        "'",
        "\"",
        "`",
        "$",
        "(",
        ")",
        "{",
        "}",
        "{path}",
        "{{",
        "}}",
        ";",
        "|",
        "&",
        "<",
        ">",
        "*",
        "?",
        "[",
        "]",
        "~",
        "!",
        "#",
        "%",
        "\\",
        "/",
        "..",
        ".",
        "/var",
        "/etc",
        "a",
        "Z",
        "0",
        "9",
        "ä",
        "\u{202e}",
        "\u{7f}",
        "\u{1b}[0m",
        "🦀",
    ];
    let part = (0..parts.len()).prop_map(move |n| parts[n]);
    proptest::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn a_value_never_touches_any_argument_but_its_own(value in hostile(), slot in 0..SLOTS.len()) {
        check(&value, slot)?;
    }

    #[test]
    fn any_text_at_all_is_one_argument_or_refused(value in any::<String>(), slot in 0..SLOTS.len()) {
        check(&value, slot)?;
    }

    #[test]
    fn no_text_at_all_makes_loading_panic(text in any::<String>()) {
        let _ = parse(&text);
        let _ = parse(&format!("version = 1\n[commands.c]\n{text}"));
        let _ = parse(&format!("version = 1\n[commands.c]\nprogram = '/x'\narguments = ['{text}']"));
    }

    #[test]
    fn an_accepted_path_stays_under_a_root(path in "(/(var|srv|data|etc|\\.|\\.\\.|x)){1,6}/?") {
        if let Ok(permit) = ask(policy(), "path", &path) {
            let mut plain = std::path::PathBuf::new();
            for part in std::path::Path::new(&permit.arguments[5]["--to=".len()..]).components() {
                match part {
                    std::path::Component::ParentDir => { plain.pop(); }
                    part => plain.push(part),
                }
            }
            prop_assert!(plain.starts_with("/var") || plain.starts_with("/srv/data"), "{path}");
        }
    }
}

fn check(value: &str, slot: usize) -> Result<(), proptest::test_runner::TestCaseError> {
    let (name, index, before) = SLOTS[slot];
    let Ok(permit) = ask(policy(), name, value) else { return Ok(()) };
    let mut expected = DEFAULTS.map(str::to_owned);
    expected[index] = format!("{before}{value}");
    prop_assert_eq!(permit.arguments, expected);
    prop_assert!(!value.chars().any(char::is_control));
    prop_assert!(!value.starts_with('@') && (!value.starts_with('-') || name == "integer"));
    Ok(())
}
