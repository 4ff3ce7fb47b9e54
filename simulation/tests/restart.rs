//! A restart under load with real processes. `mamos-restart` does the same with more of them, and worse.

use std::process::Command;

#[test]
fn a_server_that_is_stopped_and_started_again_is_not_noticed() {
    let driver = env!("CARGO_BIN_EXE_mamos-restart");
    let arguments = ["--scenario", "server-stopped", "--agents", "8", "--seed", "7"];
    let output = Command::new(driver).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
}
