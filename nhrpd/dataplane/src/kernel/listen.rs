//! What the kernel tells: misses, NHRP, IKE, what our rules log, expiries.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use overlay::desired::{Event, PeerId};
use zeroize::Zeroize as _;

use super::ike::Datagram;
use super::socket::Heard;
use super::state::Gone;
use super::tables::Direction;
use super::untold::{News, Untold};
use super::wire::{Message, messages};
use super::xfrm::Told;
use super::{Core, log, packet, route, rules, xfrm};
use crate::userspace::counters::Reason;
use crate::userspace::limit::{First, IkeGate};

/// Datagrams taken from one socket before the others have their turn.
const BATCH: usize = 64;
/// Copies of multicast after which the others have their turn.
const COPIES: usize = 1024;
/// One change of a routing daemon is many notifications.
const SETTLE: Duration = Duration::from_millis(50);
/// How many peers of a former run are told of in one go, and when the next ones are.
const ADOPTED: usize = 8;
const PACE: Duration = Duration::from_millis(100);
/// The same address is reported again after this.
const UNROUTABLE: Duration = Duration::from_secs(1);

/// Runs until the data plane stops.
pub(crate) fn run(core: &Core) {
    let now = Instant::now();
    let mut listening = Listening {
        core,
        buffer: vec![0; 64 << 10],
        datagram: Vec::new(),
        ike: IkeGate::new(now),
        unroutable: First::new(1024, UNROUTABLE, 200, now),
        resync_at: None,
        untold: Untold::default(),
        overrun: [false; 3],
        pace_at: Some(now + PACE),
    };
    while !core.stopping.load(Relaxed) {
        listening.wait();
        listening.netlink();
        listening.nhrp();
        listening.ike();
        listening.due();
    }
}

struct Listening<'a> {
    core: &'a Core,
    buffer: Vec<u8>,
    datagram: Vec<u8>,
    ike: IkeGate,
    unroutable: First,
    /// Something of ours may have been changed by others.
    resync_at: Option<Instant>,
    untold: Untold,
    /// Sockets of which the kernel throws messages away until all that are waiting are read.
    overrun: [bool; 3],
    /// The overlay is to be told of more peers of the former run.
    pace_at: Option<Instant>,
}

impl Listening<'_> {
    fn wait(&self) {
        let core = self.core;
        let state = core.state().deadline();
        let own = [self.resync_at, self.untold.deadline(), self.pace_at];
        let deadline = own.into_iter().chain([state]).flatten().min();
        let timeout = deadline.map_or(PollTimeout::NONE, |deadline| {
            // Round up, or the last millisecond would be spent turning round.
            let left = deadline.saturating_duration_since(Instant::now());
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = vec![
            PollFd::new(core.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(core.route.as_fd(), PollFlags::POLLIN),
            PollFd::new(core.log.as_fd(), PollFlags::POLLIN),
            PollFd::new(core.packets.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(core.xfrm.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        let ike = core.ike.sockets().iter();
        fds.extend(ike.map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        let _ = nix::poll::poll(&mut fds, timeout);
        let _ = core.wake.read();
    }

    fn netlink(&mut self) {
        let core = self.core;
        let mut datagram = std::mem::take(&mut self.datagram);
        let sockets = [Some(&core.route), core.xfrm.as_ref(), Some(&core.log)];
        for (which, socket) in sockets.into_iter().enumerate() {
            let Some(socket) = socket else { continue };
            let mut copies = 0;
            for _ in 0..BATCH {
                if copies > COPIES {
                    break;
                }
                match socket.listen(&mut datagram) {
                    Heard::Nothing => {
                        if std::mem::take(&mut self.overrun[which]) {
                            self.changed();
                        }
                        break;
                    }
                    Heard::Overrun => {
                        self.overrun[which] = true;
                        self.changed();
                    }
                    Heard::Datagram => {
                        for message in messages(&datagram) {
                            match which {
                                0 => self.route(message),
                                1 => self.xfrm(message),
                                _ => copies += self.logged(message),
                            }
                        }
                        if which == 1 {
                            // Who hears of SAs hears their keys.
                            datagram.zeroize();
                        }
                    }
                }
            }
        }
        self.datagram = datagram;
    }

    fn changed(&mut self) {
        self.resync_at.get_or_insert(Instant::now() + SETTLE);
    }

    fn route(&mut self, message: Message<'_>) {
        let mut state = self.core.state();
        let index = state.index();
        if message.kind == route::RTM_GETNEIGH {
            let Some(destination) = route::solicited(index, message.payload) else { return };
            state.miss(destination);
            drop(state);
            self.unroutable(destination);
            return;
        }
        if state.is_own_port(message.port) {
            return;
        }
        let ours = |address| state.has_neighbour(address);
        let concerned = route::concerns(index, message.kind, message.payload, ours);
        drop(state);
        if concerned {
            self.changed();
        }
    }

    /// The overlay finds the way, or a better one than through the server.
    fn unroutable(&mut self, destination: IpAddr) {
        if self.unroutable.pass(destination, Instant::now()) {
            self.core.event(Event::Unroutable { destination });
        }
    }

    fn xfrm(&mut self, message: Message<'_>) {
        let core = self.core;
        let mut state = core.state();
        if state.is_own_port(message.port) {
            return;
        }
        match xfrm::told(message.kind, message.payload, state.reqid()) {
            Some(Told::Expired(id)) if id.direction == Direction::In => {
                let Some(peer) = state.confirm(id) else { return };
                // What comes through it may be answered through it.
                state.converge();
                let place = state.plan().place(peer);
                drop(state);
                core.event(Event::Up { peer });
                if let Some(place) = place {
                    core.send(packet::PROBE, place, &[]);
                }
            }
            Some(Told::Expired(id)) => {
                let peer = state.plan().path(id).map(|(peer, ..)| peer);
                drop(state);
                self.tell(News::Expiring, peer);
            }
            Some(Told::Moved { spi, to }) => {
                let peer = state.plan().by_spi(spi);
                drop(state);
                if let Some(peer) = peer {
                    core.event(Event::Moved { peer, endpoint: to });
                }
            }
            Some(Told::Removed { spi }) if !state.has_association(spi) => {}
            Some(Told::Removed { .. } | Told::Flushed) => {
                drop(state);
                self.changed();
            }
            None => {}
        }
    }

    fn tell(&mut self, news: News, peers: impl IntoIterator<Item = PeerId>) {
        self.untold.tell(Instant::now(), news, peers, |event| self.core.event(event));
    }

    /// How many copies it took.
    fn logged(&mut self, message: Message<'_>) -> usize {
        let core = self.core;
        let mut state = core.state();
        if !state.is_own_port(message.port) && state.hear_of_rules(message.kind, message.payload) {
            drop(state);
            self.changed();
            return 0;
        }
        drop(state);
        match log::packet(message.kind, message.payload) {
            Some((rules::REDIRECT, packet)) => {
                let Some(source) = source(packet) else { return 0 };
                let peer = core.state().plan().hop(source).map(|(hop, _)| hop.peer);
                if let Some(peer) = peer {
                    core.event(Event::Redirect { peer, packet: packet.to_vec() });
                }
            }
            Some((rules::MULTICAST, packet)) => return self.copy(packet),
            _ => {}
        }
        0
    }

    /// A copy for each member; how many.
    fn copy(&self, packet: &[u8]) -> usize {
        let core = self.core;
        let state = core.state();
        let plan = state.plan();
        let members: BTreeSet<IpAddr> =
            plan.desired().multicast.iter().filter_map(|&id| plan.place(id)).collect();
        drop(state);
        if members.is_empty() {
            core.drops.count(Reason::NoMember);
        }
        let mut packet = packet.to_vec();
        packet::complete(&mut packet);
        let protocol = match packet.first().map(|first| first >> 4) {
            Some(4) => packet::IPV4,
            Some(6) => packet::IPV6,
            _ => return 0,
        };
        for &member in &members {
            core.send(protocol, member, &packet);
        }
        members.len()
    }

    fn nhrp(&mut self) {
        let core = self.core;
        for _ in 0..BATCH {
            let origin = match core.packets.receive(&mut self.buffer) {
                Ok(origin) => origin,
                Err(error) if error.kind() == std::io::ErrorKind::InvalidData => continue,
                Err(_) => return,
            };
            let state = core.state();
            let peer = match core.config.clear {
                true => state.plan().newest(origin.nbma),
                // The mark has the SPI as it stood in the packet.
                false => state.plan().by_spi(u32::from_be_bytes(origin.mark.to_ne_bytes())),
            };
            let endpoint = peer.and_then(|peer| state.endpoint(peer));
            drop(state);
            if peer.is_none() && !core.config.clear {
                core.drops.count(Reason::UnknownPeer);
                continue;
            }
            let from = endpoint.unwrap_or((origin.nbma, 0).into());
            let packet = self.buffer[..origin.len.min(self.buffer.len())].to_vec();
            core.event(Event::Nhrp { peer, from, packet });
        }
    }

    fn ike(&mut self) {
        let core = self.core;
        for socket in core.ike.sockets() {
            for _ in 0..BATCH {
                let Datagram { len, from, to } = match socket.receive(&mut self.buffer) {
                    Ok(datagram) => datagram,
                    Err(error) if error.kind() == std::io::ErrorKind::InvalidData => continue,
                    Err(_) => break,
                };
                let Some(message) = self.buffer[..len].strip_prefix(socket.marker()) else {
                    core.drops.count(Reason::UnknownDatagram);
                    continue;
                };
                if !core.ike.is_own(to) {
                    tracing::debug!("IKE from {from} to {to}, which is not our NBMA address");
                    core.drops.count(Reason::OtherAddress);
                    continue;
                }
                if !self.ike.admits(&core.events, from.ip(), message, Instant::now()) {
                    core.drops.count(Reason::IkeRate);
                    continue;
                }
                let datagram = message.to_vec();
                core.event(Event::Ike { port: socket.port(), from, datagram });
            }
        }
    }

    fn due(&mut self) {
        let now = Instant::now();
        if self.resync_at.is_some_and(|at| at <= now) {
            self.resync_at = None;
            let mut state = self.core.state();
            let found = state.resync().map(|lost| (lost, state.used_up()));
            drop(state);
            match found {
                Ok((lost, used_up)) => {
                    self.tell(News::Down, lost);
                    self.tell(News::Expiring, used_up);
                }
                Err(Gone) => self.core.gone.notify_one(),
            }
        }
        self.untold.try_again(now, |event| self.core.event(event));
        if self.pace_at.is_some_and(|at| at <= now) {
            self.pace_at = self.adopted().then_some(now + PACE);
        }
        let mut state = self.core.state();
        if state.deadline().is_some_and(|at| at <= now) {
            state.handle_timeout(now);
        }
    }

    /// Tells the overlay of some peers that a former run left behind, and has it find the ways to
    /// what is behind them; `true`: there are more.
    fn adopted(&mut self) -> bool {
        let core = self.core;
        let mut state = core.state();
        let inherited = state.inherited();
        let some = inherited.peers.len().saturating_sub(ADOPTED);
        let peers = inherited.peers.split_off(some);
        let all = inherited.destinations.clone();
        let found: Vec<IpAddr> = all
            .into_iter()
            .filter(|&destination| state.plan().hop(destination).is_some())
            .take(ADOPTED)
            .collect();
        let inherited = state.inherited();
        for destination in &found {
            inherited.destinations.remove(destination);
        }
        let more = !inherited.peers.is_empty() || !inherited.destinations.is_empty();
        drop(state);
        for endpoint in peers {
            core.event(Event::Adopted { endpoint });
        }
        for destination in found {
            core.event(Event::Unroutable { destination });
        }
        more
    }
}

fn source(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => route::address(packet.get(12..16)?),
        6 => route::address(packet.get(8..24)?),
        _ => None,
    }
}
