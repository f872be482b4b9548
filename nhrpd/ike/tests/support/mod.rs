//! Nodes with certificates on a network in virtual time that loses, delays, repeats and reorders.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

pub mod credentials;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ike::{
    Algorithms, Config, Engine, Event, KeyLog, Output, SaId, SaInfo, SaState, TunnelId, TunnelKeys,
    TunnelKind, WireGuardKeys,
};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

pub use credentials::{Authority, Credentials, KeyKind};

pub const A: usize = 0;
pub const B: usize = 1;

pub fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub struct Node {
    pub engine: Engine,
    pub credentials: Credentials,
    pub rng: ChaCha20Rng,
    /// Where its datagrams seem to come from.
    pub address: SocketAddr,
    /// Where they seem to come from on SAs that it began itself: a NAT that maps them elsewhere.
    pub mapped: Option<SocketAddr>,
    /// Further addresses that lead to it.
    pub aliases: Vec<SocketAddr>,
    pub events: Vec<Event>,
    /// Keys of what is up, as the events told.
    pub up: BTreeMap<SaId, BTreeMap<TunnelId, TunnelKeys>>,
    /// Tunnels that may carry traffic, as the events told; WireGuard is not among them.
    pub confirmed: BTreeSet<TunnelId>,
    /// The one that was confirmed last: what an overlay sends with.
    pub newest: Option<TunnelId>,
    pub begun: Vec<SaId>,
    /// Time that its engine took for what arrived.
    pub busy: Duration,
    pub key_log: Vec<KeyLog>,
    /// Own SPIs, and the pre-shared keys, that were ever in use.
    spis: BTreeMap<u64, SaId>,
    keys: BTreeSet<Vec<u8>>,
    config: Config,
}

impl Node {
    /// Keys of the only tunnel.
    pub fn tunnel(&self) -> TunnelKeys {
        let mut all = self.up.values().flat_map(BTreeMap::values);
        let keys = all.next().expect("a tunnel").clone();
        assert!(all.next().is_none(), "one tunnel");
        keys
    }

    pub fn established(&self) -> Vec<SaInfo> {
        self.engine.sas().filter(|sa| sa.state == SaState::Established).collect()
    }

    pub fn failures(&self) -> Vec<String> {
        let words = |event: &Event| match event {
            Event::Failed { reason, .. } => Some(reason.0.clone()),
            _ => None,
        };
        self.events.iter().filter_map(words).collect()
    }

    pub fn closings(&self) -> Vec<String> {
        let words = |event: &Event| match event {
            Event::Closed { reason, .. } => Some(reason.clone()),
            _ => None,
        };
        self.events.iter().filter_map(words).collect()
    }

    pub fn drops(&self, reason: ike::DropReason) -> u64 {
        self.engine.drops().find(|(r, _)| *r == reason).unwrap().1
    }
}

#[derive(Clone)]
pub struct Flight {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub datagram: Vec<u8>,
}

pub struct Net {
    pub now: Instant,
    pub nodes: Vec<Node>,
    pub rng: ChaCha20Rng,
    in_flight: BTreeMap<(Instant, u64), Flight>,
    sent: u64,
    /// Ports are those that the engines choose; otherwise each node has one.
    pub ports: bool,
    /// Of 100 datagrams so many are lost, so many come twice.
    pub loss: u32,
    pub duplication: u32,
    pub delay: (Duration, Duration),
    /// Everything that was sent, if switched on.
    pub record: Option<Vec<Flight>>,
}

pub const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

impl Net {
    pub fn new(seed: u64) -> Self {
        Self {
            now: Instant::now(),
            nodes: Vec::new(),
            rng: ChaCha20Rng::seed_from_u64(seed),
            in_flight: BTreeMap::new(),
            sent: 0,
            ports: false,
            loss: 0,
            duplication: 0,
            delay: (ms(10), ms(10)),
            record: None,
        }
    }

    /// Two nodes that trust each other, with Ed25519 keys because those sign deterministically.
    pub fn pair(seed: u64) -> Self {
        Self::pair_of(seed, &Authority::new())
    }

    pub fn pair_of(seed: u64, authority: &Authority) -> Self {
        let mut net = Self::new(seed);
        for name in ["a.example", "b.example"] {
            net.add(authority.issue(name, KeyKind::Ed25519));
        }
        net
    }

    /// Two nodes that can carry these.
    pub fn pair_with(seed: u64, a: &[TunnelKind], b: &[TunnelKind]) -> Self {
        let [a, b] = [a, b].map(|kinds| Config { tunnels: kinds.to_vec(), ..Config::default() });
        Self::pair_as(seed, &Authority::new(), a, b)
    }

    pub fn pair_as(seed: u64, authority: &Authority, a: Config, b: Config) -> Self {
        let mut net = Self::new(seed);
        for (name, config) in [("a.example", a), ("b.example", b)] {
            let credentials = authority.issue(name, KeyKind::Ed25519);
            net.add_with(credentials, config, Algorithms::default());
        }
        net
    }

    pub fn add(&mut self, credentials: Credentials) -> usize {
        self.add_with(credentials, Config::default(), Algorithms::default())
    }

    pub fn add_with(
        &mut self,
        credentials: Credentials,
        mut config: Config,
        algorithms: Algorithms,
    ) -> usize {
        config.algorithms = algorithms;
        let index = self.nodes.len();
        let address = address(&format!("192.0.2.{}:4500", index + 1));
        let mut rng = ChaCha20Rng::seed_from_u64(self.rng.next_u64());
        let mut engine = Engine::new(config.clone());
        engine.update_addresses(self.now, Some(address.ip()), &mut rng);
        self.nodes.push(Node {
            engine,
            config,
            credentials,
            rng,
            address,
            mapped: None,
            aliases: Vec::new(),
            events: Vec::new(),
            up: BTreeMap::new(),
            confirmed: BTreeSet::new(),
            key_log: Vec::new(),
            newest: None,
            begun: Vec::new(),
            busy: Duration::ZERO,
            spis: BTreeMap::new(),
            keys: BTreeSet::new(),
        });
        index
    }

    /// The node starts anew and remembers nothing.
    pub fn restart(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        node.engine = Engine::new(node.config.clone());
        node.engine.update_addresses(self.now, Some(node.address.ip()), &mut node.rng);
        node.confirmed.clear();
        node.events.clear();
        node.up.clear();
        node.begun.clear();
        node.spis.clear();
    }

    pub fn initiate(&mut self, node: usize, peer: usize) -> SaId {
        let remote = self.nodes[peer].address;
        self.initiate_to(node, remote)
    }

    pub fn initiate_to(&mut self, index: usize, remote: SocketAddr) -> SaId {
        let node = &mut self.nodes[index];
        let id = node.engine.initiate(self.now, remote, &node.credentials, &mut node.rng);
        node.begun.push(id);
        self.drain(index);
        id
    }

    pub fn close(&mut self, index: usize, sa: SaId) {
        let node = &mut self.nodes[index];
        node.engine.close(self.now, sa, &mut node.rng);
        self.drain(index);
    }

    /// Gives new keys to the newest CHILD_SA that is up.
    pub fn rekey_child(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some(sa) = node.established().first().map(|sa| sa.id) else { return };
        let Some(tunnel) = node.newest else { return };
        node.engine.rekey_tunnel(self.now, sa, tunnel);
        node.engine.handle_timeout(self.now, &mut node.rng);
        self.drain(index);
    }

    /// Gives new keys to the SA that is up.
    pub fn rekey(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some(sa) = node.established().first().map(|sa| sa.id) else { return };
        node.engine.rekey(self.now, sa, &mut node.rng);
        self.drain(index);
    }

    /// Hands a datagram to a node at once.
    pub fn inject(&mut self, index: usize, from: SocketAddr, datagram: &[u8]) {
        let port = self.nodes[index].config.port;
        self.arrive(index, port, from, datagram);
    }

    fn arrive(&mut self, index: usize, port: u16, from: SocketAddr, datagram: &[u8]) {
        let node = &mut self.nodes[index];
        let at = (port, from);
        let began = Instant::now();
        node.engine.handle_datagram(self.now, at, datagram, &node.credentials, &mut node.rng);
        node.busy += began.elapsed();
        self.drain(index);
    }

    pub fn update_addresses(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let own = Some(node.address.ip());
        node.engine.update_addresses(self.now, own, &mut node.rng);
        self.drain(index);
    }

    fn percent(&mut self, chance: u32) -> bool {
        self.rng.next_u32() % 100 < chance
    }

    pub fn drain(&mut self, index: usize) {
        while let Some(output) = self.nodes[index].engine.poll_output() {
            match output {
                Output::Transmit { port, to, datagram } => {
                    let node = &self.nodes[index];
                    let own_sa = datagram[19] & 0x08 != 0;
                    let mut from = node.mapped.filter(|_| own_sa).unwrap_or(node.address);
                    if self.ports {
                        from.set_port(port);
                    }
                    let flight = Flight { from, to, datagram };
                    if let Some(record) = &mut self.record {
                        record.push(flight.clone());
                    }
                    if self.percent(self.loss) {
                        continue;
                    }
                    self.launch(flight.clone());
                    if self.percent(self.duplication) {
                        self.launch(flight);
                    }
                }
                Output::Event(event) => self.note(index, event),
                Output::KeyLog(line) => self.nodes[index].key_log.push(line),
            }
        }
        let node = &mut self.nodes[index];
        for sa in node.engine.sas() {
            let own = if sa.initiator { sa.initiator_spi } else { sa.responder_spi };
            assert_eq!(*node.spis.entry(own).or_insert(sa.id), sa.id, "an SPI of two SAs");
        }
    }

    fn launch(&mut self, flight: Flight) {
        let (least, most) = self.delay;
        let spread = (most - least).as_micros() as u64 + 1;
        let delay = least + Duration::from_micros(self.rng.next_u64() % spread);
        self.sent += 1;
        self.in_flight.insert((self.now + delay, self.sent), flight);
    }

    fn note(&mut self, index: usize, event: Event) {
        let node = &mut self.nodes[index];
        match &event {
            Event::Established { sa, tunnel, keys, .. } => {
                let tunnels = BTreeMap::from([(*tunnel, keys.clone())]);
                assert!(node.up.insert(*sa, tunnels).is_none(), "established twice");
                for secret in secrets(keys) {
                    assert!(node.keys.insert(secret), "a key of two tunnels");
                }
            }
            Event::Confirmed { sa, tunnel } => {
                assert!(node.up[sa].contains_key(tunnel), "confirmed what is not up");
                node.newest = Some(*tunnel);
                assert!(node.confirmed.insert(*tunnel), "confirmed twice");
            }
            Event::Unkeyed { sa, tunnel, .. } => {
                let tunnels = node.up.get_mut(sa).expect("its SA is up");
                assert!(tunnels.remove(tunnel).is_some(), "unkeyed what was not up");
            }
            Event::Keyed { sa, tunnel, keys, .. } => {
                let tunnels = node.up.get_mut(sa).expect("its SA is up");
                assert!(tunnels.insert(*tunnel, keys.clone()).is_none(), "keyed twice");
                for secret in secrets(keys) {
                    assert!(node.keys.insert(secret), "a key of two tunnels");
                }
            }
            Event::Succeeded { sa, successor, .. } => {
                let tunnels = node.up.remove(sa).expect("succeeded what was not up");
                assert!(node.up.insert(*successor, tunnels).is_none(), "established twice");
            }
            Event::Closed { sa, reason } => {
                assert!(node.up.remove(sa).is_some(), "closed what was not up");
                assert!(!reason.starts_with("rekeyed") || !node.up.is_empty(), "break before make");
            }
            Event::Moved { sa, encapsulated, .. } => {
                for keys in node.up.get_mut(sa).expect("it is up").values_mut() {
                    if let TunnelKeys::Esp(esp) = keys {
                        esp.encapsulated = *encapsulated;
                    }
                }
            }
            Event::Failed { .. } | Event::Unknown { .. } => {}
        }
        node.events.push(event);
    }

    /// Advances to the next thing that happens, not beyond `end`.
    fn step(&mut self, end: Instant) -> bool {
        let arrival = self.in_flight.first_key_value().map(|((at, _), _)| *at);
        let timer = self.nodes.iter().filter_map(|node| node.engine.poll_timeout()).min();
        let Some(next) = arrival.into_iter().chain(timer).min().filter(|next| *next <= end) else {
            self.now = end;
            return false;
        };
        self.now = self.now.max(next);
        if arrival == Some(next) {
            let (_, flight) = self.in_flight.pop_first().unwrap();
            let to = self.nodes.iter().position(|n| {
                n.address == flight.to
                    || n.mapped == Some(flight.to)
                    || n.aliases.contains(&flight.to)
            });
            if let Some(to) = to {
                let port = if self.ports { flight.to.port() } else { self.nodes[to].config.port };
                self.arrive(to, port, flight.from, &flight.datagram);
            }
        }
        for index in 0..self.nodes.len() {
            let node = &mut self.nodes[index];
            if node.engine.poll_timeout().is_some_and(|due| due <= self.now) {
                node.engine.handle_timeout(self.now, &mut node.rng);
                assert!(
                    node.engine.poll_timeout().is_none_or(|due| due > self.now),
                    "a deadline that is always due"
                );
                self.drain(index);
            }
        }
        true
    }

    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
    }

    /// What is under way and fits the description never arrives.
    pub fn drop_in_flight(&mut self, lost: impl Fn(&Flight) -> bool) {
        self.in_flight.retain(|_, flight| !lost(flight));
    }

    /// Until nothing is in flight; bounded.
    pub fn settle(&mut self) {
        let end = self.now + secs(60);
        while !self.in_flight.is_empty() {
            assert!(self.step(end), "the network does not become quiet");
        }
    }

    /// One SA is up between A and B, the same on both sides, with the same keys, and each side's
    /// events tell the same story.
    pub fn assert_one_sa(&self) {
        let [a, b] = [A, B].map(|index| {
            let node = &self.nodes[index];
            let established = node.established();
            assert_eq!(established.len(), 1, "node {index}: {established:#?}\n{:#?}", node.events);
            let up: Vec<_> = node.up.keys().copied().collect();
            assert_eq!(up, [established[0].id], "events and tables of node {index}");
            for begun in &node.begun {
                let ends = |event: &Event| match event {
                    Event::Established { sa, .. } | Event::Failed { sa, .. } => sa == begun,
                    _ => false,
                };
                let outcomes = node.events.iter().filter(|event| ends(event)).count();
                assert_eq!(
                    outcomes, 1,
                    "outcomes of {begun:?} on node {index}: {:#?}",
                    node.events
                );
            }
            established.into_iter().next().unwrap()
        });
        assert_eq!(a.initiator_spi, b.initiator_spi, "the two sides kept different SAs");
        assert_eq!(a.responder_spi, b.responder_spi);
        assert_ne!(a.initiator, b.initiator);
        assert_eq!(a.suite, b.suite);
        assert_keys(&self.nodes[A].tunnel(), &self.nodes[B].tunnel());
    }

    pub fn assert_no_sa(&self) {
        for (index, node) in self.nodes.iter().enumerate() {
            assert!(node.up.is_empty(), "node {index} has {:?}", node.up.keys());
            assert_eq!(node.established().len(), 0, "node {index}");
        }
    }
}

/// What no other tunnel may have.
pub fn secrets(keys: &TunnelKeys) -> Vec<Vec<u8>> {
    match keys {
        TunnelKeys::WireGuard(keys) => vec![keys.preshared_key.to_vec()],
        TunnelKeys::Esp(esp) => {
            [&esp.inbound, &esp.outbound].map(|keys| keys.encryption.to_vec()).into()
        }
    }
}

/// The two sides can speak with these.
pub fn assert_keys(a: &TunnelKeys, b: &TunnelKeys) {
    match (a, b) {
        (TunnelKeys::WireGuard(a), TunnelKeys::WireGuard(b)) => assert_wireguard(a, b),
        (TunnelKeys::Esp(a), TunnelKeys::Esp(b)) => {
            assert_eq!((a.cipher, a.esn, a.encapsulated), (b.cipher, b.esn, b.encapsulated));
            assert_eq!((&a.inbound, &a.outbound), (&b.outbound, &b.inbound));
            assert_ne!(a.inbound.encryption, a.outbound.encryption);
            let lens = (a.inbound.encryption.len(), a.inbound.integrity.len());
            assert_eq!(lens, a.cipher.key_lens());
        }
        _ => panic!("two kinds: {a:?} {b:?}"),
    }
}

fn assert_wireguard(a: &WireGuardKeys, b: &WireGuardKeys) {
    let public = |keys: &WireGuardKeys| {
        let private = aws_lc_rs::agreement::PrivateKey::from_private_key(
            &aws_lc_rs::agreement::X25519,
            &keys.private_key[..],
        );
        private.unwrap().compute_public_key().unwrap().as_ref().to_vec()
    };
    assert_eq!(public(a), b.peer_public_key);
    assert_eq!(public(b), a.peer_public_key);
    assert_eq!(a.preshared_key, b.preshared_key);
    assert_ne!(*a.preshared_key, [0; 32]);
}
