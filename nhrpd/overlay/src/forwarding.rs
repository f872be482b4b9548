//! From bindings and sessions to the desired state of the data plane, kept in step with them: what
//! a change costs does not depend on how many there are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use nhrp::engine::{Authorization, Binding, BindingKind, Engine, Nbma};
use nhrp::index::Index;

use crate::config::{Config, Member};
use crate::deadlines::Deadlines;
use crate::desired::{Changes, Desired, Hop, Peer, PeerId, Transport};
use crate::notice::Notice;
use crate::session::{Proof, Sessions, Touched, allowance};

/// What NHRP knows, by each name under which a session may serve it.
pub(crate) trait Bindings {
    fn all(&self) -> Vec<IpNet>;
    fn get(&self, prefix: IpNet) -> Option<Binding>;
    fn at(&self, nbma: Nbma) -> Vec<IpNet>;
    fn of(&self, peer: IpAddr) -> Vec<IpNet>;
}

impl Bindings for Engine {
    fn all(&self) -> Vec<IpNet> {
        self.bindings().map(|binding| binding.prefix).collect()
    }

    fn get(&self, prefix: IpNet) -> Option<Binding> {
        self.binding(prefix)
    }

    fn at(&self, nbma: Nbma) -> Vec<IpNet> {
        self.bindings_at(nbma).map(|binding| binding.prefix).collect()
    }

    fn of(&self, peer: IpAddr) -> Vec<IpNet> {
        self.bindings_of(peer).map(|binding| binding.prefix).collect()
    }
}

/// What the desired state follows from.
pub(crate) struct Known<'a> {
    pub config: &'a Config,
    pub servers: &'a BTreeMap<IpAddr, Nbma>,
    pub bindings: &'a dyn Bindings,
    pub sessions: &'a Sessions,
    /// Sessions that are gone, on whose paths something may still arrive, and until when.
    pub lingering: &'a Deadlines<PeerId>,
}

/// The desired state, and what it takes to change a part of it.
#[derive(Debug)]
pub(crate) struct Forwarding {
    desired: Desired,
    outcomes: Index<IpNet, Outcome>,
    uses: BTreeMap<PeerId, Uses>,
    /// Keys of sessions that have not been looked at yet.
    keyed: BTreeMap<PeerId, Transport>,
    /// Prefixes in [`Desired::forwarding`] that go to a server for want of a binding.
    defaulted: Vec<IpNet>,
    /// Prefixes with a direct path, and where it leads.
    direct: BTreeMap<IpNet, SocketAddr>,
    /// Prefixes whose bindings changed.
    touched: BTreeSet<IpNet>,
    /// Everything may have changed.
    all: bool,
}

/// What came of a binding for which there is a session.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    peer: PeerId,
    kind: BindingKind,
    refused: bool,
    multicast: bool,
}

/// How many bindings need a session.
#[derive(Debug, Default, PartialEq, Eq)]
struct Uses {
    bindings: u32,
    /// Those of them that make it a receiver of multicast.
    multicast: u32,
}

/// What an update found on its way.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Whether some binding or server uses these sessions.
    pub used: Vec<(PeerId, bool)>,
    /// Bindings that a session may not carry.
    pub refused: Vec<(PeerId, String)>,
    /// For the operator.
    pub notices: Vec<Notice>,
    /// What of the desired state was looked at.
    pub changes: Changes,
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
            let allowed = sessions.get(id).map(|s| allowance(&s.authorization, s.proof));
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
    proof: Proof,
) -> Option<String> {
    let mut here = servers.iter().filter(|&(_, &at)| at == nbma).map(|(&server, _)| server);
    let server = here.find(|&server| !authorization.permits(server.into()))?;
    let allowance = allowance(authorization, proof);
    Some(format!("stands at the address of next-hop server {server}, but {allowance}"))
}

impl Forwarding {
    /// `seed` as for [`Index::new`].
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            desired: Desired::default(),
            outcomes: Index::new(seed),
            uses: BTreeMap::new(),
            keyed: BTreeMap::new(),
            defaulted: Vec::new(),
            direct: BTreeMap::new(),
            touched: BTreeSet::new(),
            all: true,
        }
    }

    /// The desired state as of the last [`Self::update`].
    pub(crate) fn desired(&self) -> &Desired {
        &self.desired
    }

    /// What protects a new session.
    pub(crate) fn key(&mut self, id: PeerId, transport: Transport) {
        self.keyed.insert(id, transport);
    }

    pub(crate) fn transport(&self, id: PeerId) -> Option<&Transport> {
        let planned = self.desired.peers.get(&id).map(|peer| &peer.transport);
        planned.or_else(|| self.keyed.get(&id))
    }

    pub(crate) fn transport_mut(&mut self, id: PeerId) -> Option<&mut Transport> {
        let planned = self.desired.peers.get_mut(&id).map(|peer| &mut peer.transport);
        planned.or_else(|| self.keyed.get_mut(&id))
    }

    /// The binding of a prefix changed.
    pub(crate) fn touch(&mut self, prefix: IpNet) {
        self.touched.insert(prefix);
    }

    /// The configuration or the place of a server changed.
    pub(crate) fn touch_all(&mut self) {
        self.all = true;
    }

    /// Whether a server takes what has no better way.
    pub(crate) fn has_default(&self) -> bool {
        !self.defaulted.is_empty()
    }

    pub(crate) fn is_touched(&self) -> bool {
        self.all || !self.touched.is_empty()
    }

    /// Brings the desired state in step with what changed.
    pub(crate) fn update(&mut self, known: &Known<'_>, sessions: Touched) -> Found {
        let Touched { mut ids, places, hosts } = sessions;
        let mut prefixes = std::mem::take(&mut self.touched);
        if std::mem::take(&mut self.all) {
            prefixes.extend(known.bindings.all());
            prefixes.extend(self.outcomes.sorted_keys());
            ids.extend(known.sessions.iter().map(|(id, _)| id));
            ids.extend(self.desired.peers.keys());
            prefixes.append(&mut self.desired.routes);
            prefixes.extend(&known.config.routes);
        }
        for place in places {
            prefixes.extend(known.bindings.at(place));
            ids.extend(known.sessions.at(place).map(|(id, _)| id));
        }
        for host in hosts {
            prefixes.extend(known.bindings.of(host));
        }

        let mut found = Found::default();
        let mut filled = Vec::new();
        for prefix in self.defaulted.drain(..) {
            self.desired.forwarding.remove(&prefix);
            filled.push(prefix);
        }
        for &prefix in &prefixes {
            ids.extend(self.release(prefix));
            if let Some(binding) = known.bindings.get(prefix) {
                ids.extend(self.lay(known, &binding, &mut found));
            }
        }
        for &id in &ids {
            self.update_session(known, id, &mut found);
        }
        self.fill_in(known.config);
        self.tell_directness(&prefixes, &mut found);
        prefixes.extend(filled);
        prefixes.extend(&self.defaulted);
        found.changes = Changes { peers: ids, prefixes };
        found
    }

    /// Takes back what came of the binding of a prefix; gives the session that it used.
    fn release(&mut self, prefix: IpNet) -> Option<PeerId> {
        self.desired.routes.remove(&prefix);
        let Outcome { peer, refused, multicast, .. } = self.outcomes.remove(&prefix)?;
        if !refused {
            self.desired.forwarding.remove(&prefix);
        }
        if let Some(uses) = self.uses.get_mut(&peer) {
            uses.bindings -= 1;
            uses.multicast -= u32::from(multicast);
            if uses.bindings == 0 {
                self.uses.remove(&peer);
            }
        }
        Some(peer)
    }

    /// Does what a binding asks for; gives the session that it uses.
    fn lay(&mut self, known: &Known<'_>, binding: &Binding, found: &mut Found) -> Option<PeerId> {
        let Known { config, sessions, .. } = *known;
        let path = path(sessions, binding);
        // A route without a session still draws its packets here: encrypted or silent.
        let kept = matches!(binding.kind, BindingKind::Registered | BindingKind::Static);
        let inside = config.nhrp.address.trunc().contains(&binding.prefix);
        if !inside && (kept || matches!(path, Path::Session(_))) {
            self.desired.routes.insert(binding.prefix);
        }
        let (peer, refused) = match path {
            Path::Session(id) => (id, false),
            Path::Refused(id, reason) => {
                found.refused.push((id, reason));
                (id, true)
            }
            Path::None => return None,
        };
        let receives = |member| !refused && config.multicast.contains(&member);
        let multicast = match binding.kind {
            BindingKind::Registered => receives(Member::Dynamic),
            BindingKind::Nhs => receives(Member::Servers),
            BindingKind::Static | BindingKind::Shortcut => false,
        };
        if !refused {
            let hop = Hop { peer, via: binding.next_hop };
            self.desired.forwarding.insert(binding.prefix, hop);
        }
        let uses = self.uses.entry(peer).or_default();
        uses.bindings += 1;
        uses.multicast += u32::from(multicast);
        let outcome = Outcome { peer, kind: binding.kind, refused, multicast };
        self.outcomes.insert(binding.prefix, outcome);
        Some(peer)
    }

    fn update_session(&mut self, known: &Known<'_>, id: PeerId, found: &mut Found) {
        let Known { config, servers, sessions, .. } = *known;
        let desired = &mut self.desired;
        let keyed = self.keyed.remove(&id);
        let Some(session) = sessions.get(id) else {
            desired.multicast.remove(&id);
            match desired.peers.get_mut(&id).filter(|_| known.lingering.at(id).is_some()) {
                Some(peer) => peer.receive_only = true,
                None => {
                    desired.peers.remove(&id);
                    desired.sources.remove(&id);
                }
            }
            return;
        };
        match (keyed, desired.peers.get_mut(&id)) {
            (Some(transport), _) => {
                desired.peers.insert(id, Peer::new(session.endpoint, transport));
            }
            (None, Some(peer)) => peer.endpoint = session.endpoint,
            (None, None) => {}
        }
        let nbma = sessions.nbma(session.endpoint);
        let at_server = servers.values().any(|&server| server == nbma);
        // A next-hop server forwards what others sent: any source may come from it.
        let server = at_server
            && impersonates(servers, nbma, &session.authorization, session.proof).is_none();
        match &session.authorization {
            Authorization::Within(sources) if !server => {
                desired.sources.insert(id, sources.clone());
            }
            _ => drop(desired.sources.remove(&id)),
        }
        let uses = self.uses.get(&id);
        let named = nbma.port == 0 && config.multicast.contains(&Member::Nbma(nbma.address));
        if uses.is_some_and(|uses| uses.multicast > 0)
            || (named && sessions.up_at(nbma) == Some(id))
        {
            desired.multicast.insert(id);
        } else {
            desired.multicast.remove(&id);
        }
        found.used.push((id, at_server || uses.is_some()));
    }

    /// The tunnel and the routes of the configuration, where nothing better is known: through the
    /// server that stands first in the configuration.
    fn fill_in(&mut self, config: &Config) {
        self.desired.routes.extend(config.routes.iter().copied());
        let mut servers = config.nhrp.servers.iter().map(|server| IpNet::from(server.address));
        let default = servers.find_map(|server| {
            let outcome = self.outcomes.get(&server)?;
            let usable = outcome.kind == BindingKind::Nhs && !outcome.refused;
            self.desired.forwarding.get(&server).filter(|_| usable).copied()
        });
        let Some(hop) = default else { return };
        for prefix in config.routes.iter().copied().chain([config.nhrp.address.trunc()]) {
            self.desired.forwarding.entry(prefix).or_insert_with(|| {
                self.defaulted.push(prefix);
                hop
            });
        }
    }

    /// Says which shortcuts have a direct path now, and which have it no more.
    fn tell_directness(&mut self, prefixes: &BTreeSet<IpNet>, found: &mut Found) {
        let mut news = Vec::new();
        for &prefix in prefixes {
            let shortcut = self
                .outcomes
                .get(&prefix)
                .filter(|o| o.kind == BindingKind::Shortcut && !o.refused);
            let peer = shortcut.and_then(|outcome| self.desired.peers.get(&outcome.peer));
            match peer.map(|peer| peer.endpoint) {
                Some(endpoint) if self.direct.insert(prefix, endpoint) != Some(endpoint) => {
                    news.push(Notice::Direct { prefix, endpoint });
                }
                None if self.direct.remove(&prefix).is_some() => {
                    found.notices.push(Notice::Indirect { prefix });
                }
                _ => {}
            }
        }
        found.notices.extend(news);
    }
}

#[cfg(test)]
mod tests;
