//! The demo, as the README promises it.
#![allow(clippy::unwrap_used)] // tests may

use std::process::Command;

#[test]
fn every_step_of_the_demo_holds() {
    let name = format!("demo-{}", std::process::id());
    let output =
        Command::new(env!("CARGO_BIN_EXE_lab")).args(["demo", "--name", &name]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("✓ 200 sent, 200 received, 0 lost"), "{told}");
    assert!(!told.contains('✗') && !told.contains('\x1b'), "{told}");
}
