//! NATS and HAProxy understand their files in `examples/deploy`.
//!
//! The name of this binary tells `scripts/test.sh` what it needs.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "deploy/place.rs"]
mod place;

use std::fs;
use std::process::Command;

use place::with_secrets;

/// Runs a program of the system, which may be where only root's path leads.
fn understood(program: &str, package: &str, arguments: &[&str]) {
    let places = ["/usr/sbin", "/usr/bin", "/usr/local/bin"].map(|place| format!("{place}/{program}"));
    let found = places.iter().find(|path| fs::exists(path).unwrap_or(false));
    let found = found
        .unwrap_or_else(|| panic!("{program} is missing; install it (Debian: apt-get install {package})"));
    let output = Command::new(found).args(arguments).output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
fn nats_understands_its_file() {
    let copy = with_secrets();
    fs::copy(copy.path().join("secrets/nats_users.conf"), copy.path().join("users.conf")).unwrap();
    let file = copy.path().join("nats.conf").display().to_string();
    understood("nats-server", "nats-server", &["-t", "-c", &file]);
}

#[test]
fn haproxy_understands_its_file() {
    let copy = with_secrets();
    let (file, pem) = (copy.path().join("haproxy.cfg"), copy.path().join("secrets/proxy.pem"));
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("/etc/haproxy/proxy.pem", &pem.display().to_string())).unwrap();
    understood("haproxy", "haproxy", &["-c", "-f", &file.display().to_string()]);
}
