//! Parts of the packet path for benchmarks, which stand outside of this crate. No interface for
//! others.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use overlay::desired::{EspCipher, EspKeys, PeerId};

use super::esp::{BACK, FRONT, Opener, Sealer};
use super::forward::{Arrival, Departure, Entry, Forwarding, Via};
use super::gre::{self, Headers, Protocol};

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
