//! `show dmvpn`: peers, who they are, how far they are, and why not farther.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};

use control::{
    Attribute, Certificate, Counters, Dataplane, Dmvpn, Interface, Path, Peer, PeerState, Refusal,
    Role, Security, Session,
};

use super::nhrp::nhs;
use super::paths::{transport, write_ike_sa};
use crate::text::{Column, ago, elapsed, or_dash, plural, table};

const LEGEND: &str = "\
Legend: Attrb --> S - Static, D - Dynamic, I - Incomplete
        N - NATed, L - Local, X - No Socket
        # Ent --> Number of NHRP entries with same NBMA peer
";

/// One row a peer, and below why some of them are not up; with `detail` everything.
pub(crate) fn dmvpn(dmvpn: &Dmvpn, detail: bool, width: Option<u16>) -> String {
    let mut out = LEGEND.to_owned();
    for interface in &dmvpn.interfaces {
        // Writing to a String cannot fail.
        let _ = write_interface(&mut out, interface, detail, width);
    }
    out
}

fn write_interface(
    out: &mut String,
    interface: &Interface,
    detail: bool,
    width: Option<u16>,
) -> fmt::Result {
    let mut peers: Vec<&Peer> = interface.peers.iter().collect();
    peers.sort_by_key(|peer| (nbma(peer), peer.tunnel_address));
    let family = if interface.address.addr().is_ipv4() { "IPv4" } else { "IPv6" };
    let role = match interface.role {
        Role::Hub => "Hub",
        Role::Spoke => "Spoke",
    };
    writeln!(out, "\nInterface: {}, {family} NHRP Details", interface.name)?;
    if detail {
        write_self(out, interface)?;
    }
    writeln!(out, "Type:{role}, NHRP Peers:{},", peers.len())?;
    if detail && !interface.nhs.is_empty() {
        out.push('\n');
        out.push_str(&nhs(&interface.nhs, width));
        out.push('\n');
    }
    if !peers.is_empty() {
        out.push_str(&rows(&peers, width));
    }
    for peer in &peers {
        let Some(why) = &peer.why else { continue };
        let who = or_dash(peer.tunnel_address.or_else(|| nbma(peer)));
        let what = match peer.state {
            PeerState::Up => "is reached through the hub",
            PeerState::Ike | PeerState::Nhrp => "is not up",
        };
        writeln!(out, " {who} {what}: {why}")?;
    }
    if detail {
        for peer in &peers {
            write_peer(out, peer)?;
        }
        write_refusals(out, &interface.refusals)?;
    } else if let Some(latest) = interface.refusals.first() {
        let (count, time) = (interface.refusals.len(), ago(Some(latest.seconds_ago)));
        let s = plural(count);
        writeln!(out, " {count} recent refusal{s}, the latest {time}: see show dmvpn detail")?;
    }
    Ok(())
}

/// Where the peer is: as seen, else as claimed.
fn nbma(peer: &Peer) -> Option<IpAddr> {
    peer.nbma_seen.or(peer.nbma)
}

fn rows(peers: &[&Peer], width: Option<u16>) -> String {
    let mut entries: BTreeMap<Option<IpAddr>, usize> = BTreeMap::new();
    for peer in peers {
        *entries.entry(nbma(peer)).or_default() += 1 + peer.prefixes.len();
    }
    let mut above = None;
    let rows = peers.iter().map(|peer| {
        let first = above != Some(nbma(peer));
        above = Some(nbma(peer));
        let once = |text: String| if first { text } else { String::new() };
        vec![
            once(or_dash(entries.get(&nbma(peer)))),
            once(or_dash(nbma(peer))),
            or_dash(peer.tunnel_address),
            state(peer.state).to_owned(),
            elapsed(peer.since_seconds),
            attributes(&peer.attributes),
            or_dash(peer.path.map(path)),
            or_dash(peer.identity.as_ref()),
        ]
    });
    let columns = [
        Column::Right("# Ent"),
        Column::Left(" Peer NBMA Addr"),
        Column::Right("Peer Tunnel Add"),
        Column::Right("State"),
        Column::Right(" UpDn Tm"),
        Column::Right("Attrb"),
        Column::Left("Path"),
        Column::Left("Identity"),
    ];
    table(&columns, rows.collect(), width)
}

fn state(state: PeerState) -> &'static str {
    match state {
        PeerState::Ike => "IKE",
        PeerState::Nhrp => "NHRP",
        PeerState::Up => "UP",
    }
}

fn path(path: Path) -> &'static str {
    match path {
        Path::Direct => "direct",
        Path::ViaHub => "via hub",
    }
}

fn attributes(attributes: &[Attribute]) -> String {
    let letter = |attribute: &Attribute| match attribute {
        Attribute::Static => 'S',
        Attribute::Dynamic => 'D',
        Attribute::Incomplete => 'I',
        Attribute::Nated => 'N',
        Attribute::Local => 'L',
        Attribute::NoSocket => 'X',
    };
    attributes.iter().map(letter).collect()
}

fn write_self(out: &mut String, interface: &Interface) -> fmt::Result {
    let Interface { address, mtu, network_id, source, port, .. } = interface;
    let key = match interface.key {
        Some(key) => format!("key {key}"),
        None => "no key".to_owned(),
    };
    let nbma = match interface.nbma {
        Some(nbma) => nbma.to_string(),
        None => "no address now".to_owned(),
    };
    let protection = match interface.security {
        Security::Ikev2 => "keyed by IKEv2",
        Security::None => "none: packets travel in the clear",
    };
    let dataplane = match interface.dataplane {
        Dataplane::Kernel => "kernel",
        Dataplane::Userspace => "userspace",
    };
    writeln!(out, " Up for {}", elapsed(interface.up_seconds))?;
    writeln!(out, " Address {address}, MTU {mtu}, GRE {key}, NHRP network id {network_id}")?;
    writeln!(out, " Source {source} ({nbma}), UDP port {port}")?;
    writeln!(out, " Protection: {protection}; data plane: {dataplane}")?;
    if let Some(identity) = &interface.identity {
        writeln!(out, " Identity: {identity}")?;
    }
    if let Some(Certificate { subject, not_after, seconds_left }) = &interface.certificate {
        let whose = match interface.identity.as_ref() == Some(subject) {
            true => String::new(),
            false => format!("of {subject} "),
        };
        let when = match u64::try_from(*seconds_left) {
            Ok(left) => format!("ends at {not_after}, in {}", elapsed(left)),
            Err(_) => format!("ENDED at {not_after}"),
        };
        writeln!(out, " Certificate: {whose}{when}")?;
    }
    Ok(())
}

fn write_peer(out: &mut String, peer: &Peer) -> fmt::Result {
    writeln!(out, "\nPeer {}", or_dash(peer.tunnel_address))?;
    if let Some(identity) = &peer.identity {
        writeln!(out, "  Identity: {identity}")?;
    }
    let way = match peer.path {
        Some(way) => path(way),
        None => "no path",
    };
    writeln!(out, "  State: {} for {}, {way}", state(peer.state), elapsed(peer.since_seconds))?;
    if let Some(why) = &peer.why {
        writeln!(out, "  Why: {why}")?;
    }
    let seen = match (peer.nbma_seen, peer.port) {
        (Some(address), Some(port)) => SocketAddr::new(address, port).to_string(),
        (address, _) => or_dash(address),
    };
    match peer.nbma {
        Some(claimed) if peer.nbma_seen.is_some_and(|seen| seen != claimed) => {
            writeln!(out, "  NBMA address: seen at {seen}, claims {claimed}")?;
        }
        Some(claimed) if peer.nbma_seen.is_none() => {
            writeln!(out, "  NBMA address: claims {claimed}, not seen")?;
        }
        _ => writeln!(out, "  NBMA address: {seen}")?,
    }
    if !peer.prefixes.is_empty() {
        let prefixes: Vec<_> = peer.prefixes.iter().map(ToString::to_string).collect();
        writeln!(out, "  Networks: {}", prefixes.join(", "))?;
    }
    if let Some(session) = &peer.session {
        write_session(out, session)?;
    }
    write_counters(out, &peer.counters)
}

fn write_session(out: &mut String, session: &Session) -> fmt::Result {
    if let Some(sa) = &session.ike {
        write!(out, "  IKE SA: ")?;
        write_ike_sa(out, sa, "    ")?;
    }
    writeln!(out, "  Carried by: {}", transport(session.transport))
}

fn write_counters(out: &mut String, counters: &Counters) -> fmt::Result {
    let Counters { rx_packets, rx_bytes, tx_packets, tx_bytes, .. } = counters;
    let last = ago(counters.last_rx_seconds);
    writeln!(out, "  Inbound:  {rx_packets} packets, {rx_bytes} bytes, last {last}")?;
    writeln!(out, "  Outbound: {tx_packets} packets, {tx_bytes} bytes")?;
    let Counters { forwarded_packets, dropped_packets, .. } = counters;
    writeln!(out, "  Forwarded to other peers: {forwarded_packets}, dropped: {dropped_packets}")
}

pub(super) fn write_refusals(out: &mut String, refusals: &[Refusal]) -> fmt::Result {
    if refusals.is_empty() {
        return Ok(());
    }
    let gap = if out.is_empty() { "" } else { "\n" };
    writeln!(out, "{gap}Recent refusals, the latest first")?;
    for refusal in refusals {
        let time = ago(Some(refusal.seconds_ago));
        let times = match refusal.count {
            0 | 1 => String::new(),
            count => format!(", {count} times"),
        };
        let identity = match &refusal.identity {
            Some(identity) => format!(" ({identity})"),
            None => String::new(),
        };
        writeln!(out, "  {time}{times}: {}{identity}", refusal.peer)?;
        writeln!(out, "    {}", refusal.reason)?;
    }
    Ok(())
}
