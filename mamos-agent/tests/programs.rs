//! Policies on a real file system.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use mamos_agent::{SystemPrograms, load_policy};
use mamos_core::Whitelist;
use mamos_core::whitelist::policy::{Policy, ProgramError, Programs};

fn policy_for(program: &Path) -> String {
    format!("version = 1\n[commands.c]\nprogram = {:?}\n", program.display().to_string())
}

fn judge(program: &Path) -> Result<(), String> {
    Policy::parse(&policy_for(program), "w", &SystemPrograms).map(drop).map_err(|errors| errors.to_string())
}

fn program(path: &Path, mode: u32) {
    std::fs::write(path, "#!/bin/true\n").unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn programs_of_the_system_are_fine() {
    for program in ["/bin/echo", "/usr/bin/yes"] {
        assert_eq!(judge(Path::new(program)), Ok(()));
    }
}

#[test]
fn each_thing_that_is_wrong_with_a_file_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    program(&at("fine"), 0o755);
    assert_eq!(judge(&at("fine")), Ok(()));
    program(&at("plain"), 0o644);
    program(&at("open"), 0o757);
    std::fs::create_dir(at("shared")).unwrap();
    program(&at("shared/x"), 0o755);
    std::fs::set_permissions(at("shared"), std::fs::Permissions::from_mode(0o777)).unwrap();
    symlink("/bin/bash", at("df")).unwrap();
    symlink("/bin/sh", at("ls")).unwrap();
    symlink(at("df"), at("du")).unwrap();
    symlink(at("shared/x"), at("into-shared")).unwrap();
    symlink("/usr/bin/env", at("cat")).unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    for (name, part) in [
        ("plain", "is not executable"),
        ("open", "others may write to"),
        ("shared/x", "others may write to"),
        ("into-shared", "others may write to"),
        ("shared", "is not a file"),
        ("df", "is a link to it: `bash` is refused"),
        ("du", "is a link to it: `bash` is refused"),
        ("ls", "is a link to it: `dash` is refused"),
        ("cat", "is a link to it: `env` is refused"),
        ("dangling", "does not exist"),
        ("missing", "does not exist"),
        ("fine/x", "does not exist"),
    ] {
        let message = judge(&at(name)).expect_err(name);
        assert!(message.contains(part), "{name}: {message}");
    }
    assert_eq!(SystemPrograms.inspect(&at("missing")), Err(ProgramError::Missing));
}

#[test]
fn a_policy_is_loaded_from_a_file_and_its_path_stands_in_the_errors() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("whitelist.toml");
    std::fs::write(&path, policy_for(Path::new("/bin/echo"))).unwrap();
    assert_eq!(load_policy(&path).unwrap().commands().len(), 1);
    std::fs::write(&path, policy_for(Path::new("/bin/dash"))).unwrap();
    let message = load_policy(&path).unwrap_err().to_string();
    assert!(message.starts_with(&format!("{}:3:11: ", path.display())), "{message}");
    std::fs::write(&path, vec![b'#'; 1 << 20]).unwrap();
    assert!(load_policy(&path).unwrap_err().to_string().contains("longer than"));
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(load_policy(&path).unwrap_err().to_string().contains("cannot be read"));
    let missing = load_policy(directory.path().join("missing.toml")).unwrap_err().to_string();
    assert!(missing.contains("missing.toml:1:1: cannot be read"), "{missing}");
}
