//! What a former run of the daemon left in the kernel: it goes on carrying packets until it has a
//! successor, or until the peers had time to come back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::places::Seat;
use super::route::octets;
use super::rules::Set;
use super::tables::{Association, Direction, SaId, Tables};

/// What is still on its way through an SA whose successor is there may arrive.
const LINGER: Duration = Duration::from_secs(5);

/// What is left of the former run.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    tables: Tables,
    /// Bare neighbours carry, too.
    clear: bool,
    /// Own UDP port.
    port: u16,
    until: Option<Instant>,
    /// Until when SAs from there are kept.
    succeeded: BTreeMap<Seat, Instant>,
    /// Peers that the overlay was not told of yet.
    pub peers: Vec<SocketAddr>,
    /// Destinations of which it is to find the way again.
    pub destinations: BTreeSet<IpAddr>,
}

impl Inherited {
    pub(crate) fn new(found: &Tables, clear: bool, port: u16, until: Instant) -> Self {
        let mut tables = found.clone();
        tables.elements.retain(|(set, _)| {
            matches!(set, Set::Trusted | Set::Source4 | Set::Source6 | Set::AliasIn | Set::AliasOut)
        });
        let peers: BTreeSet<SocketAddr> = if clear {
            tables.neighbours.values().map(|&nbma| (nbma, 0).into()).collect()
        } else {
            let receivers = tables.receivers().into_values();
            receivers.map(|(public, to)| (public, to.unwrap_or(port)).into()).collect()
        };
        let behind = tables.routes.iter().filter(|(_, via)| via.is_some());
        let behind = behind.map(|(prefix, _)| prefix.addr());
        let destinations = behind.chain(tables.neighbours.keys().copied()).collect();
        let until = (tables != Tables::default()).then_some(until);
        Self {
            tables,
            clear,
            port,
            until,
            succeeded: BTreeMap::new(),
            peers: peers.into_iter().collect(),
            destinations,
        }
    }

    /// When there is something to give up.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.until.into_iter().chain(self.succeeded.values().copied()).min()
    }

    /// Keeps in the target what has no successor there.
    pub(crate) fn add_to(&mut self, target: &mut Tables, now: Instant) {
        let Some(until) = self.until else { return };
        if now >= until {
            *self = Self::default();
            return;
        }
        self.keep_associations(target, now);
        let reachable: BTreeSet<IpAddr> = target
            .associations
            .keys()
            .filter(|id| id.direction == Direction::Out)
            .map(|id| id.to)
            .collect();
        self.tables.neighbours.retain(|_, nbma| self.clear || reachable.contains(nbma));
        for (&address, &nbma) in &self.tables.neighbours {
            target.neighbours.entry(address).or_insert(nbma);
        }
        for (&prefix, &via) in &self.tables.routes {
            let known = via.is_some_and(|via| target.neighbours.contains_key(&via));
            let route = target.routes.entry(prefix).or_insert(None);
            if known && route.is_none() {
                *route = via;
            }
        }
    }

    fn keep_associations(&mut self, target: &mut Tables, now: Instant) {
        let port = self.port;
        let (own, taken) = (self.tables.seats(port), target.seats(port));
        let successors: BTreeSet<Seat> = taken.values().copied().collect();
        for sa in self.tables.associations.values() {
            if let Some(seat) = sender(sa, port).filter(|seat| successors.contains(seat)) {
                self.succeeded.entry(seat).or_insert(now + LINGER);
            }
        }
        let over = |seat: Seat| self.succeeded.get(&seat).is_some_and(|until| *until <= now);
        self.tables.associations.retain(|id, sa| match id.direction {
            Direction::Out => {
                let succeeded = own.get(&id.to).is_some_and(|seat| successors.contains(seat));
                !succeeded && !taken.contains_key(&id.to)
            }
            Direction::In => sender(sa, port).is_none_or(|seat| !over(seat)),
        });
        self.succeeded.retain(|_, until| *until > now);
        target.associations.extend(&self.tables.associations);
        let keys: BTreeSet<_> = self.tables.associations.keys().map(key).collect();
        let kept = self.tables.elements.iter().filter(|(set, element)| {
            let direction = match set {
                Set::AliasOut => Direction::Out,
                _ => Direction::In,
            };
            let begin = element.key.iter().copied().take(4).collect();
            keys.contains(&(direction, begin))
        });
        target.elements.extend(kept.cloned());
    }
}

/// Who sends through an SA that receives.
fn sender(sa: &Association, port: u16) -> Option<Seat> {
    Some(Seat::new(sa.from?, sa.ports.map(|(from, _)| from), port))
}

/// With what the keys of an SA's elements begin.
fn key(id: &SaId) -> (Direction, Vec<u8>) {
    let octets = match id.direction {
        Direction::In => id.spi.to_be_bytes().to_vec(),
        Direction::Out => octets(id.to),
    };
    (id.direction, octets)
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;

    use super::super::nft::Element;
    use super::*;

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    fn net(s: &str) -> IpNet {
        s.parse().unwrap()
    }

    fn pair(spi: u32) -> [(SaId, Association); 2] {
        let (own, peer) = (ip("198.18.1.10"), ip("198.18.2.10"));
        [
            (
                SaId { direction: Direction::In, to: own, spi },
                Association { from: Some(peer), ports: None },
            ),
            (
                SaId { direction: Direction::Out, to: peer, spi: spi + 1 },
                Association { from: None, ports: None },
            ),
        ]
    }

    fn left() -> Tables {
        let trusted = Element { key: 0x100u32.to_be_bytes().to_vec(), end: None };
        Tables {
            neighbours: BTreeMap::from([(ip("172.16.0.3"), ip("198.18.2.10"))]),
            routes: BTreeMap::from([(net("192.168.2.0/24"), Some(ip("172.16.0.3")))]),
            associations: pair(0x100).into(),
            elements: BTreeSet::from([(Set::Trusted, trusted)]),
        }
    }

    const GRACE: Duration = Duration::from_secs(60);

    #[test]
    fn what_was_left_goes_on_until_the_time_is_over() {
        let now = Instant::now();
        let mut inherited = Inherited::new(&left(), false, 4500, now + GRACE);
        assert_eq!(inherited.peers, ["198.18.2.10:4500".parse().unwrap()]);
        let mut target = Tables::default();
        inherited.add_to(&mut target, now);
        assert_eq!(target, left());

        let mut target = Tables::default();
        inherited.add_to(&mut target, now + GRACE);
        assert_eq!(target, Tables::default());
    }

    #[test]
    fn an_sa_with_a_successor_only_receives_and_for_a_moment_only() {
        let now = Instant::now();
        let mut inherited = Inherited::new(&left(), false, 4500, now + GRACE);
        let fresh: BTreeMap<_, _> = pair(0x500).into();
        let kept = |inherited: &mut Inherited, now| {
            let mut target = Tables { associations: fresh.clone(), ..Tables::default() };
            inherited.add_to(&mut target, now);
            let spis = target.associations.keys().map(|id| id.spi).collect::<BTreeSet<_>>();
            (spis, target.elements.len(), target.neighbours.len())
        };
        let at_first = kept(&mut inherited, now);
        assert_eq!(at_first, (BTreeSet::from([0x100, 0x500, 0x501]), 1, 1));
        let later = kept(&mut inherited, now + LINGER);
        assert_eq!(later, (BTreeSet::from([0x500, 0x501]), 0, 1));
    }

    #[test]
    fn who_cannot_be_reached_any_more_is_no_neighbour() {
        let now = Instant::now();
        let mut tables = left();
        tables.associations.clear();
        let mut inherited = Inherited::new(&tables, false, 4500, now + GRACE);
        let mut target = Tables::default();
        inherited.add_to(&mut target, now);
        assert!(target.neighbours.is_empty());
        assert_eq!(target.routes[&net("192.168.2.0/24")], None, "it stays in the tunnel");
    }
}
