//! IKEv2 (RFC 7296): codec and protocol engine, without I/O.
//!
//! Feed it datagrams, requests and the time; ask it for datagrams, events and the next deadline.
//! Datagrams are IKE messages *without* the non-ESP marker: the shell adds and strips it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand_core::CryptoRng;
use zeroize::Zeroizing;

/// Local handle of one IKE SA; never used twice in one engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SaId(pub u64);

/// Identification payload (RFC 7296 §3.5): ID type and data.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// ID type: 1 IPv4, 2 FQDN, 3 RFC 822, 5 IPv6, 9 DER distinguished name, 11 key id.
    pub kind: u8,
    /// Its data.
    pub data: Vec<u8>,
}

/// Why a peer's or our own authentication was refused: words that an operator can act on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// Own credentials, and the judgement of a peer's. Implemented by the layer above.
pub trait Credentials {
    /// What we send in IDi or IDr.
    fn identity(&self) -> Identity;
    /// Own certificate chain in DER, leaf first.
    fn certificates(&self) -> Vec<Vec<u8>>;
    /// Own private key in PKCS#8 DER: ECDSA P-256/P-384, Ed25519 or RSA.
    fn private_key(&self) -> Zeroizing<Vec<u8>>;
    /// Judges the peer's identity and chain (DER, leaf first). The signature is checked by the
    /// caller with the key of `chain[0]`, which this call has found good.
    fn authenticate(&self, identity: &Identity, chain: &[Vec<u8>]) -> Result<(), Refusal>;
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

impl std::fmt::Debug for WireGuardKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WireGuardKeys(…)")
    }
}

/// Configuration of the engine.
#[derive(Debug, Clone)]
pub struct Config {
    /// Silence after which a dead-peer probe is sent.
    pub dead_peer_interval: Duration,
    /// Half-open responder SAs in all, and from one address.
    pub half_open: usize,
    /// Half-open responder SAs from one source address.
    pub half_open_per_source: usize,
    /// Established SAs.
    pub established: usize,
}

/// What the engine wants of the world.
#[derive(Debug)]
pub enum Output {
    /// Send this IKE message.
    Transmit {
        /// To this address and port.
        to: SocketAddr,
        /// IKE header first, no non-ESP marker.
        datagram: Vec<u8>,
    },
    /// Something that the layer above acts on.
    Event(Event),
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
        /// Keys for the data plane.
        keys: WireGuardKeys,
        /// The peer said INITIAL_CONTACT: every older SA with this identity is stale.
        initial_contact: bool,
    },
    /// An SA of ours did not come up; nothing of it remains.
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
    },
    /// An established SA is gone.
    Closed {
        /// The SA.
        sa: SaId,
        /// Words: deleted by the peer, dead peer, replaced, …
        reason: String,
    },
    /// The peer proved that it is now reached elsewhere (RFC 4555 UPDATE_SA_ADDRESSES).
    Moved {
        /// The SA.
        sa: SaId,
        /// The new address.
        remote: SocketAddr,
    },
}

/// The engine: all IKE SAs of one node.
#[derive(Debug)]
pub struct Engine {
    config: Config,
}

impl Engine {
    /// A fresh engine.
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    /// Starts an IKE SA with `remote`.
    pub fn initiate(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        credentials: &dyn Credentials,
        rng: &mut dyn CryptoRng,
    ) -> SaId {
        let _ = (now, remote, credentials, rng, &self.config);
        SaId(0)
    }

    /// Takes one IKE message.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
        credentials: &dyn Credentials,
        rng: &mut dyn CryptoRng,
    ) {
        let _ = (now, from, datagram, credentials, rng);
    }

    /// Runs what is due: retransmissions, dead-peer probes, expiry of half-open SAs.
    pub fn handle_timeout(&mut self, now: Instant, rng: &mut dyn CryptoRng) {
        let _ = (now, rng);
    }

    /// When [`Self::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// The next datagram or event; call until `None` after every input.
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }

    /// Deletes an SA: tells the peer, forgets it.
    pub fn close(&mut self, now: Instant, sa: SaId, rng: &mut dyn CryptoRng) {
        let _ = (now, sa, rng);
    }

    /// Own address changed: every established SA tells its peer (RFC 4555 §3.5).
    pub fn update_addresses(&mut self, now: Instant, rng: &mut dyn CryptoRng) {
        let _ = (now, rng);
    }

    /// The data plane proves the peer alive (authenticated traffic): postpones the probe.
    pub fn peer_alive(&mut self, now: Instant, sa: SaId) {
        let _ = (now, sa);
    }
}
