//! The engine under a script of bytes: a hub, two spokes and a stranger in one network that loses,
//! repeats and reorders, with crafted packets and operators' commands in between. After each step
//! what must always hold is checked.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nhrp::engine::{
    Authorization, Binding, BindingKind, Config, Engine, Event, Limits, Nbma, Output, Server, Usage,
};
use nhrp::wire::{
    Body, Cie, Extension, ExtensionBody, Family, NbmaAddress, Operation, Packet, Query,
    TrafficIndication,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

const CACHE: usize = 6;
const OPERATIONS: [Operation; 6] = [
    Operation::ResolutionRequest,
    Operation::ResolutionReply,
    Operation::RegistrationRequest,
    Operation::RegistrationReply,
    Operation::PurgeRequest,
    Operation::PurgeReply,
];

/// Runs one script.
pub(crate) fn script(bytes: &[u8]) {
    let mut world = World::new();
    let mut script = Script(bytes);
    while let Some(step) = script.byte() {
        world.step(step, &mut script);
        world.check();
    }
    world.settle();
}

struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A number below `limit`.
    fn below(&mut self, limit: usize) -> usize {
        usize::from(self.byte().unwrap_or(0)) % limit
    }

    fn take(&mut self, length: usize) -> &[u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// Every shortcut carries traffic half of the time.
#[derive(Default)]
struct Traffic(Cell<u64>);

impl Usage for Traffic {
    fn packets(&self, _: IpNet) -> u64 {
        self.0.set(self.0.get() + 1);
        self.0.get() / 2
    }
}

struct Node {
    at: Nbma,
    engine: Engine,
    bindings: BTreeMap<IpNet, Binding>,
}

struct World {
    now: Instant,
    nodes: Vec<Node>,
    traffic: Traffic,
    in_flight: Vec<(Nbma, Nbma, Vec<u8>)>,
    /// What was sent, to be forged.
    seen: Vec<Packet>,
}

fn underlay(n: u8) -> Nbma {
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, n)).into()
}

fn tunnel(n: u8) -> IpAddr {
    Ipv4Addr::new(172, 16, 0, n).into()
}

fn lan(n: u8) -> IpNet {
    IpNet::new_assert(Ipv4Addr::new(192, 168, n, 0).into(), 24)
}

fn host(n: u8) -> IpAddr {
    Ipv4Addr::new(192, 168, n, 1).into()
}

/// Spoke `n` is proven to be itself at its two underlay addresses.
fn places(n: u8) -> [Nbma; 2] {
    [underlay(n), underlay(n + 10)]
}

fn config(n: u8) -> Config {
    let hub = Server { address: tunnel(1), nbma: Some(underlay(1)), priority: 0, cluster: 0 };
    Config {
        address: IpNet::new_assert(tunnel(n), 24),
        nbma: Some(underlay(n).address),
        holding_time: Duration::from_secs(60),
        authentication: None,
        servers: if n == 1 { vec![] } else { vec![hub] },
        maps: vec![],
        advertise: vec![lan(n)],
        unique: true,
        accept_registrations: n == 1,
        redirect: n == 1,
        shortcut: n != 1,
        default_authorization: None,
        limits: Limits { cache_entries: CACHE, pending: 4, ..Limits::default() },
    }
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let nodes = (1..=3)
            .map(|n| {
                let rng = &mut ChaCha8Rng::seed_from_u64(n.into());
                let mut engine = Engine::new(config(n), now, rng);
                for peer in (2..=3).filter(|peer| *peer != n) {
                    for place in places(peer) {
                        let within = [tunnel(peer).into(), lan(peer)].into();
                        engine.set_authorization(place, Some(Authorization::Within(within)));
                    }
                }
                Node { at: underlay(n), engine, bindings: BTreeMap::new() }
            })
            .collect();
        let traffic = Traffic::default();
        let mut world = Self { now, nodes, traffic, in_flight: Vec::new(), seen: vec![] };
        world.advance(Duration::ZERO);
        world.deliver_all();
        world
    }

    fn step(&mut self, step: u8, script: &mut Script<'_>) {
        // Forgeries find more than the rest: with what they forge they get half of the steps.
        let who = usize::from(step >> 5) % 3;
        let step = match step & 0x1f {
            step @ 0..=15 => step,
            16..=19 => 6,
            _ => 14,
        };
        let now = self.now;
        let engine = &mut self.nodes[who].engine;
        match step {
            0 => self.deliver_all(),
            1 => self.deliver(script, true),
            2 => self.deliver(script, false),
            3 if !self.in_flight.is_empty() => {
                let lost = script.below(self.in_flight.len());
                self.in_flight.swap_remove(lost);
            }
            4 => self.advance(Duration::from_millis(100)),
            5 => self.advance(Duration::from_secs(script.below(64) as u64)),
            6 => {
                // Anew, so that there is a request whose reply can be forged.
                engine.clear_shortcuts();
                engine.resolve(now, address(script));
                self.collect();
                for _ in 0..script.below(4) {
                    let packets = std::mem::take(&mut self.in_flight);
                    packets.into_iter().for_each(|packet| self.hand_over(packet));
                }
            }
            7 => {
                let mut packet = vec![0x45; 28];
                let (IpAddr::V4(from), IpAddr::V4(to)) = (address(script), address(script)) else {
                    return;
                };
                packet[12..16].copy_from_slice(&from.octets());
                packet[16..20].copy_from_slice(&to.octets());
                engine.redirect(now, place(script), &packet);
            }
            8 if who > 0 => {
                // The spoke moves to its other address.
                let [one, other] = places(who as u8 + 1);
                let node = &mut self.nodes[who];
                node.at = if node.at == one { other } else { one };
                node.engine.set_nbma(now, Some(node.at.address));
            }
            9 => engine.path_down(now, place(script), "the script says so"),
            10 => engine.path_up(now, place(script)),
            11 => match script.below(4) {
                0 => engine.clear_cache(),
                1 => engine.clear_shortcuts(),
                _ => engine.clear_peer(now, address(script)),
            },
            12 => {
                let length = script.below(256);
                let bytes = script.take(length).to_vec();
                let from = self.stranger_to(who, script);
                self.nodes[who].engine.handle_packet(now, from, &bytes);
            }
            13 => {
                let packet = Self::craft(script).encode();
                let from = self.stranger_to(who, script);
                self.nodes[who].engine.handle_packet(now, from, &packet);
            }
            14 => {
                let packet = self.forge(script).encode();
                let from = self.stranger_to(who, script);
                self.nodes[who].engine.handle_packet(now, from, &packet);
            }
            15 if script.below(32) == 0 => engine.shutdown(now),
            _ => {}
        }
        self.collect();
    }

    /// From where a packet may come to this node; the hub itself does not lie.
    fn stranger_to(&self, who: usize, script: &mut Script<'_>) -> Nbma {
        let from = place(script);
        if from == underlay(1) || from == self.nodes[who].at { underlay(9) } else { from }
    }

    fn craft(script: &mut Script<'_>) -> Packet {
        let kind = script.below(8);
        let source_nbma = place(script).address.into();
        let (source, destination) = (Some(address(script)), Some(address(script)));
        let body = match OPERATIONS.get(kind) {
            Some(operation) => Body::Query(Query {
                operation: *operation,
                flags: u16::from(script.byte().unwrap_or(0)) << 8,
                request_id: script.below(4) as u32,
                source_nbma,
                source_protocol: source,
                destination_protocol: destination,
                entries: (0..script.below(3)).map(|_| cie(script)).collect(),
            }),
            None => Body::Traffic(TrafficIndication {
                source_nbma,
                source_protocol: source,
                destination_protocol: destination,
                packet: script.take(20).to_vec(),
                ..TrafficIndication::default()
            }),
        };
        let extensions = (0..script.below(3))
            .map(|_| {
                let body = match script.below(5) {
                    0 => ExtensionBody::ResponderAddress(Some(cie(script))),
                    1 => ExtensionBody::ForwardTransitNhs(vec![cie(script)]),
                    2 => ExtensionBody::ReverseTransitNhs(vec![cie(script)]),
                    3 => ExtensionBody::NatAddress(vec![cie(script)]),
                    _ => ExtensionBody::Unknown { kind: 77, value: vec![1] },
                };
                Extension { compulsory: script.below(2) == 0, body }
            })
            .collect();
        Packet::new(Family::V4, Family::V4, script.below(4) as u8, body, extensions)
    }

    /// A packet that was seen, with up to three fields changed.
    fn forge(&self, script: &mut Script<'_>) -> Packet {
        let recent = self.seen.len().saturating_sub(16);
        let mut packet = self.seen[recent + script.below(self.seen.len() - recent)].clone();
        for _ in 0..script.below(4) {
            let Body::Query(query) = &mut packet.body else { break };
            let entry = query.entries.first_mut();
            match (script.below(9), entry) {
                (0, _) => query.source_protocol = Some(address(script)),
                (1, _) => query.destination_protocol = Some(address(script)),
                (2, _) => query.operation = OPERATIONS[script.below(6)],
                (3, _) => query.flags ^= 0x8000 >> script.below(5),
                (4, Some(entry)) => entry.protocol = Some(address(script)),
                (5, Some(entry)) => entry.prefix_length = cie(script).prefix_length,
                (6, Some(entry)) => entry.nbma = place(script).address.into(),
                (7, _) => query.entries.push(cie(script)),
                (_, Some(entry)) => entry.code = 0,
                (_, None) => packet.hop_count = script.below(3) as u8,
            }
        }
        packet
    }

    fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        loop {
            let due = self.nodes.iter().filter_map(|node| node.engine.poll_timeout()).min();
            let Some(due) = due.filter(|due| *due <= end) else { break };
            self.now = self.now.max(due);
            for node in &mut self.nodes {
                node.engine.handle_timeout(self.now, &self.traffic);
                let next = node.engine.poll_timeout();
                assert!(next.is_none_or(|next| next > self.now), "what was due was not done");
            }
            self.collect();
        }
        self.now = end;
    }

    fn deliver(&mut self, script: &mut Script<'_>, again: bool) {
        if self.in_flight.is_empty() {
            return;
        }
        let which = script.below(self.in_flight.len());
        let packet = match again && self.in_flight.len() < 64 {
            true => self.in_flight[which].clone(),
            false => self.in_flight.swap_remove(which),
        };
        self.hand_over(packet);
    }

    fn deliver_all(&mut self) {
        for _ in 0..64 {
            let packets = std::mem::take(&mut self.in_flight);
            if packets.is_empty() {
                return;
            }
            packets.into_iter().for_each(|packet| self.hand_over(packet));
        }
        panic!("packets breed packets");
    }

    fn hand_over(&mut self, (from, to, bytes): (Nbma, Nbma, Vec<u8>)) {
        let now = self.now;
        if let Some(node) = self.nodes.iter_mut().find(|node| node.at == to) {
            node.engine.handle_packet(now, from, &bytes);
        }
        self.collect();
    }

    fn collect(&mut self) {
        for node in &mut self.nodes {
            while let Some(output) = node.engine.poll_output() {
                match output {
                    Output::Transmit { to, packet } => {
                        let decoded = Packet::decode(&packet).expect("engines send valid packets");
                        assert!(decoded.hop_count > 0);
                        self.seen.push(decoded);
                        self.in_flight.push((node.at, to, packet));
                    }
                    Output::Event(Event::BindingChanged { prefix, binding: Some(binding) }) => {
                        node.bindings.insert(prefix, binding);
                    }
                    Output::Event(Event::BindingChanged { prefix, binding: None }) => {
                        assert!(node.bindings.remove(&prefix).is_some(), "{prefix} was not there");
                    }
                    Output::Event(_) => {}
                }
            }
        }
    }

    fn check(&self) {
        for (index, node) in self.nodes.iter().enumerate() {
            let engine = &node.engine;
            let told: Vec<Binding> = node.bindings.values().cloned().collect();
            assert_eq!(engine.bindings().collect::<Vec<_>>(), told, "events and bindings differ");
            // Own prefixes, a server, and requests under way stand beside the cache.
            assert!(engine.cache().len() <= CACHE + 2 + 1 + 4);
            for binding in told {
                self.check_binding(index as u8 + 1, &binding);
            }
        }
    }

    /// Whoever says what: what is spoke 2's or 3's leads to it, and nothing covers what is ours.
    fn check_binding(&self, n: u8, binding: &Binding) {
        let own = [IpNet::from(tunnel(n)), lan(n)];
        assert!(!own.iter().any(|own| binding.prefix.contains(own)), "node {n}: {binding:?}");
        for owner in 2..=3 {
            let theirs = [IpNet::from(tunnel(owner)), lan(owner)];
            if !theirs.iter().any(|net| net.contains(&binding.prefix)) {
                continue;
            }
            assert!(
                theirs.iter().any(|net| net.contains(&binding.next_hop)),
                "node {n}: {binding:?} is not {owner}'s"
            );
            if binding.kind == BindingKind::Registered {
                assert!(places(owner).contains(&binding.nbma), "node {n}: {binding:?}");
            }
        }
        if binding.kind == BindingKind::Shortcut {
            assert!(binding.prefix.prefix_len() >= 8);
        }
    }

    /// Left alone, all that was learnt dies or is renewed, and time passes.
    fn settle(&mut self) {
        for _ in 0..200 {
            self.advance(Duration::from_secs(1));
            self.deliver_all();
        }
        self.check();
    }
}

fn place(script: &mut Script<'_>) -> Nbma {
    underlay([1, 2, 3, 9, 12, 13][script.below(6)])
}

fn address(script: &mut Script<'_>) -> IpAddr {
    let n = script.below(4) as u8 + 1;
    match script.below(3) {
        0 => tunnel(n),
        1 => host(n),
        _ => Ipv4Addr::new(10, 0, 0, script.below(32) as u8).into(),
    }
}

fn cie(script: &mut Script<'_>) -> Cie {
    let nbma = match script.below(3) {
        0 => NbmaAddress::default(),
        _ => place(script).address.into(),
    };
    Cie {
        code: [0, 0, 0, 4, 12, 14][script.below(6)],
        prefix_length: [0xff, 0, 24, 16, 8, 1, 32, 33][script.below(8)],
        holding_time: [0, 1, 60, 0xffff][script.below(4)],
        preference: script.below(2) as u8,
        nbma,
        protocol: (script.below(5) > 0).then(|| address(script)),
        ..Cie::default()
    }
}
