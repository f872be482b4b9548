//! The underlay: delay, loss, duplication, reordering, cut links, address translation.
//!
//! Addresses live in realms. The first is the Internet; every other one lies behind a translator
//! ([`Nat`]), whose outside is again a realm, so that translators behind translators need nothing
//! more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha12Rng;
use rand_core::Rng as _;

use super::{NodeId, PORT};

/// A space of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RealmId(usize);

/// Where addresses are public.
pub const INTERNET: RealmId = RealmId(0);

/// How the network treats datagrams. Chances are in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weather {
    /// One way.
    pub delay: Duration,
    /// Added by chance, up to this: more than the distance of two datagrams reorders them.
    pub jitter: Duration,
    /// Chance of loss.
    pub loss: u32,
    /// Chance of a second copy.
    pub duplication: u32,
}

impl Weather {
    /// Delay only.
    pub fn fair(delay: Duration) -> Self {
        Self { delay, jitter: Duration::ZERO, loss: 0, duplication: 0 }
    }

    pub(super) fn copies(&self, rng: &mut ChaCha12Rng) -> u32 {
        let mut hit = |chance: u32| chance > 0 && rng.next_u32() % 1000 < chance;
        if hit(self.loss) { 0 } else { 1 + u32::from(hit(self.duplication)) }
    }

    pub(super) fn latency(&self, rng: &mut ChaCha12Rng) -> Duration {
        let jitter = u64::try_from(self.jitter.as_nanos()).unwrap_or(u64::MAX);
        let extra = if jitter == 0 { 0 } else { rng.next_u64() % jitter };
        self.delay + Duration::from_nanos(extra)
    }
}

/// An address translator: endpoint-independent mapping, address-dependent filtering (RFC 4787).
#[derive(Debug)]
pub struct Nat {
    outside: RealmId,
    address: IpAddr,
    /// A mapping of its own for each destination ("symmetric").
    pub symmetric: bool,
    /// Whether two nodes behind it reach each other by their public addresses.
    pub hairpin: bool,
    /// A mapping that carried nothing outward for so long is forgotten.
    pub timeout: Duration,
    mappings: BTreeMap<Flow, Mapping>,
    flows: BTreeMap<u16, Flow>,
    next_port: u16,
}

/// Sender behind the translator and, where it tells them apart, receiver.
type Flow = (SocketAddr, Option<SocketAddr>);

#[derive(Debug)]
struct Mapping {
    port: u16,
    used: Instant,
    contacted: BTreeSet<IpAddr>,
}

impl Nat {
    fn translate(&mut self, now: Instant, from: SocketAddr, to: SocketAddr) -> SocketAddr {
        let flow = (from, self.symmetric.then_some(to));
        if let Some(old) = self.mappings.get(&flow)
            && now - old.used >= self.timeout
        {
            self.flows.remove(&old.port);
            self.mappings.remove(&flow);
        }
        let mapping = self.mappings.entry(flow).or_insert_with(|| {
            self.next_port += 1;
            self.flows.insert(self.next_port, flow);
            Mapping { port: self.next_port, used: now, contacted: BTreeSet::new() }
        });
        mapping.used = now;
        mapping.contacted.insert(to.ip());
        SocketAddr::new(self.address, mapping.port)
    }

    fn admit(&self, now: Instant, from: SocketAddr, port: u16) -> Option<SocketAddr> {
        let flow = self.flows.get(&port)?;
        let mapping = self.mappings.get(flow)?;
        let open = now - mapping.used < self.timeout && mapping.contacted.contains(&from.ip());
        open.then_some(flow.0)
    }

    /// Forgets every mapping, as a translator does that is switched off and on.
    pub fn restart(&mut self) {
        self.mappings.clear();
        self.flows.clear();
    }
}

/// Who answers to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Host {
    Node(NodeId),
    /// The translator in front of this realm.
    Nat(RealmId),
}

/// A datagram's addresses in one realm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) realm: RealmId,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
}

/// The underlay.
#[derive(Debug)]
pub struct Network {
    /// How it treats datagrams.
    pub weather: Weather,
    /// The translator in front of each realm but the first.
    nats: BTreeMap<RealmId, Nat>,
    hosts: BTreeMap<(RealmId, IpAddr), Host>,
    cuts: BTreeSet<(NodeId, NodeId)>,
}

impl Network {
    pub(super) fn new(weather: Weather) -> Self {
        Self { weather, nats: BTreeMap::new(), hosts: BTreeMap::new(), cuts: BTreeSet::new() }
    }

    /// A translator with this address in `outside`; gives the realm behind it.
    pub fn add_nat(&mut self, outside: RealmId, address: IpAddr) -> RealmId {
        let realm = RealmId(self.nats.len() + 1);
        let nat = Nat {
            outside,
            address,
            symmetric: false,
            hairpin: true,
            timeout: Duration::from_secs(120),
            mappings: BTreeMap::new(),
            flows: BTreeMap::new(),
            next_port: 20_000,
        };
        self.nats.insert(realm, nat);
        self.hosts.insert((outside, address), Host::Nat(realm));
        realm
    }

    /// The translator in front of a realm.
    pub fn nat(&mut self, realm: RealmId) -> &mut Nat {
        let nat = self.nats.get_mut(&realm);
        nat.unwrap_or_else(|| panic!("there is no translator in front of {realm:?}"))
    }

    /// The link between two nodes breaks, in both directions.
    pub fn cut(&mut self, a: NodeId, b: NodeId) {
        self.cuts.insert((a.min(b), a.max(b)));
    }

    /// All links are whole again.
    pub fn heal(&mut self) {
        self.cuts.clear();
    }

    pub(super) fn is_cut(&self, a: NodeId, b: NodeId) -> bool {
        self.cuts.contains(&(a.min(b), a.max(b)))
    }

    pub(super) fn attach(&mut self, node: NodeId, realm: RealmId, address: IpAddr) {
        self.hosts.insert((realm, address), Host::Node(node));
    }

    pub(super) fn detach(&mut self, node: NodeId) {
        self.hosts.retain(|_, host| *host != Host::Node(node));
    }

    /// How a datagram looks in the outermost realm that it reaches; `None` where it is lost there.
    pub(super) fn leave(&mut self, now: Instant, path: Path, translatable: bool) -> Option<Path> {
        let Path { realm, from, to } = path;
        if self.hosts.contains_key(&(realm, to.ip())) {
            return Some(path);
        }
        let Some(nat) = self.nats.get_mut(&realm) else { return Some(path) };
        if !translatable || (to.ip() == nat.address && !nat.hairpin) {
            return None;
        }
        let from = nat.translate(now, from, to);
        let path = Path { realm: nat.outside, from, to };
        self.leave(now, path, translatable)
    }

    /// Who hears a datagram, and whom it takes for the sender.
    pub(super) fn receiver(&self, now: Instant, path: Path) -> Option<(NodeId, SocketAddr)> {
        let Path { realm, from, to } = path;
        match *self.hosts.get(&(realm, to.ip()))? {
            Host::Node(node) => matches!(to.port(), 0 | PORT).then_some((node, from)),
            Host::Nat(realm) => {
                let to = self.nats.get(&realm)?.admit(now, from, to.port())?;
                self.receiver(now, Path { realm, from, to })
            }
        }
    }
}
