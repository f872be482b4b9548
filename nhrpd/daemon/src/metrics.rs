//! What Prometheus reads: OpenMetrics, made from the state at the moment of a scrape.

pub(crate) mod http;

use std::collections::BTreeMap;
use std::time::Duration;

use control::{EventKind, Handler as _, IkeState, NhsState, PeerState, ShortcutState};
use nhrp::engine::BindingKind;
use overlay::desired::{Changes, PeerCounters, PeerId};
use overlay::{Began, Overlay, SessionReport};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::shell::Shell;
use crate::show::Show;

/// Peers with counters of their own; the traffic of all further ones counts as that of `other`.
const PEERS: usize = 512;
const OTHER: &str = "other";

/// Upper bounds of the histograms, in seconds: from a LAN to the last of IKE's retransmissions.
const SECONDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// What has to be counted while it happens.
#[derive(Debug)]
pub(crate) struct Statistics {
    key_exchanges: Histogram,
    registrations: Histogram,
    resolutions: Histogram,
    traffic: Traffic,
}

impl Default for Statistics {
    fn default() -> Self {
        let [key_exchanges, registrations, resolutions] = [(); 3].map(|()| Histogram::new(SECONDS));
        Self { key_exchanges, registrations, resolutions, traffic: Traffic::default() }
    }
}

impl Statistics {
    /// Something that we began is done.
    pub(crate) fn took(&self, began: Began, time: Duration) {
        let histogram = match began {
            Began::KeyExchange => &self.key_exchanges,
            Began::Registration => &self.registrations,
            Began::Resolution => &self.resolutions,
        };
        histogram.observe(time.as_secs_f64());
    }

    /// The data plane is about to get another desired state: what it knows of paths that go is
    /// counted before they do.
    pub(crate) fn before(
        &mut self,
        overlay: &Overlay,
        changes: &Changes,
        counters: impl FnOnce() -> BTreeMap<PeerId, PeerCounters>,
    ) {
        let peers = &overlay.desired().peers;
        let gone = |id: &&PeerId| !peers.contains_key(id) && self.traffic.paths.contains_key(id);
        let gone: Vec<PeerId> = changes.peers.iter().filter(gone).copied().collect();
        if !gone.is_empty() {
            self.traffic.count(&counters());
            for id in gone {
                self.traffic.paths.remove(&id);
            }
        }
        self.traffic.follow(changes.peers.iter().filter_map(|&id| overlay.session(id)));
    }
}

/// The traffic of peers, whose paths come and go with their keys.
#[derive(Debug, Default)]
struct Traffic {
    /// Whose a path is, and what of it is counted already.
    paths: BTreeMap<PeerId, (String, PeerCounters)>,
    totals: BTreeMap<String, PeerCounters>,
}

impl Traffic {
    fn follow(&mut self, sessions: impl Iterator<Item = SessionReport>) {
        for session in sessions {
            let SessionReport { peer, identity, endpoint, .. } = session;
            self.paths.entry(peer).or_insert_with(|| {
                let name = identity.unwrap_or_else(|| endpoint.ip().to_string());
                let known = self.totals.contains_key(&name) || self.totals.len() < PEERS;
                let name = if known { name } else { OTHER.to_owned() };
                self.totals.entry(name.clone()).or_default();
                (name, PeerCounters::default())
            });
        }
    }

    fn count(&mut self, counters: &BTreeMap<PeerId, PeerCounters>) {
        for (id, (name, counted)) in &mut self.paths {
            let (Some(now), Some(total)) = (counters.get(id), self.totals.get_mut(name)) else {
                continue;
            };
            total.tx_packets += now.tx_packets.saturating_sub(counted.tx_packets);
            total.tx_bytes += now.tx_bytes.saturating_sub(counted.tx_bytes);
            total.rx_packets += now.rx_packets.saturating_sub(counted.rx_packets);
            total.rx_bytes += now.rx_bytes.saturating_sub(counted.rx_bytes);
            total.dropped_packets += now.dropped_packets.saturating_sub(counted.dropped_packets);
            *counted = *now;
        }
    }
}

type Labels = Vec<(&'static str, String)>;

/// A registry that is filled once and read once.
struct Page(Registry);

impl Page {
    fn counters(&mut self, name: &str, help: &str, rows: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Counter>::default();
        for (labels, value) in rows {
            family.get_or_create(&labels).inc_by(value);
        }
        self.0.register(name, help, family);
    }

    fn gauges(&mut self, name: &str, help: &str, rows: impl IntoIterator<Item = (Labels, i64)>) {
        let family = Family::<Labels, Gauge>::default();
        for (labels, value) in rows {
            family.get_or_create(&labels).set(value);
        }
        self.0.register(name, help, family);
    }

    fn gauge(&mut self, name: &str, help: &str, value: i64) {
        self.gauges(name, help, [(Vec::new(), value)]);
    }

    /// How many of `found` are in each state.
    fn states<S: PartialEq + Copy>(
        &mut self,
        name: &str,
        help: &str,
        states: &[(&str, S)],
        found: &[S],
    ) {
        let count = |state: S| found.iter().filter(|found| **found == state).count();
        let rows = states.iter().map(|(word, state)| {
            (vec![("state", (*word).to_owned())], i64::try_from(count(*state)).unwrap_or(i64::MAX))
        });
        self.gauges(name, help, rows);
    }
}

/// All metrics, as OpenMetrics text.
pub(crate) fn text(shell: &mut Shell) -> String {
    let interface = ("interface".into(), shell.config.tunnel.interface.clone().into());
    let mut page = Page(Registry::with_prefix_and_labels("nhrpd", [interface].into_iter()));
    let version = vec![("version", env!("CARGO_PKG_VERSION"))];
    page.0.register("build", "The version that runs", Info::new(version));
    overview(&mut page, shell);
    protocols(&mut page, shell);
    certificates(&mut page, shell);
    traffic(&mut page, shell);
    let mut text = String::new();
    // Writing into a String does not fail.
    let _ = encode(&mut text, &page.0);
    text
}

fn overview(page: &mut Page, shell: &mut Shell) {
    let dmvpn = Show(shell).dmvpn();
    let shortcuts = Show(shell).shortcuts().shortcuts;
    let sas = Show(shell).ike_sa().sas;
    let interface = dmvpn.interfaces.first();
    let peers: Vec<PeerState> =
        interface.map(|i| i.peers.iter().map(|peer| peer.state).collect()).unwrap_or_default();
    let up = interface.map_or(0, |interface| interface.up_seconds);
    page.gauge(
        "uptime_seconds",
        "Since the tunnel is there",
        i64::try_from(up).unwrap_or(i64::MAX),
    );
    page.states(
        "peers",
        "Peers by state",
        &[("up", PeerState::Up), ("nhrp", PeerState::Nhrp), ("ike", PeerState::Ike)],
        &peers,
    );
    let servers = interface.map(|interface| &interface.nhs[..]).unwrap_or_default();
    page.gauges(
        "next_hop_server_up",
        "Whether a next-hop server holds our registration",
        servers.iter().map(|server| {
            let labels = vec![("server", server.address.to_string())];
            (labels, i64::from(server.state == NhsState::Responding))
        }),
    );
    page.states(
        "shortcuts",
        "Direct ways to other spokes by state",
        &[
            ("resolving", ShortcutState::Resolving),
            ("keying", ShortcutState::Keying),
            ("active", ShortcutState::Active),
        ],
        &shortcuts.iter().map(|shortcut| shortcut.state).collect::<Vec<_>>(),
    );
    page.states(
        "ike_sas",
        "IKE SAs by state",
        &[
            ("half_open", IkeState::HalfOpen),
            ("childless", IkeState::Childless),
            ("established", IkeState::Established),
        ],
        &sas.iter().map(|sa| sa.state).collect::<Vec<_>>(),
    );
    let registered =
        shell.overlay.bindings().filter(|binding| binding.kind == BindingKind::Registered).count();
    page.gauge(
        "registrations",
        "Addresses and prefixes that are registered here",
        i64::try_from(registered).unwrap_or(i64::MAX),
    );
}

fn protocols(page: &mut Page, shell: &Shell) {
    page.counters(
        "events",
        "What happened, by the kinds of overlayctl monitor",
        EventKind::ALL
            .iter()
            .map(|kind| (vec![("kind", kind.as_str().to_owned())], shell.teller.told(*kind))),
    );
    let (mut packets, mut refusals) = (Vec::new(), Vec::new());
    let mut forwarded = 0;
    for (name, value) in shell.overlay.nhrp().counters().iter() {
        match name.split_once(' ') {
            Some(("refused:", reason)) => {
                refusals.push((vec![("reason", reason.to_owned())], value));
            }
            Some((direction, kind)) => {
                let kind = kind.replace(' ', "_");
                packets.push((vec![("direction", direction.to_owned()), ("type", kind)], value));
            }
            None => forwarded = value,
        }
    }
    page.counters("nhrp_packets", "NHRP packets by direction and type", packets);
    page.counters(
        "nhrp_forwarded_packets",
        "NHRP packets passed on for others; they count as sent, too",
        [(Vec::new(), forwarded)],
    );
    page.counters("nhrp_refusals", "What NHRP did not do, by reason", refusals);
    let by_reason = |(reason, value): (&str, u64)| (vec![("reason", reason.to_owned())], value);
    page.counters(
        "ike_dropped_messages",
        "IKE messages dropped, by reason",
        shell.overlay.ike().drops().map(|(reason, value)| by_reason((reason.name(), value))),
    );
    page.counters(
        "dropped_packets",
        "Packets dropped by the data plane, by reason",
        shell.plane.drops().into_iter().map(by_reason),
    );
    let Statistics { key_exchanges, registrations, resolutions, .. } = &shell.statistics;
    for (name, help, histogram) in [
        (
            "ike_key_exchange_seconds",
            "From IKE_SA_INIT until both sides are authenticated, where we began",
            key_exchanges,
        ),
        ("registration_seconds", "Until a server accepts our registration", registrations),
        ("resolution_seconds", "Until a resolution of ours is answered", resolutions),
    ] {
        page.0.register(name, help, histogram.clone());
    }
}

fn certificates(page: &mut Page, shell: &Shell) {
    let Some(credentials) = shell.overlay.credentials() else { return };
    let (Some(own), Some(verifier)) = (credentials.certificate(), credentials.verifier()) else {
        return;
    };
    let own = ("own", own);
    let anchors = verifier.anchors().iter().map(|anchor| ("ca", anchor));
    let seconds = |time: pki::UnixTime| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    page.gauges(
        "certificate_expiry_timestamp_seconds",
        "When a certificate expires",
        std::iter::once(own).chain(anchors).map(|(role, certificate)| {
            let subject = certificate.identity.to_string();
            let labels = vec![("role", role.to_owned()), ("subject", subject)];
            (labels, seconds(certificate.not_after))
        }),
    );
    page.gauges(
        "crl_next_update_timestamp_seconds",
        "When a revocation list is out of date",
        verifier.revocation_lists().iter().filter_map(|list| {
            Some((vec![("issuer", list.issuer.clone())], seconds(list.next_update?)))
        }),
    );
}

fn traffic(page: &mut Page, shell: &mut Shell) {
    shell.statistics.traffic.count(&shell.plane.counters());
    let totals = &shell.statistics.traffic.totals;
    let rows = |value: fn(&PeerCounters) -> u64| {
        totals.iter().map(move |(peer, counters)| (vec![("peer", peer.clone())], value(counters)))
    };
    let bytes = "Bytes of inner packets";
    for (name, help, value) in [
        ("peer_transmitted_bytes", bytes, (|c| c.tx_bytes) as fn(&PeerCounters) -> u64),
        ("peer_received_bytes", bytes, |c| c.rx_bytes),
        ("peer_transmitted_packets", "Packets", |c| c.tx_packets),
        ("peer_received_packets", "Packets", |c| c.rx_packets),
        ("peer_dropped_packets", "Packets dropped", |c| c.dropped_packets),
    ] {
        let help = format!("{help}, by peer; of more than {PEERS} peers the rest is \"{OTHER}\"");
        page.counters(name, &help, rows(value));
    }
}
