//! The NHRP protocol of one node on one tunnel: client, server and transit in one.
//!
//! Feed it packets, requests and the time; ask it for packets, events and the next deadline.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rand_core::Rng;

/// Where a peer is reached on the underlay: its NBMA address and, where network address
/// translation moved it, its UDP port (0 = the well-known one of the transport).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nbma {
    /// NBMA address.
    pub address: IpAddr,
    /// UDP port, 0 = the transport's well-known one. On the wire it is the two-byte NBMA
    /// sub-address of the NAT extension's CIE, sent only where it is not 0.
    pub port: u16,
}

/// What a peer's proven identity may claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authorization {
    /// Anything: `security: none`, or asked for by the configuration.
    Any,
    /// Tunnel addresses and prefixes within these only.
    Within(BTreeSet<IpNet>),
}

/// Configuration of an engine. All times are durations, all rates per second.
#[derive(Debug, Clone)]
pub struct Config {
    /// Own protocol (tunnel) address with the tunnel's prefix length.
    pub address: IpNet,
    /// Own NBMA address; `None` until the underlay has one.
    pub nbma: Option<IpAddr>,
    /// Holding time that we announce.
    pub holding_time: Duration,
    /// Cisco plain-text authentication, at most 8 bytes.
    pub authentication: Option<Password>,
    /// Next-hop servers, by preference.
    pub servers: Vec<Server>,
    /// Static bindings (`ip nhrp map`).
    pub maps: Vec<(IpAddr, Nbma)>,
    /// Prefixes behind this node that it registers with its servers and answers for.
    pub advertise: Vec<IpNet>,
    /// Register with the unique bit (RFC 2332 §5.2.3).
    pub unique: bool,
    /// Accept registrations: this node is a next-hop server.
    pub accept_registrations: bool,
    /// Send Traffic Indications (Cisco `ip nhrp redirect`).
    pub redirect: bool,
    /// Follow Traffic Indications (Cisco `ip nhrp shortcut`).
    pub shortcut: bool,
    /// Caps and rates.
    pub limits: Limits,
}

/// A password that no Debug output shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub Vec<u8>);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// One next-hop server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its protocol address.
    pub address: IpAddr,
    /// Its NBMA address; `None` while its name is not resolved.
    pub nbma: Option<Nbma>,
    /// Lower is preferred (Cisco).
    pub priority: u8,
    /// Cluster (Cisco).
    pub cluster: u8,
}

/// Caps and rates.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Cache entries.
    pub cache_entries: usize,
    /// Requests of our own that await their reply.
    pub pending: usize,
    /// NHRP packets per second that one peer may send.
    pub packets_per_peer: u32,
    /// Error Indications per second that we send.
    pub errors: u32,
    /// Traffic Indications per second that we send.
    pub indications: u32,
}

/// What the engine wants of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this NHRP packet (without GRE header) to that peer.
    Transmit {
        /// Peer.
        to: Nbma,
        /// Bytes, ar$afn first.
        packet: Vec<u8>,
    },
    /// Something that the layer above acts on or tells the operator.
    Event(Event),
}

/// What happened. The engine's author completes this list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The set of bindings ([`Engine::bindings`]) changed.
    BindingsChanged,
}

/// One known mapping, as the layer above turns it into forwarding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// Protocol address (host prefix) or prefix behind the peer.
    pub prefix: IpNet,
    /// Protocol address of the peer that owns it.
    pub next_hop: IpAddr,
    /// Where that peer is reached.
    pub nbma: Nbma,
    /// MTU that the peer announced; 0 = none.
    pub mtu: u16,
}

/// How much traffic a prefix saw; asked when a shortcut is due for renewal.
pub trait Usage {
    /// Packets sent to `prefix` since the start; a counter that only grows.
    fn packets(&self, prefix: IpNet) -> u64;
}

/// The engine.
#[derive(Debug)]
pub struct Engine {
    config: Config,
}

impl Engine {
    /// A fresh engine; `rng` gives the first request id (it must not repeat after a restart).
    pub fn new(config: Config, now: Instant, rng: &mut dyn Rng) -> Self {
        let _ = (now, rng);
        Self { config }
    }

    /// Takes an NHRP packet that `from` sent inside the tunnel.
    pub fn handle_packet(&mut self, now: Instant, from: Nbma, packet: &[u8]) {
        let _ = (now, from, packet, &self.config);
    }

    /// Runs what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant, usage: &dyn Usage) {
        let _ = (now, usage);
    }

    /// When [`Self::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// The next packet or event; call until `None` after every input.
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }

    /// What the identity behind `peer` may claim; `None` forgets it (nothing may be claimed then).
    pub fn set_authorization(&mut self, peer: Nbma, authorization: Option<Authorization>) {
        let _ = (peer, authorization);
    }

    /// Own NBMA address changed: purges the old binding at the servers and registers anew.
    pub fn set_nbma(&mut self, now: Instant, nbma: Option<IpAddr>) {
        let _ = (now, nbma);
    }

    /// A peer is now reached elsewhere (authenticated move): its bindings follow.
    pub fn peer_moved(&mut self, now: Instant, from: Nbma, to: Nbma) {
        let _ = (now, from, to);
    }

    /// The NBMA address of a server became known or changed (its name was resolved).
    pub fn set_server_nbma(&mut self, now: Instant, server: IpAddr, nbma: Option<Nbma>) {
        let _ = (now, server, nbma);
    }

    /// Traffic for `destination` wants a better path than the one through a server.
    pub fn resolve(&mut self, now: Instant, destination: IpAddr) {
        let _ = (now, destination);
    }

    /// The forwarding path sent a packet of `peer` back into the tunnel; `packet` is its
    /// IP header and the first bytes. Issues a Traffic Indication, within limits.
    pub fn redirect(&mut self, now: Instant, peer: Nbma, packet: &[u8]) {
        let _ = (now, peer, packet);
    }

    /// Clean stop: purges own registrations.
    pub fn shutdown(&mut self, now: Instant) {
        let _ = now;
    }

    /// Everything that forwarding may use now, in order of prefix.
    pub fn bindings(&self) -> impl Iterator<Item = Binding> + '_ {
        std::iter::empty()
    }
}

impl From<SocketAddr> for Nbma {
    fn from(a: SocketAddr) -> Self {
        Self { address: a.ip(), port: a.port() }
    }
}
