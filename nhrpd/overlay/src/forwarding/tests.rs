use std::time::{Duration, Instant};

use nhrp::engine::{Limits, Server};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

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

impl Bindings for BTreeMap<IpNet, Binding> {
    fn all(&self) -> Vec<IpNet> {
        self.keys().copied().collect()
    }

    fn get(&self, prefix: IpNet) -> Option<Binding> {
        BTreeMap::get(self, &prefix).cloned()
    }

    fn at(&self, nbma: Nbma) -> Vec<IpNet> {
        self.values().filter(|b| b.nbma == nbma).map(|b| b.prefix).collect()
    }

    fn of(&self, peer: IpAddr) -> Vec<IpNet> {
        self.values().filter(|b| b.next_hop == peer).map(|b| b.prefix).collect()
    }
}

/// All at once.
struct Plan {
    desired: Desired,
    used: BTreeSet<PeerId>,
    refused: Vec<(PeerId, String)>,
}

/// A spoke with server 1, and sessions with the server and with spokes 2 and 3, each of which
/// may claim its tunnel address and 10.0.n.0/24.
struct Scene {
    config: Config,
    servers: BTreeMap<IpAddr, Nbma>,
    bindings: BTreeMap<IpNet, Binding>,
    sessions: Sessions,
    lingering: Deadlines<PeerId>,
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
    let mut sessions = Sessions::new(PORT, 0);
    let ids = [1, 2, 3].map(|n| {
        let allowed = [net(&format!("10.0.{n}.0/24")), tunnel(n).into()];
        sessions.insert(Session {
            sa: None,
            tunnel: None,
            identity: Some(format!("CN=node{n}")),
            proof: Proof::Certificate,
            authorization: Authorization::Within(allowed.into()),
            endpoint: SocketAddr::new(nbma(n).address, PORT),
            up: true,
            since: Instant::now(),
            idle_deadline: None,
        })
    });
    let servers = BTreeMap::from([(tunnel(1), nbma(1))]);
    let mut scene = Scene {
        config,
        servers,
        bindings: BTreeMap::new(),
        sessions,
        lingering: Deadlines::new(),
        ids,
    };
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

    fn known(&self) -> Known<'_> {
        let Self { config, servers, bindings, sessions, lingering, .. } = self;
        Known { config, servers, bindings, sessions, lingering }
    }

    /// With the keys of all sessions, and nothing looked at.
    fn fresh(&self) -> Forwarding {
        let mut forwarding = Forwarding::new(0);
        self.sessions.iter().for_each(|(id, _)| forwarding.key(id, Transport::Clear));
        forwarding
    }

    fn plan(&self) -> Plan {
        let mut forwarding = self.fresh();
        let Found { used, refused, .. } = forwarding.update(&self.known(), Touched::default());
        let used = used.into_iter().filter(|(_, used)| *used).map(|(id, _)| id).collect();
        Plan { desired: forwarding.desired, used, refused }
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

/// Whatever happens in whatever order: what is kept in step is what comes of it at once.
#[test]
fn a_change_leads_where_the_whole_does() {
    for seed in 0..200 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut below = |limit: u32| rng.next_u32() % limit;
        let mut scene = scene();
        scene.config.multicast.extend([Member::Dynamic, Member::Nbma(nbma(3).address)]);
        let mut forwarding = scene.fresh();
        let mut used = BTreeSet::new();
        let mut copy = Desired::default();
        for _ in 0..60 {
            let n = below(4) as u8 + 1;
            let id = PeerId(below(8) + 1);
            let place = SocketAddr::new(nbma(below(4) as u8 + 1).address, PORT);
            let prefix = match below(3) {
                0 => format!("172.16.0.{n}/32"),
                1 => format!("10.0.{n}.0/24"),
                _ => ["10.0.0.0/8", "203.0.113.0/24"][usize::from(n % 2)].to_owned(),
            };
            let sessions = &mut scene.sessions;
            match below(10) {
                0 => drop(sessions.set_up(id, Instant::now())),
                1 => {
                    let linger = below(2) == 0 && sessions.get(id).is_some();
                    if linger && forwarding.desired.peers.contains_key(&id) {
                        scene.lingering.set(id, Instant::now());
                    }
                    sessions.remove(id);
                }
                2 => drop(sessions.relocate(id, place)),
                3 => sessions.set_authorization(id, Authorization::Any),
                4 => {
                    let id = sessions.insert(Session {
                        sa: None,
                        tunnel: None,
                        identity: None,
                        proof: Proof::Certificate,
                        authorization: Authorization::Within([tunnel(n).into()].into()),
                        endpoint: place,
                        up: below(2) == 0,
                        since: Instant::now(),
                        idle_deadline: None,
                    });
                    forwarding.key(id, Transport::Clear);
                }
                5 => {
                    scene.bindings.remove(&net(&prefix));
                    forwarding.touch(net(&prefix));
                }
                6 => {
                    scene.servers.insert(tunnel(1), nbma(n));
                    forwarding.touch_all();
                }
                7 => {
                    let gone = scene.lingering.pop(Instant::now());
                    gone.into_iter().for_each(|id| scene.sessions.touch(id));
                }
                _ => {
                    let kind = match below(3) {
                        0 if prefix.ends_with(".1/32") => BindingKind::Nhs,
                        1 => BindingKind::Registered,
                        _ => BindingKind::Shortcut,
                    };
                    scene.bind(&prefix, n, kind);
                    forwarding.touch(net(&prefix));
                }
            }
            if below(3) == 0 {
                continue;
            }
            let touched = scene.sessions.take_touched();
            let found = forwarding.update(&scene.known(), touched);
            found.changes.carry(&forwarding.desired, &mut copy);
            assert_eq!(copy, forwarding.desired, "seed {seed}: told of every change");
            for (id, is_used) in found.used {
                if is_used {
                    used.insert(id)
                } else {
                    used.remove(&id)
                };
            }
            used.retain(|id| scene.sessions.get(*id).is_some());
            let plan = scene.plan();
            let mut desired = forwarding.desired.clone();
            for id in scene.lingering.keys() {
                let peer = desired.peers.remove(id).expect("it lingers");
                assert!(peer.receive_only);
                desired.sources.remove(id);
            }
            assert_eq!(desired, plan.desired, "seed {seed}");
            assert_eq!(used, plan.used, "seed {seed}");
            let count = |uses: u32| usize::try_from(uses).expect("few");
            let uses = forwarding.uses.values().map(|uses| count(uses.bindings)).sum::<usize>();
            assert_eq!(uses, forwarding.outcomes.len(), "seed {seed}");
        }
    }
}
