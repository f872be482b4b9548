//! One overlay: its CA, its addresses, and the nodes that belong to it.
//!
//! Node 0 is the hub, node n a spoke. They follow one plan of addresses, so that tests need none of
//! their own: tunnel 172.16.0.0/16, LANs 10.0.0.0/8, underlay 203.0.0.0/8.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use ike::TunnelKind;
use ipnet::{IpNet, Ipv4Net};
use nhrp::engine::{Authorization, Limits, Server};
use overlay::{Config, Credentials, Security, Trust};
use pki::authority::{Authority, Request, Serial, Validity};
use pki::{Credential, KeyType, Policy, UnixTime, Verifier};

use super::network::INTERNET;
use super::{Blueprint, NodeId, PORT, Sim, WALL};

/// What all nodes of one overlay have in common. Change what a test is about; the rest is as the
/// daemon has it by default.
#[derive(Debug, Clone)]
pub struct Domain {
    /// Common name of the CA; another name is another CA.
    pub ca: &'static str,
    /// How GRE packets are protected.
    pub security: Security,
    /// Kinds of tunnel that every node carries, the preferred first.
    pub tunnels: Vec<TunnelKind>,
    /// Holding time of NHRP.
    pub holding_time: Duration,
    /// Silence after which IKE probes.
    pub dead_peer_interval: Duration,
    /// Age at which keys are renewed.
    pub rekey_interval: Duration,
    /// Packets after which the keys of ESP are renewed.
    pub rekey_packets: u64,
    /// How long a session that nothing uses is kept.
    pub idle_timeout: Duration,
}

impl Default for Domain {
    fn default() -> Self {
        Self {
            ca: "Example CA",
            security: Security::Ike,
            tunnels: vec![TunnelKind::WireGuard],
            holding_time: Duration::from_secs(600),
            dead_peer_interval: Duration::from_secs(30),
            rekey_interval: Duration::from_secs(4 * 3600),
            rekey_packets: u64::MAX,
            idle_timeout: Duration::from_secs(60),
        }
    }
}

/// A hub and its spokes.
#[derive(Debug, Clone)]
pub struct Nodes {
    /// The next-hop server.
    pub hub: NodeId,
    /// Its clients.
    pub spokes: Vec<NodeId>,
}

const TUNNEL: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 0);
const LANS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 0);
const UNDERLAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

fn plus(base: Ipv4Addr, n: usize, shift: u32) -> Ipv4Addr {
    let n = u32::try_from(n).expect("fewer nodes than addresses");
    Ipv4Addr::from(u32::from(base) + (n << shift))
}

/// The tunnel address of node n.
pub fn tunnel_address_of(n: usize) -> IpAddr {
    plus(TUNNEL, n + 1, 0).into()
}

/// The LAN behind node n, a /24.
pub fn lan_of(n: usize) -> IpNet {
    Ipv4Net::new_assert(plus(LANS, n, 8), 24).into()
}

/// A host on the LAN behind node n.
pub fn host_of(n: usize) -> IpAddr {
    (plus(LANS, n, 8) | Ipv4Addr::new(0, 0, 0, 10)).into()
}

/// The underlay address of node n.
pub fn address_of(n: usize) -> IpAddr {
    plus(UNDERLAY, n, 0).into()
}

impl Domain {
    /// A hub and as many spokes, started.
    pub fn build(&self, sim: &mut Sim, spokes: usize) -> Nodes {
        let hub = sim.add(self.node(0));
        Nodes { hub, spokes: (1..=spokes).map(|n| sim.add(self.node(n))).collect() }
    }

    /// Node n: 0 is the hub.
    pub fn node(&self, n: usize) -> Blueprint {
        let server = Server {
            address: tunnel_address_of(0),
            nbma: Some(address_of(0).into()),
            priority: 0,
            cluster: 0,
        };
        let hub = n == 0;
        let config = Config {
            nhrp: nhrp::engine::Config {
                address: IpNet::new(tunnel_address_of(n), 16).expect("16 bits are within 32"),
                nbma: None,
                holding_time: self.holding_time,
                authentication: None,
                servers: if hub { Vec::new() } else { vec![server] },
                maps: Vec::new(),
                advertise: vec![lan_of(n)],
                unique: true,
                accept_registrations: hub,
                redirect: hub,
                shortcut: !hub,
                default_authorization: match self.security {
                    Security::None => Some(Authorization::Any),
                    Security::Ike => None,
                },
                limits: Limits::default(),
            },
            security: self.security,
            ike: ike::Config {
                algorithms: ike::Algorithms::default(),
                dead_peer_interval: self.dead_peer_interval,
                rekey_interval: self.rekey_interval,
                half_open: 256,
                half_open_per_source: 16,
                established: 4096 + 64,
                tunnels: self.tunnels.clone(),
                ..ike::Config::default()
            },
            port: match self.security {
                Security::None => 0,
                Security::Ike => PORT,
            },
            routes: if hub { Vec::new() } else { vec![Ipv4Net::new_assert(LANS, 8).into()] },
            multicast: Vec::new(),
            trust: Trust::Certificate,
            accept: Vec::new(),
            sessions: 4096,
            idle_timeout: self.idle_timeout,
        };
        Blueprint {
            config,
            credentials: self.credentials(self.request(n)),
            realm: INTERNET,
            address: address_of(n),
            lans: vec![lan_of(n)],
            rekey_packets: self.rekey_packets,
        }
    }

    /// What node n's certificate says.
    pub fn request(&self, n: usize) -> Request {
        let name = if n == 0 { "hub".to_owned() } else { format!("spoke{n}") };
        Request {
            addresses: vec![tunnel_address_of(n)],
            prefixes: BTreeSet::from([lan_of(n)]),
            ..Request::new(name, validity())
        }
    }

    /// Credentials with such a certificate of this CA, which trust this CA.
    pub fn credentials(&self, request: Request) -> Box<dyn Fn() -> Option<Credentials>> {
        let (ca, security) = (self.ca, self.security);
        Box::new(move || match security {
            Security::None => None,
            Security::Ike => Some(credentials(ca, &request)),
        })
    }
}

/// From a day before the beginning of a run for a year.
fn validity() -> Validity {
    const DAY: Duration = Duration::from_secs(86_400);
    Validity {
        not_before: UnixTime::since_unix_epoch(WALL - DAY),
        not_after: UnixTime::since_unix_epoch(WALL + 364 * DAY),
    }
}

/// CAs and certificates are made once in a process: making them is slow, and they do not depend
/// on the seed.
fn credentials(ca: &'static str, request: &Request) -> Credentials {
    static MADE: LazyLock<Mutex<Made>> = LazyLock::new(Mutex::default);
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let Made { count, authorities, credentials } = &mut *made;
    *count += 1;
    let serial = Serial::new(count.to_be_bytes());
    let key = (ca, format!("{request:?}"));
    let authority = authorities.entry(ca).or_insert_with(|| {
        Authority::create(ca, KeyType::P256, validity(), serial).expect("the plan is good")
    });
    let verifier = Verifier::new(&[authority.certificate_der().clone()], &[], Policy::default());
    let own = credentials.entry(key).or_insert_with(|| {
        let issued = authority.issue(request, KeyType::P256, serial).expect("the plan is good");
        Credential::new(vec![issued.certificate], issued.key).expect("it was made as a pair")
    });
    Credentials::new(own.clone(), verifier.expect("the CA is a CA"))
}

#[derive(Default)]
struct Made {
    count: u128,
    authorities: BTreeMap<&'static str, Authority>,
    credentials: BTreeMap<(&'static str, String), Credential>,
}

impl Sim {
    /// Prefixes that are registered with a node.
    pub fn registrations(&self, server: NodeId) -> usize {
        let registered = nhrp::engine::BindingKind::Registered;
        self.overlay(server).bindings().filter(|binding| binding.kind == registered).count()
    }
}
