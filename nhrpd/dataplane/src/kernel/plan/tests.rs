use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use overlay::desired::{EspCipher, EspKeys};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};
use zeroize::Zeroizing;

use super::*;

const HUB: PeerId = PeerId(1);
const B: PeerId = PeerId(2);

fn net(s: &str) -> IpNet {
    s.parse().unwrap()
}

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn at(s: &str) -> SocketAddr {
    SocketAddr::new(ip(s), 4500)
}

fn context() -> Context {
    Context {
        index: 7,
        addresses: vec![net("172.16.0.2/24")],
        own: Some(ip("198.18.1.10")),
        port: 4500,
    }
}

/// A spoke with a hub, and a shortcut to spoke B.
fn spoke() -> Desired {
    let hub = Hop { peer: HUB, via: ip("172.16.0.1") };
    let b = Hop { peer: B, via: ip("172.16.0.3") };
    Desired {
        peers: BTreeMap::from([
            (HUB, Peer::new(at("198.18.0.10"), Transport::Clear)),
            (B, Peer::new(at("198.18.2.10"), Transport::Clear)),
        ]),
        forwarding: BTreeMap::from([
            (net("172.16.0.1/32"), hub),
            (net("172.16.0.0/24"), hub),
            (net("192.168.0.0/16"), hub),
            (net("172.16.0.3/32"), b),
            (net("192.168.2.0/24"), b),
        ]),
        routes: BTreeSet::from([net("192.168.0.0/16"), net("192.168.2.0/24")]),
        ..Desired::default()
    }
}

fn planned(desired: &Desired, confirmed: &[PeerId]) -> Plan {
    let mut plan = Plan::new(context());
    plan.update(desired, &Changes::between(&Desired::default(), desired));
    confirmed.iter().for_each(|&id| assert!(plan.confirm(id)));
    plan
}

fn plan(desired: &Desired, asked: &[&str]) -> Tables {
    let mut plan = planned(desired, &[]);
    asked.iter().for_each(|s| plan.ask(ip(s)));
    plan.whole()
}

#[test]
fn prefixes_are_routes_and_hosts_in_the_tunnel_are_neighbours() {
    let tables = plan(&spoke(), &[]);
    assert_eq!(
        tables.routes,
        BTreeMap::from([
            (net("192.168.0.0/16"), Some(ip("172.16.0.1"))),
            (net("192.168.2.0/24"), Some(ip("172.16.0.3"))),
        ])
    );
    assert_eq!(
        tables.neighbours,
        BTreeMap::from([
            (ip("172.16.0.1"), ip("198.18.0.10")),
            (ip("172.16.0.3"), ip("198.18.2.10")),
        ])
    );
}

#[test]
fn who_is_not_known_yet_is_reached_through_the_server() {
    let tables = plan(&spoke(), &["172.16.0.9", "10.0.0.1", "172.16.0.2"]);
    assert_eq!(tables.neighbours.get(&ip("172.16.0.9")), Some(&ip("198.18.0.10")));
    assert_eq!(tables.neighbours.get(&ip("10.0.0.1")), None, "no way");
    assert_eq!(tables.neighbours.get(&ip("172.16.0.2")), None, "ourselves");
}

/// A route of others may have him as its next hop long after NHRP gave up.
#[test]
fn the_server_stands_in_for_a_time_only() {
    let mut plan = planned(&spoke(), &[]);
    let asked = [ip("172.16.0.9"), ip("172.16.0.3")];
    asked.iter().for_each(|&address| plan.ask(address));
    plan.take_marked();
    plan.forget_asked();
    let marked = plan.take_marked();
    assert_eq!(marked.neighbours, BTreeSet::from(asked));
    let left = plan.at(&marked).neighbours;
    assert_eq!(left, BTreeMap::from([(ip("172.16.0.3"), ip("198.18.2.10"))]), "who is known stays");
}

#[test]
fn a_route_without_a_path_stays_in_the_tunnel() {
    let mut desired = spoke();
    desired.forwarding.clear();
    let tables = plan(&desired, &[]);
    assert_eq!(tables.routes[&net("192.168.2.0/24")], None);
    assert!(tables.neighbours.is_empty());
}

fn esp(inbound: u32, outbound: u32) -> Transport {
    let keys = |spi| EspKeys {
        spi,
        encryption: Zeroizing::new(vec![0; 36]),
        integrity: Zeroizing::default(),
    };
    Transport::Esp(Esp {
        cipher: EspCipher::Aes256Gcm16,
        esn: true,
        encapsulated: false,
        lifetime: Duration::from_secs(7200),
        inbound: keys(inbound),
        outbound: keys(outbound),
    })
}

fn encapsulated(mut transport: Transport) -> Transport {
    if let Transport::Esp(esp) = &mut transport {
        esp.encapsulated = true;
    }
    transport
}

fn spis(tables: &Tables, direction: Direction) -> Vec<u32> {
    let of = |id: &&SaId| id.direction == direction;
    tables.associations.keys().filter(of).map(|id| id.spi).collect()
}

#[test]
fn a_successor_sends_when_it_is_used_or_has_carried_something() {
    let mut desired = spoke();
    let hub = at("198.18.0.10");
    desired.peers = BTreeMap::from([(HUB, Peer::new(hub, esp(0x100, 0x200)))]);
    let successor = PeerId(9);
    let plan = |desired: &Desired, confirmed: &[PeerId]| planned(desired, confirmed).whole();
    let alone = plan(&desired, &[]);
    assert_eq!(
        (spis(&alone, Direction::In), spis(&alone, Direction::Out)),
        (vec![0x100], vec![0x200])
    );

    desired.peers.insert(successor, Peer::new(hub, esp(0x101, 0x201)));
    let both = plan(&desired, &[]);
    assert_eq!(spis(&both, Direction::In), [0x100, 0x101]);
    assert_eq!(spis(&both, Direction::Out), [0x200]);
    assert_eq!(spis(&plan(&desired, &[successor]), Direction::Out), [0x201]);

    for hop in desired.forwarding.values_mut() {
        hop.peer = successor;
    }
    desired.peers.get_mut(&HUB).unwrap().receive_only = true;
    let moved = plan(&desired, &[]);
    assert_eq!(spis(&moved, Direction::In), [0x100, 0x101]);
    assert_eq!(spis(&moved, Direction::Out), [0x201]);
}

/// Both have their SAs and their neighbours: the second by an alias.
#[test]
fn two_peers_behind_one_address_are_reached() {
    let mut desired = spoke();
    let second = PeerId(3);
    let translated = |port, spi: u32| {
        let transport = encapsulated(esp(0x100 + spi, 0x200 + spi));
        Peer::new(SocketAddr::new(ip("198.18.2.10"), port), transport)
    };
    desired.peers.insert(B, translated(61000, 2));
    desired.peers.insert(second, translated(61001, 3));
    let hop = Hop { peer: second, via: ip("172.16.0.4") };
    desired.forwarding.insert(net("172.16.0.4/32"), hop);
    desired.forwarding.insert(net("192.168.3.0/24"), hop);
    let tables = plan(&desired, &[]);
    let alias = ip("240.0.0.1");
    assert_eq!(tables.neighbours[&ip("172.16.0.3")], ip("198.18.2.10"));
    assert_eq!(tables.neighbours[&ip("172.16.0.4")], alias);
    let sent: BTreeMap<_, _> = tables
        .associations
        .iter()
        .filter(|(id, _)| id.direction == Direction::Out)
        .map(|(id, sa)| (id.spi, (id.to, sa.ports)))
        .collect();
    assert_eq!(sent[&0x202], (ip("198.18.2.10"), Some((4500, 61000))));
    assert_eq!(sent[&0x203], (alias, Some((4500, 61001))));
    let received = SaId { direction: Direction::In, spi: 0x103, to: ip("198.18.1.10") };
    assert_eq!(tables.associations[&received].from, Some(ip("198.18.2.10")), "as it is sent");
    let of = |set| tables.elements.iter().filter(move |(s, _)| *s == set).map(|(_, e)| e.clone());
    let mapping = |key: &[u8], to| Element { key: key.to_vec(), end: Some(octets(ip(to))) };
    assert!(of(Set::AliasIn).eq([mapping(&[0, 0, 1, 3], "240.0.0.1")]));
    assert!(of(Set::AliasOut).eq([mapping(&[240, 0, 0, 1], "198.18.2.10")]));
    assert!(of(Set::Sent).any(|element| element.key == octets(alias)), "counted apart");
    assert_eq!(tables.receivers()[&alias], (ip("198.18.2.10"), Some(61001)));
}

#[test]
fn a_peer_of_no_server_may_use_its_own_sources_only() {
    let mut desired = spoke();
    desired.peers = BTreeMap::from([
        (HUB, Peer::new(at("198.18.0.10"), esp(0x100, 0x200))),
        (B, Peer::new(at("198.18.2.10"), esp(0x102, 0x202))),
    ]);
    desired.sources = BTreeMap::from([(B, [net("192.168.2.0/24")].into())]);
    let tables = plan(&desired, &[]);
    let of = |set| tables.elements.iter().filter(move |(s, _)| *s == set).map(|(_, e)| e);
    assert_eq!(of(Set::Trusted).next().unwrap().key, [0, 0, 1, 0]);
    let source = of(Set::Source4).next().unwrap();
    assert_eq!(source.key, [0, 0, 1, 2, 192, 168, 2, 0]);
    assert_eq!(source.end.as_deref(), Some(&[0, 0, 1, 2, 192, 168, 2, 255][..]));
}

/// A few peers, places and prefixes, so that they meet.
struct Dice(ChaCha8Rng);

impl Dice {
    fn below(&mut self, limit: u32) -> u32 {
        self.0.next_u32() % limit
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u32) as usize].clone()
    }

    fn peer(&mut self, id: PeerId) -> Peer {
        let nbma = [ip("198.18.0.10"), ip("198.18.2.10"), ip("2001:db8::1")];
        let endpoint = SocketAddr::new(self.of(&nbma), self.of(&[4500, 61000]));
        let transport = match self.below(4) {
            0 => Transport::Clear,
            1 => encapsulated(esp(0x100 + id.0, 0x200 + id.0)),
            // A peer gives an SPI to one of us only, and we one to each.
            _ => esp(0x100 + id.0, 0x200 + id.0),
        };
        Peer { receive_only: self.below(5) == 0, ..Peer::new(endpoint, transport) }
    }

    fn prefix(&mut self) -> IpNet {
        let all = [
            "172.16.0.0/24 172.16.0.1/32 172.16.0.2/32 172.16.0.3/32 172.16.0.4/30 172.16.0.5/32",
            "192.168.0.0/16 192.168.2.0/24 192.168.2.0/32 192.168.3.0/24 0.0.0.0/0 fd00::/8",
            "fd00:1::/64",
        ];
        let all: Vec<&str> = all.iter().flat_map(|line| line.split(' ')).collect();
        net(self.of(&all))
    }

    /// Something happens to the desired state.
    fn change(&mut self, desired: &mut Desired) {
        let id = PeerId(self.below(6) + 1);
        let prefix = self.prefix();
        match self.below(9) {
            0 | 1 => {
                let peer = self.peer(id);
                desired.peers.insert(id, peer);
            }
            2 => drop(desired.peers.remove(&id)),
            3 | 4 => {
                let via = self.of(&["172.16.0.1", "172.16.0.2", "172.16.0.3", "fd00:1::3"]);
                desired.forwarding.insert(prefix, Hop { peer: id, via: ip(via) });
            }
            5 => drop(desired.forwarding.remove(&prefix)),
            6 if !desired.routes.remove(&prefix) => drop(desired.routes.insert(prefix)),
            7 if !desired.multicast.remove(&id) => drop(desired.multicast.insert(id)),
            8 if desired.sources.remove(&id).is_none() => {
                let sources = [self.prefix(), self.prefix()];
                desired.sources.insert(id, sources.into());
            }
            _ => {}
        }
    }
}

/// Whatever happens in whatever order: who looks at the marked entries only has what who looks at
/// all of them has.
#[test]
fn what_changes_leads_where_the_whole_does() {
    for seed in 0..100 {
        let mut dice = Dice(ChaCha8Rng::seed_from_u64(seed));
        let mut plan = Plan::new(context());
        let mut desired = Desired::default();
        let mut tables = Tables::default();
        for _ in 0..60 {
            let former = desired.clone();
            for _ in 0..=dice.below(3) {
                dice.change(&mut desired);
            }
            plan.update(&desired, &Changes::between(&former, &desired));
            match dice.below(6) {
                0 => plan.ask(ip(dice.of(&["172.16.0.2", "172.16.0.7", "172.16.0.3"]))),
                1 => drop(plan.confirm(PeerId(dice.below(6) + 1))),
                2 => plan.set_own(Some(ip(dice.of(&["198.18.1.10", "198.18.1.11"])))),
                _ => {}
            }
            let keys = plan.take_marked();
            let target = plan.at(&keys);
            let Tables { neighbours, routes, associations, elements } = &mut tables;
            neighbours.retain(|key, _| !keys.neighbours.contains(key));
            neighbours.extend(target.neighbours);
            routes.retain(|key, _| !keys.routes.contains(key));
            routes.extend(target.routes);
            associations.retain(|key, _| !keys.associations.contains(key));
            associations.extend(target.associations);
            elements.retain(|key| !keys.elements.contains(key));
            elements.extend(target.elements);
            assert_eq!(tables, plan.whole(), "seed {seed}");
            let sent = tables.associations.keys().filter(|id| id.direction == Direction::Out);
            let sent: Vec<IpAddr> = sent.map(|id| id.to).collect();
            let places = sent.iter().collect::<BTreeSet<_>>();
            assert_eq!(places.len(), sent.len(), "seed {seed}: one SA for each");
            assert_eq!(plan.desired(), &desired, "seed {seed}");
        }
        let mut fresh = Plan::new(context());
        fresh.update(&desired, &Changes::between(&Desired::default(), &desired));
        // Where somebody is depends on who came first.
        fresh.places = plan.places.clone();
        fresh.set_own(plan.own());
        plan.confirmed.iter().for_each(|&id| assert!(fresh.confirm(id)));
        plan.asked.iter().for_each(|&address| fresh.ask(address));
        assert_eq!(tables, fresh.whole(), "seed {seed}: from nothing");
    }
}

/// With thousands of peers, one more marks no more than with a few.
#[test]
fn what_one_more_peer_costs_does_not_depend_on_their_number() {
    let mut plan = Plan::new(Context { addresses: vec![net("172.16.0.1/16")], ..context() });
    let mut desired = Desired::default();
    for n in 2..5000u32 {
        let host = IpAddr::from(Ipv4Addr::from(0xac10_0000 + n));
        let nbma = Ipv4Addr::from(0x0a00_0000 + n);
        let id = PeerId(n);
        desired.peers.insert(id, Peer::new((nbma, 0).into(), Transport::Clear));
        desired.forwarding.insert(host.into(), Hop { peer: id, via: host });
        let changes = Changes { peers: [id].into(), prefixes: [host.into()].into() };
        plan.update(&desired, &changes);
        let Keys { neighbours, routes, associations, elements } = plan.take_marked();
        let marked = neighbours.len() + routes.len() + associations.len() + elements.len();
        assert!(marked <= 8, "peer {n}: {marked}");
    }
    plan.update(&desired, &Changes::between(&desired, &desired));
    assert_eq!(plan.take_marked(), Keys::default(), "nothing changed");
}
