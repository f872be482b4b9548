//! Kernel and programs of the machine: Debian packages, fetched by `apt-get download` and unpacked
//! into a cache, never installed.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::geteuid;

use crate::Error;
use crate::process::{Process, run, shown};

/// Depends on the newest kernel. Not the cloud flavour: that one has no 9p.
const KERNEL: &str = "linux-image-amd64";
/// The only program of the initial RAM file system.
const BUSYBOX: &str = "busybox-static";
/// What scenarios need and a host need not have. apt never installs the members of two groups
/// together.
const PROGRAMS: &[&[&str]] = &[
    &[
        "kmod",
        "ethtool",
        "frr",
        "iperf3",
        "tcpdump",
        "charon-systemd",
        "strongswan-swanctl",
        "libstrongswan-standard-plugins",
        "libstrongswan-extra-plugins",
        "libcharon-extra-plugins",
    ],
    &["libreswan"],
];

/// What a machine is made of.
#[derive(Debug)]
pub(super) struct Tree {
    /// The cache, to be shared with the machine.
    pub(super) folder: PathBuf,
    /// Folders in it to lay over the host's files, the first on top.
    pub(super) layers: Vec<String>,
    /// Kernel version, as `uname -r` gives it there.
    pub(super) version: String,
    /// The kernel.
    pub(super) kernel: PathBuf,
    /// `modules.dep` and so on.
    pub(super) modules: PathBuf,
    /// busybox, linked statically.
    pub(super) busybox: PathBuf,
}

/// Gives what has been unpacked already, or fetches it.
pub(super) fn tree(tell: impl Fn(&str)) -> Result<Tree, Error> {
    let folder = cache()?;
    fs::create_dir_all(&folder)
        .map_err(|source| Error::io(format!("make {}", folder.display()), source))?;
    let programs = format!("programs-{:016x}", fingerprint(PROGRAMS));
    once(&folder, &programs, |to| {
        tell("fetching Debian packages for the virtual machine (once)");
        let mut names = vec![BUSYBOX.to_owned()];
        for group in PROGRAMS {
            names.extend(missing(group)?);
        }
        unpack(&names, to)
    })?;
    let kernel = match newest_kernel(&folder) {
        Some(kernel) => kernel,
        None => {
            let package = kernel_package()?;
            let name = format!("kernel-{}", package.trim_start_matches("linux-image-"));
            once(&folder, &name, |to| {
                tell(&format!("fetching {package} (70 MB, once)"));
                unpack(std::slice::from_ref(&package), to)?;
                depmod(&name["kernel-".len()..], to, &folder.join(&programs))
            })?;
            name
        }
    };
    let version = kernel["kernel-".len()..].to_owned();
    Ok(Tree {
        kernel: folder.join(&kernel).join("boot").join(format!("vmlinuz-{version}")),
        modules: folder.join(&kernel).join("usr/lib/modules").join(&version),
        busybox: folder.join(&programs).join("usr/bin/busybox"),
        layers: vec![programs, kernel],
        version,
        folder,
    })
}

/// Where it is kept: `$XDG_CACHE_HOME/lab-vm` or `~/.cache/lab-vm`.
fn cache() -> Result<PathBuf, Error> {
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    set("XDG_CACHE_HOME")
        .or_else(|| Some(set("HOME")?.join(".cache")))
        .map(|folder| folder.join("lab-vm"))
        .ok_or_else(|| Error::Missing {
            what: "no folder to keep the virtual machine's packages in".into(),
            remedy: "set HOME or XDG_CACHE_HOME".into(),
        })
}

/// FNV-1a: another list of packages is another folder.
fn fingerprint(groups: &[&[&str]]) -> u64 {
    groups
        .iter()
        .flat_map(|group| group.iter())
        .flat_map(|name| name.bytes().chain([0]))
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

/// Fills `folder/name` unless it is there. Several may do so at once: the last complete one stays.
fn once(
    folder: &Path,
    name: &str,
    fill: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<(), Error> {
    let target = folder.join(name);
    if target.is_dir() {
        return Ok(());
    }
    let draft = folder.join(format!("draft-{}-{name}", std::process::id()));
    let failed =
        |what: &str, path: &Path, source| Error::io(format!("{what} {}", path.display()), source);
    discard_drafts(folder);
    fs::create_dir_all(&draft).map_err(|source| failed("make", &draft, source))?;
    fill(&draft)?;
    match fs::rename(&draft, &target) {
        Err(_) if target.is_dir() => {
            let _ = fs::remove_dir_all(&draft);
            Ok(())
        }
        renamed => renamed.map_err(|source| failed("name", &target, source)),
    }
}

/// What somebody who was interrupted has left.
fn discard_drafts(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner =
            name.strip_prefix("draft-").and_then(|rest| rest.split('-').next()?.parse().ok());
        if owner.is_some_and(|pid| Process::of(pid).is_none()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn newest_kernel(folder: &Path) -> Option<String> {
    fs::read_dir(folder)
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("kernel-"))
        .max_by_key(|name| {
            name.split(|c: char| !c.is_ascii_digit())
                .map(|number| number.parse::<u32>().unwrap_or(0))
                .collect::<Vec<_>>()
        })
}

fn apt(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C");
    if geteuid().is_root() && program == "apt-get" {
        // Its own user cannot read where we unpack.
        command.args(["-o", "APT::Sandbox::User=root"]);
    }
    command
}

fn kernel_package() -> Result<String, Error> {
    let told = ask(apt("apt-cache").args(["depends", KERNEL]))?;
    dependency(&told).map(str::to_owned).ok_or_else(|| unknown_to_apt(KERNEL))
}

/// The first package in what `apt-cache depends` tells.
fn dependency(told: &str) -> Option<&str> {
    told.lines().find_map(|line| line.trim().strip_prefix("Depends: "))
}

/// Packages of a group, and of those that they depend on, which this host does not have.
fn missing(group: &[&str]) -> Result<Vec<String>, Error> {
    let mut command = apt("apt-get");
    command.args(["install", "--print-uris", "-qq", "--no-upgrade", "--no-install-recommends"]);
    Ok(named(&ask(command.args(group))?))
}

/// `'URI' name_version_architecture.deb SIZE HASH` → `name=version`.
fn named(uris: &str) -> Vec<String> {
    uris.lines()
        .filter_map(|line| {
            let mut parts = line.split_whitespace().nth(1)?.split('_');
            let (name, version) = (parts.next()?, parts.next()?);
            Some(format!("{name}={}", version.replace("%3a", ":")))
        })
        .collect()
}

/// Fetches the packages, with apt's check of their signatures, and unpacks them.
fn unpack(packages: &[String], to: &Path) -> Result<(), Error> {
    // A Debian root since version 12: what a package calls /lib is in /usr/lib.
    let io = |source| Error::io(format!("write to {}", to.display()), source);
    for folder in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(to.join("usr").join(folder)).map_err(io)?;
        std::os::unix::fs::symlink(format!("usr/{folder}"), to.join(folder)).map_err(io)?;
    }
    let fetched = to.join("fetched");
    fs::create_dir_all(&fetched).map_err(io)?;
    ask(apt("apt-get").args(["download", "-qq"]).args(packages).current_dir(&fetched))?;
    for package in fs::read_dir(&fetched).map_err(io)?.flatten() {
        let script = "set -o pipefail; dpkg-deb --fsys-tarfile \"$1\" | \
                      tar -x --keep-directory-symlink --no-same-owner -C \"$2\"";
        ask(Command::new("bash").args(["-c", script, "unpack"]).arg(package.path()).arg(to))?;
    }
    fs::remove_dir_all(&fetched).map_err(io)
}

/// The kernel's package leaves its lists of modules to the installation.
fn depmod(version: &str, kernel: &Path, programs: &Path) -> Result<(), Error> {
    let unpacked = programs.join("usr/bin/kmod");
    let mut command = Command::new(if unpacked.exists() { unpacked } else { "kmod".into() });
    command.arg0("depmod").arg("-b").arg(kernel).arg(version);
    ask(command.env("LD_LIBRARY_PATH", programs.join("usr/lib/x86_64-linux-gnu"))).map(drop)
}

fn ask(command: &mut Command) -> Result<String, Error> {
    let title = shown(std::iter::once(command.get_program()).chain(command.get_args()));
    run(command, &title, "").map_err(|error| match error {
        Error::Command { command, outcome } if command.starts_with("apt") => Error::Missing {
            what: format!("`{command}` {outcome}"),
            remedy: "if apt's lists are empty or old, as root: apt-get update".into(),
        },
        Error::Missing { what, .. } => Error::Missing {
            what,
            remedy: "the virtual machine is made of Debian packages; it needs apt, dpkg and tar"
                .into(),
        },
        other => other,
    })
}

fn unknown_to_apt(package: &str) -> Error {
    Error::Missing {
        what: format!("apt knows no package {package}"),
        remedy: "this needs Debian 12 on amd64; if apt's lists are empty, as root: apt-get update"
            .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_versions_are_read_from_what_apt_prints() {
        let uris = "'http://deb.example/b/bind9-libs_1%3a9.18.49-1_amd64.deb' \
                    bind9-libs_1%3a9.18.49-1_amd64.deb 1185996 SHA256:00\n\
                    'http://deb.example/f/frr_8.4.4-1.1~deb12u2_amd64.deb' \
                    frr_8.4.4-1.1~deb12u2_amd64.deb 3854556 SHA256:00\n";
        assert_eq!(named(uris), ["bind9-libs=1:9.18.49-1", "frr=8.4.4-1.1~deb12u2"]);
        let depends = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n";
        assert_eq!(dependency(depends), Some("linux-image-6.1.0-56-amd64"));
    }

    #[test]
    fn the_newest_kernel_is_newest_by_number_not_by_letter() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["kernel-6.1.0-9-amd64", "kernel-6.1.0-56-amd64", "programs-9"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        assert_eq!(newest_kernel(folder.path()).as_deref(), Some("kernel-6.1.0-56-amd64"));
    }

    #[test]
    fn a_folder_is_filled_once_and_only_when_complete() {
        let folder = tempfile::tempdir().unwrap();
        let refused = once(folder.path(), "a", |_| Err(unknown_to_apt("x")));
        assert!(refused.is_err() && !folder.path().join("a").exists());
        once(folder.path(), "a", |to| {
            fs::write(to.join("one"), "").map_err(|e| Error::io("write", e))
        })
        .unwrap();
        once(folder.path(), "a", |_| panic!("it is there")).unwrap();
        assert!(folder.path().join("a/one").exists());
    }
}
