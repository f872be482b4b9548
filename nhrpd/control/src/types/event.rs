//! What happens, told while it does.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

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
