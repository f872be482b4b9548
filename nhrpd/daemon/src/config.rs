//! `nhrpd.yaml`, read into types that need no further checking.
//!
//! [`load`] reports every problem of a file at once, each with its line, its key and what was
//! expected there. docs/configuration.md describes the keys.

mod check;
mod error;
mod raw;
#[cfg(test)]
mod tests;
mod value;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use pki::{ExtendedKeyUsagePolicy, KeyUsagePolicy};

pub use error::{ConfigError, Problem};
pub use nhrp::engine::Password;

/// Reads the configuration at `path`. Relative paths in it are relative to its folder. Whether
/// the files that it names exist is not looked at.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::Unreadable { path: path.into(), error })?;
    parse(&text, path)
}

/// Reads a configuration from `text`; `path` names it in errors and is where relative paths begin.
pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
    let raw = raw::read(text).map_err(|problem| ConfigError::invalid(path, vec![problem]))?;
    check::check(raw, path.parent().unwrap_or(Path::new(""))).map_err(|problems| {
        let located = problems.into_iter().map(|problem| problem.locate(text)).collect();
        ConfigError::invalid(path, located)
    })
}

/// A whole configuration, defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The tunnel device.
    pub tunnel: Tunnel,
    /// What the tunnel runs over.
    pub underlay: Underlay,
    /// NHRP.
    pub nhrp: Nhrp,
    /// Next-hop servers; none on a hub.
    pub nhs: Vec<NextHopServer>,
    /// Static bindings.
    pub map: Vec<StaticMap>,
    /// Who gets copies of multicast packets.
    pub multicast: Vec<Multicast>,
    /// Prefixes behind this node.
    pub advertise: Advertise,
    /// Prefixes that are routed into the tunnel through the next-hop server.
    pub routes: Vec<IpNet>,
    /// What identities may claim beyond their certificates.
    pub accept: Vec<Accept>,
    /// Protection.
    pub security: Security,
    /// `security.rekey-interval`: age at which keys are renewed.
    pub rekey_interval: Duration,
    /// `security.rekey-packets`: packets of one direction after which the keys of ESP are renewed.
    pub rekey_packets: u64,
    /// `security.ike-proposals`: what IKE proposes and accepts.
    pub ike_proposals: ike::Algorithms,
    /// `security.esp-proposals`: what is proposed and accepted for ESP.
    pub esp_proposals: Vec<ike::EspProposal>,
    /// `security.key-log`: folder that gets all keys, for Wireshark; nowhere by default.
    pub key_log: Option<PathBuf>,
    /// What carries the packets.
    pub dataplane: Dataplane,
    /// Caps and rates.
    pub limits: Limits,
    /// `metrics.listen`: where metrics are told; nowhere by default.
    pub metrics: Option<Listen>,
    /// Least important level that is logged.
    pub log: LogLevel,
}

/// `tunnel`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// Device name, 1 to 15 bytes.
    pub interface: String,
    /// Own tunnel (protocol) address with the tunnel's prefix length.
    pub address: IpNet,
    /// GRE key.
    pub key: Option<u32>,
    /// MTU of the device.
    pub mtu: Mtu,
}

/// `tunnel.mtu`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mtu {
    /// Computed from the underlay and the transport.
    Auto,
    /// In bytes.
    Fixed(u16),
}

/// `underlay`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underlay {
    /// Where the own NBMA address comes from.
    pub source: Source,
    /// UDP port of IKE, WireGuard and ESP in UDP.
    pub port: u16,
}

/// `underlay.source`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A device, whose address is followed when it changes.
    Device(String),
    /// An address of this machine.
    Address(IpAddr),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// `nhrp`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nhrp {
    /// Cisco's network id: known to this node only.
    pub network_id: u32,
    /// Holding time that is announced.
    pub holding_time: Duration,
    /// Cisco's plain-text authentication.
    pub authentication: Option<Password>,
    /// Accepts registrations: this node is a next-hop server.
    pub accept_registrations: bool,
    /// Sends Traffic Indications.
    pub redirect: bool,
    /// Follows Traffic Indications.
    pub shortcut: bool,
    /// Registers with the unique bit.
    pub unique: bool,
    /// What a proven identity may claim.
    pub trust: Trust,
}

/// `nhrp.trust`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// What its certificate and `accept` name.
    Certificate,
    /// Anything: the classic behaviour.
    Any,
}

/// One of `nhs`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHopServer {
    /// Protocol address, within the tunnel's prefix.
    pub address: IpAddr,
    /// Where it is on the underlay.
    pub nbma: Endpoint,
    /// Lower is preferred.
    pub priority: u8,
    /// Cluster.
    pub cluster: u8,
}

/// One of `map`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticMap {
    /// Protocol address, within the tunnel's prefix.
    pub address: IpAddr,
    /// NBMA address.
    pub nbma: IpAddr,
    /// UDP port, where it is not the usual one.
    pub port: Option<u16>,
}

/// A host on the underlay.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address or name.
    pub host: Host,
    /// UDP port, where it is not the usual one.
    pub port: Option<u16>,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.port) {
            (Host::Address(IpAddr::V6(address)), Some(port)) => write!(f, "[{address}]:{port}"),
            (Host::Address(address), None) => address.fmt(f),
            (Host::Address(address), Some(port)) => write!(f, "{address}:{port}"),
            (Host::Name(name), None) => f.write_str(name),
            (Host::Name(name), Some(port)) => write!(f, "{name}:{port}"),
        }
    }
}

/// Address or DNS name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// Address.
    Address(IpAddr),
    /// DNS name, to be resolved again and again.
    Name(String),
}

/// One of `multicast`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Multicast {
    /// Every next-hop server.
    Nhs,
    /// Every node that registered here.
    Dynamic,
    /// The node with this NBMA address.
    Nbma(IpAddr),
}

/// `advertise`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advertise {
    /// These.
    Prefixes(Vec<IpNet>),
    /// Those of the own certificate's RFC 3779 address blocks.
    Certificate,
}

/// One of `accept`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accept {
    /// Certificate subject CN or SAN DNS name; `*` is everybody.
    pub identity: String,
    /// Tunnel addresses and prefixes that it may claim.
    pub prefixes: Vec<IpNet>,
}

/// `security`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Security {
    /// Clear GRE.
    None,
    /// Keyed by IKEv2.
    Keyed(Tunnels, Box<Authentication>),
}

impl Security {
    /// `security.mode`; `None` is `none`.
    pub fn mode(&self) -> Option<Tunnels> {
        match self {
            Self::None => None,
            Self::Keyed(tunnels, _) => Some(*tunnels),
        }
    }
}

/// `security.mode`: the kinds of tunnel that IKEv2 keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tunnels {
    /// Whatever the data plane carries.
    Auto,
    /// ESP only.
    Esp,
    /// WireGuard sessions only.
    WireGuard,
}

/// Who this node is, and what peers are judged by: certificates, pre-shared keys or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authentication {
    /// `security.identity`; always there without certificates.
    pub identity: Option<ike::Identity>,
    /// Certificates.
    pub certificates: Option<Certificates>,
    /// Pre-shared keys.
    pub keys: Option<KeyFile>,
}

/// Pre-shared keys, by file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile {
    /// An identity and its key in each line.
    pub path: PathBuf,
    /// Take keys that can be guessed.
    pub allow_weak: bool,
}

/// Certificates, by file, and the rules for those of peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificates {
    /// PEM: own chain, leaf first.
    pub certificate: PathBuf,
    /// PEM: own PKCS#8 key.
    pub private_key: PathBuf,
    /// PEM: trust anchors.
    pub ca: PathBuf,
    /// PEM: revocation lists.
    pub crl: Option<PathBuf>,
    /// The key-usage rule.
    pub key_usage: KeyUsagePolicy,
    /// The extended-key-usage rule.
    pub extended_key_usage: ExtendedKeyUsagePolicy,
}

/// `dataplane`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dataplane {
    /// The kernel where it can do all of the job, else this process.
    Auto,
    /// mGRE device and xfrm.
    Kernel,
    /// TUN device and this process.
    Userspace,
}

/// `limits`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Peers.
    pub peers: usize,
    /// NHRP cache entries.
    pub cache_entries: usize,
    /// NHRP packets per second that one peer may send.
    pub packets_per_peer: u32,
    /// Half-open IKE SAs.
    pub half_open: usize,
    /// Half-open IKE SAs from one source address.
    pub half_open_per_source: usize,
    /// Silence after which a peer is probed.
    pub dead_peer_interval: Duration,
}

/// `metrics.listen`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A Unix socket, for its owner and its group.
    Unix(PathBuf),
    /// TCP.
    Tcp(SocketAddr),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

/// `log`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// What does not work.
    Error,
    /// What is worth waking somebody.
    Warn,
    /// Changes of state.
    Info,
    /// Early exits.
    Debug,
    /// Packets.
    Trace,
}

impl LogLevel {
    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}
