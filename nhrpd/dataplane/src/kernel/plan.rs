//! What is to be in the kernel, from the overlay's desired state. Pure.
//!
//! Every entry of the [`Tables`] is a function of its key, and a change marks the keys whose entries
//! may be others now: what it costs to follow a change does not depend on how many peers there are.
//! All keys together give the whole.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use overlay::desired::{Changes, Desired, Esp, EspKeys, Hop, Peer, PeerId, Transport};

use super::nft::Element;
use super::places::{Places, Seat};
use super::ranges::{self, Range};
use super::route::{address, octets};
use super::rules::Set;
use super::tables::{Association, Direction, Keys, SaId, Tables};

/// Addresses in the tunnel that the kernel asked for and that the server stands for.
const ASKED: usize = 1024;

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

/// The plan, and which of its entries may differ from those last asked for.
#[derive(Debug)]
pub(crate) struct Plan {
    context: Context,
    desired: Desired,
    /// Addresses in the tunnel that the kernel asked for.
    asked: BTreeSet<IpAddr>,
    /// Paths through which something has come.
    confirmed: BTreeSet<PeerId>,
    places: Places,
    by_spi: BTreeSet<(Direction, u32, PeerId)>,
    by_hop: BTreeSet<(PeerId, IpNet)>,
    by_via: BTreeSet<(IpAddr, IpNet)>,
    marked: Keys,
}

impl Plan {
    pub(crate) fn new(context: Context) -> Self {
        Self {
            places: Places::new(context.port),
            context,
            desired: Desired::default(),
            asked: BTreeSet::new(),
            confirmed: BTreeSet::new(),
            by_spi: BTreeSet::new(),
            by_hop: BTreeSet::new(),
            by_via: BTreeSet::new(),
            marked: Keys::default(),
        }
    }

    /// The desired state that is planned for.
    pub(crate) fn desired(&self) -> &Desired {
        &self.desired
    }

    /// Own NBMA address.
    pub(crate) fn own(&self) -> Option<IpAddr> {
        self.context.own
    }

    /// Another own NBMA address: every SA that receives is another one.
    pub(crate) fn set_own(&mut self, own: Option<IpAddr>) {
        let places = self.places.all();
        self.mark_all(&places, &BTreeSet::new());
        self.context.own = own;
        self.mark_all(&places, &BTreeSet::new());
    }

    /// What a former run left has these places, until the next call.
    pub(crate) fn keep(&mut self, kept: BTreeMap<IpAddr, Seat>) {
        self.places.keep(kept);
    }

    /// Another desired state, which differs from the last one by `changes` at most.
    pub(crate) fn update(&mut self, next: &Desired, changes: &Changes) {
        let former = &self.desired;
        let changes = Changes {
            peers: changes.peers.iter().copied().filter(|id| differs(id, former, next)).collect(),
            prefixes: changes
                .prefixes
                .iter()
                .copied()
                .filter(|prefix| {
                    former.forwarding.get(prefix) != next.forwarding.get(prefix)
                        || former.routes.contains(prefix) != next.routes.contains(prefix)
                })
                .collect(),
        };
        let places: BTreeMap<PeerId, Option<IpAddr>> =
            changes.peers.iter().map(|&id| (id, self.places.of(id))).collect();
        self.mark_around(&changes);
        self.index(&changes, false);
        changes.carry(next, &mut self.desired);
        self.places.update(&changes.peers, &self.desired.peers);
        self.index(&changes, true);
        self.mark_around(&changes);
        let moved = places.into_iter().filter(|&(id, former)| self.places.of(id) != former);
        let behind = moved.flat_map(|(id, _)| self.prefixes(id)).collect();
        self.mark_all(&BTreeSet::new(), &behind);
        for id in &changes.peers {
            if !self.desired.peers.contains_key(id) {
                self.confirmed.remove(id);
            }
        }
    }

    /// The kernel asks for a neighbour.
    pub(crate) fn ask(&mut self, address: IpAddr) {
        if self.asked.len() >= ASKED {
            self.forget_asked();
        }
        self.asked.insert(address);
        self.marked.neighbours.insert(address);
    }

    /// Whoever is still used is asked for again.
    pub(crate) fn forget_asked(&mut self) {
        self.marked.neighbours.append(&mut self.asked);
    }

    /// Something came through a path; `true`: the first time.
    pub(crate) fn confirm(&mut self, id: PeerId) -> bool {
        let Some(place) = self.places.of(id) else { return false };
        let news = self.confirmed.insert(id);
        if news {
            self.mark_all(&BTreeSet::from([place]), &BTreeSet::new());
        }
        news
    }

    /// These entries are to be looked at (again).
    pub(crate) fn mark(&mut self, keys: Keys) {
        let Keys { neighbours, routes, associations, elements } = keys;
        self.marked.neighbours.extend(neighbours);
        self.marked.routes.extend(routes);
        self.marked.associations.extend(associations);
        self.marked.elements.extend(elements);
    }

    /// The keys of the entries that may have changed.
    pub(crate) fn take_marked(&mut self) -> Keys {
        std::mem::take(&mut self.marked)
    }

    /// What is to be at these places.
    pub(crate) fn at(&self, keys: &Keys) -> Tables {
        let routes = keys.routes.iter();
        let associations = keys.associations.iter();
        Tables {
            neighbours: keys
                .neighbours
                .iter()
                .filter_map(|&k| Some((k, self.neighbour(k)?)))
                .collect(),
            routes: routes.filter_map(|&k| Some((k, self.route(k)?))).collect(),
            associations: associations.filter_map(|&k| Some((k, self.association(k)?))).collect(),
            elements: keys.elements.iter().filter(|key| self.has(key)).cloned().collect(),
        }
    }

    /// All that is to be.
    pub(crate) fn whole(&self) -> Tables {
        let mut keys = Keys::default();
        self.places.all().into_iter().for_each(|place| self.mark_place(place, &mut keys));
        keys.routes.extend(self.desired.forwarding.keys().chain(&self.desired.routes));
        let hosts = self.desired.forwarding.keys().filter(|prefix| is_host(prefix));
        keys.neighbours.extend(hosts.map(IpNet::addr));
        keys.neighbours.extend(self.by_via.iter().map(|&(via, _)| via));
        keys.neighbours.extend(&self.asked);
        keys.elements.extend(ranges::all(&self.desired.forwarding).flat_map(|r| self.counting(r)));
        self.at(&keys)
    }

    /// Takes the paths and prefixes into the indices, or out of them.
    fn index(&mut self, changes: &Changes, there: bool) {
        fn set<T: Ord>(index: &mut BTreeSet<T>, entry: T, there: bool) {
            if there {
                index.insert(entry);
            } else {
                index.remove(&entry);
            }
        }
        for &id in &changes.peers {
            let Some(peer) = self.desired.peers.get(&id) else { continue };
            if let Transport::Esp(esp) = &peer.transport {
                set(&mut self.by_spi, (Direction::In, esp.inbound.spi, id), there);
                set(&mut self.by_spi, (Direction::Out, esp.outbound.spi, id), there);
            }
        }
        for &prefix in &changes.prefixes {
            let Some(hop) = self.desired.forwarding.get(&prefix) else { continue };
            set(&mut self.by_hop, (hop.peer, prefix), there);
            set(&mut self.by_via, (hop.via, prefix), there);
        }
    }

    /// What may come of these changes, by the present state.
    fn mark_around(&mut self, changes: &Changes) {
        let hops = changes.prefixes.iter().filter_map(|prefix| self.desired.forwarding.get(prefix));
        let ids = changes.peers.iter().copied().chain(hops.map(|hop| hop.peer));
        let places = ids.filter_map(|id| self.places.of(id)).collect();
        self.mark_all(&places, &changes.prefixes);
    }

    fn mark_all(&mut self, places: &BTreeSet<IpAddr>, prefixes: &BTreeSet<IpNet>) {
        let mut marked = self.take_marked();
        places.iter().for_each(|&place| self.mark_place(place, &mut marked));
        prefixes.iter().for_each(|&prefix| self.mark_prefix(prefix, &mut marked));
        self.marked = marked;
    }

    /// The keys of what the paths at a place need, one of which sends for them all.
    fn mark_place(&self, place: IpAddr, keys: &mut Keys) {
        keys.elements.extend(counters(place));
        for id in self.places.at(place) {
            keys.elements.extend(self.origins(id));
            keys.elements.extend(self.aliases(id));
            let Some(esp) = self.esp(id) else { continue };
            let receivers = self.context.own.map(|own| (Direction::In, own, &esp.inbound));
            let all = receivers.into_iter().chain([(Direction::Out, place, &esp.outbound)]);
            let id =
                |(direction, to, keys): (_, _, &EspKeys)| SaId { direction, to, spi: keys.spi };
            keys.associations.extend(all.map(id));
        }
    }

    /// The keys of what depends on the way to a prefix.
    fn mark_prefix(&self, prefix: IpNet, keys: &mut Keys) {
        let (first, last) = (prefix.network(), prefix.broadcast());
        if is_host(&prefix) {
            keys.neighbours.insert(first);
        }
        keys.neighbours.extend(self.asked.range(first..=last));
        let Desired { forwarding, routes, .. } = &self.desired;
        keys.neighbours.extend(forwarding.get(&prefix).map(|hop| hop.via));
        keys.routes.insert(prefix);
        let within = IpNet::new(first, 0).ok().zip(Some(IpNet::from(last)));
        if let Some((least, greatest)) = within {
            keys.routes.extend(routes.range(least..=greatest));
            keys.routes.extend(forwarding.range(least..=greatest).map(|(&prefix, _)| prefix));
        }
        keys.elements.extend(ranges::around(forwarding, prefix).flat_map(|r| self.counting(r)));
    }

    /// The newest path at a place.
    pub(crate) fn newest(&self, place: IpAddr) -> Option<PeerId> {
        self.places.at(place).next_back()
    }

    /// Where in the kernel's tables a path is.
    pub(crate) fn place(&self, id: PeerId) -> Option<IpAddr> {
        self.places.of(id)
    }

    fn prefixes(&self, id: PeerId) -> impl Iterator<Item = IpNet> {
        let from = (id, IpNet::V4(Default::default()));
        self.by_hop.range(from..).take_while(move |(of, _)| *of == id).map(|&(_, prefix)| prefix)
    }

    fn esp(&self, id: PeerId) -> Option<&Esp> {
        match &self.desired.peers.get(&id)?.transport {
            Transport::Esp(esp) => Some(esp),
            _ => None,
        }
    }

    /// The path that an SA belongs to, and its keys.
    pub(crate) fn path(&self, sa: SaId) -> Option<(PeerId, &Peer, &Esp)> {
        let mut paths = self.paths(sa.direction, sa.spi);
        paths.find(|&(id, ..)| sa.direction == Direction::In || self.places.of(id) == Some(sa.to))
    }

    /// The path that packets with this inbound SPI belong to.
    pub(crate) fn by_spi(&self, spi: u32) -> Option<PeerId> {
        self.paths(Direction::In, spi).next().map(|(id, ..)| id)
    }

    fn paths(&self, direction: Direction, spi: u32) -> impl Iterator<Item = (PeerId, &Peer, &Esp)> {
        let all = (direction, spi, PeerId(0))..=(direction, spi, PeerId(u32::MAX));
        let ids = self.by_spi.range(all).rev().map(|&(_, _, id)| id);
        ids.filter_map(|id| Some((id, self.desired.peers.get(&id)?, self.esp(id)?)))
    }

    /// The path that is sent through to a place: the newest that is used or has carried something.
    fn sender(&self, place: IpAddr) -> Option<PeerId> {
        let sends = |id: &PeerId| self.desired.peers.get(id).is_some_and(|peer| !peer.receive_only);
        let used = |id: &PeerId| {
            self.prefixes(*id).next().is_some()
                || self.desired.multicast.contains(id)
                || self.confirmed.contains(id)
        };
        self.places.at(place).filter(sends).max_by_key(|id| (used(id), *id))
    }

    /// The way to exactly this prefix, and where its next hop is.
    fn hop_at(&self, prefix: &IpNet) -> Option<(&Hop, IpAddr)> {
        let hop = self.desired.forwarding.get(prefix)?;
        Some((hop, self.places.of(hop.peer)?))
    }

    /// The hop for an address: longest prefix wins.
    pub(crate) fn hop(&self, address: IpAddr) -> Option<(&Hop, IpAddr)> {
        let lengths = (0..=IpNet::from(address).prefix_len()).rev();
        let mut prefixes = lengths.filter_map(|len| Some(IpNet::new(address, len).ok()?.trunc()));
        prefixes.find_map(|prefix| self.hop_at(&prefix))
    }

    fn is_inside(&self, prefix: &IpNet) -> bool {
        self.context.addresses.iter().any(|net| net.contains(prefix))
    }

    fn is_own(&self, address: IpAddr) -> bool {
        self.context.addresses.iter().any(|net| net.addr() == address)
    }

    /// Where a host in the tunnel is.
    pub(crate) fn known_neighbour(&self, host: IpNet) -> Option<IpAddr> {
        let hop = self.hop_at(&host).filter(|_| is_host(&host) && self.is_inside(&host));
        hop.map(|(_, place)| place)
    }

    /// Where a neighbour is: hosts in the tunnel, next hops, and whom the kernel asked for.
    fn neighbour(&self, address: IpAddr) -> Option<IpAddr> {
        if self.is_own(address) {
            return None;
        }
        let known = self.known_neighbour(address.into());
        let asked = || self.asked.contains(&address).then(|| self.hop(address)).flatten();
        let via = || {
            let from = (address, IpNet::V4(Default::default()));
            let all = self.by_via.range(from..).take_while(|(via, _)| *via == address);
            let mut same_family =
                all.filter(|(via, prefix)| via.is_ipv4() == prefix.addr().is_ipv4());
            same_family.find_map(|(_, prefix)| self.hop_at(prefix))
        };
        known.or_else(|| asked().or_else(via).map(|(_, place)| place))
    }

    /// The next hop of a route.
    fn route(&self, prefix: IpNet) -> Option<Option<IpAddr>> {
        let part = |prefix: &IpNet| {
            let whole = self.context.addresses.iter().any(|net| net.trunc() == *prefix);
            self.is_inside(prefix) && !whole && !is_host(prefix) && self.hop_at(prefix).is_some()
        };
        if !self.desired.routes.contains(&prefix) && !part(&prefix) {
            return None;
        }
        let via = self.hop(prefix.addr()).map(|(hop, _)| hop.via);
        Some(via.filter(|via| via.is_ipv4() == prefix.addr().is_ipv4() && !self.is_own(*via)))
    }

    /// Of several paths at one place the kernel takes the newest for what it sends: those
    /// that are not to be used yet have no outbound SA.
    fn association(&self, sa: SaId) -> Option<Association> {
        let (id, peer, esp) = self.path(sa)?;
        let (nbma, port) = (peer.endpoint.ip(), peer.endpoint.port());
        let (from, ports) = match sa.direction {
            Direction::In if Some(sa.to) == self.context.own => {
                (Some(nbma), (port, self.context.port))
            }
            Direction::Out if self.sender(sa.to) == Some(id) => (None, (self.context.port, port)),
            _ => return None,
        };
        Some(Association { from, ports: esp.encapsulated.then_some(ports) })
    }

    /// Whether an element of a set is to be there: what it is about says which there are.
    fn has(&self, key: &(Set, Element)) -> bool {
        let (set, Element { key: octets, .. }) = key;
        match set {
            Set::Received | Set::Sent => {
                address(octets).is_some_and(|place| self.newest(place).is_some())
            }
            Set::Trusted | Set::Source4 | Set::Source6 => {
                self.path_marked(octets).is_some_and(|id| self.origins(id).contains(key))
            }
            Set::AliasIn => {
                self.path_marked(octets).is_some_and(|id| self.aliases(id).contains(key))
            }
            Set::AliasOut => {
                let id = address(octets).and_then(|place| self.newest(place));
                id.is_some_and(|id| self.aliases(id).contains(key))
            }
            _ => {
                let first = octets.get(4..).and_then(address);
                let range = first.and_then(|first| ranges::at(&self.desired.forwarding, first));
                range.is_some_and(|range| self.counting(range).contains(key))
            }
        }
    }

    /// The path of an element whose key begins with an SPI.
    fn path_marked(&self, octets: &[u8]) -> Option<PeerId> {
        self.by_spi(u32::from_be_bytes(*octets.first_chunk()?))
    }

    /// What puts an alias in the place of a public address, and the other way round.
    fn aliases(&self, id: PeerId) -> Vec<(Set, Element)> {
        let path = self.desired.peers.get(&id).zip(self.places.of(id)).zip(self.esp(id));
        let Some(((peer, place), esp)) = path else { return Vec::new() };
        let public = peer.endpoint.ip();
        if place == public {
            return Vec::new();
        }
        let spi = esp.inbound.spi.to_be_bytes().to_vec();
        vec![
            (Set::AliasIn, Element { key: spi, end: Some(octets(place)) }),
            (Set::AliasOut, Element { key: octets(place), end: Some(octets(public)) }),
        ]
    }

    /// What tells which sources a path may bring.
    fn origins(&self, id: PeerId) -> Vec<(Set, Element)> {
        let Some(esp) = self.esp(id) else { return Vec::new() };
        let mark = esp.inbound.spi.to_be_bytes();
        let Some(sources) = self.desired.sources.get(&id) else {
            return vec![(Set::Trusted, Element { key: mark.to_vec(), end: None })];
        };
        let element = |prefix: IpNet| {
            let set = if prefix.addr().is_ipv4() { Set::Source4 } else { Set::Source6 };
            let key = |address| [&mark[..], &octets(address)].concat();
            (set, Element { key: key(prefix.network()), end: Some(key(prefix.broadcast())) })
        };
        IpNet::aggregate(&sources.to_vec()).into_iter().map(element).collect()
    }

    /// What counts the packets to and from a range of addresses.
    pub(crate) fn counting(&self, range: Range) -> [(Set, Element); 2] {
        let Range { first, last, .. } = range;
        let sets = match (first, first == last) {
            (IpAddr::V4(_), false) => [Set::To4, Set::From4],
            (IpAddr::V4(_), true) => [Set::HostTo4, Set::HostFrom4],
            (IpAddr::V6(_), false) => [Set::To6, Set::From6],
            (IpAddr::V6(_), true) => [Set::HostTo6, Set::HostFrom6],
        };
        let key = |address| [&self.context.index.to_ne_bytes()[..], &octets(address)].concat();
        sets.map(|set| (set, Element { key: key(first), end: (first != last).then(|| key(last)) }))
    }
}

/// What counts the packets from and to a place.
fn counters(place: IpAddr) -> impl Iterator<Item = (Set, Element)> {
    let key = place.is_ipv4().then(|| octets(place));
    let element = |key: Vec<u8>| {
        [Set::Received, Set::Sent].map(|set| (set, Element { key: key.clone(), end: None }))
    };
    key.into_iter().flat_map(element)
}

fn is_host(prefix: &IpNet) -> bool {
    prefix.prefix_len() == prefix.max_prefix_len()
}

fn differs(id: &PeerId, one: &Desired, other: &Desired) -> bool {
    one.peers.get(id) != other.peers.get(id)
        || one.sources.get(id) != other.sources.get(id)
        || one.multicast.contains(id) != other.multicast.contains(id)
}

#[cfg(test)]
mod tests;
