//! Parts of the packet path for benchmarks, which stand outside of this crate. No interface for
//! others.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::x25519::{PublicKey, StaticSecret};
use ipnet::IpNet;
use overlay::desired::{EspCipher, EspKeys, Peer, PeerId, Transport};

use super::coalesce::Coalescer;
use super::esp::{BACK, FRONT, Opener, Sealer};
use super::forward::{Arrival, Departure, Entry, Forwarding, Via};
use super::gre::{self, Headers, Protocol};
use super::ip::{self, Header};
use super::outbox::Outbox;
use super::peers::{Path, Session};
use super::segment::{Segments, Transport as Kind, Vnet};
use super::socket::Sockets;
use super::tun::Offloads;

const KEY: u32 = 42;

/// Both ends of one ESP SA: AES-256-GCM, extended sequence numbers, GRE with a key inside.
pub struct Esp {
    sealer: Sealer,
    opener: Opener,
    headers: Headers,
}

impl Esp {
    /// With made-up keys; `None` where the cipher is not spoken here.
    pub fn new() -> Option<Self> {
        let encryption = (0..36).collect::<Vec<u8>>().into();
        let keys = EspKeys { spi: 0x1234_5678, encryption, integrity: Vec::new().into() };
        let cipher = EspCipher::Aes256Gcm16;
        Some(Self {
            sealer: Sealer::new(cipher, true, &keys)?,
            opener: Opener::new(cipher, true, &keys)?,
            headers: Headers::new(None, Some(KEY)),
        })
    }

    /// Room for a packet with `len` bytes of payload.
    pub fn buffer(&self, len: usize) -> Vec<u8> {
        vec![0; FRONT + self.headers.len() + len + BACK]
    }

    /// Puts GRE and ESP around the `len` bytes of IPv4 in a [`Self::buffer`]; the length of all.
    pub fn seal(&self, buffer: &mut [u8], len: usize) -> Option<usize> {
        self.headers.write(&mut buffer[FRONT..], Protocol::Ipv4, len);
        self.sealer.seal(buffer, self.headers.len() + len).ok()
    }

    /// Takes ESP and GRE off a packet; the length of what was inside.
    pub fn open(&self, packet: &[u8], out: &mut [u8]) -> Option<usize> {
        let len = self.opener.open(packet, out).ok()?;
        let (_, begin) = gre::decode(&out[..len], Some(KEY)).ok()?;
        Some(len - begin)
    }
}

/// Both ends of a WireGuard session, GRE with an IP header and a key inside; its datagrams pass
/// the loopback device.
pub struct WireGuard {
    ends: [Path; 2],
    outbox: Outbox,
    /// What each end sends comes here, and so each seems to be here.
    wire: UdpSocket,
    endpoint: SocketAddr,
    plain: Vec<u8>,
    datagram: Vec<u8>,
    opened: Vec<u8>,
}

impl WireGuard {
    /// With made-up keys, after the handshake, for packets of `len` bytes; `None` where no socket
    /// can be had.
    pub fn new(len: usize) -> Option<Self> {
        let private = [[3; 32], [5; 32]];
        let public = private.map(|key| PublicKey::from(&StaticSecret::from(key)).to_bytes());
        let addresses = [1, 2].map(|n| IpAddr::from([192, 0, 2, n]));
        let wire = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
        wire.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
        let endpoint = wire.local_addr().ok()?;
        let end = |own: usize| {
            let transport = Transport::WireGuard {
                private_key: private[own].into(),
                peer_public_key: public[1 - own],
                preshared_key: [7; 32].into(),
                initiate: own == 0,
            };
            let peer = Peer::new(endpoint, transport);
            let index = own as u32 + 1;
            let session = Session::new(PeerId(index), &peer, index, None, Instant::now())?;
            let outer = (addresses[own], addresses[1 - own]);
            let headers = Headers::new(Some(outer), Some(KEY));
            Some(Path { session: Arc::new(session), headers, mtu: 1400, sources: None })
        };
        let ends = [end(0)?, end(1)?];
        let outbox = Outbox::small(Arc::new(Sockets::udp(0, None).ok()?), Arc::default());
        let room = (Headers::MAX + len).next_multiple_of(16) + 256;
        let [plain, datagram, opened] = [(); 3].map(|()| vec![0; room]);
        let mut this = Self { ends, outbox, wire, endpoint, plain, datagram, opened };
        this.ends[0].session.start(&mut this.outbox);
        // Initiation, response, and the first packet.
        for receiver in [1, 0, 1] {
            let len = this.receive()?;
            this.open_at(receiver, len)?;
        }
        Some(this)
    }

    /// Seals `len` bytes of IPv4 and sends them.
    pub fn seal(&mut self, len: usize) -> bool {
        let mut sender = self.ends[0].sender(&mut self.outbox);
        let sealed = sender.send_from(Protocol::Ipv4, &mut self.plain, len).is_ok();
        self.outbox.flush();
        sealed
    }

    /// Waits for what was sent; its length.
    pub fn receive(&mut self) -> Option<usize> {
        self.outbox.flush();
        self.wire.recv(&mut self.datagram).ok()
    }

    /// Opens it; the length of what was inside.
    pub fn open(&mut self, len: usize) -> Option<usize> {
        let len = self.open_at(1, len)?;
        let range = gre::inside(&self.opened[..len]).ok()?;
        let (_, begin) = gre::decode(&self.opened[range.clone()], Some(KEY)).ok()?;
        Some(range.len() - begin)
    }

    fn open_at(&mut self, receiver: usize, len: usize) -> Option<usize> {
        let message = &self.datagram[..len];
        let session = &self.ends[receiver].session;
        session.open(self.endpoint, message, &mut self.opened, &mut self.outbox, |_| true).ok()
    }
}

/// Payload of each segment of [`Stream`].
const SEGMENT: usize = 1_360;

/// A large TCP packet as the kernel hands it over, its segments, and what joins them again.
pub struct Stream {
    packet: Vec<u8>,
    segments: Vec<u8>,
    /// Length of each but the last.
    longest: usize,
    coalescer: Coalescer,
}

impl Stream {
    /// IPv4, with so many segments, at most 48.
    pub fn new(segments: usize) -> Self {
        const HEADERS: usize = 40;
        let len = HEADERS + segments * SEGMENT;
        let mut packet: Vec<u8> = (0..len).map(|n| (n ^ (n >> 8)) as u8).collect();
        packet[..HEADERS].fill(0);
        (packet[0], packet[6], packet[8], packet[9]) = (0x45, 0x40, 64, ip::TCP);
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        ip::set_length(&mut packet, 20, len);
        // Ports; length of the header; ACK and PSH.
        packet[20..24].copy_from_slice(&[4, 0, 8, 0]);
        (packet[32], packet[33]) = (5 << 4, 0x18);
        let longest = HEADERS + SEGMENT;
        let coalescer = Coalescer::new(Offloads { tso: true, uso: true });
        Self { packet, segments: vec![0; segments * longest], longest, coalescer }
    }

    /// Cuts it; how many segments there are.
    pub fn cut(&mut self) -> Option<usize> {
        let vnet = Vnet::large(Kind::Tcp, false, 20, 40, SEGMENT);
        let segments = Segments::new(vnet, &mut self.packet)?;
        let rooms = self.segments.chunks_mut(self.longest);
        for (index, room) in rooms.enumerate().take(segments.count()) {
            segments.write(index, &self.packet, room);
        }
        Some(segments.count())
    }

    /// Joins what [`Self::cut`] made; how many packets the kernel gets, and their bytes.
    pub fn join(&mut self) -> Option<(usize, usize)> {
        let (mut packets, mut bytes) = (0, 0);
        let mut write = |_: usize, _: &Vnet, packet: &[u8]| {
            packets += 1;
            bytes += packet.len();
        };
        for segment in self.segments.chunks(self.longest) {
            let header = Header::parse(segment)?;
            self.coalescer.push(0, &header, segment, &mut write);
        }
        self.coalescer.flush(&mut write);
        Some((packets, bytes))
    }

    /// Bytes of the large packet.
    pub fn bytes(&self) -> usize {
        self.packet.len()
    }
}

/// A forwarding table.
pub struct Table(Forwarding<()>);

impl Table {
    /// A hub's: each of these prefixes lies behind a peer of its own.
    pub fn new(own: IpNet, prefixes: impl IntoIterator<Item = IpNet>) -> Self {
        let mut table = Forwarding::new(&[own]);
        for (peer, prefix) in (1..).map(PeerId).zip(prefixes) {
            table.insert(prefix, Entry::Via(Via { peer, path: (), packets: Arc::default() }));
        }
        Self(table)
    }

    /// Where a packet of this host goes.
    pub fn departure(&self, destination: IpAddr) -> Option<PeerId> {
        match self.0.departure(destination) {
            Departure::Via(via) => Some(via.peer),
            Departure::Multicast | Departure::Unroutable => None,
        }
    }

    /// Where a packet that came from `peer` goes on.
    pub fn arrival(&self, peer: PeerId, source: IpAddr, destination: IpAddr) -> Option<PeerId> {
        match self.0.arrival(Some(peer), None, source, destination) {
            Arrival::Forward(via) => Some(via.peer),
            Arrival::Kernel | Arrival::Drop(_) => None,
        }
    }
}
