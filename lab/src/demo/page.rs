//! How the demo's story looks on a terminal and in a log.

use std::fmt::Display;

/// What has been told so far.
pub(super) struct Page {
    colour: bool,
    chapter: usize,
    /// Checks that did not hold.
    pub(super) failed: usize,
    /// A table's legend is needed once.
    pub(super) legend_shown: bool,
}

impl Page {
    pub(super) fn new(colour: bool) -> Self {
        Self { colour, chapter: 0, failed: 0, legend_shown: false }
    }

    fn paint(&self, style: &str, text: impl Display) -> String {
        if self.colour { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_string() }
    }

    pub(super) fn title(&self, text: &str) {
        println!("{}", self.paint("1", text));
    }

    pub(super) fn chapter(&mut self, title: &str) {
        self.chapter += 1;
        println!("\n{}", self.paint("1;36", format!("{}  {title}", self.chapter)));
    }

    pub(super) fn blank(&self) {
        println!();
    }

    pub(super) fn say(&self, text: &str) {
        println!("   {text}");
    }

    pub(super) fn quiet(&self, text: &str) {
        println!("   {}", self.paint("2", text));
    }

    /// A command as it would be typed.
    pub(super) fn command(&self, machine: &str, command: impl Display) {
        println!("   {}", self.paint("33", format!("{machine}# {command}")));
    }

    /// What a command printed.
    pub(super) fn output(&self, text: &str) {
        for line in text.trim_end().lines() {
            println!("     {line}");
        }
    }

    /// Something that must hold.
    pub(super) fn check(&mut self, holds: bool, text: impl Display) {
        let mark = if holds { self.paint("1;32", "✓") } else { self.paint("1;31", "✗") };
        if !holds {
            self.failed += 1;
        }
        println!("   {mark} {text}");
    }
}
