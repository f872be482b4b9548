//! A Unix socket of the daemon: who may connect, and what becomes of its file.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// Why the socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another daemon answers there.
    #[error("another nhrpd already listens on {}", .0.display())]
    InUse(PathBuf),
    /// There is something that is not a socket.
    #[error("{} exists and is not a socket: remove it, or use another path", .0.display())]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("cannot open the socket {}: {error}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// A listening Unix socket. Dropping it removes its file.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    owner: u32,
}

impl Socket {
    /// Listens at `path` with mode 0660; makes its folder, and takes the place of a socket that
    /// nobody listens on any more. Needs a tokio runtime.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        if let Ok(found) = path.symlink_metadata() {
            if !found.file_type().is_socket() {
                return Err(BindError::NotASocket(path.into()));
            }
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(BindError::InUse(path.into()));
            }
        }
        Self::bind_io(path).map_err(|error| BindError::Io { path: path.into(), error })
    }

    fn bind_io(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // Under another name first, so that nobody finds it before it has its mode, and so that a
        // stale socket is replaced in one step.
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(format!(".{}", std::process::id()));
        let fresh = PathBuf::from(fresh);
        let _ = std::fs::remove_file(&fresh);
        let listener = UnixListener::bind(&fresh)?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o660))?;
        std::fs::rename(&fresh, path)?;
        let metadata = path.symlink_metadata()?;
        Ok(Self { listener, path: path.into(), inode: metadata.ino(), owner: metadata.uid() })
    }

    /// The next connection.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }

    /// The user that owns its file.
    pub fn owner(&self) -> u32 {
        self.owner
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.path.symlink_metadata().is_ok_and(|found| found.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
