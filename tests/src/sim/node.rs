//! The life of a node: start, crash, clean stop, another address, another time of day.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use ipnet::IpNet;
use overlay::{Config, Credentials, Notice, Overlay};

use super::network::{INTERNET, RealmId};
use super::plane::{Counters, Plane};
use super::trace::Entry;
use super::{NodeId, Sim};

/// What a node is made of, so that it can be killed and started again.
pub struct Blueprint {
    /// Configuration of the overlay; its NBMA address is set from [`Blueprint::address`].
    pub config: Config,
    /// Makes the credentials anew at each start.
    pub credentials: Box<dyn Fn() -> Option<Credentials>>,
    /// Where its address counts.
    pub realm: RealmId,
    /// Address on the underlay.
    pub address: IpAddr,
    /// Prefixes that are really behind the node, whatever it claims.
    pub lans: Vec<IpNet>,
    /// Packets after which an ESP path wants new keys.
    pub rekey_packets: u64,
}

impl Blueprint {
    /// The same node behind a translator.
    pub fn behind(self, realm: RealmId, address: impl Into<IpAddr>) -> Self {
        Self { realm, address: address.into(), ..self }
    }

    /// The same node with a change of its configuration.
    pub fn configured(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }
}

pub(super) struct Node {
    pub(super) blueprint: Blueprint,
    /// `None` while it is dead.
    pub(super) live: Option<Live>,
    pub(super) wall_at_start: SystemTime,
    pub(super) deadline: Option<Instant>,
    /// What a killed one left in its kernel.
    legacy: BTreeMap<u32, SocketAddr>,
    notices: Vec<(Duration, Notice)>,
}

pub(super) struct Live {
    pub(super) overlay: Overlay,
    pub(super) plane: Plane,
}

/// How long a clean stop waits for the answers to its purges.
const GOODBYE: Duration = Duration::from_secs(2);

impl Sim {
    /// Adds a node and starts it.
    pub fn add(&mut self, blueprint: Blueprint) -> NodeId {
        let id = self.install(blueprint);
        self.start(id);
        id
    }

    /// Adds a node that does not run yet.
    pub fn install(&mut self, blueprint: Blueprint) -> NodeId {
        let id = NodeId(self.nodes.len());
        self.network.attach(id, blueprint.realm, blueprint.address);
        self.nodes.push(Node {
            blueprint,
            live: None,
            wall_at_start: super::wall(),
            deadline: None,
            legacy: BTreeMap::new(),
            notices: Vec::new(),
        });
        id
    }

    /// The overlay of a living node.
    pub fn overlay(&self, id: NodeId) -> &Overlay {
        let live = self.nodes[id.0].live.as_ref();
        &live.unwrap_or_else(|| panic!("{id} is dead")).overlay
    }

    /// What a living node's data plane counted.
    pub fn counters(&self, id: NodeId) -> &Counters {
        let live = self.nodes[id.0].live.as_ref();
        &live.unwrap_or_else(|| panic!("{id} is dead")).plane.counters
    }

    /// Whether a node runs.
    pub fn is_alive(&self, id: NodeId) -> bool {
        self.nodes[id.0].live.is_some()
    }

    /// What a node is made of.
    pub fn blueprint(&self, id: NodeId) -> &Blueprint {
        &self.nodes[id.0].blueprint
    }

    /// What a node told its operator since its first start, and when.
    pub fn notices(&self, id: NodeId) -> &[(Duration, Notice)] {
        &self.nodes[id.0].notices
    }

    pub(super) fn note(&mut self, id: NodeId, notice: Notice) {
        let at = self.elapsed();
        self.nodes[id.0].notices.push((at, notice.clone()));
        self.trace.add(at, Entry::Notice(id, notice));
    }

    /// Starts a dead node; it knows nothing of its former life.
    pub fn start(&mut self, id: NodeId) {
        assert!(!self.is_alive(id), "{id} runs already");
        self.log(format!("{id} starts"));
        let now = self.clock(id);
        let blueprint = &self.nodes[id.0].blueprint;
        let mut config = blueprint.config.clone();
        config.nhrp.nbma = Some(blueprint.address);
        let own = config.nhrp.address.addr();
        let credentials = (blueprint.credentials)();
        self.guard.learn(credentials.as_ref());
        let (lans, volume) = (blueprint.lans.clone(), blueprint.rekey_packets);
        let mut plane = Plane::new(credentials.is_none(), own, lans, volume);
        let overlay = Overlay::new(config, credentials, now, &mut self.rng);
        plane.inherit(std::mem::take(&mut self.nodes[id.0].legacy));
        self.nodes[id.0].live = Some(Live { overlay, plane });
        self.settle(id);
    }

    /// Another configuration, or other credentials, while it runs.
    pub fn reconfigure(&mut self, id: NodeId, change: impl FnOnce(&mut Blueprint)) {
        self.log(format!("{id} gets another configuration"));
        let blueprint = &mut self.nodes[id.0].blueprint;
        change(blueprint);
        let (config, credentials) = (blueprint.config.clone(), (blueprint.credentials)());
        self.guard.learn(credentials.as_ref());
        self.with(id, |overlay, now, rng| overlay.reconfigure(now, config, credentials, rng));
    }

    /// `kill -9`: the node is gone without a word.
    pub fn kill(&mut self, id: NodeId) {
        self.log(format!("{id} is killed"));
        if let Some(live) = self.nodes[id.0].live.take() {
            self.nodes[id.0].legacy = live.plane.legacy();
        }
        self.arm(id, None);
    }

    /// Clean stop: the node says goodbye, and is gone when its peers have heard it.
    pub fn stop(&mut self, id: NodeId) {
        self.log(format!("{id} stops"));
        self.with(id, |overlay, now, rng| overlay.shutdown(now, rng));
        self.run_until(GOODBYE, |sim| !sim.is_alive(id) || sim.overlay(id).stopped());
        self.with(id, |overlay, now, rng| overlay.close(now, rng));
        self.nodes[id.0].live = None;
        self.arm(id, None);
    }

    /// The node's underlay gets another address.
    pub fn move_to(&mut self, id: NodeId, realm: RealmId, address: impl Into<IpAddr>) {
        let address = address.into();
        self.log(format!("{id} moves to {address}"));
        self.network.detach(id);
        self.network.attach(id, realm, address);
        let blueprint = &mut self.nodes[id.0].blueprint;
        (blueprint.realm, blueprint.address) = (realm, address);
        self.with(id, |overlay, now, rng| overlay.set_nbma(now, Some(address), rng));
    }

    /// As [`Self::move_to`], on the Internet.
    pub fn move_node(&mut self, id: NodeId, address: impl Into<IpAddr>) {
        self.move_to(id, INTERNET, address);
    }

    /// The node's time of day jumps.
    pub fn set_clock(&mut self, id: NodeId, wall: SystemTime) {
        self.log(format!("the clock of {id} is set"));
        let elapsed = self.elapsed();
        self.nodes[id.0].wall_at_start = wall - elapsed;
    }
}
