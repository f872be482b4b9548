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
    by_nbma: BTreeSet<(IpAddr, PeerId)>,
    by_spi: BTreeSet<(Direction, u32, PeerId)>,
    by_hop: BTreeSet<(PeerId, IpNet)>,
    by_via: BTreeSet<(IpAddr, IpNet)>,
    marked: Keys,
}

impl Plan {
    pub(crate) fn new(context: Context) -> Self {
        Self {
            context,
            desired: Desired::default(),
            asked: BTreeSet::new(),
            confirmed: BTreeSet::new(),
            by_nbma: BTreeSet::new(),
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
        let places = self.by_nbma.iter().map(|&(nbma, _)| nbma).collect();
        self.change(&places, &BTreeSet::new(), |plan| plan.context.own = own);
    }

    /// Another desired state, which differs from the last one by `changes` at most. Gives the peers
    /// that have become unreachable, as [`Self::is_shadowed`] has it.
    pub(crate) fn update(&mut self, next: &Desired, changes: &Changes) -> Vec<PeerId> {
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
        let mut places = BTreeSet::new();
        for desired in [former, next] {
            let hops = changes.prefixes.iter().filter_map(|prefix| desired.forwarding.get(prefix));
            let ids = changes.peers.iter().copied().chain(hops.map(|hop| hop.peer));
            places.extend(ids.filter_map(|id| Some(desired.peers.get(&id)?.endpoint.ip())));
        }
        self.change(&places, &changes.prefixes, |plan| {
            plan.index(&changes, false);
            changes.carry(next, &mut plan.desired);
            plan.index(&changes, true);
            for id in &changes.peers {
                if !plan.desired.peers.contains_key(id) {
                    plan.confirmed.remove(id);
                }
            }
        })
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
        let Some(peer) = self.desired.peers.get(&id) else { return false };
        let news = !self.confirmed.contains(&id);
        if news {
            let places = BTreeSet::from([peer.endpoint.ip()]);
            self.change(&places, &BTreeSet::new(), |plan| {
                plan.confirmed.insert(id);
            });
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
        for &(nbma, _) in &self.by_nbma {
            self.mark_place(nbma, &mut keys);
        }
        keys.routes.extend(self.desired.forwarding.keys().chain(&self.desired.routes));
        let hosts = self.desired.forwarding.keys().filter(|prefix| is_host(prefix));
        keys.neighbours.extend(hosts.map(IpNet::addr));
        keys.neighbours.extend(self.by_via.iter().map(|&(via, _)| via));
        keys.neighbours.extend(&self.asked);
        keys.elements.extend(ranges::all(&self.desired.forwarding).flat_map(|r| self.counting(r)));
        self.at(&keys)
    }

    /// Changes the plan in a way that affects the peers at these places and these prefixes; marks
    /// what may come of it, and gives the peers that cannot be reached any more.
    fn change(
        &mut self,
        places: &BTreeSet<IpAddr>,
        prefixes: &BTreeSet<IpNet>,
        change: impl FnOnce(&mut Self),
    ) -> Vec<PeerId> {
        let former = self.standing(places);
        self.mark_all(places, prefixes);
        change(self);
        self.mark_all(places, prefixes);
        let standing = self.standing(places);
        let moved: Vec<PeerId> = former
            .keys()
            .chain(standing.keys())
            .copied()
            .filter(|id| former.get(id) != standing.get(id))
            .collect();
        let behind = moved.iter().flat_map(|&id| self.prefixes(id)).collect();
        self.mark_all(&BTreeSet::new(), &behind);
        moved.into_iter().filter(|&id| self.is_shadowed(id)).collect()
    }

    /// Where the peers at these places are, and whether they cannot be reached there.
    fn standing(&self, places: &BTreeSet<IpAddr>) -> BTreeMap<PeerId, (IpAddr, bool)> {
        let at = |&nbma: &IpAddr| self.peers_at(nbma).map(move |id| (id, nbma));
        let all = places.iter().flat_map(at);
        all.map(|(id, nbma)| (id, (nbma, self.is_shadowed(id)))).collect()
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
            set(&mut self.by_nbma, (peer.endpoint.ip(), id), there);
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

    fn mark_all(&mut self, places: &BTreeSet<IpAddr>, prefixes: &BTreeSet<IpNet>) {
        let mut marked = self.take_marked();
        places.iter().for_each(|&place| self.mark_place(place, &mut marked));
        prefixes.iter().for_each(|&prefix| self.mark_prefix(prefix, &mut marked));
        self.marked = marked;
    }

    /// The keys of what the peers at an NBMA address need, one of which sends for them all.
    fn mark_place(&self, nbma: IpAddr, keys: &mut Keys) {
        keys.elements.extend(counters(nbma));
        for id in self.peers_at(nbma) {
            keys.elements.extend(self.origins(id));
            let Some(esp) = self.esp(id) else { continue };
            let receivers = self.context.own.map(|own| (Direction::In, own, &esp.inbound));
            let all = receivers.into_iter().chain([(Direction::Out, nbma, &esp.outbound)]);
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

    /// The peers at an NBMA address, oldest first.
    fn peers_at(&self, nbma: IpAddr) -> impl DoubleEndedIterator<Item = PeerId> {
        let all = (nbma, PeerId(0))..=(nbma, PeerId(u32::MAX));
        self.by_nbma.range(all).map(|&(_, id)| id)
    }

    /// The newest path to an NBMA address.
    pub(crate) fn by_nbma(&self, nbma: IpAddr) -> Option<PeerId> {
        self.peers_at(nbma).next_back()
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
        paths.find(|(_, peer, _)| sa.direction == Direction::In || peer.endpoint.ip() == sa.to)
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

    /// The path that is sent through to an NBMA address: the newest that is used or has carried
    /// something.
    fn sender(&self, nbma: IpAddr) -> Option<PeerId> {
        let sends = |id: &PeerId| self.desired.peers.get(id).is_some_and(|peer| !peer.receive_only);
        let used = |id: &PeerId| {
            self.prefixes(*id).next().is_some()
                || self.desired.multicast.contains(id)
                || self.confirmed.contains(id)
        };
        self.peers_at(nbma).filter(sends).max_by_key(|id| (used(id), *id))
    }

    /// Whether the kernel cannot reach a peer, because another one is behind the same address
    /// translator: it chooses an SA by the receiver's address alone.
    fn is_shadowed(&self, id: PeerId) -> bool {
        let port = |id: PeerId| self.desired.peers.get(&id).map(|peer| peer.endpoint.port());
        self.desired.peers.get(&id).is_some_and(|peer| {
            let sender = self.sender(peer.endpoint.ip());
            !peer.receive_only && sender.and_then(port) != Some(peer.endpoint.port())
        })
    }

    fn hop_at(&self, prefix: &IpNet) -> Option<(&Hop, &Peer)> {
        let hop = self.desired.forwarding.get(prefix)?;
        let peer = self.desired.peers.get(&hop.peer)?;
        (!self.is_shadowed(hop.peer)).then_some((hop, peer))
    }

    /// The hop for an address: longest prefix wins.
    pub(crate) fn hop(&self, address: IpAddr) -> Option<(&Hop, &Peer)> {
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
        hop.map(|(_, peer)| peer.endpoint.ip())
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
        known.or_else(|| asked().or_else(via).map(|(_, peer)| peer.endpoint.ip()))
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

    /// Of several paths to one NBMA address the kernel takes the newest for what it sends: those
    /// that are not to be used yet have no outbound SA.
    fn association(&self, sa: SaId) -> Option<Association> {
        let (id, peer, esp) = self.path(sa)?;
        let (nbma, port) = (peer.endpoint.ip(), peer.endpoint.port());
        let (from, ports) = match sa.direction {
            Direction::In if Some(sa.to) == self.context.own => {
                (Some(nbma), (port, self.context.port))
            }
            Direction::Out if self.sender(nbma) == Some(id) => (None, (self.context.port, port)),
            _ => return None,
        };
        Some(Association { from, ports: esp.encapsulated.then_some(ports) })
    }

    /// Whether an element of a set is to be there: what it is about says which there are.
    fn has(&self, key: &(Set, Element)) -> bool {
        let (set, Element { key: octets, .. }) = key;
        match set {
            Set::Received | Set::Sent => {
                address(octets).is_some_and(|nbma| self.peers_at(nbma).next().is_some())
            }
            Set::Trusted | Set::Source4 | Set::Source6 => {
                let spi = octets.first_chunk().map(|spi| u32::from_be_bytes(*spi));
                let id = spi.and_then(|spi| self.by_spi(spi));
                id.is_some_and(|id| self.origins(id).contains(key))
            }
            _ => {
                let first = octets.get(4..).and_then(address);
                let range = first.and_then(|first| ranges::at(&self.desired.forwarding, first));
                range.is_some_and(|range| self.counting(range).contains(key))
            }
        }
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

/// What counts the packets from and to an NBMA address.
fn counters(nbma: IpAddr) -> impl Iterator<Item = (Set, Element)> {
    let key = nbma.is_ipv4().then(|| octets(nbma));
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
