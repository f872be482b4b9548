//! Thousands of clients in one process on `spoke-a`, each with an NBMA address of its own.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::e2e::{Ca, Scene, Site};

/// NBMA address of the hub.
pub(super) const HUB: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 10);
/// First NBMA address of the clients.
const UNDERLAY: Ipv4Addr = Ipv4Addr::new(10, 64, 16, 0);
const IP_HEADER: usize = 20;

/// A network with our hub, kernel data plane, room for all of them, and the node they are on; no
/// daemon runs yet.
pub(super) fn scene(name: &str, ca: &Ca, hub: impl FnOnce(Site) -> Site) -> Scene {
    let server = Site::new(ca, 0)
        .set("dataplane", "kernel")
        .set("tunnel", "{ interface: dmvpn0, address: 172.16.0.1/16, key: 42 }")
        .set("log", "warn");
    let scene = Scene::new(name, [hub(server), Site::new(ca, 1)]);
    route(&scene);
    scene
}

/// The n-th address after this one.
pub(super) fn plus(base: Ipv4Addr, n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(base) + n)
}

/// NBMA address of client `n`.
pub(super) fn nbma(n: u32) -> Ipv4Addr {
    plus(UNDERLAY, n)
}

/// Leads all their addresses to `spoke-a`.
fn route(scene: &Scene) {
    scene.run("internet", "ip route add 10.64.0.0/10 via 198.18.1.10");
    scene.run("spoke-a", "ip route add local 10.64.0.0/10 dev lo");
}

/// One socket for this protocol of all clients.
pub(super) fn socket(protocol: u8) -> io::Result<Socket> {
    let protocol = Protocol::from(i32::from(protocol));
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(protocol))?;
    socket.set_header_included_v4(true)?;
    socket.set_recv_buffer_size(8 << 20)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    Ok(socket)
}

/// Sends a packet of client `n`.
pub(super) fn send(
    socket: &Socket,
    n: u32,
    to: Ipv4Addr,
    protocol: u8,
    payload: &[u8],
) -> io::Result<()> {
    let packet = packet(nbma(n), to, protocol, payload);
    socket.send_to(&packet, &SocketAddrV4::new(to, 0).into()).map(drop)
}

/// An IPv4 packet; the kernel fills in identification and checksum.
pub(super) fn packet(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = (IP_HEADER + payload.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    packet
}

/// For which of so many clients a packet is, and what follows its IP header.
pub(super) fn received(packet: &[u8], count: usize) -> Option<(usize, &[u8])> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let to = u32::from_be_bytes(packet.get(16..20)?.try_into().ok()?);
    let n = to.checked_sub(UNDERLAY.into())? as usize;
    let payload = packet.get(header..)?;
    (n < count).then_some((n, payload))
}
