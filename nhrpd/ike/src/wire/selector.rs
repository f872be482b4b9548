//! Traffic selectors (RFC 7296 §3.13).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Error;
use super::reader::Reader;

/// One traffic selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficSelector {
    /// IP protocol, 0 for any.
    pub protocol: u8,
    /// First and last port; 0 and 65535 for any.
    pub ports: (u16, u16),
    /// First and last address, of one family.
    pub addresses: (IpAddr, IpAddr),
}

const IPV4: u8 = 7;
const IPV6: u8 = 8;

/// Decodes the body of a TSi or TSr payload; selectors of unknown type are left out.
pub fn decode(body: &[u8]) -> Result<Vec<TrafficSelector>, Error> {
    let mut reader = Reader::new(body, "traffic selector payload");
    let count = usize::from(reader.u8()?);
    reader.take(3)?;
    let mut selectors = Vec::new();
    for _ in 0..count {
        let kind = reader.u8()?;
        let protocol = reader.u8()?;
        let len = usize::from(reader.u16()?);
        let body = reader.take(len.checked_sub(4).ok_or(Error::Invalid("traffic selector"))?)?;
        let mut body = Reader::new(body, "traffic selector");
        if kind != IPV4 && kind != IPV6 {
            continue;
        }
        let ports = (body.u16()?, body.u16()?);
        let addresses = (address(kind, &mut body)?, address(kind, &mut body)?);
        body.end()?;
        selectors.push(TrafficSelector { protocol, ports, addresses });
    }
    reader.end()?;
    Ok(selectors)
}

fn address(kind: u8, reader: &mut Reader<'_>) -> Result<IpAddr, Error> {
    Ok(if kind == IPV4 {
        Ipv4Addr::from_bits(reader.u32()?).into()
    } else {
        let (high, low) = (reader.u64()?, reader.u64()?);
        Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).into()
    })
}

pub(super) fn encode(selectors: &[TrafficSelector], out: &mut Vec<u8>) {
    out.extend_from_slice(&[selectors.len() as u8, 0, 0, 0]);
    for selector in selectors {
        let v4 = selector.addresses.0.is_ipv4();
        out.extend_from_slice(&[if v4 { IPV4 } else { IPV6 }, selector.protocol]);
        out.extend_from_slice(&(if v4 { 16u16 } else { 40 }).to_be_bytes());
        out.extend_from_slice(&selector.ports.0.to_be_bytes());
        out.extend_from_slice(&selector.ports.1.to_be_bytes());
        for address in [selector.addresses.0, selector.addresses.1] {
            match address {
                IpAddr::V4(address) => out.extend_from_slice(&address.octets()),
                IpAddr::V6(address) => out.extend_from_slice(&address.octets()),
            }
        }
    }
}
