//! Captured packets: `tests/golden/*.hex`, `#` begins a comment.

use std::fs;
use std::path::Path;

/// Name and bytes of every captured packet, in order of name.
pub(crate) fn all() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut packets: Vec<_> = fs::read_dir(folder)
        .expect("tests/golden is part of the package")
        .map(|entry| entry.expect("a readable folder").path())
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a readable file");
            (path.file_stem().expect("a name").to_string_lossy().into_owned(), parse(&text))
        })
        .collect();
    packets.sort();
    packets
}

/// One captured packet.
pub(crate) fn one(name: &str) -> Vec<u8> {
    all().into_iter().find(|(found, _)| found == name).unwrap_or_else(|| panic!("no {name}")).1
}

fn parse(text: &str) -> Vec<u8> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::split_whitespace)
        .map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal bytes"))
        .collect()
}
