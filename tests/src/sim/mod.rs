//! A simulator: any number of [`overlay::Overlay`]s in virtual time, over a network that loses,
//! delays, reorders, duplicates and translates addresses. One seed gives one run.
//!
//! Time jumps from one event to the next, so that an hour of a quiet network costs nothing. NHRP,
//! IKEv2 and the certificates are the real ones; the data plane is a model of it ([`Payload`]).
//! After every step the invariants hold (`invariants.rs`) or the run stops. A run that ends in a
//! panic prints its seed and what happened last.
//!
//! ```
//! use std::time::Duration;
//! use overlay_tests::sim::{Domain, Sim, Weather};
//!
//! let mut sim = Sim::new(1, Weather::fair(Duration::from_millis(10)));
//! let nodes = Domain::default().build(&mut sim, 2);
//! sim.run_for(Duration::from_secs(5));
//! assert_eq!(sim.registrations(nodes.hub), 4); // two addresses, two LANs
//! ```

mod domain;
mod invariants;
mod network;
mod node;
mod packet;
mod plane;
mod trace;
mod traffic;
mod tunnel;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use overlay::desired::Event;
use overlay::{Now, Output, Overlay};
use rand_chacha::ChaCha12Rng;
use rand_core::{Rng as _, SeedableRng as _};

pub use domain::{Domain, Nodes, address_of, host_of, lan_of, tunnel_address_of};
pub use network::{INTERNET, Nat, Network, RealmId, Weather};
pub use node::Blueprint;
pub use packet::{Arrival, Fate, IpPacket, TTL};
pub use plane::{Counters, EspPacket, Inner, Payload};
pub use traffic::{Flow, FlowId};
pub use tunnel::{Key, Message};

use invariants::Guard;
use network::Path;
use node::Node;
use plane::Action;
use trace::{Entry, Trace};

/// Index of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(pub usize);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

/// UDP port of every node.
pub const PORT: u16 = 4500;

/// Time of day when a run begins: 2026-11-21 00:00:00 UTC.
pub const WALL: Duration = Duration::from_secs(1_795_219_200);

/// What is to happen.
#[derive(Debug)]
enum Happening {
    /// A datagram arrives; its sender, where that is a node.
    Arrive(Option<NodeId>, Path, Payload),
    /// The next packet of a flow.
    Flow(FlowId),
}

/// A run.
pub struct Sim {
    seed: u64,
    start: Instant,
    now: Instant,
    rng: ChaCha12Rng,
    /// The underlay.
    pub network: Network,
    nodes: Vec<Node>,
    /// What arrives at a moment comes before what is sent at it.
    queue: BTreeMap<(Instant, bool, u64), Happening>,
    sequence: u64,
    timers: BTreeSet<(Instant, NodeId)>,
    fates: Vec<Fate>,
    flows: Vec<Flow>,
    /// Payloads that went over the underlay, by kind.
    seen: BTreeMap<&'static str, u64>,
    guard: Guard,
    trace: Trace,
    recording: Option<Vec<(SocketAddr, SocketAddr, Payload)>>,
}

impl Sim {
    /// An empty network.
    pub fn new(seed: u64, weather: Weather) -> Self {
        // Any instant will do: everything is relative to it.
        let start = Instant::now();
        Self {
            seed,
            start,
            now: start,
            rng: ChaCha12Rng::seed_from_u64(seed),
            network: Network::new(weather),
            nodes: Vec::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            timers: BTreeSet::new(),
            fates: Vec::new(),
            flows: Vec::new(),
            seen: BTreeMap::new(),
            guard: Guard::default(),
            trace: Trace::default(),
            recording: None,
        }
    }

    /// Time since the start of the run.
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Every node of the run.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len()).map(NodeId)
    }

    /// How many payloads of a kind went over the underlay: `ike`, `wireguard`, `esp`, `gre`.
    pub fn seen(&self, kind: &str) -> u64 {
        self.seen.get(kind).copied().unwrap_or(0)
    }

    /// A number that depends on the seed only, below `limit`.
    pub fn random(&mut self, limit: u64) -> u64 {
        self.rng.next_u64() % limit.max(1)
    }

    /// One of these, by chance.
    pub fn pick<T: Clone>(&mut self, among: &[T]) -> T {
        let at = self.random(among.len() as u64);
        among[usize::try_from(at).expect("below a length")].clone()
    }

    /// Whether a chance of so many thousandths comes true.
    pub fn chance(&mut self, thousandths: u64) -> bool {
        self.random(1000) < thousandths
    }

    /// Writes a line into the log of the run.
    pub fn log(&mut self, words: impl Into<String>) {
        self.trace.add(self.now - self.start, Entry::Deed(words.into()));
    }

    /// The log of the run's last events.
    pub fn transcript(&self) -> String {
        self.trace.to_string()
    }

    /// Puts a datagram on the Internet as if `from` had sent it: replays, garbage.
    pub fn inject(&mut self, from: SocketAddr, to: SocketAddr, payload: &Payload) {
        self.launch(None, Path { realm: INTERNET, from, to }, payload);
    }

    /// Keeps every datagram from now on.
    pub fn record(&mut self) {
        self.recording = Some(Vec::new());
    }

    /// Every datagram since [`Self::record`], which ends: sender and receiver as the Internet saw
    /// them, and what was in it.
    pub fn recording(&mut self) -> Vec<(SocketAddr, SocketAddr, Payload)> {
        self.recording.take().unwrap_or_default()
    }

    /// Runs for some time.
    pub fn run_for(&mut self, time: Duration) {
        self.run_while(time, |_| true);
    }

    /// Runs until `done`, and says how long that took; `None` where it does not within `limit`.
    pub fn run_until(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Option<Duration> {
        let began = self.now;
        self.run_while(limit, |sim| !done(sim));
        done(self).then(|| self.now - began)
    }

    fn run_while(&mut self, limit: Duration, mut busy: impl FnMut(&Self) -> bool) {
        let end = self.now + limit;
        while busy(self) {
            if !self.step(end) {
                self.now = end;
                return;
            }
        }
    }

    /// The next thing that happens before `end`.
    fn step(&mut self, end: Instant) -> bool {
        let event = self.queue.first_key_value().map(|(&(at, ..), _)| at);
        let timer = self.timers.first().map(|&(at, _)| at);
        let Some(at) = [event, timer].into_iter().flatten().min().filter(|&at| at <= end) else {
            return false;
        };
        self.now = self.now.max(at);
        self.guard.step(self.now);
        if event == Some(at) {
            match self.queue.pop_first() {
                Some((_, Happening::Arrive(origin, path, payload))) => {
                    self.arrive(origin, path, payload);
                }
                Some((_, Happening::Flow(id))) => self.flow_due(id),
                None => {}
            }
        } else if let Some((_, id)) = self.timers.first().copied() {
            self.timeout(id);
        }
        true
    }

    fn schedule(&mut self, at: Instant, happening: Happening) {
        self.sequence += 1;
        let departs = matches!(happening, Happening::Flow(_));
        self.queue.insert((at, departs, self.sequence), happening);
    }

    fn clock(&self, id: NodeId) -> Now {
        let wall = self.nodes[id.0].wall_at_start + self.elapsed();
        Now { instant: self.now, wall }
    }

    fn timeout(&mut self, id: NodeId) {
        let now = self.clock(id);
        if let Some(live) = &mut self.nodes[id.0].live {
            live.overlay.handle_timeout(now, &live.plane, &mut self.rng);
            let actions = live.plane.handle_timeout(self.now);
            self.act(id, actions);
        }
        self.settle(id);
    }

    /// Gives a node's overlay something, and carries its outputs on.
    pub fn with(&mut self, id: NodeId, act: impl FnOnce(&mut Overlay, Now, &mut ChaCha12Rng)) {
        let now = self.clock(id);
        if let Some(live) = &mut self.nodes[id.0].live {
            act(&mut live.overlay, now, &mut self.rng);
        }
        self.settle(id);
    }

    fn arrive(&mut self, origin: Option<NodeId>, path: Path, payload: Payload) {
        let Some((id, from)) = self.network.receiver(self.now, path) else { return };
        if origin.is_some_and(|origin| self.network.is_cut(origin, id)) {
            return;
        }
        let Some(live) = &mut self.nodes[id.0].live else { return };
        let actions = match payload {
            Payload::Ike(datagram) => {
                vec![Action::Event(Event::Ike { port: PORT, from, datagram })]
            }
            Payload::WireGuard(key, message) => live.plane.receive(self.now, from, key, message),
            Payload::Esp(packet) => live.plane.receive_esp(self.now, from, packet),
            Payload::Gre(inner) => live.plane.receive_clear(self.now, from, inner),
        };
        self.act(id, actions);
        self.settle(id);
        self.check_transit(id);
    }

    /// Carries out what a node's data plane wants.
    fn act(&mut self, id: NodeId, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send(to, payload) => self.transmit(id, to, &payload),
                Action::Event(event) => {
                    let now = self.clock(id);
                    if let Some(live) = &mut self.nodes[id.0].live {
                        live.overlay.handle_event(now, event, &mut self.rng);
                    }
                }
                Action::Deliver(packet) => self.deliver(id, &packet),
                Action::Drop(packet, reason) => self.dropped(id, &packet, reason),
            }
        }
    }

    /// Carries the outputs of a node on until there is none, sessions before the packets that use
    /// them, as the daemon does.
    fn settle(&mut self, id: NodeId) {
        let now = self.clock(id);
        while let Some(live) = &mut self.nodes[id.0].live {
            let mut actions = Vec::new();
            let changed = match live.overlay.poll_desired(now) {
                Some(_) => {
                    actions = live.plane.apply(self.now, live.overlay.desired());
                    true
                }
                None => false,
            };
            let mut notices = Vec::new();
            while let Some(output) = live.overlay.poll_output() {
                match output {
                    Output::Ike { to, datagram, .. } => {
                        actions.push(Action::Send(to, Payload::Ike(datagram)));
                    }
                    Output::Nhrp { peer, packet } => {
                        actions.extend(live.plane.seal(self.now, peer, Inner::Nhrp(packet)));
                    }
                    Output::Notice(notice) => notices.push(notice),
                    Output::Took(..) | Output::KeyLog(_) => {}
                }
            }
            let deadline = [live.overlay.poll_timeout(), live.plane.poll_timeout()];
            self.arm(id, deadline.into_iter().flatten().min());
            for notice in notices {
                self.note(id, notice);
            }
            if changed {
                self.check(id);
            } else if actions.is_empty() {
                return;
            }
            self.act(id, actions);
        }
    }

    /// Sets when a node wants to be called next.
    fn arm(&mut self, id: NodeId, deadline: Option<Instant>) {
        let armed = &mut self.nodes[id.0].deadline;
        if *armed != deadline {
            self.timers.extend(deadline.map(|at| (at, id)));
            if let Some(at) = std::mem::replace(armed, deadline) {
                self.timers.remove(&(at, id));
            }
        }
    }

    fn transmit(&mut self, id: NodeId, to: SocketAddr, payload: &Payload) {
        self.check_secrecy(id, payload);
        let blueprint = &self.nodes[id.0].blueprint;
        let from = SocketAddr::new(blueprint.address, PORT);
        let path = Path { realm: blueprint.realm, from, to };
        // GRE and bare ESP have no ports to translate.
        let translatable = match payload {
            Payload::Gre(_) => false,
            Payload::Esp(packet) => packet.encapsulated,
            Payload::Ike(_) | Payload::WireGuard(..) => true,
        };
        if let Some(path) = self.network.leave(self.now, path, translatable) {
            self.launch(Some(id), path, payload);
        }
    }

    fn launch(&mut self, origin: Option<NodeId>, path: Path, payload: &Payload) {
        *self.seen.entry(payload.kind()).or_default() += 1;
        self.guard.launched(self.now, self.nodes.len(), payload);
        if origin.is_some() {
            self.guard.sealed(payload);
        }
        let copies = self.network.weather.copies(&mut self.rng);
        if let Payload::Gre(Inner::Ip(packet)) = payload {
            self.fates[packet.number as usize].copies += copies.saturating_sub(1);
        }
        if let Some(recording) = &mut self.recording {
            recording.push((path.from, path.to, payload.clone()));
        }
        let entry = Entry::Sent(path.from, path.to, copies, payload.clone());
        self.trace.add(self.elapsed(), entry);
        for _ in 0..copies {
            let at = self.now + self.network.weather.latency(&mut self.rng);
            self.schedule(at, Happening::Arrive(origin, path, payload.clone()));
        }
    }
}

impl Payload {
    fn kind(&self) -> &'static str {
        match self {
            Self::Ike(_) => "ike",
            Self::WireGuard(..) => "wireguard",
            Self::Esp(_) => "esp",
            Self::Gre(_) => "gre",
        }
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}what happened last, seed {}:\n", self.trace, self.seed);
        }
    }
}

fn wall() -> SystemTime {
    UNIX_EPOCH + WALL
}
