//! From bindings and sessions to the desired state of the data plane: one pure function.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use nhrp::engine::{Authorization, Binding, BindingKind, Nbma};

use crate::config::{Config, Member};
use crate::desired::{Desired, Hop, Peer, PeerId, Transport};
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
            desired.peers.insert(id, Peer::new(session.endpoint, transport.clone()));
        }
    }

    let mut default = None;
    for binding in bindings.values() {
        let path = path(sessions, binding);
        if let Path::Session(id) = path {
            plan.used.insert(id);
            let hop = Hop { peer: id, via: binding.next_hop };
            desired.forwarding.insert(binding.prefix, hop);
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
                        default = Some((rank, hop));
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
    if let Some((_, hop)) = default {
        for prefix in config.routes.iter().copied().chain([tunnel]) {
            desired.forwarding.entry(prefix).or_insert(hop);
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::{Duration, Instant};

    use nhrp::engine::{Limits, Server};

    use super::*;
    use crate::config::{Security, Trust};
    use crate::session::Session;

    const PORT: u16 = 4500;

    fn net(prefix: &str) -> IpNet {
        prefix.parse().expect("a prefix")
    }

    fn peer(desired: &Desired, prefix: &str) -> Option<PeerId> {
        desired.forwarding.get(&net(prefix)).map(|hop| hop.peer)
    }

    fn nbma(n: u8) -> Nbma {
        IpAddr::from([203, 0, 113, n]).into()
    }

    fn tunnel(n: u8) -> IpAddr {
        [172, 16, 0, n].into()
    }

    /// A spoke with server 1, and sessions with the server and with spokes 2 and 3, each of which
    /// may claim its tunnel address and 10.0.n.0/24.
    struct Scene {
        config: Config,
        servers: BTreeMap<IpAddr, Nbma>,
        bindings: BTreeMap<IpNet, Binding>,
        sessions: Sessions,
        transports: BTreeMap<PeerId, Transport>,
        ids: [PeerId; 3],
    }

    fn scene() -> Scene {
        let server = Server { address: tunnel(1), nbma: Some(nbma(1)), priority: 0, cluster: 0 };
        let config = Config {
            nhrp: nhrp::engine::Config {
                address: net("172.16.0.9/24"),
                nbma: Some(nbma(9).address),
                holding_time: Duration::from_secs(600),
                authentication: None,
                servers: vec![server],
                maps: Vec::new(),
                advertise: Vec::new(),
                unique: true,
                accept_registrations: false,
                redirect: false,
                shortcut: true,
                default_authorization: None,
                limits: Limits::default(),
            },
            security: Security::Ike,
            ike: ike::Config::default(),
            port: PORT,
            routes: vec![net("10.0.0.0/8")],
            multicast: vec![Member::Servers],
            trust: Trust::Certificate,
            accept: Vec::new(),
            sessions: 8,
            idle_timeout: Duration::from_secs(60),
        };
        let mut sessions = Sessions::new(PORT);
        let ids = [1, 2, 3].map(|n| {
            let allowed = [tunnel(n).into(), net(&format!("10.0.{n}.0/24"))];
            sessions.insert(Session {
                sa: None,
                tunnel: None,
                identity: Some(format!("CN=node{n}")),
                authorization: Authorization::Within(allowed.into()),
                endpoint: SocketAddr::new(nbma(n).address, PORT),
                up: true,
                since: Instant::now(),
                idle_deadline: None,
            })
        });
        let transports = ids.map(|id| (id, Transport::Clear)).into();
        let servers = BTreeMap::from([(tunnel(1), nbma(1))]);
        let mut scene =
            Scene { config, servers, bindings: BTreeMap::new(), sessions, transports, ids };
        scene.bind("172.16.0.1/32", 1, BindingKind::Nhs);
        scene
    }

    impl Scene {
        fn bind(&mut self, prefix: &str, n: u8, kind: BindingKind) {
            let binding = Binding {
                prefix: net(prefix),
                next_hop: tunnel(n),
                nbma: nbma(n),
                mtu: 0,
                kind,
                claimed: None,
                authoritative: true,
            };
            self.bindings.insert(binding.prefix, binding);
        }

        fn plan(&self) -> Plan {
            let Self { config, servers, bindings, sessions, transports, .. } = self;
            plan(config, servers, bindings, sessions, transports)
        }
    }

    #[test]
    fn the_server_carries_the_tunnel_and_the_routes_until_there_is_better() {
        let mut scene = scene();
        let [hub, spoke, _] = scene.ids;
        let desired = scene.plan().desired;
        for prefix in ["172.16.0.0/24", "172.16.0.1/32", "10.0.0.0/8"] {
            assert_eq!(peer(&desired, prefix), Some(hub), "{prefix}");
        }
        assert_eq!(desired.routes, [net("10.0.0.0/8")].into());
        scene.bind("10.0.2.0/24", 2, BindingKind::Shortcut);
        let desired = scene.plan().desired;
        assert_eq!(peer(&desired, "10.0.2.0/24"), Some(spoke));
        assert_eq!(peer(&desired, "10.0.0.0/8"), Some(hub));
        assert!(desired.routes.contains(&net("10.0.2.0/24")));
    }

    #[test]
    fn the_server_that_stands_first_in_the_configuration_is_preferred() {
        let mut scene = scene();
        let [_, second, _] = scene.ids;
        scene
            .config
            .nhrp
            .servers
            .insert(0, Server { address: tunnel(2), nbma: Some(nbma(2)), priority: 0, cluster: 0 });
        scene.bind("172.16.0.2/32", 2, BindingKind::Nhs);
        assert_eq!(peer(&scene.plan().desired, "10.0.0.0/8"), Some(second));
    }

    #[test]
    fn nobody_carries_what_he_may_not_claim() {
        let mut scene = scene();
        let [_, _, thief] = scene.ids;
        scene.bind("10.0.2.0/24", 3, BindingKind::Shortcut);
        let plan = scene.plan();
        assert_eq!(peer(&plan.desired, "10.0.2.0/24"), None);
        let [(id, reason)] = &plan.refused[..] else { panic!("one refusal: {:?}", plan.refused) };
        assert_eq!(*id, thief);
        assert_eq!(
            reason,
            "claims 10.0.2.0/24, but its certificate allows only 10.0.3.0/24, 172.16.0.3/32"
        );
    }

    #[test]
    fn who_is_not_where_his_binding_says_is_found_by_his_tunnel_address() {
        let mut scene = scene();
        let [_, spoke, _] = scene.ids;
        let translated = SocketAddr::new(nbma(77).address, 20_001);
        scene.sessions.relocate(spoke, translated);
        scene.bind("10.0.2.0/24", 2, BindingKind::Shortcut);
        assert_eq!(peer(&scene.plan().desired, "10.0.2.0/24"), Some(spoke));
    }

    #[test]
    fn a_prefix_around_the_underlay_address_of_its_own_next_hop_is_refused() {
        let mut scene = scene();
        let [_, spoke, _] = scene.ids;
        let mut greedy = scene.sessions.remove(spoke).expect("it is there");
        greedy.authorization = Authorization::Any;
        scene.sessions.insert(greedy);
        scene.bind("203.0.113.0/24", 2, BindingKind::Shortcut);
        let plan = scene.plan();
        assert_eq!(peer(&plan.desired, "203.0.113.0/24"), None);
        assert!(!plan.desired.routes.contains(&net("203.0.113.0/24")));
        assert!(plan.refused[0].1.contains("routed into itself"), "{:?}", plan.refused);
    }

    #[test]
    fn without_a_session_what_is_registered_still_draws_its_packets_and_a_shortcut_does_not() {
        let mut scene = scene();
        for (n, kind) in
            [(4, BindingKind::Registered), (5, BindingKind::Static), (6, BindingKind::Shortcut)]
        {
            scene.bind(&format!("10.0.{n}.0/24"), n, kind);
        }
        let desired = scene.plan().desired;
        let drawn = [4, 5, 6].map(|n| desired.routes.contains(&net(&format!("10.0.{n}.0/24"))));
        assert_eq!(drawn, [true, true, false]);
        assert_eq!(peer(&desired, "10.0.4.0/24"), None, "dropped, not leaked");
    }

    #[test]
    fn only_a_proven_server_may_bring_any_source() {
        let mut scene = scene();
        let [hub, spoke, other] = scene.ids;
        let limited =
            |scene: &Scene| scene.plan().desired.sources.keys().copied().collect::<BTreeSet<_>>();
        assert_eq!(limited(&scene), [spoke, other].into());
        // Spoke 2 shows up at the server's address.
        scene.sessions.relocate(spoke, SocketAddr::new(nbma(1).address, PORT));
        assert_eq!(limited(&scene), [spoke, other].into());
        scene.servers = BTreeMap::new();
        assert_eq!(limited(&scene), [hub, spoke, other].into());
    }

    #[test]
    fn sessions_of_servers_and_of_bindings_are_in_use() {
        let mut scene = scene();
        let [hub, spoke, _] = scene.ids;
        scene.bind("10.0.2.0/24", 2, BindingKind::Shortcut);
        assert_eq!(scene.plan().used, [hub, spoke].into());
        scene.bindings.clear();
        assert_eq!(scene.plan().used, [hub].into(), "though it has not registered yet");
    }

    #[test]
    fn multicast_goes_to_whom_the_configuration_names() {
        let mut scene = scene();
        let [hub, spoke, other] = scene.ids;
        scene.bind("172.16.0.2/32", 2, BindingKind::Registered);
        let members = |scene: &mut Scene, member| {
            scene.config.multicast = vec![member];
            scene.plan().desired.multicast
        };
        assert_eq!(members(&mut scene, Member::Servers), [hub].into());
        assert_eq!(members(&mut scene, Member::Dynamic), [spoke].into());
        assert_eq!(members(&mut scene, Member::Nbma(nbma(3).address)), [other].into());
    }
}
