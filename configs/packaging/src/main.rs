//! Writes man pages and shell completions into a folder: `cargo run -p packaging -- DIR`.

mod man;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Command, CommandFactory as _, Parser};
use clap_complete::Shell;

const REFERENCE: &str = include_str!("../../../docs/configuration.md");

/// Writes man pages and completions of nhrpd, overlayctl and lab.
#[derive(Parser)]
struct Arguments {
    /// Folder to write into: DIR/man and DIR/completions.
    dir: PathBuf,
}

fn main() -> ExitCode {
    match write(&Arguments::parse().dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("packaging: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The programs, with the sections of their man pages.
fn programs() -> [(Command, &'static str); 3] {
    [
        (nhrpd::cli::Arguments::command(), "8"),
        (overlayctl::command(), "1"),
        (lab::cli::Arguments::command(), "1"),
    ]
}

fn write(dir: &Path) -> anyhow::Result<()> {
    let (man, completions) = (dir.join("man"), dir.join("completions"));
    for dir in [&man, &completions] {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    for (mut command, section) in programs() {
        let name = command.get_name().to_owned();
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            clap_complete::generate_to(shell, &mut command, &name, &completions)?;
        }
        for (name, page) in pages(command, section) {
            fs::write(man.join(name), page)?;
        }
    }
    fs::write(man.join("nhrpd.yaml.5"), man::page("nhrpd.yaml", "5", REFERENCE))?;
    Ok(())
}

/// A page for the program and each of its commands, as git has them: overlayctl-show-dmvpn(1).
fn pages(mut command: Command, section: &str) -> Vec<(String, Vec<u8>)> {
    command.build();
    let mut pages = Vec::new();
    let mut left = vec![command.disable_help_subcommand(true)];
    while let Some(command) = left.pop() {
        let shown = |command: &&Command| !command.is_hide_set() && command.get_name() != "help";
        left.extend(command.get_subcommands().filter(shown).cloned());
        let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
        let mut page = Vec::new();
        // Writing into memory does not fail.
        let _ = clap_mangen::Man::new(command)
            .section(section)
            .manual("Overlay network")
            .render(&mut page);
        pages.push((format!("{name}.{section}"), page));
    }
    pages
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_command_has_its_page() {
        let names: Vec<_> = programs()
            .into_iter()
            .flat_map(|(command, section)| pages(command, section))
            .map(|(name, _)| name)
            .collect();
        for name in [
            "nhrpd.8",
            "nhrpd-check.8",
            "overlayctl.1",
            "overlayctl-show-dmvpn.1",
            "overlayctl-pki-issue.1",
            "overlayctl-import-ios.1",
            "lab.1",
            "lab-demo.1",
        ] {
            assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
        }
        assert!(!names.iter().any(|name| name.contains("sniff") || name.contains("help")));
    }

    #[test]
    fn all_is_written() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path()).unwrap();
        for (file, word) in [
            ("_overlayctl", "opennhrp"),
            ("overlayctl.bash", "opennhrp"),
            ("overlayctl.fish", "opennhrp"),
            ("_nhrpd", "--config"),
            ("nhrpd.bash", "--config"),
            ("lab.fish", "capture"),
        ] {
            let text = fs::read_to_string(dir.path().join("completions").join(file)).unwrap();
            assert!(text.contains(word), "{file}: {word}");
        }
        let page = fs::read_to_string(dir.path().join("man/nhrpd.yaml.5")).unwrap();
        // Each key of the reference is a tag in the page.
        let keys = REFERENCE.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        for key in keys {
            let tag = format!(".TP\n\\fB{}\\fR", key.replace('-', "\\-"));
            assert!(page.contains(&tag), "{key}: {tag}");
        }
        assert!(page.contains(".SS tunnel"), "{page}");
    }
}
