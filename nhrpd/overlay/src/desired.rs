//! What should be so ([`Desired`]), and what the data plane reports ([`Event`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use zeroize::Zeroizing;

pub use ike::nat::PLAIN_PORT;
pub use ike::{Esp, EspCipher, EspKeys};

/// One keyed path to a peer. A new key exchange with the same node is a new id, so that the old
/// path can carry traffic until the new one has carried a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

/// The state that the data plane is to bring about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// Paths.
    pub peers: BTreeMap<PeerId, Peer>,
    /// Overlay forwarding: longest prefix wins. Own addresses are not in it.
    pub forwarding: BTreeMap<IpNet, Hop>,
    /// Kernel routes that lead into the tunnel device (route protocol 191).
    pub routes: BTreeSet<IpNet>,
    /// Paths that get a copy of each multicast and broadcast packet.
    pub multicast: BTreeSet<PeerId>,
    /// Inner source addresses that a path may use: what its identity may claim. A path that is
    /// not listed may carry any source, as that to a next-hop server must.
    pub sources: BTreeMap<PeerId, Arc<[IpNet]>>,
}

/// What may differ between one desired state and the next; everything else is as it was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Paths: they themselves, their sources, or whether they get multicast.
    pub peers: BTreeSet<PeerId>,
    /// Prefixes: their place in forwarding or among the routes.
    pub prefixes: BTreeSet<IpNet>,
}

impl Changes {
    /// Everything that is in either of two states.
    pub fn between(one: &Desired, other: &Desired) -> Self {
        let mut changes = Self::default();
        for desired in [one, other] {
            changes.peers.extend(desired.peers.keys());
            changes.peers.extend(&desired.multicast);
            changes.peers.extend(desired.sources.keys());
            changes.prefixes.extend(desired.forwarding.keys());
            changes.prefixes.extend(&desired.routes);
        }
        changes
    }

    /// Makes a copy of the former state one of the `next`.
    pub fn carry(&self, next: &Desired, copy: &mut Desired) {
        fn entry<K: Ord + Copy, V: Clone>(
            key: K,
            next: &BTreeMap<K, V>,
            copy: &mut BTreeMap<K, V>,
        ) {
            match next.get(&key) {
                Some(value) => drop(copy.insert(key, value.clone())),
                None => drop(copy.remove(&key)),
            }
        }
        fn member<K: Ord + Copy>(key: K, next: &BTreeSet<K>, copy: &mut BTreeSet<K>) {
            if next.contains(&key) {
                copy.insert(key);
            } else {
                copy.remove(&key);
            }
        }
        for &id in &self.peers {
            entry(id, &next.peers, &mut copy.peers);
            entry(id, &next.sources, &mut copy.sources);
            member(id, &next.multicast, &mut copy.multicast);
        }
        for &prefix in &self.prefixes {
            entry(prefix, &next.forwarding, &mut copy.forwarding);
            member(prefix, &next.routes, &mut copy.routes);
        }
    }
}

/// Where packets for a prefix go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// The path.
    pub peer: PeerId,
    /// The next hop's protocol address: that of the node at the other end of the path.
    pub via: IpAddr,
}

/// One path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where to send: NBMA address and UDP port (port 0 for [`Transport::Clear`]).
    pub endpoint: SocketAddr,
    /// Protection.
    pub transport: Transport,
    /// Its successor is up: what is still on its way may arrive, and nothing is sent.
    pub receive_only: bool,
}

impl Peer {
    /// A path in use.
    pub fn new(endpoint: SocketAddr, transport: Transport) -> Self {
        Self { endpoint, transport, receive_only: false }
    }
}

/// How GRE packets to a peer are protected.
#[derive(Clone, PartialEq, Eq)]
pub enum Transport {
    /// Not at all (`security: none`): GRE in IP, protocol 47.
    Clear,
    /// A WireGuard session with keys from IKEv2.
    WireGuard {
        /// Own X25519 private key.
        private_key: Zeroizing<[u8; 32]>,
        /// The peer's X25519 public key.
        peer_public_key: [u8; 32],
        /// Pre-shared key.
        preshared_key: Zeroizing<[u8; 32]>,
        /// This side sends the first handshake initiation. The IKE responder does, right behind its
        /// last message: the session is up half a round trip earlier for the other side.
        initiate: bool,
    },
    /// A pair of ESP SAs (RFC 4303) in transport mode: selectors are GRE between the two NBMA
    /// addresses.
    Esp(Esp),
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Clear => "Clear",
            Self::WireGuard { .. } => "WireGuard(…)",
            Self::Esp(esp) => return esp.fmt(f),
        })
    }
}

/// What the data plane saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An IKE message came in (non-ESP marker stripped).
    Ike {
        /// Own port to which it came: [`PLAIN_PORT`], or that of the configuration.
        port: u16,
        /// Sender.
        from: SocketAddr,
        /// IKE header first.
        datagram: Vec<u8>,
    },
    /// An NHRP packet came in through the tunnel.
    Nhrp {
        /// The path; `None` only with `security: none`, from a node that is not a peer yet.
        peer: Option<PeerId>,
        /// Sender on the underlay.
        from: SocketAddr,
        /// ar$afn first.
        packet: Vec<u8>,
    },
    /// A packet from `peer` was sent back into the tunnel (rate limited per flow).
    Redirect {
        /// Where it came from.
        peer: PeerId,
        /// IP header and the first bytes.
        packet: Vec<u8>,
    },
    /// No path for this destination: the packet was dropped (rate limited).
    Unroutable {
        /// Destination protocol address.
        destination: IpAddr,
    },
    /// The session carried its first authenticated packet in each direction that it needs:
    /// traffic may be moved onto it. With [`Transport::Esp`] that is the first packet received;
    /// this event may come as often as there is one, and need not come at all, because IKE too
    /// finds out when the peer is ready.
    Up {
        /// The path.
        peer: PeerId,
    },
    /// The session is dead: no handshake within WireGuard's limits.
    Down {
        /// The path.
        peer: PeerId,
    },
    /// A WireGuard packet for a session that is not known here: its sender does not know that
    /// we restarted (rate limited).
    Unknown {
        /// Sender, not authenticated.
        from: SocketAddr,
    },
    /// The volume after which this path should get new keys has passed (RFC 4301 §4.4.2.1, soft
    /// lifetime); only with [`Transport::Esp`].
    Expiring {
        /// The path.
        peer: PeerId,
    },
    /// A former run of the daemon left a path to this node, and it still carries traffic: its
    /// peer does not know that the keys' owner restarted.
    Adopted {
        /// Where the peer is.
        endpoint: SocketAddr,
    },
    /// GRE with another key than ours, or without one where we have one (rate limited).
    WrongKey {
        /// Sender on the underlay.
        from: SocketAddr,
        /// The key that it carries.
        key: Option<u32>,
    },
    /// Authenticated data came from another endpoint.
    Moved {
        /// The path.
        peer: PeerId,
        /// Where it is now.
        endpoint: SocketAddr,
    },
}

/// Counters of one path. Bytes are those of the inner IP packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerCounters {
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets forwarded from this path into another.
    pub forwarded_packets: u64,
    /// Packets dropped, whatever the reason.
    pub dropped_packets: u64,
    /// Last authenticated packet received, seconds since the data plane's start; `None` = never.
    pub last_rx: Option<u64>,
}
