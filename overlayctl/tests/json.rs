//! docs/json.md names every key that the program prints by itself; what the daemon tells is held
//! to its varlink description elsewhere.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

const DOCUMENT: &str = include_str!("../../docs/json.md");

fn document(folder: &Path, line: &str) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_overlayctl"))
        .current_dir(folder)
        .args(["--json", "--socket", "/nonexistent/nhrpd.sock"])
        .args(line.split(' '))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{line}: {error}: {text}{}", String::from_utf8_lossy(&output.stderr))
    })
}

fn keys(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                into.insert(key.clone());
                keys(value, into);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| keys(item, into)),
        _ => {}
    }
}

#[test]
fn every_key_is_documented() {
    let folder = tempfile::tempdir().unwrap();
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/import/samples/ios-hub.cfg");
    let import = format!("import ios {}", sample.display());
    for line in [
        "pki init",
        "pki issue hub --address 172.16.0.1 --dns hub.example.net --extended-key-usage ipsecIKE",
        "pki request branch",
        "pki sign branch.csr --address 172.16.0.2",
        "pki renew branch",
        "pki bundle hub",
        "pki show",
        "pki show pki/ca.crt",
        "pki revoke branch",
        "doctor --config /nonexistent/nhrpd.yaml",
        &import,
    ] {
        let mut found = BTreeSet::new();
        keys(&document(folder.path(), line), &mut found);
        assert!(!found.is_empty(), "{line}");
        // `show FILE` wraps its list; the list itself is what is described.
        for key in found.iter().filter(|key| *key != "certificates") {
            assert!(
                DOCUMENT.contains(&format!("`{key}`")),
                "{line}: `{key}` is not in docs/json.md"
            );
        }
    }
}
