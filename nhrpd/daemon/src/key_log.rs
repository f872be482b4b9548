//! Keys for Wireshark (`security.key-log`), written where the operator asked for them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Wireshark's tables, open for adding to.
#[derive(Debug)]
pub(crate) struct KeyTables {
    ike: File,
    esp: File,
    folder: PathBuf,
}

impl KeyTables {
    /// To be called before the process gives up its rights to files.
    ///
    /// # Errors
    /// Where a file cannot be made or written to.
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Self> {
        let open = |name: &str| {
            let path = folder.join(name);
            let options = OpenOptions::new().append(true).create(true).mode(0o600).to_owned();
            options
                .open(&path)
                .with_context(|| format!("security.key-log: cannot write {}", path.display()))
        };
        Ok(Self {
            ike: open("ikev2_decryption_table")?,
            esp: open("esp_sa")?,
            folder: folder.to_owned(),
        })
    }

    pub(crate) fn write(&mut self, line: &ike::KeyLog) {
        if let Err(error) = self.try_write(line) {
            tracing::warn!("security.key-log: cannot write to {}: {error}", self.folder.display());
        }
    }

    fn try_write(&mut self, line: &ike::KeyLog) -> io::Result<()> {
        match line {
            ike::KeyLog::Ike(line) => self.ike.write_all(line.as_bytes()),
            ike::KeyLog::Esp(line) => self.esp.write_all(line.as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn only_the_owner_reads_them_and_they_grow() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let mut tables = KeyTables::open(folder.path()).unwrap();
            tables.write(&ike::KeyLog::Ike("a\n".to_owned().into()));
            tables.write(&ike::KeyLog::Esp("b\n".to_owned().into()));
        }
        for (name, content) in [("ikev2_decryption_table", "a\na\n"), ("esp_sa", "b\nb\n")] {
            let path = folder.path().join(name);
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let missing = KeyTables::open(&folder.path().join("none")).unwrap_err();
        assert!(missing.to_string().starts_with("security.key-log: cannot write "), "{missing}");
    }
}
