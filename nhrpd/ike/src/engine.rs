//! All IKE SAs of one node: timers, and the way of a datagram to its SA.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand_core::CryptoRng;

use crate::cookie::Cookies;
use crate::crypto::channel::{Channel, NotAuthentic};
use crate::fragment::{self, Opened};
use crate::limits::{DropReason, Drops, HalfOpen, StrangerEvents};
use crate::sa::{Established, Request, Sa, State, TRANSMISSIONS};
use crate::wire::{self, Encrypted, Exchange, Header};
use crate::{Config, Credentials, Event, Identity, Output, Refusal, SaId, TunnelId};

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
    pub(crate) by_spi: BTreeMap<u64, SaId>,
    /// Of a responder: by the source of IKE_SA_INIT and the initiator's SPI.
    pub(crate) by_origin: BTreeMap<(SocketAddr, u64), SaId>,
    pub(crate) by_remote: BTreeSet<(SocketAddr, SaId)>,
    pub(crate) established: BTreeSet<(Identity, SaId)>,
    pub(crate) timers: BTreeSet<(Instant, SaId)>,
    pub(crate) half_open: HalfOpen,
    pub(crate) cookies: Cookies,
    pub(crate) strangers: StrangerEvents,
    pub(crate) drops: Drops,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) last_id: u64,
    /// Inbound SPIs of ESP.
    pub(crate) esp_spis: BTreeMap<u32, TunnelId>,
    pub(crate) last_tunnel: u64,
    /// Own address on the underlay.
    pub(crate) address: Option<IpAddr>,
    /// See [`crate::crossing`].
    pub(crate) clock: u64,
    pub(crate) instance: Option<u64>,
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
        // Rounded: the same failure again is told in the same words.
        let seconds = now.saturating_duration_since(outstanding.first_sent).as_secs();
        let seconds = (seconds + 2) / 5 * 5;
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
