//! From the desired state to the snapshot that the packet threads read.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use ipnet::IpNet;
use overlay::desired::{Desired, Peer, PeerId, Transport};

use super::forward::{Entry, Forwarding, Via};
use super::gre::Headers;
use super::outbox::Outbox;
use super::peers::{Path, Protection, Session};
use super::{Config, Snapshot, UNKNOWN};
use crate::{Overhead, tunnel_mtu};

/// What the control plane knows; the packet threads never wait for it.
pub(crate) struct Control {
    desired: Desired,
    sessions: BTreeMap<PeerId, Arc<Session>>,
    /// Sessions that have not spoken yet.
    fresh: Vec<Arc<Session>>,
    /// Counters by prefix; they go on when a prefix takes another path.
    packets: BTreeMap<IpNet, Arc<AtomicU64>>,
    /// Prefixes for which the kernel has routes that do not lead into the tunnel.
    pub local: BTreeSet<IpNet>,
    source: Option<IpAddr>,
    underlay_mtu: u16,
}

impl Control {
    pub(crate) fn new(source: Option<IpAddr>, underlay_mtu: u16) -> Self {
        Self {
            desired: Desired::default(),
            sessions: BTreeMap::new(),
            fresh: Vec::new(),
            packets: BTreeMap::new(),
            local: BTreeSet::new(),
            source,
            underlay_mtu,
        }
    }

    pub(crate) fn set_underlay(&mut self, source: Option<IpAddr>, mtu: u16) {
        // Without an address nothing is sent; the next one is likely of the same family.
        self.source = source.or(self.source);
        self.underlay_mtu = mtu;
    }

    /// MTU of the tunnel device: what fits whatever protection the peers agree on.
    pub(crate) fn device_mtu(&self, config: &Config) -> u16 {
        let overhead = if config.clear { Overhead::Clear } else { Overhead::WireGuard };
        let endpoint = self.source.unwrap_or(UNKNOWN);
        let fits = || tunnel_mtu(self.underlay_mtu, endpoint, config.key.is_some(), overhead);
        config.mtu.unwrap_or_else(fits)
    }

    /// Takes the desired state over; `false` when it is the same.
    pub(crate) fn apply(&mut self, config: &Config, desired: &Desired) -> bool {
        if self.desired == *desired {
            return false;
        }
        let former = std::mem::replace(&mut self.desired, desired.clone());
        self.sessions.retain(|id, _| desired.peers.contains_key(id));
        self.packets.retain(|prefix, _| desired.forwarding.contains_key(prefix));
        for &prefix in desired.forwarding.keys() {
            self.packets.entry(prefix).or_default();
        }
        for (&id, peer) in &desired.peers {
            if (peer.transport == Transport::Clear) != config.clear {
                // Encrypted or silent.
                tracing::error!("peer {} has another protection than this tunnel", id.0);
                self.sessions.remove(&id);
                continue;
            }
            match former.peers.get(&id).zip(self.sessions.get(&id)) {
                Some((former, session)) if former.transport == peer.transport => {
                    // The packet threads follow a peer that moves before the control plane
                    // does: only what it newly says counts.
                    if former.endpoint != peer.endpoint {
                        session.set_endpoint(peer.endpoint);
                    }
                }
                _ => {
                    self.sessions.remove(&id);
                    self.add_session(config, id, peer);
                }
            }
        }
        true
    }

    fn add_session(&mut self, config: &Config, id: PeerId, peer: &Peer) {
        let index = |session: &Arc<Session>| match session.protection {
            Protection::WireGuard { index, .. } => Some(index),
            _ => None,
        };
        let taken: BTreeSet<u32> = self.sessions.values().filter_map(index).collect();
        let index = std::iter::repeat_with(|| rand::random::<u32>() >> 8)
            .find(|index| !taken.contains(index))
            .unwrap_or_default();
        let session = Session::new(id, peer, index, config.keepalive, Instant::now());
        let Some(session) = session.map(Arc::new) else {
            return tracing::error!("peer {}: this data plane carries no such ESP", id.0);
        };
        self.fresh.push(session.clone());
        self.sessions.insert(id, session);
    }

    /// Sends the first handshake of every new session.
    pub(crate) fn start_sessions(&mut self, outbox: &mut Outbox) {
        for session in self.fresh.drain(..) {
            session.start(outbox);
        }
    }

    fn path(&self, config: &Config, session: &Arc<Session>, peer: &Peer) -> Arc<Path> {
        let remote = peer.endpoint.ip();
        let source = match self.source.filter(|source| source.is_ipv4() == remote.is_ipv4()) {
            Some(source) => source,
            None if remote.is_ipv4() => UNKNOWN,
            None => Ipv6Addr::UNSPECIFIED.into(),
        };
        // WireGuard carries IP only; ESP in transport mode needs no second header.
        let (outer, overhead) = match session.protection {
            Protection::Clear => (None, Overhead::Clear),
            Protection::Esp { .. } => (None, Overhead::Esp),
            Protection::WireGuard { .. } => (Some((source, remote)), Overhead::WireGuard),
        };
        let sources = self.desired.sources.get(&session.id);
        Arc::new(Path {
            session: session.clone(),
            headers: Headers::new(outer, config.key),
            mtu: tunnel_mtu(self.underlay_mtu, remote, config.key.is_some(), overhead),
            sources: sources.map(|sources| sources.iter().copied().collect()),
        })
    }

    /// The state as the packet threads read it.
    pub(crate) fn snapshot(&self, config: &Config) -> Snapshot {
        let paths: BTreeMap<PeerId, Arc<Path>> = self
            .sessions
            .iter()
            .filter_map(|(id, session)| {
                let peer = self.desired.peers.get(id)?;
                Some((*id, self.path(config, session, peer)))
            })
            .collect();
        let mut forwarding = Forwarding::new(&config.addresses);
        for &prefix in &self.local {
            forwarding.insert(prefix, Entry::Local);
        }
        for (prefix, hop) in &self.desired.forwarding {
            if let (Some(path), Some(packets)) = (paths.get(&hop.peer), self.packets.get(prefix)) {
                let via = Via { peer: hop.peer, path: path.clone(), packets: packets.clone() };
                forwarding.insert(*prefix, Entry::Via(via));
            }
        }
        let multicast = self.desired.multicast.iter().filter_map(|id| paths.get(id).cloned());
        let mut by_index = BTreeMap::new();
        let mut by_spi = BTreeMap::new();
        let mut by_endpoint = BTreeMap::<_, Vec<_>>::new();
        let mut by_address = BTreeMap::new();
        for (id, path) in &paths {
            let Some(peer) = self.desired.peers.get(id) else { continue };
            match path.session.protection {
                Protection::WireGuard { index, .. } => {
                    by_index.insert(index, path.clone());
                    by_endpoint.entry(peer.endpoint).or_default().push(path.clone());
                }
                Protection::Esp { spi, .. } => {
                    by_spi.insert(spi, path.clone());
                }
                Protection::Clear => {
                    by_address.insert(peer.endpoint.ip(), path.clone());
                }
            }
        }
        Snapshot {
            forwarding,
            by_index,
            by_spi,
            by_endpoint,
            by_address,
            multicast: multicast.collect(),
            paths,
        }
    }
}
