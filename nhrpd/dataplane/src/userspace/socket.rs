//! The sockets on the underlay. Of UDP several for each family, which share the port: the kernel
//! puts all datagrams of one sender into one of them, so one that floods fills its own. With
//! `security: none` one for raw GRE, because every raw socket gets everything.

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

/// UDP sockets of each family.
const QUEUES: usize = 8;

/// The sockets of both families, as far as the kernel has them.
#[derive(Debug)]
pub(crate) struct Sockets {
    v4: Vec<Socket>,
    v6: Vec<Socket>,
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
            let address = SocketAddr::new(any, port);
            let open =
                |shared| Socket::open(domain, Type::DGRAM, Protocol::UDP, address, device, shared);
            // The first one comes alone, or it would join those of another program.
            let first = open(false)?;
            let mut sockets = Vec::new();
            if first.socket.set_reuse_port(true).is_ok() {
                sockets.extend((1..QUEUES).map_while(|_| open(true).ok()));
            }
            sockets.push(first);
            Ok(sockets)
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
            let address = SocketAddr::new(any, 0);
            Ok(vec![Socket::open(domain, Type::RAW, gre, address, device, false)?])
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

    fn both(open: impl Fn(Domain, IpAddr) -> io::Result<Vec<Socket>>) -> io::Result<Self> {
        let absent = |error: &io::Error| {
            matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
        };
        let optional = |result| match result {
            Err(error) if absent(&error) => Ok(Vec::new()),
            other => other,
        };
        let v4 = optional(open(Domain::IPV4, Ipv4Addr::UNSPECIFIED.into()))?;
        let v6 = optional(open(Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()))?;
        if v4.is_empty() && v6.is_empty() {
            return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
        }
        Ok(Self { v4, v6, source: ArcSwapOption::empty(), mtu: AtomicU16::new(0) })
    }

    /// The underlay is another one: its device may have been made anew under the same name.
    pub(crate) fn underlay_changed(&self, source: Option<IpAddr>, mtu: u16, device: Option<&str>) {
        self.source.store(source.map(Arc::new));
        self.mtu.store(mtu, Relaxed);
        for (_, socket) in self.iter() {
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

    /// Each with its place among those of its family.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &Socket)> {
        self.v4.iter().enumerate().chain(self.v6.iter().enumerate())
    }

    /// How many there are of one family.
    pub(crate) fn queues(&self) -> usize {
        self.v4.len().max(self.v6.len())
    }

    /// The socket that thread `sender` sends with: any of them has the same address.
    fn towards(&self, to: SocketAddr, sender: usize) -> Option<&Socket> {
        let sockets = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        sockets.get(sender % sockets.len().max(1))
    }

    /// How many datagrams of `len` bytes one send to that address may hold. Those that need
    /// fragments go alone.
    pub(crate) fn segments(&self, to: SocketAddr, sender: usize, len: usize) -> usize {
        let headers = if to.is_ipv4() { 28 } else { 48 };
        if len + headers > usize::from(self.mtu.load(Relaxed)) {
            return 1;
        }
        self.towards(to, sender).map_or(1, |socket| socket.state.load().max_gso_segments())
    }

    /// Sends one datagram, or several of `segment` bytes each (the last may be shorter). Waits
    /// a moment where the kernel has no room.
    pub(crate) fn send(
        &self,
        to: SocketAddr,
        sender: usize,
        contents: &[u8],
        segment: Option<usize>,
    ) -> io::Result<()> {
        let unreachable = || io::Error::from_raw_os_error(libc::ENETUNREACH);
        let socket = self.towards(to, sender).ok_or_else(unreachable)?;
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
        self.iter().fold((false, false), |(gso, gro), (_, socket)| {
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
        shared: bool,
    ) -> io::Result<Self> {
        let socket = RawSocket::new(domain, kind, Some(protocol))?;
        // A raw socket takes one family only anyhow.
        if domain == Domain::IPV6 && kind == Type::DGRAM {
            socket.set_only_v6(true)?;
        }
        if let Some(device) = device {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        if shared {
            socket.set_reuse_port(true)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::UdpSocket;

    /// In a network namespace of its own, where nobody else is.
    fn alone<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
        let thread = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
            assert!(up.unwrap().success());
            body()
        });
        thread.join().unwrap()
    }

    /// Who sent what a socket holds.
    fn senders(socket: &Socket) -> Vec<SocketAddr> {
        let mut memory = vec![0; 64 << 10];
        let mut meta = [RecvMeta::default()];
        let receive = || {
            let mut buffers = [IoSliceMut::new(&mut memory)];
            let received = socket.receive(&mut buffers, &mut meta).ok()?;
            Some(vec![meta[0].addr; received * meta[0].len.div_ceil(meta[0].stride)])
        };
        std::iter::from_fn(receive).flatten().collect()
    }

    #[test]
    fn a_sender_stays_in_one_socket_and_many_are_spread() {
        alone(|| {
            let sockets = Sockets::udp(4500, None).unwrap();
            for local in ["127.0.0.1", "::1"] {
                let local: IpAddr = local.parse().unwrap();
                let others: Vec<_> =
                    (0..64).map(|_| UdpSocket::bind((local, 0)).unwrap()).collect();
                for _ in 0..3 {
                    for other in &others {
                        other.send_to(b"datagram", (local, 4500)).unwrap();
                    }
                }
                let mut places = BTreeMap::<_, Vec<_>>::new();
                for (place, socket) in sockets.iter() {
                    for from in senders(socket) {
                        places.entry(from).or_default().push(place);
                    }
                }
                assert_eq!(places.len(), 64);
                assert!(places.values().all(|places| *places == [places[0]; 3]), "{places:?}");
                let used: BTreeSet<_> = places.values().flatten().collect();
                assert!(used.len() > 4, "{used:?}");
                // Whichever thread answers, it is from our port.
                for sender in 0..3 {
                    let to = others[0].local_addr().unwrap();
                    sockets.send(to, sender, b"answer", None).unwrap();
                    assert_eq!(others[0].recv_from(&mut [0; 8]).unwrap().1.port(), 4500);
                }
            }
        });
    }

    #[test]
    fn what_one_sender_has_too_much_of_takes_no_room_from_others() {
        alone(|| {
            let sockets = Sockets::udp(4500, None).unwrap();
            let to = ("127.0.0.1", 4500);
            let place = |from: &UdpSocket| {
                from.send_to(b"where", to).unwrap();
                sockets.iter().position(|(_, socket)| !senders(socket).is_empty()).unwrap()
            };
            let mut all = (0..64).map(|_| UdpSocket::bind(("127.0.0.1", 0)).unwrap());
            let flood = all.next().unwrap();
            let full = place(&flood);
            let other = all.find(|other| place(other) != full).unwrap();
            let count = 4 * KERNEL_BUFFER / 60_000;
            for _ in 0..count {
                flood.send_to(&[0; 60_000], to).unwrap();
            }
            other.send_to(b"a word", to).unwrap();
            let all: Vec<_> = sockets.iter().flat_map(|(_, socket)| senders(socket)).collect();
            assert!(all.len() < count, "it was no flood");
            assert!(all.contains(&other.local_addr().unwrap()));
        });
    }

    #[test]
    fn a_port_that_others_have_is_not_shared() {
        alone(|| {
            let first = Sockets::udp(4500, None).unwrap();
            assert!(matches!(Sockets::udp(4500, None), Err(Error::PortInUse(4500))));
            drop(first);
            Sockets::udp(4500, None).unwrap();
        });
    }
}
