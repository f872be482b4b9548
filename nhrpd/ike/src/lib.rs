//! IKEv2 (RFC 7296): codec and protocol engine, without I/O.
//!
//! Feed it datagrams, requests and the time; ask it for datagrams, events and the next deadline.
//! Datagrams are IKE messages *without* the non-ESP marker: the shell adds and strips it.
//!
//! | module | what it holds |
//! |---|---|
//! | [`wire`] | the codec: messages to values and back |
//! | `crypto` | the suite table and its negotiation, key derivation, the encrypted payload, signatures |
//! | `engine` | timers, the way of a datagram to its SA |
//! | `tables`, `message`, `inspect` | how an SA is found, what it sends, what is shown of it |
//! | `initiator`, `responder` | IKE_SA_INIT and IKE_AUTH |
//! | `intermediate` | ML-KEM between the two |
//! | `auth`, `admission` | who the peer is, and whether its SA may live |
//! | `tunnel`, `child` | what an SA keys: ESP or WireGuard |
//! | `fragment` | messages that are longer than a path carries |
//! | [`crossing`] | the one SA that is left where both sides begin |
//! | `rekey` | new keys for an SA, also where both sides make some |
//! | `child_rekey` | the same for its CHILD_SAs |
//! | `informational` | dead peers, deletion, moving |
//! | [`nat`] | address translation on the way |
//! | [`private`] | what our nodes say beyond the RFCs: WireGuard keys, reasons |
//! | `cookie` | what a stranger has to show before we keep anything |
//! | [`limits`] | what strangers can make us keep |
//!
//! Spoken: RFC 7296, RFC 5282 and RFC 7634 (AEADs), RFC 8031 and RFC 5903
//! (groups), RFC 7427 and RFC 8420 (signatures), RFC 6023 (no CHILD_SA), RFC 9242 and RFC 9370
//! (ML-KEM), RFC 7383 (fragments), RFC 3948 and, for a node with one address, RFC 4555.

mod admission;
mod auth;
mod child;
mod child_rekey;
mod cookie;
pub mod crossing;
mod crypto;
mod engine;
mod fragment;
mod identity;
mod informational;
mod initiator;
mod inspect;
mod intermediate;
mod key_log;
pub mod limits;
mod message;
pub mod nat;
pub mod private;
pub mod psk;
mod rekey;
mod responder;
mod sa;
mod tables;
mod tunnel;
pub mod wire;

#[cfg(test)]
extern crate self as ike;
#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod support;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use zeroize::Zeroizing;

pub use child::{Esp, EspCipher, EspKeys};
pub use crypto::algorithm::{
    AES_128_CBC, AES_128_GCM_16, AES_256_CBC, AES_256_GCM_16, CHACHA20_POLY1305, Encryption,
    HMAC_SHA2_256_128, HMAC_SHA2_384_192, HMAC_SHA2_512_256, Integrity, Prf, SHA2_256, SHA2_384,
    SHA2_512,
};
pub use crypto::group::{ECP_256, ECP_384, Group, Kem, ML_KEM_768, MODP_2048, X25519};
pub use crypto::keyword::{EspProposal, ProposalError};
pub use crypto::suite::{Algorithms, Combination};
pub use engine::Engine;
pub use identity::{Identity, NotAnIdentity};
pub use inspect::{ChildInfo, SaInfo, SaState};
pub use key_log::KeyLog;
pub use limits::DropReason;
pub use sa::SaCounters;
pub use tunnel::{TunnelId, TunnelKeys, TunnelKind};

/// Local handle of one IKE SA; never used twice in one engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SaId(pub u64);

/// Why a peer's or our own authentication was refused: words that an operator can act on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// Own credentials, and the judgement of a peer's. Implemented by the layer above.
pub trait Credentials {
    /// What we send in IDi or IDr.
    fn identity(&self) -> Identity;
    /// Own certificate chain in DER, leaf first; empty where there are pre-shared keys only.
    fn certificates(&self) -> Vec<Vec<u8>>;
    /// Own private key in PKCS#8 DER: ECDSA P-256/P-384, Ed25519 or RSA.
    fn private_key(&self) -> Zeroizing<Vec<u8>>;
    /// Judges the peer's identity and chain (DER, leaf first). The signature is checked by the
    /// caller with the key of `chain[0]`, which this call has found good. The chain is empty for a
    /// peer that has shown that it knows the key shared with that identity.
    fn authenticate(&self, identity: &Identity, chain: &[Vec<u8>]) -> Result<(), Refusal>;

    /// The key shared with the peer that says it is `peer`; `None` as `peer` where we speak first
    /// and do not know who answers: then a key means that we prove ourselves with it, too.
    fn shared_key(&self, peer: Option<&Identity>) -> Option<Zeroizing<Vec<u8>>> {
        let _ = peer;
        None
    }

    /// SHA-1 hashes of the trust anchors' public keys (RFC 7296 §3.7), none for whatever there is;
    /// `None` where we take no certificates.
    fn authorities(&self) -> Option<Vec<[u8; 20]>> {
        Some(Vec::new())
    }
}

/// Keys of a WireGuard session that the IKE SA agreed on (DESIGN: private notify in IKE_AUTH).
#[derive(Clone, PartialEq, Eq)]
pub struct WireGuardKeys {
    /// Own fresh X25519 private key, 32 bytes.
    pub private_key: Zeroizing<[u8; 32]>,
    /// The peer's fresh X25519 public key.
    pub peer_public_key: [u8; 32],
    /// Derived from SK_d, 32 bytes.
    pub preshared_key: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for WireGuardKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WireGuardKeys(…)")
    }
}

/// Configuration of the engine.
#[derive(Debug, Clone)]
pub struct Config {
    /// What IKE proposes and accepts.
    pub algorithms: Algorithms,
    /// Kinds of tunnel that this node carries, the preferred first.
    pub tunnels: Vec<TunnelKind>,
    /// Speak the extensions of [`private`] with peers that know them. Without them our own nodes
    /// treat each other as they treat any other implementation.
    pub extensions: bool,
    /// What is proposed and accepted for ESP, the preferred first. [`EspProposal::defaults`]:
    /// everything there is.
    pub esp: Vec<EspProposal>,
    /// Tell every key by [`Output::KeyLog`]. Who has these can read all traffic.
    pub key_log: bool,
    /// Own port, and that of peers that are begun with: IKE with non-ESP marker and ESP in UDP.
    pub port: u16,
    /// ESP goes in UDP although nobody translates addresses on the way.
    pub encapsulate: bool,
    /// Silence after which a dead-peer probe is sent; at least one second.
    pub dead_peer_interval: Duration,
    /// Age at which an IKE SA gets new keys, and WireGuard with it; up to a fifth earlier, at
    /// random. At least one second.
    pub rekey_interval: Duration,
    /// Half-open responder SAs in all. From an eighth of it on a peer must show by a cookie that
    /// its address is not forged (RFC 7296 §2.6).
    pub half_open: usize,
    /// Half-open responder SAs from one source: an IPv4 address, or an IPv6 prefix of 64 bits.
    /// From a half of it on that source must send a cookie.
    pub half_open_per_source: usize,
    /// Established SAs.
    pub established: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            algorithms: Algorithms::default(),
            tunnels: vec![TunnelKind::WireGuard],
            extensions: true,
            port: 4500,
            encapsulate: false,
            esp: EspProposal::defaults(),
            key_log: false,
            dead_peer_interval: Duration::from_secs(10),
            rekey_interval: Duration::from_secs(4 * 3600),
            half_open: 1000,
            half_open_per_source: 50,
            established: 10_000,
        }
    }
}

/// What the engine wants of the world.
#[derive(Debug)]
pub enum Output {
    /// Send this IKE message.
    Transmit {
        /// From this port of ours: 500, or the one of the configuration, where the non-ESP marker
        /// goes in front.
        port: u16,
        /// To this address and port.
        to: SocketAddr,
        /// IKE header first, no non-ESP marker.
        datagram: Vec<u8>,
    },
    /// Something that the layer above acts on.
    Event(Event),
    /// Keys for Wireshark, where [`Config::key_log`] asks for them.
    KeyLog(KeyLog),
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// Both sides are authenticated.
    Established {
        /// The SA.
        sa: SaId,
        /// Where the peer is.
        remote: SocketAddr,
        /// We sent IKE_SA_INIT.
        initiator: bool,
        /// The peer's identity, proven.
        identity: Identity,
        /// The peer's chain, DER, leaf first.
        certificates: Vec<Vec<u8>>,
        /// Its first tunnel.
        tunnel: TunnelId,
        /// Keys for the data plane.
        keys: TunnelKeys,
        /// The peer said INITIAL_CONTACT: every older SA with this identity is stale.
        initial_contact: bool,
    },
    /// An SA did not come up, or has no tunnel. Nothing of it remains for the layer above; but where
    /// the peer began it and proved who it is, it may still ask for a CHILD_SA (RFC 7296 §1.2): then
    /// comes [`Event::Established`].
    Failed {
        /// As given by [`Engine::initiate`], or of a responder SA that the peer began.
        sa: SaId,
        /// The peer.
        remote: SocketAddr,
        /// We sent IKE_SA_INIT.
        initiator: bool,
        /// The peer's identity, where it got as far as naming one (not proven).
        identity: Option<Identity>,
        /// Words for the operator: what failed, who refused whom, what to do.
        reason: Refusal,
        /// No trouble: another SA with the same peer lives in its place (see [`crossing`]).
        superseded: bool,
    },
    /// An established SA is gone.
    Closed {
        /// The SA.
        sa: SaId,
        /// Words: deleted by the peer, dead peer, replaced, …
        reason: String,
    },
    /// Traffic may take this tunnel: the peer has the keys too. Comes for ESP only; of WireGuard
    /// the data plane knows it.
    Confirmed {
        /// The SA.
        sa: SaId,
        /// The tunnel.
        tunnel: TunnelId,
    },
    /// An SA has a further CHILD_SA.
    Keyed {
        /// The SA.
        sa: SaId,
        /// The tunnel.
        tunnel: TunnelId,
        /// We asked for it.
        initiator: bool,
        /// Keys for the data plane.
        keys: TunnelKeys,
        /// The one whose place it takes; `None` for one that the peer made beside the others.
        replaces: Option<TunnelId>,
    },
    /// A CHILD_SA of an SA that lives on is gone.
    Unkeyed {
        /// The SA.
        sa: SaId,
        /// The tunnel.
        tunnel: TunnelId,
        /// Words: deleted by the peer, …
        reason: String,
    },
    /// An IKE SA has new keys and with them a new handle; its CHILD_SAs live on in it. With
    /// WireGuard there come an [`Event::Established`] and an [`Event::Closed`] instead.
    Succeeded {
        /// The SA that is gone.
        sa: SaId,
        /// The SA in its place.
        successor: SaId,
        /// The peer's identity.
        identity: Identity,
        /// The peer's chain, DER, leaf first: time to judge it again.
        certificates: Vec<Vec<u8>>,
    },
    /// Somebody speaks on an SA that is not known here. Where that is a peer, it does not know that
    /// we restarted; but anybody can say so, and nothing is answered (RFC 7296 §2.21.4).
    Unknown {
        /// Sender, not authenticated.
        from: SocketAddr,
    },
    /// The peer proved that it is now reached elsewhere (RFC 4555 UPDATE_SA_ADDRESSES).
    Moved {
        /// The SA.
        sa: SaId,
        /// The address now.
        remote: SocketAddr,
        /// ESP goes in UDP now.
        encapsulated: bool,
    },
}
