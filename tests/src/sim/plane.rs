//! A model of the data planes: forwarding, redirects, and for each peer a session of WireGuard as
//! the userspace plane has it, or a pair of ESP SAs as the kernel does.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nhrp::engine::Usage;
use overlay::desired::{Desired, Esp, Event, PeerId, Transport};

use super::packet::IpPacket;
use super::tunnel::{Key, Life, Message, Tunnel, Window};

/// Initiations that wait for their session, and how long.
const EARLY: usize = 16;
const EARLY_LIFE: Duration = Duration::from_secs(1);

/// What travels over the underlay.
#[derive(Debug, Clone)]
pub enum Payload {
    /// An IKE message.
    Ike(Vec<u8>),
    /// A WireGuard message of the session with this pre-shared key.
    WireGuard(Key, Message),
    /// An ESP packet.
    Esp(EspPacket),
    /// GRE in the clear.
    Gre(Inner),
}

/// An ESP packet (RFC 4303): who has the key can read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EspPacket {
    /// Of the receiver.
    pub spi: u32,
    /// What it is sealed with.
    pub key: Vec<u8>,
    /// Sequence number, and with the key the nonce.
    pub sequence: u64,
    /// In UDP.
    pub encapsulated: bool,
    /// What is inside.
    pub inner: Inner,
}

impl Payload {
    /// A packet of a LAN, NHRP or a keepalive, under keys.
    pub fn is_data(&self) -> bool {
        matches!(self, Self::WireGuard(_, Message::Data(..)) | Self::Esp(_))
    }

    /// With the keys of this one, another packet.
    pub fn with(&self, counter: u64, inner: Inner) -> Self {
        match self {
            Self::WireGuard(key, Message::Data(epoch, ..)) => {
                Self::WireGuard(*key, Message::Data(*epoch, counter, Some(inner)))
            }
            Self::Esp(packet) => {
                Self::Esp(EspPacket { sequence: counter, inner, ..packet.clone() })
            }
            _ => panic!("no data: {self}"),
        }
    }
}

/// What GRE carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inner {
    /// NHRP.
    Nhrp(Vec<u8>),
    /// A packet of the LANs or the tunnel.
    Ip(IpPacket),
}

/// What the data plane wants of the simulator.
#[derive(Debug)]
pub(super) enum Action {
    Send(SocketAddr, Payload),
    Event(Event),
    /// The packet has arrived where it was to go.
    Deliver(IpPacket),
    Drop(IpPacket, &'static str),
}

/// One redirect per flow in this time.
const REDIRECT_INTERVAL: Duration = Duration::from_secs(2);
/// One report of an unknown sender in this time.
const UNKNOWN_INTERVAL: Duration = Duration::from_secs(5);
/// One report of a path of a former run in this time.
const ADOPTED_INTERVAL: Duration = Duration::from_secs(1);
/// One report of a destination without a path in this time.
const UNROUTABLE_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Session {
    endpoint: SocketAddr,
    carrier: Carrier,
    reported: Life,
}

#[derive(Debug)]
enum Carrier {
    Clear,
    WireGuard(Key, Box<Tunnel>),
    Esp(Box<Pair>),
}

/// A pair of ESP SAs.
#[derive(Debug)]
struct Pair {
    esp: Esp,
    sent: u64,
    window: Window,
    receive_only: bool,
}

/// Counters of one node's life.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets that came out of the tunnel and went back into it.
    pub forwarded: u64,
    /// Packets that arrived here.
    pub delivered: u64,
    /// Packets dropped, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
}

#[derive(Debug)]
pub(super) struct Plane {
    /// Without security, GRE of a stranger is taken too, as multipoint GRE does.
    clear: bool,
    own: IpAddr,
    lans: Vec<IpNet>,
    /// Packets after which an ESP path wants new keys.
    volume: u64,
    desired: Desired,
    sessions: BTreeMap<PeerId, Session>,
    by_key: BTreeMap<Key, PeerId>,
    by_spi: BTreeMap<u32, PeerId>,
    /// ESP SAs of a former run, which the kernel has kept, and where their peers are.
    inherited: BTreeMap<u32, SocketAddr>,
    adopted: Recently<SocketAddr>,
    sent: BTreeMap<IpNet, u64>,
    redirected: Recently<(PeerId, IpAddr, IpAddr)>,
    unknown: Recently<SocketAddr>,
    unroutable: Recently<IpAddr>,
    /// Initiations whose session is not there yet: IKE's last message was overtaken.
    early: VecDeque<(Instant, SocketAddr, Key, Message)>,
    pub(super) counters: Counters,
}

impl Usage for Plane {
    fn packets(&self, prefix: IpNet) -> u64 {
        self.sent.get(&prefix).copied().unwrap_or(0)
    }
}

impl Plane {
    /// For a node with this tunnel address and these prefixes behind it.
    pub(super) fn new(clear: bool, own: IpAddr, lans: Vec<IpNet>, volume: u64) -> Self {
        Self {
            clear,
            own,
            lans,
            volume,
            desired: Desired::default(),
            sessions: BTreeMap::new(),
            by_key: BTreeMap::new(),
            by_spi: BTreeMap::new(),
            inherited: BTreeMap::new(),
            adopted: Recently::new(ADOPTED_INTERVAL),
            sent: BTreeMap::new(),
            redirected: Recently::new(REDIRECT_INTERVAL),
            unknown: Recently::new(UNKNOWN_INTERVAL),
            unroutable: Recently::new(UNROUTABLE_INTERVAL),
            early: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// What stays in the kernel when the daemon is killed.
    pub(super) fn legacy(&self) -> BTreeMap<u32, SocketAddr> {
        let endpoint = |id: &PeerId| self.sessions.get(id).map(|session| session.endpoint);
        self.by_spi.iter().filter_map(|(&spi, id)| Some((spi, endpoint(id)?))).collect()
    }

    /// Begins with what a former run left.
    pub(super) fn inherit(&mut self, legacy: BTreeMap<u32, SocketAddr>) {
        self.inherited = legacy;
    }

    /// Makes it so.
    pub(super) fn apply(&mut self, now: Instant, desired: &Desired) -> Vec<Action> {
        let mut actions = Vec::new();
        self.sessions.retain(|id, _| desired.peers.contains_key(id));
        self.by_key.retain(|_, id| desired.peers.contains_key(id));
        self.by_spi.retain(|_, id| desired.peers.contains_key(id));
        self.sent.retain(|prefix, _| desired.forwarding.contains_key(prefix));
        for (&id, peer) in &desired.peers {
            if let Some(session) = self.sessions.get_mut(&id) {
                // Where the data plane found the peer itself, that is newer.
                if self.desired.peers.get(&id).is_some_and(|old| old.endpoint != peer.endpoint) {
                    session.endpoint = peer.endpoint;
                }
                if let (Carrier::Esp(pair), Transport::Esp(esp)) =
                    (&mut session.carrier, &peer.transport)
                {
                    assert_eq!(pair.esp.outbound, esp.outbound, "new keys for an old path");
                    pair.esp.encapsulated = esp.encapsulated;
                    pair.receive_only = peer.receive_only;
                }
                continue;
            }
            let mut messages = Vec::new();
            let carrier = match &peer.transport {
                Transport::Clear => Carrier::Clear,
                Transport::Esp(esp) => {
                    let other = self.by_spi.insert(esp.inbound.spi, id);
                    assert_eq!(other, None, "two keys for SPI {:08x}", esp.inbound.spi);
                    Carrier::Esp(Box::new(Pair {
                        esp: esp.clone(),
                        sent: 0,
                        window: Window::default(),
                        receive_only: peer.receive_only,
                    }))
                }
                Transport::WireGuard { preshared_key, initiate, .. } => {
                    let mut tunnel = Tunnel::new(now, *initiate);
                    tunnel.start(now, &mut messages);
                    self.by_key.insert(**preshared_key, id);
                    Carrier::WireGuard(**preshared_key, Box::new(tunnel))
                }
            };
            let session = Session { endpoint: peer.endpoint, carrier, reported: Life::New };
            session.send(messages, &mut actions);
            self.sessions.insert(id, session);
        }
        self.desired = desired.clone();
        self.early.retain(|(came, ..)| now - *came < EARLY_LIFE);
        for (came, from, key, message) in std::mem::take(&mut self.early) {
            if self.by_key.contains_key(&key) {
                actions.extend(self.receive(now, from, key, message));
            } else {
                self.early.push_back((came, from, key, message));
            }
        }
        actions
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let deadline = |session: &Session| match &session.carrier {
            Carrier::WireGuard(_, tunnel) => tunnel.deadline(),
            Carrier::Clear | Carrier::Esp(_) => None,
        };
        self.sessions.values().filter_map(deadline).min()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        for (&id, session) in &mut self.sessions {
            let Carrier::WireGuard(_, tunnel) = &mut session.carrier else { continue };
            let mut messages = Vec::new();
            tunnel.tick(now, &mut messages);
            session.send(messages, &mut actions);
            session.report(id, &mut actions);
        }
        actions
    }

    /// Sends through a session.
    pub(super) fn seal(&mut self, now: Instant, id: PeerId, inner: Inner) -> Vec<Action> {
        let Some(session) = self.sessions.get_mut(&id) else {
            return dropped(inner, "no such session");
        };
        let endpoint = session.endpoint;
        let tunnel = match &mut session.carrier {
            Carrier::Clear => return vec![Action::Send(endpoint, Payload::Gre(inner))],
            Carrier::Esp(pair) => {
                assert!(!pair.receive_only, "a packet for a path that only receives");
                pair.sent += 1;
                let keys = &pair.esp.outbound;
                let (spi, key) = (keys.spi, keys.encryption.to_vec());
                let (sequence, encapsulated) = (pair.sent, pair.esp.encapsulated);
                let packet = EspPacket { spi, key, sequence, encapsulated, inner };
                let mut actions = vec![Action::Send(endpoint, Payload::Esp(packet))];
                if pair.sent == self.volume {
                    actions.push(Action::Event(Event::Expiring { peer: id }));
                }
                return actions;
            }
            Carrier::WireGuard(_, tunnel) => tunnel,
        };
        let mut messages = Vec::new();
        if !tunnel.seal(now, Some(inner.clone()), &mut messages) {
            return dropped(inner, "no keys yet");
        }
        let mut actions = Vec::new();
        session.send(messages, &mut actions);
        actions
    }

    /// A WireGuard message came in.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        from: SocketAddr,
        key: Key,
        message: Message,
    ) -> Vec<Action> {
        let id = self.by_key.get(&key).copied();
        let found = id.and_then(|id| Some((id, self.sessions.get_mut(&id)?)));
        let Some((id, session)) = found else {
            if let Message::Initiation(_) = message {
                self.early.truncate(EARLY - 1);
                self.early.push_front((now, from, key, message));
            }
            let news = self.unknown.first(now, from);
            return if news { vec![Action::Event(Event::Unknown { from })] } else { Vec::new() };
        };
        let Carrier::WireGuard(_, tunnel) = &mut session.carrier else { return Vec::new() };
        let mut messages = Vec::new();
        let (genuine, inner) = tunnel.open(now, message, &mut messages);
        let mut actions = Vec::new();
        if genuine && session.endpoint != from {
            session.endpoint = from;
            actions.push(Action::Event(Event::Moved { peer: id, endpoint: from }));
        }
        session.send(messages, &mut actions);
        session.report(id, &mut actions);
        actions
            .extend(inner.map(|inner| self.arrive(now, Some(id), from, inner)).unwrap_or_default());
        actions
    }

    /// An ESP packet came in; one of an unknown SA is dropped without a word.
    pub(super) fn receive_esp(
        &mut self,
        now: Instant,
        from: SocketAddr,
        packet: EspPacket,
    ) -> Vec<Action> {
        let id = self.by_spi.get(&packet.spi).copied();
        let found = id.and_then(|id| Some((id, self.sessions.get_mut(&id)?)));
        let lost = |packet: EspPacket, reason| dropped(packet.inner, reason);
        let Some((id, session)) = found else {
            let mut actions = Vec::new();
            if let Some(&endpoint) = self.inherited.get(&packet.spi)
                && self.adopted.first(now, endpoint)
            {
                actions.push(Action::Event(Event::Adopted { endpoint }));
            }
            actions.extend(lost(packet, "unknown SPI"));
            return actions;
        };
        let Carrier::Esp(pair) = &mut session.carrier else { return lost(packet, "unknown SPI") };
        if *pair.esp.inbound.encryption != packet.key {
            return lost(packet, "another key");
        }
        if !pair.window.admit(packet.sequence) {
            return lost(packet, "replayed");
        }
        let mut actions = Vec::new();
        if session.reported == Life::New {
            session.reported = Life::Up;
            actions.push(Action::Event(Event::Up { peer: id }));
        }
        if packet.encapsulated && session.endpoint != from {
            session.endpoint = from;
            actions.push(Action::Event(Event::Moved { peer: id, endpoint: from }));
        }
        actions.extend(self.arrive(now, Some(id), from, packet.inner));
        actions
    }

    /// GRE in the clear came in.
    pub(super) fn receive_clear(
        &mut self,
        now: Instant,
        from: SocketAddr,
        inner: Inner,
    ) -> Vec<Action> {
        let from = SocketAddr::new(from.ip(), 0);
        let peer = self
            .sessions
            .iter()
            .find(|(_, s)| matches!(s.carrier, Carrier::Clear) && s.endpoint == from);
        let peer = peer.map(|(&id, _)| id);
        self.arrive(now, peer, from, inner)
    }

    fn arrive(
        &mut self,
        now: Instant,
        peer: Option<PeerId>,
        from: SocketAddr,
        inner: Inner,
    ) -> Vec<Action> {
        match (inner, peer) {
            (Inner::Nhrp(packet), peer) => vec![Action::Event(Event::Nhrp { peer, from, packet })],
            (Inner::Ip(packet), None) if !self.clear => {
                vec![Action::Drop(packet, "from a stranger")]
            }
            (Inner::Ip(packet), peer) => self.arrival(now, peer, packet),
        }
    }

    /// A packet came out of the tunnel.
    fn arrival(&mut self, now: Instant, from: Option<PeerId>, mut packet: IpPacket) -> Vec<Action> {
        let sources = from.and_then(|from| self.desired.sources.get(&from));
        let allowed = sources
            .is_none_or(|sources| sources.iter().any(|source| source.contains(&packet.source)));
        if !allowed || packet.source == self.own {
            return vec![Action::Drop(packet, "spoofed source")];
        }
        let local = self.own == packet.destination
            || self.lans.iter().any(|lan| lan.contains(&packet.destination));
        if local {
            return vec![Action::Deliver(packet)];
        }
        match self.lookup(packet.destination) {
            None => vec![Action::Drop(packet, "no route")],
            Some((_, to)) if Some(to) == from => {
                vec![Action::Drop(packet, "back where it came from")]
            }
            Some(_) if packet.ttl <= 1 => vec![Action::Drop(packet, "TTL")],
            Some((prefix, to)) => {
                let mut actions = Vec::new();
                if let Some(peer) = from
                    && self.redirected.first(now, (peer, packet.source, packet.destination))
                {
                    let packet = packet.bytes();
                    actions.push(Action::Event(Event::Redirect { peer, packet }));
                }
                packet.ttl -= 1;
                self.counters.forwarded += 1;
                *self.sent.entry(prefix).or_default() += 1;
                actions.extend(self.seal(now, to, Inner::Ip(packet)));
                actions
            }
        }
    }

    /// The kernel sends a packet into the tunnel.
    pub(super) fn departure(&mut self, now: Instant, packet: IpPacket) -> Vec<Action> {
        let destination = packet.destination;
        let Some((prefix, to)) = self.lookup(destination) else {
            let mut actions = vec![Action::Drop(packet, "unroutable")];
            if self.unroutable.first(now, destination) {
                actions.push(Action::Event(Event::Unroutable { destination }));
            }
            return actions;
        };
        *self.sent.entry(prefix).or_default() += 1;
        self.seal(now, to, Inner::Ip(packet))
    }

    fn lookup(&self, destination: IpAddr) -> Option<(IpNet, PeerId)> {
        (0..=32).rev().find_map(|length| {
            let prefix = IpNet::new(destination, length).ok()?.trunc();
            self.desired.forwarding.get(&prefix).map(|hop| (prefix, hop.peer))
        })
    }
}

fn dropped(inner: Inner, reason: &'static str) -> Vec<Action> {
    match inner {
        Inner::Ip(packet) => vec![Action::Drop(packet, reason)],
        Inner::Nhrp(_) => Vec::new(),
    }
}

impl Session {
    fn send(&self, messages: Vec<Message>, actions: &mut Vec<Action>) {
        let Carrier::WireGuard(key, _) = &self.carrier else { return };
        actions.extend(
            messages
                .into_iter()
                .map(|message| Action::Send(self.endpoint, Payload::WireGuard(*key, message))),
        );
    }

    /// Tells what the control plane does not know yet.
    fn report(&mut self, peer: PeerId, actions: &mut Vec<Action>) {
        let Carrier::WireGuard(_, tunnel) = &self.carrier else { return };
        if tunnel.life != self.reported {
            self.reported = tunnel.life;
            actions.push(Action::Event(match tunnel.life {
                Life::Down => Event::Down { peer },
                Life::New | Life::Up => Event::Up { peer },
            }));
        }
    }
}

/// Lets the first of each kind pass, and the next one when an interval is over.
#[derive(Debug)]
struct Recently<T> {
    interval: Duration,
    seen: BTreeMap<T, Instant>,
}

impl<T: Ord> Recently<T> {
    fn new(interval: Duration) -> Self {
        Self { interval, seen: BTreeMap::new() }
    }

    fn first(&mut self, now: Instant, kind: T) -> bool {
        if self.seen.get(&kind).is_some_and(|&at| now - at < self.interval) {
            return false;
        }
        self.seen.insert(kind, now);
        true
    }
}
