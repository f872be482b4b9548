//! The NHRP protocol of one node on one tunnel: client, server and transit in one.
//!
//! Feed it packets, requests and the time; ask it for packets, events and the next deadline:
//! after every input, call [`Engine::poll_output`] until it gives `None`, then arm a timer for
//! [`Engine::poll_timeout`]. Instants that are fed in never go back.

mod config;
mod event;
mod show;

use std::net::IpAddr;
use std::time::Instant;

use rand_core::Rng;

pub use config::{Authorization, Config, Limits, Nbma, Password, Server};
pub use event::{Binding, BindingKind, Claim, Event, Output, Usage};
pub use show::{
    CacheEntry, Counters, EntryFlags, EntryKind, NhsState, Refusal, ServerStatus,
};

/// The engine.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    counters: Counters,
}

impl Engine {
    /// A fresh engine; `rng` gives the first request id (it must not repeat after a restart).
    /// The first registration is due at once.
    pub fn new(config: Config, now: Instant, rng: &mut dyn Rng) -> Self {
        let _ = (now, rng);
        Self { config, counters: Counters::default() }
    }

    /// Takes an NHRP packet that `from` sent inside the tunnel.
    pub fn handle_packet(&mut self, now: Instant, from: Nbma, packet: &[u8]) {
        let _ = (now, from, packet, &self.config);
    }

    /// Runs what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant, usage: &dyn Usage) {
        let _ = (now, usage);
    }

    /// When [`Self::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// The next packet or event; call until `None` after every input.
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }

    /// What the identity behind `peer` may claim; `None` forgets it (then
    /// [`Config::default_authorization`] holds). A server with neither is one to whose clients
    /// no path is up: it answers for them instead of forwarding to them.
    pub fn set_authorization(&mut self, peer: Nbma, authorization: Option<Authorization>) {
        let _ = (peer, authorization);
    }

    /// A path to `peer` came up: what waits for it is sent at once instead of after its back-off.
    pub fn path_up(&mut self, now: Instant, peer: Nbma) {
        let _ = (now, peer);
    }

    /// The path to `peer` is dead. If that is a next-hop server, it is down at once and
    /// registration begins anew; `reason` is for the operator.
    pub fn path_down(&mut self, now: Instant, peer: Nbma, reason: &str) {
        let _ = (now, peer, reason);
    }

    /// Own NBMA address changed: purges the old binding at the servers and registers anew.
    pub fn set_nbma(&mut self, now: Instant, nbma: Option<IpAddr>) {
        let _ = (now, nbma);
    }

    /// A peer is now reached elsewhere (authenticated move): its bindings and its authorization
    /// follow.
    pub fn peer_moved(&mut self, now: Instant, from: Nbma, to: Nbma) {
        let _ = (now, from, to);
    }

    /// The NBMA address of a server became known or changed (its name was resolved). `None`: the
    /// name does not resolve at present; a known address is then kept.
    pub fn set_server_nbma(&mut self, now: Instant, server: IpAddr, nbma: Option<Nbma>) {
        let _ = (now, server, nbma);
    }

    /// Traffic for `destination` wants a better path than the one through a server. Does nothing
    /// where the destination is known, ours, being resolved, or was asked for in vain just now.
    pub fn resolve(&mut self, now: Instant, destination: IpAddr) {
        let _ = (now, destination);
    }

    /// The forwarding path sent a packet of `peer` back into the tunnel; `packet` is its
    /// IP header and the first bytes. Issues a Traffic Indication, within limits.
    pub fn redirect(&mut self, now: Instant, peer: Nbma, packet: &[u8]) {
        let _ = (now, peer, packet);
    }

    /// Clean stop: purges own registrations, at the servers and at those who resolved us. Nothing
    /// is registered, resolved or answered any more. [`Event::ShutdownComplete`] tells when all
    /// purges are answered or given up; who cannot wait may drop the engine at any time.
    pub fn shutdown(&mut self, now: Instant) {
        let _ = now;
    }

    /// Everything that forwarding may use now, in order of prefix. Costs time in proportion to
    /// their number; [`Event::BindingChanged`] tells the same step by step.
    pub fn bindings(&self) -> impl Iterator<Item = Binding> + '_ {
        std::iter::empty()
    }

    /// Forgets everything learnt: registrations of others, shortcuts, negative entries. Static
    /// bindings and servers stay.
    pub fn clear_cache(&mut self) {}

    /// Forgets shortcuts and negative entries, and what is being resolved.
    pub fn clear_shortcuts(&mut self) {}

    /// Forgets everything learnt of the peer with this protocol address. A server is registered
    /// with anew.
    pub fn clear_peer(&mut self, now: Instant, peer: IpAddr) {
        let _ = (now, peer);
    }

    /// Every cache entry, own prefixes included, in order of prefix.
    pub fn cache(&self) -> Vec<CacheEntry> {
        Vec::new()
    }

    /// The next-hop servers, in the order of the configuration.
    pub fn servers(&self) -> Vec<ServerStatus> {
        Vec::new()
    }

    /// Counters since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The configuration, as it is now.
    pub fn config(&self) -> &Config {
        &self.config
    }
}
