//! Which labs are up: one folder each, private to the user, with `state.json` in it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::process::Process;

/// A lab that is up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// Its name.
    pub name: String,
    /// The process whose end ends the lab.
    pub(crate) keeper: Process,
    /// In a user namespace, that is: not made by root.
    pub(crate) user_namespace: bool,
    /// Node by name, with the process that holds its namespaces.
    pub(crate) nodes: BTreeMap<String, Process>,
    /// Names of the links.
    pub links: Vec<String>,
    /// What the topology started, as `nhrpd on hub`.
    #[serde(default)]
    pub(crate) daemons: BTreeMap<String, Process>,
}

impl State {
    /// Names of the nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.nodes.keys().map(String::as_str)
    }

    /// What the topology started, and whether it still runs.
    pub fn daemons(&self) -> impl Iterator<Item = (&str, bool)> {
        self.daemons.iter().map(|(name, process)| (name.as_str(), process.alive()))
    }

    pub(crate) fn save(&self, folder: &Path) -> Result<(), Error> {
        let path = folder.join("state.json");
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        fs::write(&path, text)
            .map_err(|source| Error::io(format!("write {}", path.display()), source))
    }

    fn load(folder: &Path) -> Option<Self> {
        serde_json::from_str(&fs::read_to_string(folder.join("state.json")).ok()?).ok()
    }
}

/// `/run/lab` for root, else `$XDG_RUNTIME_DIR/lab` or `/tmp/lab-UID`.
fn root() -> Result<PathBuf, Error> {
    let uid = geteuid();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|d| d.is_dir());
    let root = match runtime {
        _ if uid.is_root() => PathBuf::from("/run/lab"),
        Some(runtime) => runtime.join("lab"),
        None => PathBuf::from(format!("/tmp/lab-{uid}")),
    };
    let failed = |source| Error::io(format!("use the folder {}", root.display()), source);
    match fs::DirBuilder::new().mode(0o700).create(&root) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(failed(error));
        }
        _ => {}
    }
    let found = fs::symlink_metadata(&root).map_err(failed)?;
    if !found.is_dir() || found.uid() != uid.as_raw() {
        return Err(failed(std::io::Error::other("it belongs to somebody else")));
    }
    Ok(root)
}

/// Makes the folder of a new lab.
///
/// # Errors
/// When a lab of this name is up.
pub(crate) fn claim(name: &str) -> Result<PathBuf, Error> {
    let folder = root()?.join(name);
    if State::load(&folder).is_some_and(|state| state.keeper.alive()) {
        return Err(Error::Choice(format!(
            "lab `{name}` is up already; take it down (lab down --name {name}) or choose another \
             name (--name)"
        )));
    }
    let failed = |source| Error::io(format!("make the folder {}", folder.display()), source);
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(failed)?;
    }
    fs::DirBuilder::new().mode(0o700).create(&folder).map_err(failed)?;
    Ok(folder)
}

/// The labs that are up, by name; what remains of others is cleared away.
///
/// # Errors
/// When the folder of all labs cannot be read.
pub fn list() -> Result<Vec<State>, Error> {
    let root = root()?;
    let mut labs = Vec::new();
    let entries =
        fs::read_dir(&root).map_err(|s| Error::io(format!("read {}", root.display()), s))?;
    for folder in entries.flatten().map(|entry| entry.path()) {
        match State::load(&folder) {
            Some(state) if state.keeper.alive() => labs.push(state),
            Some(_) => drop(fs::remove_dir_all(&folder)),
            None => {}
        }
    }
    labs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(labs)
}

/// The lab of this name, or the only one.
pub(crate) fn find(name: Option<&str>) -> Result<(State, PathBuf), Error> {
    let labs = list()?;
    let names = || labs.iter().map(|lab| &lab.name);
    let found = match name {
        Some(name) => labs
            .iter()
            .find(|lab| lab.name == name)
            .ok_or_else(|| Error::unknown("lab", name, names()))?,
        None => match labs.as_slice() {
            [one] => one,
            [] => return Err(Error::Choice("no lab is up; start one: lab up FILE".into())),
            _ => {
                let names: Vec<_> = names().map(String::as_str).collect();
                let names = names.join(", ");
                return Err(Error::Choice(format!(
                    "several labs are up, say which: --name {names}"
                )));
            }
        },
    };
    Ok((found.clone(), root()?.join(&found.name)))
}
