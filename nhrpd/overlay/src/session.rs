//! The sessions of one node: one per key exchange, found by every name that others use for it.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use ike::nat::PLAIN_PORT;
use ike::{SaId, TunnelId};
use ipnet::IpNet;
use nhrp::engine::{Authorization, Nbma};
use nhrp::index::Index;

use crate::desired::PeerId;

/// One keyed path to a peer.
#[derive(Debug)]
pub(crate) struct Session {
    /// The IKE SA; `None` with `security: none`, and when it is gone but its successor is not up.
    pub sa: Option<SaId>,
    /// Its tunnel in that SA.
    pub tunnel: Option<TunnelId>,
    /// Who it proved to be.
    pub identity: Option<String>,
    /// By what.
    pub proof: Proof,
    /// What that identity may claim.
    pub authorization: Authorization,
    pub endpoint: SocketAddr,
    /// The data plane carried a packet through it.
    pub up: bool,
    pub since: Instant,
    /// When it is closed unless somebody uses it before.
    pub idle_deadline: Option<Instant>,
}

/// How somebody proved who he is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// By a certificate, or not at all (`security: none`).
    Certificate,
    SharedKey,
}

impl Proof {
    /// An empty chain is that of somebody with a pre-shared key.
    pub(crate) fn of(chain: &[Vec<u8>]) -> Self {
        if chain.is_empty() { Self::SharedKey } else { Self::Certificate }
    }
}

/// All sessions, by id, SA, NBMA address and the tunnel addresses that they may claim.
#[derive(Debug)]
pub(crate) struct Sessions {
    by_id: BTreeMap<PeerId, Box<Session>>,
    by_sa: BTreeSet<(SaId, PeerId)>,
    by_nbma: ByName<Nbma>,
    by_host: ByName<IpAddr>,
    by_identity: BTreeSet<(String, PeerId)>,
    idle: BTreeSet<(Instant, PeerId)>,
    last_id: u32,
    /// UDP port that means "the well-known one".
    port: u16,
    touched: Touched,
}

/// Sessions by a name that mostly one of them has.
#[derive(Debug)]
struct ByName<N> {
    newest: Index<N, PeerId>,
    /// Those that are not the newest ones of their names.
    others: BTreeSet<(N, PeerId)>,
}

impl<N: Copy + Ord + Hash> ByName<N> {
    fn new(seed: u64) -> Self {
        Self { newest: Index::new(seed), others: BTreeSet::new() }
    }

    fn insert(&mut self, name: N, id: PeerId) {
        match self.newest.get_mut(&name) {
            Some(newest) => {
                let older = id.min(*newest);
                *newest = id.max(*newest);
                if older != *newest {
                    self.others.insert((name, older));
                }
            }
            None => drop(self.newest.insert(name, id)),
        }
    }

    fn remove(&mut self, name: N, id: PeerId) {
        if self.newest.get(&name) != Some(&id) {
            self.others.remove(&(name, id));
            return;
        }
        let next = self.older(name).next();
        match next {
            Some(next) => {
                self.others.remove(&(name, next));
                self.newest.insert(name, next);
            }
            None => drop(self.newest.remove(&name)),
        }
    }

    fn older(&self, name: N) -> impl Iterator<Item = PeerId> {
        let range = (name, PeerId(0))..=(name, PeerId(u32::MAX));
        let some = (!self.others.is_empty()).then(|| self.others.range(range));
        some.into_iter().flatten().rev().map(|&(_, id)| id)
    }

    /// Newest first.
    fn of(&self, name: N) -> impl Iterator<Item = PeerId> {
        let newest = self.newest.get(&name).copied();
        newest.into_iter().chain(newest.into_iter().flat_map(move |_| self.older(name)))
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.newest.is_empty() && self.others.is_empty()
    }
}

/// The sessions whose place in forwarding may be another one since [`Sessions::take_touched`], and
/// all that led or leads to them.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    pub ids: BTreeSet<PeerId>,
    pub places: BTreeSet<Nbma>,
    pub hosts: BTreeSet<IpAddr>,
}

impl Sessions {
    /// `seed` as for [`Index::new`].
    pub(crate) fn new(port: u16, seed: u64) -> Self {
        Self {
            by_id: BTreeMap::new(),
            by_sa: BTreeSet::new(),
            by_nbma: ByName::new(seed),
            by_host: ByName::new(seed),
            by_identity: BTreeSet::new(),
            idle: BTreeSet::new(),
            last_id: 0,
            port,
            touched: Touched::default(),
        }
    }

    /// The NBMA address of an endpoint: the well-known ports are not a part of it.
    pub(crate) fn nbma(&self, endpoint: SocketAddr) -> Nbma {
        let well_known = [self.port, PLAIN_PORT].contains(&endpoint.port());
        let port = if well_known { 0 } else { endpoint.port() };
        Nbma { address: endpoint.ip(), port }
    }

    /// The endpoint behind an NBMA address.
    pub(crate) fn endpoint(&self, nbma: Nbma) -> SocketAddr {
        SocketAddr::new(nbma.address, if nbma.port == 0 { self.port } else { nbma.port })
    }

    pub(crate) fn insert(&mut self, session: Session) -> PeerId {
        self.last_id += 1;
        let id = PeerId(self.last_id);
        if let Some(sa) = session.sa {
            self.by_sa.insert((sa, id));
        }
        self.by_nbma.insert(self.nbma(session.endpoint), id);
        for host in hosts(&session.authorization) {
            self.by_host.insert(host, id);
        }
        if let Some(identity) = &session.identity {
            self.by_identity.insert((identity.clone(), id));
        }
        if let Some(deadline) = session.idle_deadline {
            self.idle.insert((deadline, id));
        }
        self.by_id.insert(id, Box::new(session));
        self.touch(id);
        id
    }

    pub(crate) fn remove(&mut self, id: PeerId) -> Option<Session> {
        self.touch(id);
        let session = self.by_id.remove(&id)?;
        if let Some(sa) = session.sa {
            self.by_sa.remove(&(sa, id));
        }
        self.by_nbma.remove(self.nbma(session.endpoint), id);
        for host in hosts(&session.authorization) {
            self.by_host.remove(host, id);
        }
        if let Some(identity) = &session.identity {
            self.by_identity.remove(&(identity.clone(), id));
        }
        if let Some(deadline) = session.idle_deadline {
            self.idle.remove(&(deadline, id));
        }
        Some(*session)
    }

    pub(crate) fn get(&self, id: PeerId) -> Option<&Session> {
        self.by_id.get(&id).map(AsRef::as_ref)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (PeerId, &Session)> {
        self.by_id.iter().map(|(&id, session)| (id, session.as_ref()))
    }

    /// The sessions that an IKE SA keyed, oldest first.
    pub(crate) fn by_sa(&self, sa: SaId) -> Vec<PeerId> {
        let all = (sa, PeerId(0))..=(sa, PeerId(u32::MAX));
        self.by_sa.range(all).map(|&(_, id)| id).collect()
    }

    /// The session of one tunnel of an IKE SA.
    pub(crate) fn by_tunnel(&self, sa: SaId, tunnel: TunnelId) -> Option<PeerId> {
        let fits = |id: &PeerId| self.get(*id).is_some_and(|s| s.tunnel == Some(tunnel));
        self.by_sa(sa).into_iter().find(fits)
    }

    /// An IKE SA goes on under another handle.
    pub(crate) fn succeed(&mut self, sa: SaId, successor: SaId) {
        for id in self.by_sa(sa) {
            if let Some(session) = self.by_id.get_mut(&id) {
                session.sa = Some(successor);
                self.by_sa.remove(&(sa, id));
                self.by_sa.insert((successor, id));
            }
        }
    }

    /// Every session at this NBMA address, newest first.
    pub(crate) fn at(&self, nbma: Nbma) -> impl Iterator<Item = (PeerId, &Session)> {
        self.by_nbma.of(nbma).filter_map(|id| Some((id, self.get(id)?)))
    }

    /// The session that carries traffic to this NBMA address: the newest one that is up.
    pub(crate) fn up_at(&self, nbma: Nbma) -> Option<PeerId> {
        self.at(nbma).find(|(_, session)| session.up).map(|(id, _)| id)
    }

    /// The newest session that is up and whose identity owns this tunnel address: a peer whose
    /// port was translated is not found by the address that it claims.
    pub(crate) fn up_of(&self, host: IpAddr) -> Option<PeerId> {
        self.by_host.of(host).find(|id| self.by_id.get(id).is_some_and(|session| session.up))
    }

    /// Other sessions with the same proven identity that own the same tunnel addresses.
    pub(crate) fn twins(&self, id: PeerId) -> Vec<PeerId> {
        let Some(session) = self.by_id.get(&id).filter(|session| session.identity.is_some()) else {
            return Vec::new();
        };
        let same = |other: PeerId| {
            self.get(other).is_some_and(|other| other.authorization == session.authorization)
        };
        let namesakes = session.identity.iter().flat_map(|identity| self.named(identity));
        namesakes.filter(|&other| other != id && same(other)).collect()
    }

    /// The sessions whose peers have proven this identity, oldest first.
    pub(crate) fn named(&self, identity: &str) -> impl Iterator<Item = PeerId> {
        let of = |id| (identity.to_owned(), PeerId(id));
        self.by_identity.range(of(0)..=of(u32::MAX)).map(|&(_, id)| id)
    }

    /// Says that forwarding has to look at a session again.
    pub(crate) fn touch(&mut self, id: PeerId) {
        self.touched.ids.insert(id);
        if let Some(session) = self.by_id.get(&id) {
            self.touched.places.insert(self.nbma(session.endpoint));
            self.touched.hosts.extend(hosts(&session.authorization));
        }
    }

    pub(crate) fn is_touched(&self) -> bool {
        !self.touched.ids.is_empty()
    }

    pub(crate) fn take_touched(&mut self) -> Touched {
        std::mem::take(&mut self.touched)
    }

    pub(crate) fn set_up(&mut self, id: PeerId, now: Instant) -> bool {
        let Some(session) = self.by_id.get_mut(&id) else { return false };
        let news = !session.up;
        if news {
            session.up = true;
            session.since = now;
            self.touch(id);
        }
        news
    }

    /// The IKE SA of a session is gone; the session stays until its successor is up.
    pub(crate) fn supersede(&mut self, id: PeerId) {
        if let Some(sa) = self.by_id.get_mut(&id).and_then(|session| session.sa.take()) {
            self.by_sa.remove(&(sa, id));
        }
    }

    /// Moves a session; gives its former endpoint where that differs.
    pub(crate) fn relocate(&mut self, id: PeerId, endpoint: SocketAddr) -> Option<SocketAddr> {
        let former = self.get(id)?.endpoint;
        if former == endpoint {
            return None;
        }
        self.touch(id);
        self.by_id.get_mut(&id)?.endpoint = endpoint;
        self.touch(id);
        self.by_nbma.remove(self.nbma(former), id);
        self.by_nbma.insert(self.nbma(endpoint), id);
        Some(former)
    }

    /// What its identity may claim is something else now.
    pub(crate) fn set_authorization(&mut self, id: PeerId, authorization: Authorization) {
        self.touch(id);
        let Some(session) = self.by_id.get_mut(&id) else { return };
        let former = std::mem::replace(&mut session.authorization, authorization);
        for host in hosts(&former) {
            self.by_host.remove(host, id);
        }
        for host in hosts(&session.authorization) {
            self.by_host.insert(host, id);
        }
        self.touch(id);
    }

    pub(crate) fn set_idle_deadline(&mut self, id: PeerId, deadline: Option<Instant>) {
        let Some(session) = self.by_id.get_mut(&id) else { return };
        if let Some(former) = std::mem::replace(&mut session.idle_deadline, deadline) {
            self.idle.remove(&(former, id));
        }
        if let Some(deadline) = deadline {
            self.idle.insert((deadline, id));
        }
    }

    pub(crate) fn next_idle(&self) -> Option<(Instant, PeerId)> {
        self.idle.first().copied()
    }
}

/// The single addresses among what an identity may claim.
pub(crate) fn hosts(authorization: &Authorization) -> impl Iterator<Item = IpAddr> + '_ {
    let prefixes = match authorization {
        Authorization::Any => None,
        Authorization::Within(prefixes) => Some(prefixes),
    };
    prefixes
        .into_iter()
        .flat_map(|prefixes| prefixes.iter())
        .filter(|p| p.prefix_len() == p.max_prefix_len())
        .map(IpNet::addr)
}

/// What an identity may claim, in words.
pub(crate) fn allowance(authorization: &Authorization, proof: Proof) -> String {
    let allowed: Vec<String> = match authorization {
        Authorization::Any => return "it may claim anything".to_owned(),
        Authorization::Within(allowed) => allowed.iter().map(ToString::to_string).collect(),
    };
    match (proof, &allowed.join(", ")[..]) {
        (Proof::Certificate, "") => {
            "its certificate allows no tunnel address (subjectAltName iPAddress) and no prefix"
                .to_owned()
        }
        (Proof::Certificate, allowed) => format!("its certificate allows only {allowed}"),
        (Proof::SharedKey, "") => {
            "it has a pre-shared key, and `accept` names nothing that it may claim".to_owned()
        }
        (Proof::SharedKey, allowed) => {
            format!("it has a pre-shared key, and `accept` allows it only {allowed}")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PORT: u16 = 4500;

    fn at(last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, last], port))
    }

    fn host(last: u8) -> IpAddr {
        IpAddr::from([172, 16, 0, last])
    }

    /// The session with spoke `n` at this endpoint.
    fn session(n: u8, endpoint: SocketAddr) -> Session {
        Session {
            sa: Some(SaId(n.into())),
            tunnel: Some(TunnelId(n.into())),
            identity: Some(format!("CN=spoke{n}")),
            proof: Proof::Certificate,
            authorization: Authorization::Within([host(n).into()].into()),
            endpoint,
            up: false,
            since: Instant::now(),
            idle_deadline: None,
        }
    }

    #[test]
    fn the_well_known_port_is_no_part_of_an_nbma_address() {
        let sessions = Sessions::new(PORT, 0);
        for (port, nbma_port) in [(PORT, 0), (20_001, 20_001), (500, 0)] {
            let nbma = sessions.nbma(at(1, port));
            assert_eq!(nbma, Nbma { address: at(1, 0).ip(), port: nbma_port });
            let known = if nbma_port == 0 { PORT } else { port };
            assert_eq!(sessions.endpoint(nbma), at(1, known));
        }
    }

    #[test]
    fn traffic_takes_the_newest_session_that_is_up() {
        let mut sessions = Sessions::new(PORT, 0);
        let nbma = sessions.nbma(at(1, PORT));
        let old = sessions.insert(session(2, at(1, PORT)));
        let new = sessions.insert(session(2, at(1, PORT)));
        assert_eq!((sessions.up_at(nbma), sessions.up_of(host(2))), (None, None));
        assert!(sessions.set_up(old, Instant::now()));
        assert!(!sessions.set_up(old, Instant::now()), "that is no news");
        assert_eq!((sessions.up_at(nbma), sessions.up_of(host(2))), (Some(old), Some(old)));
        sessions.set_up(new, Instant::now());
        assert_eq!((sessions.up_at(nbma), sessions.up_of(host(2))), (Some(new), Some(new)));
    }

    #[test]
    fn twins_have_proven_the_same_identity() {
        let mut sessions = Sessions::new(PORT, 0);
        let one = sessions.insert(session(2, at(1, PORT)));
        let two = sessions.insert(session(2, at(9, 20_001)));
        let other = sessions.insert(session(3, at(1, PORT)));
        let nobody = || Session { identity: None, ..session(2, at(1, PORT)) };
        let [nameless, also] = [sessions.insert(nobody()), sessions.insert(nobody())];
        assert_eq!(sessions.twins(one), [two]);
        for alone in [other, nameless, also] {
            assert_eq!(sessions.twins(alone), []);
        }
    }

    #[test]
    fn a_session_that_moves_is_found_where_it_is_now() {
        let mut sessions = Sessions::new(PORT, 0);
        let id = sessions.insert(session(2, at(1, PORT)));
        sessions.set_up(id, Instant::now());
        assert_eq!(sessions.relocate(id, at(1, PORT)), None);
        assert_eq!(sessions.relocate(id, at(9, 7)), Some(at(1, PORT)));
        assert_eq!(sessions.up_at(sessions.nbma(at(1, PORT))), None);
        assert_eq!(sessions.up_at(sessions.nbma(at(9, 7))), Some(id));
    }

    #[test]
    fn a_session_that_goes_leaves_nothing_behind() {
        let mut sessions = Sessions::new(PORT, 0);
        let deadline = Some(Instant::now());
        let id = sessions.insert(Session { idle_deadline: deadline, ..session(2, at(1, PORT)) });
        sessions.relocate(id, at(9, 7));
        sessions.set_idle_deadline(id, Some(Instant::now() + Duration::from_secs(1)));
        assert!(sessions.remove(id).is_some() && sessions.remove(id).is_none());
        let Sessions { by_id, by_sa, by_nbma, by_host, by_identity, idle, .. } = &sessions;
        assert!(by_id.is_empty() && by_sa.is_empty() && by_nbma.is_empty());
        assert!(by_host.is_empty() && by_identity.is_empty() && idle.is_empty());
    }

    #[test]
    fn the_next_idle_session_is_the_one_whose_time_is_first_over() {
        let mut sessions = Sessions::new(PORT, 0);
        let ids = [2, 3].map(|n| sessions.insert(session(n, at(n, PORT))));
        let start = Instant::now();
        let second = |n| start + Duration::from_secs(n);
        sessions.set_idle_deadline(ids[0], Some(second(1)));
        sessions.set_idle_deadline(ids[1], Some(second(2)));
        sessions.set_idle_deadline(ids[0], Some(second(3)));
        assert_eq!(sessions.next_idle(), Some((second(2), ids[1])));
        sessions.set_idle_deadline(ids[1], None);
        assert_eq!(sessions.next_idle(), Some((second(3), ids[0])));
    }

    #[test]
    fn who_lost_its_sa_is_found_by_it_no_more() {
        let mut sessions = Sessions::new(PORT, 0);
        let id = sessions.insert(session(2, at(1, PORT)));
        assert_eq!(sessions.by_sa(SaId(2)), [id]);
        assert_eq!(sessions.by_tunnel(SaId(2), TunnelId(2)), Some(id));
        assert_eq!(sessions.by_tunnel(SaId(2), TunnelId(3)), None);
        sessions.succeed(SaId(2), SaId(7));
        assert_eq!((sessions.by_sa(SaId(2)), sessions.by_sa(SaId(7))), (vec![], vec![id]));
        sessions.supersede(id);
        assert_eq!(sessions.by_sa(SaId(7)), []);
        assert!(sessions.get(id).is_some_and(|session| session.sa.is_none()));
    }
}
