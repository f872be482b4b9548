//! What the daemon tells about itself. Every reply is a struct with lists in it; `overlayctl
//! --json` prints it unchanged.
//!
//! Names are `snake_case` (varlink allows no hyphen), times are seconds, an absent value is `null`.
//! The same types stand in `nhrpd.Control.varlink` for other programs; a test holds both together.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

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
    /// UDP port of IKE and WireGuard.
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

/// Reply of `ShowNhrpCache`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// In order of prefix.
    pub entries: Vec<CacheEntry>,
}

/// One NHRP cache entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheEntry {
    /// Tunnel interface.
    pub interface: String,
    /// Protocol address (host prefix) or prefix behind a peer.
    pub prefix: IpNet,
    /// Protocol address of the peer; `null` while there is none (incomplete, negative).
    pub next_hop: Option<IpAddr>,
    /// NBMA address in use; `null` while there is none.
    pub nbma: Option<IpAddr>,
    /// NBMA address that the peer claims, where NAT made it another one.
    pub nbma_claimed: Option<IpAddr>,
    /// How it is known.
    pub kind: EntryKind,
    /// Flags.
    pub flags: Vec<EntryFlag>,
    /// Age.
    pub created_seconds: u64,
    /// Remaining holding time; `null` = never expires.
    pub expires_seconds: Option<u64>,
}

/// Cisco's entry type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// Configured (`map`, `nhs`).
    Static,
    /// Registered or resolved.
    Dynamic,
    /// A resolution is under way.
    Incomplete,
    /// A resolution was answered "no binding".
    Negative,
    /// Of this node.
    Local,
}

/// Cisco's entry flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryFlag {
    /// Registered with the unique bit.
    Unique,
    /// Came by a registration with this node.
    Registered,
    /// Carried traffic lately.
    Used,
    /// Answered by the owner itself.
    Authoritative,
    /// Learned from a packet in passing.
    Implicit,
    /// The peer is behind NAT.
    Nat,
}

/// Reply of `ShowShortcuts`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortcuts {
    /// In order of prefix.
    pub shortcuts: Vec<Shortcut>,
}

/// A direct way to another spoke that a Traffic Indication led to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortcut {
    /// Tunnel interface.
    pub interface: String,
    /// What is reached by it.
    pub prefix: IpNet,
    /// Protocol address of the peer; `null` while resolving.
    pub next_hop: Option<IpAddr>,
    /// NBMA address of the peer; `null` while resolving.
    pub nbma: Option<IpAddr>,
    /// How far it is.
    pub state: ShortcutState,
    /// For how long it has been in this state.
    pub since_seconds: u64,
    /// Remaining holding time.
    pub expires_seconds: Option<u64>,
    /// Who the peer proved to be: certificate subject.
    pub identity: Option<String>,
    /// Why it is not active, in words.
    pub why: Option<String>,
    /// Packets sent by it.
    pub packets: u64,
}

/// How far a shortcut is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShortcutState {
    /// The hub is being asked.
    Resolving,
    /// Keys are being agreed; traffic still goes through the hub.
    Keying,
    /// Traffic goes direct.
    Active,
}

/// Reply of `ShowNhrpTraffic`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Tunnel interfaces.
    pub interfaces: Vec<InterfaceTraffic>,
}

/// What one interface counted since the daemon's start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceTraffic {
    /// Device name.
    pub name: String,
    /// Always all of them, in the same order.
    pub counters: Vec<Counter>,
}

/// A number with a name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// In words: `sent resolution request`, `received registration reply`, `refused: …`.
    pub name: String,
    /// How many.
    pub value: u64,
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

/// Reply of `ShowIkeSa`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IkeSas {
    /// Half-open ones too.
    pub sas: Vec<IkeSa>,
    /// Why others did not come up, the latest first.
    pub refusals: Vec<Refusal>,
}

/// One IKE SA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IkeSa {
    /// Own address, once known.
    pub local: Option<SocketAddr>,
    /// The peer's.
    pub remote: SocketAddr,
    /// How far it is.
    pub state: IkeState,
    /// This side sent IKE_SA_INIT.
    pub initiator: bool,
    /// SPI of the initiator.
    pub initiator_spi: Spi,
    /// SPI of the responder; zero before its first message.
    pub responder_spi: Spi,
    /// Age.
    pub age_seconds: u64,
    /// Who the peer proved to be: certificate subject.
    pub identity: Option<String>,
    /// How this node proved who it is, as `ECDSA with SHA2-256` or `pre-shared key`.
    pub own_authentication: Option<String>,
    /// How the peer did.
    pub peer_authentication: Option<String>,
    /// Algorithms, as `aes256gcm16-sha256-x25519`.
    pub suite: Option<String>,
    /// Until this side makes new keys; `null` before it is established.
    pub rekey_seconds: Option<u64>,
    /// Address translation was found in front of this node.
    pub nat_local: bool,
    /// Address translation was found in front of the peer.
    pub nat_remote: bool,
    /// Requests sent, each counted once.
    pub requests_sent: u64,
    /// Requests sent again.
    pub retransmissions: u64,
    /// Requests of the peer that were answered, each counted once.
    pub requests_received: u64,
    /// Its pairs of ESP SAs, oldest first; none with WireGuard.
    pub ipsec: Vec<IpsecSa>,
}

/// A pair of ESP SAs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpsecSa {
    /// SPI of what the peer sends, 8 hexadecimal digits.
    pub inbound_spi: String,
    /// SPI of what this node sends, 8 hexadecimal digits.
    pub outbound_spi: String,
    /// Cipher, as `aes256gcm16`.
    pub cipher: String,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Key exchange of its own (perfect forward secrecy); `null`: keys from those of the IKE SA.
    pub pfs: Option<String>,
    /// Age.
    pub age_seconds: u64,
    /// Until this side makes new keys; `null` where there are some already.
    pub rekey_seconds: Option<u64>,
    /// Its traffic; `null` once a successor carries it.
    pub counters: Option<Counters>,
}

/// How far an IKE SA is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IkeState {
    /// IKE_SA_INIT or IKE_AUTH is under way.
    HalfOpen,
    /// The peer is authenticated, but what it asked to be keyed was refused (RFC 7296 §1.2).
    Childless,
    /// Both sides are authenticated.
    Established,
}

/// Security parameter index of IKE, on the socket as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spi(pub u64);

impl fmt::Display for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spi({self})")
    }
}

impl Serialize for Spi {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Spi {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map(Self).map_err(de::Error::custom)
    }
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

/// Reply of `Trace`: how a packet to one address goes now, and what stands in its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// What was asked for.
    pub destination: IpAddr,
    /// Tunnel interface.
    pub interface: String,
    /// How it goes.
    pub verdict: Verdict,
    /// The same in one sentence, with the cause where it goes nowhere.
    pub summary: String,
    /// Entry of the overlay's forwarding table that it takes; `null` = none.
    pub route: Option<IpNet>,
    /// Tunnel address of the node that gets it.
    pub next_hop: Option<IpAddr>,
    /// NBMA address and UDP port of that node (port 0 with clear GRE).
    pub endpoint: Option<SocketAddr>,
    /// Who it proved to be: certificate subject.
    pub identity: Option<String>,
    /// The IKE SA of that path.
    pub ike: Option<IkeSa>,
    /// What was tried, in the order in which it has to succeed.
    pub steps: Vec<TraceStep>,
}

/// How a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The address is on this node, or behind it.
    Local,
    /// Straight to the node that has it.
    Direct,
    /// Through a next-hop server.
    ViaHub,
    /// It is dropped.
    Nowhere,
    /// It does not belong into the overlay.
    Outside,
}

/// One thing that has to succeed before a packet gets through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceStep {
    /// What.
    pub stage: TraceStage,
    /// With whom: tunnel address, NBMA address or name; `null` = with nobody.
    pub peer: Option<String>,
    /// Whether it did.
    pub outcome: Outcome,
    /// In words.
    pub text: String,
}

/// Stages in the order in which they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceStage {
    /// This node's own NBMA address.
    Underlay,
    /// The server's name becomes an address.
    Name,
    /// IKEv2.
    KeyExchange,
    /// The first packet through the session.
    Session,
    /// NHRP registration.
    Registration,
    /// NHRP resolution.
    Resolution,
    /// What was refused lately, by this node or by the other one.
    Refusal,
}

/// How far one step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done.
    Done,
    /// Under way, or not begun because nothing asked for it.
    Waiting,
    /// Not possible, or not answered.
    Failed,
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

/// Replies of `Monitor`, one after the other. The first says that events are told from now on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Monitored {
    /// What happened; `null` in the first reply and where events were lost.
    pub event: Option<Event>,
    /// Events lost before the next one, because this client reads too slowly.
    pub lost: u64,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When: RFC 3339, UTC, milliseconds.
    pub time: String,
    /// Tunnel interface.
    pub interface: String,
    /// What.
    pub kind: EventKind,
    /// In words, as in the log.
    pub message: String,
    /// The other side, on the underlay.
    pub peer: Option<SocketAddr>,
    /// Who it proved to be: certificate subject.
    pub identity: Option<String>,
    /// The destination or the tunnel address that it is about.
    pub prefix: Option<IpNet>,
    /// Protocol address of the next-hop server that it is about.
    pub server: Option<IpAddr>,
    /// Why.
    pub reason: Option<String>,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A session with a peer carries traffic.
    PeerUp,
    /// A session with a peer is gone, and there is no other one with it.
    PeerDown,
    /// A session with a peer took the place of an older one: new keys.
    PeerRekeyed,
    /// A peer is reached elsewhere.
    PeerMoved,
    /// Somebody was refused, here or by the peer.
    Refused,
    /// Traffic to a prefix takes a direct path.
    ShortcutUp,
    /// Traffic to a prefix takes the path through the server again.
    ShortcutDown,
    /// No shortcut for a destination.
    ResolutionFailed,
    /// A next-hop server accepted our registration.
    ServerUp,
    /// A next-hop server is lost or refused us.
    ServerDown,
    /// The name of a next-hop server does not resolve.
    ServerUnresolved,
    /// A node registered here.
    Registered,
    /// A registration with us ended.
    Unregistered,
    /// A next-hop server sees us behind address translation.
    BehindNat,
    /// A peer reports an error.
    ErrorReceived,
    /// Our NBMA address changed, or the underlay has none any more.
    UnderlayChanged,
    /// Another configuration holds.
    Reloaded,
    /// A configuration was refused; the former one holds.
    ReloadRefused,
    /// Our certificate, that of a CA or a revocation list ends soon, or is past its end.
    CertificateEnds,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::PeerUp,
        Self::PeerDown,
        Self::PeerRekeyed,
        Self::PeerMoved,
        Self::Refused,
        Self::ShortcutUp,
        Self::ShortcutDown,
        Self::ResolutionFailed,
        Self::ServerUp,
        Self::ServerDown,
        Self::ServerUnresolved,
        Self::Registered,
        Self::Unregistered,
        Self::BehindNat,
        Self::ErrorReceived,
        Self::UnderlayChanged,
        Self::Reloaded,
        Self::ReloadRefused,
        Self::CertificateEnds,
    ];

    /// The word on the socket.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PeerUp => "peer_up",
            Self::PeerDown => "peer_down",
            Self::PeerRekeyed => "peer_rekeyed",
            Self::PeerMoved => "peer_moved",
            Self::Refused => "refused",
            Self::ShortcutUp => "shortcut_up",
            Self::ShortcutDown => "shortcut_down",
            Self::ResolutionFailed => "resolution_failed",
            Self::ServerUp => "server_up",
            Self::ServerDown => "server_down",
            Self::ServerUnresolved => "server_unresolved",
            Self::Registered => "registered",
            Self::Unregistered => "unregistered",
            Self::BehindNat => "behind_nat",
            Self::ErrorReceived => "error_received",
            Self::UnderlayChanged => "underlay_changed",
            Self::Reloaded => "reloaded",
            Self::ReloadRefused => "reload_refused",
            Self::CertificateEnds => "certificate_ends",
        }
    }
}
