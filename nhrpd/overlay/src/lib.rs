//! One tunnel's brain: peers, next-hop servers, shortcuts, keys. Sans-IO.
//!
//! An [`Overlay`] joins NHRP and IKEv2. Its inputs are what the data plane saw
//! ([`desired::Event`]), changes of the underlay, and the time. Its outputs are packets and
//! notices ([`Overlay::poll_output`]), the state that the data plane is to bring about
//! ([`Overlay::poll_desired`]), and the next deadline ([`Overlay::poll_timeout`]). The caller
//! owns time and randomness.

mod clear;
mod config;
mod credentials;
mod deadlines;
pub mod desired;
mod forwarding;
mod keying;
mod notice;
mod reconfigure;
mod report;
mod session;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ::nhrp::engine as nhrp;
use ::nhrp::wire::code::{ALREADY_REGISTERED, PROHIBITED};
use ike::{SaId, TunnelId, TunnelKeys};
use ipnet::IpNet;
use nhrp::{Binding, BindingKind, Nbma};
use rand_core::CryptoRng;

pub use config::{Accept, Config, Member, Now, Security, Trust};
pub use credentials::Credentials;
pub use notice::{Notice, Refusal, Refused};
pub use report::{AttemptReport, Route, SessionReport};

use credentials::Judge;
use deadlines::Deadlines;
use desired::{Changes, Event, PeerId, Transport};
use forwarding::{Forwarding, Known, Path};
use keying::{Attempt, Budget};
use notice::Refusals;
use reconfigure::Renewal;
use session::{Proof, Session, Sessions};

/// What the overlay wants of the world, beside its desired state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send an IKE message over the underlay.
    Ike {
        /// From this port of ours: 500, or that of the configuration, where the non-ESP marker
        /// goes in front.
        port: u16,
        /// Receiver.
        to: SocketAddr,
        /// IKE header first.
        datagram: Vec<u8>,
    },
    /// Send an NHRP packet through a session.
    Nhrp {
        /// The session.
        peer: PeerId,
        /// ar$afn first.
        packet: Vec<u8>,
    },
    /// Tell the operator.
    Notice(Notice),
    /// Keys for Wireshark, where [`ike::Config::key_log`] asks for them.
    KeyLog(ike::KeyLog),
    /// How long something took that we began, for statistics.
    Took(Began, Duration),
}

/// Something that we begin and whose end depends on others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Began {
    /// A key exchange: from IKE_SA_INIT until both sides are authenticated.
    KeyExchange,
    /// The registration of our address: from the request until it is accepted.
    Registration,
    /// A resolution: from the request until there is an answer.
    Resolution,
}

/// The overlay.
#[derive(Debug)]
pub struct Overlay {
    config: Config,
    credentials: Option<Credentials>,
    nhrp: nhrp::Engine,
    ike: ike::Engine,
    sessions: Sessions,
    /// Sessions whose successors are up: what is still on its way through them may arrive until
    /// then.
    lingering: Deadlines<PeerId>,
    attempts: BTreeMap<Nbma, Attempt>,
    /// When those of them that failed are tried again.
    retries: Deadlines<Nbma>,
    servers: BTreeMap<IpAddr, Nbma>,
    refusals: Refusals,
    outputs: VecDeque<Output>,
    forwarding: Forwarding,
    unknown_budget: Budget,
    adopted_budget: Budget,
    renewal: Renewal,
    stopped: bool,
    started: Instant,
}

/// How long a path whose successor is up may still receive: more than a packet stays on the way, and
/// its answer's switch to the successor.
const LINGER: Duration = Duration::from_secs(5);

/// Key exchanges with strangers who seem to have known us.
const UNKNOWN_PER_SECOND: u32 = 10;
/// Key exchanges with those whose paths a former run left: the data plane vouches for them.
const ADOPTED_PER_SECOND: u32 = 100;

impl Overlay {
    /// A fresh overlay. `credentials` may be absent only with [`Security::None`].
    pub fn new(
        config: Config,
        credentials: Option<Credentials>,
        now: Now,
        rng: &mut dyn CryptoRng,
    ) -> Self {
        let servers =
            config.nhrp.servers.iter().filter_map(|s| Some((s.address, s.nbma?))).collect();
        let port = match config.security {
            Security::None => 0,
            Security::Ike => config.port,
        };
        let mut overlay = Self {
            nhrp: nhrp::Engine::new(config.nhrp.clone(), now.instant, rng),
            ike: ike::Engine::new(config.ike.clone()),
            sessions: Sessions::new(port, rng.next_u64()),
            config,
            credentials,
            lingering: Deadlines::new(),
            attempts: BTreeMap::new(),
            retries: Deadlines::new(),
            servers,
            refusals: Refusals::default(),
            outputs: VecDeque::new(),
            forwarding: Forwarding::new(rng.next_u64()),
            unknown_budget: Budget::new(now.instant, UNKNOWN_PER_SECOND),
            adopted_budget: Budget::new(now.instant, ADOPTED_PER_SECOND),
            renewal: Renewal::default(),
            stopped: false,
            started: now.instant,
        };
        overlay.ike.update_addresses(now.instant, overlay.config.nhrp.nbma, rng);
        overlay.pump(now, rng);
        overlay
    }

    /// Takes what the data plane saw.
    pub fn handle_event(&mut self, now: Now, event: Event, rng: &mut dyn CryptoRng) {
        match event {
            Event::Ike { port, from, datagram } => {
                if let Some(credentials) = &self.credentials {
                    let nbma = self.sessions.nbma(from);
                    let judge = Judge {
                        credentials,
                        config: &self.config,
                        servers: &self.servers,
                        sessions: &self.sessions,
                        nbma,
                        wall: now.wall,
                    };
                    self.ike.handle_datagram(now.instant, (port, from), &datagram, &judge, rng);
                }
            }
            Event::Nhrp { peer, from, packet } => {
                let peer =
                    peer.or_else(|| self.clear_session(now.instant, self.sessions.nbma(from)));
                if let Some(peer) = peer {
                    self.nhrp_packet(now, peer, &packet, rng);
                }
            }
            Event::Redirect { peer, packet } => {
                if let Some(session) = self.sessions.get(peer) {
                    let nbma = self.sessions.nbma(session.endpoint);
                    self.nhrp.redirect(now.instant, nbma, &packet);
                }
            }
            Event::Unroutable { destination } => match self.nhrp.lookup(destination) {
                Some(binding) => self.connect(now, binding.nbma, rng),
                // Nobody redirects what takes no way at all.
                None if self.nhrp.config().shortcut => self.nhrp.resolve(now.instant, destination),
                None => {}
            },
            Event::Up { peer } => self.session_up(now, peer, rng),
            Event::Down { peer } => {
                self.remove_session(now, peer, "no answer to WireGuard handshakes", rng);
            }
            Event::Unknown { from } => self.meet(now, from, rng),
            Event::Expiring { peer } => {
                if let Some(session) = self.sessions.get(peer)
                    && let Some((sa, tunnel)) = session.sa.zip(session.tunnel)
                {
                    self.ike.rekey_tunnel(now.instant, sa, tunnel);
                }
            }
            Event::Adopted { endpoint } => {
                let nbma = self.sessions.nbma(endpoint);
                if self.sessions.at(nbma).next().is_none() && self.adopted_budget.take(now.instant)
                {
                    self.connect(now, nbma, rng);
                }
            }
            Event::WrongKey { from, key } => {
                let key = key.map_or("without a key".to_owned(), |key| format!("with key {key}"));
                let reason = format!("sends GRE {key}: `tunnel.key` differs here and there");
                self.refuse_peer(now.instant, self.sessions.nbma(from), reason);
            }
            Event::Moved { peer, endpoint } => self.move_session(now.instant, peer, endpoint),
        }
        self.pump(now, rng);
    }

    /// Runs what is due. `usage` says what traffic the shortcuts saw.
    pub fn handle_timeout(&mut self, now: Now, usage: &dyn nhrp::Usage, rng: &mut dyn CryptoRng) {
        self.nhrp.handle_timeout(now.instant, usage);
        self.ike.handle_timeout(now.instant, rng);
        self.renew(now, rng);
        while let Some((deadline, id)) = self.sessions.next_idle() {
            if deadline > now.instant {
                break;
            }
            self.remove_session(now, id, "idle", rng);
        }
        while let Some(id) = self.lingering.pop(now.instant) {
            self.sessions.touch(id);
        }
        while let Some(nbma) = self.retries.pop(now.instant) {
            self.try_again(now, nbma, rng);
        }
        self.pump(now, rng);
    }

    /// When [`Self::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let (retries, lingering) = (self.retries.next(), self.lingering.next());
        let idle = self.sessions.next_idle().map(|(deadline, _)| deadline);
        let renewal = self.renewal.deadline();
        [self.nhrp.poll_timeout(), self.ike.poll_timeout(), retries, idle, lingering, renewal]
            .into_iter()
            .flatten()
            .min()
    }

    /// The next packet or notice; call until `None` after every input.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Brings [`Self::desired`] in step with what happened; gives what may have changed in it since
    /// the last call. To be called when a batch of inputs is dealt with, before its outputs are.
    pub fn poll_desired(&mut self, now: Now) -> Option<Changes> {
        if !self.forwarding.is_touched() && !self.sessions.is_touched() {
            return None;
        }
        let touched = self.sessions.take_touched();
        let known = Known {
            config: &self.config,
            servers: &self.servers,
            bindings: &self.nhrp,
            sessions: &self.sessions,
            lingering: &self.lingering,
        };
        let found = self.forwarding.update(&known, touched);
        for (id, reason) in found.refused {
            self.refuse_session(now.instant, id, reason);
        }
        let deadline = now.instant + self.config.idle_timeout;
        for (id, used) in found.used {
            if self.sessions.get(id).is_some_and(|s| used == s.idle_deadline.is_some()) {
                self.sessions.set_idle_deadline(id, (!used).then_some(deadline));
            }
        }
        self.outputs.extend(found.notices.into_iter().map(Output::Notice));
        Some(found.changes)
    }

    /// Own NBMA address changed; `None` while the underlay has none.
    pub fn set_nbma(&mut self, now: Now, nbma: Option<IpAddr>, rng: &mut dyn CryptoRng) {
        if nbma.is_none() || nbma != self.config.nhrp.nbma {
            self.notice(Notice::Underlay { nbma });
        }
        self.config.nhrp.nbma = nbma;
        // The peers learn the new address first, so that they know the sender of what follows.
        self.ike.update_addresses(now.instant, nbma, rng);
        self.pump(now, rng);
        self.nhrp.set_nbma(now.instant, nbma);
        self.pump(now, rng);
    }

    /// A server's name was resolved. One that resolves no more keeps its last address.
    pub fn set_server_nbma(
        &mut self,
        now: Now,
        server: IpAddr,
        nbma: Nbma,
        rng: &mut dyn CryptoRng,
    ) {
        self.servers.insert(server, nbma);
        self.nhrp.set_server_nbma(now.instant, server, Some(nbma));
        self.forwarding.touch_all();
        self.pump(now, rng);
    }

    /// Clean stop: purges what we registered. [`Self::stopped`] tells when that is done;
    /// [`Self::close`] then ends the sessions.
    pub fn shutdown(&mut self, now: Now, rng: &mut dyn CryptoRng) {
        self.nhrp.shutdown(now.instant);
        self.pump(now, rng);
    }

    /// All purges are answered or given up.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Deletes every session and tells the peers.
    pub fn close(&mut self, now: Now, rng: &mut dyn CryptoRng) {
        let all: Vec<PeerId> = self.sessions.iter().map(|(id, _)| id).collect();
        for id in all {
            self.remove_session(now, id, "shutting down", rng);
        }
        self.pump(now, rng);
    }

    /// NHRP's own state, for display.
    pub fn nhrp(&self) -> &nhrp::Engine {
        &self.nhrp
    }

    /// IKE's own state, for display.
    pub fn ike(&self) -> &ike::Engine {
        &self.ike
    }

    /// Carries the outputs of both engines on, until none is left.
    fn pump(&mut self, now: Now, rng: &mut dyn CryptoRng) {
        self.pump_for(None, now, rng);
    }

    /// As [`Self::pump`], after a packet of `speaker`, who gets the answer.
    fn pump_for(&mut self, speaker: Option<PeerId>, now: Now, rng: &mut dyn CryptoRng) {
        loop {
            if let Some(output) = self.nhrp.poll_output() {
                match output {
                    nhrp::Output::Transmit { to, packet } => {
                        self.transmit(now, speaker, to, packet, rng);
                    }
                    nhrp::Output::Event(event) => self.nhrp_event(now, event, rng),
                }
            } else if let Some(output) = self.ike.poll_output() {
                match output {
                    ike::Output::Transmit { port, to, datagram } => {
                        self.outputs.push_back(Output::Ike { port, to, datagram });
                    }
                    ike::Output::Event(event) => self.ike_event(now, event, rng),
                    ike::Output::KeyLog(line) => self.outputs.push_back(Output::KeyLog(line)),
                }
            } else {
                return;
            }
        }
    }

    /// A packet of `peer`. Who sends from an address that another has too, or from that of a
    /// server, speaks for itself only: what it may claim is what its own session has proven.
    fn nhrp_packet(&mut self, now: Now, peer: PeerId, packet: &[u8], rng: &mut dyn CryptoRng) {
        let Some(session) = self.sessions.get(peer) else { return };
        let nbma = self.sessions.nbma(session.endpoint);
        if let Some(reason) = self.impersonates(nbma, session) {
            self.refuse_session(now.instant, peer, reason);
            return;
        }
        self.nhrp.set_authorization(nbma, Some(session.authorization.clone()));
        self.nhrp.handle_packet(now.instant, nbma, packet);
        self.pump_for(Some(peer), now, rng);
    }

    /// Sends an NHRP packet. Without a session it is dropped and one is begun: the engine
    /// repeats its requests when the path is up.
    fn transmit(
        &mut self,
        now: Now,
        speaker: Option<PeerId>,
        to: Nbma,
        packet: Vec<u8>,
        rng: &mut dyn CryptoRng,
    ) {
        let carrier = self.carrier(speaker, to).or_else(|| self.clear_session(now.instant, to));
        match carrier {
            Some(peer) => self.outputs.push_back(Output::Nhrp { peer, packet }),
            None => self.connect(now, to, rng),
        }
    }

    /// The session that carries a packet to `nbma`: that of `speaker` if it leads there, else the
    /// newest.
    fn carrier(&self, speaker: Option<PeerId>, nbma: Nbma) -> Option<PeerId> {
        let mut up = self.fitting(nbma).filter(|(_, session)| session.up).map(|(id, _)| id);
        let newest = up.next()?;
        speaker.filter(|&id| id == newest || up.any(|other| other == id)).or(Some(newest))
    }

    /// Sessions that may stand for `nbma`, newest first: at the address of a server those only
    /// that have proven to be that server.
    fn fitting(&self, nbma: Nbma) -> impl Iterator<Item = (PeerId, &Session)> {
        let fits = move |(_, s): &(PeerId, &Session)| self.impersonates(nbma, s).is_none();
        self.sessions.at(nbma).filter(fits)
    }

    /// Who has `prefix`, if that is somebody at another address than `peer`.
    fn holder(&self, prefix: IpNet, peer: Nbma) -> Option<&str> {
        let binding = self.nhrp.binding(prefix).filter(|binding| binding.nbma != peer)?;
        let (_, session) = self.sessions.at(binding.nbma).next()?;
        session.identity.as_deref()
    }

    /// Why whoever has this authorization may not stand at `nbma`, if that is a server's.
    fn impersonates(&self, nbma: Nbma, session: &Session) -> Option<String> {
        let Session { authorization, proof, .. } = session;
        forwarding::impersonates(&self.servers, nbma, authorization, *proof)
    }

    /// Somebody uses keys that are not known here: perhaps a peer that does not know that we
    /// restarted. It learns so by a key exchange.
    fn meet(&mut self, now: Now, from: SocketAddr, rng: &mut dyn CryptoRng) {
        let nbma = self.sessions.nbma(from);
        if self.sessions.at(nbma).next().is_none() && self.unknown_budget.take(now.instant) {
            self.connect(now, nbma, rng);
        }
    }

    fn ike_event(&mut self, now: Now, event: ike::Event, rng: &mut dyn CryptoRng) {
        match event {
            ike::Event::Established {
                sa,
                remote,
                initiator,
                identity,
                certificates,
                tunnel,
                keys,
                ..
            } => {
                let Some(credentials) = &self.credentials else { return };
                let (identity, authorization) =
                    match credentials.claims(&identity, &certificates, &self.config, now.wall) {
                        Ok(claims) => claims,
                        Err(reason) => {
                            let refused = Refused { peer: remote, identity: None, reason };
                            self.refuse(now.instant, refused);
                            self.ike.close(now.instant, sa, rng);
                            return;
                        }
                    };
                let proof = Proof::of(&certificates);
                let nbma = self.sessions.nbma(remote);
                if let Some(attempt) = self.end_attempt(nbma).filter(|a| a.sa == Some(sa)) {
                    let took = now.instant - attempt.begun;
                    self.outputs.push_back(Output::Took(Began::KeyExchange, took));
                }
                let id = self.sessions.insert(Session {
                    sa: Some(sa),
                    tunnel: Some(tunnel),
                    identity: Some(identity),
                    proof,
                    authorization,
                    endpoint: remote,
                    up: false,
                    since: now.instant,
                    idle_deadline: Some(now.instant + self.config.idle_timeout),
                });
                self.forwarding.key(id, transport(keys, initiator));
            }
            ike::Event::Failed { sa, remote, identity, reason, superseded, .. } => {
                let nbma = self.sessions.nbma(remote);
                let ours = self.attempts.get(&nbma).is_some_and(|a| a.sa == Some(sa));
                let needless = superseded || (ours && self.is_served(nbma));
                if ours {
                    self.attempt_failed(now.instant, nbma, &reason.0, needless);
                }
                if !needless {
                    let identity = identity.map(|identity| credentials::describe(&identity));
                    self.refuse(now.instant, Refused { peer: remote, identity, reason: reason.0 });
                }
            }
            ike::Event::Confirmed { sa, tunnel } => {
                if let Some(id) = self.sessions.by_tunnel(sa, tunnel) {
                    self.session_up(now, id, rng);
                }
            }
            ike::Event::Keyed { sa, tunnel, keys, initiator, .. } => {
                self.key_session(now, sa, tunnel, transport(keys, initiator));
            }
            ike::Event::Succeeded { sa, successor, identity, certificates } => {
                self.sessions.succeed(sa, successor);
                if let Some(credentials) = &self.credentials
                    && let Err(reason) =
                        credentials.claims(&identity, &certificates, &self.config, now.wall)
                {
                    for id in self.sessions.by_sa(successor) {
                        self.refuse_session(now.instant, id, reason.clone());
                    }
                    self.ike.close(now.instant, successor, rng);
                }
            }
            ike::Event::Unkeyed { sa, tunnel, reason } => {
                if let Some(id) = self.sessions.by_tunnel(sa, tunnel) {
                    self.keys_gone(now.instant, id, &reason);
                }
            }
            ike::Event::Closed { sa, reason } => {
                for id in self.sessions.by_sa(sa) {
                    self.keys_gone(now.instant, id, &reason);
                }
            }
            ike::Event::Unknown { from } => self.meet(now, from, rng),
            ike::Event::Moved { sa, remote, encapsulated } => {
                for id in self.sessions.by_sa(sa) {
                    if let Some(Transport::Esp(esp)) = self.forwarding.transport_mut(id) {
                        esp.encapsulated = encapsulated;
                        self.sessions.touch(id);
                    }
                    self.move_session(now.instant, id, remote);
                }
            }
        }
    }

    /// A further tunnel of an IKE SA is another session with the same node.
    fn key_session(&mut self, now: Now, sa: SaId, tunnel: TunnelId, transport: Transport) {
        let former = self.sessions.by_sa(sa).pop().and_then(|id| self.sessions.get(id));
        let Some(former) = former else { return };
        let session = Session {
            sa: Some(sa),
            tunnel: Some(tunnel),
            identity: former.identity.clone(),
            proof: former.proof,
            authorization: former.authorization.clone(),
            endpoint: former.endpoint,
            up: false,
            since: now.instant,
            idle_deadline: Some(now.instant + self.config.idle_timeout),
        };
        let id = self.sessions.insert(session);
        self.forwarding.key(id, transport);
    }

    /// IKE has given up the keys of a session. Make before break: one that has a successor goes
    /// when that one is up.
    fn keys_gone(&mut self, now: Instant, id: PeerId, reason: &str) {
        let up = |id: PeerId| self.sessions.get(id).is_some_and(|session| session.up);
        let twins = self.sessions.twins(id);
        if !up(id) && twins.iter().any(|&twin| up(twin)) {
            // One of two that crossed, and not the one that lives. The peer may have begun to send
            // with it.
            self.lingering.set(id, now + LINGER);
            self.forget_session(now, id, reason);
            return;
        }
        if !twins.is_empty() {
            self.sessions.supersede(id);
            return;
        }
        // The peer may refuse us after we have accepted it.
        if self.sessions.get(id).is_some_and(|session| !session.up) {
            self.refuse_session(now, id, reason.to_owned());
        }
        self.forget_session(now, id, reason);
    }

    fn session_up(&mut self, now: Now, id: PeerId, rng: &mut dyn CryptoRng) {
        if !self.sessions.set_up(id, now.instant) {
            return;
        }
        let Some(session) = self.sessions.get(id) else { return };
        let (endpoint, nbma) = (session.endpoint, self.sessions.nbma(session.endpoint));
        let authorization = session.authorization.clone();
        let (identity, sa) = (session.identity.clone(), session.sa);
        let known = self.is_reached_otherwise(id);
        self.notice(match known {
            true => Notice::PeerRekeyed { endpoint, identity },
            false => Notice::PeerUp { endpoint, identity },
        });
        self.authorize(nbma);
        // IKE leaves one SA for each pair of nodes; what the former one carried moves here.
        for twin in self.sessions.twins(id).into_iter().filter(|&twin| twin < id) {
            if let Some(former) = self.sessions.get(twin).map(|s| self.sessions.nbma(s.endpoint)) {
                self.nhrp.peer_moved(now.instant, former, nbma, &authorization);
            }
            if self.desired().peers.contains_key(&twin) {
                self.lingering.set(twin, now.instant + LINGER);
            }
            // A former tunnel of the same IKE SA is IKE's to end.
            let reason = "replaced by a newer session";
            if sa.is_some() && self.sessions.get(twin).is_some_and(|twin| twin.sa == sa) {
                self.forget_session(now.instant, twin, reason);
            } else {
                self.remove_session(now, twin, reason, rng);
            }
        }
        self.nhrp.path_up(now.instant, nbma);
    }

    /// Whether another session with the same peer is up.
    fn is_reached_otherwise(&self, id: PeerId) -> bool {
        let twins = self.sessions.twins(id);
        twins.into_iter().any(|twin| self.sessions.get(twin).is_some_and(|twin| twin.up))
    }

    /// Tells NHRP what whoever stands at `nbma` may claim.
    fn authorize(&mut self, nbma: Nbma) {
        let session = self.carrier(None, nbma).and_then(|id| self.sessions.get(id));
        let authorization = session.map(|session| session.authorization.clone());
        self.nhrp.set_authorization(nbma, authorization);
    }

    fn move_session(&mut self, now: Instant, id: PeerId, endpoint: SocketAddr) {
        let Some(former) = self.sessions.relocate(id, endpoint) else { return };
        let (from, to) = (self.sessions.nbma(former), self.sessions.nbma(endpoint));
        self.authorize(from);
        self.authorize(to);
        if let Some(authorization) = self.sessions.get(id).map(|s| s.authorization.clone()) {
            self.nhrp.peer_moved(now, from, to, &authorization);
        }
        self.notice(Notice::PeerMoved { from: former, to: endpoint });
    }

    /// Ends a session of ours and tells the peer.
    fn remove_session(&mut self, now: Now, id: PeerId, reason: &str, rng: &mut dyn CryptoRng) {
        if let Some(sa) = self.sessions.get(id).and_then(|session| session.sa) {
            self.ike.close(now.instant, sa, rng);
        }
        self.forget_session(now.instant, id, reason);
    }

    /// Forgets a session that is gone.
    fn forget_session(&mut self, now: Instant, id: PeerId, reason: &str) {
        let twins = self.sessions.twins(id);
        let still_up = self.is_reached_otherwise(id);
        let mut lost: BTreeSet<Nbma> = self.shortcuts_through(id).map(|b| b.nbma).collect();
        let Some(session) = self.sessions.remove(id) else { return };
        lost.insert(self.sessions.nbma(session.endpoint));
        // A session without an SA waited for this one to succeed it.
        for twin in twins {
            if self.sessions.get(twin).is_some_and(|twin| twin.sa.is_none()) {
                self.forget_session(now, twin, reason);
            }
        }
        if session.up && !still_up {
            self.notice(Notice::PeerDown {
                endpoint: session.endpoint,
                identity: session.identity,
                reason: reason.to_owned(),
            });
        }
        for nbma in lost {
            self.authorize(nbma);
            // Traffic is back on the path through the server; if it goes on, a new indication
            // comes.
            if self.carrier(None, nbma).is_none() {
                self.nhrp.path_down(now, nbma, reason);
            }
        }
    }

    /// The shortcuts that a session carries.
    fn shortcuts_through(&self, id: PeerId) -> impl Iterator<Item = Binding> {
        let session = self.sessions.get(id);
        let nbma = session.map(|session| self.sessions.nbma(session.endpoint));
        let hosts = session.into_iter().flat_map(|session| session::hosts(&session.authorization));
        let at = nbma.into_iter().flat_map(|nbma| self.nhrp.bindings_at(nbma));
        at.chain(hosts.flat_map(|host| self.nhrp.bindings_of(host))).filter(move |binding| {
            let path = forwarding::path(&self.sessions, binding);
            binding.kind == BindingKind::Shortcut && matches!(path, Path::Session(at) if at == id)
        })
    }

    fn nhrp_event(&mut self, now: Now, event: nhrp::Event, rng: &mut dyn CryptoRng) {
        match event {
            nhrp::Event::BindingChanged { prefix, binding } => {
                self.forwarding.touch(prefix);
                if let Some(binding) = binding
                    && binding.kind == BindingKind::Shortcut
                    && matches!(forwarding::path(&self.sessions, &binding), Path::None)
                {
                    self.connect(now, binding.nbma, rng);
                }
            }
            nhrp::Event::ClaimRefused { peer, prefix, allowed, reason, .. } => {
                let reason = match allowed.filter(|allowed| !allowed.permits(prefix)) {
                    Some(allowed) => {
                        let here = self.sessions.at(peer).next();
                        let proof = here.map_or(Proof::Certificate, |(_, session)| session.proof);
                        format!("claims {prefix}, but {}", session::allowance(&allowed, proof))
                    }
                    None => match self.holder(prefix, peer) {
                        Some(identity) => format!("{reason} ({identity})"),
                        None => reason,
                    },
                };
                self.refuse_peer(now.instant, peer, reason);
            }
            nhrp::Event::RegistrationRefused { server, prefix, code, reason } => {
                let mut reason = format!("refuses our registration of {prefix}: {reason}");
                if let (Some(PROHIBITED), Some(credentials)) = (code, &self.credentials) {
                    reason = format!("{reason}; ours: {}", credentials.allowance(&self.config));
                }
                if code == Some(ALREADY_REGISTERED) {
                    reason.push_str(": another node has it; the server knows which");
                }
                if let Some(&nbma) = self.servers.get(&server) {
                    self.refuse_peer(now.instant, nbma, reason);
                }
            }
            nhrp::Event::AuthenticationFailed { peer } => {
                let reason = "NHRP authentication failed: `nhrp.authentication` differs here \
                              and there"
                    .to_owned();
                self.refuse_peer(now.instant, peer, reason);
            }
            nhrp::Event::NhsUp { server } => self.notice(Notice::ServerUp { server }),
            nhrp::Event::NhsDown { server, reason } => {
                self.notice(Notice::ServerDown { server, reason });
            }
            nhrp::Event::Registered { prefix, seen, claimed, .. } => {
                self.notice(Notice::Registered { prefix, seen, claimed });
            }
            nhrp::Event::Unregistered { prefix, reason, .. } => {
                self.notice(Notice::Unregistered { prefix, reason });
            }
            nhrp::Event::Answered { asked, after } => {
                let began = match asked {
                    nhrp::Asked::Registration => Began::Registration,
                    nhrp::Asked::Resolution => Began::Resolution,
                };
                self.outputs.push_back(Output::Took(began, after));
            }
            nhrp::Event::SeenAs { server, nbma } => {
                self.notice(Notice::SeenAs { server, nbma });
            }
            nhrp::Event::ResolutionFailed { destination, reason } => {
                self.notice(Notice::ResolutionFailed { destination, reason });
            }
            nhrp::Event::ErrorReceived { peer, code, reason, .. } => {
                self.notice(Notice::ErrorReceived { peer, code, reason });
            }
            nhrp::Event::ShutdownComplete => self.stopped = true,
        }
    }

    fn refuse_peer(&mut self, now: Instant, peer: Nbma, reason: String) {
        let session = self.sessions.at(peer).next();
        let identity = session.and_then(|(_, session)| session.identity.clone());
        self.refuse(now, Refused { peer: self.sessions.endpoint(peer), identity, reason });
    }

    fn refuse_session(&mut self, now: Instant, id: PeerId, reason: String) {
        let Some(session) = self.sessions.get(id) else { return };
        let refused =
            Refused { peer: session.endpoint, identity: session.identity.clone(), reason };
        self.refuse(now, refused);
    }

    fn refuse(&mut self, now: Instant, refused: Refused) {
        if self.refusals.record(now, refused.clone()) {
            self.notice(Notice::Refused(refused));
        }
    }

    fn notice(&mut self, notice: Notice) {
        self.outputs.push_back(Output::Notice(notice));
    }
}

fn transport(keys: TunnelKeys, ike_initiator: bool) -> Transport {
    match keys {
        TunnelKeys::WireGuard(keys) => Transport::WireGuard {
            private_key: keys.private_key,
            peer_public_key: keys.peer_public_key,
            preshared_key: keys.preshared_key,
            initiate: !ike_initiator,
        },
        TunnelKeys::Esp(esp) => Transport::Esp(esp),
    }
}
