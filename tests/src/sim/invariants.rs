//! What holds at every moment of every run.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use overlay::{Config, Credentials, Security, Trust};

use super::packet::IpPacket;
use super::plane::{EspPacket, Inner, Payload};
use super::tunnel::Message;
use super::{NodeId, Sim};

/// Things that happen at one moment of virtual time before it counts as standing still.
const STEPS_AT_ONCE: u32 = 100_000;
/// Control datagrams in one second for each node before it counts as a storm.
const STORM: usize = 400;

/// What the invariants need to know of the past.
#[derive(Debug, Default)]
pub(super) struct Guard {
    moment: Option<Instant>,
    steps: u32,
    second: Option<Instant>,
    launched: usize,
    /// The last sequence number that was sealed with each key of ESP.
    sequences: BTreeMap<Vec<u8>, u64>,
    /// What the certificate of each identity allows.
    claims: BTreeMap<String, BTreeSet<IpNet>>,
}

impl Guard {
    /// Time goes on.
    pub(super) fn step(&mut self, now: Instant) {
        if self.moment.replace(now) != Some(now) {
            self.steps = 0;
        }
        self.steps += 1;
        assert!(self.steps < STEPS_AT_ONCE, "time stands still");
    }

    /// Nobody talks himself into a storm.
    pub(super) fn launched(&mut self, now: Instant, nodes: usize, payload: &Payload) {
        let quiet = |began| now - began >= Duration::from_secs(1);
        if self.second.is_none_or(quiet) {
            self.second = Some(now);
            self.launched = 0;
        }
        let data = matches!(
            payload,
            Payload::WireGuard(_, Message::Data(..))
                | Payload::Gre(Inner::Ip(_))
                | Payload::Esp(EspPacket { inner: Inner::Ip(_), .. })
        );
        self.launched += usize::from(!data);
        assert!(self.launched < STORM * nodes.max(1), "a storm of control messages");
    }

    /// No nonce is used twice with one key: not by two nodes, and not by one.
    pub(super) fn sealed(&mut self, payload: &Payload) {
        let Payload::Esp(packet) = payload else { return };
        let last = self.sequences.entry(packet.key.clone()).or_default();
        assert!(packet.sequence > *last, "a nonce used twice: SPI {:08x}", packet.spi);
        *last = packet.sequence;
    }

    pub(super) fn learn(&mut self, credentials: Option<&Credentials>) {
        if let Some(certificate) = credentials.and_then(Credentials::certificate) {
            let subject = certificate.identity.subject.clone();
            self.claims.insert(subject, certificate.allowed.clone());
        }
    }

    /// Whether a node with this configuration lets an identity claim a prefix.
    fn may_claim(&self, config: &Config, identity: Option<&String>, prefix: IpNet) -> bool {
        if config.security == Security::None || config.trust == Trust::Any {
            return true;
        }
        let Some(identity) = identity else { return false };
        let own = self.claims.get(identity).into_iter().flatten();
        let name = identity.strip_prefix("CN=").unwrap_or(identity);
        let granted =
            config.accept.iter().filter(|accept| ["*", name].contains(&&*accept.identity));
        own.chain(granted.flat_map(|accept| &accept.prefixes)).any(|net| net.contains(&prefix))
    }
}

impl Sim {
    /// What holds of a node whenever its desired state has changed.
    pub(super) fn check(&self, id: NodeId) {
        let node = &self.nodes[id.0];
        let Some(live) = &node.live else { return };
        let overlay = &live.overlay;
        let (config, desired) = (&node.blueprint.config, overlay.desired());
        let sessions: BTreeMap<_, _> = overlay.sessions().map(|s| (s.peer, s)).collect();

        for (&prefix, overlay::desired::Hop { peer, .. }) in &desired.forwarding {
            let session = sessions.get(peer).filter(|_| desired.peers.contains_key(peer));
            let Some(session) = session else {
                panic!("{id} forwards {prefix} to a session that is gone");
            };
            assert!(session.up, "{id} forwards {prefix} to a session that is not up");
            let through_server =
                prefix == config.nhrp.address.trunc() || config.routes.contains(&prefix);
            let permitted = if through_server {
                config.nhrp.servers.iter().any(|server| {
                    self.guard.may_claim(config, session.identity.as_ref(), server.address.into())
                })
            } else {
                self.guard.may_claim(config, session.identity.as_ref(), prefix)
            };
            let who = session.identity.as_deref().unwrap_or("nobody");
            assert!(permitted, "{id} forwards {prefix} to {who}, who may not claim it");
            for lan in &node.blueprint.lans {
                assert!(!lan.contains(&prefix), "{id} sends its own LAN {lan} into the tunnel");
            }
        }

        let limits = &config.nhrp.limits;
        let peers: BTreeSet<_> = sessions.values().map(|s| (&s.identity, s.endpoint)).collect();
        let identities: BTreeSet<_> = peers.iter().map(|(identity, _)| identity).collect();
        let count = if identities.contains(&&None) { peers.len() } else { identities.len() };
        assert!(count <= config.sessions, "{id} has sessions with {count} peers");
        assert!(sessions.len() <= 3 * config.sessions, "{id} has {} sessions", sessions.len());
        let entries = overlay.bindings().count();
        assert!(entries <= limits.cache_entries, "{id} has {entries} bindings");
        let attempts = overlay.attempts().count();
        assert!(attempts <= config.sessions, "{id} has {attempts} attempts");
    }

    /// A spoke is no transit: what it is sent is for itself.
    pub(super) fn check_transit(&self, id: NodeId) {
        let node = &self.nodes[id.0];
        let forwarded = node.live.as_ref().map_or(0, |live| live.plane.counters.forwarded);
        let hub = node.blueprint.config.nhrp.accept_registrations;
        assert!(hub || forwarded == 0, "{id} is a spoke and forwards packets of others");
    }

    /// Encrypted or silent.
    pub(super) fn check_secrecy(&self, id: NodeId, payload: &Payload) {
        let secure = self.nodes[id.0].blueprint.config.security != Security::None;
        let clear = matches!(payload, Payload::Gre(_));
        assert!(!(secure && clear), "{id} sends GRE in the clear: {payload}");
    }

    /// A packet arrives at the right place, and once for each copy that the network made. What is
    /// encrypted is protected against replay.
    pub(super) fn check_delivery(&self, id: NodeId, packet: &IpPacket) {
        let owner = self.owner(packet.destination);
        let number = packet.number;
        assert_eq!(owner, Some(id), "packet {number} for {} went astray", packet.destination);
        let fate = self.fate(number);
        assert!(fate.arrivals < fate.copies, "packet {number} arrived twice at {id}");
    }

    /// Whose address this is: that of the first node that was given it.
    fn owner(&self, address: IpAddr) -> Option<NodeId> {
        let owns = |id: &NodeId| {
            let blueprint = &self.nodes[id.0].blueprint;
            blueprint.config.nhrp.address.addr() == address
                || blueprint.lans.iter().any(|lan| lan.contains(&address))
        };
        self.nodes().find(owns)
    }
}
