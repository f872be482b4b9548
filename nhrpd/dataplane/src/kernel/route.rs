//! Neighbours and routes on the tunnel device (rtnetlink).

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

use super::socket::Requests;
use super::wire::{Request, attributes, find, u16_at, u32_at};
use crate::ROUTE_PROTOCOL;

pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
pub(crate) const RTM_NEWROUTE: u16 = 24;
pub(crate) const RTM_DELROUTE: u16 = 25;
pub(crate) const RTM_GETROUTE: u16 = 26;
pub(crate) const RTM_NEWNEIGH: u16 = 28;
pub(crate) const RTM_DELNEIGH: u16 = 29;
pub(crate) const RTM_GETNEIGH: u16 = 30;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
/// Marks neighbours as ours: made by a control plane, not by resolution nor by hand.
const NTF_EXT_LEARNED: u8 = 0x10;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTNH_F_ONLINK: u32 = 4;
const RT_TABLE_MAIN: u8 = 254;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RT_SCOPE_NOWHERE: u8 = 255;
const RTN_UNICAST: u8 = 1;

pub(crate) fn family(address: IpAddr) -> u8 {
    (if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

pub(crate) fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
        _ => None,
    }
}

/// struct ndmsg
fn neighbour(kind: u16, flags: i32, index: u32, address: IpAddr) -> Request {
    Request::new(kind, flags)
        .raw(&[family(address), 0, 0, 0])
        .raw(&index.to_ne_bytes())
        .raw(&NUD_PERMANENT.to_ne_bytes())
        .raw(&[NTF_EXT_LEARNED, RTN_UNICAST])
        .put(NDA_DST, &octets(address))
}

/// `address` is at `nbma`, and exempt from `gc_thresh3`.
pub(crate) fn set_neighbour(index: u32, address: IpAddr, nbma: IpAddr) -> Request {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    neighbour(RTM_NEWNEIGH, flags, index, address).put(NDA_LLADDR, &octets(nbma))
}

pub(crate) fn remove_neighbour(index: u32, address: IpAddr) -> Request {
    neighbour(RTM_DELNEIGH, 0, index, address)
}

/// Which address the kernel asks for, where a message says so.
pub(crate) fn solicited(index: u32, payload: &[u8]) -> Option<IpAddr> {
    (u32_at(payload, 4)? == index).then_some(())?;
    address(find(payload.get(12..)?, NDA_DST)?)
}

/// Our neighbours on a device.
pub(crate) fn neighbours(kernel: &Requests, index: u32) -> io::Result<BTreeMap<IpAddr, IpAddr>> {
    let mut found = BTreeMap::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut header = [0; 12];
        header[0] = family as u8;
        let request = Request::new(RTM_GETNEIGH, libc::NLM_F_DUMP).raw(&header);
        for message in kernel.dump(request)? {
            let ours = u32_at(&message, 4) == Some(index)
                && u16_at(&message, 8) == Some(NUD_PERMANENT)
                && message.get(10).is_some_and(|flags| flags & NTF_EXT_LEARNED != 0);
            let attribute = |kind| message.get(12..).and_then(|rest| find(rest, kind));
            let pair = attribute(NDA_DST).zip(attribute(NDA_LLADDR));
            if let (true, Some((dst, lladdr))) = (ours, pair)
                && let Some((dst, lladdr)) = address(dst).zip(address(lladdr))
            {
                found.insert(dst, lladdr);
            }
        }
    }
    Ok(found)
}

/// Whether something of ours may be what a notification tells of; `neighbour`: is one of ours.
pub(crate) fn concerns(
    index: u32,
    kind: u16,
    payload: &[u8],
    neighbour: impl Fn(IpAddr) -> bool,
) -> bool {
    match kind {
        RTM_NEWLINK => {
            let up = u32_at(payload, 8).unwrap_or_default() & libc::IFF_UP as u32 != 0;
            u32_at(payload, 4) == Some(index) && !up
        }
        RTM_DELLINK => u32_at(payload, 4) == Some(index),
        // One that was made by hand is none of ours, unless it took our place. One that was removed
        // is told of as neither permanent nor learnt.
        RTM_NEWNEIGH | RTM_DELNEIGH => {
            let address = payload.get(12..).and_then(|rest| find(rest, NDA_DST)).and_then(address);
            u32_at(payload, 4) == Some(index)
                && (u16_at(payload, 8) == Some(NUD_PERMANENT) || address.is_some_and(neighbour))
        }
        RTM_NEWROUTE | RTM_DELROUTE => own_route(index, payload).is_some(),
        _ => false,
    }
}

/// struct rtmsg
fn route(kind: u16, flags: i32, index: u32, prefix: IpNet, via: Option<IpAddr>) -> Request {
    let scope = match via {
        // Whichever it has.
        _ if kind == RTM_DELROUTE => RT_SCOPE_NOWHERE,
        None if prefix.addr().is_ipv4() => RT_SCOPE_LINK,
        _ => RT_SCOPE_UNIVERSE,
    };
    let nexthop = if via.is_some() { RTNH_F_ONLINK } else { 0 };
    let request = Request::new(kind, flags)
        .raw(&[family(prefix.addr()), prefix.prefix_len(), 0, 0])
        .raw(&[RT_TABLE_MAIN, ROUTE_PROTOCOL, scope, RTN_UNICAST])
        .raw(&nexthop.to_ne_bytes())
        .put(RTA_DST, &octets(prefix.network()))
        .put_u32(RTA_OIF, index);
    match via {
        Some(via) => request.put(RTA_GATEWAY, &octets(via)),
        None => request,
    }
}

/// A route into the tunnel that is not there yet; `via` none: whoever is asked for is asked for
/// by his own address.
pub(crate) fn add_route(index: u32, prefix: IpNet, via: Option<IpAddr>) -> Request {
    route(RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, index, prefix, via)
}

/// Another next hop for a route of ours.
pub(crate) fn change_route(index: u32, prefix: IpNet, via: Option<IpAddr>) -> Request {
    route(RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, index, prefix, via)
}

pub(crate) fn remove_route(index: u32, prefix: IpNet, via: Option<IpAddr>) -> Request {
    route(RTM_DELROUTE, 0, index, prefix, via)
}

/// Our routes through a device.
pub(crate) fn routes(kernel: &Requests, index: u32) -> io::Result<BTreeMap<IpNet, Option<IpAddr>>> {
    let mut found = BTreeMap::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut header = [0; 12];
        header[0] = family as u8;
        let request = Request::new(RTM_GETROUTE, libc::NLM_F_DUMP).raw(&header);
        for message in kernel.dump(request)? {
            if let Some((prefix, via)) = own_route(index, &message) {
                found.insert(prefix, via);
            }
        }
    }
    Ok(found)
}

fn own_route(index: u32, message: &[u8]) -> Option<(IpNet, Option<IpAddr>)> {
    let rest = message.get(12..)?;
    let ours = message[4] == RT_TABLE_MAIN
        && message[5] == ROUTE_PROTOCOL
        && find(rest, RTA_OIF).and_then(|oif| u32_at(oif, 0)) == Some(index);
    if !ours {
        return None;
    }
    let mut destination = match i32::from(message[0]) {
        libc::AF_INET => IpAddr::from([0; 4]),
        _ => IpAddr::from([0; 16]),
    };
    let mut via = None;
    for (kind, payload) in attributes(rest) {
        match kind {
            RTA_DST => destination = address(payload)?,
            RTA_GATEWAY => via = address(payload),
            _ => {}
        }
    }
    Some((IpNet::new(destination, message[1]).ok()?, via))
}

#[cfg(test)]
mod tests {
    use super::super::wire::messages;
    use super::*;

    /// fib_table_delete compares the scope, unless it is asked for none; that of a route without a next hop
    /// is another than that of a route with one.
    #[test]
    fn a_route_is_removed_whatever_scope_it_has() {
        let prefix = "192.168.2.0/24".parse().unwrap();
        for via in [None, Some(IpAddr::from([172, 16, 0, 3]))] {
            let mut request = remove_route(7, prefix, via);
            let message = messages(request.finish(1)).next().unwrap();
            assert_eq!(message.payload[6], RT_SCOPE_NOWHERE);
        }
    }

    #[test]
    fn a_removed_neighbour_concerns_us_when_it_was_ours() {
        let address = IpAddr::from([172, 16, 0, 3]);
        let mut request = remove_neighbour(7, address);
        let message = messages(request.finish(1)).next().unwrap();
        let mut payload = message.payload.to_vec();
        // As the kernel tells of it: NUD_FAILED, no flags.
        payload[8..11].copy_from_slice(&[0x20, 0, 0]);
        let ours = |known| concerns(7, RTM_DELNEIGH, &payload, |of| known && of == address);
        assert!(ours(true) && !ours(false));
        assert!(!concerns(8, RTM_DELNEIGH, &payload, |_| true), "another device");
    }
}
