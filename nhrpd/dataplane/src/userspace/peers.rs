//! Paths to peers: a pair of ESP SAs or a WireGuard session each, or GRE in clear.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use boringtun::noise::errors::WireGuardError;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use ipnet::IpNet;
use overlay::desired::{Esp, Event, Peer, PeerId, Transport};

use super::counters::{PathCounters, Reason};
use super::esp::{self, Opener, Sealer};
use super::gre::{Headers, Protocol};
use super::outbox::Outbox;
use super::tun;

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
    pub session: Arc<Session>,
    pub headers: Headers,
    /// Largest inner packet that needs no fragments.
    pub mtu: u16,
    /// Inner source addresses that it may carry; `None` = any.
    pub sources: Option<Vec<IpNet>>,
}

impl Path {
    /// Begins a batch.
    pub(crate) fn sender<'a>(&'a self, outbox: &'a mut Outbox) -> Sender<'a> {
        let way = match &self.session.protection {
            Protection::Clear => Way::Clear(self.session.endpoint.get()),
            Protection::Esp { sealer, .. } => Way::Esp(sealer, self.session.endpoint.get()),
            Protection::WireGuard { .. } => Way::WireGuard(&self.session),
        };
        Sender { headers: &self.headers, way, outbox }
    }

    /// Sends one inner packet.
    pub(crate) fn send(
        &self,
        protocol: Protocol,
        packet: &[u8],
        scratch: &mut [u8],
        outbox: &mut Outbox,
    ) -> Result<(), Reason> {
        self.sender(outbox).send(protocol, packet.len(), scratch, |room| {
            room[..packet.len()].copy_from_slice(packet);
            packet.len()
        })?;
        self.session.counters.sent(1, packet.len() as u64);
        Ok(())
    }
}

/// Packets of one batch on their way to one peer.
pub(crate) struct Sender<'a> {
    headers: &'a Headers,
    way: Way<'a>,
    outbox: &'a mut Outbox,
}

enum Way<'a> {
    Clear(SocketAddr),
    Esp(&'a Sealer, SocketAddr),
    /// Locked for one packet at a time: what is received meanwhile must not wait for a batch.
    WireGuard(&'a Session),
}

impl Sender<'_> {
    /// Room that [`Self::send`] needs in `scratch` for a payload of this length.
    pub(crate) fn room(&self, payload_len: usize) -> usize {
        (self.headers.len() + payload_len).next_multiple_of(PADDING)
    }

    /// Sends the inner packet that `fill` writes, at most `longest` bytes; its length. It is
    /// written where it is sealed, but for WireGuard, which seals from `scratch`.
    pub(crate) fn send(
        &mut self,
        protocol: Protocol,
        longest: usize,
        scratch: &mut [u8],
        fill: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<usize, Reason> {
        let begin = self.headers.len();
        let (front, back) = match self.way {
            Way::Clear(_) => (0, 0),
            Way::Esp(..) => (esp::FRONT, esp::BACK),
            Way::WireGuard(_) => {
                let len = fill(&mut scratch[begin..begin + longest]);
                self.send_from(protocol, scratch, len)?;
                return Ok(len);
            }
        };
        let slot = self.outbox.slot(front + begin + longest + back);
        let len = fill(&mut slot[front + begin..][..longest]);
        self.headers.write(&mut slot[front..], protocol, len);
        let (to, total) = match self.way {
            Way::Esp(sealer, to) => (to, sealer.seal(slot, begin + len)?),
            Way::Clear(to) => (to, begin + len),
            Way::WireGuard(_) => return Err(Reason::NoSession),
        };
        self.outbox.commit(to, total);
        Ok(len)
    }

    /// Sends the inner packet of `len` bytes that begins at `headers.len()` of `buffer`, which
    /// has [`Self::room`] for it.
    pub(crate) fn send_from(
        &mut self,
        protocol: Protocol,
        buffer: &mut [u8],
        len: usize,
    ) -> Result<(), Reason> {
        let begin = self.headers.len();
        let Way::WireGuard(session) = self.way else {
            return self
                .send(protocol, len, &mut [], |room| {
                    room.copy_from_slice(&buffer[begin..begin + len]);
                    len
                })
                .map(drop);
        };
        self.headers.write(buffer, protocol, len);
        let padded = (begin + len).next_multiple_of(PADDING);
        buffer[begin + len..padded].fill(0);
        let mut state = session.lock();
        state.seal(&buffer[..padded], session.endpoint.get(), self.outbox)
    }
}

/// What lives as long as the path's keys.
pub(crate) struct Session {
    pub id: PeerId,
    pub protection: Protection,
    pub counters: PathCounters,
    /// Queue of the tunnel device for what comes from this peer, see [`Tun::write`]; the same
    /// with the next keys.
    pub queue: usize,
    endpoint: Endpoint,
    /// ESP: the peer was heard.
    heard: AtomicBool,
    state: Mutex<State>,
}

/// Where a peer is. Read for every packet without a lock; changed under that of [`State`].
struct Endpoint(ArcSwap<SocketAddr>);

impl Endpoint {
    fn get(&self) -> SocketAddr {
        **self.0.load()
    }

    fn set(&self, to: SocketAddr) {
        if self.get() != to {
            self.0.store(Arc::new(to));
        }
    }
}

/// What tells a session's packets from others', and what needs no lock.
pub(crate) enum Protection {
    Clear,
    WireGuard {
        /// The upper 24 bits of its receiver indexes.
        index: u32,
        mac1: Box<RateLimiter>,
    },
    Esp {
        /// SPI of the inbound SA.
        spi: u32,
        sealer: Sealer,
        opener: Box<Opener>,
    },
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What changes with the packets.
pub(crate) struct State {
    reported_endpoint: SocketAddr,
    life: Life,
    reported: Life,
    tunnel: Option<Tunnel>,
    /// ESP: the control plane was asked for a successor.
    expiring: bool,
    /// ESP: packets sent when the last keepalive was due, and when the next one is.
    keepalive: Option<(Duration, Instant, u64)>,
}

struct Tunnel {
    tunn: Box<Tunn>,
    initiate: bool,
    created: Instant,
    /// boringtun has keys to seal with.
    ready: bool,
    /// Receiver index and counter of the newest packet.
    newest: (u32, u64),
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
    /// A session with the keys of `peer`; `None` where it asks for a kind of ESP that is not
    /// spoken here. `index` is 24 bits, unique and unpredictable; `keepalive` in seconds.
    pub(crate) fn new(
        id: PeerId,
        peer: &Peer,
        index: u32,
        keepalive: Option<u16>,
        now: Instant,
    ) -> Option<Self> {
        let mut tunnel = None;
        let protection = match &peer.transport {
            Transport::Clear => Protection::Clear,
            Transport::WireGuard { private_key, peer_public_key, preshared_key, initiate } => {
                let private = StaticSecret::from(**private_key);
                let mac1 = Box::new(RateLimiter::new(&PublicKey::from(&private), u64::MAX));
                let tunn = Tunn::new(
                    private,
                    PublicKey::from(*peer_public_key),
                    Some(**preshared_key),
                    keepalive,
                    index,
                    None,
                );
                tunnel = Some(Tunnel {
                    tunn: Box::new(tunn),
                    initiate: *initiate,
                    created: now,
                    ready: false,
                    newest: (0, 0),
                    attempting: false,
                    retry_at: now + FIRST_RETRY,
                    retry_after: FIRST_RETRY,
                    queue: VecDeque::new(),
                });
                Protection::WireGuard { index, mac1 }
            }
            Transport::Esp(Esp { cipher, esn, encapsulated: true, inbound, outbound, .. }) => {
                Protection::Esp {
                    spi: inbound.spi,
                    sealer: Sealer::new(*cipher, *esn, outbound)?,
                    opener: Box::new(Opener::new(*cipher, *esn, inbound)?),
                }
            }
            Transport::Esp(_) => return None,
        };
        let keepalive = keepalive
            .filter(|_| matches!(protection, Protection::Esp { .. }))
            .map(|seconds| Duration::from_secs(seconds.into()));
        let endpoint = peer.endpoint;
        let state = State {
            reported_endpoint: endpoint,
            life: Life::New,
            reported: Life::New,
            tunnel,
            expiring: false,
            keepalive: keepalive.map(|interval| (interval, now + interval, 0)),
        };
        let counters = PathCounters::default();
        let mut hasher = DefaultHasher::new();
        endpoint.hash(&mut hasher);
        let queue = (hasher.finish() % tun::QUEUES as u64) as usize;
        let endpoint = Endpoint(ArcSwap::from_pointee(endpoint));
        let (heard, state) = (AtomicBool::new(false), Mutex::new(state));
        Some(Self { id, protection, counters, queue, endpoint, heard, state })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a handshake message was made by somebody who knows our public key, which only
    /// this peer does.
    pub(crate) fn is_addressed(&self, message: &[u8]) -> bool {
        let Protection::WireGuard { mac1, .. } = &self.protection else { return false };
        mac1.verify_packet(None, message, &mut []).is_ok()
    }

    /// Opens a message of the peer into `out`, which must be as long as it. The length of the
    /// packet inside; 0 = none.
    pub(crate) fn open(
        &self,
        from: SocketAddr,
        message: &[u8],
        out: &mut [u8],
        outbox: &mut Outbox,
        report: impl FnMut(Event) -> bool,
    ) -> Result<usize, Reason> {
        let Protection::Esp { opener, .. } = &self.protection else {
            let mut state = self.lock();
            let result = state.receive(&self.endpoint, from, message, out, outbox);
            state.report(self, report);
            return result;
        };
        let len = opener.open(message, out)?;
        // No lock where nothing is new. The endpoint follows authenticated packets (RFC 7296 §2.23),
        // and of several threads that have one each the newest.
        if !self.heard.load(Relaxed) || self.endpoint.get() != from {
            let mut state = self.lock();
            if opener.is_newest(message) {
                self.endpoint.set(from);
            }
            state.life = Life::Up;
            self.heard.store(true, Relaxed);
            state.report(self, report);
        }
        Ok(len)
    }

    /// The control plane knows of another endpoint.
    pub(crate) fn set_endpoint(&self, endpoint: SocketAddr) {
        let mut state = self.lock();
        self.endpoint.set(endpoint);
        state.reported_endpoint = endpoint;
    }

    /// The initiating side of a new session speaks first.
    pub(crate) fn start(&self, outbox: &mut Outbox) {
        if let Some(tunnel) = &mut self.lock().tunnel
            && tunnel.initiate
        {
            tunnel.initiate(self.endpoint.get(), false, outbox);
        }
    }

    /// Runs what is due; to be called every 250 ms or so. `most`: packets under one ESP key.
    pub(crate) fn tick(
        &self,
        now: Instant,
        most: u64,
        outbox: &mut Outbox,
        mut report: impl FnMut(Event) -> bool,
    ) {
        let mut state = self.lock();
        let to = self.endpoint.get();
        match &self.protection {
            Protection::Clear => return,
            Protection::WireGuard { .. } => state.tick(now, to, outbox),
            Protection::Esp { sealer, .. } => {
                state.keep_alive(now, self.counters.read().tx_packets, to, outbox);
                if sealer.count() >= most && !state.expiring {
                    state.expiring = report(Event::Expiring { peer: self.id });
                }
            }
        }
        state.report(self, report);
    }
}

impl State {
    /// Sends a padded packet through WireGuard: sealed, or later when a handshake is done.
    fn seal(&mut self, plain: &[u8], to: SocketAddr, outbox: &mut Outbox) -> Result<(), Reason> {
        let tunnel = self.tunnel.as_mut().ok_or(Reason::NoSession)?;
        if !tunnel.ready {
            if tunnel.queue.len() == QUEUE {
                return Err(Reason::NoSession);
            }
            tunnel.queue.push_back(plain.to_vec());
            // Before the first handshake it is the initiator's turn.
            if tunnel.initiate || self.life != Life::New {
                tunnel.initiate(to, false, outbox);
            }
            return Ok(());
        }
        tunnel.encapsulate(plain, to, outbox);
        Ok(())
    }

    /// Opens a WireGuard message into `out`, which must be as long as it. The length of the
    /// packet inside; 0 = none.
    fn receive(
        &mut self,
        endpoint: &Endpoint,
        from: SocketAddr,
        message: &[u8],
        out: &mut [u8],
        outbox: &mut Outbox,
    ) -> Result<usize, Reason> {
        let tunnel = self.tunnel.as_mut().ok_or(Reason::UnknownSession)?;
        let kind = message.first().copied().unwrap_or_default();
        let mut newest = tunnel.newest;
        if kind == DATA {
            let index = message.get(4..8).and_then(|bytes| bytes.try_into().ok());
            let counter = message.get(8..16).and_then(|bytes| bytes.try_into().ok());
            let index = u32::from_le_bytes(index.ok_or(Reason::Malformed)?);
            let counter = u64::from_le_bytes(counter.ok_or(Reason::Malformed)?);
            if counter >= REJECT_AFTER_MESSAGES {
                return Err(Reason::Unauthentic);
            }
            // What was sent before does not say where the peer is now.
            if index != newest.0 || counter > newest.1 {
                newest = (index, counter);
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
                endpoint.set(from);
                tunnel.attempting = false;
            }
            RESPONSE | DATA => {
                if newest != tunnel.newest || kind == RESPONSE {
                    endpoint.set(from);
                    tunnel.newest = newest;
                }
                tunnel.attempting &= kind == DATA;
                self.life = Life::Up;
                tunnel.established(from, outbox);
            }
            _ => {}
        }
        Ok(len)
    }

    /// A NAT keepalive (RFC 3948 §2.3) where nothing else was sent.
    fn keep_alive(&mut self, now: Instant, sent: u64, to: SocketAddr, outbox: &mut Outbox) {
        let Some((interval, due, before)) = &mut self.keepalive else { return };
        if now < *due {
            return;
        }
        if sent == *before {
            outbox.slot(1)[0] = 0xff;
            outbox.commit(to, 1);
        }
        (*due, *before) = (now + *interval, sent);
    }

    /// Runs what WireGuard's timers ask for.
    fn tick(&mut self, now: Instant, to: SocketAddr, outbox: &mut Outbox) {
        let Some(tunnel) = &mut self.tunnel else { return };
        let idle_too_long = match tunnel.tunn.update_timers(outbox.slot(MESSAGE)) {
            TunnResult::WriteToNetwork(message) => {
                let len = message.len();
                tunnel.attempting |= message.first() == Some(&INITIATION);
                outbox.commit(to, len);
                false
            }
            TunnResult::Err(WireGuardError::ConnectionExpired) => true,
            _ => false,
        };
        tunnel.ready = tunnel.tunn.time_since_last_handshake().is_some();
        let unanswered = idle_too_long && tunnel.attempting;
        let never_asked = self.life == Life::New
            && !tunnel.initiate
            && now.duration_since(tunnel.created) >= ATTEMPT;
        if unanswered || never_asked {
            self.life = Life::Down;
            tunnel.attempting = false;
            tunnel.queue.clear();
        } else if self.life == Life::New
            && tunnel.attempting
            && now >= tunnel.retry_at
            && tunnel.retry_after < LAST_RETRY
        {
            tunnel.retry_after *= 2;
            tunnel.retry_at = now + tunnel.retry_after;
            tunnel.initiate(to, true, outbox);
        }
    }

    /// Tells the control plane what it does not know yet; `send` says whether it was taken.
    fn report(&mut self, session: &Session, mut send: impl FnMut(Event) -> bool) {
        let (peer, endpoint) = (session.id, session.endpoint.get());
        if self.life != self.reported {
            let event = match self.life {
                Life::Down => Event::Down { peer },
                Life::New | Life::Up => Event::Up { peer },
            };
            if send(event) {
                self.reported = self.life;
            }
        }
        if endpoint != self.reported_endpoint && send(Event::Moved { peer, endpoint }) {
            self.reported_endpoint = endpoint;
        }
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

#[cfg(test)]
mod tests;
