//! The socket that systemd holds open while this daemon restarts (`FileDescriptorStoreMax=`), so that the
//! kernel goes on receiving ESP in UDP: an association with an encapsulating socket ends with it.

use std::net::UdpSocket;
use std::os::fd::{BorrowedFd, FromRawFd};

use sd_notify::NotifyState;

const NAME: &str = "ike";

/// The socket of the run before this one.
#[allow(unsafe_code)]
pub(crate) fn take() -> Option<UdpSocket> {
    let mut all = sd_notify::listen_fds_with_names().ok()?;
    let (fd, _) = all.find(|(_, name)| name == NAME)?;
    // SAFETY: systemd has opened it for this process (LISTEN_PID), and nobody else here looks for it.
    Some(unsafe { UdpSocket::from_raw_fd(fd) })
}

/// Has systemd hold this socket and no other; without systemd nobody does.
pub(crate) fn keep(socket: Option<BorrowedFd<'_>>) {
    let name = NotifyState::FdName(NAME);
    let _ = sd_notify::notify(&[NotifyState::FdStoreRemove, name.clone()]);
    if let Some(socket) = socket {
        // An ICMP error is no reason to let go of it.
        let whatever_comes = NotifyState::Custom("FDPOLL=0");
        let _ =
            sd_notify::notify_with_fds(&[NotifyState::FdStore, name, whatever_comes], &[socket]);
    }
}
