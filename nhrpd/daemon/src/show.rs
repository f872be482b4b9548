//! Answers to `overlayctl`: what the core and the data plane know, in the words of the control
//! socket.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use control::{
    Attribute, Cache, CacheEntry, Cleared, Counter, Counters, Dataplane, Dmvpn, Endpoint,
    Endpoints, EntryFlag, EntryKind, Handler, IkeSa, IkeSas, IkeState, Interface, InterfaceTraffic,
    IpsecSa, Multicast, MulticastMember, NextHopServers, Nhs, NhsState, Path, Peer, PeerState,
    Refusal, Reloaded, Role, Security, Session, Shortcut, ShortcutState, Shortcuts, Spi, Trace,
    Traffic, Transport,
};
use dataplane::DataPlane;
use ike::{SaId, TunnelKind};
use ipnet::IpNet;
use nhrp::engine::{self, Binding, BindingKind};
use overlay::desired::{PeerCounters, PeerId};
use overlay::{Credentials, Route, SessionReport};

use crate::config::{self, Config};
use crate::expiry::Ending;
use crate::shell::{Shell, now};
use crate::trace;

/// A running tunnel that answers.
pub(crate) struct Show<'a>(pub(crate) &'a mut Shell);

impl Handler for Show<'_> {
    fn dmvpn(&mut self) -> Dmvpn {
        Dmvpn { interfaces: vec![View::new(self.0).interface()] }
    }

    fn nhrp_cache(&mut self) -> Cache {
        let view = View::new(self.0);
        Cache { entries: view.shell.overlay.nhrp().cache().iter().map(|e| view.entry(e)).collect() }
    }

    fn nhs(&mut self) -> NextHopServers {
        NextHopServers { servers: View::new(self.0).servers() }
    }

    fn shortcuts(&mut self) -> Shortcuts {
        Shortcuts { shortcuts: View::new(self.0).shortcuts() }
    }

    fn nhrp_traffic(&mut self) -> Traffic {
        let nhrp = self.0.overlay.nhrp().counters().iter();
        let ike = self.0.overlay.ike().drops();
        let plane = self.0.plane.drops().into_iter();
        let counters = nhrp
            .chain(ike.map(|(reason, value)| (format!("IKE dropped: {}", reason.name()), value)))
            .chain(plane.map(|(name, value)| (format!("data plane dropped: {name}"), value)))
            .map(|(name, value)| Counter { name, value })
            .collect();
        let name = self.0.config.tunnel.interface.clone();
        Traffic { interfaces: vec![InterfaceTraffic { name, counters }] }
    }

    fn tunnel_endpoints(&mut self) -> Endpoints {
        Endpoints { endpoints: View::new(self.0).endpoints() }
    }

    fn ike_sa(&mut self) -> IkeSas {
        let view = View::new(self.0);
        IkeSas { sas: view.ike_sas().into_values().collect(), refusals: view.refusals() }
    }

    fn multicast(&mut self) -> Multicast {
        Multicast { members: View::new(self.0).multicast() }
    }

    fn trace(&mut self, address: IpAddr) -> Trace {
        trace::trace(&View::new(self.0), address)
    }

    fn reload(&mut self) -> Result<Reloaded, String> {
        self.0.reload()
    }

    fn clear_cache(&mut self) -> Cleared {
        self.clear(|shell| shell.overlay.clear_cache(now(), &mut rand::rng()))
    }

    fn clear_shortcuts(&mut self) -> Cleared {
        self.clear(|shell| {
            shell.overlay.clear_shortcuts(now(), &mut rand::rng());
            0
        })
    }

    fn clear_peer(&mut self, address: IpAddr) -> Cleared {
        self.clear(|shell| shell.overlay.clear_peer(now(), address, &mut rand::rng()))
    }
}

impl Show<'_> {
    /// Counts the entries that go, or the sessions where no entry goes.
    fn clear(&mut self, change: impl FnOnce(&mut Shell) -> usize) -> Cleared {
        let learnt = |shell: &Shell| {
            let cache = shell.overlay.nhrp().cache();
            let kept = [engine::EntryKind::Static, engine::EntryKind::Local];
            cache.iter().filter(|entry| !kept.contains(&entry.kind)).count()
        };
        let before = learnt(self.0);
        let sessions = change(self.0);
        self.0.flush();
        let entries = before.saturating_sub(learnt(self.0));
        Cleared { cleared: entries.max(sessions) as u64 }
    }
}

/// A tunnel at one moment.
pub(crate) struct View<'a> {
    pub(crate) shell: &'a Shell,
    pub(crate) now: Instant,
    pub(crate) sessions: BTreeMap<PeerId, SessionReport>,
    counters: BTreeMap<PeerId, PeerCounters>,
    /// Host prefix or prefix behind a peer, and the way of its traffic.
    routes: Vec<(Binding, Route)>,
}

impl<'a> View<'a> {
    fn new(shell: &'a Shell) -> Self {
        let routed = |binding: Binding| {
            let route = shell.overlay.route(&binding);
            (binding, route)
        };
        Self {
            shell,
            now: Instant::now(),
            sessions: shell.overlay.sessions().map(|session| (session.peer, session)).collect(),
            counters: shell.plane.counters(),
            routes: shell.overlay.bindings().map(routed).collect(),
        }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.shell.config
    }

    pub(crate) fn name(&self) -> String {
        self.config().tunnel.interface.clone()
    }

    fn seconds(&self, since: Instant) -> u64 {
        self.now.saturating_duration_since(since).as_secs()
    }

    pub(crate) fn remaining(&self, until: Instant) -> u64 {
        until.saturating_duration_since(self.now).as_secs()
    }

    fn security(&self) -> Security {
        match self.config().security {
            config::Security::None => Security::None,
            config::Security::Keyed(..) => Security::Ikev2,
        }
    }

    fn interface(&self) -> Interface {
        let config = self.config();
        let overlay = &self.shell.overlay;
        Interface {
            name: self.name(),
            address: config.tunnel.address,
            role: if config.nhrp.accept_registrations { Role::Hub } else { Role::Spoke },
            network_id: config.nhrp.network_id,
            key: config.tunnel.key,
            mtu: self.shell.plane.mtu(),
            source: config.underlay.source.to_string(),
            nbma: overlay.nbma(),
            port: config.underlay.port,
            security: self.security(),
            dataplane: match self.shell.plane {
                DataPlane::Kernel(_) => Dataplane::Kernel,
                DataPlane::Userspace(_) => Dataplane::Userspace,
            },
            identity: overlay.credentials().map(Credentials::name),
            certificate: overlay.credentials().and_then(|credentials| {
                let own = Ending::own(credentials)?;
                Some(control::Certificate {
                    not_after: own.at(),
                    seconds_left: own.left(now().wall),
                    subject: own.name,
                })
            }),
            up_seconds: self.seconds(overlay.started()),
            nhs: self.servers(),
            peers: self.peers(),
            refusals: self.refusals(),
        }
    }

    fn refusals(&self) -> Vec<Refusal> {
        let told = |refusal: &overlay::Refusal| Refusal {
            seconds_ago: self.seconds(refusal.last),
            count: refusal.count,
            peer: refusal.refused.peer,
            identity: refusal.refused.identity.clone(),
            reason: refusal.refused.reason.clone(),
        };
        self.shell.overlay.refusals().map(told).collect()
    }

    fn servers(&self) -> Vec<Nhs> {
        let configured: BTreeMap<IpAddr, String> =
            self.config().nhs.iter().map(|nhs| (nhs.address, nhs.nbma.to_string())).collect();
        let servers = self.shell.overlay.nhrp().servers();
        servers
            .into_iter()
            .map(|server| Nhs {
                interface: self.name(),
                address: server.address,
                configured: configured.get(&server.address).cloned().unwrap_or_default(),
                nbma: server.nbma.map(|nbma| nbma.address),
                state: match server.state {
                    engine::NhsState::ExpectingReplies => NhsState::Expecting,
                    engine::NhsState::Responding => NhsState::Responding,
                    engine::NhsState::Waiting => NhsState::Waiting,
                },
                why: self
                    .shell
                    .unresolved
                    .get(&server.address)
                    .filter(|_| server.nbma.is_none())
                    .cloned()
                    .or(Some(server.why).filter(|why| !why.is_empty())),
                since_seconds: self.seconds(server.since),
                priority: server.priority,
                cluster: server.cluster,
                requests_sent: server.requests,
                replies: server.replies,
                last_refusal: server.last_refusal,
                seen_as: server.seen_as.map(|nbma| self.shell.overlay.endpoint(nbma)),
            })
            .collect()
    }

    /// One row for each place on the underlay that is a peer or is to become one.
    fn peers(&self) -> Vec<Peer> {
        let overlay = &self.shell.overlay;
        let mut rows: BTreeMap<SocketAddr, Row<'_>> = BTreeMap::new();
        for session in self.sessions.values() {
            let row = rows.entry(session.endpoint).or_default();
            // Of two sessions with one peer, the one that carries traffic is shown.
            if row.session.as_ref().is_none_or(|shown| !shown.up || session.up) {
                row.session = Some(session.clone());
            }
        }
        for (binding, route) in &self.routes {
            let endpoint = match route {
                Route::Direct(id) => self.sessions.get(id).map(|session| session.endpoint),
                Route::Indirect(_) => None,
            };
            let endpoint = endpoint.unwrap_or_else(|| overlay.endpoint(binding.nbma));
            rows.entry(endpoint).or_default().bindings.push((binding, route));
        }
        for server in overlay.nhrp().servers() {
            let Some(nbma) = server.nbma else { continue };
            let row = rows.entry(overlay.endpoint(nbma)).or_default();
            row.server = Some(server);
        }
        for attempt in overlay.attempts() {
            let row = rows.entry(attempt.endpoint).or_default();
            row.why = attempt.reason;
        }
        let mut sas = self.ike_sas();
        rows.into_iter().map(|(endpoint, row)| self.peer(endpoint, row, &mut sas)).collect()
    }

    fn peer(&self, endpoint: SocketAddr, row: Row<'_>, sas: &mut BTreeMap<SaId, IkeSa>) -> Peer {
        let hosts = |prefix: &IpNet| prefix.prefix_len() == prefix.max_prefix_len();
        let tunnel_address = row
            .bindings
            .first()
            .map(|(binding, _)| binding.next_hop)
            .or(row.server.as_ref().map(|server| server.address));
        let up = row.session.as_ref().is_some_and(|session| session.up);
        let known = row.bindings.iter().any(|(_, route)| matches!(route, Route::Direct(_)));
        let state = match (up, known) {
            (true, true) => PeerState::Up,
            (true, false) => PeerState::Nhrp,
            (false, _) => PeerState::Ike,
        };
        let mut attributes = BTreeSet::new();
        for (binding, _) in &row.bindings {
            attributes.insert(match binding.kind {
                BindingKind::Static | BindingKind::Nhs => Attribute::Static,
                BindingKind::Registered | BindingKind::Shortcut => Attribute::Dynamic,
            });
            if binding.claimed.is_some() {
                attributes.insert(Attribute::Nated);
            }
        }
        if row.server.is_some() {
            attributes.insert(Attribute::Static);
        }
        if row.session.is_none() {
            attributes.insert(Attribute::NoSocket);
        }
        if row.bindings.is_empty() && row.server.is_none() {
            attributes.insert(Attribute::Incomplete);
        }
        let refused = row.bindings.iter().find_map(|(_, route)| match route {
            Route::Indirect(why) => why.clone(),
            Route::Direct(_) => None,
        });
        let server_why = row.server.as_ref().map(|server| server.why.clone());
        let why = match state {
            PeerState::Up => None,
            _ => {
                let told = self.shell.overlay.refusals().find(|r| r.refused.peer == endpoint);
                let told = told.map(|refusal| refusal.refused.reason.clone());
                row.why.or(refused).or(told).or(server_why).filter(|why| !why.is_empty())
            }
        };
        let path = match state {
            PeerState::Up => Some(Path::Direct),
            _ if !row.bindings.is_empty() && self.shell.overlay.desired().forwarding.is_empty() => {
                None
            }
            _ if row.bindings.iter().any(|(b, _)| b.kind == BindingKind::Shortcut) => {
                Some(Path::ViaHub)
            }
            _ => None,
        };
        let since = row
            .session
            .as_ref()
            .map(|session| session.since)
            .or(row.server.as_ref().map(|server| server.since));
        let clear = self.security() == Security::None;
        Peer {
            nbma: row.bindings.iter().find_map(|(b, _)| b.claimed).or(Some(endpoint.ip())),
            nbma_seen: row.session.as_ref().map(|session| session.endpoint.ip()),
            port: (!clear).then_some(endpoint.port()),
            tunnel_address,
            prefixes: row
                .bindings
                .iter()
                .map(|(binding, _)| binding.prefix)
                .filter(|prefix| !hosts(prefix))
                .collect(),
            state,
            since_seconds: since.map_or(0, |since| self.seconds(since)),
            attributes: attributes.into_iter().collect(),
            identity: row.session.as_ref().and_then(|session| session.identity.clone()),
            why,
            path,
            session: row.session.as_ref().filter(|_| !clear).map(|session| Session {
                ike: session.sa.and_then(|sa| sas.remove(&sa)),
                transport: transport(session.kind),
            }),
            counters: row.session.as_ref().map(|s| self.counters(s.peer)).unwrap_or_default(),
        }
    }

    pub(crate) fn counters(&self, peer: PeerId) -> Counters {
        let counters = self.counters.get(&peer).copied().unwrap_or_default();
        Counters {
            tx_packets: counters.tx_packets,
            tx_bytes: counters.tx_bytes,
            rx_packets: counters.rx_packets,
            rx_bytes: counters.rx_bytes,
            forwarded_packets: counters.forwarded_packets,
            dropped_packets: counters.dropped_packets,
            last_rx_seconds: counters
                .last_rx
                .map(|at| self.seconds(self.shell.overlay.started()).saturating_sub(at)),
        }
    }

    fn entry(&self, entry: &engine::CacheEntry) -> CacheEntry {
        let flags = [
            (entry.flags.unique, EntryFlag::Unique),
            (entry.flags.registered, EntryFlag::Registered),
            (entry.flags.used, EntryFlag::Used),
            (entry.flags.authoritative, EntryFlag::Authoritative),
            (entry.flags.implicit, EntryFlag::Implicit),
            (entry.flags.nat, EntryFlag::Nat),
        ];
        CacheEntry {
            interface: self.name(),
            prefix: entry.prefix,
            next_hop: entry.next_hop,
            nbma: entry.seen.map(|nbma| nbma.address),
            nbma_claimed: entry
                .claimed
                .filter(|&at| entry.seen.map(|nbma| nbma.address) != Some(at)),
            kind: match entry.kind {
                engine::EntryKind::Static => EntryKind::Static,
                engine::EntryKind::Dynamic => EntryKind::Dynamic,
                engine::EntryKind::Incomplete => EntryKind::Incomplete,
                engine::EntryKind::Negative => EntryKind::Negative,
                engine::EntryKind::Local => EntryKind::Local,
            },
            flags: flags.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag).collect(),
            created_seconds: self.seconds(entry.created),
            expires_seconds: entry.expires.map(|at| self.remaining(at)),
        }
    }

    fn shortcuts(&self) -> Vec<Shortcut> {
        let cache = self.shell.overlay.nhrp().cache();
        let entries: BTreeMap<IpNet, &engine::CacheEntry> =
            cache.iter().map(|entry| (entry.prefix, entry)).collect();
        let shortcuts = self.routes.iter().filter(|(b, _)| b.kind == BindingKind::Shortcut);
        let known = shortcuts.map(|(binding, route)| {
            let (state, session, why) = match route {
                Route::Direct(id) => (ShortcutState::Active, self.sessions.get(id), None),
                Route::Indirect(why) => (ShortcutState::Keying, None, why.clone()),
            };
            let entry = entries.get(&binding.prefix);
            Shortcut {
                interface: self.name(),
                prefix: binding.prefix,
                next_hop: Some(binding.next_hop),
                nbma: Some(binding.nbma.address),
                state,
                since_seconds: session
                    .map(|session| session.since)
                    .into_iter()
                    .chain(entry.map(|entry| entry.created))
                    .max()
                    .map_or(0, |since| self.seconds(since)),
                expires_seconds: entry.and_then(|entry| entry.expires).map(|at| self.remaining(at)),
                identity: session.and_then(|session| session.identity.clone()),
                why,
                packets: self.shell.plane.packets(binding.prefix),
            }
        });
        let asked = cache.iter().filter(|e| e.kind == engine::EntryKind::Incomplete).map(|entry| {
            Shortcut {
                interface: self.name(),
                prefix: entry.prefix,
                next_hop: None,
                nbma: None,
                state: ShortcutState::Resolving,
                since_seconds: self.seconds(entry.created),
                expires_seconds: entry.expires.map(|at| self.remaining(at)),
                identity: None,
                why: None,
                packets: 0,
            }
        });
        known.chain(asked).collect()
    }

    /// The tunnel addresses of the peers, by the session that their traffic takes.
    fn tunnel_addresses(&self) -> BTreeMap<PeerId, IpAddr> {
        let direct = self.routes.iter().rev().filter_map(|(binding, route)| match route {
            Route::Direct(id) => Some((*id, binding.next_hop)),
            Route::Indirect(_) => None,
        });
        direct.collect()
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        let addresses = self.tunnel_addresses();
        self.sessions
            .values()
            .map(|session| Endpoint {
                interface: self.name(),
                tunnel_address: addresses.get(&session.peer).copied(),
                nbma: session.endpoint.ip(),
                port: session.kind.is_some().then_some(session.endpoint.port()),
                transport: transport(session.kind),
                mtu: self.shell.plane.mtu(),
                up: session.up,
                identity: session.identity.clone(),
                counters: self.counters(session.peer),
            })
            .collect()
    }

    pub(crate) fn ike_sas(&self) -> BTreeMap<SaId, IkeSa> {
        let proven: BTreeMap<SaId, &SessionReport> =
            self.sessions.values().filter_map(|session| Some((session.sa?, session))).collect();
        let local = self.shell.overlay.nbma();
        self.shell
            .overlay
            .ike()
            .sas()
            .map(|sa| {
                let shown = IkeSa {
                    local: local.map(|address| SocketAddr::new(address, sa.port)),
                    remote: sa.remote,
                    state: match sa.state {
                        ike::SaState::Established => IkeState::Established,
                        ike::SaState::Childless => IkeState::Childless,
                        _ => IkeState::HalfOpen,
                    },
                    initiator: sa.initiator,
                    initiator_spi: Spi(sa.initiator_spi),
                    responder_spi: Spi(sa.responder_spi),
                    age_seconds: self.seconds(sa.begun),
                    identity: proven.get(&sa.id).and_then(|session| session.identity.clone()),
                    own_authentication: sa.own_auth.map(str::to_owned),
                    peer_authentication: sa.peer_auth.map(str::to_owned),
                    suite: sa.suite,
                    rekey_seconds: sa.rekey_at.map(|at| self.remaining(at)),
                    nat_local: sa.nat.local,
                    nat_remote: sa.nat.remote,
                    requests_sent: sa.counters.requests_sent,
                    retransmissions: sa.counters.retransmissions,
                    requests_received: sa.counters.requests_received,
                    ipsec: sa.children.iter().map(|child| self.ipsec_sa(sa.id, child)).collect(),
                };
                (sa.id, shown)
            })
            .collect()
    }

    fn ipsec_sa(&self, sa: SaId, child: &ike::ChildInfo) -> IpsecSa {
        let mut sessions = self.sessions.values();
        let carrier = sessions.find(|s| (s.sa, s.tunnel) == (Some(sa), Some(child.tunnel)));
        IpsecSa {
            inbound_spi: format!("{:08x}", child.inbound),
            outbound_spi: format!("{:08x}", child.outbound),
            cipher: child.cipher.to_string(),
            esn: child.esn,
            pfs: child.group.map(str::to_owned),
            age_seconds: self.seconds(child.since),
            rekey_seconds: child.rekey_at.map(|at| self.remaining(at)),
            counters: carrier.map(|session| self.counters(session.peer)),
        }
    }

    fn multicast(&self) -> Vec<MulticastMember> {
        let addresses = self.tunnel_addresses();
        let overlay = &self.shell.overlay;
        overlay
            .desired()
            .multicast
            .iter()
            .filter_map(|id| self.sessions.get(id))
            .map(|session| MulticastMember {
                interface: self.name(),
                nbma: session.endpoint.ip(),
                tunnel_address: addresses.get(&session.peer).copied(),
                identity: session.identity.clone(),
            })
            .collect()
    }
}

/// What is known of one place on the underlay.
#[derive(Default)]
struct Row<'a> {
    session: Option<SessionReport>,
    bindings: Vec<(&'a Binding, &'a Route)>,
    server: Option<engine::ServerStatus>,
    why: Option<String>,
}

fn transport(kind: Option<TunnelKind>) -> Transport {
    match kind {
        Some(TunnelKind::Esp) => Transport::Esp,
        Some(TunnelKind::WireGuard) => Transport::Wireguard,
        None => Transport::None,
    }
}
