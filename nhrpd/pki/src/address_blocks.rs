//! IP address blocks in a certificate (RFC 3779 §2): decoding and encoding.
//!
//! ```text
//! IPAddrBlocks      ::= SEQUENCE OF IPAddressFamily
//! IPAddressFamily   ::= SEQUENCE { addressFamily OCTET STRING (SIZE (2..3)), IPAddressChoice }
//! IPAddressChoice   ::= CHOICE { inherit NULL, addressesOrRanges SEQUENCE OF IPAddressOrRange }
//! IPAddressOrRange  ::= CHOICE { addressPrefix BIT STRING, addressRange SEQUENCE { min, max } }
//! ```

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, IpSubnets, Ipv4Net, Ipv4Subnets, Ipv6Net, Ipv6Subnets};

use crate::der::{self, Reader};

/// id-pe-ipAddrBlocks (RFC 3779 §2.2.1).
pub(crate) const OID: &str = "1.3.6.1.5.5.7.1.7";

/// Prefixes that one certificate may name. A range of IPv6 addresses can stand for 254 of them.
pub const MAX_PREFIXES: usize = 1024;

const AFI_IPV4: [u8; 2] = [0, 1];
const AFI_IPV6: [u8; 2] = [0, 2];
/// Unicast forwarding; the only SAFI that means what the absence of one means.
const SAFI_UNICAST: u8 = 1;

/// The address blocks of a certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressBlocks {
    /// IPv4; `None` where the extension does not speak of it.
    pub ipv4: Option<Addresses>,
    /// IPv6; `None` where the extension does not speak of it.
    pub ipv6: Option<Addresses>,
}

/// The addresses of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addresses {
    /// Whatever the issuer has (RFC 3779 §2.2.3.5).
    Inherit,
    /// These. Ranges come as the fewest prefixes that cover them exactly.
    Prefixes(BTreeSet<IpNet>),
}

/// Why the extension cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressBlocksError {
    /// Not the ASN.1 of RFC 3779, or not DER.
    #[error(transparent)]
    Der(#[from] der::Error),
    /// Neither IPv4 nor IPv6 unicast.
    #[error("address family other than IPv4 and IPv6 unicast")]
    Family,
    /// A family stands there twice.
    #[error("the same address family twice")]
    RepeatedFamily,
    /// A prefix longer than an address.
    #[error("prefix longer than an address of its family")]
    PrefixLength,
    /// The last address of a range is below the first.
    #[error("range that ends before it begins")]
    Range,
    /// More than [`MAX_PREFIXES`].
    #[error("more than {MAX_PREFIXES} prefixes")]
    TooMany,
}

impl AddressBlocks {
    /// Decodes the value of the extension.
    ///
    /// Total. Stricter than RFC 3779 nowhere but in [`MAX_PREFIXES`], and laxer about order:
    /// unsorted, overlapping or unmerged blocks are taken as they are.
    pub fn decode(value: &[u8]) -> Result<Self, AddressBlocksError> {
        let mut blocks = Self::default();
        let mut budget = MAX_PREFIXES;
        let mut outer = Reader::new(value);
        let mut families = outer.nested(der::SEQUENCE)?;
        outer.end()?;
        while !families.is_empty() {
            let mut family = families.nested(der::SEQUENCE)?;
            let kind = match *family.value(der::OCTET_STRING)? {
                [high, low] | [high, low, SAFI_UNICAST] => [high, low],
                _ => return Err(AddressBlocksError::Family),
            };
            let (slot, width) = match kind {
                AFI_IPV4 => (&mut blocks.ipv4, 32),
                AFI_IPV6 => (&mut blocks.ipv6, 128),
                _ => return Err(AddressBlocksError::Family),
            };
            let addresses = if family.peek() == Some(der::NULL) {
                if !family.value(der::NULL)?.is_empty() {
                    return Err(der::Error::Value.into());
                }
                Addresses::Inherit
            } else {
                let mut list = family.nested(der::SEQUENCE)?;
                let mut prefixes = BTreeSet::new();
                while !list.is_empty() {
                    for prefix in address_or_range(&mut list, width)? {
                        budget = budget.checked_sub(1).ok_or(AddressBlocksError::TooMany)?;
                        prefixes.insert(prefix);
                    }
                }
                Addresses::Prefixes(prefixes)
            };
            family.end()?;
            if slot.replace(addresses).is_some() {
                return Err(AddressBlocksError::RepeatedFamily);
            }
        }
        Ok(blocks)
    }

    /// The value of the extension for these prefixes, in canonical form (RFC 3779 §2.2.3.6): sorted,
    /// and what touches or overlaps is one prefix, or one range where no prefix covers it exactly.
    pub fn encode(prefixes: &BTreeSet<IpNet>) -> Vec<u8> {
        let mut families = Vec::new();
        for (kind, is_ipv4, width) in [(AFI_IPV4, true, 32), (AFI_IPV6, false, 128)] {
            let ranges = merge(prefixes.iter().filter(|p| p.addr().is_ipv4() == is_ipv4), width);
            if ranges.is_empty() {
                continue;
            }
            let list: Vec<u8> = ranges
                .into_iter()
                .flat_map(|(first, last)| encode_range(first, last, width))
                .collect();
            let family =
                [der::encode(der::OCTET_STRING, &kind), der::encode(der::SEQUENCE, &list)].concat();
            families.extend(der::encode(der::SEQUENCE, &family));
        }
        der::encode(der::SEQUENCE, &families)
    }

    /// What the certificate names itself; an inherited family counts as nothing.
    pub fn prefixes(&self) -> BTreeSet<IpNet> {
        self.resolve(&BTreeSet::new())
    }

    /// The prefixes of both families, with `issuer`'s where this certificate inherits.
    pub(crate) fn resolve(&self, issuer: &BTreeSet<IpNet>) -> BTreeSet<IpNet> {
        let mut resolved = BTreeSet::new();
        for (family, is_ipv4) in [(&self.ipv4, true), (&self.ipv6, false)] {
            match family {
                None => {}
                Some(Addresses::Prefixes(prefixes)) => resolved.extend(prefixes),
                Some(Addresses::Inherit) => {
                    resolved.extend(issuer.iter().filter(|p| p.addr().is_ipv4() == is_ipv4));
                }
            }
        }
        resolved
    }
}

/// The first of `prefixes` that `set`, taken together, does not cover whole.
pub(crate) fn not_covered(set: &BTreeSet<IpNet>, prefixes: &BTreeSet<IpNet>) -> Option<IpNet> {
    let set = IpNet::aggregate(&set.iter().copied().collect());
    prefixes.iter().find(|prefix| !set.iter().any(|net| net.contains(*prefix))).copied()
}

fn address_or_range(
    list: &mut Reader<'_>,
    width: u32,
) -> Result<Box<dyn Iterator<Item = IpNet>>, AddressBlocksError> {
    if list.peek() == Some(der::BIT_STRING) {
        let (address, length) = bits(list, width)?;
        let prefix = net(address, length, width);
        return Ok(Box::new(std::iter::once(prefix)));
    }
    let mut range = list.nested(der::SEQUENCE)?;
    // RFC 3779 §2.2.3.9: trailing zeros of the first and trailing ones of the last are left out.
    let (first, _) = bits(&mut range, width)?;
    let (last, length) = bits(&mut range, width)?;
    range.end()?;
    let last = last | host_mask(length, width);
    if first > last {
        return Err(AddressBlocksError::Range);
    }
    let subnets = match (address(first, width), address(last, width)) {
        (IpAddr::V4(first), IpAddr::V4(last)) => IpSubnets::V4(Ipv4Subnets::new(first, last, 0)),
        (IpAddr::V6(first), IpAddr::V6(last)) => IpSubnets::V6(Ipv6Subnets::new(first, last, 0)),
        _ => return Err(AddressBlocksError::Family),
    };
    Ok(Box::new(subnets))
}

/// A BIT STRING as the top bits of an address, and how many they are.
fn bits(reader: &mut Reader<'_>, width: u32) -> Result<(u128, u32), AddressBlocksError> {
    let value = reader.value(der::BIT_STRING)?;
    let (&unused, octets) = value.split_first().ok_or(der::Error::Value)?;
    if octets.len() > width as usize / 8 {
        return Err(AddressBlocksError::PrefixLength);
    }
    if unused > 7 || (octets.is_empty() && unused != 0) {
        return Err(der::Error::Value.into());
    }
    let address = octets.iter().zip(0..).fold(0, |address, (octet, position)| {
        address | u128::from(*octet) << (width - 8 - 8 * position)
    });
    let length = 8 * octets.len() as u32 - u32::from(unused);
    // X.690 §11.2.1: unused bits are zero.
    if address & host_mask(length, width) != 0 {
        return Err(der::Error::Value.into());
    }
    Ok((address, length))
}

/// Ones below the first `length` bits of an address of `width` bits.
fn host_mask(length: u32, width: u32) -> u128 {
    u128::MAX.checked_shr(128 - (width - length)).unwrap_or(0)
}

fn address(bits: u128, width: u32) -> IpAddr {
    if width == 32 {
        IpAddr::V4(Ipv4Addr::from_bits(bits as u32))
    } else {
        IpAddr::V6(Ipv6Addr::from_bits(bits))
    }
}

fn net(bits: u128, length: u32, width: u32) -> IpNet {
    // `length` is at most `width`: see `bits`.
    match address(bits, width) {
        IpAddr::V4(address) => Ipv4Net::new_assert(address, length as u8).into(),
        IpAddr::V6(address) => Ipv6Net::new_assert(address, length as u8).into(),
    }
}

/// Disjoint ranges that do not touch, in order.
fn merge<'a>(prefixes: impl Iterator<Item = &'a IpNet>, width: u32) -> Vec<(u128, u128)> {
    let mut ranges: Vec<(u128, u128)> = prefixes
        .map(|prefix| {
            let first = match prefix.network() {
                IpAddr::V4(address) => u128::from(address.to_bits()),
                IpAddr::V6(address) => address.to_bits(),
            };
            (first, first | host_mask(u32::from(prefix.prefix_len()), width))
        })
        .collect();
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let touches = next.0 <= kept.1.saturating_add(1);
        if touches {
            kept.1 = kept.1.max(next.1);
        }
        touches
    });
    ranges
}

fn encode_range(first: u128, last: u128, width: u32) -> Vec<u8> {
    let common = (first ^ last).leading_zeros() - (128 - width);
    let exact = first & host_mask(common, width) == 0
        && last & host_mask(common, width) == host_mask(common, width);
    if exact {
        return encode_bits(first, common, width);
    }
    let trailing_zeros = first.trailing_zeros().min(width);
    let trailing_ones = last.trailing_ones().min(width);
    let ends = [
        encode_bits(first, width - trailing_zeros, width),
        encode_bits(last & !host_mask(width - trailing_ones, width), width - trailing_ones, width),
    ];
    der::encode(der::SEQUENCE, &ends.concat())
}

fn encode_bits(address: u128, length: u32, width: u32) -> Vec<u8> {
    let octets = length.div_ceil(8);
    let unused = (8 * octets - length) as u8;
    let address = (address << (128 - width)).to_be_bytes();
    let mut value = vec![unused];
    value.extend_from_slice(&address[..octets as usize]);
    der::encode(der::BIT_STRING, &value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(prefixes: &[&str]) -> BTreeSet<IpNet> {
        prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect()
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: String = text.split_whitespace().collect();
        (0..digits.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap())
            .collect()
    }

    fn error(text: &str) -> AddressBlocksError {
        AddressBlocks::decode(&hex(text)).unwrap_err()
    }

    /// RFC 3779 appendix B, first example: 10.0.32.0/20, 10.0.64.0/24, 10.1.0.0/16,
    /// the range 10.2.48.0-10.2.64.255, 10.3.0.0/16; IPv6 inherited.
    #[test]
    fn example_of_the_rfc() {
        let value = hex("
            30 35
              30 2b 04 03 00 01 01
                 30 24
                    03 04 04 0a 00 20
                    03 04 00 0a 00 40
                    03 03 00 0a 01
                    30 0c 03 04 04 0a 02 30  03 04 00 0a 02 40
                    03 03 00 0a 03
              30 06 04 02 00 02 05 00");
        let blocks = AddressBlocks::decode(&value).unwrap();
        let expected = set(&[
            "10.0.32.0/20",
            "10.0.64.0/24",
            "10.1.0.0/16",
            "10.2.48.0/20",
            "10.2.64.0/24",
            "10.3.0.0/16",
        ]);
        assert_eq!(blocks.ipv4, Some(Addresses::Prefixes(expected.clone())));
        assert_eq!(blocks.ipv6, Some(Addresses::Inherit));
        assert_eq!(blocks.prefixes(), expected);
        let issuer = set(&["10.0.0.0/8", "2001:db8::/32"]);
        assert!(blocks.resolve(&issuer).contains(&"2001:db8::/32".parse().unwrap()));
        assert!(!blocks.resolve(&issuer).contains(&"10.0.0.0/8".parse().unwrap()));
    }

    #[test]
    fn prefixes_encode_as_the_rfc_shows() {
        // RFC 3779 appendix A: 0/0 has no bits, 10.64/12 has four unused ones.
        assert_eq!(
            AddressBlocks::encode(&set(&["0.0.0.0/0"])),
            hex("30 0b 30 09 04 02 00 01 30 03 03 01 00")
        );
        assert_eq!(
            AddressBlocks::encode(&set(&["10.64.0.0/12"])),
            hex("30 0d 30 0b 04 02 00 01 30 05 03 03 04 0a 40")
        );
        assert_eq!(
            AddressBlocks::encode(&set(&["2001:0:200::/39", "192.0.2.1/32"])),
            hex("
                30 1f
                  30 0d 04 02 00 01 30 07 03 05 00 c0 00 02 01
                  30 0e 04 02 00 02 30 08 03 06 01 20 01 00 00 02")
        );
    }

    #[test]
    fn neighbours_become_one_prefix_or_one_range() {
        let decoded = |prefixes: &[&str]| {
            AddressBlocks::decode(&AddressBlocks::encode(&set(prefixes))).unwrap().prefixes()
        };
        assert_eq!(decoded(&["10.0.0.0/24", "10.0.1.0/24"]), set(&["10.0.0.0/23"]));
        assert_eq!(decoded(&["10.0.0.0/8", "10.1.0.0/24"]), set(&["10.0.0.0/8"]));
        let range = ["10.0.1.0/24", "10.0.2.0/24"];
        assert_eq!(decoded(&range), set(&range));
        assert_eq!(
            AddressBlocks::encode(&set(&range)),
            hex("30 16 30 14 04 02 00 01 30 0e 30 0c 03 04 00 0a 00 01 03 04 00 0a 00 02")
        );
    }

    #[test]
    fn the_whole_space_in_halves() {
        let halves = set(&["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"]);
        let decoded = AddressBlocks::decode(&AddressBlocks::encode(&halves)).unwrap().prefixes();
        assert_eq!(decoded, set(&["0.0.0.0/0", "::/0"]));
    }

    #[test]
    fn bad_blocks_are_refused_by_reason() {
        use AddressBlocksError::{Der, Family, PrefixLength, Range, RepeatedFamily};
        assert_eq!(error(""), Der(der::Error::Truncated));
        assert_eq!(error("30 05 30"), Der(der::Error::Truncated));
        assert_eq!(error("30 00 00"), Der(der::Error::Trailing));
        assert_eq!(error("31 00"), Der(der::Error::Tag));
        assert_eq!(error("30 81 00"), Der(der::Error::Length));
        // AFI 25 (L2VPN), SAFI 128 (MPLS VPN)
        assert_eq!(error("30 08 30 06 04 02 00 19 05 00"), Family);
        assert_eq!(error("30 09 30 07 04 03 00 01 80 05 00"), Family);
        assert_eq!(error("30 10 30 06 04 02 00 01 05 00 30 06 04 02 00 01 05 00"), RepeatedFamily);
        // inherit with a value
        assert_eq!(error("30 09 30 07 04 02 00 01 05 01 00"), Der(der::Error::Value));
        // 40 bits of IPv4
        assert_eq!(error("30 10 30 0e 04 02 00 01 30 08 03 06 00 0a 00 00 00 00"), PrefixLength);
        // unused bits: eight, set, of nothing
        assert_eq!(error("30 0c 30 0a 04 02 00 01 30 04 03 02 08 0a"), Der(der::Error::Value));
        assert_eq!(error("30 0c 30 0a 04 02 00 01 30 04 03 02 04 0f"), Der(der::Error::Value));
        assert_eq!(error("30 0b 30 09 04 02 00 01 30 03 03 01 01"), Der(der::Error::Value));
        assert_eq!(error("30 12 30 10 04 02 00 01 30 0a 30 08 03 02 00 0b 03 02 00 0a"), Range);
    }

    #[test]
    fn ranges_cannot_blow_up() {
        // ::1 to ffff:…:fffe is 254 prefixes in 40 octets.
        let first = [&[0][..], &[0; 15], &[1]].concat();
        let last = [&[0][..], &[0xff; 15], &[0xfe]].concat();
        let range = der::encode(
            der::SEQUENCE,
            &[der::encode(der::BIT_STRING, &first), der::encode(der::BIT_STRING, &last)].concat(),
        );
        let blocks = |count: usize| {
            let list = der::encode(der::SEQUENCE, &range.repeat(count));
            let family = [der::encode(der::OCTET_STRING, &AFI_IPV6), list].concat();
            der::encode(der::SEQUENCE, &der::encode(der::SEQUENCE, &family))
        };
        assert_eq!(AddressBlocks::decode(&blocks(4)).unwrap().prefixes().len(), 254);
        assert_eq!(AddressBlocks::decode(&blocks(5)), Err(AddressBlocksError::TooMany));
    }

    #[test]
    fn two_halves_cover_a_whole() {
        let halves = set(&["10.0.0.0/25", "10.0.0.128/25"]);
        assert_eq!(not_covered(&halves, &set(&["10.0.0.0/24", "10.0.0.3/32"])), None);
        let wider = set(&["10.0.0.0/24", "10.0.0.0/23", "::/0"]);
        assert_eq!(not_covered(&halves, &wider), Some("10.0.0.0/23".parse().unwrap()));
    }

    fn any_net() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (any::<[u8; 4]>(), 0u8..=32)
                .prop_map(|(a, l)| IpNet::new(a.into(), l).unwrap().trunc()),
            // Small, so that neighbours and overlaps happen.
            (0u8..8, 29u8..=32)
                .prop_map(|(a, l)| IpNet::new([10, 0, 0, a].into(), l).unwrap().trunc()),
            (any::<[u8; 16]>(), 0u8..=128)
                .prop_map(|(a, l)| IpNet::new(a.into(), l).unwrap().trunc()),
        ]
    }

    proptest! {
        #[test]
        fn encoding_keeps_the_addresses(prefixes in proptest::collection::btree_set(any_net(), 0..8)) {
            let encoded = AddressBlocks::encode(&prefixes);
            let decoded = AddressBlocks::decode(&encoded).unwrap().prefixes();
            prop_assert_eq!(&AddressBlocks::encode(&decoded), &encoded);
            let aggregate = |set: &BTreeSet<IpNet>| {
                IpNet::aggregate(&set.iter().copied().collect()).into_iter().collect::<BTreeSet<_>>()
            };
            prop_assert_eq!(aggregate(&decoded), aggregate(&prefixes));
        }

        #[test]
        fn any_octets_decode_or_are_refused(octets in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = AddressBlocks::decode(&octets);
        }

        #[test]
        fn damaged_blocks_decode_or_are_refused(
            prefixes in proptest::collection::btree_set(any_net(), 1..6),
            position: proptest::sample::Index,
            octet: u8,
            keep: proptest::sample::Index,
        ) {
            let mut encoded = AddressBlocks::encode(&prefixes);
            let position = position.index(encoded.len());
            encoded[position] = octet;
            let _ = AddressBlocks::decode(&encoded);
            encoded.truncate(keep.index(encoded.len()));
            let _ = AddressBlocks::decode(&encoded);
        }
    }
}
