//! One IKE SA: its state, and the exchanges that run in it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand_core::CryptoRng;

use crate::admission::Newcomer;
use crate::child::Child;
use crate::child_rekey::OwnChild;
use crate::crossing::Rank;
use crate::crypto::channel::Channel;
use crate::crypto::group::{Group, PrivateKey};
use crate::crypto::keys::Secret;
use crate::crypto::suite::Suite;
use crate::fragment::{self, Partial};
use crate::intermediate::{IntAuth, Intermediate};
use crate::limits::HALF_OPEN_LIFETIME;
use crate::nat::{KEEPALIVE, Nat};
use crate::private::Lineage;
use crate::rekey::{OwnRekey, Successor};
use crate::tunnel::{Offered, TunnelKind};
use crate::wire::{self, Delete, Exchange, Header, Notify, NotifyType, PROTOCOL_ESP, Payload};
use crate::{Identity, SaId};

/// Times a request is sent before its SA is given up: at 0, 0.5, 1.5, 3.5, 7.5 and 11.5 s, and
/// the end at 15.5 s (RFC 7296 §2.4 leaves the numbers to us).
pub(crate) const TRANSMISSIONS: u32 = 6;
const FIRST_INTERVAL: Duration = Duration::from_millis(500);
const LONGEST_INTERVAL: Duration = Duration::from_secs(4);

/// One IKE SA.
pub(crate) struct Sa {
    pub(crate) id: SaId,
    /// We sent IKE_SA_INIT.
    pub(crate) initiator: bool,
    pub(crate) local_spi: u64,
    /// 0 until the responder has answered.
    pub(crate) peer_spi: u64,
    pub(crate) remote: SocketAddr,
    /// Own port.
    pub(crate) port: u16,
    pub(crate) nat: Nat,
    /// The peer understands [`NotifyType::UPDATE_SA_ADDRESSES`].
    pub(crate) mobike: bool,
    /// Of a responder: where IKE_SA_INIT came from. It counts there while half-open.
    pub(crate) origin: Option<SocketAddr>,
    pub(crate) begun: Instant,
    pub(crate) last_heard: Instant,
    pub(crate) state: State,
    /// Proven once established, before that only said.
    pub(crate) identity: Option<Identity>,
    pub(crate) suite: Option<Suite>,
    /// How we proved who we are, and how the peer did.
    pub(crate) own_auth: Option<&'static str>,
    pub(crate) peer_auth: Option<&'static str>,
    /// From IKE_SA_INIT on.
    pub(crate) channel: Option<Box<Channel>>,
    pub(crate) next_request: u32,
    /// The window is one (RFC 7296 §2.3): the next request waits for the response to this.
    pub(crate) outstanding: Option<Box<Outstanding>>,
    pub(crate) queue: VecDeque<Request>,
    /// Belongs to an outstanding [`Request::Rekey`].
    pub(crate) rekey: Option<Box<OwnRekey>>,
    /// Belongs to an outstanding [`Request::Child`].
    pub(crate) child: Option<Box<OwnChild>>,
    /// [`State::Closing`] without a request of ours: when we stop waiting for the peer's.
    pub(crate) delete_at: Option<Instant>,
    pub(crate) expected_request: u32,
    /// Response to the request before [`Self::expected_request`] (RFC 7296 §2.1), in fragments.
    pub(crate) last_response: Vec<Vec<u8>>,
    /// Both sides can do it (RFC 7383 §2.3).
    pub(crate) fragmentation: bool,
    pub(crate) partial_request: Option<Box<Partial>>,
    pub(crate) partial_response: Option<Box<Partial>>,
    /// The deadline that stands in the engine's timers.
    pub(crate) armed: Option<Instant>,
    pub(crate) counters: SaCounters,
}

/// What happened on an SA, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SaCounters {
    /// Requests that we sent, each counted once.
    pub requests_sent: u64,
    /// Requests that we sent again.
    pub retransmissions: u64,
    /// Requests of the peer that we answered, each counted once.
    pub requests_received: u64,
    /// Requests of the peer that came again.
    pub repeated: u64,
}

pub(crate) enum State {
    /// Initiator: waits for the response to IKE_SA_INIT.
    InitSent(Box<InitSent>),
    /// Initiator: waits for the response to IKE_INTERMEDIATE.
    Intermediate(Box<Intermediate>),
    /// Initiator: waits for the response to IKE_AUTH.
    AuthSent(Box<Handshake>, Box<Offered>),
    /// Responder: waits for IKE_INTERMEDIATE or IKE_AUTH.
    HalfOpen(Box<Handshake>),
    /// Responder: IKE_AUTH was answered with an error, which is repeated when asked again.
    Refused,
    /// Responder: the peer is authenticated, but has no CHILD_SA yet (RFC 7296 §1.2, RFC 6023). The
    /// layer above has not heard of it; the peer may ask for one until its time is over.
    Childless(Box<Newcomer>),
    /// Up.
    Established(Established),
    /// Gone for the layer above; waits for the peer to confirm that it knows, or to delete it.
    Closing,
}

/// An initiator's first message.
pub(crate) struct InitSent {
    pub(crate) group: &'static Group,
    pub(crate) private: PrivateKey,
    /// Groups that the responder has sent us to.
    pub(crate) tried: Vec<u16>,
    /// What the responder wants back (RFC 7296 §2.6).
    pub(crate) cookie: Option<Vec<u8>>,
    pub(crate) cookies: u32,
    pub(crate) nonce: Vec<u8>,
    pub(crate) stamp: u64,
}

/// What IKE_SA_INIT left behind for IKE_AUTH.
pub(crate) struct Handshake {
    pub(crate) suite: Suite,
    pub(crate) sk_d: Secret,
    pub(crate) sk_pi: Secret,
    pub(crate) sk_pr: Secret,
    pub(crate) initiator_nonce: Vec<u8>,
    pub(crate) responder_nonce: Vec<u8>,
    /// The messages as they were on the wire: AUTH covers them.
    pub(crate) init_request: Vec<u8>,
    pub(crate) init_response: Vec<u8>,
    /// Data of the peer's SIGNATURE_HASH_ALGORITHMS.
    pub(crate) peer_hashes: Vec<u8>,
    /// The peer is one of our own nodes.
    pub(crate) ours: bool,
    /// Of an initiator: [`Lineage::stamp`].
    pub(crate) stamp: u64,
    pub(crate) int_auth: Option<IntAuth>,
    /// Of a responder: what protects IKE_INTERMEDIATE, in case it comes again.
    pub(crate) former: Option<Box<Channel>>,
}

/// What an SA that is up needs beside its channel.
pub(crate) struct Established {
    /// With the instance it settles which of two SAs lives.
    pub(crate) rank: Rank,
    /// The peer's [`Lineage::instance`].
    pub(crate) instance: Option<u64>,
    pub(crate) certificates: Vec<Vec<u8>>,
    pub(crate) sk_d: Secret,
    /// For the next key exchange.
    pub(crate) group: &'static Group,
    /// What it keys.
    pub(crate) kind: TunnelKind,
    /// None with WireGuard.
    pub(crate) children: Vec<Child>,
    pub(crate) rekey_at: Option<Instant>,
    /// The peer's rekeying that crosses ours.
    pub(crate) theirs: Option<Box<Successor>>,
}

/// A request without its response.
pub(crate) struct Outstanding {
    pub(crate) request: Request,
    pub(crate) exchange: Exchange,
    pub(crate) message_id: u32,
    /// The message, in fragments.
    pub(crate) datagrams: Vec<Vec<u8>>,
    pub(crate) transmissions: u32,
    pub(crate) first_sent: Instant,
    pub(crate) due: Instant,
}

/// What a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Init,
    Intermediate,
    Auth,
    /// Is the peer alive (RFC 7296 §2.4)?
    Probe,
    /// We are reached elsewhere (RFC 4555 §3.5).
    Update,
    /// RFC 7296 §1.3.2.
    Rekey,
    /// RFC 7296 §1.3.3.
    Child,
    /// RFC 7296 §1.4.1: a CHILD_SA with this SPI of ours.
    DeleteChild([u8; 4]),
    /// RFC 7296 §1.4.1.
    Delete,
    /// RFC 7296 §2.21.2: an initiator does not accept the responder, or what it granted.
    Refuse(Vec<Payload>),
}

impl Request {
    /// Payloads of those that are INFORMATIONAL.
    pub(crate) fn informational(&self) -> Vec<Payload> {
        match self {
            Self::Init
            | Self::Intermediate
            | Self::Auth
            | Self::Rekey
            | Self::Child
            | Self::Probe => Vec::new(),
            Self::Update => {
                vec![Payload::Notify(Notify::new(NotifyType::UPDATE_SA_ADDRESSES, []))]
            }
            Self::Delete => vec![Payload::Delete(Delete::ike_sa())],
            Self::DeleteChild(spi) => {
                let spis = vec![spi.to_vec()];
                vec![Payload::Delete(Delete { protocol: PROTOCOL_ESP, spis })]
            }
            Self::Refuse(payloads) => payloads.clone(),
        }
    }
}

impl Outstanding {
    pub(crate) fn new(
        request: Request,
        exchange: Exchange,
        message_id: u32,
        datagrams: Vec<Vec<u8>>,
        now: Instant,
        rng: &mut dyn CryptoRng,
    ) -> Self {
        let mut outstanding = Self {
            request,
            exchange,
            message_id,
            datagrams,
            transmissions: 0,
            first_sent: now,
            due: now,
        };
        outstanding.transmitted(now, rng);
        outstanding
    }

    /// Sets when it is due again: exponentially later, and up to an eighth later than that, so
    /// that nodes which lost the same peer do not all come back at once.
    pub(crate) fn transmitted(&mut self, now: Instant, rng: &mut dyn CryptoRng) {
        let interval = FIRST_INTERVAL.saturating_mul(1 << self.transmissions.min(16));
        let interval = interval.min(LONGEST_INTERVAL);
        self.transmissions += 1;
        self.due = now + interval + interval.mul_f64(f64::from(rng.next_u32() >> 16) / 524_288.0);
    }

    /// Starts the schedule anew.
    pub(crate) fn restart(&mut self, now: Instant) {
        self.transmissions = 0;
        self.first_sent = now;
        self.due = now;
    }
}

impl Sa {
    pub(crate) fn new(
        id: SaId,
        initiator: bool,
        local_spi: u64,
        (port, remote): (u16, SocketAddr),
        now: Instant,
    ) -> Self {
        Self {
            id,
            initiator,
            local_spi,
            peer_spi: 0,
            remote,
            port,
            nat: Nat::default(),
            mobike: false,
            origin: None,
            begun: now,
            last_heard: now,
            state: State::Closing,
            identity: None,
            suite: None,
            own_auth: None,
            peer_auth: None,
            channel: None,
            next_request: 0,
            outstanding: None,
            queue: VecDeque::new(),
            rekey: None,
            child: None,
            delete_at: None,
            expected_request: 0,
            last_response: Vec::new(),
            fragmentation: false,
            partial_request: None,
            partial_response: None,
            armed: None,
            counters: SaCounters::default(),
        }
    }

    /// The peer has yet to confirm where we are.
    pub(crate) fn has_update(&self) -> bool {
        let outstanding = self.outstanding.as_ref().map(|outstanding| &outstanding.request);
        outstanding == Some(&Request::Update) || self.queue.contains(&Request::Update)
    }

    pub(crate) fn header(&self, exchange: Exchange, response: bool, message_id: u32) -> Header {
        let (initiator_spi, responder_spi) = self.spis();
        Header {
            initiator_spi,
            responder_spi,
            next_payload: 0,
            version: Header::VERSION,
            exchange,
            from_initiator: self.initiator,
            response,
            message_id,
        }
    }

    /// Encodes a message of this SA: protected as soon as there are keys, and in fragments where it
    /// is long and the peer can do that.
    pub(crate) fn seal(&mut self, header: Header, payloads: &[Payload]) -> Vec<Vec<u8>> {
        let Some(channel) = &mut self.channel else {
            return vec![wire::encode_plain(header, payloads)];
        };
        let most = if self.fragmentation { fragment::LONGEST } else { usize::MAX };
        let (first, chain) = wire::encode_chain(payloads);
        channel.seal_fragments(header, first, chain, most)
    }

    /// The initiator's and the responder's SPI.
    pub(crate) fn spis(&self) -> (u64, u64) {
        if self.initiator {
            (self.local_spi, self.peer_spi)
        } else {
            (self.peer_spi, self.local_spi)
        }
    }

    /// It counts against the limits of half-open SAs.
    pub(crate) fn is_half_open(&self) -> bool {
        matches!(self.state, State::HalfOpen(_) | State::Refused | State::Childless(_))
    }

    pub(crate) fn is_established(&self) -> bool {
        matches!(self.state, State::Established(_))
    }

    /// When something has to be done about it.
    pub(crate) fn deadline(&self, dead_peer_interval: Duration) -> Instant {
        let keepalive = if self.nat.local || self.nat.wanted { KEEPALIVE } else { Duration::MAX };
        let quiet = self.last_heard + dead_peer_interval.min(keepalive);
        match (&self.state, &self.outstanding) {
            (State::HalfOpen(_) | State::Refused | State::Childless(_), _) => {
                self.begun + HALF_OPEN_LIFETIME
            }
            (State::Established(established), outstanding) => {
                let children =
                    established.children.iter().filter_map(|c| c.deadline(outstanding.is_none()));
                let own = match outstanding {
                    Some(outstanding) => outstanding.due,
                    None => established.rekey_at.map_or(quiet, |rekey_at| rekey_at.min(quiet)),
                };
                children.fold(own, Instant::min)
            }
            (_, Some(outstanding)) => outstanding.due,
            (State::Closing, None) => self.delete_at.unwrap_or(quiet),
            (_, None) => quiet,
        }
    }
}

impl Handshake {
    /// [`Rank`] of the SA, given the initiator's lineage.
    pub(crate) fn rank(&self, initiator: Option<Lineage>) -> Rank {
        let stamp = initiator.map_or(0, |lineage| lineage.stamp);
        Rank { stamp, nonce: self.initiator_nonce.clone() }
    }
}
