//! What is in the kernel, what is to be, and the way from one to the other.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use overlay::desired::{Changes, Desired, PeerCounters, PeerId};

use super::device::Device;
use super::inherit::Inherited;
use super::link::{Gre, Outer};
use super::nft::Element;
use super::plan::{Context, Plan};
use super::probe::{self, NFTABLES, Needs, XFRM, lacking, needed};
use super::ranges;
use super::rules::{self, Rules, Set};
use super::socket::Requests;
use super::tables::{Association, Difference, Direction, Keys, SaId, Tables, difference};
use super::usage::Usage;
use super::xfrm::{self, Policies, Replay, Tell};
use super::{nft, route, seconds};
use crate::{Config, Error, Overhead, tunnel_mtu};

/// GRE header with and without a key, behind an IPv4 header.
const GRE_KEYED: u64 = 28;
const GRE: u64 = 24;

/// For how long the server stands for a neighbour until the kernel has to ask again: as long as an
/// answer "no" keeps the overlay from asking for him.
const ASK_AGAIN: Duration = Duration::from_secs(15);

/// For how long an SA stays after another is sent through in its place: a packet may have got it and not
/// been through it yet, on another processor, and is dropped if it is gone then (XfrmOutStateInvalid).
const OUTLIVES: Duration = Duration::from_secs(1);

/// The tunnel device was removed.
#[derive(Debug)]
pub(crate) struct Gone;

/// Everything that is known of the kernel.
pub(crate) struct State {
    config: Config,
    route: Requests,
    nft: Requests,
    xfrm: Option<Requests>,
    device: Device,
    rules: Rules,
    /// Others took something out of our table.
    damaged: bool,
    policies: Policies,
    plan: Plan,
    underlay_mtu: u16,
    actual: Tables,
    inherited: Inherited,
    /// When the neighbours that the kernel asked for are forgotten.
    forget_at: Option<Instant>,
    /// What could not be done and why, so that it is said once.
    complaints: BTreeMap<String, String>,
    /// SPIs that were installed: none is a second time, or it would count from zero again.
    spent: BTreeSet<SaId>,
    /// Until when SAs stay that have a successor.
    succeeded: BTreeMap<SaId, Instant>,
    usage: Usage,
    heard: BTreeMap<PeerId, (u64, Option<u64>)>,
    started: Instant,
}

impl State {
    pub(crate) fn start(config: &Config, group: u16) -> Result<Self, Error> {
        let route = Requests::open(libc::NETLINK_ROUTE).map_err(Error::Netlink)?;
        let nft = Requests::open(libc::NETLINK_NETFILTER).map_err(needed("nftables", NFTABLES))?;
        let interface = config.interface.as_str();
        let failed = |action, needs| failed(interface, action, needs);
        let reqid = xfrm::reqid(interface);
        let policies = Policies { key: config.key, reqid };
        let xfrm = if config.clear {
            None
        } else {
            let xfrm = Requests::open(libc::NETLINK_XFRM);
            let xfrm = xfrm.map_err(needed("IPsec by netlink (xfrm)", XFRM))?;
            // Before there is a device that could send anything.
            policies.install(&xfrm).map_err(failed("install the IPsec policies", XFRM))?;
            if let Err(error) = probe::large_esp() {
                tracing::info!("ESP goes packet by packet (no esp4_offload): {error}");
            }
            Some(xfrm)
        };
        let link = match &config.device {
            Some(device) => Some(
                nix::net::if_::if_nametoindex(device.as_str())
                    .map_err(|_| Error::NoUnderlay(device.clone()))?,
            ),
            None => None,
        };
        let own = config.source.filter(IpAddr::is_ipv4);
        let gre = Gre { key: config.key, local: own, link, outer: Outer::default() };
        let mtu = mtu(config, config.underlay_mtu);
        let mut device = Device::take(&route, interface, gre, mtu)?;
        let index = device.index;
        let rules = Rules {
            table: format!("nhrpd-{interface}"),
            interface: interface.into(),
            index,
            key: config.key,
            broadcast: rules::broadcast(&config.addresses),
            group,
            secured: !config.clear,
        };
        let ruled = || failed("install its nftables rules", NFTABLES);
        if !rules.present(&nft).map_err(ruled())? {
            rules.install(&nft).map_err(ruled())?;
        }
        device.configure(&route, &config.addresses)?;
        let mut state = Self {
            config: config.clone(),
            route,
            nft,
            xfrm,
            device,
            rules,
            damaged: false,
            policies,
            plan: Plan::new(Context {
                index,
                addresses: config.addresses.clone(),
                own,
                port: config.port,
            }),
            underlay_mtu: config.underlay_mtu,
            actual: Tables::default(),
            inherited: Inherited::default(),
            forget_at: None,
            complaints: BTreeMap::new(),
            spent: BTreeSet::new(),
            succeeded: BTreeMap::new(),
            usage: Usage::default(),
            heard: BTreeMap::new(),
            started: Instant::now(),
        };
        state.actual = state.read().map_err(|error| Error::Interface {
            interface: interface.into(),
            action: "read what a former run left in the kernel".into(),
            reason: error.to_string(),
        })?;
        let until = Instant::now() + config.grace;
        state.inherited = Inherited::new(&state.actual, config.clear, config.port, until);
        state.plan.keep(state.actual.seats(config.port));
        Ok(state)
    }

    pub(crate) fn index(&self) -> u32 {
        self.device.index
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where a peer is.
    pub(crate) fn endpoint(&self, peer: PeerId) -> Option<SocketAddr> {
        Some(self.plan.desired().peers.get(&peer)?.endpoint)
    }

    pub(crate) fn reqid(&self) -> u32 {
        self.policies.reqid
    }

    pub(crate) fn inherited(&mut self) -> &mut Inherited {
        &mut self.inherited
    }

    /// Whether a socket with this address is one of ours.
    pub(crate) fn is_own_port(&self, port: u32) -> bool {
        let xfrm = self.xfrm.as_ref().map(|kernel| kernel.port);
        [Some(self.route.port), Some(self.nft.port), xfrm].contains(&Some(port))
    }

    pub(crate) fn has_neighbour(&self, address: IpAddr) -> bool {
        self.actual.neighbours.contains_key(&address)
    }

    pub(crate) fn has_association(&self, spi: u32) -> bool {
        let to = IpAddr::from([0; 4]);
        let installed = |direction| {
            let id = SaId { direction, spi, to };
            self.actual.associations.range(id.anywhere()).next().is_some()
        };
        installed(Direction::In) || installed(Direction::Out)
    }

    /// Takes note of what others did to our nftables rules; `true`: something is missing.
    pub(crate) fn hear_of_rules(&mut self, kind: u16, payload: &[u8]) -> bool {
        let loss = nft::loss(&self.rules.table, kind, payload);
        self.damaged |= loss == Some(nft::Loss::Rules);
        loss.is_some()
    }

    pub(crate) fn mtu(&self) -> u16 {
        mtu(&self.config, self.underlay_mtu)
    }

    /// Another desired state, which differs from the last one by `changes` at most.
    pub(crate) fn set_desired(&mut self, desired: &Desired, changes: &Changes) {
        self.plan.update(desired, changes);
        for id in changes.peers.iter().filter(|id| !desired.peers.contains_key(id)) {
            self.heard.remove(id);
        }
    }

    pub(crate) fn set_underlay(&mut self, source: Option<IpAddr>, mtu: u16) {
        // Without an address nothing is sent; the next one is likely another.
        let source = source.filter(IpAddr::is_ipv4).or(self.plan.own());
        let (former, former_mtu) = (self.plan.own(), self.mtu());
        self.plan.set_own(source);
        self.underlay_mtu = mtu;
        if source == former && self.mtu() == former_mtu {
            return;
        }
        let mtu = self.mtu();
        if let Err(error) = self.device.follow(&self.route, source, mtu) {
            tracing::warn!("{error}");
        }
        self.converge();
    }

    /// The kernel asks for a neighbour. `true`: there is a way, by the server at least.
    pub(crate) fn miss(&mut self, address: IpAddr) -> bool {
        if self.plan.hop(address).is_none() {
            return false;
        }
        // The kernel may have forgotten one that we believe to be there.
        self.actual.neighbours.remove(&address);
        self.plan.ask(address);
        self.forget_at.get_or_insert(Instant::now() + ASK_AGAIN);
        self.converge();
        true
    }

    /// When [`Self::handle_timeout`] is to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let succeeded = self.succeeded.values().copied().min();
        [self.inherited.deadline(), self.forget_at, succeeded].into_iter().flatten().min()
    }

    /// Gives up what was for a time only.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.forget_at.take_if(|at| *at <= now).is_some() {
            self.plan.forget_asked();
        }
        self.converge();
    }

    /// Something came through the SA: the path that it belongs to, the first time.
    pub(crate) fn confirm(&mut self, id: SaId) -> Option<PeerId> {
        let (peer, ..) = self.plan.path(id)?;
        self.plan.confirm(peer).then_some(peer)
    }

    /// All that is to be.
    fn target(&mut self) -> Tables {
        let mut target = self.plan.whole();
        self.inherited.add_to(&mut target, Instant::now());
        if self.inherited.deadline().is_none() {
            self.plan.keep(BTreeMap::new());
        }
        target
    }

    /// Does what changes have made necessary; gives the NBMA addresses of new paths.
    pub(crate) fn converge(&mut self) -> BTreeSet<IpAddr> {
        // What a former run left stays or goes with the whole.
        if self.inherited.deadline().is_some() {
            return self.reconcile();
        }
        let keys = self.plan.take_marked();
        let target = self.plan.at(&keys);
        self.bring_about(keys, target)
    }

    /// The same for everything, whether it changed or not.
    fn reconcile(&mut self) -> BTreeSet<IpAddr> {
        let mut keys = self.plan.take_marked();
        let target = self.target();
        keys.extend(&self.actual);
        keys.extend(&target);
        self.bring_about(keys, target)
    }

    /// Makes these entries what they are to be; those that could not be are marked again.
    fn bring_about(&mut self, mut keys: Keys, mut target: Tables) -> BTreeSet<IpAddr> {
        target.associations.retain(|id, _| !self.is_lost(id));
        keys.retain_different(&self.actual, &target);
        let mut sas =
            difference(&keys.associations, &self.actual.associations, &target.associations);
        // What comes through an SA is let in before the peer can have heard of the SA.
        self.update_elements(&keys.elements);
        let fresh = self.add_associations(&sas);
        let neighbours = difference(&keys.neighbours, &self.actual.neighbours, &target.neighbours);
        self.update_neighbours(&neighbours);
        self.update_routes(&difference(&keys.routes, &self.actual.routes, &target.routes));
        self.keep_succeeded(&mut sas.remove, &fresh, Instant::now());
        self.remove_associations(&sas.remove);
        keys.retain_different(&self.actual, &target);
        self.plan.mark(keys);
        fresh
    }

    /// Installed once, and gone without our doing.
    fn is_lost(&self, id: &SaId) -> bool {
        let installed = self.actual.associations.range(id.anywhere()).next();
        installed.is_none() && self.spent.range(id.anywhere()).next().is_some()
    }

    /// What is ours in the kernel.
    fn read(&self) -> io::Result<Tables> {
        let mut tables = Tables {
            neighbours: route::neighbours(&self.route, self.device.index)?,
            routes: route::routes(&self.route, self.device.index)?,
            ..Tables::default()
        };
        if let Some(kernel) = &self.xfrm {
            let found = xfrm::read(kernel, self.policies.reqid)?;
            let all = found.into_iter().map(|(id, installed)| (id, installed.association));
            tables.associations = all.collect();
        }
        for set in Set::ALL {
            let found = self.rules.read(&self.nft, set)?;
            tables.elements.extend(found.into_keys().map(|element| (set, element)));
        }
        Ok(tables)
    }

    /// Reads everything again and repairs what is not as it should be; gives the paths whose SAs
    /// are gone: they need new keys.
    pub(crate) fn resync(&mut self) -> Result<BTreeSet<PeerId>, Gone> {
        if self.device.is_gone(&self.route) {
            return Err(Gone);
        }
        let ruled = !self.damaged && self.rules.present(&self.nft).unwrap_or(true);
        self.damaged = false;
        let interface = &self.config.interface;
        if !ruled && let Err(error) = self.rules.install(&self.nft) {
            tracing::warn!("{}", failed(interface, "install its nftables rules", NFTABLES)(error));
        }
        if let Some(kernel) = &self.xfrm
            && let Err(error) = self.policies.install(kernel)
        {
            tracing::error!("{}", failed(interface, "install the IPsec policies", XFRM)(error));
        }
        if let Err(error) = self.device.configure(&self.route, &self.config.addresses) {
            tracing::warn!("{error}");
        }
        match self.read() {
            Ok(tables) => self.actual = tables,
            Err(error) => tracing::warn!("cannot read the kernel's tables: {error}"),
        }
        let lost: Vec<SaId> =
            self.target().associations.into_keys().filter(|id| self.is_lost(id)).collect();
        self.reconcile();
        Ok(lost.into_iter().filter_map(|id| Some(self.plan.path(id)?.0)).collect())
    }

    /// The paths that have sent as much as they may, of which the kernel tells only once.
    pub(crate) fn used_up(&self) -> BTreeSet<PeerId> {
        let Some(kernel) = &self.xfrm else { return BTreeSet::new() };
        let installed = xfrm::read(kernel, self.policies.reqid).unwrap_or_default();
        let used_up = installed.into_iter().filter(|(id, installed)| {
            id.direction == Direction::Out && installed.packets >= self.config.rekey_packets
        });
        used_up.filter_map(|(id, _)| Some(self.plan.path(id)?.0)).collect()
    }

    fn add_associations(&mut self, sas: &Difference<SaId, Association>) -> BTreeSet<IpAddr> {
        let Some(kernel) = &self.xfrm else { return BTreeSet::new() };
        let mut fresh = BTreeSet::new();
        if sas.add.is_empty() && sas.change.is_empty() {
            return fresh;
        }
        // Where an SA is to be installed under another address, its counters go with it.
        let moves =
            |id: &SaId| sas.remove.iter().copied().find(|(old, _)| id.anywhere().contains(old));
        let moving = !sas.change.is_empty() || sas.add.iter().any(|(id, _)| moves(id).is_some());
        let installed = match moving {
            true => xfrm::read(kernel, self.policies.reqid).unwrap_or_default(),
            false => BTreeMap::new(),
        };
        let replay = |id: SaId| installed.get(&id).map(|found| found.replay.clone());
        let changed = sas.change.iter().map(|(id, _, new)| (*id, *new, Some(*id)));
        let added = sas.add.iter().map(|(id, new)| (*id, *new, moves(id).map(|(old, _)| old)));
        for (id, association, former) in changed.chain(added) {
            let Some((_, _, esp)) = self.plan.path(id) else { continue };
            let carried = match former {
                None => Replay::default(),
                Some(former) => match replay(former) {
                    Some(replay) => replay,
                    // Without its counters it would begin at zero again.
                    None => continue,
                },
            };
            if former == Some(id) {
                let _ = kernel.execute(xfrm::remove(id));
                self.actual.associations.remove(&id);
            }
            let tell = match id.direction {
                Direction::In => Tell::FirstPacket,
                Direction::Out => Tell::Packets(self.config.rekey_packets),
            };
            let request = xfrm::add(id, association, esp, self.policies.reqid, carried, tell);
            match kernel.execute(request) {
                Ok(()) => {
                    self.spent.insert(id);
                    self.actual.associations.insert(id, association);
                    if id.direction == Direction::Out {
                        fresh.insert(id.to);
                    }
                }
                Err(error) => {
                    tracing::warn!(
                        "interface {}: cannot install the SA {:08x} with {} ({}): {error} (`nhrpd check` says \
                         which ciphers this kernel has)",
                        self.config.interface,
                        id.spi,
                        id.to,
                        esp.cipher
                    );
                }
            }
        }
        fresh
    }

    /// Leaves those out that are to stay for now, after what was added at `fresh` places. Of two SAs
    /// to one place the kernel takes the one that was added last.
    fn keep_succeeded(
        &mut self,
        gone: &mut Vec<(SaId, Association)>,
        fresh: &BTreeSet<IpAddr>,
        now: Instant,
    ) {
        self.succeeded.retain(|_, until| *until > now);
        gone.retain(|(id, _)| {
            let has_moved = self.actual.associations.range(id.anywhere()).nth(1).is_some();
            if id.direction == Direction::Out && fresh.contains(&id.to) && !has_moved {
                self.succeeded.entry(*id).or_insert(now + OUTLIVES);
            }
            !self.succeeded.contains_key(id)
        });
    }

    fn remove_associations(&mut self, gone: &[(SaId, Association)]) {
        let Some(kernel) = &self.xfrm else { return };
        let results = kernel.all(gone.iter().map(|(id, _)| xfrm::remove(*id)).collect());
        for ((id, _), result) in gone.iter().zip(results) {
            match result {
                Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                    tracing::warn!("cannot remove the SA {:08x} with {}: {error}", id.spi, id.to);
                }
                _ => drop(self.actual.associations.remove(id)),
            }
            if self.plan.path(*id).is_none() {
                self.spent.extract_if(id.anywhere(), |_| true).for_each(drop);
            }
        }
    }

    /// These elements are to be there if they are not, and not if they are.
    fn update_elements(&mut self, keys: &BTreeSet<(Set, Element)>) {
        if keys.is_empty() {
            return;
        }
        let there = &mut self.actual.elements;
        match self.rules.update(&self.nft, there, keys) {
            Ok(()) => {
                for key in keys {
                    if !there.remove(key) {
                        there.insert(key.clone());
                    }
                }
                return;
            }
            Err(error) => tracing::debug!("nftables: {error}: making the table anew"),
        }
        let all = self.target().elements;
        let made = self.rules.install(&self.nft);
        let result = made.and_then(|()| self.rules.update(&self.nft, &BTreeSet::new(), &all));
        self.actual.elements = match result {
            Ok(()) => all,
            Err(error) => {
                let interface = &self.config.interface;
                tracing::warn!("{}", failed(interface, "fill its nftables sets", NFTABLES)(error));
                BTreeSet::new()
            }
        };
    }

    fn update_neighbours(&mut self, difference: &Difference<IpAddr, IpAddr>) {
        let changed = difference.change.iter().map(|&(address, _, nbma)| (address, nbma));
        let set: Vec<_> = difference.add.iter().copied().chain(changed).collect();
        let request = |&(address, nbma): &_| route::set_neighbour(self.device.index, address, nbma);
        let results = self.route.all(set.iter().map(request).collect());
        for (&(address, nbma), result) in set.iter().zip(results) {
            match result {
                Ok(()) => drop(self.actual.neighbours.insert(address, nbma)),
                Err(error) => tracing::warn!("cannot set neighbour {address}: {error}"),
            }
        }
        let request = |&(address, _): &_| route::remove_neighbour(self.device.index, address);
        let results = self.route.all(difference.remove.iter().map(request).collect());
        for ((address, _), result) in difference.remove.iter().zip(results) {
            match result {
                Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
                    tracing::warn!("cannot remove neighbour {address}: {error}");
                }
                _ => drop(self.actual.neighbours.remove(address)),
            }
        }
    }

    fn update_routes(&mut self, difference: &Difference<IpNet, Option<IpAddr>>) {
        let add = difference.add.iter().map(|&(prefix, via)| (prefix, via, false));
        let change = difference.change.iter().map(|&(prefix, _, via)| (prefix, via, true));
        let set: Vec<_> = add.chain(change).collect();
        let request = |&(prefix, via, there): &_| match there {
            false => route::add_route(self.device.index, prefix, via),
            true => route::change_route(self.device.index, prefix, via),
        };
        let results = self.route.all(set.iter().map(request).collect());
        for (&(prefix, via, _), result) in set.iter().zip(results) {
            let what = format!("route {prefix}");
            match result {
                Ok(()) => {
                    self.complaints.remove(&what);
                    self.actual.routes.insert(prefix, via);
                }
                Err(error) => {
                    let reason = match error.raw_os_error() {
                        Some(libc::EEXIST) => {
                            "another route for it exists already (ip route show)".into()
                        }
                        _ => error.to_string(),
                    };
                    self.complain(what, reason);
                }
            }
        }
        let request = |&(prefix, via): &_| route::remove_route(self.device.index, prefix, via);
        let results = self.route.all(difference.remove.iter().map(request).collect());
        for ((prefix, _), result) in difference.remove.iter().zip(results) {
            match result {
                Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                    self.complain(format!("removal of route {prefix}"), error.to_string());
                }
                _ => drop(self.actual.routes.remove(prefix)),
            }
        }
    }

    fn complain(&mut self, what: String, reason: String) {
        if self.complaints.get(&what) != Some(&reason) {
            tracing::warn!("{what}: {reason}");
            self.complaints.insert(what, reason);
        }
    }

    /// Removes all that is ours, the policies when nothing can be sent any more.
    pub(crate) fn remove_all(&mut self) {
        self.inherited = Inherited::default();
        self.succeeded.clear();
        let changes = Changes::between(self.plan.desired(), &Desired::default());
        self.set_desired(&Desired::default(), &changes);
        let ours = self.device.is_ours();
        if ours {
            self.device.give_up(&self.route);
            self.actual.neighbours.clear();
            self.actual.routes.clear();
        }
        self.reconcile();
        if !ours {
            self.device.give_up(&self.route);
        }
        if let Err(error) = self.rules.remove(&self.nft) {
            let table = &self.rules.table;
            tracing::warn!("cannot remove nftables rules: {error}: nft delete table inet {table}");
        }
        if let Some(kernel) = &self.xfrm {
            self.policies.remove(kernel);
        }
    }

    /// Packets to a prefix, but for those to longer ones in it. To a neighbour: all that he was sent,
    /// whose next hop he may be by a route of others.
    pub(crate) fn packets(&mut self, prefix: IpNet) -> u64 {
        let all =
            ranges::among(&self.plan.desired().forwarding, prefix.network(), prefix.broadcast());
        let own = all.filter(|range| range.prefix == prefix);
        let elements: Vec<_> = match self.plan.known_neighbour(prefix) {
            Some(place) => vec![(Set::Sent, Element { key: route::octets(place), end: None })],
            None => own.map(|range| self.plan.counting(range)).map(|[to, _]| to).collect(),
        };
        let count = |element: &(Set, Element)| {
            self.usage.refresh(&self.nft, &self.rules, element.0);
            self.usage.of(element).packets
        };
        elements.iter().map(count).sum()
    }

    pub(crate) fn counters(&mut self) -> BTreeMap<PeerId, PeerCounters> {
        let from = [Set::From4, Set::From6, Set::HostFrom4, Set::HostFrom6];
        for set in [Set::Received, Set::Sent].into_iter().chain(from) {
            self.usage.refresh(&self.nft, &self.rules, set);
        }
        let header = if self.config.key.is_some() { GRE_KEYED } else { GRE };
        let mut all = BTreeMap::new();
        let Desired { peers, forwarding, .. } = self.plan.desired();
        for &id in peers.keys() {
            // Paths at one place share its counters; the newest shows them.
            let place = self.plan.place(id).filter(|&place| self.plan.newest(place) == Some(id));
            let Some(place) = place else {
                all.insert(id, PeerCounters::default());
                continue;
            };
            let element = Element { key: route::octets(place), end: None };
            let [rx, tx] =
                [Set::Received, Set::Sent].map(|set| self.usage.of(&(set, element.clone())));
            let heard = self.heard.entry(id).or_default();
            if rx.packets > heard.0 {
                *heard = (rx.packets, Some(seconds(self.started)));
            }
            let counters = PeerCounters {
                tx_packets: tx.packets,
                tx_bytes: tx.bytes.saturating_sub(header * tx.packets),
                rx_packets: rx.packets,
                rx_bytes: rx.bytes.saturating_sub(header * rx.packets),
                last_rx: heard.1,
                ..PeerCounters::default()
            };
            all.insert(id, counters);
        }
        for range in ranges::all(forwarding) {
            let [_, from] = self.plan.counting(range);
            let count = self.usage.of(&from);
            if let Some(hop) = forwarding.get(&range.prefix)
                && let Some(counters) = all.get_mut(&hop.peer)
            {
                counters.forwarded_packets += count.packets;
            }
        }
        all
    }
}

fn failed(interface: &str, action: &str, needs: Needs) -> impl FnOnce(io::Error) -> Error {
    let (interface, action) = (interface.into(), action.into());
    move |error| Error::Interface { interface, action, reason: lacking(&error, &needs) }
}

fn mtu(config: &Config, underlay: u16) -> u16 {
    let overhead = if config.clear { Overhead::Clear } else { Overhead::Esp };
    let any = IpAddr::from([0; 4]);
    config.mtu.unwrap_or_else(|| tunnel_mtu(underlay, any, config.key.is_some(), overhead))
}
