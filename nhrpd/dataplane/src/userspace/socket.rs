//! The sockets on the underlay: one for each family; UDP, or raw GRE with `security: none`.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

use arc_swap::{ArcSwap, ArcSwapOption};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{setsockopt, sockopt};
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket as RawSocket, Type};

use crate::Error;

/// What the kernel is asked to hold for us; its own memory, not ours.
const KERNEL_BUFFER: usize = 4 << 20;

/// The sockets of both families, as far as the kernel has them.
#[derive(Debug)]
pub(crate) struct Sockets {
    v4: Option<Socket>,
    v6: Option<Socket>,
    /// Source address of what we send, where it is not the kernel's choice.
    source: ArcSwapOption<IpAddr>,
    /// MTU of the underlay.
    mtu: AtomicU16,
}

#[derive(Debug)]
pub(crate) struct Socket {
    socket: RawSocket,
    state: ArcSwap<UdpSocketState>,
    raw: bool,
}

impl Sockets {
    /// UDP on `port`.
    pub(crate) fn udp(port: u16, device: Option<&str>) -> Result<Self, Error> {
        let open = |domain, any: IpAddr| {
            Socket::open(domain, Type::DGRAM, Protocol::UDP, SocketAddr::new(any, port), device)
        };
        Self::both(open).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => Error::PortInUse(port),
            _ => Self::device_error(error, device),
        })
    }

    /// GRE directly on the underlay.
    pub(crate) fn gre(device: Option<&str>) -> Result<Self, Error> {
        let open = |domain, any: IpAddr| {
            let gre = Protocol::from(libc::IPPROTO_GRE);
            Socket::open(domain, Type::RAW, gre, SocketAddr::new(any, 0), device)
        };
        Self::both(open).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => Error::RawPermission,
            _ => Self::device_error(error, device),
        })
    }

    fn device_error(error: io::Error, device: Option<&str>) -> Error {
        match device {
            Some(device) if error.raw_os_error() == Some(libc::ENODEV) => {
                Error::NoUnderlay(device.into())
            }
            _ => Error::Socket(error),
        }
    }

    fn both(open: impl Fn(Domain, IpAddr) -> io::Result<Socket>) -> io::Result<Self> {
        let absent = |error: &io::Error| {
            matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
        };
        let optional = |result| match result {
            Err(error) if absent(&error) => Ok(None),
            other => other.map(Some),
        };
        let v4 = optional(open(Domain::IPV4, Ipv4Addr::UNSPECIFIED.into()))?;
        let v6 = optional(open(Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()))?;
        if v4.is_none() && v6.is_none() {
            return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
        }
        Ok(Self { v4, v6, source: ArcSwapOption::empty(), mtu: AtomicU16::new(0) })
    }

    /// The underlay is another one: its device may have been made anew under the same name.
    pub(crate) fn underlay_changed(&self, source: Option<IpAddr>, mtu: u16, device: Option<&str>) {
        self.source.store(source.map(Arc::new));
        self.mtu.store(mtu, Relaxed);
        for socket in self.iter() {
            if let Some(device) = device
                && let Err(error) = socket.socket.bind_device(Some(device.as_bytes()))
            {
                tracing::debug!("cannot bind to underlay device {device}: {error}");
            }
            // A send that failed meanwhile may have switched segmentation off.
            match UdpSocketState::new((&socket.socket).into()) {
                Ok(state) => socket.state.store(Arc::new(state)),
                Err(error) => tracing::debug!("cannot set up the underlay socket anew: {error}"),
            }
            allow_fragments(&socket.socket);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Socket> {
        self.v4.iter().chain(&self.v6)
    }

    fn towards(&self, to: SocketAddr) -> Option<&Socket> {
        if to.is_ipv4() { self.v4.as_ref() } else { self.v6.as_ref() }
    }

    /// How many datagrams of `len` bytes one send to that address may hold. Those that need
    /// fragments go alone.
    pub(crate) fn segments(&self, to: SocketAddr, len: usize) -> usize {
        let headers = if to.is_ipv4() { 28 } else { 48 };
        if len + headers > usize::from(self.mtu.load(Relaxed)) {
            return 1;
        }
        self.towards(to).map_or(1, |socket| socket.state.load().max_gso_segments())
    }

    /// Sends one datagram, or several of `segment` bytes each (the last may be shorter). Waits
    /// a moment where the kernel has no room.
    pub(crate) fn send(
        &self,
        to: SocketAddr,
        contents: &[u8],
        segment: Option<usize>,
    ) -> io::Result<()> {
        let unreachable = || io::Error::from_raw_os_error(libc::ENETUNREACH);
        let socket = self.towards(to).ok_or_else(unreachable)?;
        let source = self.source.load().as_deref().copied();
        let transmit = Transmit {
            destination: to,
            ecn: None,
            contents,
            segment_size: segment,
            src_ip: source.filter(|source| source.is_ipv4() == to.is_ipv4()),
        };
        let state = socket.state.load();
        let mut result = state.try_send((&socket.socket).into(), &transmit);
        for _ in 0..4 {
            match &result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
                    let _ = nix::poll::poll(&mut fds, PollTimeout::from(20u8));
                    result = state.try_send((&socket.socket).into(), &transmit);
                }
                _ => break,
            }
        }
        result
    }

    /// Whether the kernel cuts and joins datagrams for us (GSO, GRO).
    pub(crate) fn offloads(&self) -> (bool, bool) {
        self.iter().fold((false, false), |(gso, gro), socket| {
            let state = socket.state.load();
            (gso || state.max_gso_segments() > 1, gro || state.gro_segments() > 1)
        })
    }
}

impl Socket {
    fn open(
        domain: Domain,
        kind: Type,
        protocol: Protocol,
        address: SocketAddr,
        device: Option<&str>,
    ) -> io::Result<Self> {
        let socket = RawSocket::new(domain, kind, Some(protocol))?;
        // A raw socket takes one family only anyhow.
        if domain == Domain::IPV6 && kind == Type::DGRAM {
            socket.set_only_v6(true)?;
        }
        if let Some(device) = device {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        if kind == Type::DGRAM {
            socket.bind(&address.into())?;
        }
        // Without CAP_NET_ADMIN the system's limit holds.
        if setsockopt(&socket, sockopt::RcvBufForce, &KERNEL_BUFFER).is_err() {
            let _ = socket.set_recv_buffer_size(KERNEL_BUFFER);
        }
        if setsockopt(&socket, sockopt::SndBufForce, &KERNEL_BUFFER).is_err() {
            let _ = socket.set_send_buffer_size(KERNEL_BUFFER);
        }
        let state = UdpSocketState::new((&socket).into())?;
        allow_fragments(&socket);
        Ok(Self { socket, state: ArcSwap::from_pointee(state), raw: kind == Type::RAW })
    }

    /// Receives datagrams, several in one buffer where they came from one sender;
    /// `WouldBlock` when there are none.
    pub(crate) fn receive(
        &self,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> io::Result<usize> {
        self.state.load().recv((&self.socket).into(), buffers, meta)
    }

    /// Gives raw GRE; an IPv4 socket of this kind receives with the IP header.
    pub(crate) fn is_raw(&self) -> bool {
        self.raw
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Lets the kernel cut what is larger than the underlay carries: an IKE message with its
/// certificates, or a tunnel packet on a path that is narrower than its first link.
/// quinn-udp forbids it, because QUIC does.
fn allow_fragments(socket: &RawSocket) {
    let set = |level, name, value| {
        if let Err(error) = set_option(socket, level, name, value) {
            tracing::debug!("cannot allow fragments: {error}");
        }
    };
    if socket.local_addr().is_ok_and(|address| address.is_ipv6()) {
        set(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT);
        set(libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 0);
    } else {
        set(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT);
    }
}

#[allow(unsafe_code)]
fn set_option(
    socket: &RawSocket,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the option value is one int, which lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
