//! A virtual machine with Debian's own kernel and the host's files, for what the host's kernel lacks.
//!
//! QEMU without KVM boots it in some seconds. Its root is the host's, read-only over 9p, with the
//! packages of `packages` and a file system in memory laid over it: the same programs and the same
//! folders at the same paths, free to change, and nothing of it stays.

mod cpio;
mod modules;
mod packages;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Error;
use crate::process::missing_program;
use cpio::Archive;
use modules::Modules;
use packages::Tree;

const QEMU: &str = "qemu-system-x86_64";
/// What the kernel needs to find its root and to talk to us.
const MODULES: &[&str] =
    &["virtio_pci", "virtio_console", "virtio_rng", "9pnet_virtio", "9p", "overlay"];
/// Begins every line of ours on the console.
const TAG: &str = "lab-vm: ";

/// A machine, and the command that it is started for.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Program and arguments; run as root in the current folder with the current environment.
    pub command: Vec<OsString>,
    /// When to give up.
    pub timeout: Duration,
    /// Memory in MiB.
    pub memory: u32,
    /// Number of CPUs.
    pub cpus: u32,
    /// The machine's clock counts instructions, a nanosecond each, and runs on where there is nothing
    /// to do: what it measures does not depend on what else its host does.
    pub icount: bool,
    /// Folders of the host in which the command's changes stay; absolute.
    pub writable: Vec<PathBuf>,
}

/// Fetches and unpacks what the machine is made of, unless that was done before.
///
/// # Errors
/// When a program is missing here, or apt cannot fetch the packages.
pub fn prepare() -> Result<(), Error> {
    let tree = tree()?;
    eprintln!("lab: Linux {} is ready in {}", tree.version, tree.folder.display());
    Ok(())
}

fn tree() -> Result<Tree, Error> {
    if !cfg!(target_arch = "x86_64") {
        return Err(Error::Missing {
            what: "the virtual machine shares this machine's programs and is an x86_64 one".into(),
            remedy: "run this on x86_64".into(),
        });
    }
    packages::tree(|what| eprintln!("lab: {what}"))
}

impl Machine {
    /// Boots, runs the command to its end with its output on our standard output, and gives its exit
    /// status.
    ///
    /// # Errors
    /// When something is missing here, when the machine does not come to the end of the command, and
    /// when that takes too long.
    pub fn run(&self) -> Result<u8, Error> {
        let tree = tree()?;
        let mut ramdisk = scratch()?;
        let kept = |source| Error::io("write the initial RAM file system", source);
        ramdisk.write_all(&self.ramdisk(&tree)?).map_err(kept)?;
        let mut console = scratch()?;
        let to = console.try_clone().map_err(kept)?;

        let give_up = Instant::now() + self.timeout;
        let mut child =
            self.qemu(&tree).stdin(ramdisk).stdout(Stdio::piped()).stderr(to).spawn().map_err(
                |error| match error.kind() {
                    std::io::ErrorKind::NotFound => missing_program("setpriv"),
                    _ => Error::io(format!("start {QEMU}"), error),
                },
            )?;
        let failed = |source| Error::io(format!("wait for {QEMU}"), source);
        let output = child.stdout.take();
        // It ends with QEMU, or when nobody reads what it copies; QEMU ends then, too.
        let copy = std::thread::spawn(move || match output {
            Some(mut output) => std::io::copy(&mut output, &mut std::io::stdout().lock()).map(drop),
            None => Ok(()),
        });
        let ended = loop {
            if let Some(status) = child.try_wait().map_err(failed)? {
                break Some(status);
            }
            if Instant::now() >= give_up {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        if let Ok(Err(error)) = copy.join() {
            return Err(Error::io("write to standard output", error));
        }

        let mut told = Vec::new();
        console.rewind().and_then(|()| console.read_to_end(&mut told)).map_err(failed)?;
        let told = String::from_utf8_lossy(&told);
        match (ended, outcome(&told)) {
            (None, _) => Err(Error::Command {
                command: crate::process::shown(&self.command),
                outcome: format!(
                    "did not end within {} s in the virtual machine; its console:\n{}",
                    self.timeout.as_secs(),
                    tail(&told)
                ),
            }),
            (Some(_), Some(status)) => Ok(status),
            (Some(status), None) => Err(Error::Command {
                command: QEMU.into(),
                outcome: format!(
                    "ended ({status}) before the command did; last seen:\n{}",
                    tail(&told)
                ),
            }),
        }
    }

    /// Standard input is the initial RAM file system, standard error the console: files without a
    /// name, so that nothing is left behind however this ends.
    fn qemu(&self, tree: &Tree) -> Command {
        let mut command = Command::new("setpriv");
        // Whatever ends us ends it.
        command.args(["--pdeathsig", "KILL", "--", QEMU]);
        command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
        command.args(["-machine", "q35", "-cpu", "max,la57=off"]);
        if self.icount {
            command.args(["-accel", "tcg,thread=single,tb-size=512"]);
            command.args(["-icount", "shift=0,sleep=off"]);
        } else {
            command.args(["-accel", "tcg,thread=multi,tb-size=512"]);
        }
        command.args(["-smp", &self.cpus.to_string(), "-m", &self.memory.to_string()]);
        command.arg("-kernel").arg(&tree.kernel).args(["-initrd", "/dev/stdin"]);
        command.args([
            "-append",
            "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off nokaslr random.trust_cpu=on",
        ]);
        command.args(["-chardev", "file,id=console,path=/dev/stderr,append=on"]);
        command.args(["-serial", "chardev:console"]);
        command.args(["-device", "virtio-serial-pci", "-device", "virtio-rng-pci"]);
        command.args(["-chardev", "file,id=output,path=/dev/stdout,append=on"]);
        command.args(["-device", "virtserialport,chardev=output,name=output"]);
        share(&mut command, "host", OsStr::new("/"), ",readonly=on");
        share(&mut command, "packages", tree.folder.as_os_str(), ",readonly=on");
        for (number, folder) in self.writable.iter().enumerate() {
            share(&mut command, &format!("write{number}"), folder.as_os_str(), "");
        }
        command
    }

    fn ramdisk(&self, tree: &Tree) -> Result<Vec<u8>, Error> {
        let read = |path: PathBuf| {
            fs::read(&path).map_err(|source| Error::io(format!("read {}", path.display()), source))
        };
        let text = |name: &str| {
            read(tree.modules.join(name)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        };
        let (dependencies, builtin) = (text("modules.dep")?, text("modules.builtin")?);
        let order = Modules::parse(&dependencies, &builtin).order(MODULES).map_err(|module| {
            Error::Missing {
                what: format!("Linux {} has no module {module}", tree.version),
                remedy: format!("remove {} to fetch another kernel", tree.folder.display()),
            }
        })?;

        let mut archive = Archive::default();
        for folder in ["bin", "dev", "modules"] {
            archive.folder(folder);
        }
        archive.file("bin/busybox", &read(tree.busybox.clone())?);
        archive.file("init", include_bytes!("boot.sh"));
        archive.file("guest.sh", include_bytes!("guest.sh"));
        let mut names = String::new();
        for (number, path) in order.iter().enumerate() {
            let name = format!("{number}.ko");
            archive.file(&format!("modules/{name}"), &read(tree.modules.join(path))?);
            names += &format!("{name}\n");
        }
        archive.file("modules/order", names.as_bytes());
        let layers: Vec<_> = tree.layers.iter().map(|name| format!("/packages/{name}")).collect();
        archive.file("layers", layers.join(":").as_bytes());
        let mut writable = Vec::new();
        for folder in &self.writable {
            writable.extend(folder.as_os_str().as_bytes());
            writable.push(b'\n');
        }
        archive.file("writable", &writable);
        archive.file("command.sh", &self.script()?);
        Ok(archive.finish())
    }

    /// The command, for a shell: folder, environment, words.
    fn script(&self) -> Result<Vec<u8>, Error> {
        let folder = std::env::current_dir()
            .map_err(|source| Error::io("find the current folder", source))?;
        let mut script = Vec::new();
        for (name, value) in std::env::vars_os() {
            if is_name(&name) {
                script.extend(b"export ");
                script.extend(name.as_bytes());
                script.push(b'=');
                quote(&mut script, &value);
                script.push(b'\n');
            }
        }
        script.extend(b"export LAB_VM=1 XDG_RUNTIME_DIR=\ncd ");
        quote(&mut script, folder.as_os_str());
        script.push(b'\n');
        for word in &self.command {
            quote(&mut script, word);
            script.push(b' ');
        }
        script.push(b'\n');
        Ok(script)
    }
}

fn share(command: &mut Command, tag: &str, folder: &OsStr, more: &str) {
    let mut option = OsString::from(format!(
        "local,mount_tag={tag},security_model=none,multidevs=remap{more},path="
    ));
    // QEMU's own way to write a comma.
    for (number, part) in folder.as_bytes().split(|&byte| byte == b',').enumerate() {
        if number > 0 {
            option.push(",,");
        }
        option.push(OsStr::from_bytes(part));
    }
    command.arg("-virtfs").arg(option);
}

/// Can a shell have a variable of this name?
fn is_name(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    bytes.first().is_some_and(|first| !first.is_ascii_digit())
        && bytes.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// One word for a shell, whatever is in it.
fn quote(script: &mut Vec<u8>, word: &OsStr) {
    script.push(b'\'');
    for &byte in word.as_bytes() {
        match byte {
            b'\'' => script.extend(br"'\''"),
            other => script.push(other),
        }
    }
    script.push(b'\'');
}

/// A file without a name, in append mode: several write to it.
fn scratch() -> Result<File, Error> {
    let failed = |source| Error::io("make a temporary file", source);
    let folder = std::env::temp_dir();
    let path = folder.join(format!("lab-vm-{}-{:?}", std::process::id(), Instant::now()));
    let file =
        File::options().read(true).append(true).create_new(true).open(&path).map_err(failed)?;
    fs::remove_file(&path).map_err(failed)?;
    Ok(file)
}

/// How the command ended, from what the machine said last on its console.
fn outcome(console: &str) -> Option<u8> {
    let (_, last) = console.rsplit_once(TAG)?;
    last.lines().next()?.trim().strip_prefix("status ")?.parse().ok()
}

fn tail(console: &str) -> String {
    let lines: Vec<_> =
        console.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    match lines.len().saturating_sub(20) {
        _ if lines.is_empty() => "(nothing)".into(),
        first => lines[first..].join("\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_the_last_word_of_the_machine() {
        assert_eq!(
            outcome("[ 1.0] x\r\n[    9.812] lab-vm: status 3\r\n[ 9.9] reboot\r\n"),
            Some(3)
        );
        assert_eq!(outcome("[ 9.8] lab-vm: cannot load 3.ko\r\n"), None);
        assert_eq!(outcome("[ 9.8] lab-vm: status unknown\r\n"), None);
        assert_eq!(outcome(""), None);
    }

    #[test]
    fn words_reach_the_shell_as_they_are() {
        let mut script = Vec::new();
        quote(&mut script, OsStr::new("a'b $c\n"));
        assert_eq!(script, b"'a'\\''b $c\n'");
        assert!(
            is_name(OsStr::new("_a1")) && !is_name(OsStr::new("1a")) && !is_name(OsStr::new(""))
        );
        assert!(!is_name(OsStr::new("BASH_FUNC_x%%")));
    }

    #[test]
    fn a_comma_in_a_folder_is_no_option() {
        let mut command = Command::new("x");
        share(&mut command, "host", OsStr::new("/a,b"), "");
        let option = command.get_args().nth(1).unwrap().to_string_lossy().into_owned();
        assert!(option.ends_with(",path=/a,,b"), "{option}");
    }
}
