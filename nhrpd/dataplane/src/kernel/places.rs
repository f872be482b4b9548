//! Where in the kernel's tables a peer is. Pure.
//!
//! The kernel chooses an SA by the receiver's address alone, but the peers behind an address
//! translator differ in nothing but their UDP ports. The first of them is at the public address. Each
//! further one gets an alias: an address that is routed nowhere. What is for that peer is addressed to
//! the alias, finds the SA, and our rules write the public address over the alias when ESP is around
//! it; and the alias over the public address in what came out of the SA.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use overlay::desired::{Peer, PeerId, Transport};

/// Aliases are the addresses behind this one (RFC 1112 §4: class E, never assigned).
const RANGE: u32 = 0xf000_0000;
/// The last one would be the limited broadcast.
const ALIASES: u32 = 0x0fff_fffe;

/// What tells one receiver from another: the public address, and the port that a translator chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seat {
    public: IpAddr,
    port: Option<u16>,
}

impl Seat {
    /// `port`: that of ESP in UDP, where it is. Who has the `usual` one, which is ours, is who has the
    /// address: whether to put ESP into UDP, the same peer says anew with each key exchange.
    pub(crate) fn new(public: IpAddr, port: Option<u16>, usual: u16) -> Self {
        Self { public, port: port.filter(|&port| port != usual) }
    }

    fn of(peer: &Peer, usual: u16) -> Self {
        let in_udp = matches!(&peer.transport, Transport::Esp(esp) if esp.encapsulated);
        Self::new(peer.endpoint.ip(), in_udp.then_some(peer.endpoint.port()), usual)
    }
}

/// The places of all paths.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// UDP port of those whose port no translator chose.
    usual: u16,
    paths: BTreeMap<PeerId, (Seat, IpAddr)>,
    at: BTreeSet<(IpAddr, PeerId)>,
    by_seat: BTreeSet<(Seat, PeerId)>,
    /// What a former run left has these places.
    kept: BTreeMap<IpAddr, Seat>,
    kept_by_seat: BTreeMap<Seat, IpAddr>,
    /// How many aliases were given: none is a second time while others may still be sent there.
    given: u32,
}

impl Places {
    pub(crate) fn new(usual: u16) -> Self {
        Self {
            usual,
            paths: BTreeMap::new(),
            at: BTreeSet::new(),
            by_seat: BTreeSet::new(),
            kept: BTreeMap::new(),
            kept_by_seat: BTreeMap::new(),
            given: 0,
        }
    }

    /// What a former run left stays where it is, until the next call.
    pub(crate) fn keep(&mut self, kept: BTreeMap<IpAddr, Seat>) {
        let given = kept.keys().filter_map(|place| match place {
            IpAddr::V4(place) => u32::from(*place).checked_sub(RANGE),
            IpAddr::V6(_) => None,
        });
        self.given = given.filter(|&given| given <= ALIASES).max().unwrap_or(0).max(self.given);
        self.kept_by_seat = kept.iter().map(|(&place, &seat)| (seat, place)).collect();
        self.kept = kept;
    }

    /// Where a path is.
    pub(crate) fn of(&self, id: PeerId) -> Option<IpAddr> {
        self.paths.get(&id).map(|&(_, place)| place)
    }

    /// The paths at a place, oldest first.
    pub(crate) fn at(&self, place: IpAddr) -> impl DoubleEndedIterator<Item = PeerId> {
        let all = (place, PeerId(0))..=(place, PeerId(u32::MAX));
        self.at.range(all).map(|&(_, id)| id)
    }

    /// All places at which there is somebody.
    pub(crate) fn all(&self) -> BTreeSet<IpAddr> {
        self.at.iter().map(|&(place, _)| place).collect()
    }

    /// These paths have come, changed or gone. Who has the seat that he had stays.
    pub(crate) fn update(&mut self, changed: &BTreeSet<PeerId>, peers: &BTreeMap<PeerId, Peer>) {
        for &id in changed {
            let seat = peers.get(&id).map(|peer| Seat::of(peer, self.usual));
            if self.paths.get(&id).map(|&(seat, _)| seat) != seat {
                self.remove(id);
            }
        }
        for &id in changed {
            if let Some(peer) = peers.get(&id).filter(|_| !self.paths.contains_key(&id)) {
                self.insert(id, peer);
            }
        }
    }

    fn insert(&mut self, id: PeerId, peer: &Peer) {
        let seat = Seat::of(peer, self.usual);
        let place = self.choose(seat);
        self.paths.insert(id, (seat, place));
        self.at.insert((place, id));
        self.by_seat.insert((seat, id));
    }

    fn remove(&mut self, id: PeerId) {
        if let Some((seat, place)) = self.paths.remove(&id) {
            self.at.remove(&(place, id));
            self.by_seat.remove(&(seat, id));
        }
    }

    fn choose(&mut self, seat: Seat) -> IpAddr {
        if let Some(&place) = self.kept_by_seat.get(&seat) {
            return place;
        }
        let public = seat.public;
        if public.is_ipv6() || self.is_free(public, seat) {
            return public;
        }
        let others = (seat, PeerId(0))..=(seat, PeerId(u32::MAX));
        if let Some((_, other)) = self.by_seat.range(others).next_back()
            && let Some(place) = self.of(*other)
        {
            return place;
        }
        loop {
            self.given = self.given % ALIASES + 1;
            let alias = Ipv4Addr::from(RANGE + self.given).into();
            if self.is_free(alias, seat) {
                return alias;
            }
        }
    }

    fn is_free(&self, place: IpAddr, seat: Seat) -> bool {
        self.kept.get(&place).is_none_or(|kept| *kept == seat)
            && self.at(place).all(|id| self.paths.get(&id).is_none_or(|(other, _)| *other == seat))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use overlay::desired::{Esp, EspCipher, EspKeys};

    use super::*;

    fn peer(endpoint: &str, encapsulated: bool) -> Peer {
        let keys =
            || EspKeys { spi: 1, encryption: Default::default(), integrity: Default::default() };
        let esp = Esp {
            cipher: EspCipher::Aes256Gcm16,
            esn: true,
            encapsulated,
            lifetime: Duration::from_secs(1),
            inbound: keys(),
            outbound: keys(),
        };
        Peer::new(endpoint.parse::<SocketAddr>().unwrap(), Transport::Esp(esp))
    }

    fn place(places: &mut Places, id: u32, endpoint: &str) -> String {
        places.insert(PeerId(id), &peer(endpoint, true));
        places.of(PeerId(id)).unwrap().to_string()
    }

    const PUBLIC: &str = "203.0.113.10";
    const FIRST: &str = "203.0.113.10:4500";
    const SECOND: &str = "203.0.113.10:61000";
    const THIRD: &str = "203.0.113.10:61001";

    #[test]
    fn who_shares_a_public_address_gets_an_alias() {
        let mut places = Places::new(4500);
        assert_eq!(place(&mut places, 1, FIRST), PUBLIC);
        assert_eq!(place(&mut places, 2, SECOND), "240.0.0.1");
        assert_eq!(place(&mut places, 3, THIRD), "240.0.0.2");
        assert_eq!(place(&mut places, 4, "192.0.2.10:61000"), "192.0.2.10");
        assert_eq!(place(&mut places, 5, FIRST), PUBLIC, "new keys");
        assert_eq!(place(&mut places, 6, SECOND), "240.0.0.1", "new keys");
        places.insert(PeerId(7), &peer(FIRST, false));
        assert_eq!(places.of(PeerId(7)).unwrap().to_string(), PUBLIC, "without UDP");
    }

    #[test]
    fn who_has_our_port_is_the_same_with_and_without_udp() {
        for (usual, other) in [(4500, 4501), (4501, 4500)] {
            let mut places = Places::new(usual);
            let [own, translated] = [usual, other].map(|port| format!("{PUBLIC}:{port}"));
            places.insert(PeerId(1), &peer(&own, false));
            assert_eq!(place(&mut places, 2, &own), PUBLIC, "now in UDP");
            assert_eq!(place(&mut places, 3, &translated), "240.0.0.1", "another one");
        }
    }

    #[test]
    fn the_public_address_is_for_who_is_alone_and_no_alias_comes_back() {
        let mut places = Places::new(4500);
        place(&mut places, 1, FIRST);
        place(&mut places, 2, SECOND);
        places.remove(PeerId(1));
        assert_eq!(place(&mut places, 3, FIRST), "203.0.113.10");
        places.remove(PeerId(2));
        assert_eq!(place(&mut places, 4, SECOND), "240.0.0.2");
        places.remove(PeerId(3));
        assert_eq!(place(&mut places, 5, SECOND), PUBLIC, "with the next keys");
    }

    #[test]
    fn who_changes_otherwise_stays_where_he_is() {
        let mut places = Places::new(4500);
        place(&mut places, 1, FIRST);
        place(&mut places, 2, SECOND);
        let mut peers = BTreeMap::from([(PeerId(2), peer(SECOND, true))]);
        for (endpoint, place) in [(SECOND, "240.0.0.1"), (THIRD, "240.0.0.2"), (THIRD, "240.0.0.2")]
        {
            let changed = Peer { receive_only: true, ..peer(endpoint, true) };
            peers.insert(PeerId(2), changed);
            places.update(&[PeerId(2)].into(), &peers);
            assert_eq!(places.of(PeerId(2)).unwrap().to_string(), place);
        }
        places.update(&[PeerId(2)].into(), &BTreeMap::new());
        assert_eq!(places.of(PeerId(2)), None);
    }

    #[test]
    fn what_a_former_run_left_keeps_its_place() {
        let seat = |endpoint: &str| {
            let endpoint: SocketAddr = endpoint.parse().unwrap();
            Seat::new(endpoint.ip(), Some(endpoint.port()), 4500)
        };
        let alias = "240.0.0.7".parse().unwrap();
        let kept = [(PUBLIC.parse().unwrap(), seat(FIRST)), (alias, seat(SECOND))];
        let mut places = Places::new(4500);
        places.keep(kept.into());
        assert_eq!(place(&mut places, 1, THIRD), "240.0.0.8");
        assert_eq!(place(&mut places, 2, SECOND), "240.0.0.7");
        assert_eq!(place(&mut places, 3, FIRST), PUBLIC);
        places.keep(BTreeMap::new());
        assert_eq!(place(&mut places, 4, SECOND), "240.0.0.7");
    }
}
