//! Where IKE comes in and goes out: the configured UDP port, on which the kernel takes ESP in UDP out
//! before (RFC 3948), and 500, where other implementations begin (RFC 7296 §2.23).
//!
//! The device's GRE, and so every SA, has one own address. IKE has the same: it leaves from there,
//! whichever way it goes, and what came to another address is not answered.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use overlay::desired::PLAIN_PORT;

use super::packet;
use crate::{Config, Error};

/// Before IKE where ESP has the same port (RFC 3948 §2.2).
const MARKER: [u8; 4] = [0; 4];

/// The sockets, and the own address.
#[derive(Debug)]
pub(crate) struct Ike {
    sockets: Vec<Socket>,
    /// 0: not known, then the kernel chooses.
    own: AtomicU32,
}

/// One port.
#[derive(Debug)]
pub(crate) struct Socket {
    udp: UdpSocket,
    port: u16,
    marker: &'static [u8],
}

/// What came in, at the front of the buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub len: usize,
    pub from: SocketAddr,
    pub to: Ipv4Addr,
}

impl Ike {
    /// `kept`: a former run's socket on the configured port. None with `security: none`.
    pub(crate) fn open(config: &Config, kept: Option<UdpSocket>) -> Result<Self, Error> {
        let mut sockets = Vec::new();
        if !config.clear {
            sockets.push(shared(config, kept)?);
            sockets.extend(plain(config));
        }
        let ike = Self { sockets, own: AtomicU32::new(0) };
        ike.set_own(config.source);
        Ok(ike)
    }

    pub(crate) fn set_own(&self, own: Option<IpAddr>) {
        if let Some(IpAddr::V4(own)) = own {
            self.own.store(own.to_bits(), Relaxed);
        }
    }

    pub(crate) fn sockets(&self) -> &[Socket] {
        &self.sockets
    }

    /// Whether it is ours to answer what came to this address.
    pub(crate) fn is_own(&self, address: Ipv4Addr) -> bool {
        let own = self.own.load(Relaxed);
        own == 0 || own == address.to_bits()
    }

    /// Sends an IKE message (the non-ESP marker is added here) from one of the ports.
    pub(crate) fn send(&self, port: u16, to: SocketAddr, message: &[u8]) -> io::Result<()> {
        let socket = self.sockets.iter().find(|socket| socket.port == port);
        let socket = socket.ok_or(io::ErrorKind::AddrNotAvailable)?;
        socket.send(Ipv4Addr::from_bits(self.own.load(Relaxed)), to, message)
    }
}

impl Socket {
    fn new(own: SocketAddr, udp: UdpSocket, marker: &'static [u8]) -> io::Result<Self> {
        udp.set_nonblocking(true)?;
        setsockopt(&udp, sockopt::Ipv4PacketInfo, &true)?;
        Ok(Self { udp, port: own.port(), marker })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What stands before each IKE message here.
    pub(crate) fn marker(&self) -> &'static [u8] {
        self.marker
    }

    fn send(&self, own: Ipv4Addr, to: SocketAddr, message: &[u8]) -> io::Result<()> {
        let SocketAddr::V4(to) = to else { return Err(io::ErrorKind::Unsupported.into()) };
        let from = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr { s_addr: own.to_bits().to_be() },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let parts = [IoSlice::new(self.marker), IoSlice::new(message)];
        let control = [ControlMessage::Ipv4PacketInfo(&from)];
        let (fd, to) = (self.udp.as_raw_fd(), SockaddrIn::from(to));
        sendmsg(fd, &parts, &control, MsgFlags::empty(), Some(&to))?;
        Ok(())
    }

    /// Takes one datagram, if there is one.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Datagram> {
        let mut control = nix::cmsg_space!(libc::in_pktinfo);
        let mut parts = [IoSliceMut::new(buffer)];
        let received = recvmsg::<SockaddrIn>(
            self.udp.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::empty(),
        )?;
        let to = received.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                Some(Ipv4Addr::from_bits(u32::from_be(info.ipi_addr.s_addr)))
            }
            _ => None,
        });
        let from = received.address.map(|from| SocketAddrV4::new(from.ip(), from.port()).into());
        let (from, to) = from.zip(to).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Datagram { len: received.bytes, from, to })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.udp.as_fd()
    }
}

fn own_address(config: &Config, port: u16) -> SocketAddr {
    let own = config.source.filter(|source| config.bind_source && source.is_ipv4());
    SocketAddr::from((own.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), port))
}

fn shared(config: &Config, kept: Option<UdpSocket>) -> Result<Socket, Error> {
    let own = own_address(config, config.port);
    // One of another configuration is closed here.
    let kept = kept.filter(|udp| udp.local_addr().is_ok_and(|address| address == own));
    let udp = match kept {
        Some(kept) => kept,
        None => UdpSocket::bind(own).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => Error::PortInUse(config.port),
            _ => Error::Socket(error),
        })?,
    };
    packet::take_esp(&udp).map_err(Error::Socket)?;
    Socket::new(own, udp, &MARKER).map_err(Error::Socket)
}

/// Our own nodes do without it.
fn plain(config: &Config) -> Option<Socket> {
    if config.port == PLAIN_PORT {
        return None;
    }
    let own = own_address(config, PLAIN_PORT);
    let told = |error| {
        let port = config.port;
        tracing::info!(
            "UDP port {PLAIN_PORT}: {error} (ss -ulpn): peers that begin there are not heard, those \
             that begin on {port} are"
        );
    };
    UdpSocket::bind(own).and_then(|udp| Socket::new(own, udp, &[])).map_err(told).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_leave_from_the_own_address_and_what_came_to_another_shows_it() {
        let open = |marker| {
            let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
            let own = udp.local_addr().unwrap();
            Socket::new(own, udp, marker).unwrap()
        };
        let ike = Ike { sockets: vec![open(&MARKER), open(&[])], own: AtomicU32::new(0) };
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let other = Ipv4Addr::new(127, 9, 9, 9);
        let mut buffer = [0; 64];
        for socket in ike.sockets() {
            for own in [Ipv4Addr::LOCALHOST, other] {
                ike.set_own(Some(own.into()));
                ike.send(socket.port(), peer.local_addr().unwrap(), b"message").unwrap();
                let (len, from) = peer.recv_from(&mut buffer).unwrap();
                assert_eq!(from, SocketAddr::from((own, socket.port())));
                assert_eq!(&buffer[..len], [socket.marker(), b"message"].concat());
            }
            peer.send_to(b"answer", (Ipv4Addr::LOCALHOST, socket.port())).unwrap();
            let datagram = loop {
                match socket.receive(&mut buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    other => break other.unwrap(),
                }
            };
            let Datagram { len, from, to } = datagram;
            assert_eq!((&buffer[..len], from), (&b"answer"[..], peer.local_addr().unwrap()));
            assert_eq!((to, ike.is_own(to), ike.is_own(other)), (Ipv4Addr::LOCALHOST, false, true));
        }
    }
}
