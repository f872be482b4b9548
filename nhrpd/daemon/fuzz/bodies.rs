//! What the fuzz target does with its bytes. The same body runs as an ordinary, bounded test in
//! `tests/fuzz_bodies.rs`.
#![allow(unreachable_pub)]

use std::path::Path;

/// A configuration file: a value, or words that say what is wrong and where.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(error) = nhrpd::config::parse(text, Path::new("/etc/nhrpd/nhrpd.yaml")) {
        assert!(error.to_string().contains("nhrpd.yaml"), "{error}");
    }
}
