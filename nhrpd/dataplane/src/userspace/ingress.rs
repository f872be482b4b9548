//! From the underlay to the kernel, or to another peer.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollTimeout;
use overlay::desired::Event;
use quinn_udp::RecvMeta;

use super::coalesce::Coalescer;
use super::counters::Reason;
use super::forward::{Arrival, Via};
use super::gre::{self, Headers, Protocol};
use super::icmp;
use super::ip::{self, Header};
use super::limit::{Bucket, First};
use super::outbox::Outbox;
use super::peers::{COOKIE, DATA, INITIATION, MESSAGE, Path, Protection, RESPONSE};
use super::socket::Socket;
use super::worker::Worker;
use super::{Core, Snapshot};

/// Buffers that one system call fills; each holds what the kernel joined.
const BUFFERS: usize = 16;
const BUFFER: usize = 64 << 10;
/// Receive calls for each socket before what they gave is sent.
const BATCH: usize = 4;
const TICK: Duration = Duration::from_millis(250);
/// Room before an opened packet for the headers of the next path.
const HEADROOM: usize = Headers::MAX;
/// Per second, of all threads: ICMP errors, redirects, strangers that are told of.
const ERRORS: u32 = 100;
const REDIRECTS: u32 = 500;
const REPORTS: u32 = 10;
/// Handshake initiations and ESP packets that wait for their session, and how long. A peer sends
/// the first right behind the last message of IKE: it may be here before the control plane has
/// read that one.
const EARLY: usize = 16;
const EARLY_LIFE: Duration = Duration::from_secs(1);
/// Keys per second that handshakes from unknown endpoints are tried with, of all threads.
const TRIALS: u32 = 20_000;
/// A flow's redirect is said again after this; an indication may get lost.
const REDIRECT: Duration = Duration::from_secs(2);
/// What a redirect tells of the packet.
const QUOTE: usize = 128;

/// Carries packets until the data plane stops.
pub(crate) fn run(worker: Worker<'_>) {
    let core = worker.core;
    let mut ingress = Ingress::new(worker);
    let mut memory = vec![0; BUFFERS * BUFFER];
    let mut meta = [RecvMeta::default(); BUFFERS];
    let mut next_tick = Instant::now() + TICK;
    let sockets: Vec<_> = core.sockets.iter().map(|(_, socket)| socket).collect();
    let mut ready = Vec::new();
    while !core.stopping() {
        let snapshot = core.snapshot.load();
        ingress.retry_early(&snapshot);
        let timeout = if core.config.clear || snapshot.paths.is_empty() {
            EpollTimeout::NONE
        } else {
            let left = next_tick.saturating_duration_since(Instant::now());
            // Round up, or the last millisecond would be spent turning round.
            EpollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(EpollTimeout::NONE)
        };
        drop(snapshot);
        worker.wait(timeout, &mut ready);
        ingress.now = Instant::now();
        for _ in 0..BATCH {
            let snapshot = core.snapshot.load();
            // Each once in turn; one that gave less than it may is empty.
            ready.retain(|&socket| {
                ingress.receive(&snapshot, sockets[socket], &mut memory, &mut meta) == BUFFERS
            });
            if ready.is_empty() {
                break;
            }
        }
        ingress.flush();
        if ingress.now >= next_tick {
            next_tick = ingress.now + TICK;
            ingress.tick();
        }
    }
}

struct Ingress<'a> {
    worker: Worker<'a>,
    core: &'a Core,
    outbox: Outbox,
    coalescer: Coalescer,
    scratch: Vec<u8>,
    now: Instant,
    trials: Bucket,
    redirects: First,
    unknown: First,
    early: VecDeque<Early>,
    wrong_keys: First,
    errors: Bucket,
}

/// A message that no session knows yet.
struct Early {
    came: Instant,
    from: SocketAddr,
    message: Vec<u8>,
}

/// Where a packet came from.
#[derive(Clone, Copy)]
struct Origin<'a> {
    /// `None` only in clear, from a node that is no peer.
    path: Option<&'a Arc<Path>>,
    from: SocketAddr,
}

impl Origin<'_> {
    fn dropped(&self) {
        if let Some(path) = self.path {
            path.session.counters.dropped(1);
        }
    }
}

impl<'a> Ingress<'a> {
    fn new(worker: Worker<'a>) -> Self {
        let now = Instant::now();
        let core = worker.core;
        let part = |all| worker.share.part(all);
        Self {
            worker,
            core,
            outbox: worker.outbox(),
            coalescer: Coalescer::new(core.tun.offloads()),
            scratch: vec![0; HEADROOM + BUFFER + 64],
            now,
            trials: Bucket::new(part(TRIALS), now),
            redirects: First::new(1024, REDIRECT, part(REDIRECTS), now),
            unknown: First::new(256, Duration::from_secs(5), part(REPORTS), now),
            early: VecDeque::new(),
            wrong_keys: First::new(256, Duration::from_secs(5), part(REPORTS), now),
            errors: Bucket::new(part(ERRORS), now),
        }
    }

    /// Receives once; how many buffers were filled.
    fn receive(
        &mut self,
        snapshot: &Snapshot,
        socket: &Socket,
        memory: &mut [u8],
        meta: &mut [RecvMeta; BUFFERS],
    ) -> usize {
        let mut chunks = memory.chunks_exact_mut(BUFFER);
        let mut buffers: [_; BUFFERS] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        let Ok(filled) = socket.receive(&mut buffers, meta) else { return 0 };
        for (buffer, meta) in buffers.iter().zip(&*meta).take(filled) {
            let received = &buffer[..meta.len.min(BUFFER)];
            if socket.is_raw() {
                self.clear(snapshot, meta.addr, received);
                continue;
            }
            for datagram in received.chunks(meta.stride.max(1)) {
                self.datagram(snapshot, meta.addr, datagram);
            }
        }
        filled
    }

    fn flush(&mut self) {
        let worker = self.worker;
        self.coalescer
            .flush(&mut |queue, vnet: &_, packet: &_| worker.deliver_large(queue, vnet, packet));
        self.outbox.flush();
    }

    fn tick(&mut self) {
        let snapshot = self.core.snapshot.load();
        let share = self.worker.share;
        for path in snapshot.paths.values().skip(share.place).step_by(share.of) {
            let most = self.core.config.rekey_packets;
            path.session.tick(self.now, most, &mut self.outbox, |event| self.core.event(event));
        }
        self.outbox.flush();
    }

    fn datagram(&mut self, snapshot: &Snapshot, from: SocketAddr, datagram: &[u8]) {
        let result = match datagram {
            // RFC 3948 §2.2: the non-ESP marker, then IKE.
            [0, 0, 0, 0, message @ ..] => self.ike(from, message),
            &[INITIATION, 0, 0, 0, ..] => self.initiation(snapshot, from, datagram),
            &[kind @ (RESPONSE | COOKIE | DATA), 0, 0, 0, ..] => {
                self.wireguard(snapshot, kind, from, datagram)
            }
            // RFC 3948 §2.3: NAT keepalive.
            [0xff] => Ok(()),
            &[a, b, c, d, _, ..] => self.esp(snapshot, [a, b, c, d], from, datagram),
            _ => Err(Reason::UnknownDatagram),
        };
        if let Err(reason) = result {
            self.worker.count(reason);
        }
    }

    fn ike(&mut self, from: SocketAddr, message: &[u8]) -> Result<(), Reason> {
        let core = self.core;
        if !core.gate().ike.admits(&core.events, from.ip(), message, self.now) {
            return Err(Reason::IkeRate);
        }
        let port = self.core.config.port;
        self.core.event(Event::Ike { port, from, datagram: message.to_vec() });
        Ok(())
    }

    /// A handshake initiation names no session of ours: it is found by its endpoint, or else by
    /// the key that it was made for.
    fn initiation(
        &mut self,
        snapshot: &Snapshot,
        from: SocketAddr,
        message: &[u8],
    ) -> Result<(), Reason> {
        if !self.core.gate().handshakes.take(from.ip(), self.now) {
            return Err(Reason::HandshakeRate);
        }
        match self.addressee(snapshot, from, message)? {
            Some(path) => self.open(snapshot, path, from, message),
            None => {
                if message.len() == MESSAGE {
                    self.keep_early(from, message);
                }
                self.unknown_session(from)
            }
        }
    }

    fn addressee<'s>(
        &mut self,
        snapshot: &'s Snapshot,
        from: SocketAddr,
        message: &[u8],
    ) -> Result<Option<&'s Arc<Path>>, Reason> {
        let mut near = snapshot.by_endpoint.get(&from).into_iter().flatten();
        if let Some(path) = near.find(|path| path.session.is_addressed(message)) {
            return Ok(Some(path));
        }
        let rate = self.worker.share.part(TRIALS);
        for path in snapshot.by_index.values() {
            if !self.trials.take(rate, rate, self.now) {
                return Err(Reason::HandshakeRate);
            }
            if path.session.is_addressed(message) {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// The control plane may have made the sessions that some messages wait for. Initiations only
    /// at the endpoint that they came from: the keys of all others are not tried a second time.
    fn retry_early(&mut self, snapshot: &Snapshot) {
        if self.early.is_empty() {
            return;
        }
        let now = self.now;
        self.early.retain(|early| now.saturating_duration_since(early.came) < EARLY_LIFE);
        // The newest is in front.
        for early in std::mem::take(&mut self.early).into_iter().rev() {
            let found = match early.message[..] {
                [INITIATION, 0, 0, 0, ..] => {
                    let near = snapshot.by_endpoint.get(&early.from);
                    near.into_iter()
                        .flatten()
                        .find(|path| path.session.is_addressed(&early.message))
                }
                [a, b, c, d, ..] => snapshot.by_spi.get(&u32::from_be_bytes([a, b, c, d])),
                _ => None,
            };
            match found {
                None => self.early.push_front(early),
                Some(path) => {
                    if let Err(reason) = self.open(snapshot, path, early.from, &early.message) {
                        self.worker.count(reason);
                    }
                }
            }
        }
        self.outbox.flush();
    }

    fn wireguard(
        &mut self,
        snapshot: &Snapshot,
        kind: u8,
        from: SocketAddr,
        message: &[u8],
    ) -> Result<(), Reason> {
        if kind != DATA && !self.core.gate().handshakes.take(from.ip(), self.now) {
            return Err(Reason::HandshakeRate);
        }
        let at = if kind == RESPONSE { 8 } else { 4 };
        let index = message.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        let index = u32::from_le_bytes(index.ok_or(Reason::Malformed)?);
        match snapshot.by_index.get(&(index >> 8)) {
            Some(path) => self.open(snapshot, path, from, message),
            None => self.unknown_session(from),
        }
    }

    fn esp(
        &mut self,
        snapshot: &Snapshot,
        spi: [u8; 4],
        from: SocketAddr,
        packet: &[u8],
    ) -> Result<(), Reason> {
        match snapshot.by_spi.get(&u32::from_be_bytes(spi)) {
            Some(path) => self.open(snapshot, path, from, packet),
            None => {
                self.keep_early(from, packet);
                self.unknown_session(from)
            }
        }
    }

    fn keep_early(&mut self, from: SocketAddr, message: &[u8]) {
        self.early.truncate(EARLY - 1);
        self.early.push_front(Early { came: self.now, from, message: message.to_vec() });
    }

    fn unknown_session(&mut self, from: SocketAddr) -> Result<(), Reason> {
        if self.unknown.pass(from, self.now) {
            self.core.event(Event::Unknown { from });
        }
        Err(Reason::UnknownSession)
    }

    fn open(
        &mut self,
        snapshot: &Snapshot,
        path: &Arc<Path>,
        from: SocketAddr,
        message: &[u8],
    ) -> Result<(), Reason> {
        let session = &path.session;
        let out = &mut self.scratch[HEADROOM..];
        let report = |event| self.core.event(event);
        let len = session
            .open(from, message, out, &mut self.outbox, report)
            .inspect_err(|_| session.counters.dropped(1))?;
        session.counters.heard(self.core.start, self.now);
        if len == 0 {
            return Ok(());
        }
        let origin = Origin { path: Some(path), from };
        let range = match session.protection {
            Protection::Esp { .. } => Ok(0..len),
            _ => gre::inside(&self.scratch[HEADROOM..HEADROOM + len]),
        };
        let result = range.and_then(|range| {
            self.gre(snapshot, origin, range.start + HEADROOM..range.end + HEADROOM)
        });
        result.inspect_err(|_| origin.dropped())
    }

    /// A packet of a raw socket.
    fn clear(&mut self, snapshot: &Snapshot, from: SocketAddr, packet: &[u8]) {
        let from = SocketAddr::new(from.ip(), 0);
        let origin = Origin { path: snapshot.by_address.get(&from.ip()), from };
        // IPv4 comes with its header, IPv6 without.
        let range = if from.is_ipv4() { gre::inside(packet) } else { Ok(0..packet.len()) };
        let result = range.and_then(|range| {
            let end = HEADROOM + range.len();
            self.scratch[HEADROOM..end].copy_from_slice(&packet[range]);
            if let Some(path) = origin.path {
                path.session.counters.heard(self.core.start, self.now);
            }
            self.gre(snapshot, origin, HEADROOM..end)
        });
        if let Err(reason) = result {
            self.worker.count(reason);
            origin.dropped();
        }
    }

    /// A GRE packet that lies in the scratch buffer.
    fn gre(
        &mut self,
        snapshot: &Snapshot,
        origin: Origin<'_>,
        range: std::ops::Range<usize>,
    ) -> Result<(), Reason> {
        let decoded = gre::decode(&self.scratch[range.clone()], self.core.config.key);
        if decoded == Err(Reason::WrongKey) && self.wrong_keys.pass(origin.from, self.now) {
            let key = gre::key(&self.scratch[range.clone()]);
            self.core.event(Event::WrongKey { from: origin.from, key });
        }
        let (protocol, offset) = decoded?;
        let begin = range.start + offset;
        let payload = &self.scratch[begin..range.end];
        if protocol == Protocol::Nhrp {
            let peer = origin.path.map(|path| path.session.id);
            let packet = payload.to_vec();
            self.core.event(Event::Nhrp { peer, from: origin.from, packet });
            return Ok(());
        }
        let header = Header::parse(payload).ok_or(Reason::Malformed)?;
        if Protocol::of(payload) != protocol {
            return Err(Reason::Malformed);
        }
        let end = begin + header.total_len;
        let sources = origin.path.and_then(|path| path.sources.as_deref());
        let ingress = origin.path.map(|path| path.session.id);
        if let Some(path) = origin.path {
            path.session.counters.received(header.total_len as u64);
        }
        match snapshot.forwarding.arrival(ingress, sources, header.source, header.destination) {
            Arrival::Drop(reason) => Err(reason),
            Arrival::Kernel => {
                let worker = self.worker;
                let packet = &self.scratch[begin..end];
                let queue = origin.path.map_or(0, |path| path.session.queue);
                let mut write =
                    |queue, vnet: &_, packet: &_| worker.deliver_large(queue, vnet, packet);
                self.coalescer.push(queue, &header, packet, &mut write);
                Ok(())
            }
            Arrival::Forward(via) => self.forward(origin, via, protocol, &header, begin..end),
        }
    }

    /// Sends a packet on to another peer.
    fn forward(
        &mut self,
        origin: Origin<'_>,
        via: &Via<Arc<Path>>,
        protocol: Protocol,
        header: &Header,
        range: std::ops::Range<usize>,
    ) -> Result<(), Reason> {
        let path = &via.path;
        if header.total_len > usize::from(path.mtu) && !header.fragmentable {
            self.answer(origin, icmp::Error::TooBig(path.mtu), range);
            return Err(Reason::TooBig);
        }
        if let Some(from) = origin.path
            && self.redirects.pass((from.session.id, header.source, header.destination), self.now)
        {
            let quoted = &self.scratch[range.start..range.end.min(range.start + QUOTE)];
            let event = Event::Redirect { peer: from.session.id, packet: quoted.to_vec() };
            self.core.event(event);
        }
        if !ip::decrement_ttl(&mut self.scratch[range.clone()]) {
            self.answer(origin, icmp::Error::TimeExceeded, range);
            return Err(Reason::TimeExceeded);
        }
        via.packets.fetch_add(1, Relaxed);
        let begin = range.start - path.headers.len();
        let buffer = &mut self.scratch[begin..];
        path.sender(&mut self.outbox).send_from(protocol, buffer, range.len())?;
        path.session.counters.sent(1, range.len() as u64);
        if let Some(from) = origin.path {
            from.session.counters.forwarded();
        }
        Ok(())
    }

    /// Tells the sender of a packet, through the path that it came by, why it cannot go on.
    fn answer(&mut self, origin: Origin<'_>, error: icmp::Error, range: std::ops::Range<usize>) {
        let Some(path) = origin.path else { return };
        let packet = &self.scratch[range];
        let Some(own) = self.core.own_address(packet[0] >> 4 == 4) else { return };
        let rate = self.worker.share.part(ERRORS);
        if !self.errors.take(rate, rate, self.now) {
            return;
        }
        let mut reply = [0; icmp::MAX];
        let mut plain = [0; icmp::MAX + 64];
        if let Some(len) = icmp::error(error, packet, own, &mut reply) {
            let protocol = Protocol::of(&reply);
            let sent = path.send(protocol, &reply[..len], &mut plain, &mut self.outbox);
            if let Err(reason) = sent {
                self.worker.count(reason);
            }
        }
    }
}
