//! What is to be in the kernel, from the overlay's desired state, and what has to be done about the
//! difference to what is there. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use overlay::desired::{Desired, Esp, Hop, Peer, PeerId, Transport};

use super::nft::Element;
use super::route::octets;
use super::rules::Set;

/// Everything of ours in the kernel that the desired state decides on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tables {
    /// NBMA addresses by tunnel address.
    pub neighbours: BTreeMap<IpAddr, IpAddr>,
    /// Next hops by prefix; none: every destination is a neighbour of its own.
    pub routes: BTreeMap<IpNet, Option<IpAddr>>,
    /// SAs.
    pub associations: BTreeMap<SaId, Association>,
    /// Elements of the sets that the rules look things up in.
    pub elements: BTreeSet<(Set, Element)>,
}

/// What tells one SA from another (RFC 4301 §4.1), and what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SaId {
    pub direction: Direction,
    /// Receiver on the underlay.
    pub to: IpAddr,
    pub spi: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Direction {
    In,
    Out,
}

/// What may change while an SA lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Association {
    /// Sender on the underlay; `None`: whichever own address.
    pub from: Option<IpAddr>,
    /// In UDP: the sender's and the receiver's port.
    pub ports: Option<(u16, u16)>,
}

/// What the desired state does not say.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// Index of the tunnel device.
    pub index: u32,
    /// Own tunnel addresses.
    pub addresses: Vec<IpNet>,
    /// Own NBMA address.
    pub own: Option<IpAddr>,
    /// Own UDP port.
    pub port: u16,
}

/// The hop for an address: longest prefix wins.
pub(crate) fn hop(desired: &Desired, address: IpAddr) -> Option<&Hop> {
    let longest = if address.is_ipv4() { 32 } else { 128 };
    (0..=longest).rev().find_map(|len| {
        let prefix = IpNet::new(address, len).ok()?.trunc();
        desired.forwarding.get(&prefix)
    })
}

/// Where packets for an address are to be sent on the underlay.
pub(crate) fn nbma(desired: &Desired, address: IpAddr) -> Option<IpAddr> {
    let hop = hop(desired, address)?;
    Some(desired.peers.get(&hop.peer)?.endpoint.ip())
}

/// What is to be. `asked`: addresses in the tunnel that the kernel asked for. `confirmed`: paths
/// through which something has come.
pub(crate) fn target(
    context: &Context,
    desired: &Desired,
    asked: &BTreeSet<IpAddr>,
    confirmed: &BTreeSet<PeerId>,
) -> Tables {
    let mut tables = Tables::default();
    let own: BTreeSet<IpAddr> = context.addresses.iter().map(IpNet::addr).collect();
    let inside = |prefix: &IpNet| context.addresses.iter().any(|net| net.contains(prefix));
    let mut neighbour = |address: IpAddr, nbma: IpAddr| {
        if !own.contains(&address) {
            tables.neighbours.insert(address, nbma);
        }
    };
    let mut through: BTreeSet<IpNet> = desired.routes.clone();
    for (prefix, hop) in &desired.forwarding {
        let Some(peer) = desired.peers.get(&hop.peer) else { continue };
        let host = prefix.prefix_len() == prefix.max_prefix_len();
        if host && inside(prefix) {
            neighbour(prefix.addr(), peer.endpoint.ip());
        } else if inside(prefix) && !context.addresses.iter().any(|net| net.trunc() == *prefix) {
            through.insert(*prefix);
        }
    }
    for &address in asked {
        if let Some(nbma) = nbma(desired, address) {
            neighbour(address, nbma);
        }
    }
    for prefix in through {
        let via = hop(desired, prefix.addr())
            .filter(|hop| hop.via.is_ipv4() == prefix.addr().is_ipv4())
            .filter(|hop| !own.contains(&hop.via))
            .and_then(|hop| Some((hop.via, desired.peers.get(&hop.peer)?.endpoint.ip())));
        if let Some((via, nbma)) = via {
            // A neighbour of that name may have a way of its own.
            tables.neighbours.entry(via).or_insert(nbma);
        }
        tables.routes.insert(prefix, via.map(|(via, _)| via));
    }
    associations(context, desired, confirmed, &mut tables);
    elements(context, desired, &mut tables);
    tables
}

/// The path that is sent through, for each NBMA address: the newest that is used or has carried
/// something.
fn senders(desired: &Desired, confirmed: &BTreeSet<PeerId>) -> BTreeMap<IpAddr, PeerId> {
    let mut used: BTreeSet<PeerId> = desired.forwarding.values().map(|hop| hop.peer).collect();
    used.extend(&desired.multicast);
    used.extend(confirmed);
    let mut senders: BTreeMap<IpAddr, PeerId> = BTreeMap::new();
    for (&id, peer) in desired.peers.iter().filter(|(_, peer)| !peer.receive_only) {
        let best = senders.entry(peer.endpoint.ip()).or_insert(id);
        if used.contains(&id) >= used.contains(best) {
            *best = id;
        }
    }
    senders
}

/// Peers that the kernel cannot reach, because another one is behind the same address
/// translator: it chooses an SA by the receiver's address alone.
pub(crate) fn shadowed(desired: &Desired, confirmed: &BTreeSet<PeerId>) -> BTreeSet<PeerId> {
    let senders = senders(desired, confirmed);
    let port = |id: &PeerId| desired.peers.get(id).map(|peer| peer.endpoint.port());
    let shadowed = desired.peers.iter().filter(|(_, peer)| {
        let sender = senders.get(&peer.endpoint.ip());
        !peer.receive_only && sender.and_then(port) != Some(peer.endpoint.port())
    });
    shadowed.map(|(&id, _)| id).collect()
}

/// Of several paths to one NBMA address the kernel takes the newest for what it sends: those that
/// are not to be used yet have no outbound SA.
fn associations(
    context: &Context,
    desired: &Desired,
    confirmed: &BTreeSet<PeerId>,
    tables: &mut Tables,
) {
    let senders = senders(desired, confirmed);
    for (id, peer) in &desired.peers {
        let Transport::Esp(esp) = &peer.transport else { continue };
        let peer_ip = peer.endpoint.ip();
        let port = peer.endpoint.port();
        if let Some(own) = context.own {
            let ports = esp.encapsulated.then_some((port, context.port));
            let id = SaId { direction: Direction::In, to: own, spi: esp.inbound.spi };
            tables.associations.insert(id, Association { from: Some(peer_ip), ports });
        }
        if senders.get(&peer_ip) == Some(id) {
            let ports = esp.encapsulated.then_some((context.port, port));
            let id = SaId { direction: Direction::Out, to: peer_ip, spi: esp.outbound.spi };
            tables.associations.insert(id, Association { from: None, ports });
        }
    }
}

/// The path that an SA belongs to, and its keys.
pub(crate) fn path(desired: &Desired, id: SaId) -> Option<(PeerId, &Peer, &Esp)> {
    desired.peers.iter().find_map(|(&peer_id, peer)| match &peer.transport {
        Transport::Esp(esp) => {
            let keys = match id.direction {
                Direction::In => &esp.inbound,
                Direction::Out => &esp.outbound,
            };
            let to = id.direction == Direction::In || peer.endpoint.ip() == id.to;
            (keys.spi == id.spi && to).then_some((peer_id, peer, esp))
        }
        _ => None,
    })
}

fn elements(context: &Context, desired: &Desired, tables: &mut Tables) {
    for (id, peer) in &desired.peers {
        if let IpAddr::V4(address) = peer.endpoint.ip() {
            let element = Element { key: address.octets().to_vec(), end: None };
            tables.elements.insert((Set::Received, element.clone()));
            tables.elements.insert((Set::Sent, element));
        }
        let Transport::Esp(esp) = &peer.transport else { continue };
        let mark = esp.inbound.spi.to_be_bytes();
        let Some(sources) = desired.sources.get(id) else {
            tables.elements.insert((Set::Trusted, Element { key: mark.to_vec(), end: None }));
            continue;
        };
        let sources: Vec<IpNet> = sources.iter().copied().collect();
        for prefix in IpNet::aggregate(&sources) {
            let set = if prefix.addr().is_ipv4() { Set::Source4 } else { Set::Source6 };
            let key = |address| [&mark[..], &octets(address)].concat();
            let element =
                Element { key: key(prefix.network()), end: Some(key(prefix.broadcast())) };
            tables.elements.insert((set, element));
        }
    }
    for (range, _) in ranges(desired.forwarding.keys().copied()) {
        let (to, from) = match range.0 {
            IpAddr::V4(_) => (Set::To4, Set::From4),
            IpAddr::V6(_) => (Set::To6, Set::From6),
        };
        let element = range_element(context.index, range);
        tables.elements.insert((to, element.clone()));
        tables.elements.insert((from, element));
    }
}

/// The element for a range of addresses of what goes in or out of a device.
pub(crate) fn range_element(index: u32, (first, last): (IpAddr, IpAddr)) -> Element {
    let key = |address| [&index.to_ne_bytes()[..], &octets(address)].concat();
    Element { key: key(first), end: Some(key(last)) }
}

/// Ranges without overlap, each with the longest prefix that contains it.
pub(crate) fn ranges(prefixes: impl Iterator<Item = IpNet>) -> Vec<((IpAddr, IpAddr), IpNet)> {
    let mut all: Vec<IpNet> = prefixes.map(|prefix| prefix.trunc()).collect();
    // Each prefix before those within it.
    all.sort();
    all.dedup();
    let mut ranges = Vec::new();
    let mut open: Vec<IpNet> = Vec::new();
    let mut next = 0;
    let mut push = |first: u128, last: u128, prefix: IpNet| {
        if first <= last {
            let v4 = prefix.addr().is_ipv4();
            ranges.push(((from_number(v4, first), from_number(v4, last)), prefix));
        }
    };
    let close = |next: &mut u128, prefix: IpNet, push: &mut dyn FnMut(u128, u128, IpNet)| {
        let last = number(prefix.broadcast());
        if *next <= last {
            push(*next, last, prefix);
        }
        *next = last.saturating_add(1);
    };
    for prefix in all {
        while let Some(&outer) = open.last()
            && !outer.contains(&prefix)
        {
            close(&mut next, outer, &mut push);
            open.pop();
        }
        let first = number(prefix.network());
        if let Some(&outer) = open.last()
            && next < first
        {
            push(next, first - 1, outer);
        }
        next = first;
        open.push(prefix);
    }
    while let Some(outer) = open.pop() {
        let full = number(outer.broadcast()) == u128::MAX;
        close(&mut next, outer, &mut push);
        if full {
            break;
        }
    }
    ranges
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn from_number(v4: bool, number: u128) -> IpAddr {
    if v4 { Ipv4Addr::from(number as u32).into() } else { Ipv6Addr::from(number).into() }
}

/// What is to be done about one table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Difference<K, V> {
    /// Not there yet.
    pub add: Vec<(K, V)>,
    /// There with another value, which is given first.
    pub change: Vec<(K, V, V)>,
    /// Not to be there.
    pub remove: Vec<(K, V)>,
}

/// Compares what is with what is to be.
pub(crate) fn difference<K: Ord + Copy, V: PartialEq + Copy>(
    actual: &BTreeMap<K, V>,
    target: &BTreeMap<K, V>,
) -> Difference<K, V> {
    let mut difference = Difference { add: Vec::new(), change: Vec::new(), remove: Vec::new() };
    for (&key, &value) in target {
        match actual.get(&key) {
            None => difference.add.push((key, value)),
            Some(&former) if former != value => difference.change.push((key, former, value)),
            Some(_) => {}
        }
    }
    let gone = actual.iter().filter(|(key, _)| !target.contains_key(key));
    difference.remove.extend(gone.map(|(&key, &value)| (key, value)));
    difference
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use overlay::desired::{EspCipher, EspKeys};
    use proptest::prelude::*;
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

    fn plan(desired: &Desired, asked: &[&str]) -> Tables {
        let asked = asked.iter().map(|s| ip(s)).collect();
        target(&context(), desired, &asked, &BTreeSet::new())
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
        let plan = |desired: &Desired, confirmed: &[PeerId]| {
            let confirmed = confirmed.iter().copied().collect();
            target(&context(), desired, &BTreeSet::new(), &confirmed)
        };
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

    #[test]
    fn of_two_peers_behind_one_address_one_is_reached() {
        let mut desired = spoke();
        let at = |port| SocketAddr::new(ip("198.18.2.10"), port);
        let second = PeerId(3);
        desired.peers.insert(B, Peer::new(at(61000), esp(0x102, 0x202)));
        desired.peers.insert(second, Peer::new(at(61001), esp(0x103, 0x203)));
        assert_eq!(shadowed(&desired, &BTreeSet::new()), BTreeSet::from([second]), "not used");
        let hop = Hop { peer: second, via: ip("172.16.0.4") };
        desired.forwarding.insert(net("172.16.0.4/32"), hop);
        assert_eq!(shadowed(&desired, &BTreeSet::new()), BTreeSet::from([B]), "the newer");
        desired.peers.insert(second, Peer::new(at(61000), esp(0x103, 0x203)));
        assert!(shadowed(&desired, &BTreeSet::new()).is_empty(), "it succeeds the other");
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

    fn prefix() -> impl Strategy<Value = IpNet> {
        // Few bits, so that prefixes meet.
        (any::<u8>(), 24u8..=32, any::<bool>()).prop_map(|(host, len, v6)| {
            if v6 {
                IpNet::new(Ipv6Addr::from(u128::from(host)).into(), len + 96).unwrap().trunc()
            } else {
                IpNet::new(Ipv4Addr::from([10, 0, 0, host]).into(), len).unwrap().trunc()
            }
        })
    }

    proptest! {
        #[test]
        fn every_address_is_in_the_range_of_its_longest_prefix(
            prefixes in prop::collection::btree_set(prefix(), 0..12),
            host: u8,
        ) {
            let ranges = ranges(prefixes.iter().copied());
            for address in [IpAddr::from([10, 0, 0, host]), Ipv6Addr::from(u128::from(host)).into()] {
                let longest = prefixes
                    .iter()
                    .filter(|prefix| prefix.contains(&address))
                    .max_by_key(|prefix| prefix.prefix_len());
                let of: Vec<_> = ranges
                    .iter()
                    .filter(|((first, last), _)| (first..=last).contains(&&address))
                    .collect();
                prop_assert!(of.len() <= 1);
                prop_assert_eq!(of.first().map(|(_, prefix)| prefix), longest);
            }
        }

        #[test]
        fn what_is_done_makes_what_is_to_be(
            actual in prop::collection::btree_map(0u8..16, 0u8..4, 0..16),
            target in prop::collection::btree_map(0u8..16, 0u8..4, 0..16),
        ) {
            let difference = difference(&actual, &target);
            let mut result = actual.clone();
            for (key, value) in difference.remove {
                prop_assert_eq!(result.remove(&key), Some(value));
            }
            for (key, former, value) in difference.change {
                prop_assert_ne!(former, value);
                prop_assert_eq!(result.insert(key, value), Some(former));
            }
            for (key, value) in difference.add {
                prop_assert_eq!(result.insert(key, value), None);
            }
            prop_assert_eq!(result, target);
        }
    }

    #[test]
    fn the_whole_of_both_families_has_its_ranges() {
        let all =
            ranges([net("0.0.0.0/0"), net("10.0.0.0/8"), net("::/0"), net("fd00::/8")].into_iter());
        assert_eq!(all.len(), 6, "{all:?}");
    }
}
