//! What an engine is told at its start, and the types that its inputs are made of.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

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

impl fmt::Display for Nbma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            0 => self.address.fmt(f),
            port => SocketAddr::new(self.address, port).fmt(f),
        }
    }
}

impl From<SocketAddr> for Nbma {
    fn from(a: SocketAddr) -> Self {
        Self { address: a.ip(), port: a.port() }
    }
}

impl From<IpAddr> for Nbma {
    fn from(address: IpAddr) -> Self {
        Self { address, port: 0 }
    }
}

/// What a peer's proven identity may claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authorization {
    /// Anything: asked for by the configuration.
    Any,
    /// Tunnel addresses and prefixes within these only. Whoever keeps it shares it.
    Within(Arc<[IpNet]>),
}

impl Authorization {
    /// Whether `prefix` lies within what may be claimed.
    pub fn permits(&self, prefix: IpNet) -> bool {
        match self {
            Self::Any => true,
            Self::Within(nets) => nets.iter().any(|n| n.contains(&prefix)),
        }
    }
}

impl fmt::Display for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("anything"),
            Self::Within(nets) if nets.is_empty() => f.write_str("nothing"),
            Self::Within(nets) => {
                for (i, net) in nets.iter().enumerate() {
                    write!(f, "{}{net}", if i == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
        }
    }
}

/// Configuration of an engine. All times are durations, all rates per second.
#[derive(Debug, Clone)]
pub struct Config {
    /// Own protocol (tunnel) address with the tunnel's prefix length.
    pub address: IpNet,
    /// Own NBMA address; `None` until the underlay has one.
    pub nbma: Option<IpAddr>,
    /// Holding time that we announce; whole seconds, at most 65535.
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
    /// What a peer may claim for which [`Engine::set_authorization`] was never called. `None`:
    /// nothing. `Some(Any)` is for `security: none`, where nobody proves anything.
    ///
    /// [`Engine::set_authorization`]: super::Engine::set_authorization
    pub default_authorization: Option<Authorization>,
    /// Caps and rates.
    pub limits: Limits,
}

impl Config {
    /// Without what an engine leaves out: see [`Engine::new`](super::Engine::new).
    pub(super) fn checked(mut self) -> Self {
        let v4 = self.address.addr().is_ipv4();
        self.advertise.retain(|net| net.addr().is_ipv4() == v4 && net.prefix_len() > 0);
        for net in &mut self.advertise {
            *net = net.trunc();
        }
        self.maps.retain(|(address, _)| address.is_ipv4() == v4);
        self
    }
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

impl Default for Limits {
    fn default() -> Self {
        Self {
            cache_entries: 200_000,
            pending: 256,
            packets_per_peer: 200,
            errors: 20,
            indications: 1_000,
        }
    }
}
