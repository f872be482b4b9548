//! The folder of a small CA: ca.crt, ca.key, crl.pem, index.json, issued/.

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use pki::authority::{Authority, Revoked};
use pki::{Certificate, PrivateKey, UnixTime};
use serde::{Deserialize, Serialize};
use tempfile::Builder;

/// The folder, locked against other runs while this value lives.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    _lock: File,
}

/// What the CA has issued and revoked: index.json. Times are seconds since 1970.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Index {
    pub(super) revocation_list_number: u64,
    pub(super) certificates: Vec<Entry>,
}

/// An issued certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) serial: String,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) not_after: u64,
    pub(super) revoked: Option<u64>,
}

impl Entry {
    pub(super) fn state(&self, now: UnixTime) -> &'static str {
        match self {
            Self { revoked: Some(_), .. } => "revoked",
            Self { not_after, .. } if *not_after < now.as_secs() => "expired",
            _ => "valid",
        }
    }
}

impl Index {
    /// The first of the addresses that a valid certificate of another node has.
    pub(super) fn owner_of(
        &self,
        addresses: &[IpAddr],
        name: &str,
        now: UnixTime,
    ) -> Option<(&str, IpAddr)> {
        let mut others = self
            .certificates
            .iter()
            .filter(|entry| entry.name != name && entry.state(now) == "valid");
        others.find_map(|entry| {
            let address = addresses.iter().find(|address| entry.addresses.contains(address))?;
            Some((entry.name.as_str(), *address))
        })
    }

    pub(super) fn is_revoked(&self, serial: &str) -> bool {
        self.certificates.iter().any(|entry| entry.serial == serial && entry.revoked.is_some())
    }

    pub(super) fn revoked(&self) -> Vec<Revoked> {
        let revoked = |entry: &Entry| {
            let at = UnixTime::since_unix_epoch(Duration::from_secs(entry.revoked?));
            Some(Revoked { serial: entry.serial.clone(), at })
        };
        self.certificates.iter().filter_map(revoked).collect()
    }
}

impl Store {
    /// Makes the folder if it is not there.
    pub(super) fn create(folder: &Path) -> anyhow::Result<Self> {
        make_folder(folder)?;
        Self::lock(folder)
    }

    /// A folder that has a CA.
    pub(super) fn open(folder: &Path) -> anyhow::Result<Self> {
        if !folder.join("ca.crt").exists() {
            bail!(
                "there is no CA in {}; make one with pki init, or name its folder with --dir",
                folder.display()
            );
        }
        Self::lock(folder)
    }

    fn lock(folder: &Path) -> anyhow::Result<Self> {
        let lock = File::open(folder).with_context(|| cannot("open", folder))?;
        lock.lock().with_context(|| cannot("lock", folder))?;
        Ok(Self { folder: folder.to_owned(), _lock: lock })
    }

    pub(super) fn ca_certificate(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    pub(super) fn ca_key(&self) -> PathBuf {
        self.folder.join("ca.key")
    }

    pub(super) fn revocation_list(&self) -> PathBuf {
        self.folder.join("crl.pem")
    }

    pub(super) fn issued(&self) -> PathBuf {
        self.folder.join("issued")
    }

    fn index_file(&self) -> PathBuf {
        self.folder.join("index.json")
    }

    /// The CA with its key.
    pub(super) fn authority(&self) -> anyhow::Result<Authority> {
        let (certificate, key) = (self.ca_certificate(), self.ca_key());
        Authority::from_pem(&read(&certificate)?, &read(&key)?)
            .with_context(|| format!("{} with {}", certificate.display(), key.display()))
    }

    /// The CA's certificate alone.
    pub(super) fn certificate(&self) -> anyhow::Result<Certificate> {
        let file = self.ca_certificate();
        let chain = pki::certificates(&read(&file)?).with_context(|| file.display().to_string())?;
        Certificate::parse(&chain[0]).with_context(|| file.display().to_string())
    }

    /// What has been issued: nothing where the file is missing, as with a CA made elsewhere.
    pub(super) fn index(&self) -> anyhow::Result<Index> {
        let file = self.index_file();
        if !file.exists() {
            return Ok(Index::default());
        }
        serde_json::from_slice(&read(&file)?).with_context(|| file.display().to_string())
    }

    pub(super) fn save(&self, index: &Index) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(index)? + "\n";
        write_public(&self.index_file(), &text, Overwrite::Replace)
    }
}

/// Whether a file that is there may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overwrite {
    Refuse,
    Replace,
}

impl Overwrite {
    pub(super) fn if_forced(force: bool) -> Self {
        if force { Self::Replace } else { Self::Refuse }
    }

    /// Early, before work is done. [`write()`] decides.
    pub(super) fn check(self, file: &Path) -> anyhow::Result<()> {
        if self == Self::Refuse && file.symlink_metadata().is_ok() {
            bail!("{} is there already; --force replaces it", file.display());
        }
        Ok(())
    }
}

pub(super) fn make_folder(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| cannot("make", folder))
}

/// Readable by the owner only, from its first moment.
pub(super) fn write_private(
    file: &Path,
    key: &PrivateKey,
    overwrite: Overwrite,
) -> anyhow::Result<()> {
    write(file, key.to_pem().as_bytes(), 0o600, overwrite)
}

/// The same for what holds a key.
pub(super) fn write_secret(file: &Path, octets: &[u8], overwrite: Overwrite) -> anyhow::Result<()> {
    write(file, octets, 0o600, overwrite)
}

pub(super) fn write_public(file: &Path, text: &str, overwrite: Overwrite) -> anyhow::Result<()> {
    write(file, text.as_bytes(), 0o644, overwrite)
}

/// Whole or not at all: written beside, then renamed.
fn write(file: &Path, octets: &[u8], mode: u32, overwrite: Overwrite) -> anyhow::Result<()> {
    let folder = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let mut beside = Builder::new()
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(folder.unwrap_or(Path::new(".")))
        .with_context(|| cannot("write", file))?;
    beside.write_all(octets).with_context(|| cannot("write", file))?;
    beside.as_file().sync_all().with_context(|| cannot("write", file))?;
    match overwrite {
        Overwrite::Replace => beside.persist(file),
        Overwrite::Refuse => beside.persist_noclobber(file),
    }
    .map(drop)
    .map_err(|failure| failure.error)
    .with_context(|| cannot("write", file))
}

pub(super) fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(file).with_context(|| cannot("read", file))
}

fn cannot(what: &str, path: &Path) -> String {
    format!("cannot {what} {}", path.display())
}
