//! Writes the table of docs/interoperability.md from what the tests noted (`tests/kernel --matrix`).

use std::path::Path;
use std::process::ExitCode;

use overlay_tests::matrix::{MARKS, table};

fn main() -> ExitCode {
    match std::env::args_os().nth(1).map(|folder| write(Path::new(&folder))) {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(error)) => {
            eprintln!("matrix: {error}");
            ExitCode::FAILURE
        }
        None => {
            eprintln!("usage: matrix FOLDER");
            ExitCode::from(2)
        }
    }
}

fn write(folder: &Path) -> std::io::Result<()> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/interoperability.md");
    let text = std::fs::read_to_string(file)?;
    let unmarked = || std::io::Error::other(format!("{file} has no place for the table"));
    let (before, rest) = text.split_once(MARKS[0]).ok_or_else(unmarked)?;
    let (_, after) = rest.split_once(MARKS[1]).ok_or_else(unmarked)?;
    let table = table(|cell| folder.join(cell.name).exists());
    std::fs::write(file, [before, MARKS[0], &table, MARKS[1], after].concat())
}
