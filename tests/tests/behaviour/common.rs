//! Words that the scenarios share.

use std::time::Duration;

use overlay::Notice;
use overlay_tests::sim::{
    Domain, Fate, FlowId, NodeId, Nodes, Sim, Weather, host_of, tunnel_address_of,
};

pub(crate) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(crate) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(crate) fn minutes(n: u64) -> Duration {
    secs(60 * n)
}

/// A calm network, 20 ms there and back.
pub(crate) fn fair() -> Weather {
    Weather::fair(ms(10))
}

/// What all nodes have in common: tunnels of the kind that this run is about.
pub(crate) fn domain() -> Domain {
    Domain { tunnels: vec![crate::KIND], ..Domain::default() }
}

/// A hub and as many spokes, all registered.
pub(crate) fn settled(seed: u64, spokes: usize) -> (Sim, Nodes) {
    settled_in(&domain(), seed, fair(), spokes)
}

pub(crate) fn settled_in(
    domain: &Domain,
    seed: u64,
    weather: Weather,
    spokes: usize,
) -> (Sim, Nodes) {
    let mut sim = Sim::new(seed, weather);
    let nodes = domain.build(&mut sim, spokes);
    registered(&mut sim, &nodes);
    (sim, nodes)
}

/// Waits until every spoke has registered its address and its LAN.
pub(crate) fn registered(sim: &mut Sim, nodes: &Nodes) -> Duration {
    let all = 2 * nodes.spokes.len();
    let took = sim.run_until(minutes(3), |sim| sim.registrations(nodes.hub) == all);
    took.expect("every spoke registers")
}

/// LAN hosts of two nodes that were built in order.
pub(crate) fn hosts(from: NodeId, to: NodeId) -> (std::net::IpAddr, std::net::IpAddr) {
    (host_of(from.0), host_of(to.0))
}

/// Pings from LAN to LAN every 10 ms.
pub(crate) fn pings(sim: &mut Sim, from: NodeId, to: NodeId, count: u32) -> FlowId {
    sim.flow(from, hosts(from, to), ms(10), count)
}

/// Whether `from` reaches `to` by LAN and back within some time; gives how long it took. One ping a
/// second is sent.
pub(crate) fn reaches(
    sim: &mut Sim,
    from: NodeId,
    to: NodeId,
    limit: Duration,
) -> Option<Duration> {
    let flow = sim.flow(from, hosts(from, to), secs(1), u32::MAX);
    let already = sim.fates().len();
    let back = hosts(to, from);
    let took = sim.run_until(limit, |sim| {
        sim.fates()[already.saturating_sub(1)..]
            .iter()
            .any(|fate| (fate.source, fate.destination) == back && fate.arrival.is_some())
    });
    sim.end_flow(flow);
    took
}

/// From the first packet to the first one that takes the direct path.
pub(crate) fn until_direct(sim: &Sim, flow: FlowId) -> Option<Duration> {
    let first = sim.flow_fates(flow).next()?.sent;
    let direct = sim.flow_fates(flow).find(|fate| fate.direct())?;
    Some(direct.sent - first)
}

/// Everything that was sent in the run, answers too, has arrived.
pub(crate) fn assert_nothing_lost(sim: &Sim) {
    let lost: Vec<&Fate> = sim.fates().iter().filter(|fate| fate.arrival.is_none()).collect();
    assert!(lost.is_empty(), "{} of {} lost: {lost:#?}", lost.len(), sim.fates().len());
}

/// The longest time in which nothing that the flow sent arrived.
pub(crate) fn outage(sim: &Sim, flow: FlowId) -> Duration {
    let mut longest = Duration::ZERO;
    let mut began = None;
    for fate in sim.flow_fates(flow) {
        match fate.arrival {
            Some(_) => began = None,
            None => {
                let since = *began.get_or_insert(fate.sent);
                longest = longest.max(fate.sent - since);
            }
        }
    }
    longest
}

/// How many notices of a node fit.
pub(crate) fn count(sim: &Sim, node: NodeId, fits: impl Fn(&Notice) -> bool) -> usize {
    sim.notices(node).iter().filter(|(_, notice)| fits(notice)).count()
}

/// Whether a node forwards traffic for another one's LAN straight to it.
pub(crate) fn is_direct(sim: &Sim, from: NodeId, to: NodeId) -> bool {
    let overlay = sim.overlay(from);
    let host = host_of(to.0);
    let desired = overlay.desired();
    let best = desired
        .forwarding
        .iter()
        .filter(|(prefix, _)| prefix.contains(&host))
        .max_by_key(|(prefix, _)| prefix.prefix_len());
    let name = format!("CN=spoke{}", to.0);
    best.is_some_and(|(_, hop)| {
        overlay.sessions().any(|s| s.peer == hop.peer && s.identity.as_deref() == Some(&name))
    })
}

/// Tunnel addresses of two nodes.
pub(crate) fn tunnel_pair(from: NodeId, to: NodeId) -> (std::net::IpAddr, std::net::IpAddr) {
    (tunnel_address_of(from.0), tunnel_address_of(to.0))
}

pub(crate) const SHORTCUT: nhrp::engine::BindingKind = nhrp::engine::BindingKind::Shortcut;

/// Prefixes to which a node knows a shorter way.
pub(crate) fn shortcuts(sim: &Sim, node: NodeId) -> Vec<ipnet::IpNet> {
    let bindings = sim.overlay(node).bindings();
    bindings.filter(|binding| binding.kind == SHORTCUT).map(|binding| binding.prefix).collect()
}
