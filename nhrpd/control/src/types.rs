//! What the daemon tells about itself. Every reply is a struct with lists in it; `overlayctl
//! --json` prints it unchanged.
//!
//! Names are `snake_case` (varlink allows no hyphen), times are seconds, an absent value is `null`.
//! The same types stand in `nhrpd.Control.varlink` for other programs; a test holds both together.

mod event;
mod ike;
mod nhrp;
mod trace;

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use event::*;
pub use ike::*;
pub use nhrp::*;
pub use trace::*;

/// Reply of `ShowDmvpn`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dmvpn {
    /// Tunnel interfaces.
    pub interfaces: Vec<Interface>,
}

/// One tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Device name.
    pub name: String,
    /// Own tunnel (protocol) address with the tunnel's prefix length.
    pub address: IpNet,
    /// Hub or spoke.
    pub role: Role,
    /// NHRP network id (local to this node).
    pub network_id: u32,
    /// GRE key.
    pub key: Option<u32>,
    /// MTU of the device in bytes.
    pub mtu: u16,
    /// Tunnel source as configured: device name or address.
    pub source: String,
    /// Own NBMA address; `null` while the underlay has none.
    pub nbma: Option<IpAddr>,
    /// UDP port of IKE, WireGuard and ESP in UDP.
    pub port: u16,
    /// Protection of the tunnel.
    pub security: Security,
    /// What carries the packets.
    pub dataplane: Dataplane,
    /// Own identity: certificate subject.
    pub identity: Option<String>,
    /// Own certificate; `null` where there is none.
    pub certificate: Option<Certificate>,
    /// For how long the interface has been up.
    pub up_seconds: u64,
    /// Next-hop servers, by preference.
    pub nhs: Vec<Nhs>,
    /// Peers.
    pub peers: Vec<Peer>,
    /// Recent refusals, the latest first.
    pub refusals: Vec<Refusal>,
}

/// A node's own certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Subject.
    pub subject: String,
    /// Its end, as `2027-01-15 08:00:00 UTC`.
    pub not_after: String,
    /// Time until then; negative: since then.
    pub seconds_left: i64,
}

/// What a node is in the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Accepts registrations.
    Hub,
    /// Registers with a hub.
    Spoke,
}

/// Protection of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Security {
    /// Keyed by IKEv2, each path with its own [`Transport`].
    Ikev2,
    /// Clear GRE.
    None,
}

/// Protection of one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// ESP in transport mode.
    Esp,
    /// A WireGuard session.
    Wireguard,
    /// Clear GRE.
    None,
}

/// What carries the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dataplane {
    /// mGRE device and xfrm.
    Kernel,
    /// TUN device and this process.
    Userspace,
}

/// Reply of `ShowNhs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHopServers {
    /// By preference.
    pub servers: Vec<Nhs>,
}

/// A next-hop server, as its client sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nhs {
    /// Tunnel interface.
    pub interface: String,
    /// Protocol address.
    pub address: IpAddr,
    /// NBMA address or DNS name as configured.
    pub configured: String,
    /// NBMA address in use; `null` while its name is not resolved.
    pub nbma: Option<IpAddr>,
    /// Does it answer?
    pub state: NhsState,
    /// Why it is not responding, in words.
    pub why: Option<String>,
    /// For how long it has been in this state.
    pub since_seconds: u64,
    /// Lower is preferred.
    pub priority: u8,
    /// Cluster.
    pub cluster: u8,
    /// Registration and Resolution Requests sent to it, retries included.
    pub requests_sent: u64,
    /// Its replies to them.
    pub replies: u64,
    /// Its last refusal, in words.
    pub last_refusal: Option<String>,
    /// Where it sees this node, if that is not the address that this node claims (NAT).
    pub seen_as: Option<SocketAddr>,
}

/// Cisco's NHS status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NhsState {
    /// R: registered.
    Responding,
    /// E: a request is out.
    Expecting,
    /// W: not tried now (no path, not preferred, name not resolved).
    Waiting,
}

/// One peer of the tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// NBMA address that the peer claims in NHRP.
    pub nbma: Option<IpAddr>,
    /// NBMA address that its packets come from.
    pub nbma_seen: Option<IpAddr>,
    /// UDP port that its packets come from; `null` where there is none (clear GRE).
    pub port: Option<u16>,
    /// Its tunnel (protocol) address, once known.
    pub tunnel_address: Option<IpAddr>,
    /// Prefixes behind it.
    pub prefixes: Vec<IpNet>,
    /// How far it is.
    pub state: PeerState,
    /// For how long it has been in this state.
    pub since_seconds: u64,
    /// How it is known.
    pub attributes: Vec<Attribute>,
    /// Who it proved to be: certificate subject.
    pub identity: Option<String>,
    /// Why it is not up, in words.
    pub why: Option<String>,
    /// The way that its traffic takes now; `null` = none.
    pub path: Option<Path>,
    /// Crypto session; `null` with clear GRE or before the first IKE message.
    pub session: Option<Session>,
    /// Traffic.
    pub counters: Counters,
}

/// Cisco's peer state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    /// Keys are being agreed.
    Ike,
    /// Registering or resolving.
    Nhrp,
    /// Carries traffic.
    Up,
}

/// Cisco's attribute letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attribute {
    /// S
    Static,
    /// D
    Dynamic,
    /// I
    Incomplete,
    /// N: behind NAT
    Nated,
    /// L
    Local,
    /// X: known, but nothing is sent there
    NoSocket,
}

/// The way of the traffic to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// Straight to the peer.
    Direct,
    /// Through the hub.
    ViaHub,
}

/// The crypto session of a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The IKE SA behind it.
    pub ike: Option<IkeSa>,
    /// What carries the packets.
    pub transport: Transport,
}

/// Traffic of one peer; bytes are those of the inner packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets of this peer that were forwarded to another one.
    pub forwarded_packets: u64,
    /// Packets dropped, whatever the reason.
    pub dropped_packets: u64,
    /// Since the last authenticated packet; `null` = none yet.
    pub last_rx_seconds: Option<u64>,
}

/// Something that was refused, by us or by the peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// When it happened last.
    pub seconds_ago: u64,
    /// How many times in a row.
    pub count: u64,
    /// The other side.
    pub peer: SocketAddr,
    /// Who it said it is (proven or not).
    pub identity: Option<String>,
    /// What was refused, why, and what to do.
    pub reason: String,
}

/// Reply of `ShowTunnelEndpoints`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// One for each path.
    pub endpoints: Vec<Endpoint>,
}

/// Where the data plane sends the packets for a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Tunnel interface.
    pub interface: String,
    /// Tunnel address of the peer, once known.
    pub tunnel_address: Option<IpAddr>,
    /// NBMA address.
    pub nbma: IpAddr,
    /// UDP port; `null` with clear GRE.
    pub port: Option<u16>,
    /// Protection of this path.
    pub transport: Transport,
    /// Largest inner packet in bytes.
    pub mtu: u16,
    /// It has carried a packet each way.
    pub up: bool,
    /// Who the peer proved to be: certificate subject.
    pub identity: Option<String>,
    /// Traffic.
    pub counters: Counters,
}

/// Reply of `ShowMulticast`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Multicast {
    /// Who gets a copy of each multicast and broadcast packet.
    pub members: Vec<MulticastMember>,
}

/// One receiver of multicast.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MulticastMember {
    /// Tunnel interface.
    pub interface: String,
    /// NBMA address.
    pub nbma: IpAddr,
    /// Tunnel address, once known.
    pub tunnel_address: Option<IpAddr>,
    /// Who it proved to be: certificate subject.
    pub identity: Option<String>,
}

/// Reply of the `Clear…` calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleared {
    /// How many entries went.
    pub cleared: u64,
}

/// Reply of `Reload`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Sections of the configuration that differ from before. The certificate files were read
    /// again even if none does.
    pub changed: Vec<String>,
    /// What is doubtful: certificates that the peers will refuse.
    pub warnings: Vec<String>,
}
