//! Ranges of addresses without overlap, each with the longest prefix that contains it: a set of
//! nf_tables has no longest prefix.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Addresses that share their longest prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub first: IpAddr,
    pub last: IpAddr,
    /// The longest prefix that contains them.
    pub prefix: IpNet,
}

/// The range that an address is in.
pub(crate) fn at<V>(prefixes: &BTreeMap<IpNet, V>, address: IpAddr) -> Option<Range> {
    let (&nearest, _) = prefixes.range(..=IpNet::from(address)).next_back()?;
    if nearest.addr().is_ipv4() != address.is_ipv4() {
        return None;
    }
    // Of those around the nearest one: those that end before the address, and then the one that
    // contains it.
    let (mut first, mut prefix) = (nearest.network(), nearest);
    while !prefix.contains(&address) {
        first = following(prefix.broadcast())?;
        prefix = parent(prefixes, prefix)?;
    }
    let end = number(prefix.broadcast());
    let next = start_after(prefixes, address).map_or(end, |next| end.min(number(next) - 1));
    Some(Range { first, last: from_number(address.is_ipv4(), next), prefix })
}

/// The ranges that have some address of these, in order.
pub(crate) fn among<V>(
    prefixes: &BTreeMap<IpNet, V>,
    first: IpAddr,
    last: IpAddr,
) -> impl Iterator<Item = Range> {
    let mut next = Some(first);
    std::iter::from_fn(move || {
        loop {
            let address = next.filter(|next| *next <= last)?;
            let found = at(prefixes, address);
            next = match &found {
                Some(range) => following(range.last),
                None => start_after(prefixes, address),
            };
            if found.is_some() {
                return found;
            }
        }
    })
}

/// All ranges of both families.
pub(crate) fn all<V>(prefixes: &BTreeMap<IpNet, V>) -> impl Iterator<Item = Range> {
    let v4 = among(prefixes, Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::BROADCAST.into());
    v4.chain(among(prefixes, Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::from(u128::MAX).into()))
}

/// The ranges that are others with a prefix than without it.
pub(crate) fn around<V>(
    prefixes: &BTreeMap<IpNet, V>,
    prefix: IpNet,
) -> impl Iterator<Item = Range> {
    let (first, last) = (prefix.network(), prefix.broadcast());
    let before = number(first).checked_sub(1).map(|n| from_number(first.is_ipv4(), n));
    among(prefixes, before.unwrap_or(first), following(last).unwrap_or(last))
}

/// The longest of the prefixes around one.
fn parent<V>(prefixes: &BTreeMap<IpNet, V>, prefix: IpNet) -> Option<IpNet> {
    let around = |len| IpNet::new(prefix.addr(), len).ok().map(|wider| wider.trunc());
    (0..prefix.prefix_len()).rev().filter_map(around).find(|wider| prefixes.contains_key(wider))
}

/// The first address behind this one with which a prefix begins.
fn start_after<V>(prefixes: &BTreeMap<IpNet, V>, address: IpAddr) -> Option<IpAddr> {
    let (next, _) = prefixes.range(IpNet::new(following(address)?, 0).ok()?..).next()?;
    (next.addr().is_ipv4() == address.is_ipv4()).then(|| next.network())
}

fn following(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => u32::from(address).checked_add(1).map(|n| Ipv4Addr::from(n).into()),
        IpAddr::V6(address) => u128::from(address).checked_add(1).map(|n| Ipv6Addr::from(n).into()),
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(s: &str) -> IpNet {
        s.parse().unwrap()
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

    fn prefixes() -> impl Strategy<Value = BTreeMap<IpNet, ()>> {
        prop::collection::btree_map(prefix(), Just(()), 0..12)
    }

    proptest! {
        #[test]
        fn every_address_is_in_the_range_of_its_longest_prefix(prefixes in prefixes(), host: u8) {
            for address in [IpAddr::from([10, 0, 0, host]), Ipv6Addr::from(u128::from(host)).into()] {
                let longest = prefixes
                    .keys()
                    .filter(|prefix| prefix.contains(&address))
                    .max_by_key(|prefix| prefix.prefix_len());
                let of: Vec<Range> = all(&prefixes)
                    .filter(|range| (range.first..=range.last).contains(&address))
                    .collect();
                prop_assert!(of.len() <= 1);
                prop_assert_eq!(of.first().map(|range| &range.prefix), longest);
                prop_assert_eq!(of.first().copied(), at(&prefixes, address));
            }
        }

        #[test]
        fn a_prefix_changes_no_range_but_those_around_it(prefixes in prefixes(), prefix in prefix()) {
            let mut with = prefixes.clone();
            with.insert(prefix, ());
            let mut without = prefixes;
            without.remove(&prefix);
            let mut changed: Vec<Range> = all(&without).collect();
            changed.retain(|range| !around(&without, prefix).any(|other| other == *range));
            changed.extend(around(&with, prefix));
            changed.sort_by_key(|range| range.first);
            prop_assert_eq!(changed, all(&with).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_whole_of_both_families_has_its_ranges() {
        let prefixes = ["0.0.0.0/0", "10.0.0.0/8", "::/0", "fd00::/8"].map(|s| (net(s), ()));
        let all: Vec<Range> = all(&prefixes.into()).collect();
        assert_eq!(all.len(), 6, "{all:?}");
    }
}
