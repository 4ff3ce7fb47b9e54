//! The programs understand the files that they are given.

use std::fs;
use std::process::Command;

use super::place::with_secrets;

/// A program with the settings of a file in which the paths of the container lead into the copy.
fn told(program: &str, file: &str, arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let copy = with_secrets();
    let here = copy.path().display().to_string();
    fs::write(copy.path().join("secrets/registration_token"), "mamos_reg_0\n").unwrap();
    let text = fs::read_to_string(copy.path().join(file)).unwrap();
    let text = text
        .replace("/run/secrets/", &format!("{here}/secrets/"))
        .replace("/etc/mamos/", &format!("{here}/"))
        .replace("/var/lib/mamos-agent", &format!("{here}/state"));
    fs::write(copy.path().join(file), text).unwrap();
    let mut command = Command::new(program);
    command.arg("--config").arg(copy.path().join(file)).args(arguments).env_clear().env("HOME", &here);
    for (name, value) in variables {
        let value = value.replace("/run/secrets/", &format!("{here}/secrets/"));
        command.env(name, value.replace("/etc/mamos/proxy.crt", &format!("{here}/secrets/proxy.crt")));
    }
    let output = command.output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), text)
}

#[test]
fn a_server_reads_its_settings_and_looks_for_its_broker() {
    let (code, text) =
        told(env!("CARGO_BIN_EXE_mamos-server"), "server.toml", &["check"], &[("MAMOS_SERVER_NAME", "one")]);
    assert!(text.contains("whitelist.toml: 1 commands") && text.contains("0.0.0.0:7117"), "{text}");
    // Its broker is inside of the network of the containers.
    assert!(code == 6 && text.contains("nats://nats:4222"), "{code}: {text}");
}

#[test]
fn agents_read_their_settings() {
    let agent = env!("CARGO_BIN_EXE_mamos-agent");
    let web = [
        ("MAMOS_AGENT_NAME", "web"),
        ("MAMOS_AGENT_SERVER", "wss://proxy:7117"),
        ("MAMOS_AGENT_CA", "/etc/mamos/proxy.crt"),
    ];
    let (code, text) = told(agent, "agent.toml", &["check", "--offline"], &web);
    assert!(code == 0 && text.contains("wss://proxy:7117"), "{code}: {text}");
    let rack = [
        ("MAMOS_AGENT_NAME", "rack"),
        ("MAMOS_AGENT_SERVER_FILE", "/run/secrets/agent_rack_bus"),
        ("MAMOS_AGENT_BUS_NAME", "rack"),
        ("MAMOS_AGENT_PIN", ""),
        ("MAMOS_AGENT_ALLOW_PLAIN_TEXT", "true"),
    ];
    let (code, text) = told(agent, "agent.toml", &["check", "--offline"], &rack);
    assert!(code == 0 && text.contains("link rack over nats://nats:4222"), "{code}: {text}");
}
