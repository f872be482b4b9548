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
mod ike_events;
mod keying;
mod lifecycle;
mod nhrp_events;
mod notice;
mod reconfigure;
mod report;
mod session;
mod setback;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ::nhrp::engine as nhrp;
use nhrp::Nbma;
use rand_core::CryptoRng;

pub use config::{Accept, Config, Member, Now, Security, Trust};
pub use credentials::Credentials;
pub use notice::{Notice, Refusal, Refused};
pub use report::{AttemptReport, Route, SessionReport};

use credentials::Judge;
use deadlines::Deadlines;
use desired::{Changes, Event, PeerId};
use forwarding::{Forwarding, Known};
use keying::{Attempt, Budget};
use notice::Refusals;
use reconfigure::Renewal;
use session::Sessions;
use setback::{Occasion, Setbacks};

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
    setbacks: Setbacks,
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
            setbacks: Setbacks::default(),
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
                Some(binding) => {
                    let wanted = (binding.nbma, destination);
                    self.connect_in_turn(now, wanted, Occasion::Traffic, rng);
                }
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
            self.forgive_setbacks(now.instant);
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
