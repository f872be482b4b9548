//! From the kernel to the underlay.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollTimeout;
use overlay::desired::Event;

use super::Snapshot;
use super::counters::Reason;
use super::forward::Departure;
use super::gre::Protocol;
use super::icmp;
use super::ip::Header;
use super::limit::{Bucket, First};
use super::outbox::Outbox;
use super::peers::Path;
use super::segment::{Segments, Vnet};
use super::worker::Worker;

/// The largest packet, with its virtio header.
const LARGEST: usize = Vnet::LEN + 65_535;
/// What a queue may send before the others have their turn: bytes, where each packet counts as
/// many more as sending takes the time of.
const TURN: usize = 64 << 10;
const PACKET: usize = 1 << 10;
/// ICMP errors, and destinations without a path that are told of, per second, of all threads.
const ERRORS: u32 = 100;
const REPORTS: u32 = 100;

/// Carries packets until the data plane stops.
pub(crate) fn run(worker: Worker<'_>) {
    let core = worker.core;
    let mut egress = Egress::new(worker);
    let mut buffer = vec![0; LARGEST];
    let mut ready = Vec::new();
    while !core.stopping() {
        worker.wait(EpollTimeout::NONE, &mut ready);
        egress.now = Instant::now();
        let snapshot = core.snapshot.load();
        let mut gone = false;
        for &queue in &ready {
            gone |= !egress.turn(&snapshot, queue, &mut buffer);
        }
        egress.outbox.flush();
        if gone {
            if worker.share.place == 0 {
                tracing::error!("{} is gone: restart the daemon", core.config.interface);
            }
            core.tun.queues().for_each(|queue| worker.lane.forget(queue));
        }
        // Who fills the queues may wait for this processor: the next batch is larger then.
        std::thread::yield_now();
    }
}

struct Egress<'a> {
    worker: Worker<'a>,
    outbox: Outbox,
    scratch: Vec<u8>,
    now: Instant,
    unroutable: First,
    errors: Bucket,
}

impl<'a> Egress<'a> {
    fn new(worker: Worker<'a>) -> Self {
        let now = Instant::now();
        Self {
            worker,
            outbox: worker.outbox(),
            scratch: vec![0; LARGEST + 64],
            now,
            unroutable: First::new(256, Duration::from_secs(1), worker.share.part(REPORTS), now),
            errors: Bucket::new(worker.share.part(ERRORS), now),
        }
    }

    /// Sends what waits in one queue of the device, up to a turn's worth; `false` when the device
    /// is gone.
    fn turn(&mut self, snapshot: &Snapshot, queue: usize, buffer: &mut [u8]) -> bool {
        let mut sent = 0;
        while sent < TURN {
            match self.worker.core.tun.read(queue, buffer) {
                Ok(len) => {
                    sent += len + PACKET;
                    self.packet(snapshot, &mut buffer[..len]);
                }
                Err(error) => {
                    let passing = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted];
                    return passing.contains(&error.kind());
                }
            }
        }
        true
    }

    fn packet(&mut self, snapshot: &Snapshot, read: &mut [u8]) {
        let Some((vnet, packet)) = read.split_first_chunk_mut() else { return };
        let Some(segments) = Segments::new(Vnet::decode(vnet), packet) else {
            return self.worker.count(Reason::Malformed);
        };
        // It was parsed before.
        let Some(header) = Header::parse(packet) else { return };
        match snapshot.forwarding.departure(header.destination) {
            Departure::Via(via) => {
                via.packets.fetch_add(segments.count() as u64, Relaxed);
                if segments.longest() > usize::from(via.path.mtu) && !header.fragmentable {
                    via.path.session.counters.dropped(1);
                    self.refuse(Reason::TooBig, icmp::Error::TooBig(via.path.mtu), &header, packet);
                } else {
                    self.send(&via.path, packet, &segments);
                }
            }
            Departure::Multicast if snapshot.multicast.is_empty() => {
                self.worker.count(Reason::NoMember);
            }
            Departure::Multicast => {
                for path in &snapshot.multicast {
                    self.send(path, packet, &segments);
                }
            }
            Departure::Unroutable => {
                if self.unroutable.pass(header.destination, self.now) {
                    self.worker.core.event(Event::Unroutable { destination: header.destination });
                }
                self.refuse(Reason::Unroutable, icmp::Error::Unreachable, &header, packet);
            }
        }
    }

    fn send(&mut self, path: &Arc<Path>, packet: &[u8], segments: &Segments) {
        let mut sender = path.sender(&mut self.outbox);
        let longest = segments.longest();
        if sender.room(longest) > self.scratch.len() {
            return self.worker.count(Reason::TooBig);
        }
        let protocol = Protocol::of(packet);
        let mut bytes = 0;
        for index in 0..segments.count() {
            let write = |room: &mut [u8]| segments.write(index, packet, room);
            match sender.send(protocol, longest, &mut self.scratch, write) {
                Ok(len) => bytes += len as u64,
                Err(reason) => {
                    let left = (segments.count() - index) as u64;
                    path.session.counters.dropped(left);
                    path.session.counters.sent(index as u64, bytes);
                    return self.worker.lane.drops.add(reason, left);
                }
            }
        }
        path.session.counters.sent(segments.count() as u64, bytes);
    }

    /// Drops a packet and tells its sender, who is behind the kernel. The error comes from the
    /// packet's destination: the kernel takes none from its own address.
    fn refuse(&mut self, reason: Reason, error: icmp::Error, header: &Header, packet: &[u8]) {
        self.worker.count(reason);
        let rate = self.worker.share.part(ERRORS);
        if !self.errors.take(rate, rate, self.now) {
            return;
        }
        let mut reply = [0; icmp::MAX];
        if let Some(len) = icmp::error(error, packet, header.destination, &mut reply) {
            self.worker.deliver(&reply[..len]);
        }
    }
}
