//! `overlayctl trace`: how a packet to one address would go now, and what stands in its way.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use control::{Outcome, Trace, TraceStage, TraceStep, Verdict};
use ipnet::IpNet;
use nhrp::engine::{self, Binding, BindingKind, EntryKind, Nbma, Resolution, ServerStatus};
use overlay::desired::{Hop, PeerId, Transport};
use overlay::{AttemptReport, Refusal, Route, SessionReport};

use crate::config::{Host, Security};
use crate::show::View;

/// Refusals that are told.
const REFUSALS: usize = 3;

/// Traces a packet to `address`. An NBMA address of a peer stands for that peer.
pub(crate) fn trace(view: &View<'_>, address: IpAddr) -> Trace {
    let mut tracer = Tracer { view, steps: Vec::new() };
    let mut trace = Trace {
        destination: address,
        interface: view.name(),
        verdict: Verdict::Nowhere,
        summary: String::new(),
        route: None,
        next_hop: None,
        endpoint: None,
        identity: None,
        ike: None,
        steps: Vec::new(),
    };
    let target = tracer.peer_behind(address).unwrap_or(address);
    tracer.follow(target, &mut trace);
    trace.steps = tracer.steps;
    trace
}

struct Tracer<'a> {
    view: &'a View<'a>,
    steps: Vec<TraceStep>,
}

impl Tracer<'_> {
    fn follow(&mut self, target: IpAddr, trace: &mut Trace) {
        let overlay = &self.view.shell.overlay;
        let local = overlay
            .nhrp()
            .cache()
            .into_iter()
            .find(|entry| entry.kind == EntryKind::Local && entry.prefix.contains(&target));
        if let Some(local) = local {
            trace.verdict = Verdict::Local;
            trace.route = Some(local.prefix);
            let own = self.view.config().tunnel.address.addr();
            trace.summary = match target == own {
                true => format!("{target} is this node's own tunnel address"),
                false => format!("{target} is behind this node, in {}", local.prefix),
            };
            return;
        }
        self.underlay();
        let taken =
            longest(overlay.desired().forwarding.iter().map(|(net, id)| (*net, id)), target);
        let binding = overlay.nhrp().lookup(target);
        match (taken, &binding) {
            (Some((prefix, &Hop { peer: id, .. })), binding) => {
                let binding = binding.as_ref();
                let direct = binding.filter(|binding| binding.prefix == prefix);
                self.carried(target, prefix, id, direct, binding, trace);
            }
            (None, Some(binding)) => {
                trace.next_hop = Some(binding.next_hop);
                trace.endpoint = Some(overlay.endpoint(binding.nbma));
                let cause = self.key_exchange(binding.nbma).or_else(|| self.not_direct(binding));
                let cause = cause.unwrap_or_else(|| "its path is not up yet".to_owned());
                trace.summary = format!(
                    "{target} is not reached: {} belongs to {}, but {cause}",
                    binding.prefix, binding.next_hop
                );
                self.refusals(Some(overlay.endpoint(binding.nbma)));
            }
            (None, None) => self.nobody(target, trace),
        }
    }

    /// A packet leaves, by the session `id`.
    fn carried(
        &mut self,
        target: IpAddr,
        prefix: IpNet,
        id: PeerId,
        direct: Option<&Binding>,
        wanted: Option<&Binding>,
        trace: &mut Trace,
    ) {
        let overlay = &self.view.shell.overlay;
        let Some(session) = self.view.sessions.get(&id) else { return };
        let server = self
            .servers()
            .into_iter()
            .find(|server| server.nbma.and_then(|nbma| overlay.session_at(nbma)) == Some(id));
        trace.route = Some(prefix);
        trace.endpoint = Some(session.endpoint);
        trace.identity = session.identity.clone();
        trace.ike = session.sa.and_then(|sa| self.view.ike_sas().remove(&sa));
        let at = named(session);
        if let Some(binding) = direct {
            trace.verdict = Verdict::Direct;
            trace.next_hop = Some(binding.next_hop);
            let how = match binding.kind {
                BindingKind::Static => "by a static map",
                BindingKind::Nhs => "which is a next-hop server of this node",
                BindingKind::Registered => "which registered here",
                BindingKind::Shortcut => "by a shortcut",
            };
            let next_hop = binding.next_hop;
            trace.summary = format!("{target} goes straight to {next_hop}, {at}, {how}");
            match server.filter(|_| binding.kind == BindingKind::Nhs) {
                Some(server) => drop(self.server(&server)),
                None => {
                    self.session(session);
                }
            }
            return;
        }
        trace.verdict = Verdict::ViaHub;
        trace.next_hop = server.as_ref().map(|server| server.address);
        if let Some(server) = &server {
            self.server(server);
        }
        let why = match wanted {
            Some(binding) => self.key_exchange(binding.nbma).or_else(|| self.not_direct(binding)),
            None => self.resolution(target),
        };
        let hub = server.map_or_else(String::new, |server| format!(" {}", server.address));
        trace.summary = format!("{target} goes through next-hop server{hub}, {at}");
        if let Some(why) = why {
            trace.summary.push_str(&format!("; not directly: {why}"));
        }
        if let Some(binding) = wanted {
            self.refusals(Some(overlay.endpoint(binding.nbma)));
        }
    }

    /// Nothing leads to the target.
    fn nobody(&mut self, target: IpAddr, trace: &mut Trace) {
        let config = self.view.config();
        let covered = config.tunnel.address.trunc().contains(&target)
            || config.routes.iter().any(|route| route.contains(&target));
        let mut servers = self.servers();
        if let Some(at) = servers.iter().position(|server| server.address == target) {
            servers.swap(0, at);
            servers.truncate(1);
        } else if !covered {
            trace.verdict = Verdict::Outside;
            trace.summary = format!(
                "{target} is not in the overlay: neither the tunnel's network, nor `routes`, nor a \
                 prefix of a peer covers it"
            );
            return;
        }
        if servers.is_empty() {
            let overlay = &self.view.shell.overlay;
            let owner = overlay.session_of(target).and_then(|id| self.view.sessions.get(&id));
            let Some(owner) = owner else {
                trace.summary = format!("{target} is not reached: no node has registered it here");
                self.refusals(None);
                return;
            };
            trace.endpoint = Some(owner.endpoint);
            trace.identity = owner.identity.clone();
            self.session(owner);
            let refused = overlay.refusals().find(|r| r.refused.peer == owner.endpoint);
            let cause = match refused {
                Some(refusal) => refusal.refused.reason.clone(),
                None => "no registration came".to_owned(),
            };
            let who = named(owner);
            trace.summary =
                format!("{target} is not reached: {who}, whose it is, is not registered: {cause}");
            self.refusals(Some(owner.endpoint));
            return;
        }
        let mut cause = None;
        for server in &servers {
            let first = self.server(server);
            if cause.is_none() {
                trace.next_hop = Some(server.address);
                let overlay = &self.view.shell.overlay;
                trace.endpoint = server.nbma.map(|nbma| overlay.endpoint(nbma));
                cause = first;
            }
        }
        let cause = cause.unwrap_or_else(|| "its path is not up yet".to_owned());
        let address = servers[0].address;
        trace.summary = match target == address {
            true => format!("next-hop server {target} is not reached: {cause}"),
            false => format!("{target} is not reached: next-hop server {address}: {cause}"),
        };
        let overlay = &self.view.shell.overlay;
        self.refusals(servers[0].nbma.map(|nbma| overlay.endpoint(nbma)));
    }

    fn servers(&self) -> Vec<ServerStatus> {
        let mut servers = self.view.shell.overlay.nhrp().servers();
        servers.sort_by_key(|server| server.priority);
        servers
    }

    /// The tunnel address of whoever stands at an NBMA address.
    fn peer_behind(&self, nbma: IpAddr) -> Option<IpAddr> {
        let at = |other: Option<Nbma>| other.is_some_and(|other| other.address == nbma);
        let server = self.servers().into_iter().find(|server| at(server.nbma));
        server.map(|server| server.address).or_else(|| {
            let mut bindings = self.view.shell.overlay.bindings();
            bindings.find(|binding| at(Some(binding.nbma))).map(|binding| binding.next_hop)
        })
    }

    fn step(&mut self, stage: TraceStage, peer: Option<String>, outcome: Outcome, text: String) {
        self.steps.push(TraceStep { stage, peer, outcome, text });
    }

    fn underlay(&mut self) {
        let source = &self.view.config().underlay.source;
        match self.view.shell.overlay.nbma() {
            Some(nbma) => {
                let text = format!("{source} has {nbma}");
                self.step(TraceStage::Underlay, None, Outcome::Done, text);
            }
            None => {
                let text = format!("{source} has no address");
                self.step(TraceStage::Underlay, None, Outcome::Failed, text);
            }
        }
    }

    /// Every stage up to a registration; the first that is not done, in words.
    fn server(&mut self, server: &ServerStatus) -> Option<String> {
        let shell = self.view.shell;
        if shell.overlay.nbma().is_none() {
            return Some(format!("{} has no address", self.view.config().underlay.source));
        }
        let mut nhs = self.view.config().nhs.iter();
        let configured = nhs.find(|nhs| nhs.address == server.address).map(|nhs| &nhs.nbma.host);
        if let Some(Host::Name(name)) = configured {
            let failed = shell.unresolved.get(&server.address);
            let (outcome, text) = match (server.nbma, failed) {
                (Some(nbma), None) => (Outcome::Done, format!("it is {}", nbma.address)),
                (Some(nbma), Some(why)) => {
                    (Outcome::Done, format!("{why}; its last address, {}, is kept", nbma.address))
                }
                (None, Some(why)) => (Outcome::Failed, why.clone()),
                (None, None) => (Outcome::Waiting, "the look-up has no answer yet".to_owned()),
            };
            self.step(TraceStage::Name, Some(name.clone()), outcome, text.clone());
            if outcome != Outcome::Done {
                return Some(text);
            }
        }
        let nbma = server.nbma?;
        let keyed = self.key_exchange(nbma);
        let registered = self.registration(server, keyed.is_none());
        keyed.or(registered)
    }

    /// Key exchange and session with whoever is at `nbma`; what is not done, in words.
    fn key_exchange(&mut self, nbma: Nbma) -> Option<String> {
        let view = self.view;
        let overlay = &view.shell.overlay;
        let endpoint = overlay.endpoint(nbma);
        let found = overlay
            .session_at(nbma)
            .and_then(|id| view.sessions.get(&id))
            .or_else(|| view.sessions.values().find(|session| session.endpoint == endpoint));
        if let Some(session) = found {
            return self.session(session);
        }
        if view.config().security == Security::None {
            let text = "security: none: there are no keys to agree on".to_owned();
            self.step(TraceStage::KeyExchange, Some(endpoint.to_string()), Outcome::Done, text);
            return None;
        }
        let attempt = overlay.attempts().find(|attempt| attempt.endpoint == endpoint);
        let latest = overlay.refusals().find(|refusal| refusal.refused.peer == endpoint);
        let (outcome, text) = match (attempt, latest) {
            (Some(attempt), _) if attempt.failures > 0 => {
                (Outcome::Failed, self.failures(&attempt))
            }
            (_, Some(refusal)) => (Outcome::Failed, refusal.refused.reason.clone()),
            (Some(_), None) => (Outcome::Waiting, "under way, no answer yet".to_owned()),
            (None, None) => (Outcome::Waiting, "not begun: no traffic asked for it".to_owned()),
        };
        self.step(TraceStage::KeyExchange, Some(endpoint.to_string()), outcome, text.clone());
        Some(match outcome {
            Outcome::Failed => text,
            _ => format!("key exchange with {endpoint} {text}"),
        })
    }

    fn failures(&self, attempt: &AttemptReport) -> String {
        let reason = attempt.reason.as_deref().unwrap_or("failed");
        let tries = match attempt.failures {
            1 => "1 try failed".to_owned(),
            tries => format!("{tries} tries failed"),
        };
        let next = match attempt.retry_at {
            _ if attempt.under_way => "the next one is under way".to_owned(),
            Some(at) => format!("the next one in {} s", self.view.remaining(at)),
            None => "the next one with the next request".to_owned(),
        };
        format!("{reason} ({tries}, {next})")
    }

    fn session(&mut self, session: &SessionReport) -> Option<String> {
        let view = self.view;
        let endpoint = session.endpoint.to_string();
        let ago = seconds(view.now, session.since);
        if let Some(sa) = session.sa.and_then(|sa| view.ike_sas().remove(&sa)) {
            let who = session.identity.as_deref().unwrap_or("nobody");
            let suite = sa.suite.as_deref().unwrap_or("no suite");
            let text = format!("{who} proved itself {} s ago, {suite}", sa.age_seconds);
            self.step(TraceStage::KeyExchange, Some(endpoint.clone()), Outcome::Done, text);
        }
        if session.up {
            let text = match self.view.counters(session.peer).rx_packets {
                0 => format!("up for {ago} s, and no packet came through yet"),
                _ => format!("carries packets for {ago} s"),
            };
            self.step(TraceStage::Session, Some(endpoint), Outcome::Done, text);
            return None;
        }
        let text = format!(
            "keys are agreed for {ago} s, but no packet came through: does UDP {} pass both ways at every \
             firewall between?",
            session.endpoint.port()
        );
        self.step(TraceStage::Session, Some(endpoint), Outcome::Waiting, text.clone());
        Some(text)
    }

    /// Why nothing came back from a server whose session is up.
    fn unanswered(&self, server: &ServerStatus) -> String {
        let overlay = &self.view.shell.overlay;
        let key = match self.view.config().tunnel.key {
            Some(key) => format!("`tunnel.key` (here {key})"),
            None => "`tunnel.key` (here none)".to_owned(),
        };
        let count = server.requests - server.replies.min(server.requests);
        let session = server.nbma.and_then(|nbma| overlay.session_at(nbma));
        let peer = session.and_then(|id| Some((id, overlay.desired().peers.get(&id)?)));
        match peer.map(|(id, peer)| (&peer.transport, self.view.counters(id).rx_packets)) {
            // IKE came another way than ESP does.
            Some((Transport::Esp(esp), 0)) if !esp.encapsulated => format!(
                "no reply to {count} registration requests, and no packet at all came through the session: \
                 does ESP (IP protocol 50) pass both ways at every firewall between? If it does, compare \
                 {key} with the server's"
            ),
            _ => format!(
                "no reply to {count} registration requests although the session is up: a node drops GRE \
                 with another key silently, so compare {key} with the server's"
            ),
        }
    }

    fn registration(&mut self, server: &ServerStatus, keyed: bool) -> Option<String> {
        let peer = Some(server.address.to_string());
        let stage = TraceStage::Registration;
        let counts = match server.requests {
            1 => format!("1 request sent, {} answered", server.replies),
            requests => format!("{requests} requests sent, {} answered", server.replies),
        };
        if server.state == engine::NhsState::Responding {
            let ago = seconds(self.view.now, server.since);
            let text = format!("accepted for {ago} s; {counts}");
            self.step(stage, peer, Outcome::Done, text);
            return None;
        }
        if !keyed {
            self.step(stage, peer, Outcome::Waiting, "it needs the session first".to_owned());
            return None;
        }
        let next = server.next.map_or_else(String::new, |at| {
            format!(", the next one in {} s", self.view.remaining(at))
        });
        let nbma = server.nbma.map(|nbma| self.view.shell.overlay.endpoint(nbma));
        let refused = self
            .view
            .shell
            .overlay
            .refusals()
            .find(|refusal| Some(refusal.refused.peer) == nbma && refusal.last >= server.since);
        let (outcome, cause) = match (refused, &server.last_refusal) {
            (Some(refused), _) => (Outcome::Failed, refused.refused.reason.clone()),
            (None, Some(_)) => (Outcome::Failed, server.why.clone()),
            (None, None) if server.requests > 1 => (Outcome::Failed, self.unanswered(server)),
            (None, None) => (Outcome::Waiting, server.why.clone()),
        };
        self.step(stage, peer, outcome, format!("{cause} ({counts}{next})"));
        Some(cause)
    }

    fn resolution(&mut self, target: IpAddr) -> Option<String> {
        let shell = self.view.shell;
        let stage = TraceStage::Resolution;
        let peer = Some(target.to_string());
        let (outcome, text) = match shell.overlay.nhrp().resolution_of(target) {
            Some(Resolution::Asked { since, times, next, .. }) => {
                let ago = seconds(self.view.now, since);
                let next = next.map_or_else(String::new, |at| {
                    format!(", again in {} s", self.view.remaining(at))
                });
                let text = format!("the server was asked {times} times since {ago} s{next}");
                (Outcome::Waiting, text)
            }
            Some(Resolution::Failed { at, until, reason }) => {
                let (ago, wait) = (seconds(self.view.now, at), self.view.remaining(until));
                let text = format!("{reason}, {ago} s ago; not asked again for {wait} s");
                (Outcome::Failed, text)
            }
            None if !self.view.config().nhrp.shortcut => {
                (Outcome::Waiting, "`nhrp.shortcut` is off".to_owned())
            }
            None => {
                let text = "no Traffic Indication came for it yet: traffic brings one";
                (Outcome::Waiting, text.to_owned())
            }
        };
        self.step(stage, peer, outcome, text.clone());
        Some(text)
    }

    /// Why a binding is not used although a session may be there.
    fn not_direct(&self, binding: &Binding) -> Option<String> {
        match self.view.shell.overlay.route(binding) {
            Route::Indirect(why) => why,
            Route::Direct(_) => None,
        }
    }

    /// The last refusals at one endpoint, or of all, that no step has told yet.
    fn refusals(&mut self, endpoint: Option<SocketAddr>) {
        let overlay = &self.view.shell.overlay;
        let fits = |refusal: &&Refusal| endpoint.is_none_or(|at| refusal.refused.peer == at);
        let told: Vec<&Refusal> = overlay
            .refusals()
            .filter(fits)
            .filter(|refusal| {
                !self.steps.iter().any(|step| step.text.contains(&refusal.refused.reason))
            })
            .take(REFUSALS)
            .collect();
        for refusal in told {
            let ago = seconds(self.view.now, refusal.last);
            let who = refusal.refused.identity.as_deref();
            let who = who.map_or_else(String::new, |who| format!("{who}: "));
            let text = format!("{who}{} ({ago} s ago)", refusal.refused.reason);
            let peer = Some(refusal.refused.peer.to_string());
            self.step(TraceStage::Refusal, peer, Outcome::Failed, text);
        }
    }
}

/// `CN=hub at 198.51.100.1:4500`
fn named(session: &SessionReport) -> String {
    match &session.identity {
        Some(identity) => format!("{identity} at {}", session.endpoint),
        None => format!("at {}", session.endpoint),
    }
}

fn seconds(now: Instant, since: Instant) -> u64 {
    now.saturating_duration_since(since).as_secs()
}

fn longest<T>(all: impl Iterator<Item = (IpNet, T)>, target: IpAddr) -> Option<(IpNet, T)> {
    all.filter(|(prefix, _)| prefix.contains(&target)).max_by_key(|(prefix, _)| prefix.prefix_len())
}
