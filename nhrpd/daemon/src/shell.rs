//! The shell around the core: sockets, timers, names and signals, and nothing else.

use std::collections::BTreeMap;
use std::future::pending;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use control::Server;
use dataplane::DataPlane;
use dataplane::probe::summary;
use dataplane::underlay::{Underlay, Watch};
use ipnet::IpNet;
use nhrp::engine::Usage;
use overlay::desired::Event;
use overlay::{Now, Output, Overlay};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant as Deadline, Interval, interval, sleep_until, timeout};

use crate::config::Config;
use crate::event::Teller;
use crate::expiry::{Ending, Expiry};
use crate::key_log::KeyTables;
use crate::log::LogSwitch;
use crate::metrics::Statistics;
use crate::metrics::http::Listener;
use crate::resolve::Resolved;
use crate::show::Show;
use crate::{assemble, metrics, plane};

/// Events of the data plane that wait for the core.
const EVENTS: usize = 1024;
/// Events taken in one go before their outputs are sent.
const BATCH: usize = 128;
/// How long a clean stop waits for the answers to its purges.
const GOODBYE: Duration = Duration::from_secs(2);
/// How often the ends of certificates are looked at.
const HOUR: Duration = Duration::from_secs(3_600);

/// One running tunnel.
pub(crate) struct Shell {
    pub(crate) config: Config,
    pub(crate) overlay: Overlay,
    pub(crate) plane: DataPlane,
    /// Next-hop servers whose names do not resolve now, and why.
    pub(crate) unresolved: BTreeMap<IpAddr, String>,
    /// Where the configuration comes from.
    pub(crate) path: PathBuf,
    pub(crate) teller: Teller,
    pub(crate) log: LogSwitch,
    pub(crate) expiry: Expiry,
    keys: Option<KeyTables>,
    pub(crate) statistics: Statistics,
    /// Look-ups of names, and where they tell what they found.
    pub(crate) lookups: Vec<JoinHandle<()>>,
    pub(crate) names: mpsc::Sender<Resolved>,
}

/// Runs the daemon until it is told to stop.
pub(crate) async fn run(
    config: Config,
    path: &Path,
    socket: &Path,
    log: LogSwitch,
    keys: Option<KeyTables>,
) -> anyhow::Result<()> {
    let workers = assemble::workers()?;
    let credentials = assemble::credentials(&config)?;
    let doubts = |credentials| assemble::doubts(&config, credentials, SystemTime::now());
    let doubts = credentials.as_ref().map(doubts).unwrap_or_default();
    for doubt in doubts.into_iter().chain(assemble::leak(&config)) {
        tracing::warn!("{doubt}");
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (calls_in, mut calls) = mpsc::channel(1);
    let server = Server::bind(socket)?;
    let teller = Teller::new(&config, server.publisher());
    let control = tokio::spawn(server.run(calls_in));
    let (scrapes_in, mut scrapes) = mpsc::channel(1);
    let metrics = match &config.metrics {
        Some(listen) => Some(tokio::spawn(Listener::bind(listen).await?.run(scrapes_in))),
        None => None,
    };
    let (names_in, mut names) = mpsc::channel(1);

    let mut watch = Watch::start(assemble::source(&config))?;
    let underlay = watch.changed().await;
    let (events_in, mut events) = mpsc::channel(EVENTS);
    let choice = plane::choose(&config, underlay.address)?;
    tracing::info!("this kernel has: {}", summary(&choice.abilities));
    let plane =
        plane::start(&choice, assemble::plane(&config, &underlay, workers), events_in).await?;
    let told = assemble::overlay(&config, credentials.as_ref(), &plane)?;
    let overlay = Overlay::new(told, credentials, now(), &mut rand::rng());
    let mut shell = Shell {
        config,
        overlay,
        plane,
        unresolved: BTreeMap::new(),
        path: path.to_owned(),
        teller,
        log,
        expiry: Expiry::default(),
        keys,
        statistics: Statistics::default(),
        lookups: Vec::new(),
        names: names_in,
    };
    shell.look_up();
    shell.set_nbma(underlay.address);
    shell.flush();
    tracing::info!(
        "running: {} on {}, data plane: {} ({})",
        shell.config.tunnel.address,
        shell.config.tunnel.interface,
        shell.plane,
        choice.why
    );
    shell.remind();
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let mut hourly = interval(HOUR);
    // Half of what systemd allows, so that one late turn is no reason to be killed.
    let mut watchdog = sd_notify::watchdog_enabled().map(|allowed| interval(allowed / 2));

    loop {
        let deadline = shell.overlay.poll_timeout();
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            // What came of it stands in the log.
            _ = hangup.recv() => drop(shell.reload()),
            Some(event) = events.recv() => {
                shell.event(event);
                for _ in 1..BATCH {
                    let Ok(event) = events.try_recv() else { break };
                    shell.event(event);
                }
            }
            () = at(deadline) => shell.timeout(),
            underlay = watch.changed() => shell.set_underlay(&underlay).await,
            Some(found) = names.recv() => shell.resolved(found),
            Some(scrape) = scrapes.recv() => drop(scrape.send(metrics::text(&mut shell))),
            Some(call) = calls.recv() => call.answer(&mut Show(&mut shell)),
            // Whoever starts this daemon starts it again, and nothing in use is taken down here.
            error = shell.plane.failed() => return Err(error.into()),
            _ = hourly.tick() => drop(shell.remind()),
            () = tick(&mut watchdog) => {
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
            }
        }
        shell.flush();
    }

    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("stopping");
    shell.overlay.shutdown(now(), &mut rand::rng());
    shell.flush();
    // The peers may be gone: whoever does not answer in time is not waited for.
    let _ = timeout(GOODBYE, async {
        while !shell.overlay.stopped() {
            let deadline = shell.overlay.poll_timeout();
            tokio::select! {
                Some(event) = events.recv() => shell.event(event),
                () = at(deadline) => shell.timeout(),
            }
            shell.flush();
        }
    })
    .await;
    shell.overlay.close(now(), &mut rand::rng());
    shell.flush();
    for lookup in &shell.lookups {
        lookup.abort();
    }
    control.abort();
    if let Some(metrics) = metrics {
        metrics.abort();
    }
    shell.plane.stop().await;
    Ok(())
}

/// The two clocks.
pub(crate) fn now() -> Now {
    Now { instant: Instant::now(), wall: SystemTime::now() }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(Deadline::from_std(deadline)).await,
        None => pending().await,
    }
}

async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => pending().await,
    }
}

impl Shell {
    fn event(&mut self, event: Event) {
        let heard = match &event {
            Event::Ike { from, datagram, .. } if tracing::enabled!(tracing::Level::DEBUG) => {
                Some((format!("{from}: {}", message(datagram)), self.drops()))
            }
            _ => None,
        };
        self.overlay.handle_event(now(), event, &mut rand::rng());
        if let Some((heard, before)) = heard {
            let dropped = self.drops().into_iter().zip(before).find(|(now, before)| now != before);
            let fate =
                dropped.map_or(String::new(), |((why, _), _)| format!(", dropped: {}", why.name()));
            tracing::debug!("IKE from {heard}{fate}");
        }
    }

    fn drops(&self) -> Vec<(ike::DropReason, u64)> {
        self.overlay.ike().drops().collect()
    }

    fn timeout(&mut self) {
        self.overlay.handle_timeout(now(), &Sent(&self.plane), &mut rand::rng());
    }

    async fn set_underlay(&mut self, underlay: &Underlay) {
        self.plane.set_underlay(underlay.address, underlay.mtu).await;
        self.set_nbma(underlay.address);
    }

    fn set_nbma(&mut self, nbma: Option<IpAddr>) {
        self.overlay.set_nbma(now(), nbma, &mut rand::rng());
    }

    /// A name that ceases to resolve keeps its last address: more often the DNS is at fault than
    /// the server gone.
    fn resolved(&mut self, found: Resolved) {
        let server = found.server;
        // It may have been on its way while the configuration changed.
        if !self.config.nhs.iter().any(|nhs| nhs.address == server) {
            return;
        }
        match found.nbma {
            Ok(nbma) => {
                self.unresolved.remove(&server);
                self.overlay.set_server_nbma(now(), server, nbma, &mut rand::rng());
            }
            Err(why) => {
                if self.unresolved.get(&server) != Some(&why) {
                    self.teller.unresolved(server, &why);
                    self.unresolved.insert(server, why);
                }
            }
        }
    }

    /// Tells which certificates and revocation lists end soon, each in its time; what there is to
    /// say of them.
    pub(crate) fn remind(&mut self) -> Vec<String> {
        let Some(credentials) = self.overlay.credentials() else { return Vec::new() };
        let wall = SystemTime::now();
        let due = self.expiry.due(Ending::all(credentials), wall);
        let told = due.iter().filter_map(|ending| Some((&ending.name, ending.warning(wall)?)));
        told.map(|(name, warning)| {
            self.teller.ends(name, warning.clone());
            warning
        })
        .collect()
    }

    /// Carries out what the core wants, sessions before the packets that use them.
    pub(crate) fn flush(&mut self) {
        if let Some(changes) = self.overlay.poll_desired(now()) {
            if self.config.metrics.is_some() {
                self.statistics.before(&self.overlay, &changes, || self.plane.counters());
            }
            self.plane.apply(self.overlay.desired(), &changes);
        }
        while let Some(output) = self.overlay.poll_output() {
            match output {
                Output::Ike { port, to, datagram } => {
                    tracing::debug!("IKE to {to}: {}", message(&datagram));
                    self.plane.send_ike(port, to, &datagram);
                }
                Output::Nhrp { peer, packet } => self.plane.send_nhrp(peer, &packet),
                Output::Notice(notice) => self.teller.notice(notice),
                Output::KeyLog(line) => {
                    if let Some(keys) = &mut self.keys {
                        keys.write(&line);
                    }
                }
                Output::Took(began, time) => self.statistics.took(began, time),
            }
        }
    }
}

/// What an IKE message says of itself before it is decrypted.
fn message(datagram: &[u8]) -> String {
    match ike::wire::Header::decode(datagram) {
        Ok(header) => format!("{header}, {} bytes", datagram.len()),
        Err(error) => format!("{} bytes, {error}", datagram.len()),
    }
}

/// The traffic that shortcuts saw, as the data plane counts it.
struct Sent<'a>(&'a DataPlane);

impl Usage for Sent<'_> {
    fn packets(&self, prefix: IpNet) -> u64 {
        self.0.packets(prefix)
    }
}
