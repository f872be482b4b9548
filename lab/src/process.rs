//! Processes: who they are, whose child they are, and running one to its end.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::Error;

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// Start time in clock ticks since boot.
    started: u64,
}

impl Process {
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = Stat::of(pid)?;
        (stat.state != 'Z').then_some(Self { pid, started: stat.started })
    }

    pub(crate) fn alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal; a process that is gone already is no error.
    pub(crate) fn signal(self, signal: Signal) {
        if self.alive() {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Waits for the end of a process that is not our child.
    pub(crate) fn wait_gone(self) {
        let give_up = Instant::now() + Duration::from_secs(10);
        while self.alive() && Instant::now() < give_up {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

struct Stat {
    state: char,
    parent: i32,
    started: u64,
}

impl Stat {
    /// proc_pid_stat(5): the command's name stands in parentheses and may hold any byte.
    fn of(pid: i32) -> Option<Self> {
        let bytes = fs::read(format!("/proc/{pid}/stat")).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let fields: Vec<_> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        Some(Self {
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }
}

/// The process that a wrapper (`unshare --fork`, `nsenter --pid`) forks, in our PID namespace.
pub(crate) fn only_child(wrapper: &mut Child) -> Option<Process> {
    let parent = i32::try_from(wrapper.id()).ok()?;
    let give_up = Instant::now() + Duration::from_secs(10);
    while Instant::now() < give_up {
        let child = fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            (Stat::of(pid)?.parent == parent).then(|| Process::of(pid)).flatten()
        });
        if child.is_some() || !matches!(wrapper.try_wait(), Ok(None)) {
            return child;
        }
        thread::sleep(Duration::from_millis(1));
    }
    None
}

/// Runs to the end with `input` on standard input; gives what it printed.
pub(crate) fn run(command: &mut Command, shown: &str, input: &str) -> Result<String, Error> {
    let failed = |outcome: String| Error::Command { command: shown.to_owned(), outcome };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| cannot_start(command, &error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that ends without reading its input says why by its status.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = [text(&output.stderr), text(&output.stdout)].join("\n");
    let said = said.trim();
    let colon = if said.is_empty() { "" } else { ": " };
    Err(failed(format!("failed ({}){colon}{said}", output.status)))
}

/// What to say when a command cannot even be started.
pub(crate) fn cannot_start(command: &Command, error: &std::io::Error) -> Error {
    let program = command.get_program().to_string_lossy().into_owned();
    if error.kind() != std::io::ErrorKind::NotFound {
        return Error::Command { command: program, outcome: format!("did not start: {error}") };
    }
    missing_program(&program)
}

pub(crate) fn missing_program(program: &str) -> Error {
    let package = match program {
        "ip" | "tc" => "iproute2",
        "nft" => "nftables",
        "ping" => "iputils-ping",
        "qemu-system-x86_64" => "qemu-system-x86",
        "nsenter" | "unshare" | "setsid" | "setpriv" => "util-linux",
        other => other,
    };
    Error::Missing {
        what: format!("no program `{program}` here"),
        remedy: format!("install it: apt-get install {package}"),
    }
}

/// Finds one of this project's own programs: beside the running one, or (in tests) one folder up.
///
/// # Errors
/// When it has not been built.
pub fn program(name: &str) -> Result<PathBuf, Error> {
    let running = std::env::current_exe()
        .map_err(|source| Error::io("find the running program's own path", source))?;
    running
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| Error::Missing {
            what: format!("program `{name}` is not beside {}", running.display()),
            remedy: "build it: cargo build --workspace".into(),
        })
}

/// Folders of our programs, then the caller's PATH.
pub(crate) fn path_variable() -> std::ffi::OsString {
    let mut folders = Vec::new();
    if let Ok(running) = std::env::current_exe() {
        folders.extend(running.ancestors().skip(1).take(2).map(PathBuf::from));
    }
    if let Some(path) = std::env::var_os("PATH") {
        folders.extend(std::env::split_paths(&path));
    }
    folders.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    std::env::join_paths(folders).unwrap_or_default()
}

/// A command as a person would type it.
pub(crate) fn shown<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(argv: I) -> String {
    let words: Vec<_> =
        argv.into_iter().map(|word| word.as_ref().to_string_lossy().into_owned()).collect();
    words.join(" ")
}
