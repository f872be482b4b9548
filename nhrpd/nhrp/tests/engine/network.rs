//! A hub and spokes in memory: packets take 10 ms, time jumps to what is due next.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nhrp::engine::{
    Authorization, Binding, Config, Engine, Event, Limits, Nbma, NhsState, Output, Password,
    Refusal, Server, Usage,
};
use nhrp::wire::{Body, Cie, ExtensionBody, Operation, Packet, Query, extension_type};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

pub(crate) const DELAY: Duration = Duration::from_millis(10);
pub(crate) const HOLDING: u64 = 600;

pub(crate) fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

pub(crate) fn nbma(text: &str) -> Nbma {
    ip(text).into()
}

/// Underlay address of node `n`; the hub is 1.
pub(crate) fn underlay(n: u8) -> Nbma {
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, n)).into()
}

/// Tunnel address of node `n`.
pub(crate) fn tunnel(n: u8) -> IpAddr {
    Ipv4Addr::new(172, 16, 0, n).into()
}

/// The prefix behind node `n`.
pub(crate) fn lan(n: u8) -> IpNet {
    IpNet::new(Ipv4Addr::new(192, 168, n, 0).into(), 24).expect("a prefix")
}

/// A host behind node `n`.
pub(crate) fn host(n: u8) -> IpAddr {
    Ipv4Addr::new(192, 168, n, 1).into()
}

fn base(n: u8) -> Config {
    Config {
        address: IpNet::new(tunnel(n), 24).expect("a prefix"),
        nbma: Some(underlay(n).address),
        holding_time: seconds(HOLDING),
        authentication: None,
        servers: Vec::new(),
        maps: Vec::new(),
        advertise: vec![lan(n)],
        unique: true,
        accept_registrations: false,
        redirect: false,
        shortcut: true,
        default_authorization: None,
        limits: Limits::default(),
    }
}

pub(crate) fn hub() -> Config {
    Config {
        accept_registrations: true,
        redirect: true,
        shortcut: false,
        advertise: Vec::new(),
        ..base(1)
    }
}

pub(crate) fn spoke(n: u8) -> Config {
    Config { servers: vec![server(1)], ..base(n) }
}

pub(crate) fn server(n: u8) -> Server {
    Server { address: tunnel(n), nbma: Some(underlay(n)), priority: 1, cluster: 0 }
}

pub(crate) fn password(text: &str) -> Option<Password> {
    Some(Password(text.as_bytes().to_vec()))
}

/// Traffic that the test says there is.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    counts: RefCell<BTreeMap<IpNet, u64>>,
    /// Prefixes that carry a packet whenever somebody looks.
    busy: BTreeSet<IpNet>,
}

impl Usage for Traffic {
    fn packets(&self, prefix: IpNet) -> u64 {
        let mut counts = self.counts.borrow_mut();
        let count = counts.entry(prefix).or_default();
        *count += u64::from(self.busy.contains(&prefix));
        *count
    }
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) engine: Engine,
    pub(crate) events: Vec<Event>,
    pub(crate) traffic: Traffic,
    /// What the events say that the bindings are.
    pub(crate) bindings: BTreeMap<IpNet, Binding>,
    pub(crate) reachable: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) at: Duration,
    pub(crate) from: Nbma,
    pub(crate) to: Nbma,
    pub(crate) packet: Packet,
}

#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) start: Instant,
    pub(crate) now: Instant,
    pub(crate) nodes: BTreeMap<Nbma, Node>,
    /// Inside address → where the others see it.
    pub(crate) translated: BTreeMap<Nbma, Nbma>,
    in_flight: VecDeque<(Instant, Nbma, Nbma, Vec<u8>)>,
    pub(crate) sent: Vec<Sent>,
}

impl Network {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            start: now,
            now,
            nodes: BTreeMap::new(),
            translated: BTreeMap::new(),
            in_flight: VecDeque::new(),
            sent: Vec::new(),
        }
    }

    /// A hub and spokes 2, 3 … who may claim what is theirs, all registered.
    pub(crate) fn with_spokes(spokes: u8) -> Self {
        let mut network = Self::new();
        network.add(underlay(1), hub());
        for n in 2..2 + spokes {
            network.add(underlay(n), spoke(n));
            network.authorize(underlay(1), underlay(n), &[tunnel(n).into(), lan(n)]);
        }
        network.run(seconds(1));
        network
    }

    pub(crate) fn add(&mut self, at: Nbma, config: Config) {
        let seed = u64::from(u32::from_be_bytes(match at.address {
            IpAddr::V4(a) => a.octets(),
            IpAddr::V6(_) => [0; 4],
        }));
        let engine = Engine::new(config, self.now, &mut ChaCha8Rng::seed_from_u64(seed));
        let node = Node {
            engine,
            events: Vec::new(),
            traffic: Traffic::default(),
            bindings: BTreeMap::new(),
            reachable: true,
        };
        self.nodes.insert(at, node);
        self.collect(at);
    }

    pub(crate) fn authorize(&mut self, at: Nbma, peer: Nbma, prefixes: &[IpNet]) {
        let within = Authorization::Within(prefixes.iter().copied().collect());
        self.engine(at).set_authorization(peer, Some(within));
    }

    pub(crate) fn node(&mut self, at: Nbma) -> &mut Node {
        self.nodes.get_mut(&at).expect("a node at that address")
    }

    pub(crate) fn engine(&mut self, at: Nbma) -> &mut Engine {
        &mut self.node(at).engine
    }

    /// Gives an input to a node's engine and collects what it says.
    pub(crate) fn at<T>(&mut self, at: Nbma, input: impl FnOnce(&mut Engine, Instant) -> T) -> T {
        let now = self.now;
        let result = input(self.engine(at), now);
        self.collect(at);
        result
    }

    /// Hands a packet to a node as if `from` had sent it.
    pub(crate) fn inject(&mut self, from: Nbma, to: Nbma, packet: &Packet) {
        let bytes = packet.encode();
        self.at(to, |engine, now| engine.handle_packet(now, from, &bytes));
    }

    /// The node takes another underlay address.
    pub(crate) fn renumber(&mut self, from: Nbma, to: Nbma) {
        let node = self.nodes.remove(&from).expect("a node at that address");
        self.nodes.insert(to, node);
        self.at(to, |engine, now| engine.set_nbma(now, Some(to.address)));
    }

    /// Traffic flows to `prefix` from now on, or stops.
    pub(crate) fn traffic(&mut self, at: Nbma, prefix: IpNet, flows: bool) {
        let busy = &mut self.node(at).traffic.busy;
        if flows {
            busy.insert(prefix);
        } else {
            busy.remove(&prefix);
        }
    }

    /// Takes all that an engine says; its bindings and its events must tell the same.
    fn collect(&mut self, at: Nbma) {
        let seen_as = self.translated.get(&at).copied().unwrap_or(at);
        let (now, start) = (self.now, self.start);
        let node = self.nodes.get_mut(&at).expect("a node at that address");
        while let Some(output) = node.engine.poll_output() {
            match output {
                Output::Transmit { to, packet } => {
                    let decoded = Packet::decode(&packet).expect("engines send valid packets");
                    let sent = Sent { at: now - start, from: seen_as, to, packet: decoded };
                    self.sent.push(sent);
                    self.in_flight.push_back((now + DELAY, seen_as, to, packet));
                }
                Output::Event(event) => {
                    if let Event::BindingChanged { prefix, binding } = &event {
                        match binding {
                            Some(binding) => node.bindings.insert(*prefix, binding.clone()),
                            None => node.bindings.remove(prefix),
                        };
                    }
                    node.events.push(event);
                }
            }
        }
        let told: Vec<Binding> = node.bindings.values().cloned().collect();
        assert_eq!(node.engine.bindings().collect::<Vec<_>>(), told);
    }

    /// Runs for a while.
    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let packet = self.in_flight.front().map(|(at, ..)| *at);
            let timer = self.nodes.values().filter_map(|node| node.engine.poll_timeout()).min();
            let Some(next) = packet.into_iter().chain(timer).min().filter(|next| *next <= end)
            else {
                break;
            };
            self.now = self.now.max(next);
            if packet == Some(next) {
                let (_, from, to, bytes) = self.in_flight.pop_front().expect("just seen");
                self.deliver(from, to, &bytes);
                continue;
            }
            let now = self.now;
            for at in self.nodes.keys().copied().collect::<Vec<_>>() {
                let node = self.node(at);
                if node.engine.poll_timeout().is_some_and(|due| due <= now) {
                    node.engine.handle_timeout(now, &node.traffic);
                    self.collect(at);
                }
            }
        }
        self.now = end;
    }

    fn deliver(&mut self, from: Nbma, to: Nbma, bytes: &[u8]) {
        let inside = self.translated.iter().find(|(_, outside)| **outside == to);
        let to = inside.map_or(to, |(inside, _)| *inside);
        let sender = self.translated.iter().find(|(_, outside)| **outside == from);
        let sender = sender.map_or(from, |(inside, _)| *inside);
        let up = |at: &Nbma| self.nodes.get(at).is_none_or(|node| node.reachable);
        if up(&to) && up(&sender) && self.nodes.contains_key(&to) {
            self.at(to, |engine, now| engine.handle_packet(now, from, bytes));
        }
    }

    /// What was sent since the last call.
    pub(crate) fn take_sent(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.sent)
    }

    pub(crate) fn take_events(&mut self, at: Nbma) -> Vec<Event> {
        std::mem::take(&mut self.node(at).events)
    }

    pub(crate) fn binding(&self, at: Nbma, prefix: IpNet) -> Option<Binding> {
        self.nodes[&at].bindings.get(&prefix).cloned()
    }

    pub(crate) fn refused(&self, at: Nbma, reason: Refusal) -> u64 {
        self.nodes[&at].engine.counters().refused(reason)
    }

    pub(crate) fn nhs(&self, at: Nbma) -> NhsState {
        self.nodes[&at].engine.servers()[0].state
    }

    /// Holds until nothing of this kind is under way: spoke `n` resolves what node `of` has.
    pub(crate) fn resolve(&mut self, n: u8, destination: IpAddr) {
        self.at(underlay(n), |engine, now| engine.resolve(now, destination));
        self.run(seconds(1));
    }
}

pub(crate) fn query(packet: &Packet) -> &Query {
    match &packet.body {
        Body::Query(query) => query,
        other => panic!("not a query: {other:?}"),
    }
}

pub(crate) fn query_mut(packet: &mut Packet) -> &mut Query {
    match &mut packet.body {
        Body::Query(query) => query,
        other => panic!("not a query: {other:?}"),
    }
}

pub(crate) fn error_code(packet: &Packet) -> Option<u16> {
    match &packet.body {
        Body::Error(error) => Some(error.error_code),
        _ => None,
    }
}

/// Those of one operation.
pub(crate) fn of(sent: &[Sent], operation: Operation) -> Vec<&Sent> {
    let is = |s: &&Sent| matches!(&s.packet.body, Body::Query(q) if q.operation == operation);
    sent.iter().filter(is).collect()
}

/// The list of one transit extension, as protocol addresses.
pub(crate) fn listed(packet: &Packet, kind: u16) -> Vec<IpAddr> {
    match packet.extension(kind) {
        Some(ExtensionBody::ForwardTransitNhs(l) | ExtensionBody::ReverseTransitNhs(l)) => {
            l.iter().filter_map(|cie| cie.protocol).collect()
        }
        _ => panic!("no transit list {kind}"),
    }
}

pub(crate) fn responder(packet: &Packet) -> Option<IpAddr> {
    match packet.extension(extension_type::RESPONDER_ADDRESS) {
        Some(ExtensionBody::ResponderAddress(cie)) => cie.as_ref().and_then(|cie| cie.protocol),
        _ => None,
    }
}

/// A request as spoke `n` makes it, taken from a spoke that makes it.
pub(crate) fn registration_of(n: u8) -> Packet {
    let mut network = Network::new();
    network.add(underlay(n), spoke(n));
    network.run(Duration::ZERO);
    of(&network.sent, Operation::RegistrationRequest)[0].packet.clone()
}

/// A Resolution Request of spoke `n`, as it leaves it.
pub(crate) fn resolution_of(n: u8, destination: IpAddr) -> Packet {
    let mut network = Network::with_spokes(n - 1);
    network.take_sent();
    network.at(underlay(n), |engine, now| engine.resolve(now, destination));
    of(&network.sent, Operation::ResolutionRequest)[0].packet.clone()
}

/// A Purge Request by which `n` takes back what `entries` say.
pub(crate) fn purge_of(n: u8, flags: u16, entries: Vec<Cie>) -> Packet {
    let mut packet = registration_of(n);
    let query = query_mut(&mut packet);
    query.operation = Operation::PurgeRequest;
    query.flags = flags;
    query.entries = entries;
    packet
}
