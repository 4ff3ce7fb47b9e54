//! Real processes that are killed. `mamos-crash` does the same for longer.

use std::process::Command;

#[test]
fn nothing_acknowledged_is_lost_when_processes_are_killed() {
    let driver = env!("CARGO_BIN_EXE_mamos-crash");
    // The driver finds the other two beside itself; naming them here makes cargo build them.
    assert!(env!("CARGO_BIN_EXE_mamos-crash-agent") != env!("CARGO_BIN_EXE_mamos-crash-orchestrator"));
    let output = Command::new(driver).args(["--rounds", "8", "--seed", "7"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
}
