//! What the engine hands to the layer above: packets, events, bindings.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::{Authorization, Nbma};

/// What the engine wants of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this NHRP packet (without GRE header) to that peer. Where no path leads to the peer
    /// yet, dropping it is right: requests are repeated, and [`Engine::path_up`] repeats them at
    /// once.
    ///
    /// [`Engine::path_up`]: super::Engine::path_up
    Transmit {
        /// Peer.
        to: Nbma,
        /// Bytes, ar$afn first.
        packet: Vec<u8>,
    },
    /// Something that the layer above acts on or tells the operator.
    Event(Event),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// What [`Engine::bindings`] yields for `prefix` is now `binding`; `None`: nothing any more.
    /// Applying these in order, from an empty map on, gives the same as [`Engine::bindings`].
    ///
    /// [`Engine::bindings`]: super::Engine::bindings
    BindingChanged {
        /// The prefix.
        prefix: IpNet,
        /// What holds for it now.
        binding: Option<Binding>,
    },
    /// A server accepted the registration of our address: it may be used.
    NhsUp {
        /// Its protocol address.
        server: IpAddr,
    },
    /// A server that was up is not to be used any more. Registration is tried again for ever.
    NhsDown {
        /// Its protocol address.
        server: IpAddr,
        /// Why, in words.
        reason: String,
    },
    /// A server refused our address (then it is not up) or one of our prefixes (then the server
    /// stays up). Tried again with back-off, a prefix with the next renewal.
    RegistrationRefused {
        /// The server's protocol address.
        server: IpAddr,
        /// What it refused.
        prefix: IpNet,
        /// Reply code (RFC 2332 §5.2.0.1); `None` where an Error Indication came instead.
        code: Option<u8>,
        /// Why, in words.
        reason: String,
    },
    /// A request of ours was accepted. For statistics.
    Answered {
        /// What it asked for.
        asked: Asked,
        /// Since it was sent first.
        after: Duration,
    },
    /// A server sees us at an address other than the one that we claimed: address translation.
    SeenAs {
        /// The server's protocol address.
        server: IpAddr,
        /// Where it sees us.
        nbma: Nbma,
    },
    /// A client registered something new with us, or from another place (not sent on renewal).
    Registered {
        /// Host prefix of its address, or a prefix behind it.
        prefix: IpNet,
        /// The client's protocol address.
        client: IpAddr,
        /// Where it was seen.
        seen: Nbma,
        /// Where it says it is.
        claimed: IpAddr,
    },
    /// A client's registration ended.
    Unregistered {
        /// What it had registered.
        prefix: IpNet,
        /// The client's protocol address.
        client: IpAddr,
        /// Why, in words.
        reason: &'static str,
    },
    /// A peer claimed what it may not; nothing of the claim was taken over.
    ClaimRefused {
        /// Who.
        peer: Nbma,
        /// By which kind of packet.
        claim: Claim,
        /// Claimed what.
        prefix: IpNet,
        /// May claim what; `None`: nothing, its identity is not known.
        allowed: Option<Authorization>,
        /// Why not, in words an operator can act on.
        reason: String,
    },
    /// A packet failed the plain-text authentication; at most one such event a second.
    AuthenticationFailed {
        /// Sender.
        peer: Nbma,
    },
    /// No shortcut for this destination: nobody answered, or the answer was no. A negative entry
    /// keeps us from asking again at once.
    ResolutionFailed {
        /// Destination asked for.
        destination: IpAddr,
        /// Why, in words.
        reason: String,
    },
    /// A peer told us of an error.
    ErrorReceived {
        /// Sender.
        peer: Nbma,
        /// Protocol address of the station that observed it.
        observer: Option<IpAddr>,
        /// Error code (RFC 2332 §5.2.7).
        code: u16,
        /// In words.
        reason: &'static str,
    },
    /// After [`Engine::shutdown`]: all purges are answered or given up; nothing more will come.
    ///
    /// [`Engine::shutdown`]: super::Engine::shutdown
    ShutdownComplete,
}

/// What a request of ours asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The registration of our address.
    Registration,
    /// The way to a destination.
    Resolution,
}

/// What kind of packet made a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// A Registration Request.
    Registration,
    /// The source of a Resolution Request.
    Request,
    /// A Resolution Reply.
    Reply,
    /// A Purge Request.
    Purge,
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
    /// Where it comes from.
    pub kind: BindingKind,
    /// The NBMA address that the peer claims, where that is not the one at which it is reached
    /// (address translation). Two peers behind one translator may reach each other by it.
    pub claimed: Option<IpAddr>,
    /// The owner or the server that it registered with said so.
    pub authoritative: bool,
}

/// Where a binding comes from; where several hold for one prefix, the first of this list counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BindingKind {
    /// Configuration (`ip nhrp map`).
    Static,
    /// A next-hop server that accepted our registration.
    Nhs,
    /// A client registered it with us.
    Registered,
    /// Resolved, or learnt from the request of a node that resolved us.
    Shortcut,
}

/// How much traffic a prefix saw; asked when a shortcut is due for renewal.
pub trait Usage {
    /// Packets sent to `prefix` since the start; a counter that only grows.
    fn packets(&self, prefix: IpNet) -> u64;
}
