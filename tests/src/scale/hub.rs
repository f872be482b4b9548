//! A hub as the daemon has it: key exchanges, sessions, registrations, desired state.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ::nhrp::engine::{Authorization, Output as NhrpOutput};
use ike::TunnelKind;
use overlay::desired::{Event, PeerId};
use overlay::{Config, Credentials, Now, Output, Overlay, Security, Trust};
use pki::authority::{Authority, Request, Serial, Validity};
use pki::{Credential, KeyType, Policy, UnixTime, Verifier};
use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng as _;

use super::nhrp::{HOLDING, NoTraffic, config, engine, lan, tunnel, underlay};

const PORT: u16 = 4500;
const DAY: Duration = Duration::from_secs(86_400);
/// A day in 2024.
const WALL: Duration = Duration::from_secs(1_717_243_200);

/// From one spoke to the next.
const BETWEEN: Duration = Duration::from_millis(1);

/// What protects the paths to the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Protection {
    /// Nothing: NHRP alone.
    None,
    /// ESP, keyed by IKEv2 with certificates, X25519 and ML-KEM-768.
    Esp,
}

/// The hub, and the clock.
pub struct Hub {
    overlay: Overlay,
    protection: Protection,
    authority: Authority,
    rng: ChaCha12Rng,
    now: Now,
    /// Time that its calls took.
    busy: Duration,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("protection", &self.protection).finish_non_exhaustive()
    }
}

/// Spokes come in no order of their addresses.
fn nth(spoke: u32) -> u32 {
    spoke.wrapping_mul(0x9e37) & 0x1_ffff
}

fn endpoint(n: u32) -> SocketAddr {
    SocketAddr::new(underlay(n).address, PORT)
}

fn validity() -> Validity {
    Validity {
        not_before: UnixTime::since_unix_epoch(WALL - DAY),
        not_after: UnixTime::since_unix_epoch(WALL + 364 * DAY),
    }
}

fn node(n: u32, protection: Protection) -> Config {
    let none = protection == Protection::None;
    let mut nhrp = config(n);
    nhrp.default_authorization = none.then_some(Authorization::Any);
    Config {
        nhrp,
        security: if none { Security::None } else { Security::Ike },
        ike: ike::Config {
            tunnels: vec![TunnelKind::Esp],
            established: 1 << 20,
            ..ike::Config::default()
        },
        port: if none { 0 } else { PORT },
        routes: Vec::new(),
        multicast: Vec::new(),
        trust: Trust::Certificate,
        accept: Vec::new(),
        sessions: 1 << 20,
        idle_timeout: HOLDING,
    }
}

impl Hub {
    /// A hub that nobody has come to.
    pub fn new(protection: Protection) -> Self {
        let serial = Serial::new([1; 16]);
        let authority = Authority::create("Example CA", KeyType::P256, validity(), serial)
            .expect("the plan is good");
        let now = Now { instant: Instant::now(), wall: std::time::UNIX_EPOCH + WALL };
        let mut rng = ChaCha12Rng::seed_from_u64(1);
        let overlay = Overlay::new(
            node(0, protection),
            credentials(&authority, 0).filter(|_| protection == Protection::Esp),
            now,
            &mut rng,
        );
        let busy = Duration::ZERO;
        let mut hub = Self { overlay, protection, authority, rng, now, busy };
        hub.settle();
        hub
    }

    /// A new spoke, of 1 to 131,071, connects and registers its address and its LAN; then it is
    /// forgotten, but not by the hub. Gives the hub's own time.
    pub fn join(&mut self, spoke: u32) -> Duration {
        let (n, before) = (nth(spoke), self.busy);
        self.now.instant += BETWEEN;
        match self.protection {
            Protection::None => self.register(n),
            Protection::Esp => self.exchange_keys(n),
        }
        self.busy - before
    }

    /// A spoke that has joined renews its registration.
    pub fn renew(&mut self, spoke: u32) -> Duration {
        let before = self.busy;
        self.register(nth(spoke));
        self.busy - before
    }

    /// The requests of one NHRP client.
    fn register(&mut self, n: u32) {
        let mut client = engine(n, self.now.instant);
        client.handle_timeout(self.now.instant, &NoTraffic);
        while let Some(output) = client.poll_output() {
            let NhrpOutput::Transmit { packet, .. } = output else { continue };
            for event in self.carry(n, Output::Nhrp { peer: PeerId(0), packet }) {
                for answer in self.input(event) {
                    if let Event::Nhrp { packet, .. } = answer {
                        client.handle_packet(self.now.instant, underlay(0), &packet);
                    }
                }
            }
        }
    }

    /// A whole spoke, from its first message to its last registration.
    fn exchange_keys(&mut self, n: u32) {
        let mut rng = ChaCha12Rng::seed_from_u64(n.into());
        let own = credentials(&self.authority, n);
        let mut spoke = Overlay::new(node(n, self.protection), own, self.now, &mut rng);
        spoke.handle_timeout(self.now, &NoTraffic, &mut rng);
        loop {
            let _ = spoke.poll_desired(self.now);
            let outputs: Vec<Output> = std::iter::from_fn(|| spoke.poll_output()).collect();
            let mut answers = Vec::new();
            for output in outputs {
                for event in self.carry(n, output) {
                    answers.extend(self.input(event));
                }
            }
            if answers.is_empty() {
                return;
            }
            for mut event in answers {
                if let Event::Nhrp { peer, .. } = &mut event {
                    *peer = spoke.session_at(underlay(0));
                }
                spoke.handle_event(self.now, event, &mut rng);
            }
        }
    }

    /// The sooner half of the holding time passes.
    pub fn pass_time(&mut self) {
        self.now.instant += HOLDING / 3;
        let began = Instant::now();
        self.overlay.handle_timeout(self.now, &NoTraffic, &mut self.rng);
        self.busy += began.elapsed();
        self.settle();
    }

    /// The first message of a spoke that nobody knows.
    pub fn first_message(&mut self) -> Vec<u8> {
        let mut rng = ChaCha12Rng::seed_from_u64(0);
        let own = credentials(&self.authority, 1);
        let mut spoke = Overlay::new(node(1, Protection::Esp), own, self.now, &mut rng);
        spoke.handle_timeout(self.now, &NoTraffic, &mut rng);
        let mut outputs = std::iter::from_fn(|| spoke.poll_output());
        let first = outputs.find_map(|output| match output {
            Output::Ike { datagram, .. } => Some(datagram),
            _ => None,
        });
        first.expect("a spoke begins with IKE_SA_INIT")
    }

    /// A message comes from somewhere, at most `per_second` of them. Gives the bytes that are
    /// sent back, and the hub's own time.
    pub fn spoofed(
        &mut self,
        from: SocketAddr,
        datagram: Vec<u8>,
        per_second: u32,
    ) -> (usize, Duration) {
        self.now.instant += Duration::from_secs(1) / per_second;
        let before = self.busy;
        if self.overlay.poll_timeout().is_some_and(|due| due <= self.now.instant) {
            self.overlay.handle_timeout(self.now, &NoTraffic, &mut self.rng);
        }
        let answers = self.input(Event::Ike { port: PORT, from, datagram });
        let len = |event: &Event| match event {
            Event::Ike { datagram, .. } => datagram.len(),
            _ => 0,
        };
        (answers.iter().map(len).sum(), self.busy - before)
    }

    /// Messages that were thrown away for this reason.
    pub fn dropped(&self, reason: ike::DropReason) -> u64 {
        self.overlay.ike().drops().find(|(why, _)| *why == reason).map_or(0, |(_, count)| count)
    }

    /// Prefixes that are registered.
    pub fn bindings(&self) -> usize {
        self.overlay.bindings().count()
    }

    /// Paths that are to be.
    pub fn paths(&self) -> usize {
        self.overlay.desired().peers.len()
    }

    /// What the hub sees of an output of spoke `n`.
    fn carry(&self, n: u32, output: Output) -> Vec<Event> {
        let from = endpoint(n);
        match output {
            Output::Ike { datagram, .. } => vec![Event::Ike { port: PORT, from, datagram }],
            Output::Nhrp { packet, .. } => {
                let known = self.overlay.session_at(underlay(n));
                // The first packet through the newest path shows that it is up.
                let newest = self.overlay.desired().peers.keys().next_back().copied();
                let up = newest.filter(|_| known.is_none() && self.protection == Protection::Esp);
                let peer = known.or(up);
                let nhrp = Event::Nhrp { peer, from, packet };
                up.map(|peer| Event::Up { peer }).into_iter().chain([nhrp]).collect()
            }
            _ => Vec::new(),
        }
    }

    /// One turn of the hub's shell; gives what the spoke gets.
    fn input(&mut self, event: Event) -> Vec<Event> {
        let began = Instant::now();
        self.overlay.handle_event(self.now, event, &mut self.rng);
        self.busy += began.elapsed();
        self.settle()
    }

    fn settle(&mut self) -> Vec<Event> {
        let began = Instant::now();
        let _ = self.overlay.poll_desired(self.now);
        let outputs: Vec<Output> = std::iter::from_fn(|| self.overlay.poll_output()).collect();
        let _ = self.overlay.poll_timeout();
        self.busy += began.elapsed();
        let from = endpoint(0);
        outputs
            .into_iter()
            .filter_map(|output| match output {
                Output::Ike { datagram, .. } => Some(Event::Ike { port: PORT, from, datagram }),
                Output::Nhrp { packet, .. } => Some(Event::Nhrp { peer: None, from, packet }),
                _ => None,
            })
            .collect()
    }
}

/// Node n's certificate and key, and the CA to judge others by.
fn credentials(authority: &Authority, n: u32) -> Option<Credentials> {
    let mut serial = [7; 16];
    serial[..4].copy_from_slice(&n.to_be_bytes());
    let request = Request {
        addresses: vec![tunnel(n)],
        prefixes: BTreeSet::from([lan(n)]),
        ..Request::new(format!("node{n}"), validity())
    };
    let issued = authority.issue(&request, KeyType::P256, Serial::new(serial)).ok()?;
    let verifier = Verifier::new(&[authority.certificate_der().clone()], &[], Policy::default());
    let own = Credential::new(vec![issued.certificate], issued.key).ok()?;
    Some(Credentials::new(own, verifier.ok()?))
}
