//! What happened, told at once to the log and to whoever monitors.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use control::{Event, EventKind, Publisher};
use ipnet::IpNet;
use overlay::Notice;

use crate::config::{Config, Security};

/// Tells what happened on one tunnel.
#[derive(Debug)]
pub(crate) struct Teller {
    interface: String,
    /// UDP port of whoever has the usual one.
    port: u16,
    publisher: Publisher,
    told: BTreeMap<&'static str, u64>,
}

/// What an event is about; what does not apply is absent.
#[derive(Debug, Default)]
pub(crate) struct About {
    peer: Option<SocketAddr>,
    identity: Option<String>,
    prefix: Option<IpNet>,
    server: Option<IpAddr>,
    reason: Option<String>,
}

impl Teller {
    pub(crate) fn new(config: &Config, publisher: Publisher) -> Self {
        let port = match config.security {
            Security::None => 0,
            Security::Keyed(..) => config.underlay.port,
        };
        Self { interface: config.tunnel.interface.clone(), port, publisher, told: BTreeMap::new() }
    }

    pub(crate) fn notice(&mut self, notice: Notice) {
        let message = notice.to_string();
        let (kind, mut about) = about(notice);
        if let Some(peer) = about.peer.as_mut().filter(|peer| peer.port() == 0) {
            peer.set_port(self.port);
        }
        self.tell(kind, message, about);
    }

    /// How many events of this kind there were.
    pub(crate) fn told(&self, kind: EventKind) -> u64 {
        self.told.get(kind.as_str()).copied().unwrap_or_default()
    }

    /// The name of a next-hop server does not resolve.
    pub(crate) fn unresolved(&mut self, server: IpAddr, reason: &str) {
        let message = format!("next-hop server {server}: {reason}");
        let reason = Some(reason.to_owned());
        let about = About { server: Some(server), reason, ..About::default() };
        self.tell(EventKind::ServerUnresolved, message, about);
    }

    /// Another configuration holds; these sections differ.
    pub(crate) fn reloaded(&mut self, changed: &[String]) {
        let message = match changed {
            [] => "configuration reloaded: nothing differs".to_owned(),
            changed => format!("configuration reloaded: {} changed", changed.join(", ")),
        };
        self.tell(EventKind::Reloaded, message, About::default());
    }

    /// The configuration is not good, or cannot hold while we run.
    pub(crate) fn reload_refused(&mut self, reason: &str) {
        let message = format!("configuration not reloaded, nothing has changed: {reason}");
        let about = About { reason: Some(reason.to_owned()), ..About::default() };
        self.tell(EventKind::ReloadRefused, message, about);
    }

    /// A certificate or a revocation list ends soon, or is past its end.
    pub(crate) fn ends(&mut self, name: &str, warning: String) {
        let identity = Some(name.to_owned());
        self.tell(EventKind::CertificateEnds, warning, About { identity, ..About::default() });
    }

    fn tell(&mut self, kind: EventKind, message: String, about: About) {
        let About { peer, identity, prefix, server, reason } = about;
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let interface = self.interface.clone();
        let event =
            Event { time, interface, kind, message, peer, identity, prefix, server, reason };
        log(&event);
        *self.told.entry(kind.as_str()).or_default() += 1;
        self.publisher.publish(event);
    }
}

/// A state change is INFO; only what somebody must act on is WARN.
fn log(event: &Event) {
    use EventKind as K;
    let (peer, prefix) = (event.peer.map(tracing::field::display), event.prefix);
    let (prefix, server) =
        (prefix.map(tracing::field::display), event.server.map(tracing::field::display));
    macro_rules! log {
        ($level:ident) => {
            tracing::$level!(
                event = event.kind.as_str(),
                interface = event.interface,
                peer,
                identity = event.identity,
                prefix,
                server,
                reason = event.reason,
                "{}",
                event.message
            )
        };
    }
    match event.kind {
        K::Refused | K::ServerDown | K::ServerUnresolved => log!(warn),
        K::ReloadRefused | K::CertificateEnds => log!(warn),
        K::UnderlayChanged if event.reason.is_some() => log!(warn),
        K::ResolutionFailed | K::ErrorReceived => log!(debug),
        _ => log!(info),
    }
}

fn about(notice: Notice) -> (EventKind, About) {
    use EventKind as K;
    let none = About::default();
    match notice {
        Notice::PeerUp { endpoint, identity } => {
            (K::PeerUp, About { peer: Some(endpoint), identity, ..none })
        }
        Notice::PeerDown { endpoint, identity, reason } => {
            (K::PeerDown, About { peer: Some(endpoint), identity, reason: Some(reason), ..none })
        }
        Notice::PeerRekeyed { endpoint, identity } => {
            (K::PeerRekeyed, About { peer: Some(endpoint), identity, ..none })
        }
        Notice::PeerMoved { to, .. } => (K::PeerMoved, About { peer: Some(to), ..none }),
        Notice::Refused(refused) => {
            let (peer, identity) = (Some(refused.peer), refused.identity);
            (K::Refused, About { peer, identity, reason: Some(refused.reason), ..none })
        }
        Notice::Direct { prefix, endpoint } => {
            (K::ShortcutUp, About { prefix: Some(prefix), peer: Some(endpoint), ..none })
        }
        Notice::Indirect { prefix } => (K::ShortcutDown, About { prefix: Some(prefix), ..none }),
        Notice::ServerUp { server } => (K::ServerUp, About { server: Some(server), ..none }),
        Notice::ServerDown { server, reason } => {
            (K::ServerDown, About { server: Some(server), reason: Some(reason), ..none })
        }
        Notice::Registered { prefix, seen, .. } => {
            let peer = Some(SocketAddr::new(seen.address, seen.port));
            (K::Registered, About { prefix: Some(prefix), peer, ..none })
        }
        Notice::Unregistered { prefix, reason } => {
            let reason = Some(reason.to_owned());
            (K::Unregistered, About { prefix: Some(prefix), reason, ..none })
        }
        Notice::SeenAs { server, nbma } => {
            let peer = Some(SocketAddr::new(nbma.address, nbma.port));
            (K::BehindNat, About { server: Some(server), peer, ..none })
        }
        Notice::Underlay { nbma } => {
            let reason = nbma.is_none().then(|| "the underlay has no address".to_owned());
            (K::UnderlayChanged, About { reason, ..none })
        }
        Notice::ResolutionFailed { destination, reason } => {
            let prefix = Some(destination.into());
            (K::ResolutionFailed, About { prefix, reason: Some(reason), ..none })
        }
        Notice::ErrorReceived { peer, reason, .. } => {
            let peer = Some(SocketAddr::new(peer.address, peer.port));
            (K::ErrorReceived, About { peer, reason: Some(reason.to_owned()), ..none })
        }
    }
}
