//! The virtual machine boots, has what this project needs of a kernel, and changes nothing here.
#![allow(clippy::unwrap_used)] // helpers of tests are not known as tests

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn vm(arguments: &[&str], command: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["vm", "run"].iter().chain(arguments).chain(command))
        .output()
        .unwrap()
}

/// Each step names itself, so that the last line says which one failed.
const SCRIPT: &str = r#"
set -e
uname -r
echo "$1"
ip link add tunnel type gre key 1 local 192.0.2.1
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x100 mode transport \
    aead 'rfc4106(gcm(aes))' 0x0000000000000000000000000000000000000001 128
tc qdisc add dev lo root netem delay 1ms
nft 'add table inet x; add chain inet x y; add rule inet x y log group 1'
ip link add wg0 type wireguard
test -c /dev/net/tun
/usr/lib/frr/nhrpd --version | head -1
swanctl --version | head -1
echo stays >"$2/written"
echo goes >"$PWD/not-written"
sleep 1000 &
echo to the error output >/dev/stderr
exit 7
"#;

#[test]
fn a_command_runs_on_debians_kernel_and_only_its_output_its_status_and_its_folder_stay() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().to_str().unwrap();
    let output = vm(
        &["--timeout", "150", "--write", kept],
        &["bash", "-c", SCRIPT, "script", "two  words, 'quoted' $x", kept],
    );
    let told = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{told}{said}");
    let mut lines = told.lines();
    assert!(lines.next().unwrap().ends_with("-amd64"), "{told}");
    assert_eq!(lines.next().unwrap(), "two  words, 'quoted' $x");
    assert!(told.contains("nhrpd version 8."), "{told}");
    assert!(told.ends_with("to the error output\n"), "{told}");
    assert_eq!(fs::read_to_string(folder.path().join("written")).unwrap(), "stays\n");
    assert!(!Path::new("not-written").exists());
}

#[test]
fn a_command_that_does_not_end_is_an_error_that_says_so() {
    let output = vm(&["--timeout", "1"], &["sleep", "1000"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("`sleep 1000` did not end within 1 s"), "{said}");
}
