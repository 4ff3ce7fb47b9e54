//! What a policy refuses, and what it lets through.

mod faults;
mod values;

use std::path::{Path, PathBuf};

use super::{Policy, PolicyErrors, ProgramError, ProgramFacts, Programs, UncheckedPrograms};
use crate::auth::Principal;
use crate::id::CommandId;
use crate::whitelist::{
    CommandRequest, Denial, DenialCode, ParameterRule, PathArgument, Permit, Reloadable, Whitelist,
};

const DISK_USAGE: &str = r#"
version = 1
[commands.disk-usage]
program = "/usr/bin/df"
arguments = ["-h", "--type={kind}", "{path}"]
allow = { roles = ["operator"], principals = ["user:ann"] }
environment = { LANG = "C" }
[commands.disk-usage.parameters.path]
type = "path"
roots = ["/var", "/home"]
default = "/var"
[commands.disk-usage.parameters.kind]
type = "enum"
values = ["ext4", "xfs"]
"#;

fn parse(text: &str) -> Result<Policy, PolicyErrors> {
    Policy::parse(text, "w.toml", &UncheckedPrograms)
}

fn ask(policy: &Policy, parameters: &[(&str, &str)]) -> Result<Permit, Denial> {
    let request = CommandRequest::new(CommandId::new("disk-usage").unwrap());
    let request = parameters.iter().fold(request, |request, (name, value)| request.with(*name, *value));
    policy.permit(&request, &Principal::new("user:bob", ["operator"]))
}

#[test]
fn people_are_told_what_to_fill_in_and_not_what_runs() {
    let text = DISK_USAGE.replacen("program =", "description = \"How full a file system is\"\nprogram =", 1);
    let policy = Reloadable::new(parse(&text).unwrap());
    let told = policy.describe(&CommandId::new("disk-usage").unwrap()).unwrap();
    assert_eq!(told.description, "How full a file system is");
    assert_eq!((told.roles, told.principals), (vec!["operator".to_owned()], vec!["user:ann".to_owned()]));
    assert_eq!(told.timeout.as_secs(), 60);
    let [kind, path] = &told.parameters[..] else { panic!("{:?}", told.parameters) };
    assert_eq!(kind.rule, ParameterRule::Enum { values: vec!["ext4".to_owned(), "xfs".to_owned()] });
    assert_eq!(kind.default, None);
    assert_eq!((path.name.as_str(), path.rule.as_str()), ("path", "path"));
    assert_eq!(path.default.as_deref(), Some("/var"));
    assert_eq!(policy.describe(&CommandId::new("other").unwrap()), None);
}

#[test]
fn a_permit_says_exactly_what_runs() {
    let policy = parse(DISK_USAGE).unwrap();
    let permit = ask(&policy, &[("kind", "xfs"), ("path", "/home/ann")]).unwrap();
    assert_eq!(permit.program, Path::new("/usr/bin/df"));
    assert_eq!(permit.arguments, ["-h", "--type=xfs", "/home/ann"]);
    let roots = vec![PathBuf::from("/home"), PathBuf::from("/var")];
    assert_eq!(permit.paths, [PathArgument { index: 2, offset: 0, roots }]);
    assert_eq!(permit.environment, [("LANG".to_owned(), "C".to_owned())].into());
    assert_eq!(permit.working_directory, Path::new("/"));
    assert_eq!((permit.timeout.as_secs(), permit.output_cap_bytes), (60, 1 << 20));
    assert_eq!(ask(&policy, &[("kind", "xfs")]).unwrap().arguments[2], "/var", "the default");
}

#[test]
fn each_denial_has_its_code_and_says_what_to_do() {
    let policy = parse(DISK_USAGE).unwrap();
    let code = |parameters: &[(&str, &str)]| ask(&policy, parameters).unwrap_err();
    let missing = code(&[]);
    assert_eq!(missing.code, DenialCode::MissingParameter);
    assert_eq!(missing.message, "disk-usage needs a value for kind; give one");
    let unknown = code(&[("kind", "xfs"), ("pth", "/var")]);
    assert_eq!(unknown.code, DenialCode::UnknownParameter);
    assert!(unknown.message.contains("did you mean path?"), "{unknown}");
    let bad = code(&[("kind", "ntfs")]);
    assert_eq!(bad.code, DenialCode::BadValue);
    assert!(bad.message.contains("is none of ext4, xfs"), "{bad}");
    let request = CommandRequest::new(CommandId::new("other").unwrap());
    let denial = policy.permit(&request, &Principal::host()).unwrap_err();
    assert_eq!(denial.code, DenialCode::UnknownCommand);
}

#[test]
fn nobody_may_run_a_command_unless_listed() {
    let policy = parse(DISK_USAGE).unwrap();
    let request = CommandRequest::new(CommandId::new("disk-usage").unwrap()).with("kind", "xfs");
    let may = |policy: &Policy, principal: &Principal| policy.permit(&request, principal).is_ok();
    let nobody: [&str; 0] = [];
    assert!(may(&policy, &Principal::new("user:bob", ["viewer", "operator"])));
    assert!(may(&policy, &Principal::new("user:ann", nobody)));
    assert!(!may(&policy, &Principal::new("user:bob", ["viewer"])));
    assert!(!may(&policy, &Principal::new("operator", nobody)), "a role is not a name");
    assert!(!may(&policy, &Principal::host()), "no role is magic");
    let closed = DISK_USAGE.replace("allow = ", "description = \"\"\n#");
    assert!(!may(&parse(&closed).unwrap(), &Principal::new("user:ann", ["operator", "admin"])));
    let open = DISK_USAGE.replace("\"user:ann\"", "\"*\"");
    assert!(may(&parse(&open).unwrap(), &Principal::new("anyone", nobody)));
}

#[test]
fn the_digest_is_of_what_is_permitted_and_not_of_how_it_is_written() {
    let digest = |text: &str| parse(text).unwrap().digest();
    let one = digest(DISK_USAGE);
    assert_eq!(one.len(), 64);
    let rewritten = DISK_USAGE
        .replace("[\"/var\", \"/home\"]", "[ '/home', \"/var\", ] # both")
        .replace("environment = { LANG = \"C\" }", "environment.LANG = \"C\"\ntimeout = \"60s\"")
        .replace("program", "description = \"how full\"\nprogram");
    assert_eq!(digest(&rewritten), one);
    for (from, to) in [
        ("/usr/bin/df", "/bin/df"),
        ("-h", "-k"),
        ("operator", "viewer"),
        ("/home", "/srv"),
        ("xfs", "zfs"),
        ("LANG = \"C\"", "LANG = \"D\""),
        ("default = \"/var\"", ""),
        ("\"-h\", ", ""),
        ("type = \"path\"", "type = \"path\"\nallow_at = true"),
    ] {
        assert_ne!(digest(&DISK_USAGE.replace(from, to)), one, "{from} -> {to}");
    }
}

#[test]
fn a_replacement_leaves_earlier_permits_alone() {
    let reloadable = Reloadable::new(parse(DISK_USAGE).unwrap());
    let shared = reloadable.clone();
    let request = CommandRequest::new(CommandId::new("disk-usage").unwrap()).with("kind", "xfs");
    let ann = Principal::new("user:ann", ["operator"]);
    let before = shared.permit(&request, &ann).unwrap();
    let digest = shared.digest();
    assert!(parse("version = 2").is_err(), "a bad file never becomes a policy");
    let old = reloadable.replace(parse(&DISK_USAGE.replace("-h", "-k")).unwrap());
    assert_eq!(old.digest(), digest);
    assert_ne!(shared.digest(), digest);
    assert_eq!(before.arguments[0], "-h");
    assert_eq!(shared.permit(&request, &ann).unwrap().arguments[0], "-k");
    reloadable.replace(parse("version = 1").unwrap());
    assert_eq!(shared.permit(&request, &ann).unwrap_err().code, DenialCode::UnknownCommand);
    assert!(shared.commands().is_empty());
}

#[test]
fn narrowing_takes_the_shorter_time_and_the_smaller_output_of_the_same_command() {
    let permit = |text: &str| ask(&parse(text).unwrap(), &[("kind", "xfs")]).unwrap();
    let ours = permit(&DISK_USAGE.replace("environment", "timeout = \"5s\"\nenvironment"));
    let theirs = permit(&DISK_USAGE.replace("environment", "output_cap = \"2KiB\"\nenvironment"));
    let narrow = ours.clone().narrow(&theirs).unwrap();
    assert_eq!((narrow.timeout.as_secs(), narrow.output_cap_bytes), (5, 2048));
    let other = permit(&DISK_USAGE.replace("-h", "-k"));
    assert_eq!(ours.narrow(&other).unwrap_err().code, DenialCode::Differs);
}

/// Every program is the one file that the test describes.
struct OneFile(Result<ProgramFacts, ProgramError>);

impl Programs for OneFile {
    fn inspect(&self, _: &Path) -> Result<Option<ProgramFacts>, ProgramError> {
        self.0.clone().map(Some)
    }
}

#[test]
fn the_file_behind_a_program_is_judged_too() {
    let fine = ProgramFacts {
        resolved: "/usr/bin/df".into(),
        is_file: true,
        is_executable: true,
        writable_by_others: None,
    };
    let judge = |facts| {
        let result = Policy::parse(DISK_USAGE, "w.toml", &OneFile(facts));
        result.map(drop).map_err(|errors| errors.to_string())
    };
    assert_eq!(judge(Ok(fine.clone())), Ok(()));
    let cases = [
        (Err(ProgramError::Missing), "does not exist; install it"),
        (Err(ProgramError::Unreadable("permission denied".into())), "permission denied"),
        (Ok(ProgramFacts { is_file: false, ..fine.clone() }), "is not a file"),
        (Ok(ProgramFacts { is_executable: false, ..fine.clone() }), "is not executable"),
        (
            Ok(ProgramFacts { writable_by_others: Some("/usr/bin".into()), ..fine.clone() }),
            "others may write to /usr/bin",
        ),
        (
            Ok(ProgramFacts { resolved: "/bin/bash".into(), ..fine.clone() }),
            "`bash` is refused: it is a shell",
        ),
        (Ok(ProgramFacts { resolved: "/bin/busybox".into(), ..fine }), "`busybox` is refused"),
    ];
    for (facts, expected) in cases {
        let message = judge(facts).unwrap_err();
        assert!(message.starts_with("w.toml:4:11: commands.disk-usage.program: "), "{message}");
        assert!(message.contains(expected), "{message}");
    }
}
