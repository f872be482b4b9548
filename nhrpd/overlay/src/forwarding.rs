//! From bindings and sessions to the desired state of the data plane: one pure function.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use nhrp::engine::{Authorization, Binding, BindingKind, Nbma};

use crate::config::{Config, Member};
use crate::desired::{Desired, Peer, PeerId, Transport};
use crate::session::{Sessions, allowance};

/// The desired state, and what the computation found on its way.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub desired: Desired,
    /// Sessions that some binding uses.
    pub used: BTreeSet<PeerId>,
    /// Bindings that a session may not carry.
    pub refused: Vec<(PeerId, String)>,
}

/// What the session at a binding's address may do for it.
pub(crate) enum Path {
    /// Traffic may take it.
    Session(PeerId),
    /// A session is there, but its identity may not claim the prefix.
    Refused(PeerId, String),
    /// No session yet.
    None,
}

/// The path of one binding.
pub(crate) fn path(sessions: &Sessions, binding: &Binding) -> Path {
    let at = sessions.up_at(binding.nbma);
    for id in at.into_iter().chain(sessions.up_of(binding.next_hop)) {
        let Some(session) = sessions.get(id) else { continue };
        if session.authorization.permits(binding.prefix) {
            // The tunnel's own packets must not be routed into the tunnel.
            if binding.prefix.contains(&session.endpoint.ip()) {
                let reason = format!(
                    "{} contains the NBMA address of its own next hop: \
                     the tunnel would be routed into itself",
                    binding.prefix
                );
                return Path::Refused(id, reason);
            }
            return Path::Session(id);
        }
    }
    match at {
        Some(id) => {
            let allowed = sessions.get(id).map(|session| allowance(&session.authorization));
            let reason = format!("claims {}, but {}", binding.prefix, allowed.unwrap_or_default());
            Path::Refused(id, reason)
        }
        None => Path::None,
    }
}

/// Why whoever has this authorization may not stand at `nbma`, if that is a server's.
pub(crate) fn impersonates(
    servers: &BTreeMap<IpAddr, Nbma>,
    nbma: Nbma,
    authorization: &Authorization,
) -> Option<String> {
    let mut here = servers.iter().filter(|&(_, &at)| at == nbma).map(|(&server, _)| server);
    let server = here.find(|&server| !authorization.permits(server.into()))?;
    let allowance = allowance(authorization);
    Some(format!("stands at the address of next-hop server {server}, but {allowance}"))
}

/// Computes the desired state.
pub(crate) fn plan(
    config: &Config,
    servers: &BTreeMap<IpAddr, Nbma>,
    bindings: &BTreeMap<IpNet, Binding>,
    sessions: &Sessions,
    transports: &BTreeMap<PeerId, Transport>,
) -> Plan {
    let mut plan = Plan::default();
    let tunnel = config.nhrp.address.trunc();
    let desired = &mut plan.desired;

    for (id, session) in sessions.iter() {
        // A next-hop server forwards what others sent: any source may come from it.
        let nbma = sessions.nbma(session.endpoint);
        let server = servers.values().any(|&server| server == nbma)
            && impersonates(servers, nbma, &session.authorization).is_none();
        if let (Authorization::Within(sources), false) = (&session.authorization, server) {
            desired.sources.insert(id, sources.clone());
        }
        if let Some(transport) = transports.get(&id) {
            let peer = Peer { endpoint: session.endpoint, transport: transport.clone() };
            desired.peers.insert(id, peer);
        }
    }

    let mut default = None;
    for binding in bindings.values() {
        let path = path(sessions, binding);
        if let Path::Session(id) = path {
            plan.used.insert(id);
            desired.forwarding.insert(binding.prefix, id);
            match binding.kind {
                BindingKind::Registered if config.multicast.contains(&Member::Dynamic) => {
                    desired.multicast.insert(id);
                }
                BindingKind::Nhs => {
                    let rank = config
                        .nhrp
                        .servers
                        .iter()
                        .position(|server| server.address == binding.next_hop);
                    if default.is_none_or(|(best, _)| rank < best) {
                        default = Some((rank, id));
                    }
                    if config.multicast.contains(&Member::Servers) {
                        desired.multicast.insert(id);
                    }
                }
                _ => {}
            }
        }
        // A route without a session still draws its packets here: encrypted or silent.
        let kept = matches!(binding.kind, BindingKind::Registered | BindingKind::Static);
        if !tunnel.contains(&binding.prefix) && (kept || matches!(path, Path::Session(_))) {
            desired.routes.insert(binding.prefix);
        }
        if let Path::Refused(id, reason) = path {
            plan.used.insert(id);
            plan.refused.push((id, reason));
        }
    }

    desired.routes.extend(config.routes.iter().copied());
    if let Some((_, id)) = default {
        for prefix in config.routes.iter().copied().chain([tunnel]) {
            desired.forwarding.entry(prefix).or_insert(id);
        }
    }
    plan.used.extend(servers.values().flat_map(|&nbma| sessions.at(nbma)).map(|(id, _)| id));
    for member in &config.multicast {
        if let Member::Nbma(address) = member {
            desired.multicast.extend(sessions.up_at(Nbma { address: *address, port: 0 }));
        }
    }
    plan
}
