//! All IKE SAs of one node: tables, timers, and the way of a datagram to its SA.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand_core::CryptoRng;

use crate::child::Child;
use crate::cookie::Cookies;
use crate::crossing::superseded;
use crate::crypto::channel::{Channel, NotAuthentic};
use crate::fragment::{self, Opened};
use crate::limits::{DropReason, Drops, HalfOpen, StrangerEvents};
use crate::nat::Nat;
use crate::sa::{Established, Outstanding, Request, Sa, SaCounters, State, TRANSMISSIONS};
use crate::wire::{self, Encrypted, Exchange, Header, Notify, NotifyType, Payload};
use crate::{
    Config, Credentials, EspCipher, Event, Identity, Output, Refusal, SaId, TunnelId, TunnelKind,
};

/// A probe more often than this would be a flood.
const SHORTEST_DEAD_PEER_INTERVAL: Duration = Duration::from_secs(1);
/// New keys more often than this would be one too.
const SHORTEST_REKEY_INTERVAL: Duration = Duration::from_secs(1);

impl Config {
    fn bounded(self) -> Self {
        Self {
            dead_peer_interval: self.dead_peer_interval.max(SHORTEST_DEAD_PEER_INTERVAL),
            rekey_interval: self.rekey_interval.max(SHORTEST_REKEY_INTERVAL),
            ..self
        }
    }
}

/// All IKE SAs of one node, without sockets and clock.
///
/// Feed it requests ([`Self::initiate`], [`Self::close`], …), datagrams and the time; after every
/// input call [`Self::poll_output`] until it gives nothing more, and call [`Self::handle_timeout`]
/// when [`Self::poll_timeout`] says so.
///
/// Every call of [`Self::initiate`] ends in one [`Event::Established`] or one [`Event::Failed`],
/// and every [`Event::Established`] is followed, some time, by one [`Event::Closed`]; also where
/// the layer above itself closes the SA.
pub struct Engine {
    pub(crate) config: Config,
    pub(crate) sas: BTreeMap<SaId, Box<Sa>>,
    /// By own SPI.
    by_spi: BTreeMap<u64, SaId>,
    /// Of a responder: by the source of IKE_SA_INIT and the initiator's SPI.
    by_origin: BTreeMap<(SocketAddr, u64), SaId>,
    by_remote: BTreeSet<(SocketAddr, SaId)>,
    pub(crate) established: BTreeSet<(Identity, SaId)>,
    timers: BTreeSet<(Instant, SaId)>,
    pub(crate) half_open: HalfOpen,
    pub(crate) cookies: Cookies,
    pub(crate) strangers: StrangerEvents,
    drops: Drops,
    pub(crate) outputs: VecDeque<Output>,
    last_id: u64,
    /// Inbound SPIs of ESP.
    pub(crate) esp_spis: BTreeMap<u32, TunnelId>,
    pub(crate) last_tunnel: u64,
    /// Own address on the underlay.
    pub(crate) address: Option<IpAddr>,
    /// See [`crate::crossing`].
    pub(crate) clock: u64,
    instance: Option<u64>,
}

/// The arguments of one input.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) credentials: &'a dyn Credentials,
    pub(crate) rng: &'a mut dyn CryptoRng,
}

/// What becomes of an SA after a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Keep,
    Forget,
}

/// One SA, for `show ike sa`.
#[derive(Debug, Clone)]
pub struct SaInfo {
    /// Handle.
    pub id: SaId,
    /// SPI that the initiator chose.
    pub initiator_spi: u64,
    /// SPI that the responder chose; 0 before it has answered.
    pub responder_spi: u64,
    /// Where the peer is.
    pub remote: SocketAddr,
    /// We sent IKE_SA_INIT.
    pub initiator: bool,
    /// How far it is.
    pub state: SaState,
    /// The peer's identity; proven if the state is [`SaState::Established`].
    pub identity: Option<Identity>,
    /// Algorithms by their keywords, as [`crate::Algorithms::parse`] takes them:
    /// `aes256gcm16-prfsha256-x25519-ke1_mlkem768`.
    pub suite: Option<String>,
    /// How we proved who we are: `pre-shared key`, `RSASSA-PSS with SHA2-256`, …
    pub own_auth: Option<&'static str>,
    /// How the peer did.
    pub peer_auth: Option<&'static str>,
    /// When it began.
    pub begun: Instant,
    /// When we give it new keys, where it is up; the peer may do so before.
    pub rekey_at: Option<Instant>,
    /// When the peer was last heard.
    pub last_heard: Instant,
    /// A request of ours waits for its response.
    pub outstanding: bool,
    /// Who is behind a translator.
    pub nat: Nat,
    /// Own UDP port.
    pub port: u16,
    /// What it keys, where it is up.
    pub kind: Option<TunnelKind>,
    /// Its CHILD_SAs, oldest first; none with WireGuard.
    pub children: Vec<ChildInfo>,
    /// What happened on it.
    pub counters: SaCounters,
}

/// One CHILD_SA, for `show ipsec sa`.
#[derive(Debug, Clone)]
pub struct ChildInfo {
    /// Handle.
    pub tunnel: TunnelId,
    /// What the peer sends with.
    pub inbound: u32,
    /// What we send with.
    pub outbound: u32,
    /// Its cipher.
    pub cipher: EspCipher,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Name of the key exchange that its keys come from; `None` for those of IKE_AUTH, and
    /// without perfect forward secrecy.
    pub group: Option<&'static str>,
    /// When it was made.
    pub since: Instant,
    /// When we give it new keys; `None` where it has a successor, or is being deleted.
    pub rekey_at: Option<Instant>,
}

/// How far an SA is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaState {
    /// Initiator: before the response to IKE_SA_INIT.
    InitSent,
    /// Initiator: before the response to IKE_INTERMEDIATE.
    Intermediate,
    /// Initiator: before the response to IKE_AUTH.
    AuthSent,
    /// Responder: before IKE_INTERMEDIATE or IKE_AUTH.
    HalfOpen,
    /// Responder: the peer was refused, and the refusal is kept for repetitions.
    Refused,
    /// Responder: the peer is authenticated, but what it asked to be keyed was refused.
    Childless,
    /// Both sides are authenticated.
    Established,
    /// The peer is being told that it is deleted.
    Closing,
}

impl std::fmt::Display for SaState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::InitSent => "init-sent",
            Self::Intermediate => "intermediate",
            Self::AuthSent => "auth-sent",
            Self::HalfOpen => "half-open",
            Self::Refused => "refused",
            Self::Childless => "childless",
            Self::Established => "established",
            Self::Closing => "closing",
        })
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("config", &self.config)
            .field("sas", &self.sas().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// A fresh engine.
    pub fn new(config: Config) -> Self {
        Self {
            config: config.bounded(),
            sas: BTreeMap::new(),
            by_spi: BTreeMap::new(),
            by_origin: BTreeMap::new(),
            by_remote: BTreeSet::new(),
            established: BTreeSet::new(),
            timers: BTreeSet::new(),
            half_open: HalfOpen::default(),
            cookies: Cookies::default(),
            strangers: StrangerEvents::default(),
            drops: Drops::default(),
            outputs: VecDeque::new(),
            last_id: 0,
            esp_spis: BTreeMap::new(),
            last_tunnel: 0,
            address: None,
            clock: 0,
            instance: None,
        }
    }

    /// Takes over other limits and intervals. An SA whose time under the new rekey interval would
    /// be over before what is planned for it gets new keys then.
    pub fn reconfigure(&mut self, now: Instant, config: Config, rng: &mut dyn CryptoRng) {
        self.config = config.bounded();
        for id in self.sas.keys().copied().collect::<Vec<_>>() {
            let soonest = self.rekey_at(now, rng);
            let Some(mut sa) = self.take(id) else { continue };
            if let State::Established(established) = &mut sa.state {
                established.rekey_at = established.rekey_at.min(soonest).or(soonest);
                for child in &mut established.children {
                    child.rekey_at = child.rekey_at.min(soonest);
                }
            }
            self.put(sa);
        }
    }

    /// Who an SA's peer is, and its chain (DER, leaf first; none where it has a pre-shared key);
    /// `None` where it is not established.
    pub fn peer(&self, sa: SaId) -> Option<(&Identity, &[Vec<u8>])> {
        let sa = self.sas.get(&sa)?;
        match &sa.state {
            State::Established(established) => {
                Some((sa.identity.as_ref()?, &established.certificates))
            }
            _ => None,
        }
    }

    /// Takes one IKE message, which came to this port of ours from this sender.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        (port, from): (u16, SocketAddr),
        datagram: &[u8],
        credentials: &dyn Credentials,
        rng: &mut dyn CryptoRng,
    ) {
        let mut context = Context { now, credentials, rng };
        if let Err(reason) = self.dispatch(&mut context, (port, from), datagram) {
            self.count(reason);
        }
    }

    fn dispatch(
        &mut self,
        context: &mut Context<'_>,
        (port, from): (u16, SocketAddr),
        datagram: &[u8],
    ) -> Result<(), DropReason> {
        let header = Header::decode(datagram).map_err(|_| DropReason::Malformed)?;
        if header.major_version() != Header::VERSION >> 4 {
            self.refuse_version((port, from), &header, datagram);
            return Err(DropReason::Version);
        }
        if header.exchange == Exchange::IKE_SA_INIT && !header.response {
            return self.handle_init(context, (port, from), &header, datagram);
        }
        let (own, peer) = if header.from_initiator {
            (header.responder_spi, header.initiator_spi)
        } else {
            (header.initiator_spi, header.responder_spi)
        };
        let Some(&id) = self.by_spi.get(&own) else {
            if !header.response && header.exchange == Exchange::INFORMATIONAL {
                self.event(Event::Unknown { from });
            }
            return Err(DropReason::UnknownSpi);
        };
        let mut sa = self.take(id).ok_or(DropReason::UnknownSpi)?;
        let result = if sa.initiator == header.from_initiator {
            Err(DropReason::UnknownSpi)
        } else if let State::InitSent(_) = sa.state {
            if header.response && header.exchange == Exchange::IKE_SA_INIT && from == sa.remote {
                self.handle_init_response(context, &mut sa, &header, datagram)
            } else {
                Err(DropReason::Unexpected)
            }
        } else if sa.peer_spi != peer {
            Err(DropReason::UnknownSpi)
        } else if header.response {
            self.handle_response(context, &mut sa, &header, datagram)
        } else {
            self.handle_request(context, (port, from), &mut sa, &header, datagram)
        };
        match result {
            Ok(Fate::Forget) => self.forget(sa),
            Ok(Fate::Keep) | Err(_) => self.put(sa),
        }
        result.map(|_| ())
    }

    fn handle_request(
        &mut self,
        context: &mut Context<'_>,
        (port, from): (u16, SocketAddr),
        sa: &mut Sa,
        header: &Header,
        datagram: &[u8],
    ) -> Result<Fate, DropReason> {
        let fresh = header.message_id == sa.expected_request;
        let repeated = header.message_id.checked_add(1) == Some(sa.expected_request)
            && !sa.last_response.is_empty();
        if !fresh && !repeated {
            let old = header.message_id < sa.expected_request;
            return Err(if old { DropReason::Replayed } else { DropReason::OutOfWindow });
        }
        let allowed = match sa.state {
            State::HalfOpen(ref handshake) => {
                let intermediate = repeated || handshake.wants_intermediate();
                let due =
                    if intermediate { Exchange::IKE_INTERMEDIATE } else { Exchange::IKE_AUTH };
                header.exchange == due
            }
            State::Childless(_) | State::Established(_) | State::Closing => {
                repeated
                    || matches!(
                        header.exchange,
                        Exchange::INFORMATIONAL | Exchange::CREATE_CHILD_SA
                    )
            }
            State::Refused => repeated,
            State::InitSent(_) | State::Intermediate(_) | State::AuthSent(..) => false,
        };
        if !allowed {
            return Err(DropReason::Unexpected);
        }
        let channel = match &sa.state {
            State::HalfOpen(handshake) if repeated => handshake.former.as_deref(),
            _ => sa.channel.as_deref(),
        };
        let opened = open(channel, sa.fragmentation, header, datagram)?;
        if repeated {
            // RFC 7383 §2.6.1: one answer, not one for each fragment.
            if opened.fragment.is_some_and(|fragment| fragment.number != 1) {
                return Err(DropReason::Replayed);
            }
            // RFC 7296 §2.1: the same response again, to where the question came from.
            sa.counters.repeated += 1;
            self.postpone_confirmation(context.now, sa);
            self.transmit_all(port, from, &sa.last_response);
            return Ok(Fate::Keep);
        }
        let id = header.message_id;
        let whole = fragment::assemble(&mut sa.partial_request, context.now, id, opened)?;
        let Some((first, plain)) = whole else { return Ok(Fate::Keep) };
        sa.expected_request += 1;
        sa.last_heard = context.now;
        sa.counters.requests_received += 1;
        let payloads = wire::decode_chain(first, &plain);
        if let State::HalfOpen(handshake) = &sa.state {
            let intermediate = handshake.wants_intermediate();
            sa.port = port;
            self.set_remote(sa, from);
            if intermediate {
                return Ok(self.handle_intermediate(sa, header, first, &plain));
            }
            return Ok(self.handle_auth(context, sa, payloads));
        }
        self.notice_move(sa, port, from);
        Ok(self.handle_established_request(context, sa, header.exchange, payloads))
    }

    fn handle_response(
        &mut self,
        context: &mut Context<'_>,
        sa: &mut Sa,
        header: &Header,
        datagram: &[u8],
    ) -> Result<Fate, DropReason> {
        let awaited = sa
            .outstanding
            .as_ref()
            .is_some_and(|o| o.message_id == header.message_id && o.exchange == header.exchange);
        if !awaited {
            return Err(DropReason::Replayed);
        }
        let opened = open(sa.channel.as_deref(), sa.fragmentation, header, datagram)?;
        let id = header.message_id;
        let whole = fragment::assemble(&mut sa.partial_response, context.now, id, opened)?;
        let Some((first, plain)) = whole else { return Ok(Fate::Keep) };
        let Some(outstanding) = sa.outstanding.take() else { return Err(DropReason::Replayed) };
        sa.last_heard = context.now;
        let fate = match outstanding.request {
            Request::Auth if matches!(sa.state, State::AuthSent(..)) => {
                self.handle_auth_response(context, sa, wire::decode_chain(first, &plain))
            }
            Request::Intermediate => {
                self.handle_intermediate_response(context, sa, header, first, &plain)
            }
            Request::Rekey => {
                self.handle_rekey_response(context, sa, wire::decode_chain(first, &plain))
            }
            Request::Child => {
                self.handle_child_response(context, sa, wire::decode_chain(first, &plain));
                Fate::Keep
            }
            Request::DeleteChild(spi) => {
                self.child_deleted(sa, spi);
                self.close_without_children(context.now, sa, context.rng);
                Fate::Keep
            }
            Request::Delete | Request::Refuse(_) => Fate::Forget,
            Request::Update => {
                let payloads = wire::decode_chain(first, &plain).unwrap_or_default();
                self.renew_nat(sa, &payloads);
                Fate::Keep
            }
            Request::Init | Request::Auth | Request::Probe => Fate::Keep,
        };
        self.send_queued(context.now, sa, context.rng);
        Ok(fate)
    }

    /// Runs what is due: retransmissions, dead-peer probes, expiry of half-open SAs.
    pub fn handle_timeout(&mut self, now: Instant, rng: &mut dyn CryptoRng) {
        while let Some((due, id)) = self.timers.first().copied()
            && due <= now
        {
            let Some(mut sa) = self.take(id) else {
                self.timers.remove(&(due, id));
                continue;
            };
            match self.handle_deadline(now, &mut sa, rng) {
                Fate::Keep => self.put(sa),
                Fate::Forget => self.forget(sa),
            }
        }
    }

    fn handle_deadline(&mut self, now: Instant, sa: &mut Sa, rng: &mut dyn CryptoRng) -> Fate {
        self.confirm_children(sa, Some(now));
        if sa.deadline(self.config.dead_peer_interval) > now {
            return Fate::Keep;
        }
        for partial in [&mut sa.partial_request, &mut sa.partial_response] {
            partial.take_if(|partial| partial.is_stale(now));
        }
        match sa.state {
            State::HalfOpen(_) => {
                self.count(DropReason::HalfOpenExpired);
                return Fate::Forget;
            }
            State::Refused => return Fate::Forget,
            State::Childless(_) => {
                self.leave_half_open(sa);
                self.begin_closing(now, sa, Request::Delete, rng);
                return Fate::Keep;
            }
            _ => {}
        }
        let Some(outstanding) = &mut sa.outstanding else {
            if self.handle_child_deadlines(now, sa, rng) {
                return Fate::Keep;
            }
            match &sa.state {
                State::Established(Established { rekey_at: Some(at), .. }) if *at <= now => {
                    self.begin_rekey(now, sa, rng);
                }
                state => {
                    let closing = matches!(state, State::Closing);
                    sa.queue.push_back(if closing { Request::Delete } else { Request::Probe });
                    self.send_queued(now, sa, rng);
                }
            }
            return Fate::Keep;
        };
        if outstanding.transmissions >= TRANSMISSIONS {
            let lives_on =
                matches!(sa.state, State::Established(_)) && sa.last_heard > outstanding.first_sent;
            if !lives_on {
                return self.give_up(now, sa);
            }
            outstanding.restart(now);
        }
        outstanding.transmitted(now, rng);
        let datagrams = outstanding.datagrams.clone();
        sa.counters.retransmissions += 1;
        self.transmit_all(sa.port, sa.remote, &datagrams);
        Fate::Keep
    }

    /// The peer has answered none of the transmissions.
    fn give_up(&mut self, now: Instant, sa: &mut Sa) -> Fate {
        let Some(outstanding) = &sa.outstanding else { return Fate::Forget };
        let seconds = now.saturating_duration_since(outstanding.first_sent).as_secs();
        let silence = format!(
            "no answer from {} to {}, sent {} times in {seconds} s",
            sa.remote, outstanding.exchange, outstanding.transmissions,
        );
        match sa.state {
            State::InitSent(_) => {
                let advice = "is it up, and does UDP pass in both directions?";
                self.fail(sa, None, Refusal(format!("{silence}: {advice}")));
            }
            State::Intermediate(_) | State::AuthSent(..) => {
                let advice = "it answered before; do large UDP datagrams pass?";
                self.fail(sa, None, Refusal(format!("{silence}: {advice}")));
            }
            State::Established(_) => self.depart(sa, format!("dead peer: {silence}")),
            State::HalfOpen(_) | State::Refused | State::Childless(_) | State::Closing => {}
        }
        Fate::Forget
    }

    /// When [`Self::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// The next datagram or event; call until `None` after every input.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// All SAs.
    pub fn sas(&self) -> impl Iterator<Item = SaInfo> + '_ {
        self.sas.values().map(|sa| SaInfo {
            id: sa.id,
            initiator_spi: sa.spis().0,
            responder_spi: sa.spis().1,
            remote: sa.remote,
            initiator: sa.initiator,
            state: match sa.state {
                State::InitSent(_) => SaState::InitSent,
                State::Intermediate(_) => SaState::Intermediate,
                State::AuthSent(..) => SaState::AuthSent,
                State::HalfOpen(_) => SaState::HalfOpen,
                State::Refused => SaState::Refused,
                State::Childless(_) => SaState::Childless,
                State::Established(_) => SaState::Established,
                State::Closing => SaState::Closing,
            },
            identity: sa.identity.clone(),
            suite: sa.suite.map(|suite| suite.to_string()),
            own_auth: sa.own_auth,
            peer_auth: sa.peer_auth,
            begun: sa.begun,
            rekey_at: match &sa.state {
                State::Established(established) => established.rekey_at,
                _ => None,
            },
            last_heard: sa.last_heard,
            outstanding: sa.outstanding.is_some(),
            nat: sa.nat,
            port: sa.port,
            kind: match &sa.state {
                State::Established(established) => Some(established.kind),
                _ => None,
            },
            children: match &sa.state {
                State::Established(established) => {
                    established.children.iter().map(Child::info).collect()
                }
                _ => Vec::new(),
            },
            counters: sa.counters,
        })
    }

    /// How often something was thrown away, for each reason.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.into_iter().map(|reason| (reason, self.drops.of(reason)))
    }

    /// SAs that count against the limits of half-open ones.
    pub fn half_open(&self) -> usize {
        self.half_open.len()
    }
}

/// Checks and decrypts a datagram of an SA.
fn open(
    channel: Option<&Channel>,
    fragmentation: bool,
    header: &Header,
    datagram: &[u8],
) -> Result<Opened, DropReason> {
    let encrypted = Encrypted::decode(header, datagram).map_err(|_| DropReason::Malformed)?;
    let channel = channel.ok_or(DropReason::Unexpected)?;
    if encrypted.fragment.is_some() && !fragmentation {
        return Err(DropReason::Unexpected);
    }
    let plain = channel.open(&encrypted).map_err(|NotAuthentic| DropReason::NotAuthentic)?;
    Ok(Opened { first: encrypted.first, fragment: encrypted.fragment, plain })
}

/// Tables and messages, for the modules that hold the exchanges.
impl Engine {
    pub(crate) fn fresh_id(&mut self) -> SaId {
        self.last_id += 1;
        SaId(self.last_id)
    }

    pub(crate) fn fresh_spi(&self, rng: &mut dyn CryptoRng) -> u64 {
        loop {
            let spi = rng.next_u64();
            if spi != 0 && !self.by_spi.contains_key(&spi) {
                return spi;
            }
        }
    }

    /// [`crate::private::Lineage::instance`] of this node.
    pub(crate) fn instance(&mut self, rng: &mut dyn CryptoRng) -> u64 {
        *self.instance.get_or_insert_with(|| rng.next_u64())
    }

    pub(crate) fn insert(&mut self, sa: Sa) {
        let sa = Box::new(sa);
        self.by_spi.insert(sa.local_spi, sa.id);
        self.by_remote.insert((sa.remote, sa.id));
        if let Some(origin) = sa.origin {
            self.by_origin.insert((origin, sa.peer_spi), sa.id);
        }
        self.put(sa);
    }

    /// Takes an SA out to work on it; [`Self::put`] or [`Self::forget`] it afterwards.
    pub(crate) fn take(&mut self, id: SaId) -> Option<Box<Sa>> {
        self.sas.remove(&id)
    }

    /// Puts an SA back and arms its timer.
    pub(crate) fn put(&mut self, mut sa: Box<Sa>) {
        let deadline = sa.deadline(self.config.dead_peer_interval);
        if sa.armed != Some(deadline) {
            if let Some(armed) = sa.armed.replace(deadline) {
                self.timers.remove(&(armed, sa.id));
            }
            self.timers.insert((deadline, sa.id));
        }
        self.sas.insert(sa.id, sa);
    }

    #[allow(clippy::needless_pass_by_value, reason = "nothing may hold it afterwards")]
    pub(crate) fn forget(&mut self, sa: Box<Sa>) {
        if let Some(armed) = sa.armed {
            self.timers.remove(&(armed, sa.id));
        }
        self.by_spi.remove(&sa.local_spi);
        self.by_remote.remove(&(sa.remote, sa.id));
        if let Some(origin) = sa.origin {
            self.by_origin.remove(&(origin, sa.peer_spi));
        }
        if sa.is_half_open() {
            self.leave_half_open(&sa);
        }
    }

    /// An SA that we answer no longer counts against the limits of half-open ones.
    pub(crate) fn leave_half_open(&mut self, sa: &Sa) {
        if let Some(origin) = sa.origin {
            self.half_open.leave(origin.ip());
        }
    }

    pub(crate) fn set_remote(&mut self, sa: &mut Sa, remote: SocketAddr) {
        self.by_remote.remove(&(sa.remote, sa.id));
        self.by_remote.insert((remote, sa.id));
        sa.remote = remote;
    }

    pub(crate) fn with_origin(&self, origin: SocketAddr, spi: u64) -> Option<&Sa> {
        self.by_origin.get(&(origin, spi)).and_then(|id| self.sas.get(id)).map(AsRef::as_ref)
    }

    pub(crate) fn with_remote(&self, remote: SocketAddr) -> impl Iterator<Item = &Sa> {
        let all = (remote, SaId(0))..=(remote, SaId(u64::MAX));
        self.by_remote.range(all).filter_map(|(_, id)| self.sas.get(id)).map(AsRef::as_ref)
    }

    pub(crate) fn with_identity(&self, identity: &Identity) -> impl Iterator<Item = &Sa> {
        let all = (identity.clone(), SaId(0))..=(identity.clone(), SaId(u64::MAX));
        self.established.range(all).filter_map(|(_, id)| self.sas.get(id)).map(AsRef::as_ref)
    }

    pub(crate) fn transmit(&mut self, port: u16, to: SocketAddr, datagram: Vec<u8>) {
        self.outputs.push_back(Output::Transmit { port, to, datagram });
    }

    /// Sends a message in all its fragments.
    pub(crate) fn transmit_all(&mut self, port: u16, to: SocketAddr, datagrams: &[Vec<u8>]) {
        for datagram in datagrams {
            self.transmit(port, to, datagram.clone());
        }
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.log_esp_keys(&event);
        self.outputs.push_back(Output::Event(event));
    }

    pub(crate) fn count(&mut self, reason: DropReason) {
        self.drops.count(reason);
    }

    /// Tells the layer above that `sa` does not come up.
    pub(crate) fn fail(&mut self, sa: &Sa, identity: Option<Identity>, reason: Refusal) {
        let (sa, remote, initiator) = (sa.id, sa.remote, sa.initiator);
        let superseded = false;
        self.event(Event::Failed { sa, remote, initiator, identity, reason, superseded });
    }

    /// Tells it that it need not, because another SA with the same peer lives.
    pub(crate) fn fail_superseded(&mut self, sa: &Sa, identity: Option<Identity>) {
        let (sa, remote, initiator) = (sa.id, sa.remote, sa.initiator);
        let (reason, superseded) = (superseded(), true);
        self.event(Event::Failed { sa, remote, initiator, identity, reason, superseded });
    }

    /// Sends a request and starts its retransmissions.
    pub(crate) fn send_request(
        &mut self,
        now: Instant,
        sa: &mut Sa,
        request: Request,
        payloads: &[Payload],
        rng: &mut dyn CryptoRng,
    ) {
        let exchange = match request {
            Request::Init => Exchange::IKE_SA_INIT,
            Request::Intermediate => Exchange::IKE_INTERMEDIATE,
            Request::Auth => Exchange::IKE_AUTH,
            Request::Rekey | Request::Child => Exchange::CREATE_CHILD_SA,
            _ => Exchange::INFORMATIONAL,
        };
        let message_id = sa.next_request;
        let header = sa.header(exchange, false, message_id);
        let datagrams = sa.seal(header, payloads);
        sa.next_request += 1;
        sa.counters.requests_sent += 1;
        self.transmit_all(sa.port, sa.remote, &datagrams);
        let outstanding = Outstanding::new(request, exchange, message_id, datagrams, now, rng);
        sa.outstanding = Some(Box::new(outstanding));
    }

    /// Sends the next waiting request, unless one is under way.
    pub(crate) fn send_queued(&mut self, now: Instant, sa: &mut Sa, rng: &mut dyn CryptoRng) {
        if sa.outstanding.is_none()
            && let Some(request) = sa.queue.pop_front()
        {
            let mut payloads = request.informational();
            if request == Request::Update {
                payloads.extend(self.nat_detection(sa.spis(), sa.port, sa.remote));
            }
            self.send_request(now, sa, request, &payloads, rng);
        }
    }

    /// Answers the request that [`Sa::expected_request`] has just moved past.
    pub(crate) fn respond(&mut self, sa: &mut Sa, exchange: Exchange, payloads: &[Payload]) {
        let header = sa.header(exchange, true, sa.expected_request - 1);
        sa.last_response = sa.seal(header, payloads);
        self.transmit_all(sa.port, sa.remote, &sa.last_response);
    }

    /// Answers without an SA, and never with more bytes than came: the source may be forged.
    pub(crate) fn respond_unprotected(
        &mut self,
        (port, to): (u16, SocketAddr),
        request: &Header,
        request_len: usize,
        payloads: &[Payload],
    ) {
        let header =
            Header { version: Header::VERSION, from_initiator: false, response: true, ..*request };
        for count in (1..=payloads.len()).rev() {
            let datagram = wire::encode_plain(header, &payloads[..count]);
            if datagram.len() <= request_len {
                self.transmit(port, to, datagram);
                return;
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn tables_are_empty(&self) -> bool {
        self.by_spi.is_empty()
            && self.by_origin.is_empty()
            && self.by_remote.is_empty()
            && self.timers.is_empty()
            && self.half_open.len() == 0
    }

    /// RFC 7296 §2.5: to a higher version we say which one we speak.
    fn refuse_version(&mut self, from: (u16, SocketAddr), header: &Header, datagram: &[u8]) {
        if header.major_version() > Header::VERSION >> 4 && !header.response {
            let notify = Notify::new(NotifyType::INVALID_MAJOR_VERSION, []);
            self.respond_unprotected(from, header, datagram.len(), &[Payload::Notify(notify)]);
        }
    }
}
