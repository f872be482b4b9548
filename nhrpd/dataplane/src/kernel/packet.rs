//! Packets of our own through the tunnel device: NHRP (GRE protocol type 0x2001), copies of
//! multicast, and the probe of a new path. Each goes to an NBMA address, and the kernel puts GRE
//! (and ESP) around it.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::userspace::ip::{Checksum, Header};

/// GRE protocol type of NHRP.
pub(crate) const NHRP: u16 = 0x2001;
pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;
/// A GRE packet of this type with nothing in it: its receiver drops it, after opening it.
pub(crate) const PROBE: u16 = 0;
/// Offset of the checksum in UDP.
const CHECKSUM: usize = 6;
const SO_RCVMARK: libc::c_int = 75;
const PACKET_OUTGOING: u8 = 4;

/// A packet socket bound to NHRP on one device.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    index: i32,
}

/// Where an NHRP packet came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub nbma: IpAddr,
    /// The packet's mark: the SPI of its SA as our rules set it, 0 in clear.
    pub mark: u32,
    pub len: usize,
}

fn link_address(index: i32, protocol: u16, nbma: Ipv4Addr) -> libc::sockaddr_ll {
    let mut address = [0; 8];
    address[..4].copy_from_slice(&nbma.octets());
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 4,
        sll_addr: address,
    }
}

/// Completes the checksum of UDP. A sender of this machine leaves it to the device, and what our rules
/// log has not been there: it has the sum of the pseudo-header.
pub(crate) fn complete(packet: &mut [u8]) {
    let Some(Header { header_len, protocol, fragment: false, .. }) = Header::parse(packet) else {
        return;
    };
    let datagram = &packet[header_len..];
    if i32::from(protocol) != libc::IPPROTO_UDP || datagram.len() < 8 {
        return;
    }
    let length = datagram.len() as u16;
    let pseudo = Checksum::default().pseudo_header(packet, protocol).number(length);
    if datagram[CHECKSUM..][..2] == pseudo.folded() {
        let sum = match Checksum::default().bytes(datagram).finish() {
            // RFC 768: zero would say that there is none.
            [0, 0] => [0xff, 0xff],
            sum => sum,
        };
        packet[header_len + CHECKSUM..][..2].copy_from_slice(&sum);
    }
}

/// From now on ESP in UDP (RFC 3948) that comes to this socket goes to the kernel's SAs.
pub(crate) fn take_esp(socket: &std::net::UdpSocket) -> io::Result<()> {
    const UDP_ENCAP: libc::c_int = 100;
    const UDP_ENCAP_ESPINUDP: libc::c_int = 2;
    set_option(socket, libc::IPPROTO_UDP, UDP_ENCAP, UDP_ENCAP_ESPINUDP)
}

#[allow(unsafe_code)]
fn set_option(
    socket: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the option's value is an int that lives through the call.
    let set = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), len)
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has the kernel merge no segments that come out of this device, as `ethtool -K DEVICE gro off`.
#[allow(unsafe_code)]
pub(crate) fn keep_apart(interface: &str) -> io::Result<()> {
    const SIOCETHTOOL: u16 = 0x8946;
    const ETHTOOL_SGRO: u32 = 0x2c;
    // struct ethtool_value
    let mut off = [ETHTOOL_SGRO, 0];
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = off.as_mut_ptr().cast();
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: the request and what it points to are as large as the kernel takes them to be, and live
    // through the call.
    let set = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL.into(), &raw mut request) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A packet socket that receives nothing yet; needs CAP_NET_RAW.
#[allow(unsafe_code)]
pub(crate) fn unbound() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers; the result is checked before it is owned. Protocol 0: nothing is received
    // before the socket is bound.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has the socket tell the mark of what it receives; needs Linux 5.19.
pub(crate) fn tell_marks(socket: &impl AsRawFd) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, SO_RCVMARK, 1)
}

#[allow(unsafe_code)]
impl Socket {
    /// Needs CAP_NET_RAW.
    pub(crate) fn open(index: u32) -> io::Result<Self> {
        let fd = unbound()?;
        tell_marks(&fd)?;
        let index = index as i32;
        let address = link_address(index, NHRP, Ipv4Addr::UNSPECIFIED);
        // SAFETY: the address is a sockaddr_ll of the size given.
        let bound = unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        if bound < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { fd, index })
    }

    /// Sends a packet to an NBMA address.
    pub(crate) fn send(&self, protocol: u16, to: IpAddr, packet: &[u8]) -> io::Result<()> {
        let IpAddr::V4(to) = to else { return Err(io::ErrorKind::Unsupported.into()) };
        let address = link_address(self.index, protocol, to);
        // SAFETY: buffer and address live through the call and have the sizes given.
        let sent = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Takes one NHRP packet, if there is one.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Origin> {
        let mut address = link_address(0, 0, Ipv4Addr::UNSPECIFIED);
        let mut vector =
            libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let mut control = [0u64; 8];
        // SAFETY: all-zero is a valid msghdr.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_name = (&raw mut address).cast();
        header.msg_namelen = size_of_val(&address) as libc::socklen_t;
        header.msg_iov = &raw mut vector;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control) as _;
        // SAFETY: every pointer in the header is to memory of the size beside it that lives
        // through the call.
        let len = unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut header, 0) };
        if len < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut mark = 0;
        // SAFETY: the kernel filled the control buffer; CMSG_FIRSTHDR and CMSG_NXTHDR stay in it,
        // and the mark's data is a u32 of any alignment.
        unsafe {
            let mut next = libc::CMSG_FIRSTHDR(&raw const header);
            while let Some(message) = next.as_ref() {
                if (message.cmsg_level, message.cmsg_type) == (libc::SOL_SOCKET, libc::SO_MARK) {
                    mark = libc::CMSG_DATA(next).cast::<u32>().read_unaligned();
                }
                next = libc::CMSG_NXTHDR(&raw const header, next);
            }
        }
        let [a, b, c, d, ..] = address.sll_addr;
        // What was sent by us comes to every other socket, not to this one.
        if usize::from(address.sll_halen) < 4 || address.sll_pkttype == PACKET_OUTGOING {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Origin { nbma: IpAddr::from([a, b, c, d]), mark, len: len as usize })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::userspace::ip::tests::{udp, udp6};

    #[test]
    fn a_checksum_that_was_left_to_the_device_is_completed() {
        let group6 = udp6("fd00::1", "ff02::9", 1, b"odd");
        for (whole, header) in [(udp([172, 16, 0, 1], [224, 0, 0, 9], 1, b"odd"), 20), (group6, 40)]
        {
            let mut packet = whole.clone();
            complete(&mut packet);
            assert_eq!(packet, whole, "nothing to do");
            let pseudo = Checksum::default().pseudo_header(&whole, 17);
            let partial = pseudo.number((whole.len() - header) as u16).folded();
            packet[header + CHECKSUM..][..2].copy_from_slice(&partial);
            complete(&mut packet);
            assert_eq!(packet, whole);
        }
        for bytes in [&[][..], &[0x45; 20], &[0x41; 30], &[0x60; 44]] {
            complete(&mut bytes.to_vec());
        }
    }
}
