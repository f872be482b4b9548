//! The processes that hold a lab's namespaces.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use crate::Error;
use crate::process::{Process, cannot_start, only_child, path_variable};

/// Process 1 of the lab. It waits for its creator: at the end of input it ends, and all with it.
/// SIGCHLD is ignored so that the kernel reaps what nobody waits for.
const KEEPER: &str = r#"
mount -t proc proc /proc 2>/dev/null || :
for conf in all default; do
    file=/proc/sys/net/ipv6/conf/$conf/disable_ipv6
    [ ! -e $file ] || echo 1 > $file
done
trap '' CHLD
echo ready
read -r word && [ "$word" = stay ] && exec sleep infinity
"#;

/// Holds the namespaces of one node. /run is empty and private; /etc shows the host's files by
/// links, so that new ones can be put beside them. IPv6 addresses are usable at once.
const NODE: &str = r#"
set -e
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/host-etc /run/lock
mount --rbind /etc /run/host-etc
mount -t tmpfs -o mode=755 tmpfs /etc
ln -s /run/host-etc/* /etc/
rm -f /etc/hosts
mount -t sysfs sysfs /sys 2>/dev/null || :
hostname "$0"
file=/proc/sys/net/ipv6/conf/default/accept_dad
[ ! -e $file ] || echo 0 > $file
ip link set lo up
echo ready
exec sleep infinity
"#;

/// The keeper, as its creator holds it.
pub(crate) struct Keeper {
    wrapper: Child,
    /// Closing it ends the lab.
    stdin: Option<ChildStdin>,
    pub(crate) process: Process,
    pub(crate) user_namespace: bool,
}

impl Keeper {
    pub(crate) fn start() -> Result<Self, Error> {
        let user_namespace = !geteuid().is_root();
        let mut command = Command::new("setsid");
        command.args(["unshare", "--fork", "--pid", "--kill-child", "--mount", "--net", "--ipc"]);
        if user_namespace {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["sh", "-c", KEEPER]).stdin(Stdio::piped()).env("PATH", path_variable());
        let mut wrapper = start(command).map_err(|error| match error {
            Error::Command { outcome, .. } => no_namespaces(user_namespace, &outcome),
            other => other,
        })?;
        let stdin = wrapper.stdin.take();
        let process = only_child(&mut wrapper)
            .ok_or_else(|| no_namespaces(user_namespace, "its first process is gone"))?;
        Ok(Self { wrapper, stdin, process, user_namespace })
    }

    /// Lets the lab outlive its creator.
    pub(crate) fn stay(mut self) -> Result<(), Error> {
        match self.stdin.take() {
            Some(mut stdin) => {
                stdin.write_all(b"stay\n").map_err(|source| Error::io("let the lab stay", source))
            }
            None => Ok(()),
        }
    }

    /// Ends every process of the lab.
    pub(crate) fn end(&mut self) {
        self.process.signal(Signal::SIGKILL);
        self.stdin = None;
        let _ = self.wrapper.wait();
    }
}

/// Words before a command that run it in the namespaces of `holder`.
pub(crate) fn enter(holder: Process, user_namespace: bool, namespaces: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.env("PATH", path_variable()).arg("--target").arg(holder.pid.to_string());
    if user_namespace {
        command.args(["--user", "--preserve-credentials"]);
    }
    command.args(namespaces);
    command
}

/// Starts the process that holds a node; also gives the wrapper that waits for it.
pub(crate) fn start_node(keeper: &Keeper, name: &str) -> Result<(Child, Process), Error> {
    let inside = ["--mount", "--pid", "--ipc"];
    let mut command = enter(keeper.process, keeper.user_namespace, &inside);
    command
        .args(["unshare", "--net", "--mount", "--uts", "sh", "-c", NODE, name])
        .stdin(Stdio::null());
    let mut wrapper = start(command)?;
    let process = only_child(&mut wrapper).ok_or_else(|| Error::Command {
        command: format!("node {name}"),
        outcome: "is gone".into(),
    })?;
    Ok((wrapper, process))
}

/// Starts a command that prints `ready` and stays.
fn start(mut command: Command) -> Result<Child, Error> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| cannot_start(&command, &error))?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        let _ = BufReader::new(stdout).read_line(&mut line);
    }
    if line == "ready\n" {
        return Ok(child);
    }
    let _ = child.kill();
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        let _ = stderr.read_to_string(&mut said);
    }
    let _ = child.wait();
    let command = command.get_program().to_string_lossy().into_owned();
    Err(Error::Command { command, outcome: said.trim().to_owned() })
}

fn no_namespaces(user_namespace: bool, said: &str) -> Error {
    let remedy = if user_namespace {
        "run it as root, or let users make namespaces: sysctl user.max_user_namespaces=10000 \
         kernel.unprivileged_userns_clone=1, on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0"
    } else {
        "this root lacks CAP_SYS_ADMIN (a container?): run it as an ordinary user where user \
         namespaces are allowed, or give the container --privileged"
    };
    Error::Missing { what: format!("cannot make namespaces ({said})"), remedy: remedy.into() }
}
