//! Everything of ours in the kernel that the desired state decides on, and what has to be done about
//! the difference between what is and what is to be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::nft::Element;
use super::places::Seat;
use super::route::address;
use super::rules::{self, Set};

/// What is, or what is to be.
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

/// Places in the tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Keys {
    pub neighbours: BTreeSet<IpAddr>,
    pub routes: BTreeSet<IpNet>,
    pub associations: BTreeSet<SaId>,
    pub elements: BTreeSet<(Set, Element)>,
}

/// What tells one SA from another (RFC 4301 §4.1), and what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SaId {
    pub direction: Direction,
    pub spi: u32,
    /// Receiver on the underlay.
    pub to: IpAddr,
}

impl Tables {
    /// Who is sent to at which place, with ESP: public address, and port of ESP in UDP.
    pub(crate) fn receivers(&self) -> BTreeMap<IpAddr, (IpAddr, Option<u16>)> {
        let public: BTreeMap<IpAddr, IpAddr> = rules::aliases(&self.elements)
            .filter_map(|element| Some((address(&element.key)?, address(element.end.as_ref()?)?)))
            .collect();
        let sent = self.associations.iter().filter(|(id, _)| id.direction == Direction::Out);
        sent.map(|(id, association)| {
            let public = public.get(&id.to).copied().unwrap_or(id.to);
            (id.to, (public, association.ports.map(|(_, to)| to)))
        })
        .collect()
    }

    /// The same; `usual`: our UDP port.
    pub(crate) fn seats(&self, usual: u16) -> BTreeMap<IpAddr, Seat> {
        let receivers = self.receivers().into_iter();
        receivers.map(|(place, (public, port))| (place, Seat::new(public, port, usual))).collect()
    }
}

impl SaId {
    /// The same SA, whoever its receiver is: an address may change.
    pub(crate) fn anywhere(self) -> RangeInclusive<Self> {
        let first = Self { to: Ipv4Addr::UNSPECIFIED.into(), ..self };
        first..=Self { to: Ipv6Addr::from(u128::MAX).into(), ..self }
    }
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

impl Keys {
    /// Adds the places of everything that is there.
    pub(crate) fn extend(&mut self, tables: &Tables) {
        self.neighbours.extend(tables.neighbours.keys());
        self.routes.extend(tables.routes.keys());
        self.associations.extend(tables.associations.keys());
        self.elements.extend(tables.elements.iter().cloned());
    }

    /// Keeps the places where two tables differ.
    pub(crate) fn retain_different(&mut self, one: &Tables, other: &Tables) {
        self.neighbours.retain(|key| one.neighbours.get(key) != other.neighbours.get(key));
        self.routes.retain(|key| one.routes.get(key) != other.routes.get(key));
        self.associations.retain(|key| one.associations.get(key) != other.associations.get(key));
        self.elements.retain(|key| one.elements.contains(key) != other.elements.contains(key));
    }
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

/// Compares what is with what is to be, at these places.
pub(crate) fn difference<K: Ord + Copy, V: PartialEq + Copy>(
    keys: &BTreeSet<K>,
    actual: &BTreeMap<K, V>,
    target: &BTreeMap<K, V>,
) -> Difference<K, V> {
    let mut difference = Difference { add: Vec::new(), change: Vec::new(), remove: Vec::new() };
    for &key in keys {
        match (actual.get(&key), target.get(&key)) {
            (None, Some(&value)) => difference.add.push((key, value)),
            (Some(&former), None) => difference.remove.push((key, former)),
            (Some(&former), Some(&value)) if former != value => {
                difference.change.push((key, former, value));
            }
            _ => {}
        }
    }
    difference
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_done_makes_what_is_to_be(
            actual in prop::collection::btree_map(0u8..16, 0u8..4, 0..16),
            target in prop::collection::btree_map(0u8..16, 0u8..4, 0..16),
        ) {
            let difference = difference(&(0..16).collect(), &actual, &target);
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
}
