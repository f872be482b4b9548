//! The TUN device: IP packets with a virtio header before each, so that large TCP and UDP
//! packets pass in one piece.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use super::segment::Vnet;
use crate::Error;

/// What the device hands over and takes in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offloads {
    pub tso: bool,
    pub uso: bool,
}

/// Queues of the device. The kernel chooses one for each flow, so a flow that fills its own leaves
/// room in the others.
pub(crate) const QUEUES: usize = 16;

/// A TUN device. It is gone when this is dropped, unless it was told to stay.
#[derive(Debug)]
pub(crate) struct Tun {
    /// At least one.
    queues: Vec<File>,
    offloads: Offloads,
}

impl Tun {
    /// Makes the device, or takes over one that its former owner left behind. Whether there still
    /// is an owner is for the caller to know.
    pub(crate) fn create(name: &str) -> Result<Self, Error> {
        let valid = (1..=15).contains(&name.len())
            && !matches!(name, "." | "..")
            && !name.bytes().any(|b| b == b'/' || b == b'%' || b == b':' || b <= b' ');
        if !valid {
            return Err(Error::InterfaceName(name.into()));
        }
        let several = libc::IFF_MULTI_QUEUE;
        let first = Self::queue(name, several).or_else(|error| match error {
            // One with a single queue, made by another program or an earlier release.
            Error::InterfaceExists(_) => Self::queue(name, 0),
            other => Err(other),
        })?;
        let mut queues = vec![first];
        // Without them it works as well, but for the fairness.
        queues.extend((1..QUEUES).map_while(|_| Self::queue(name, several).ok()));
        let file = &queues[0];
        let tso = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
        let uso = libc::TUN_F_USO4 | libc::TUN_F_USO6;
        let offloads = if set_offload(file, tso | uso).is_ok() {
            Offloads { tso: true, uso: true }
        } else {
            Offloads { tso: set_offload(file, tso).is_ok(), uso: false }
        };
        Ok(Self { queues, offloads })
    }

    /// Attaches to a queue of the device, making the device where there is none.
    fn queue(name: &str, several: libc::c_int) -> Result<File, Error> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .map_err(|error| match error.kind() {
                io::ErrorKind::PermissionDenied => Error::TunPermission,
                _ => Error::NoTun(error),
            })?;
        let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | several;
        let exists = || nix::net::if_::if_nametoindex(name).is_ok();
        set_interface(&file, name, flags).map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Error::TunPermission,
            // Another process holds it; or it is no TUN device, or one of another kind.
            Some(libc::EBUSY) => Error::InterfaceExists(name.into()),
            Some(libc::EINVAL) if exists() => Error::InterfaceExists(name.into()),
            Some(libc::EINVAL) => Error::InterfaceName(name.into()),
            _ => Error::NoTun(error),
        })?;
        Ok(file)
    }

    pub(crate) fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Whether the device outlives this process. One without an owner drops what is routed into it.
    pub(crate) fn set_persistent(&self, persistent: bool) {
        if let Err(error) = set_persist(&self.queues[0], persistent) {
            tracing::warn!("TUN device: cannot choose whether it stays: {error}");
        }
    }

    /// To be waited for; read by their places in this order.
    pub(crate) fn queues(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.queues.iter().map(AsFd::as_fd)
    }

    /// Reads one packet with its virtio header; `WouldBlock` when there is none.
    pub(crate) fn read(&self, queue: usize, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.queues[queue]).read(buffer)
    }

    /// Writes one packet. The kernel remembers the queue, and what it has to send in the other
    /// direction of this flow it puts there.
    pub(crate) fn write(&self, queue: usize, vnet: &Vnet, packet: &[u8]) -> io::Result<()> {
        let vnet = vnet.encode();
        let mut file = self.queues.get(queue).unwrap_or(&self.queues[0]);
        file.write_vectored(&[IoSlice::new(&vnet), IoSlice::new(packet)]).map(drop)
    }
}

#[allow(unsafe_code)]
fn set_interface(file: &File, name: &str, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives through the call; the name is
    // shorter than the field, so a zero ends it.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[allow(unsafe_code)]
fn set_offload(file: &File, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    let result =
        unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[allow(unsafe_code)]
fn set_persist(file: &File, persistent: bool) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes its argument by value.
    let result = unsafe {
        libc::ioctl(file.as_raw_fd(), libc::TUNSETPERSIST, libc::c_ulong::from(persistent))
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `IFF_*` features that the driver has (`TUNGETFEATURES`).
#[allow(unsafe_code)]
pub(crate) fn features() -> io::Result<libc::c_int> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let mut features: libc::c_uint = 0;
    // SAFETY: TUNGETFEATURES writes one unsigned int.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNGETFEATURES, &raw mut features) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(features as libc::c_int) }
}
