//! What an operator is shown of the SAs.

use std::net::SocketAddr;
use std::time::Instant;

use crate::child::Child;
use crate::nat::Nat;
use crate::sa::{SaCounters, State};
use crate::{DropReason, Engine, EspCipher, Identity, SaId, TunnelId, TunnelKind};

/// One SA, for `show ike sa`.
#[derive(Debug, Clone)]
pub struct SaInfo {
    /// Handle.
    pub id: SaId,
    /// SPI that the initiator chose.
    pub initiator_spi: u64,
    /// SPI that the responder chose; 0 before it has answered.
    pub responder_spi: u64,
    /// Where the peer is.
    pub remote: SocketAddr,
    /// We sent IKE_SA_INIT.
    pub initiator: bool,
    /// How far it is.
    pub state: SaState,
    /// The peer's identity; proven if the state is [`SaState::Established`].
    pub identity: Option<Identity>,
    /// Algorithms by their keywords, as [`crate::Algorithms::parse`] takes them:
    /// `aes256gcm16-prfsha256-x25519-ke1_mlkem768`.
    pub suite: Option<String>,
    /// How we proved who we are: `pre-shared key`, `RSASSA-PSS with SHA2-256`, …
    pub own_auth: Option<&'static str>,
    /// How the peer did.
    pub peer_auth: Option<&'static str>,
    /// When it began.
    pub begun: Instant,
    /// When we give it new keys, where it is up; the peer may do so before.
    pub rekey_at: Option<Instant>,
    /// When the peer was last heard.
    pub last_heard: Instant,
    /// A request of ours waits for its response.
    pub outstanding: bool,
    /// Who is behind a translator.
    pub nat: Nat,
    /// Own UDP port.
    pub port: u16,
    /// What it keys, where it is up.
    pub kind: Option<TunnelKind>,
    /// Its CHILD_SAs, oldest first; none with WireGuard.
    pub children: Vec<ChildInfo>,
    /// What happened on it.
    pub counters: SaCounters,
}

/// One CHILD_SA, for `show ipsec sa`.
#[derive(Debug, Clone)]
pub struct ChildInfo {
    /// Handle.
    pub tunnel: TunnelId,
    /// What the peer sends with.
    pub inbound: u32,
    /// What we send with.
    pub outbound: u32,
    /// Its cipher.
    pub cipher: EspCipher,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Name of the key exchange that its keys come from; `None` for those of IKE_AUTH, and
    /// without perfect forward secrecy.
    pub group: Option<&'static str>,
    /// When it was made.
    pub since: Instant,
    /// When we give it new keys; `None` where it has a successor, or is being deleted.
    pub rekey_at: Option<Instant>,
}

/// How far an SA is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaState {
    /// Initiator: before the response to IKE_SA_INIT.
    InitSent,
    /// Initiator: before the response to IKE_INTERMEDIATE.
    Intermediate,
    /// Initiator: before the response to IKE_AUTH.
    AuthSent,
    /// Responder: before IKE_INTERMEDIATE or IKE_AUTH.
    HalfOpen,
    /// Responder: the peer was refused, and the refusal is kept for repetitions.
    Refused,
    /// Responder: the peer is authenticated, but what it asked to be keyed was refused.
    Childless,
    /// Both sides are authenticated.
    Established,
    /// The peer is being told that it is deleted.
    Closing,
}

impl std::fmt::Display for SaState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::InitSent => "init-sent",
            Self::Intermediate => "intermediate",
            Self::AuthSent => "auth-sent",
            Self::HalfOpen => "half-open",
            Self::Refused => "refused",
            Self::Childless => "childless",
            Self::Established => "established",
            Self::Closing => "closing",
        })
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("config", &self.config)
            .field("sas", &self.sas().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// All SAs.
    pub fn sas(&self) -> impl Iterator<Item = SaInfo> + '_ {
        self.sas.values().map(|sa| SaInfo {
            id: sa.id,
            initiator_spi: sa.spis().0,
            responder_spi: sa.spis().1,
            remote: sa.remote,
            initiator: sa.initiator,
            state: match sa.state {
                State::InitSent(_) => SaState::InitSent,
                State::Intermediate(_) => SaState::Intermediate,
                State::AuthSent(..) => SaState::AuthSent,
                State::HalfOpen(_) => SaState::HalfOpen,
                State::Refused => SaState::Refused,
                State::Childless(_) => SaState::Childless,
                State::Established(_) => SaState::Established,
                State::Closing => SaState::Closing,
            },
            identity: sa.identity.clone(),
            suite: sa.suite.map(|suite| suite.to_string()),
            own_auth: sa.own_auth,
            peer_auth: sa.peer_auth,
            begun: sa.begun,
            rekey_at: match &sa.state {
                State::Established(established) => established.rekey_at,
                _ => None,
            },
            last_heard: sa.last_heard,
            outstanding: sa.outstanding.is_some(),
            nat: sa.nat,
            port: sa.port,
            kind: match &sa.state {
                State::Established(established) => Some(established.kind),
                _ => None,
            },
            children: match &sa.state {
                State::Established(established) => {
                    established.children.iter().map(Child::info).collect()
                }
                _ => Vec::new(),
            },
            counters: sa.counters,
        })
    }

    /// How often something was thrown away, for each reason.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.into_iter().map(|reason| (reason, self.drops.of(reason)))
    }

    /// SAs that count against the limits of half-open ones.
    pub fn half_open(&self) -> usize {
        self.half_open.len()
    }
}
