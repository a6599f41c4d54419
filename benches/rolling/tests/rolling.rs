//! The rig, with few rounds. What it finds wrong is on its standard error, and what it skips, too.

use std::process::{Command, Stdio};

#[test]
fn no_request_fails_where_none_may_and_some_do_where_they_have_to() {
    let output = Command::new(env!("CARGO_BIN_EXE_rolling"))
        .args(["--rounds", "3", "--race-rounds", "1", "--pause", "0"])
        // HAProxy has to notice within it, on a machine that is busy with something else.
        .args(["--lame-duck", "1000"])
        .args(["--lag", "600", "--race-lame-duck", "1200"])
        // Not captured, so that a skip is seen.
        .stderr(Stdio::inherit())
        .output()
        .expect("it is built");
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", output.status);
}
