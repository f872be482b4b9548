//! Paths to peers: a WireGuard session each, or GRE in clear.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use ipnet::IpNet;
use overlay::desired::{Event, Peer, PeerId, Transport};

use super::counters::{PathCounters, Reason};
use super::gre::{Headers, Protocol};
use super::outbox::Outbox;

/// WireGuard message types; the three bytes after are zero.
pub(crate) const INITIATION: u8 = 1;
pub(crate) const RESPONSE: u8 = 2;
pub(crate) const COOKIE: u8 = 3;
pub(crate) const DATA: u8 = 4;

/// Bytes that a data message adds.
const OVERHEAD: usize = 32;
/// Room for any message that is not data.
pub(crate) const MESSAGE: usize = 148;
const PADDING: usize = 16;
/// Packets that wait while a handshake is under way.
const QUEUE: usize = 64;
/// Wait before the first initiation is sent again; doubled up to boringtun's own five seconds.
/// The peer may learn its keys a moment after we do.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(4);
/// REKEY_ATTEMPT_TIME of WireGuard: so long a responder waits for its first handshake.
const ATTEMPT: Duration = Duration::from_secs(90);
/// Counters from here on are refused, far below where boringtun's replay window would wrap
/// (WireGuard's REJECT_AFTER_MESSAGES). Sending cannot get there in the 180 s of a session.
const REJECT_AFTER_MESSAGES: u64 = 1 << 60;

/// What stays the same in one forwarding snapshot.
#[derive(Debug)]
pub(crate) struct Path {
    pub session: std::sync::Arc<Session>,
    pub headers: Headers,
    /// Largest inner packet that needs no fragments.
    pub mtu: u16,
    /// Inner source addresses that it may carry; `None` = any.
    pub sources: Option<Vec<IpNet>>,
}

impl Path {
    /// Room that [`Self::wrap`] needs for a payload.
    pub(crate) fn room(&self, payload_len: usize) -> usize {
        (self.headers.len() + payload_len).next_multiple_of(PADDING)
    }

    /// Puts the headers before the payload that begins at `headers.len()`, and the padding
    /// after it; the length of all.
    pub(crate) fn wrap(&self, buffer: &mut [u8], protocol: Protocol, payload_len: usize) -> usize {
        self.headers.write(buffer, protocol, payload_len);
        let len = self.headers.len() + payload_len;
        if self.session.index.is_none() {
            return len;
        }
        let padded = len.next_multiple_of(PADDING);
        buffer[len..padded].fill(0);
        padded
    }

    /// Sends one inner packet.
    pub(crate) fn send(
        &self,
        protocol: Protocol,
        packet: &[u8],
        scratch: &mut [u8],
        outbox: &mut Outbox,
    ) -> Result<(), Reason> {
        let begin = self.headers.len();
        scratch[begin..begin + packet.len()].copy_from_slice(packet);
        let len = self.wrap(scratch, protocol, packet.len());
        self.session.lock().seal(&scratch[..len], outbox)?;
        self.session.counters.sent(1, packet.len() as u64);
        Ok(())
    }
}

/// What lives as long as the path's keys.
pub(crate) struct Session {
    pub id: PeerId,
    /// The upper 24 bits of its receiver indexes; `None` in clear.
    pub index: Option<u32>,
    pub counters: PathCounters,
    mac1: Option<RateLimiter>,
    state: Mutex<State>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What changes with the packets.
pub(crate) struct State {
    endpoint: SocketAddr,
    reported_endpoint: SocketAddr,
    tunnel: Option<Tunnel>,
}

struct Tunnel {
    tunn: Box<Tunn>,
    initiate: bool,
    created: Instant,
    life: Life,
    reported: Life,
    /// boringtun has keys to seal with.
    ready: bool,
    /// An initiation of ours has no answer yet.
    attempting: bool,
    retry_at: Instant,
    retry_after: Duration,
    /// Packets that wait for keys. boringtun has a queue too, but one without a common bound.
    queue: VecDeque<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    New,
    Up,
    Down,
}

impl Session {
    /// A session with the keys of `peer`; `None` for ESP, which is not spoken here. `index` is 24 bits, unique and unpredictable;
    /// `keepalive` in seconds.
    pub(crate) fn new(
        id: PeerId,
        peer: &Peer,
        index: u32,
        keepalive: Option<u16>,
        now: Instant,
    ) -> Option<Self> {
        let (index, mac1, tunnel) = match &peer.transport {
            Transport::Clear => (None, None, None),
            Transport::WireGuard { private_key, peer_public_key, preshared_key, initiate } => {
                let private = StaticSecret::from(**private_key);
                let public = PublicKey::from(&private);
                let tunn = Tunn::new(
                    private,
                    PublicKey::from(*peer_public_key),
                    Some(**preshared_key),
                    keepalive,
                    index,
                    None,
                );
                let tunnel = Tunnel {
                    tunn: Box::new(tunn),
                    initiate: *initiate,
                    created: now,
                    life: Life::New,
                    reported: Life::New,
                    ready: false,
                    attempting: false,
                    retry_at: now + FIRST_RETRY,
                    retry_after: FIRST_RETRY,
                    queue: VecDeque::new(),
                };
                (Some(index), Some(RateLimiter::new(&public, u64::MAX)), Some(tunnel))
            }
            Transport::Esp(_) => return None,
        };
        let endpoint = peer.endpoint;
        Some(Self {
            id,
            index,
            counters: PathCounters::default(),
            mac1,
            state: Mutex::new(State { endpoint, reported_endpoint: endpoint, tunnel }),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a handshake message was made by somebody who knows our public key, which only
    /// this peer does.
    pub(crate) fn is_addressed(&self, message: &[u8]) -> bool {
        self.mac1.as_ref().is_some_and(|mac1| mac1.verify_packet(None, message, &mut []).is_ok())
    }
}

impl State {
    /// The control plane knows of another endpoint.
    pub(crate) fn set_endpoint(&mut self, endpoint: SocketAddr) {
        self.endpoint = endpoint;
        self.reported_endpoint = endpoint;
    }

    /// Sends what [`Path::wrap`] made: sealed, or later when a handshake is done.
    pub(crate) fn seal(&mut self, plain: &[u8], outbox: &mut Outbox) -> Result<(), Reason> {
        let Some(tunnel) = &mut self.tunnel else {
            outbox.slot(plain.len()).copy_from_slice(plain);
            outbox.commit(self.endpoint, plain.len());
            return Ok(());
        };
        if !tunnel.ready {
            if tunnel.queue.len() == QUEUE {
                return Err(Reason::NoSession);
            }
            tunnel.queue.push_back(plain.to_vec());
            // Before the first handshake it is the initiator's turn.
            if tunnel.initiate || tunnel.life != Life::New {
                tunnel.initiate(self.endpoint, false, outbox);
            }
            return Ok(());
        }
        tunnel.encapsulate(plain, self.endpoint, outbox);
        Ok(())
    }

    /// The initiating side of a new session speaks first.
    pub(crate) fn start(&mut self, outbox: &mut Outbox) {
        if let Some(tunnel) = &mut self.tunnel
            && tunnel.initiate
        {
            tunnel.initiate(self.endpoint, false, outbox);
        }
    }

    /// Opens a WireGuard message into `out`, which must be as long as it. The length of the
    /// packet inside; 0 = none.
    pub(crate) fn receive(
        &mut self,
        from: SocketAddr,
        message: &[u8],
        out: &mut [u8],
        outbox: &mut Outbox,
    ) -> Result<usize, Reason> {
        let tunnel = self.tunnel.as_mut().ok_or(Reason::UnknownSession)?;
        let kind = message.first().copied().unwrap_or_default();
        if kind == DATA {
            let counter = message.get(8..16).and_then(|bytes| bytes.try_into().ok());
            let counter = u64::from_le_bytes(counter.ok_or(Reason::Malformed)?);
            if counter >= REJECT_AFTER_MESSAGES {
                return Err(Reason::Unauthentic);
            }
        }
        let len = match tunnel.tunn.decapsulate(Some(from.ip()), message, out) {
            TunnResult::Done => 0,
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                packet.len()
            }
            TunnResult::WriteToNetwork(reply) => {
                let len = reply.len();
                let cookie = reply.first() == Some(&COOKIE);
                outbox.slot(len).copy_from_slice(reply);
                outbox.commit(from, len);
                if cookie {
                    return Err(Reason::HandshakeRate);
                }
                0
            }
            TunnResult::Err(error) => return Err(reason(&error)),
        };
        match kind {
            INITIATION => {
                self.endpoint = from;
                tunnel.attempting = false;
            }
            RESPONSE | DATA => {
                self.endpoint = from;
                tunnel.attempting &= kind == DATA;
                tunnel.established(from, outbox);
            }
            _ => {}
        }
        Ok(len)
    }

    /// Runs what WireGuard's timers ask for; to be called every 250 ms or so.
    pub(crate) fn tick(&mut self, now: Instant, outbox: &mut Outbox) {
        let Some(tunnel) = &mut self.tunnel else { return };
        let idle_too_long = match tunnel.tunn.update_timers(outbox.slot(MESSAGE)) {
            TunnResult::WriteToNetwork(message) => {
                let len = message.len();
                tunnel.attempting |= message.first() == Some(&INITIATION);
                outbox.commit(self.endpoint, len);
                false
            }
            TunnResult::Err(WireGuardError::ConnectionExpired) => true,
            _ => false,
        };
        tunnel.ready = tunnel.tunn.time_since_last_handshake().is_some();
        let unanswered = idle_too_long && tunnel.attempting;
        let never_asked = tunnel.life == Life::New
            && !tunnel.initiate
            && now.duration_since(tunnel.created) >= ATTEMPT;
        if unanswered || never_asked {
            tunnel.life = Life::Down;
            tunnel.attempting = false;
            tunnel.queue.clear();
        } else if tunnel.life == Life::New
            && tunnel.attempting
            && now >= tunnel.retry_at
            && tunnel.retry_after < LAST_RETRY
        {
            tunnel.retry_after *= 2;
            tunnel.retry_at = now + tunnel.retry_after;
            tunnel.initiate(self.endpoint, true, outbox);
        }
    }

    /// Tells the control plane what it does not know yet; `send` says whether it was taken.
    pub(crate) fn report(&mut self, peer: PeerId, mut send: impl FnMut(Event) -> bool) {
        if let Some(tunnel) = &mut self.tunnel
            && tunnel.life != tunnel.reported
        {
            let event = match tunnel.life {
                Life::Down => Event::Down { peer },
                Life::New | Life::Up => Event::Up { peer },
            };
            if send(event) {
                tunnel.reported = tunnel.life;
            }
        }
        if self.endpoint != self.reported_endpoint
            && send(Event::Moved { peer, endpoint: self.endpoint })
        {
            self.reported_endpoint = self.endpoint;
        }
    }

    /// Whether [`Self::report`] has something to say.
    pub(crate) fn has_news(&self) -> bool {
        self.endpoint != self.reported_endpoint
            || self.tunnel.as_ref().is_some_and(|tunnel| tunnel.life != tunnel.reported)
    }
}

impl Tunnel {
    fn initiate(&mut self, endpoint: SocketAddr, again: bool, outbox: &mut Outbox) {
        let slot = outbox.slot(MESSAGE);
        if let TunnResult::WriteToNetwork(message) =
            self.tunn.format_handshake_initiation(slot, again)
        {
            let len = message.len();
            outbox.commit(endpoint, len);
            self.attempting = true;
        }
    }

    /// Only with keys: without, boringtun would queue the packet.
    fn encapsulate(&mut self, plain: &[u8], endpoint: SocketAddr, outbox: &mut Outbox) {
        let slot = outbox.slot((plain.len() + OVERHEAD).max(MESSAGE));
        if let TunnResult::WriteToNetwork(message) = self.tunn.encapsulate(plain, slot) {
            let len = message.len();
            outbox.commit(endpoint, len);
        }
    }

    /// The peer proved that it has the keys.
    fn established(&mut self, endpoint: SocketAddr, outbox: &mut Outbox) {
        self.life = Life::Up;
        if self.ready {
            return;
        }
        self.ready = self.tunn.time_since_last_handshake().is_some();
        if self.ready {
            while let Some(plain) = self.queue.pop_front() {
                self.encapsulate(&plain, endpoint, outbox);
            }
        }
    }
}

fn reason(error: &WireGuardError) -> Reason {
    match error {
        WireGuardError::InvalidCounter
        | WireGuardError::DuplicateCounter
        | WireGuardError::WrongTai64nTimestamp => Reason::Replayed,
        WireGuardError::NoCurrentSession
        | WireGuardError::UnexpectedPacket
        | WireGuardError::WrongIndex
        | WireGuardError::ConnectionExpired => Reason::UnknownSession,
        WireGuardError::UnderLoad => Reason::HandshakeRate,
        WireGuardError::IncorrectPacketLength
        | WireGuardError::WrongPacketType
        | WireGuardError::InvalidPacket => Reason::Malformed,
        _ => Reason::Unauthentic,
    }
}
