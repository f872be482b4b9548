//! What the process gives up for good before it hears the first packet: capabilities, new
//! privileges, and all files but those that it needs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability, CapsHashSet};
use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible as _, PathBeneath, PathFd,
    Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus,
};

use crate::config::{Config, Listen, Security};

/// Devices and routes; packets of the kernel data plane and clear GRE; ports below 1024.
const KEPT: [Capability; 3] =
    [Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW, Capability::CAP_NET_BIND_SERVICE];

/// Read by name resolution (whose modules are libraries) and by the data plane, beside the files
/// of the configuration.
const READ: [&str; 10] = [
    "/etc",
    "/usr",
    "/lib",
    "/lib64",
    "/proc",
    "/sys/class/net",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/run/nscd",
];
/// Devices, and the switches of the network.
const WRITTEN: [&str; 4] = ["/dev/net/tun", "/dev/null", "/dev/urandom", "/proc/sys/net"];

/// Rights newer than these are not asked for; older kernels give those that they know.
const NEWEST: ABI = ABI::V5;

/// To be called before any thread is started: threads that run keep what they have.
pub(crate) fn give_up(config: &Config, path: &Path, socket: &Path) {
    let capabilities = match drop_capabilities() {
        Ok(()) => "CAP_NET_ADMIN, CAP_NET_RAW, CAP_NET_BIND_SERVICE at most".to_owned(),
        Err(error) => format!("kept ({error})"),
    };
    let files = match restrict_files(config, path, socket) {
        Ok(RulesetStatus::FullyEnforced) => "restricted by Landlock".to_owned(),
        Ok(RulesetStatus::PartiallyEnforced) => {
            "restricted by Landlock, as far as this kernel knows it".to_owned()
        }
        Ok(RulesetStatus::NotEnforced) => "not restricted: this kernel has no Landlock".to_owned(),
        Err(error) => format!("not restricted ({error})"),
    };
    tracing::info!("capabilities: {capabilities}; files: {files}");
}

fn drop_capabilities() -> Result<(), caps::errors::CapsError> {
    let kept = CapsHashSet::from(KEPT);
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        let had = caps::read(None, set)?;
        let allowed: CapsHashSet = had.intersection(&kept).copied().collect();
        // Under systemd nothing is left to give up, and its filter does not let us ask.
        if allowed != had {
            caps::set(None, set, &allowed)?;
        }
    }
    Ok(())
}

/// Also sets `no_new_privs`.
fn restrict_files(
    config: &Config,
    path: &Path,
    socket: &Path,
) -> Result<RulesetStatus, landlock::RulesetError> {
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    let writing = reading | AccessFs::WriteFile | AccessFs::IoctlDev;
    let sockets = reading | AccessFs::MakeSock | AccessFs::RemoveFile | AccessFs::WriteFile;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .create()?;
    let fixed = |paths: &[&str], access: BitFlags<AccessFs>| {
        paths.iter().map(|path| (PathBuf::from(path), access)).collect::<Vec<_>>()
    };
    let rules = [
        fixed(&READ, reading),
        fixed(&WRITTEN, writing),
        folders(read_files(config, path), reading),
        folders(socket_files(config, socket), sockets),
    ];
    for (path, access) in rules.into_iter().flatten() {
        // What is not there needs no right; a file has none of a folder's.
        let Ok(handle) = PathFd::new(&path) else { continue };
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
        ruleset = ruleset.add_rule(PathBeneath::new(handle, access))?;
    }
    Ok(ruleset.restrict_self()?.ruleset)
}

/// A reload reads files that were replaced, so the right is that to the folder.
fn folders(files: Vec<PathBuf>, access: BitFlags<AccessFs>) -> Vec<(PathBuf, BitFlags<AccessFs>)> {
    let folder = |file: PathBuf| match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let folders: BTreeSet<PathBuf> = files.into_iter().map(folder).collect();
    folders.into_iter().map(|folder| (folder, access)).collect()
}

fn read_files(config: &Config, path: &Path) -> Vec<PathBuf> {
    let mut files = vec![path.to_owned()];
    if let Security::Keyed(_, peers) = &config.security {
        if let Some(certificates) = &peers.certificates {
            let named = [&certificates.certificate, &certificates.private_key, &certificates.ca];
            files.extend(named.into_iter().chain(&certificates.crl).cloned());
        }
        files.extend(peers.keys.as_ref().map(|keys| keys.path.clone()));
    }
    files
}

fn socket_files(config: &Config, socket: &Path) -> Vec<PathBuf> {
    let metrics = match &config.metrics {
        Some(Listen::Unix(path)) => Some(path.clone()),
        _ => None,
    };
    let files: Vec<PathBuf> = metrics.into_iter().chain([socket.to_owned()]).collect();
    // Their folders are made now: nothing may be made beside them afterwards. Where that fails,
    // opening the socket says why.
    for folder in files.iter().filter_map(|file| file.parent()) {
        let _ = std::fs::create_dir_all(folder);
    }
    files
}
