//! What lies behind the node, and what it reaches through the tunnel.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::{Block, ROUTING, prefix, words};
use crate::import::found::{Found, Line};

/// A routing protocol stays one; but the networks behind the node that it names are advertised.
pub(super) fn router<'a>(
    found: &mut Found<'a>,
    block: &Block<'a>,
    blocks: &[Block<'a>],
    tunnel: &Block<'a>,
) {
    found.note_lines(block.head, block.head.number, ROUTING);
    let bgp = block.head.text.starts_with("router bgp");
    for line in &block.body {
        let networks = match words(line.text)[..] {
            ["network", ref rest @ ..] => network(rest),
            _ => None,
        };
        let Some(network) = networks else {
            found.note(*line, ROUTING);
            continue;
        };
        let mut local = match bgp {
            true => vec![network],
            false => behind(network, blocks, tunnel),
        };
        if let Some(address) = found.address {
            local.retain(|prefix| *prefix != address.trunc());
        }
        if local.is_empty() && found.address.is_none_or(|own| !network.contains(&own.addr())) {
            found.note(*line, "no network behind this node is in it");
        }
        found.advertise.extend(local.into_iter().map(|prefix| (*line, prefix)));
    }
}

/// `A.B.C.D` of a class, `A.B.C.D` with wildcard or `mask M`, or a prefix.
fn network(words: &[&str]) -> Option<IpNet> {
    match words {
        [address, "mask", mask] => prefix(&[address, mask]),
        [address, ..] if address.contains('/') => address.parse().ok(),
        [address] => {
            let address: Ipv4Addr = address.parse().ok()?;
            let length = match address.octets()[0] {
                0..128 => 8,
                128..192 => 16,
                _ => 24,
            };
            Ipv4Net::new(address, length).ok().map(IpNet::V4)
        }
        [address, wildcard, ..] => {
            let wildcard: Ipv4Addr = wildcard.parse().ok()?;
            prefix(&[address, &Ipv4Addr::from(!u32::from(wildcard)).to_string()])
        }
        [] => None,
    }
    .map(|network| network.trunc())
}

/// The networks of the other interfaces that are in `network`, without that of the underlay.
fn behind(network: IpNet, blocks: &[Block<'_>], tunnel: &Block<'_>) -> Vec<IpNet> {
    let source = tunnel.body.iter().find_map(|line| line.text.strip_prefix("tunnel source "));
    let mut prefixes = Vec::new();
    for block in blocks {
        let is_tunnel = block.about_nhrp() || block.interface().is_none();
        let down = block.body.iter().any(|line| line.text == "shutdown");
        if is_tunnel || down || block.interface() == source {
            continue;
        }
        for line in &block.body {
            let Some(rest) = line.text.strip_prefix("ip address ") else { continue };
            let mut words = words(rest);
            words.retain(|word| *word != "secondary");
            let Some(address) = prefix(&words) else { continue };
            let is_source = source.and_then(|source| source.parse().ok()) == Some(address.addr());
            if network.contains(&address.addr()) && !is_source {
                prefixes.push(address.trunc());
            }
        }
    }
    prefixes
}

/// A static route through the tunnel; others are left to the system.
pub(super) fn route<'a>(found: &mut Found<'a>, line: Line<'a>, own: Option<IpNet>) {
    let all = words(line.text);
    let (target, via) = match all[2..] {
        [target, ref via @ ..] if target.contains('/') => (target.parse().ok(), via),
        [address, mask, ref via @ ..] => (prefix(&[address, mask]), via),
        _ => (None, &[][..]),
    };
    let gateway = via.iter().find_map(|word| word.parse::<IpAddr>().ok());
    let device = via.first() == Some(&found.interface.as_str());
    let inside = gateway.zip(own).is_some_and(|(gateway, own)| own.contains(&gateway));
    let Some(target) = target.filter(|_| device || inside) else {
        return found.note(line, "not about the tunnel: left to the system");
    };
    let to_server = gateway
        .is_none_or(|gateway| found.servers.iter().any(|(_, server)| server.address == gateway));
    match to_server {
        _ if target.prefix_len() == 0 => found.note(
            line,
            "a default route into the tunnel would carry the tunnel itself: name prefixes in routes",
        ),
        false => found.note(
            line,
            "the node that has this prefix registers it (advertise): nothing to do here",
        ),
        true => found.routes.push((line, target)),
    }
}
