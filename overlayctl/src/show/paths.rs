//! What lies below NHRP: data plane paths, IKE SAs, multicast.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;

use control::{Endpoint, Endpoints, IkeSa, IkeSas, IkeState, IpsecSa, Multicast, Transport};

use super::dmvpn::write_refusals;
use crate::text::{Column, elapsed, or_dash, table};

/// Paths of the data plane.
pub(crate) fn endpoints(endpoints: &Endpoints, width: Option<u16>) -> String {
    if endpoints.endpoints.is_empty() {
        return "No tunnel endpoints\n".to_owned();
    }
    let rows = endpoints.endpoints.iter().map(|endpoint| {
        vec![
            or_dash(endpoint.tunnel_address),
            address(endpoint),
            transport(endpoint.transport).to_owned(),
            endpoint.mtu.to_string(),
            if endpoint.up { "up" } else { "keying" }.to_owned(),
            endpoint.counters.rx_packets.to_string(),
            endpoint.counters.tx_packets.to_string(),
            or_dash(endpoint.counters.last_rx_seconds.map(elapsed)),
            endpoint.interface.clone(),
            or_dash(endpoint.identity.as_ref()),
        ]
    });
    let columns = [
        Column::Right("Peer Tunnel Add"),
        Column::Left("Endpoint"),
        Column::Left("Transport"),
        Column::Right("  MTU"),
        Column::Left("State"),
        Column::Right("Rx Pkts"),
        Column::Right("Tx Pkts"),
        Column::Right(" Last Rx"),
        Column::Left("Interface"),
        Column::Left("Identity"),
    ];
    table(&columns, rows.collect(), width)
}

pub(crate) fn transport(transport: Transport) -> &'static str {
    match transport {
        Transport::Esp => "ESP",
        Transport::Wireguard => "WireGuard",
        Transport::None => "clear GRE",
    }
}

fn address(endpoint: &Endpoint) -> String {
    match endpoint.port {
        Some(port) => SocketAddr::new(endpoint.nbma, port).to_string(),
        None => endpoint.nbma.to_string(),
    }
}

/// IKE SAs.
pub(crate) fn ike_sa(sas: &IkeSas, detail: bool) -> String {
    let mut out = String::new();
    if sas.sas.is_empty() {
        out.push_str("No IKE SAs\n");
    }
    for sa in &sas.sas {
        // Writing to a String cannot fail.
        let _ = write_ike_sa(&mut out, sa, " ");
        if let Some(identity) = &sa.identity {
            let _ = writeln!(out, " Identity: {identity}");
        }
        if detail {
            let _ = write_detail(&mut out, sa);
        }
    }
    let _ = write_refusals(&mut out, &sas.refusals);
    out
}

fn write_detail(out: &mut String, sa: &IkeSa) -> fmt::Result {
    let rekey = or_dash(sa.rekey_seconds.map(elapsed));
    let nat = match (sa.nat_local, sa.nat_remote) {
        (false, false) => "none found",
        (true, false) => "in front of this node",
        (false, true) => "in front of the peer",
        (true, true) => "in front of both",
    };
    if let (Some(own), Some(peer)) = (&sa.own_authentication, &sa.peer_authentication) {
        writeln!(out, " Authentication: own {own}, peer's {peer}")?;
    }
    writeln!(out, " New keys in: {rekey}, address translation: {nat}")?;
    writeln!(
        out,
        " Requests: {} sent, {} again, {} received; pairs of ESP SAs: {}",
        sa.requests_sent,
        sa.retransmissions,
        sa.requests_received,
        sa.ipsec.len()
    )
}

/// ESP SAs, each with its IKE SA.
pub(crate) fn ipsec_sa(sas: &IkeSas) -> String {
    let mut out = String::new();
    for (sa, pair) in sas.sas.iter().flat_map(|sa| sa.ipsec.iter().map(move |pair| (sa, pair))) {
        // Writing to a String cannot fail.
        let _ = write_ipsec_sa(&mut out, sa, pair);
    }
    if out.is_empty() { "No ESP SAs\n".to_owned() } else { out }
}

fn write_ipsec_sa(out: &mut String, sa: &IkeSa, pair: &IpsecSa) -> fmt::Result {
    let (local, identity) = (or_dash(sa.local), or_dash(sa.identity.as_ref()));
    writeln!(out, "local {local} remote {} {identity}", sa.remote)?;
    let (inbound, outbound) = (&pair.inbound_spi, &pair.outbound_spi);
    writeln!(out, " SPI: inbound {inbound}, outbound {outbound}; IKE SA {}", sa.initiator_spi)?;
    let sequence = if pair.esn { "extended sequence numbers" } else { "32-bit sequence numbers" };
    let pfs = pair.pfs.as_deref().unwrap_or("none of its own");
    writeln!(out, " Cipher: {}, {sequence}, key exchange: {pfs}", pair.cipher)?;
    let rekey = match pair.rekey_seconds {
        Some(seconds) => format!("new keys in {}", elapsed(seconds)),
        None => "replaced".to_owned(),
    };
    writeln!(out, " Age: {}, {rekey}", elapsed(pair.age_seconds))?;
    match &pair.counters {
        Some(c) => writeln!(
            out,
            " Received: {} packets, {} bytes; sent: {} packets, {} bytes; dropped: {}",
            c.rx_packets, c.rx_bytes, c.tx_packets, c.tx_bytes, c.dropped_packets
        ),
        None => Ok(()),
    }
}

/// One IKE SA in a few lines; `indent` stands before all but the first.
pub(super) fn write_ike_sa(out: &mut String, sa: &IkeSa, indent: &str) -> fmt::Result {
    let state = match sa.state {
        IkeState::HalfOpen => "half open",
        IkeState::Childless => "authenticated, no CHILD_SA",
        IkeState::Established => "established",
    };
    let role = if sa.initiator { "initiator" } else { "responder" };
    let local = or_dash(sa.local);
    writeln!(out, "local {local} remote {} {state}, {role}", sa.remote)?;
    writeln!(out, "{indent}SPI: initiator {}, responder {}", sa.initiator_spi, sa.responder_spi)?;
    let suite = sa.suite.as_deref().unwrap_or("not agreed yet");
    writeln!(out, "{indent}Age: {}, suite: {suite}", elapsed(sa.age_seconds))
}

/// Receivers of multicast.
pub(crate) fn multicast(multicast: &Multicast, width: Option<u16>) -> String {
    if multicast.members.is_empty() {
        return "No node gets multicast packets\n".to_owned();
    }
    let rows = multicast.members.iter().map(|member| {
        vec![
            member.interface.clone(),
            or_dash(member.tunnel_address),
            member.nbma.to_string(),
            or_dash(member.identity.as_ref()),
        ]
    });
    let columns = [
        Column::Left("Interface"),
        Column::Right("Peer Tunnel Add"),
        Column::Left(" Peer NBMA Addr"),
        Column::Left("Identity"),
    ];
    table(&columns, rows.collect(), width)
}
